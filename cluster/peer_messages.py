"""Everything that members send each other once a stream is open, as one union with its codec.

One message is one msgpack array that begins with its tag: Raft's are 1 to 15 (`raft/messages.py`), leases' and the
witness table's 16 to 63; commands on their way to the leader and who the members are, 64 and above; several travel as
one array. Nodes and
simulated replicas decode with the same function. Decoding is strict: unknown tags, wrong types, missing and surplus
fields, values out of range and trailing bytes are all `PeerMessageMalformed`, and nothing is allocated by a length that
the bytes only claim. How much is decoded at once is bounded by the frame it comes in (`node/peer_link.py`).
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.leases.messages import LeaseMessage
from keycluster.cluster.raft.messages import (
    AppendEntries,
    EntryKind,
    MembershipMalformed,
    Message,
    decode_membership_entry,
)
from keycluster.cluster.types import LogIndex, NodeId
from keycluster.cluster.witness import Witness

ReplicaMessage: TypeAlias = Message | LeaseMessage | Witness
"""What replicas say to each other."""


class Forward(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=64):
    """A command on its way to the leader, unseen. `number` pairs the reply with it at the sender."""

    number: int
    command: bytes


class ForwardReply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=65):
    """`outcome` is None when the command may have got nowhere here: no leader any more, or too many under way."""

    number: int
    outcome: Outcome | None
    throttled: bool = False


class Introduced(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member: who may speak to us, by which key (SubjectPublicKeyInfo, DER), and where it listens."""

    node: NodeId
    identity_key: bytes
    address: str


class Introduction(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=66):
    """All members that the sender's state at that index has: one that lags must hear a leader that it doesn't know."""

    applied: LogIndex
    members: tuple[Introduced, ...]


PeerMessage: TypeAlias = ReplicaMessage | Forward | ForwardReply | Introduction


class PeerMessageMalformed(ValueError):
    """A peer sent what no member sends. The text has no content of the message."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[PeerMessage]] = msgspec.msgpack.Decoder(list[PeerMessage])


def encode_peer_message(message: PeerMessage) -> bytes:
    return _encoder.encode(message)


def array_of(messages: Sequence[bytes]) -> bytes:
    """Encoded messages as one array, with a 32-bit count (msgpack's array 32) always."""
    return b"\xdd" + len(messages).to_bytes(4, "big") + b"".join(messages)


def decode_peer_messages(encoded: bytes | bytearray | memoryview) -> list[PeerMessage]:
    """The messages of one array. Raises `PeerMessageMalformed`.

    What the Raft core would choke on half-way is refused here, where it only costs the stream.
    """
    try:
        messages = _decoder.decode(encoded)
        for message in messages:
            if isinstance(message, AppendEntries):
                _check_entries(message)
    except MembershipMalformed:
        raise PeerMessageMalformed("an entry's membership is malformed") from None  # Its own text names nodes.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as malformed:
        # msgspec names the place and the type wanted, never a value.
        raise PeerMessageMalformed(str(malformed)) from None
    return messages


def _check_entries(message: AppendEntries) -> None:
    """Entries whose content is consensus's own decode."""
    for entry in message.entries:
        if entry.kind is EntryKind.MEMBERSHIP:
            decode_membership_entry(entry.payload)
        elif entry.kind is EntryKind.LEADER:
            entry.payload.decode()
