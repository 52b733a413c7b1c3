"""Streams between members: what is said on them, and the two ends of one (security.md, 8).

Each member dials every other one and uses the stream it dialled for sending only; what the other has to say comes on
the stream that the other dialled. So a stream has one writer, and losing one loses messages (Raft repeats them), never
their order. A stream opens with a `Hello` each way: it names region and node, and says how far the sender knows the
other to have acknowledged, so that a member whose disk was rolled back learns it before it says a word to anybody.

Frames are as at the native door: a 32-bit length and a msgpack array, here of messages (`cluster/peer_messages.py`).
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from keycluster.cluster.peer_messages import PeerMessage, PeerMessageMalformed, array_of, decode_peer_messages
from keycluster.cluster.seams import ByteStream
from keycluster.cluster.types import LogIndex, NodeId, Term

PEER_FRAME_BYTES_MAX = 8 * 1024 * 1024  # Above what one append, one chunk and a full outbox can come to.
LENGTH_BYTES = 4
READ_BYTES = 256 * 1024


class PeerVersions(Struct, frozen=True, array_like=True):
    """The versions of the peer protocol that a release speaks, from the oldest to the newest.

    A stream uses the newest that both ends speak. A release that changes the protocol goes on speaking the version of
    the release before it, so that a region is upgraded node by node and never stops.
    """

    oldest: int
    newest: int

    def __str__(self) -> str:
        return f"version {self.newest}" if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"


SPOKEN = PeerVersions(1, 1)
"""By this release."""


class Hello(Struct, frozen=True, array_like=True, tag=1):
    """First on each stream, from both ends. All versions keep its form, and may only add members at its end."""

    versions: PeerVersions
    region: str
    node: NodeId
    known_of_you: tuple[Term, LogIndex] | None


class Farewell(Struct, frozen=True, array_like=True, tag=2):
    """Instead of a hello, to a node that was removed."""

    reason: str


Opening = Hello | Farewell

_encoder = msgspec.msgpack.Encoder()
_opening: msgspec.msgpack.Decoder[Opening] = msgspec.msgpack.Decoder(Opening)


class PeerProtocolError(Exception):
    """A peer said something that isn't the protocol: its stream is closed."""


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
    """Length and array of encoded messages, ready to send."""
    body = array_of(messages)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_messages(body: bytes) -> list[PeerMessage]:
    """The messages of one frame. Raises PeerProtocolError."""
    try:
        return decode_peer_messages(body)
    except PeerMessageMalformed as error:
        raise PeerProtocolError(f"undecodable frame of {len(body)} bytes: {error}") from None


def encode_opening(opening: Opening) -> bytes:
    """Length and hello or farewell, ready to send."""
    body = _encoder.encode(opening)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def agree(ours: PeerVersions, theirs: PeerVersions) -> int:
    """The version that a stream uses: both ends come to the same. Raises PeerProtocolError if there is none."""
    version = min(ours.newest, theirs.newest)
    if version < max(ours.oldest, theirs.oldest):
        raise PeerProtocolError(f"the peer speaks {theirs}, this node {ours}: upgrade a region one release at a time")
    return version


def decode_opening(body: bytes, *, region: str, versions: PeerVersions) -> Opening:
    """A farewell, or a hello of our region in a version that we speak. Raises PeerProtocolError."""
    try:
        opening = _opening.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError(f"undecodable hello: {type(error).__name__}") from None
    if isinstance(opening, Hello):
        agree(versions, opening.versions)
        if opening.region != region:
            raise PeerProtocolError(f"the peer is of region {opening.region}")
    return opening
