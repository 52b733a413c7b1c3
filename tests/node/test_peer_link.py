"""What members say to each other, as frames."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.leases.messages import AppliedReport
from keycluster.cluster.peer_messages import Forward, ForwardReply, PeerMessage, encode_peer_message
from keycluster.cluster.raft.messages import AppendEntries, Entry, EntryKind
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.node.peer_link import (
    LENGTH_BYTES,
    SPOKEN,
    Farewell,
    Hello,
    PeerProtocolError,
    PeerVersions,
    agree,
    decode_messages,
    decode_opening,
    encode_opening,
    frame_of,
)

MESSAGES: list[PeerMessage] = [
    Forward(7, b"command"),
    ForwardReply(7, Outcome(ok=b"\x80")),
    ForwardReply(8, None, throttled=True),
    AppliedReport(Term(3), LogIndex(9), LogIndex(8)),
    AppendEntries(
        Term(3), 1, LogIndex(8), Term(2), LogIndex(8), (Entry(Term(3), LogIndex(9), EntryKind.COMMAND, b"x"),)
    ),
]


def body_of(frame: bytes) -> bytes:
    assert int.from_bytes(frame[:LENGTH_BYTES], "big") == len(frame) - LENGTH_BYTES
    return frame[LENGTH_BYTES:]


def test_frame_round_trip_of_every_kind() -> None:
    """What one member encodes the other decodes, in order."""
    frame = frame_of([encode_peer_message(message) for message in MESSAGES])
    assert decode_messages(body_of(frame)) == MESSAGES


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error(body: bytes) -> None:
    """Whatever a peer sends, the answer is messages or PeerProtocolError."""
    with contextlib.suppress(PeerProtocolError):
        decode_messages(body)
    with contextlib.suppress(PeerProtocolError):
        decode_opening(body, region="us-east-1", versions=SPOKEN)


@given(st.data())
def test_a_changed_frame_never_escapes_as_another_error(data: st.DataObject) -> None:
    """Flipped bits and cut ends of a real frame: messages or PeerProtocolError."""
    body = bytearray(body_of(frame_of([encode_peer_message(message) for message in MESSAGES])))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(PeerProtocolError):
        decode_messages(bytes(body[: data.draw(st.integers(0, len(body)))]))


def test_opening_round_trip() -> None:
    """A hello and a farewell."""
    for opening in (
        Hello(SPOKEN, "us-east-1", NodeId("n1"), (Term(4), LogIndex(17))),
        Hello(SPOKEN, "us-east-1", NodeId("n1"), None),
        Farewell("removed"),
    ):
        assert decode_opening(body_of(encode_opening(opening)), region="us-east-1", versions=SPOKEN) == opening


@pytest.mark.parametrize(
    "hello",
    [
        Hello(PeerVersions(SPOKEN.newest + 1, SPOKEN.newest + 1), "us-east-1", NodeId("n1"), None),
        Hello(SPOKEN, "eu-west-1", NodeId("n1"), None),
    ],
)
def test_opening_of_another_version_or_region_is_refused(hello: Hello) -> None:
    """Nodes of two regions, or of two protocols, don't talk by accident."""
    with pytest.raises(PeerProtocolError):
        decode_opening(body_of(encode_opening(hello)), region="us-east-1", versions=SPOKEN)


@given(st.tuples(*[st.integers(1, 4)] * 4))
def test_both_ends_agree_on_the_newest_version_that_both_speak(drawn: tuple[int, int, int, int]) -> None:
    """Whoever greets whom; ends with none in common part."""
    ours, theirs = PeerVersions(*drawn[:2]), PeerVersions(*drawn[2:])
    common = set(range(drawn[0], drawn[1] + 1)) & set(range(drawn[2], drawn[3] + 1))
    for one, other in ((ours, theirs), (theirs, ours)):
        if common:
            assert agree(one, other) == max(common)
        else:
            with pytest.raises(PeerProtocolError):
                agree(one, other)


def test_a_newer_hello_may_have_more_members() -> None:
    """A node of this release greets one of the next."""
    newer = msgspec.msgpack.encode([1, [1, 2], "us-east-1", "n2", None, "something new"])
    assert decode_opening(newer, region="us-east-1", versions=SPOKEN) == Hello(
        PeerVersions(1, 2), "us-east-1", NodeId("n2"), None
    )
