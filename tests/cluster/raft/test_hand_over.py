"""Leadership transfer: section 3.10 of the Raft dissertation, rule L8, and what a stalled disk does to a leader."""

import pytest

from keycluster.cluster.raft.errors import HandingOver, NotLeader, TransferRefused
from keycluster.cluster.raft.member import Role
from keycluster.cluster.raft.messages import TimeoutNow, VoteReply
from keycluster.cluster.types import NodeId, Term
from tests.cluster.raft.harness import Region
from tests.cluster.raft.players import E_MS, A, B, C, alone, append, role_of, said, vote_request


def test_3_10_transfer_to_an_up_to_date_target() -> None:
    """The target is brought up to date, then campaigns at once; the old leader takes no proposals meanwhile."""
    region = Region()
    a = region.elect("a")
    a.propose(b"x")
    a.transfer(B)
    with pytest.raises(HandingOver):
        a.propose(b"y")
    region.settle()
    b = region["b"]
    assert b.core.role is Role.LEADER
    assert b.core.term == 2
    assert b.core.commit_index == 3


def test_3_10_transfer_gives_up_after_an_election_time_out() -> None:
    """A target that doesn't answer costs E, then proposals are taken again."""
    region = Region()
    a = region.elect("a")
    region.cut = {B}
    a.propose(b"x")
    a.transfer(B)
    region.run(E_MS + 20)
    assert a.core.role is Role.LEADER
    a.propose(b"y")


def test_3_10_transfer_refused() -> None:
    """Not to itself, to strangers or learners; not by others than the leader."""
    region = Region(learners="d")
    a = region.elect("a")
    for target in "adx":
        with pytest.raises(TransferRefused):
            a.transfer(NodeId(target))
    with pytest.raises(NotLeader):
        region["b"].transfer(A)


def test_3_10_word_of_another_than_the_leader_is_ignored() -> None:
    """TimeoutNow counts only from the leader of the term."""
    _, a = alone()
    a.receive(B, append(1, (0, 0)))
    a.receive(C, TimeoutNow(Term(1)))
    assert role_of(a) is Role.FOLLOWER
    a.receive(B, TimeoutNow(Term(1)))
    assert a.core.role is Role.CANDIDATE


def test_3_10_l8_quorum_lease_ends_before_the_word_is_sent() -> None:
    """Rule L8: no lease from the moment that TimeoutNow may leave, for the rest of the term; then it steps down."""
    region = Region()
    a = region.elect("a")
    region.run(100)
    lease_before = a.core.quorum_lease_until
    assert lease_before is not None
    a.transfer(B)
    assert any(isinstance(letter.message, TimeoutNow) for letter in region.letters)
    assert a.core.hand_over_sent
    assert a.core.quorum_lease_until is None
    for _ in range(E_MS // 10 + 1):
        region.letters = [letter for letter in region.letters if letter.to == C]
        region.tick(10, only="ac")
        region.deliver(to="c")
        region["c"].work()
        region.deliver(to="a", sender="c")
    assert a.core.role is Role.FOLLOWER


@pytest.mark.parametrize(("term", "granted"), [(2, True), (3, False)])
def test_3_10_l8_stickiness_overruled_in_the_next_term_only(term: int, granted: bool) -> None:
    """Rule L8: a request by hand-over counts in the term right after the leader's that was heard."""
    region, a = alone()
    a.receive(B, append(1, (0, 0)))
    a.work()
    region.letters.clear()
    a.receive(C, vote_request(term, hand_over=True))
    a.work()
    assert [m.granted for m in said(region, VoteReply)] == ([True] if granted else [])
    assert a.core.term == (2 if granted else 1)


def test_disk_stall_moves_leadership() -> None:
    """A leader whose write doesn't end hands over, and doesn't campaign until it has ended."""
    region = Region(seed=4)
    a = region.elect("a")
    write_one, a.write_one = a.write_one, lambda: False  # type: ignore[method-assign]  # The disk hangs.
    a.propose(b"x")
    region.run(2_500)
    leader = region.leader
    assert leader is not None
    assert leader is not a
    assert a.core.role is Role.FOLLOWER
    region.cut = {leader.node}
    region.run(3_000)
    assert a.core.term <= leader.core.term + 3
    assert a.core.role is Role.FOLLOWER
    a.write_one = write_one  # type: ignore[method-assign]  # Of this one only.
    region.cut = set()
    region.run(3_000)
    assert len({member.disk.state for member in region.up}) == 1
