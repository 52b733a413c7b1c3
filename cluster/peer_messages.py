"""Everything that replicas send each other, as one union with its codec.

One message is one msgpack array that begins with its tag: Raft's are 1 to 15 (`raft/messages.py`), leases' and the
witness table's 16 and above. Decoding is strict: unknown tags, wrong types, missing and surplus fields, values out of
range and trailing bytes are all `PeerMessageMalformed`, and nothing is allocated by a length that the bytes only claim.
"""

from typing import TypeAlias

import msgspec

from keycluster.cluster.leases.messages import LeaseMessage
from keycluster.cluster.raft.messages import Message
from keycluster.cluster.witness import Witness

ReplicaMessage: TypeAlias = Message | LeaseMessage | Witness

MESSAGE_BYTES_MAX = 16 << 20
"""Above what the core sends in one message: `append_bytes_max`, or one entry of the largest command."""


class PeerMessageMalformed(ValueError):
    """A peer sent what no replica sends. The text has no content of the message."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[ReplicaMessage] = msgspec.msgpack.Decoder(ReplicaMessage)


def encode_peer_message(message: ReplicaMessage) -> bytes:
    return _encoder.encode(message)


def decode_peer_message(encoded: bytes | bytearray | memoryview) -> ReplicaMessage:
    """Raises `PeerMessageMalformed`."""
    if len(encoded) > MESSAGE_BYTES_MAX:
        raise PeerMessageMalformed(f"message of {len(encoded)} bytes, {MESSAGE_BYTES_MAX} allowed")
    try:
        return _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as malformed:
        # msgspec names the place and the type wanted, never a value.
        raise PeerMessageMalformed(str(malformed)) from None
