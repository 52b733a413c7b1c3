"""The codec of everything that replicas send each other."""

from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.leases.messages import (
    NONCE_BYTES,
    AppliedReport,
    LeaseAnswer,
    LeaseAsk,
    SettledNotice,
)
from keycluster.cluster.peer_messages import (
    Forward,
    ForwardReply,
    Introduced,
    Introduction,
    PeerMessage,
    PeerMessageMalformed,
    array_of,
    decode_peer_messages,
    encode_peer_message,
)
from keycluster.cluster.raft.messages import (
    NUMBER_MAX,
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    InstallSnapshot,
    Membership,
    ReadIndexReply,
    ReadIndexRequest,
    SnapshotMeta,
    SnapshotOutcome,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    encode_membership_entry,
)
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.cluster.witness import MEMBERS_MAX, Witness

MEMBERSHIP = encode_membership_entry(Membership((NodeId("a"), NodeId("b"))))
numbers: Any = st.integers(0, NUMBER_MAX)
nodes: Any = st.text(min_size=1, max_size=128).map(NodeId)
node_tuples = st.lists(nodes, max_size=4, unique=True).map(lambda ids: tuple(sorted(ids)))
memberships = st.builds(Membership, node_tuples, node_tuples, node_tuples, node_tuples)
metas = st.builds(SnapshotMeta, numbers, numbers, memberships, st.none() | nodes)
entries = st.one_of(
    st.builds(Entry, numbers, numbers, st.just(EntryKind.COMMAND), st.binary(max_size=50)),
    st.builds(Entry, numbers, numbers, st.just(EntryKind.LEADER), nodes.map(str.encode)),
    st.builds(Entry, numbers, numbers, st.just(EntryKind.MEMBERSHIP), st.just(MEMBERSHIP)),
)
texts = st.text(max_size=20)
outcomes = st.builds(Outcome, st.none() | st.binary(max_size=20), st.none() | texts, texts)
nonces = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)

MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    AppendEntries: st.builds(
        AppendEntries, numbers, numbers, numbers, numbers, numbers, st.lists(entries, max_size=5).map(tuple)
    ),
    AppendReply: st.builds(AppendReply, numbers, numbers, numbers, st.none() | numbers, numbers, numbers),
    VoteRequest: st.builds(VoteRequest, numbers, numbers, numbers, st.booleans(), st.booleans()),
    VoteReply: st.builds(VoteReply, numbers, st.booleans(), st.booleans()),
    TimeoutNow: st.builds(TimeoutNow, numbers),
    InstallSnapshot: st.builds(InstallSnapshot, numbers, numbers, metas, numbers, numbers, st.binary(max_size=50)),
    SnapshotReply: st.builds(SnapshotReply, numbers, numbers, st.sampled_from(SnapshotOutcome), numbers),
    ReadIndexRequest: st.builds(ReadIndexRequest, numbers, numbers),
    ReadIndexReply: st.builds(ReadIndexReply, numbers, numbers, st.none() | numbers),
    LeaseAsk: st.builds(LeaseAsk, numbers, nonces, numbers, numbers),
    LeaseAnswer: st.builds(
        LeaseAnswer,
        numbers,
        nonces,
        numbers,
        numbers,
        st.none() | numbers,
        st.none() | numbers,
        numbers,
        numbers,
        st.binary(max_size=64),
    ),
    AppliedReport: st.builds(AppliedReport, numbers, numbers, numbers),
    SettledNotice: st.builds(SettledNotice, numbers, numbers),
    Witness: st.builds(Witness, numbers, st.lists(st.tuples(nodes, numbers, numbers), max_size=5).map(tuple)),
    Forward: st.builds(Forward, numbers, st.binary(max_size=50)),
    ForwardReply: st.builds(ForwardReply, numbers, st.none() | outcomes, st.booleans()),
    Introduction: st.builds(
        Introduction,
        numbers,
        st.lists(st.builds(Introduced, nodes, st.binary(max_size=50), st.text(max_size=9)), max_size=5).map(tuple),
    ),
}
messages = st.one_of(*MESSAGES.values())


def decode_peer_message(encoded: bytes | bytearray) -> PeerMessage:
    """One that came alone."""
    [message] = decode_peer_messages(array_of([bytes(encoded)]))
    return message


def test_every_message_has_a_strategy() -> None:
    """A new kind of message can't be forgotten here."""
    assert set(MESSAGES) == set(get_args(PeerMessage))


def test_tags_are_unique() -> None:
    """The tag alone tells the kind, so no two kinds share one."""
    tags = [kind.__struct_config__.tag for kind in MESSAGES]  # type: ignore[attr-defined]  # All are Structs.
    assert len(set(tags)) == len(tags)


@given(messages)
def test_message_survives_the_wire(message: PeerMessage) -> None:
    """What is sent is what arrives."""
    assert decode_peer_message(encode_peer_message(message)) == message


@given(messages, st.data())
def test_cut_or_lengthened_message_is_malformed(message: PeerMessage, data: st.DataObject) -> None:
    """No prefix of a message is one, nor a message with something behind it."""
    encoded = encode_peer_message(message)
    for changed in (encoded[: data.draw(st.integers(0, len(encoded) - 1))], encoded + b"\x00"):
        with pytest.raises(PeerMessageMalformed):
            decode_peer_message(changed)


@given(messages, st.data())
def test_field_of_a_wrong_type_is_malformed(message: PeerMessage, data: st.DataObject) -> None:
    """A map in any field's place is refused, and so is one field too many or one too few."""
    fields = msgpack.unpackb(encode_peer_message(message))
    place = data.draw(st.integers(0, len(fields) - 1))
    for changed in ([*fields[:place], {}, *fields[place + 1 :]], [*fields, 0], fields[:2] if len(fields) > 3 else []):
        with pytest.raises(PeerMessageMalformed):
            decode_peer_message(msgpack.packb(changed))


@given(st.binary(max_size=200))
def test_garbage_is_malformed_or_a_message(garbage: bytes) -> None:
    """Random bytes never raise anything else."""
    try:
        message = decode_peer_message(garbage)
    except PeerMessageMalformed:
        return
    assert type(message) in MESSAGES


@given(messages, st.data())
def test_flipped_bytes_are_malformed_or_a_message(message: PeerMessage, data: st.DataObject) -> None:
    """A changed byte never raises anything else, and never makes a number out of its range."""
    encoded = bytearray(encode_peer_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = decode_peer_message(encoded)
    except PeerMessageMalformed:
        return
    assert isinstance(changed, Forward | ForwardReply | Introduction) or 0 <= changed.term < 2**63


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [16],
        [99, 1],
        ["16", 1, b"n" * 16, 1, 1],
        [16, -1, b"n" * 16, 1, 1],
        [16, 2**63, b"n" * 16, 1, 1],
        [16, 1, b"n" * 15, 1, 1],
        [16, 1, b"n" * 17, 1, 1],
        [16, 1, "n" * 16, 1, 1],
        [16, 1, b"n" * 16, 1.0, 1],
        [16, True, b"n" * 16, 1, 1],
        [17, 1, b"n" * 16, 1, 1, None, None, 1, 1, b"d" * 65],
        [20, 1, [["", 1, 1]]],
        [20, 1, [["n" * 129, 1, 1]]],
        [20, 1, [["n", 1]]],
        [20, 1, [["n", 1, 1]] * (MEMBERS_MAX + 1)],
        {"term": 1},
        7,
        None,
    ],
)
def test_value_out_of_bounds_is_malformed(fields: object) -> None:
    """Bounds are checked where a message comes in."""
    with pytest.raises(PeerMessageMalformed):
        decode_peer_message(msgpack.packb(fields))


@pytest.mark.parametrize(
    "encoded",
    [
        b"\xdd\xff\xff\xff\xff",  # An array of 2^32 - 1 elements, claimed.
        b"\x93\x10\x01\xc6\xff\xff\xff\xff",  # Bytes likewise.
        b"\x92\x14\x01\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,  # Nested.
        b"\x95\x10\x01\xc4\x10" + b"n" * 16 + b"\x01\xd9\x02\xff\xfe",  # Not UTF-8.
        b"\x93\x14\x01\x91\x93\xa2\xff\xfe\x01\x01",
    ],
)
def test_claimed_lengths_and_depth_cost_nothing(encoded: bytes) -> None:
    """Lengths that the bytes don't have, nesting and broken text are malformed at once."""
    with pytest.raises(PeerMessageMalformed):
        decode_peer_message(encoded)


@given(st.lists(messages, max_size=5))
def test_messages_of_one_array_come_in_order(sent: list[PeerMessage]) -> None:
    """Many in one frame are as many alone."""
    assert decode_peer_messages(array_of([encode_peer_message(message) for message in sent])) == sent


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (EntryKind.MEMBERSHIP, b"no membership"),
        (EntryKind.MEMBERSHIP, encode_membership_entry(Membership((NodeId("b"), NodeId("a"))))),
        (EntryKind.LEADER, b"\xff"),
    ],
)
def test_entry_that_consensus_can_not_read_is_malformed(kind: EntryKind, payload: bytes) -> None:
    """It would otherwise end the Raft core half-way through an append."""
    append = AppendEntries(Term(1), 1, LogIndex(0), Term(0), LogIndex(0), (Entry(Term(1), LogIndex(1), kind, payload),))
    with pytest.raises(PeerMessageMalformed):
        decode_peer_message(encode_peer_message(append))


@pytest.mark.parametrize("number", [2**62 + 1, 2**63, 2**64 - 1])
def test_raft_number_that_no_store_takes_is_malformed(number: int) -> None:
    """Terms and indexes are stored by SQLite, and counted on from."""
    for message in (TimeoutNow(Term(number)), AppendReply(Term(1), 1, LogIndex(number))):
        with pytest.raises(PeerMessageMalformed):
            decode_peer_message(encode_peer_message(message))


def test_error_has_no_content_of_the_message() -> None:
    """A key token in a command must not reach a log by way of an error."""
    with pytest.raises(PeerMessageMalformed) as raised:
        decode_peer_message(msgspec.msgpack.encode([16, "secret", b"secret" * 3, "secret", 1]))
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
