"""Streams between members: what is said on them, and the two ends of one (security.md, 8).

Each member dials every other one and uses the stream it dialled for sending only; what the other has to say comes on
the stream that the other dialled. So a stream has one writer, and losing one loses messages (Raft repeats them), never
their order. A stream opens with a `Hello` each way: it names region and node, and says how far the sender knows the
other to have acknowledged, so that a member whose disk was rolled back learns it before it says a word to anybody.

Frames are as at the native door: a 32-bit length and a msgpack array, here of `NodeMessage`s.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.messages import (
    AppendEntries,
    EntryKind,
    MembershipMalformed,
    RaftMessage,
    decode_membership_entry,
)
from keycluster.cluster.seams import ByteStream
from keycluster.cluster.types import LogIndex, NodeId, Term

PEER_PROTOCOL_VERSION = 1
PEER_FRAME_BYTES_MAX = 8 * 1024 * 1024  # Above what one append, one chunk and a full outbox can come to.
LENGTH_BYTES = 4
READ_BYTES = 256 * 1024
NUMBER_MAX = 2**62  # Of terms and indexes: no region gets there, and one step more still fits wherever they are stored.


class Hello(Struct, frozen=True, array_like=True, tag=1):
    """First on each stream, from both ends."""

    version: int
    region: str
    node: NodeId
    known_of_you: tuple[Term, LogIndex] | None


class Forward(Struct, frozen=True, array_like=True, tag=64):
    """A command on its way to the leader, unseen. `number` pairs the reply with it at the sender."""

    number: int
    command: bytes


class ForwardReply(Struct, frozen=True, array_like=True, tag=65):
    """`outcome` is None when the command may have got nowhere here: no leader any more, or too many under way."""

    number: int
    outcome: Outcome | None
    throttled: bool = False


class Farewell(Struct, frozen=True, array_like=True, tag=2):
    """Instead of a hello, to a node that was removed."""

    reason: str


Opening = Hello | Farewell
NodeMessage = ReplicaMessage | Forward | ForwardReply

_encoder = msgspec.msgpack.Encoder()
_messages = msgspec.msgpack.Decoder(list[NodeMessage])
_opening: msgspec.msgpack.Decoder[Opening] = msgspec.msgpack.Decoder(Opening)


class PeerProtocolError(Exception):
    """A peer said something that isn't the protocol: its stream is closed."""


def encode_message(message: NodeMessage) -> bytes:
    """One element of a frame."""
    return _encoder.encode(message)


class FrameReader:
    """Whole frames from a stream, in order. Holds one frame and what came with its end at most."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def read(self) -> bytes | None:
        """A frame's body; None at the end of the stream between frames. Raises PeerProtocolError."""
        while True:
            if len(self._buffer) >= LENGTH_BYTES:
                length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
                if length > PEER_FRAME_BYTES_MAX:
                    raise PeerProtocolError(f"a frame of {length} bytes")
                end = LENGTH_BYTES + length
                if len(self._buffer) >= end:
                    body = bytes(self._buffer[LENGTH_BYTES:end])
                    del self._buffer[:end]  # Moves the start, not the bytes.
                    return body
            received = await self._stream.receive_some(READ_BYTES)
            if not received:
                if self._buffer:
                    raise PeerProtocolError("the stream ended within a frame")
                return None
            self._buffer += received


def frame_of(messages: Sequence[bytes]) -> bytes:
    """Length and array of encoded messages, ready to send. Arrays have a 32-bit count (msgpack's array 32) always."""
    body = b"\xdd" + len(messages).to_bytes(4, "big") + b"".join(messages)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_messages(body: bytes) -> list[NodeMessage]:
    """The messages of one frame. Raises PeerProtocolError.

    What the Raft core would choke on half-way is refused here, where it only costs the stream.
    """
    try:
        messages = _messages.decode(body)
        for message in messages:
            if isinstance(message, RaftMessage):
                _check_raft_message(message)
    except (msgspec.MsgspecError, MembershipMalformed, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError(f"undecodable frame of {len(body)} bytes: {type(error).__name__}") from None
    return messages


def _check_raft_message(message: RaftMessage) -> None:
    """Numbers that can be counted on from, and entries whose content is consensus's own and decodes."""
    numbers: list[int] = [message.term]
    if isinstance(message, AppendEntries):
        numbers += [message.prev_index, message.commit]
        for entry in message.entries:
            numbers += [entry.term, entry.index]
            if entry.kind is EntryKind.MEMBERSHIP:
                decode_membership_entry(entry.payload)
            elif entry.kind is EntryKind.LEADER:
                entry.payload.decode()
    if max(numbers) > NUMBER_MAX:
        raise PeerProtocolError(f"a {type(message).__name__} with a number above {NUMBER_MAX}")


def encode_opening(opening: Opening) -> bytes:
    """Length and hello or farewell, ready to send."""
    body = _encoder.encode(opening)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_opening(body: bytes, *, region: str) -> Opening:
    """A farewell, or a hello of our version and region. Raises PeerProtocolError."""
    try:
        opening = _opening.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError(f"undecodable hello: {type(error).__name__}") from None
    if isinstance(opening, Hello):
        if opening.version != PEER_PROTOCOL_VERSION:
            raise PeerProtocolError(f"the peer speaks version {opening.version}, this node {PEER_PROTOCOL_VERSION}")
        if opening.region != region:
            raise PeerProtocolError(f"the peer is of region {opening.region}")
    return opening
