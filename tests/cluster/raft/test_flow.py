"""How much may be under way: pipelining, windows, the cap on uncommitted bytes, what is applied at once."""

import pytest

from keycluster.cluster.raft.errors import ProposalsFull
from keycluster.cluster.raft.member import Role
from keycluster.cluster.raft.messages import AppendEntries, AppendReply
from keycluster.cluster.raft.progress import ProgressState
from keycluster.cluster.types import LogIndex, Term
from tests.cluster.raft.harness import Region, small
from tests.cluster.raft.players import B, alone, append, entry, make_leader, said


def test_pipelining_within_windows() -> None:
    """Appends go out without waiting, up to the window of messages; an acknowledgement opens it again."""
    config = small(inflight_messages_max=3, inflight_bytes_max=10_000)
    region, a = alone(config=config)
    make_leader(region, a)
    a.receive(B, AppendReply(Term(1), 1, LogIndex(1)))
    region.letters.clear()
    for i in range(6):
        a.propose(b"%d" % i)
    assert [m.prev_index for m in said(region, AppendEntries, to="b")] == [1, 2, 3]
    a.receive(B, AppendReply(Term(1), 1, LogIndex(3)))
    assert [(m.prev_index, len(m.entries)) for m in said(region, AppendEntries, to="b")] == [(4, 3)]


def test_window_in_bytes() -> None:
    """However few the messages: once so many bytes are under way nothing more is sent."""
    config = small(inflight_messages_max=100, inflight_bytes_max=500, append_bytes_max=250)
    region, a = alone(config=config)
    make_leader(region, a)
    a.receive(B, AppendReply(Term(1), 1, LogIndex(1)))
    region.letters.clear()
    a.propose(*[b"x" * 200] * 10)
    assert len(said(region, AppendEntries, to="b")) == 3
    assert a.core.progress[B].inflight_bytes == 3 * 232


def test_probe_sends_one_at_a_time() -> None:
    """Before it is known where the logs meet, one append is under way, repeated with the heartbeat."""
    region, a = alone()
    make_leader(region, a)
    region.letters.clear()
    a.propose(b"x")
    a.propose(b"y")
    assert said(region, AppendEntries) == []
    region.tick(60)
    assert [len(m.entries) for m in said(region, AppendEntries, to="b")] == [3]
    assert a.core.progress[B].state is ProgressState.PROBE


def test_uncommitted_cap() -> None:
    """Above the cap nothing is taken; with nothing uncommitted even a larger batch is, else it never could be."""
    region = Region(config=small(uncommitted_bytes_max=500))
    a = region.elect("a")
    a.propose(b"x" * 2_000)
    with pytest.raises(ProposalsFull):
        a.propose(b"y")
    region.settle()
    a.propose(b"y")


def test_uncommitted_cap_across_terms() -> None:
    """A new leader counts what it inherited: terms that come and go can't pile up entries without bound."""
    region, a = alone(config=small(uncommitted_bytes_max=500))
    a.receive(B, append(1, (0, 0), *(entry(i, 1, b"x" * 100) for i in range(1, 5))))
    a.work()
    make_leader(region, a)
    with pytest.raises(ProposalsFull):
        a.propose(b"y")
    a.receive(B, AppendReply(Term(2), 1, LogIndex(5)))
    assert a.core.uncommitted_bytes == 0
    a.propose(b"y")


def test_uncommitted_bytes_after_restart_and_truncation() -> None:
    """The count follows the log: entries found at a restart count, entries that give way don't."""
    _, a = alone()
    a.receive(B, append(1, (0, 0), *(entry(i, 1, b"x" * 100) for i in range(1, 5)), commit=1))
    a.work()
    assert a.core.uncommitted_bytes == 3 * 132
    a.crash()
    a.start()
    assert a.core.uncommitted_bytes == 3 * 132
    a.receive(B, append(2, (2, 1), entry(3, 2, b"y" * 10)))
    assert a.core.uncommitted_bytes == 132 + 42


def test_apply_bounded_in_bytes() -> None:
    """Entries to apply are handed out as earlier ones are applied, never all at once."""
    _, a = alone(config=small(apply_bytes_max=300))
    a.receive(B, append(1, (0, 0), *(entry(i, 1, b"x" * 100) for i in range(1, 9)), commit=8))
    while a.write_one():
        pass
    assert len(a.to_apply) == 2
    a.apply_one()
    assert len(a.to_apply) == 2
    a.work()
    assert a.disk.state.index == 8


def test_memory_bounded_while_apply_lags() -> None:
    """Durable, committed entries leave memory when there are too many, and are read again to be applied."""
    _, a = alone(config=small(tail_bytes_max=1_000, apply_bytes_max=200))
    for i in range(1, 100):
        a.receive(B, append(1, (i - 1, min(i - 1, 1)), entry(i, 1, b"x" * 100), commit=i))
        a.write_one()
        a.write_one()
    assert len(a.core._member.log.unapplied()) < 20
    a.work()
    assert a.disk.state.index == 99


def test_dead_member_gets_no_entries() -> None:
    """One that doesn't answer is asked by empty appends: reading entries for it each time would be for nothing."""
    region = Region()
    a = region.elect("a")
    region["c"].crash()
    a.propose(b"x")
    region.run(1_000)
    region.letters.clear()
    region.tick(100)
    assert [len(m.entries) for m in said(region, AppendEntries, to="c")] == [0]
    region["c"].start()
    region.run(200)
    assert region["c"].disk.state == a.disk.state
    assert a.core.role is Role.LEADER
