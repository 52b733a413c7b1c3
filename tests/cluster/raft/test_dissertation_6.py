"""Chapter 6 of the Raft dissertation, client interaction: what of it is consensus's part."""

import pytest

from keycluster.cluster.raft.errors import NotLeader
from keycluster.cluster.raft.member import Role
from keycluster.cluster.raft.messages import AppendEntries, AppendReply, ReadIndexReply, ReadIndexRequest, VoteReply
from keycluster.cluster.raft.ready import ReadFailed, ReadState
from keycluster.cluster.types import MILLISECOND, LogIndex, NodeId, Term
from tests.cluster.raft.harness import Region, small
from tests.cluster.raft.players import E_MS, A, B, C, alone, append, make_leader, role_of, said


def acknowledge(number: int, match: int, term: int = 1) -> AppendReply:
    return AppendReply(Term(term), number, LogIndex(match))


# 6.1, 6.2 Finding the leader


def test_6_2_followers_name_the_leader() -> None:
    """Who isn't the leader refuses and says who is, as far as it knows."""
    _, a = alone()
    with pytest.raises(NotLeader) as refused:
        a.propose(b"x")
    assert refused.value.leader_hint is None
    a.receive(B, append(1, (0, 0)))
    with pytest.raises(NotLeader) as refused:
        a.propose(b"x")
    assert refused.value.leader_hint == B


def test_6_2_leader_without_a_majority_steps_down() -> None:
    """Else clients would wait at it for ever (check-quorum)."""
    region = Region()
    a = region.elect("a")
    region.cut = {A}
    region.run(2 * E_MS - 20, only="a")
    assert role_of(a) is Role.LEADER
    region.run(100, only="a")
    assert a.core.role is Role.FOLLOWER
    assert a.core.leader is None


def test_6_2_followers_forget_a_silent_leader() -> None:
    """Else a client could be sent round in circles."""
    region = Region()
    region.elect("a")
    region["a"].crash()
    region.cut = {B}
    region.run(2 * E_MS + 100)
    assert region["b"].core.leader is None


# 6.3 Linearizable semantics


def test_6_3_each_proposal_is_applied_once() -> None:
    """Whatever comes twice on the network. (That a client's repetition has no effect is the state machine's part.)"""
    region = Region()
    a = region.elect("a")
    a.propose(b"x")
    for _ in range(20):
        region.letters = [letter for letter in region.letters for _ in range(2)]
        region.deliver()
        for member in region.up:
            member.work()
    payloads = [entry.payload for entry in region["b"].log_entries()]
    assert payloads.count(b"x") == 1
    assert len({member.disk.state.digest for member in region.up}) == 1


# 6.4 Read-only queries


def test_6_4_read_needs_a_committed_entry_of_the_term() -> None:
    """A new leader's commit index may be behind: the read waits for the leader's own first entry."""
    region, a = alone()
    make_leader(region, a)
    a.read(7)
    a.receive(B, acknowledge(1, 0))
    assert a.reads == []
    a.receive(B, acknowledge(1, 1))
    assert a.reads == []
    number = said(region, AppendEntries, to="b")[-1].round
    assert number == 2
    a.receive(B, acknowledge(number, 1))
    assert a.reads == [ReadState(7, LogIndex(1))]


def test_6_4_read_needs_a_round_sent_after_it_came() -> None:
    """An acknowledgement of an earlier round proves nothing about now."""
    region, a = alone()
    make_leader(region, a)
    a.receive(B, acknowledge(1, 1))
    region.tick(60)
    before = said(region, AppendEntries, to="b")[-1].round
    a.read(7)
    a.receive(B, acknowledge(before, 1))
    a.receive(C, acknowledge(before, 1))
    assert a.reads == []
    a.receive(C, acknowledge(before + 1, 1))
    assert a.reads == [ReadState(7, LogIndex(1))]


def test_6_4_round_numbers_from_nowhere_count_nothing() -> None:
    """An echo of a round that was never begun is no echo."""
    region, a = alone()
    make_leader(region, a)
    a.receive(B, acknowledge(1, 1))
    a.read(7)
    a.receive(B, acknowledge(99, 1))
    assert a.reads == []


def test_6_4_reads_share_a_round() -> None:
    """All that came before it was sent are answered by one."""
    region, a = alone()
    make_leader(region, a)
    a.receive(B, acknowledge(1, 1))
    region.letters.clear()
    for request in range(5):
        a.core.read_index(request, a.now)
    a.pump()
    rounds = {m.round for m in said(region, AppendEntries)}
    assert rounds == {2}
    a.receive(B, acknowledge(2, 1))
    assert len(a.reads) == 5


def test_6_4_reads_do_not_put_off_probes() -> None:
    """Rounds for reads come without end under load; a member whose probe was lost is asked again all the same."""
    region, a = alone()
    make_leader(region, a)
    a.receive(B, acknowledge(1, 1))
    region.letters.clear()
    for request in range(30):
        region.tick(10)
        a.read(request)
        a.receive(B, acknowledge(a.core._replication.rounds.newest, 1))
    assert len(a.reads) == 30
    assert sum(bool(m.entries) for m in said(region, AppendEntries, to="c")) == 5


def test_6_4_read_index_covers_what_was_committed() -> None:
    """The answer is the commit index at the time that the leader got the read."""
    region = Region()
    a = region.elect("a")
    a.propose(b"x")
    region.settle()
    region["b"].read(1)
    region.deliver(to="a")
    a.propose(b"y")
    region.settle()
    assert region["b"].reads == [ReadState(1, LogIndex(2))]


def test_6_4_leader_cut_off_confirms_nothing() -> None:
    """Another one may lead and have committed more; the read fails instead, in time."""
    region = Region()
    a = region.elect("a")
    region.cut = {A}
    region.run(100)
    a.read(1)
    region.run(2_000)
    assert a.reads == [ReadFailed(1)]


@pytest.mark.parametrize("how", ["no leader", "leader changes", "no answer", "not the leader any more", "too many"])
def test_6_4_reads_are_always_answered(how: str) -> None:
    """Silence would hang the client (and did, elsewhere)."""
    region, a = alone(config=small(reads_pending_max=1))
    if how != "no leader":
        a.receive(B, append(1, (0, 0)))
        a.work()
    a.read(1)
    if how == "leader changes":
        a.receive(C, append(2, (0, 0)))
    elif how == "no answer":
        for _ in range(70):
            region.tick(10)
            a.receive(B, append(1, (0, 0)))
    elif how == "not the leader any more":
        number = said(region, ReadIndexRequest)[0].read
        a.receive(B, ReadIndexReply(Term(1), number, None))
    elif how == "too many":
        a.read(2)
        assert a.reads == [ReadFailed(2)]
        return
    assert a.reads == [ReadFailed(1)]


def test_6_4_pending_reads_fail_when_leadership_ends() -> None:
    """The leader's own, and those of followers, each with a word."""
    region, a = alone()
    make_leader(region, a)
    a.read(1)
    a.receive(B, ReadIndexRequest(Term(1), 9))
    a.receive(C, VoteReply(Term(5), pre=False, granted=False))
    a.work()
    assert a.reads == [ReadFailed(1)]
    assert [m.index for m in said(region, ReadIndexReply, to="b")] == [None]


def test_6_4_a_follower_asked_says_no() -> None:
    """It can't confirm anything."""
    region, a = alone()
    a.receive(C, ReadIndexRequest(Term(0), 9))
    assert [(m.read, m.index) for m in said(region, ReadIndexReply)] == [(9, None)]


def test_6_4_forwarded_reads_have_fresh_numbers() -> None:
    """An answer to a read of a life before must not pass for the answer to a newer one (etcd #20418)."""
    region, a = alone()
    numbers = []
    for _ in range(3):
        a.receive(B, append(1, (0, 0)))
        a.work()
        a.read(1)
        a.read(2)
        numbers += [m.read for m in said(region, ReadIndexRequest)]
        a.crash()
        a.start()
    assert len(set(numbers)) == 6
    a.receive(B, append(1, (0, 0)))
    a.read(1)
    a.receive(B, ReadIndexReply(Term(1), numbers[0], LogIndex(0)))
    assert a.reads == []


# 6.4.1 Clocks


def test_6_4_1_l4_lease_counts_from_when_the_round_was_sent() -> None:
    """Rule L4: t_sent + E·(1-r)/(1+r), of the newest round that a majority echoed, however late the echo came."""
    region, a = alone()
    make_leader(region, a)
    sent_at, lease_before = a.core._replication.began_at, a.core.quorum_lease_until
    assert lease_before is None
    region.time += 100 * MILLISECOND
    a.receive(B, acknowledge(1, 1))
    assert a.core.quorum_lease_until == sent_at + a.config.lease_ns
    assert a.config.lease_ns == 300 * MILLISECOND * 999 // 1001


def test_6_4_1_l4_lease_needs_a_majority() -> None:
    """The median of five: the leader itself and two others."""
    region, a = alone(voters="abcde")
    region.time = a.core._member.election_due
    a.tick()
    for pre in (True, False):
        for node in "bc":
            a.receive(NodeId(node), VoteReply(Term(1), pre=pre, granted=True))
        a.work()
    assert a.core.role is Role.LEADER
    a.receive(B, acknowledge(1, 1))
    assert a.core.quorum_lease_until is None
    a.receive(C, acknowledge(1, 1))
    assert a.core.quorum_lease_until is not None


def test_6_4_1_l6_the_last_terms_leader_is_named() -> None:
    """Rule L6: by the newest LEADER entry below the new leader's own; snapshots and restarts keep it."""
    region = Region()
    a = region.elect("a")
    assert a.core.last_term_leader is None
    for member in region.up:
        member.disk.compact(1)
    for member in region.up:
        member.crash()
        member.start()
    region.time += 10**9
    b = region.elect("b")
    assert b.core.last_term_leader == A
    b.crash()
    region.time += 10**9
    assert region.elect("c").core.last_term_leader == B
