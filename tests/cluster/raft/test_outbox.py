"""What a member says while its term and vote are on their way to the disk."""

import pytest

from keycluster.cluster.raft.log import RaftLog
from keycluster.cluster.raft.messages import AppendReply, HardState, Message, VoteReply
from keycluster.cluster.raft.outbox import HELD_MESSAGES_MAX, Outbox
from keycluster.cluster.raft.ready import Persist
from keycluster.cluster.types import Instant, LogIndex, NodeId, Term
from tests.cluster.raft.harness import AppliedState, MemoryDisk, membership
from tests.cluster.raft.players import B, C

TERM = Term(7)
VOTE = VoteReply(TERM, pre=False, granted=True)


def reply(round_number: int) -> AppendReply:
    return AppendReply(TERM, round_number, LogIndex(0))


@pytest.fixture
def outbox() -> Outbox:
    """With a new term that isn't on disk yet."""
    outbox = Outbox()
    outbox.change_hard_state(HardState(TERM, B))
    return outbox


def write(outbox: Outbox) -> Persist:
    disk = MemoryDisk(AppliedState(LogIndex(0), Term(0), 0, membership("a"), None))
    persist = outbox.take_persist(RaftLog(disk, applied=LogIndex(0), tail_bytes_max=1_000), Instant(1))
    assert persist is not None
    return persist


def test_words_wait_for_the_hard_state(outbox: Outbox) -> None:
    """Nothing leaves before its term is durable; then all does, in its order."""
    outbox.send(B, VOTE)
    outbox.send(C, reply(1))
    assert outbox.messages == []
    outbox.persisted(write(outbox).ticket)
    assert outbox.messages == [(B, VOTE), (C, reply(1))]


def test_newer_reply_takes_the_place_of_a_held_one_to_the_same_member(outbox: Outbox) -> None:
    """Heartbeats go on while a disk stalls: one reply a member is kept. Votes and other members' replies stay."""
    outbox.send(B, VOTE)
    outbox.send(C, reply(1))
    outbox.send(B, reply(2))
    outbox.send(B, reply(3))
    outbox.send(B, reply(4))
    outbox.persisted(write(outbox).ticket)
    assert outbox.messages == [(B, VOTE), (C, reply(1)), (B, reply(4))]


def test_held_words_are_bounded(outbox: Outbox) -> None:
    """Behind a disk that never comes back the oldest are dropped, as a network may drop them."""
    sent: list[tuple[NodeId, Message]] = [(NodeId(f"n{i}"), VOTE) for i in range(HELD_MESSAGES_MAX + 5)]
    for to, message in sent:
        outbox.send(to, message)
    outbox.persisted(write(outbox).ticket)
    assert outbox.messages == sent[5:]


def test_what_promises_nothing_leaves_at_once(outbox: Outbox) -> None:
    """A pre-vote binds nobody."""
    outbox.send_unbound(B, VOTE)
    assert outbox.messages == [(B, VOTE)]
