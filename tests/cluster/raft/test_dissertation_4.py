"""Chapter 4 of the Raft dissertation, membership changes, section by section, and its erratum."""

import pytest

from keycluster.cluster.raft.errors import MembershipRefused, NotLeader
from keycluster.cluster.raft.member import Role
from keycluster.cluster.raft.membership import first_step, leave
from keycluster.cluster.raft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    Membership,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    encode_membership_entry,
)
from keycluster.cluster.types import MILLISECOND, LogIndex, NodeId, Term
from tests.cluster.raft.harness import Region, SimMember, membership
from tests.cluster.raft.players import (
    E_MS,
    A,
    B,
    C,
    D,
    alone,
    append,
    make_leader,
    past_stickiness,
    role_of,
    said,
    vote_request,
)

ABC = membership("abc")


def membership_entry(index: int, term: int, members: Membership) -> Entry:
    return Entry(Term(term), LogIndex(index), EntryKind.MEMBERSHIP, encode_membership_entry(members))


def led_region(*, new: str = "d", learners: str = "") -> tuple[Region, SimMember]:
    """a leads a, b, c; the others wait with empty logs."""
    region = Region(learners=tuple(learners))
    for node in new:
        region.add(node)
    return region, region.elect("a")


def change_and_leave(region: Region, leader: SimMember, target: Membership) -> None:
    leader.change(target)
    region.settle()
    leader.leave_joint()
    region.settle()


# 4.1 Safety


def test_4_1_membership_counts_once_appended() -> None:
    """Each server uses the newest membership in its log, committed or not."""
    region, a = led_region()
    a.change(membership("abc", learners="d"))
    assert a.core.membership == membership("abc", learners="d")
    assert a.core.committed_membership == ABC
    region.deliver(to="b")
    assert region["b"].core.membership == membership("abc", learners="d")


def test_4_1_truncation_takes_the_membership_back() -> None:
    """A follower goes back to the membership before when the entry gives way."""
    _, a = alone()
    joint = membership("ad", outgoing="abc")
    a.receive(B, append(1, (0, 0), membership_entry(1, 1, joint)))
    a.work()
    assert a.core.membership == joint
    a.receive(C, append(2, (0, 0), Entry(Term(2), LogIndex(1), EntryKind.LEADER, b"c")))
    assert a.core.membership == ABC


def test_4_1_membership_found_again_after_restart() -> None:
    """Above what is applied the log is looked through: the newest entry counts, and can still be taken back."""
    _, a = alone()
    joint = membership("ad", outgoing="abc")
    a.receive(B, append(1, (0, 0), membership_entry(1, 1, joint)))
    a.work()
    a.crash()
    a.start()
    assert a.core.membership == joint
    assert a.core.committed_membership == ABC
    a.receive(C, append(2, (0, 0), Entry(Term(2), LogIndex(1), EntryKind.LEADER, b"c")))
    assert a.core.membership == ABC


def test_4_1_one_change_at_a_time() -> None:
    """The next one waits until the last is committed."""
    region, a = led_region()
    a.change(membership("abc", learners="d"))
    with pytest.raises(MembershipRefused, match="in flight"):
        a.change(ABC)
    region.settle()
    a.change(ABC)


def test_4_1_erratum_no_change_before_an_own_term_entry_is_committed() -> None:
    """The erratum of 2015: a new leader first commits an entry of its term, else an uncommitted change of an older
    leader and its own could each find a quorum without the other."""
    region, a = alone()
    make_leader(region, a)
    with pytest.raises(MembershipRefused, match="term is committed"):
        a.change(membership("abc", learners="d"))
    a.receive(B, AppendReply(Term(1), 1, LogIndex(1)))
    a.change(membership("abc", learners="d"))


def test_4_1_only_the_leader_changes_the_membership() -> None:
    """Others say who leads."""
    region, _ = led_region()
    with pytest.raises(NotLeader) as refused:
        region["b"].change(membership("ab"))
    assert refused.value.leader_hint == A


def test_4_1_a_server_hears_leaders_outside_its_membership() -> None:
    """It appends and votes for servers that it doesn't know: its membership may be the older one."""
    region, a = alone()
    a.receive(NodeId("x"), append(1, (0, 0)))
    assert a.core.leader == "x"
    a.work()
    past_stickiness(region)
    a.receive(NodeId("y"), vote_request(2))
    a.work()
    assert [m.granted for m in said(region, VoteReply)] == [True]


# 4.2 Availability


def test_4_2_1_new_servers_catch_up_as_learners() -> None:
    """A learner gets the log without a vote: its lack of entries stops nothing, its copy commits nothing."""
    region, a = led_region()
    a.change(membership("abc", learners="d"))
    region.settle()
    region.cut = {D}
    a.propose(b"x")
    region.settle()
    assert a.core.commit_index == 3
    region.cut = {B, C}
    a.propose(b"y")
    region.settle()
    assert a.core.commit_index == 3
    region.cut = {D}
    region.run(200)
    assert a.core.commit_index == 4


def test_4_2_1_learner_neither_campaigns_nor_is_asked() -> None:
    """Nor is leadership handed to it."""
    region, a = led_region()
    a.change(membership("abc", learners="d"))
    region.settle()
    region.letters.clear()
    for _ in range(200):
        region.tick(20, only="d")
    region["d"].receive(A, TimeoutNow(Term(1)))
    assert said(region, VoteRequest) == []
    assert region["d"].core.role is Role.FOLLOWER


def test_4_2_1_learner_asked_votes() -> None:
    """It may have become a voter without knowing it yet."""
    region = Region(learners=("d",))
    past_stickiness(region)
    region["d"].receive(A, vote_request(1))
    region["d"].work()
    assert [m.granted for m in said(region, VoteReply)] == [True]


def test_4_2_2_removed_leader_leads_until_that_is_committed() -> None:
    """It doesn't count itself; it steps down with the commit, and has the best successor campaign at once."""
    region, a = led_region()
    a.change(membership("bc"))
    region.settle()
    a.leave_joint()
    a.work()
    region.deliver(to="b")
    region["b"].work()
    region.deliver(to="a")
    assert role_of(a) is Role.LEADER
    assert a.core.commit_index == 2
    region.deliver(to="c")
    region["c"].work()
    region.deliver(to="a")
    assert a.core.commit_index == 3
    assert a.core.role is Role.FOLLOWER
    region.settle()
    leader = region.leader
    assert leader is not None
    assert leader.node in ("b", "c")
    region.run(2_000)
    assert a.core.role is Role.FOLLOWER


def test_4_2_2_a_server_that_is_taken_out_campaigns_until_that_is_committed() -> None:
    """It may be the only one with the entry: the others, with shorter logs, can't win against it, so it is needed.
    Without this a region of two could stand still for ever when one is taken out."""
    region = Region(("a", "b"))
    a = region.elect("a")
    a.change(membership("b"))
    region.settle()
    a.leave_joint()
    a.work()
    region.letters.clear()
    a.crash()
    a.start()
    region.run(3_000)
    b = region["b"]
    assert b.core.committed_membership == membership("b")
    assert b.core.role is Role.LEADER
    assert a.core.role is Role.FOLLOWER
    term = b.core.term
    region.run(3_000)
    assert b.core.term == term


def test_4_2_2_own_vote_doesnt_count_outside_the_membership() -> None:
    """Else a server that is being taken out could lead on its word alone."""
    region, a = alone()
    joint, without = membership("bc", outgoing="abc"), membership("bc")
    a.receive(B, append(1, (0, 0), membership_entry(1, 1, joint), membership_entry(2, 1, without), commit=1))
    a.work()
    region.time = a.core._member.election_due
    a.tick()
    a.receive(B, VoteReply(Term(2), pre=True, granted=True))
    assert role_of(a) is Role.PRE_CANDIDATE
    a.receive(C, VoteReply(Term(2), pre=True, granted=True))
    a.work()
    a.receive(B, VoteReply(Term(2), pre=False, granted=True))
    assert role_of(a) is Role.CANDIDATE
    a.receive(C, VoteReply(Term(2), pre=False, granted=True))
    assert a.core.role is Role.LEADER


def test_4_2_2_demoted_leader_steps_down() -> None:
    """A leader that becomes a learner doesn't lead any more."""
    region, a = led_region()
    change_and_leave(region, a, membership("bc", learners="a"))
    assert a.core.role is Role.FOLLOWER
    region.run(1_500)
    assert a.core.leader in ("b", "c")


def test_4_2_3_removed_servers_disturb_nobody() -> None:
    """They time out for ever: their pre-votes are refused by all that hear the leader, their terms not taken over."""
    region, a = led_region()
    change_and_leave(region, a, membership("ab"))
    term = a.core.term
    region.run(5_000)
    assert region["c"].core.leader is None
    assert (a.core.role, a.core.term) == (Role.LEADER, term)
    region["b"].receive(C, vote_request(50, (99, 49)))
    a.receive(C, vote_request(50, (99, 49)))
    region.settle()
    assert (a.core.role, a.core.term, region["b"].core.term) == (Role.LEADER, term, term)


def test_4_2_3_l7_sticky_for_e_since_a_leader_was_heard() -> None:
    """Rule L7: within E no vote and no term taken over; after E both."""
    region, a = alone()
    a.receive(B, append(1, (0, 0)))
    a.work()
    region.letters.clear()
    region.time += E_MS * MILLISECOND - 1
    for pre in (True, False):
        a.receive(C, vote_request(2, pre=pre))
    a.work()
    assert [m.granted for m in said(region, VoteReply)] == [False]
    assert a.core.term == 1
    region.time += 1
    for pre in (True, False):
        a.receive(C, vote_request(2, pre=pre))
    a.work()
    assert [m.granted for m in said(region, VoteReply)] == [True, True]


def test_4_2_3_l7_kept_over_changes_of_term() -> None:
    """Rule L7: a newer term, seen in some reply, doesn't end the promise to the leader heard a moment ago."""
    region, a = alone()
    a.receive(B, append(1, (0, 0)))
    a.receive(C, VoteReply(Term(4), pre=False, granted=False))
    assert a.core.term == 4
    a.work()
    region.letters.clear()
    for term in (4, 5):
        a.receive(C, vote_request(term))
    a.work()
    assert said(region, VoteReply) == []


def test_4_2_3_l7_after_a_start() -> None:
    """Rule L7: a new or restarted voter neither votes nor campaigns for E."""
    region, a = alone()
    region.time += 10**9
    a.crash()
    a.start()
    for _ in range(E_MS // 10 - 1):
        region.tick(10)
        a.receive(C, vote_request(5))
        a.receive(C, vote_request(5, pre=True))
    assert [m.granted for m in said(region, VoteReply)] == [False] * 29
    assert a.core.term == 0


def test_4_2_3_l7_only_voter_waits_until_its_membership_is_committed() -> None:
    """The leader that takes itself out still leads, on the only voter's word, until that is committed."""
    region, a = alone()
    joint, single = membership("a", outgoing="abc"), membership("a")
    a.receive(B, append(1, (0, 0), membership_entry(1, 1, joint), membership_entry(2, 1, single), commit=1))
    a.work()
    region.tick(10)
    a.work()
    assert a.core.term == 1
    a.receive(B, append(1, (2, 1), commit=2))
    region.tick(10)
    assert a.core.term == 2


def test_4_2_3_leader_with_a_quorum_ignores_candidates() -> None:
    """As long as a majority follows it."""
    region = Region()
    a = region.elect("a")
    region.run(100)
    a.receive(C, vote_request(7, (99, 6)))
    assert role_of(a) is Role.LEADER
    region.time += E_MS * MILLISECOND
    a.receive(C, vote_request(7, (99, 6)))
    assert a.core.role is Role.FOLLOWER


# 4.3 Joint consensus


def acknowledge(leader: SimMember, node: str, index: int) -> None:
    leader.receive(NodeId(node), AppendReply(leader.core.term, 1, LogIndex(index)))


@pytest.mark.parametrize(
    ("nodes", "committed"), [("de", False), ("bc", False), ("bd", True), ("b", False), ("d", False), ("cde", True)]
)
def test_4_3_joint_decisions_take_both_majorities(nodes: str, committed: bool) -> None:
    """Of the old {a, b, c} and of the new {a, d, e}, a itself counting in both."""
    region, a = alone(voters="abc")
    make_leader(region, a)
    acknowledge(a, "b", 1)
    a.change(membership("ade"))
    a.work()
    for node in nodes:
        acknowledge(a, node, 2)
    assert (a.core.commit_index == 2) == committed


@pytest.mark.parametrize(("nodes", "wins"), [("bc", False), ("de", False), ("bd", True)])
def test_4_3_joint_elections_take_both_majorities(nodes: str, wins: bool) -> None:
    """Votes likewise, and pre-votes."""
    region, a = alone()
    a.receive(B, append(1, (0, 0), membership_entry(1, 1, membership("ade", outgoing="abc"))))
    a.work()
    region.time = a.core._member.election_due
    a.tick()
    for node in nodes:
        a.receive(NodeId(node), VoteReply(Term(2), pre=True, granted=True))
    a.work()
    for node in nodes:
        a.receive(NodeId(node), VoteReply(Term(2), pre=False, granted=True))
    assert (a.core.role is Role.LEADER) == wins


def test_4_3_joint_quorum_lease_and_reads_take_both_majorities() -> None:
    """A round counts once both halves have echoed it (rule L4)."""
    region, a = alone()
    make_leader(region, a)
    acknowledge(a, "b", 1)
    a.change(membership("ade"))
    before = a.core.quorum_lease_until
    region.tick(60)
    region.letters.clear()
    a.read(1)
    number = said(region, AppendEntries, to="b")[-1].round
    a.receive(B, AppendReply(Term(1), number, LogIndex(2)))
    assert a.core.quorum_lease_until == before
    assert a.reads == []
    a.receive(D, AppendReply(Term(1), number, LogIndex(2)))
    assert a.core.quorum_lease_until == region.time + a.config.lease_ns
    assert len(a.reads) == 1


def test_4_3_no_majority_of_one_half_alone_in_the_whole_change() -> None:
    """Replace all three voters while either half is cut off: nothing commits, then all does."""
    region, a = led_region(new="def")
    a.change(membership("abc", learners="def"))
    region.run(200)
    a.change(membership("def"))
    region.cut = set(map(NodeId, "def"))
    region.settle()
    assert not a.core.can_leave_joint
    region.cut = set()
    region.run(200)
    a.leave_joint()
    region.settle()
    leader = region.leader
    assert leader is not None
    assert leader.node in "def"
    leader.propose(b"x")
    region.settle()
    assert leader.core.commit_index == leader.core.last_index


def test_4_3_leaving_is_the_callers_choice() -> None:
    """The joint phase lasts until it is told to end (rule L9 waits for leases), over elections too."""
    region, a = led_region()
    a.change(membership("abd"))
    region.run(3_000)
    assert a.core.membership.is_joint
    a.transfer(B)
    region.run(100)
    b = region["b"]
    assert b.core.can_leave_joint
    b.leave_joint()
    region.settle()
    assert b.core.committed_membership == membership("abd")


def test_4_3_leave_refused_before_the_joint_entry_is_committed() -> None:
    """Else the new half alone could decide while the old doesn't know of it."""
    _, a = led_region()
    with pytest.raises(MembershipRefused):
        a.leave_joint()
    a.change(membership("abd"))
    with pytest.raises(MembershipRefused):
        a.leave_joint()


@pytest.mark.parametrize(
    ("current", "target", "step"),
    [
        (ABC, membership("abc", learners="d"), membership("abc", learners="d")),
        (membership("abc", learners="d"), ABC, ABC),
        (membership("abc", learners="d"), membership("abcd"), membership("abcd", outgoing="abc")),
        (ABC, membership("ab"), membership("ab", outgoing="abc")),
        (ABC, membership("ab", learners="c"), membership("ab", outgoing="abc", learners_next="c")),
        (
            membership("abc", learners="e"),
            membership("abd", learners="ce"),
            membership("abd", outgoing="abc", learners="e", learners_next="c"),
        ),
    ],
)
def test_4_3_first_step(current: Membership, target: Membership, step: Membership) -> None:
    """Joint when voters change, direct when only learners do; leaving it ends at the target."""
    assert first_step(current, target) == step
    step.validate()
    assert (leave(step) if step.is_joint else step) == target


@pytest.mark.parametrize(
    ("current", "target", "reason"),
    [
        (ABC, ABC, "nothing"),
        (ABC, Membership(()), "no voters"),
        (membership("ab", outgoing="abc"), ABC, "joint phase"),
        (ABC, membership("ab", outgoing="abc"), "cannot be joint"),
        (membership("abc", learners="d"), membership("ab"), "two steps"),
        (ABC, Membership((B, A)), "sorted"),
    ],
)
def test_4_3_change_refused(current: Membership, target: Membership, reason: str) -> None:
    """With the reason."""
    with pytest.raises(MembershipRefused, match=reason):
        first_step(current, target)


# 4.4 System integration


def test_4_4_a_region_grows_from_one() -> None:
    """The first server is a membership of its own; the others are added by changes."""
    region = Region(("a",))
    a = region["a"]
    region.run(20)
    assert a.core.role is Role.LEADER
    for size in range(2, 6):
        members = "abcde"[:size]
        region.add(members[-1])
        a.change(membership(members[:-1], learners=members[-1]))
        region.run(200)
        change_and_leave(region, a, membership(members))
        region.run(100)
    assert [member.core.membership for member in region.up] == [membership("abcde")] * 5
    a.crash()
    region.run(2_000)
    assert region.leader is not None


def test_4_4_joiner_without_a_membership_learns_it() -> None:
    """A machine that has joined but knows no membership yet does nothing by itself; log or snapshot tell it."""
    region, a = led_region(new="")
    region.add("d", known=Membership(()))
    region.run(1_000)
    region["d"].read(1)
    assert region["d"].core.term == 0
    assert len(region["d"].reads) == 1
    a.change(membership("abc", learners="d"))
    region.settle()
    assert region["d"].core.membership == membership("abc", learners="d")


def test_4_4_only_voter_paused_leads_on() -> None:
    """Nobody else can have led meanwhile: no new term after a pause of the machine."""
    region = Region(("a",))
    region.run(20)
    region.time += 60 * 10**9
    region.run(20)
    assert (region["a"].core.role, region["a"].core.term) == (Role.LEADER, 1)
