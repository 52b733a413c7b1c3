"""Values on wire and disk: they come back as they went, and nothing else is taken for them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.raft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshot,
    Membership,
    MembershipMalformed,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    SnapshotMeta,
    SnapshotOutcome,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    decode_membership_entry,
    encode_membership_entry,
)
from keycluster.cluster.types import LogIndex, NodeId, Term
from tests.cluster.raft.harness import membership, message_decoder, message_encoder

ENTRY = Entry(Term(2), LogIndex(3), EntryKind.COMMAND, b"secret payload")
META = SnapshotMeta(LogIndex(3), Term(2), membership("abc"), NodeId("a"))
MESSAGES: list[tuple[Message, str]] = [
    (AppendEntries(Term(1), 2, LogIndex(3), Term(4), LogIndex(5), (ENTRY,)), "970101020304059194020300"),
    (AppendReply(Term(1), 2, LogIndex(3), LogIndex(4), LogIndex(5), Term(6)), "9702010203040506"),
    (VoteRequest(Term(1), LogIndex(2), Term(3), pre=True, hand_over=False), "9603010203c3c2"),
    (VoteReply(Term(1), pre=False, granted=True), "940401c2c3"),
    (TimeoutNow(Term(1)), "920501"),
    (InstallSnapshot(Term(1), 2, META, 10, 4, b"abc"), "97060102940302"),
    (SnapshotReply(Term(1), 2, SnapshotOutcome.REFUSED, 3), "950701020203"),
    (ReadIndexRequest(Term(1), 2), "93080102"),
    (ReadIndexReply(Term(1), 2, None), "94090102c0"),
]


@pytest.mark.parametrize(("message", "begin"), MESSAGES, ids=lambda value: type(value).__name__)
def test_message_encoding(message: Message, begin: str) -> None:
    """The bytes are a format between versions: tag, then the fields in order."""
    content = message_encoder.encode(message)
    assert content.hex().startswith(begin)
    assert message_decoder.decode(content) == message


@pytest.mark.parametrize("message", [message for message, _ in MESSAGES], ids=lambda value: type(value).__name__)
def test_message_damaged(message: Message) -> None:
    """Cut off anywhere, or with bytes behind it, it is refused."""
    content = message_encoder.encode(message)
    for end in range(len(content)):
        with pytest.raises(msgspec.MsgspecError):
            message_decoder.decode(content[:end])
    with pytest.raises(msgspec.MsgspecError):
        message_decoder.decode(content + b"\x00")
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(content), 1])
    with pytest.raises(msgspec.MsgspecError):
        message_decoder.decode(longer)


@given(st.binary(max_size=60))
def test_message_of_any_bytes(content: bytes) -> None:
    """Whatever comes is a message or an error of the decoder's."""
    try:
        message_decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return


def test_message_negative_numbers() -> None:
    """Terms, indices and counts are never below zero."""
    with pytest.raises(msgspec.ValidationError):
        message_decoder.decode(msgspec.msgpack.encode([5, -1]))
    with pytest.raises(msgspec.ValidationError):
        message_decoder.decode(msgspec.msgpack.encode([2, 1, 0, -1, None, 0, 0]))


def test_repr_without_payload() -> None:
    """Commands carry key tokens, snapshots all of the state: neither goes to a log line."""
    assert "secret" not in repr(AppendEntries(Term(1), 1, LogIndex(2), Term(2), LogIndex(0), (ENTRY,)))
    assert "abc" not in repr(InstallSnapshot(Term(1), 2, META, 10, 4, b"abc"))


def test_hard_state_encoding() -> None:
    """Term, then vote."""
    assert msgspec.msgpack.encode(HardState(Term(3), NodeId("a"))).hex() == "9203a161"


def test_membership_entry_encoding() -> None:
    """The membership and the state machine's context, unread."""
    members = membership("ab", outgoing="bc", learners="d", learners_next="c")
    content = encode_membership_entry(members, b"context")
    change = decode_membership_entry(content)
    assert (change.membership, change.context) == (members, b"context")


@pytest.mark.parametrize(
    "members",
    [
        Membership((NodeId("b"), NodeId("a"))),
        Membership((NodeId("a"), NodeId("a"))),
        Membership(()),
        Membership((NodeId("a"),), learners=(NodeId("a"),)),
        Membership((NodeId("a"),), (NodeId("b"),), learners=(NodeId("b"),)),
        Membership((NodeId("a"),), (NodeId("b"),), learners_next=(NodeId("c"),)),
        Membership((NodeId("a"),), (NodeId("a"),), learners_next=(NodeId("a"),)),
    ],
)
def test_membership_malformed(members: Membership) -> None:
    """Unsorted, twice, without voters, or in two places at once."""
    with pytest.raises(MembershipMalformed):
        decode_membership_entry(encode_membership_entry(members))


names = st.sets(st.sampled_from("abcdefg"), min_size=1, max_size=7)


@given(names, names | st.just(set()), st.sets(st.sampled_from("abcdefgxyz")))
def test_quorum_against_counting(voters: set[str], outgoing: set[str], granted: set[str]) -> None:
    """More than half of each half, whoever else is among them."""
    members = membership(voters, outgoing=outgoing)
    by_hand = all(2 * len(half & granted) > len(half) for half in (voters, outgoing) if half)
    assert members.has_quorum({NodeId(node) for node in granted}) == by_hand


@given(names, names | st.just(set()), st.dictionaries(st.sampled_from("abcdefgx").map(NodeId), st.integers(0, 9)))
def test_quorum_value_against_counting(voters: set[str], outgoing: set[str], values: dict[NodeId, int]) -> None:
    """The greatest value that a quorum has reached."""
    members = membership(voters, outgoing=outgoing)
    reached = [v for v in range(10) if members.has_quorum({node for node in values if values[node] >= v})]
    assert members.quorum_value(values) == max(reached, default=0)
