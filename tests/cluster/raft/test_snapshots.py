"""Chapter 5 of the Raft dissertation: snapshots to members that are far behind. See transcripts/snapshot*.txt too."""

import pytest

from keycluster.cluster.raft.messages import (
    AppendReply,
    InstallSnapshot,
    SnapshotMeta,
    SnapshotOutcome,
    SnapshotReply,
)
from keycluster.cluster.raft.progress import ProgressState
from keycluster.cluster.types import LogIndex, NodeId, Term
from tests.cluster.raft.harness import SNAPSHOT_BYTES, AppliedState, Region, SimMember, membership, small
from tests.cluster.raft.players import B, C, alone, append, entry, make_leader, said

STATE = AppliedState(LogIndex(5), Term(1), 99, membership("abc"), B)


def chunk(offset: int, count: int, *, offer: int = 1, term: int = 1, state: AppliedState = STATE) -> InstallSnapshot:
    data = state.encode()[offset : offset + count]
    return InstallSnapshot(Term(term), offer, state.meta, SNAPSHOT_BYTES, offset, data)


def offsets(region: Region) -> list[int]:
    return [m.offset for m in said(region, SnapshotReply)]


def behind_region() -> tuple[Region, SimMember]:
    """a leads, c is cut off, and what c needs is compacted."""
    region = Region(config=small())
    a = region.elect("a")
    region.cut = {C}
    region.run(1_000)
    for i in range(10):
        a.propose(b"%d" % i)
        region.settle()
    for node in "ab":
        region[node].disk.compact(8)
    return region, a


def test_snapshot_in_chunks_then_entries() -> None:
    """The member gets state, membership and the entries behind it, and counts again."""
    region, a = behind_region()
    region.cut = set()
    region.run(300)
    assert region["c"].installs == 1
    assert region["c"].disk.state == a.disk.state
    assert a.core.progress[C].state is ProgressState.REPLICATE
    region.cut = {B}
    a.propose(b"x")
    region.settle()
    assert a.core.commit_index == a.core.last_index


def test_snapshot_carries_membership_and_leader() -> None:
    """What entries had set that are compacted now."""
    _, a = alone()
    state = AppliedState(LogIndex(5), Term(1), 9, membership("abcd"), C)
    a.receive(B, chunk(0, 400, state=state))
    a.work()
    a.receive(B, chunk(400, 300, state=state))
    a.work()
    assert a.core.membership == a.core.committed_membership == membership("abcd")
    assert a.core._member.leaders.newest == C
    assert (a.core.commit_index, a.core.applied_index, a.core.last_term) == (5, 5, 1)


def test_chunks_out_of_place_answered_with_the_right_place() -> None:
    """Doubled, lost or early ones: the reply says how far the stored part reaches."""
    region, a = alone()
    a.receive(B, chunk(200, 200))
    a.work()
    assert offsets(region) == [0]
    a.receive(B, chunk(0, 200))
    a.work()
    a.receive(B, chunk(0, 200))
    a.receive(B, chunk(400, 200))
    a.work()
    assert offsets(region) == [200, 200, 200]


def test_chunk_repeated_while_it_is_stored() -> None:
    """One at a time goes to the disk."""
    region, a = alone()
    a.receive(B, chunk(0, 200))
    a.receive(B, chunk(0, 200))
    a.work()
    assert offsets(region) == [200]


@pytest.mark.parametrize(("offer", "term"), [(2, 1), (1, 2)])
def test_chunks_of_another_transfer_start_anew(offer: int, term: int) -> None:
    """Two files of one index needn't be equal: parts of them are never put together."""
    region, a = alone()
    a.receive(B, chunk(0, 200))
    a.work()
    a.receive(B, chunk(200, 200, offer=offer, term=term))
    a.work()
    assert offsets(region) == [200, 0]


def test_snapshot_that_is_not_needed() -> None:
    """What is committed here already is answered as installed."""
    region, a = alone()
    a.receive(B, append(1, (0, 0), *(entry(i, 1) for i in range(1, 7)), commit=6))
    a.work()
    a.receive(B, chunk(0, 200))
    assert [m.outcome for m in said(region, SnapshotReply)] == [SnapshotOutcome.INSTALLED]
    assert a.chunk is None


@pytest.mark.parametrize(("term", "last"), [(1, 7), (2, 5)])
def test_snapshot_keeps_only_a_suffix_that_fits(term: int, last: int) -> None:
    """Entries behind the snapshot stay if the log had the snapshot's very last entry; else they belong to a history
    that was given up, and keeping them made other systems loop for ever."""
    _, a = alone()
    if term == 1:
        a.receive(B, append(1, (0, 0), *(entry(i, 1) for i in range(1, 8)), commit=1))
        state = STATE
    else:
        a.receive(B, append(1, (0, 0), *(entry(i, 1) for i in range(1, 8)), commit=1))
        state = AppliedState(LogIndex(5), Term(2), 99, membership("abc"), B)
    a.work()
    for offset in (0, 400):
        a.receive(B, chunk(offset, 400, term=2, state=state))
        a.work()
    assert a.core.last_index == a.disk.last_index == last
    assert a.core.commit_index == 5
    a.receive(B, append(2, (5, term), entry(6, 2, b"new")))
    a.work()
    assert a.log_entries()[-1] == entry(6, 2, b"new")
    assert a.disk.log == a.log_entries()


def test_log_stays_as_it_is_during_installation() -> None:
    """No entries taken, none to apply, no campaign; heartbeats are answered."""
    region, a = alone()
    a.receive(B, append(1, (0, 0), entry(1, 1)))
    a.work()
    for offset in (0, 400):
        a.receive(B, chunk(offset, 400))
        a.write_one()
        a.snapshot_step()
    assert a.core.is_installing_snapshot
    region.letters.clear()
    a.receive(B, append(1, (1, 1), entry(2, 1), commit=2, number=5))
    assert a.core.last_index == 1
    assert a.to_apply == a.to_apply.__class__()
    assert [m.round for m in said(region, AppendReply)] == [5]
    for _ in range(200):
        region.tick(10)
    assert a.core.term == 1


def test_chunk_of_another_snapshot_waits_for_the_installation() -> None:
    """The state is being replaced: what it becomes is settled before another snapshot begins."""
    region, a = alone()
    for offset in (0, 400):
        a.receive(B, chunk(offset, 400))
        a.write_one()
        a.snapshot_step()
    assert a.core.is_installing_snapshot
    region.letters.clear()
    a.receive(B, chunk(0, 200, offer=2))
    assert a.core.ready().snapshot_chunk is None
    a.work()
    assert [(m.offer, m.outcome) for m in said(region, SnapshotReply)] == [(1, SnapshotOutcome.INSTALLED)]
    assert a.core.commit_index == STATE.index


def test_lost_chunk_sent_again() -> None:
    """After `snapshot_retry_ns`, from where the member is."""
    region, _ = behind_region()
    region.cut = set()
    lost = 0
    for _ in range(500):
        region.tick(20)
        for letter in region.take():
            if isinstance(letter.message, InstallSnapshot | SnapshotReply) and lost < 6:
                lost += 1
            else:
                region.deliver_one(letter)
        for member in region.up:
            member.work()
    assert lost == 6
    assert region["c"].installs == 1


def test_failed_read_leads_to_another_snapshot() -> None:
    """After a while, not at once and over and over."""
    region, a = alone(config=small())
    a.disk.state = AppliedState(LogIndex(0), Term(0), 0, membership("abc"), None)
    make_leader(region, a)
    a.receive(B, AppendReply(Term(1), 1, LogIndex(1)))
    a.work()
    a.propose(b"x")
    a.work()
    a.receive(B, AppendReply(Term(1), 1, LogIndex(2)))
    a.work()
    a.disk.compact(2)
    a.receive(C, AppendReply(Term(1), 1, LogIndex(0), LogIndex(0)))
    region.tick(60)
    a.receive(C, AppendReply(Term(1), 2, LogIndex(0)))
    a.core._replication.progress[C].become_probe(LogIndex(1))
    region.tick(60)
    assert a.core.progress[C].state is ProgressState.SNAPSHOT
    assert list(a.wanted) == [C]
    a.snapshot_step()
    a.to_read.clear()
    a.core.snapshot_read_failed(C, a.now)
    for _ in range(5):
        region.tick(60)
        a.receive(B, AppendReply(Term(1), a.core._replication.rounds.newest, LogIndex(2)))
        a.receive(C, AppendReply(Term(1), a.core._replication.rounds.newest, LogIndex(0)))
    assert list(a.wanted) == []
    for _ in range(15):
        region.tick(60)
        a.receive(B, AppendReply(Term(1), a.core._replication.rounds.newest, LogIndex(2)))
        a.receive(C, AppendReply(Term(1), a.core._replication.rounds.newest, LogIndex(0)))
    assert list(a.wanted) == [C]


def test_no_snapshot_for_a_silent_member() -> None:
    """A dead one would have snapshots made for nothing."""
    region, a = behind_region()
    region.run(3_000)
    assert list(a.wanted) == []
    assert a.offered == {}


def test_offers_that_are_of_no_use_are_ignored() -> None:
    """Too old for the log to go on from, or not asked for."""
    region, a = behind_region()
    region.cut = set()
    region.tick(60)
    region.deliver()
    region.deliver()
    old = SnapshotMeta(LogIndex(3), Term(1), membership("abc"), NodeId("a"))
    a.core.offer_snapshot(C, old, size=10, now=a.now)
    a.core.offer_snapshot(B, a.disk.state.meta, size=10, now=a.now)
    assert not a.core.ready().snapshot_reads


def test_retain_above_covers_transfers_and_live_members() -> None:
    """Compacting more would make a snapshot under way useless when it arrives."""
    region, a = behind_region()
    assert a.core.retain_above == a.core.applied_index
    region.cut = set()
    for _ in range(12):
        region.tick(10)
        region.deliver()
        a.snapshot_step()
    installing = a.core._replication.snapshots.index_for(C)
    assert installing is not None
    for i in range(5):
        a.propose(b"%d" % i)
        for member in (a, region["b"]):
            member.write_one()
        region.deliver(to="b")
        region["b"].write_one()
        region.deliver(to="a", sender="b")
        while a.apply_one():
            pass
    assert a.core.retain_above <= installing < a.core.applied_index
    region.cut = {C}
    for _ in range(100):
        region.tick(10)
        region.deliver(to="b")
        region.deliver(to="a", sender="b")
    assert a.core.retain_above == a.core.applied_index, "a dead member keeps the log from being compacted"


def test_heartbeats_go_on_during_a_transfer() -> None:
    """They match any log, and keep the member from campaigning."""
    region, _ = behind_region()
    region.cut = set()
    region["c"].crash()
    region["c"].start()
    for _ in range(40):
        region.tick(20)
        for letter in region.take():
            if not isinstance(letter.message, InstallSnapshot):
                region.deliver_one(letter)
    assert region["c"].core.leader == "a"
    assert region["c"].installs == 0
