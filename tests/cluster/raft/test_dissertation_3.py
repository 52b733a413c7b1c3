"""Chapter 3 of the Raft dissertation, section by section, and the five safety properties of its figure 3.2."""

import random

import pytest

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.raft.config import RaftConfig, RaftConfigInvalid
from keycluster.cluster.raft.member import Role
from keycluster.cluster.raft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    HardState,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from keycluster.cluster.types import MILLISECOND, LogIndex, NodeId, Term
from tests.cluster.raft.harness import Region, SimMember, small
from tests.cluster.raft.players import (
    E_MS,
    A,
    B,
    C,
    alone,
    append,
    entry,
    make_candidate,
    make_leader,
    past_stickiness,
    role_of,
    said,
    vote_request,
)

# 3.3 Raft basics


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_3_3_higher_term_makes_a_follower(role: Role) -> None:
    """Whoever sees a higher term takes it over and follows; its vote in it is free."""
    region, a = alone()
    if role is Role.CANDIDATE:
        make_candidate(region, a)
    elif role is Role.LEADER:
        make_leader(region, a)
    a.receive(B, append(9, (0, 0)))
    assert (a.core.role, a.core.term, a.core.vote, a.core.leader) == (Role.FOLLOWER, 9, None, B)


def test_3_3_stale_term_refused() -> None:
    """A message of an older term changes nothing; a leader of the past learns the term."""
    region, a = alone()
    a.receive(B, append(5, (0, 0)))
    a.work()
    region.letters.clear()
    a.receive(C, append(4, (0, 0), entry(1, 4), commit=1))
    assert a.core.last_index == 0
    assert a.core.leader == B
    assert said(region, AppendReply, to="c")[0].term == 5
    a.receive(C, VoteReply(Term(4), pre=False, granted=True))
    a.receive(C, TimeoutNow(Term(4)))
    assert a.core.role is Role.FOLLOWER


def test_3_3_one_leader_a_term() -> None:
    """Election Safety: a second leader in one term is a broken invariant, not a state to go on from."""
    _, a = alone()
    a.receive(B, append(1, (0, 0)))
    with pytest.raises(InvariantBroken, match="two leaders"):
        a.receive(C, append(1, (0, 0)))


# 3.4 Leader election


def test_3_4_starts_as_follower() -> None:
    """Servers start as followers and stay so as long as they hear a leader."""
    region, a = alone()
    assert a.core.role is Role.FOLLOWER
    for _ in range(50):
        region.tick(50)
        a.receive(B, append(1, (0, 0)))
    assert a.core.role is Role.FOLLOWER


def test_3_4_time_out_random_between_e_and_2e() -> None:
    """Time-outs are spread over E to 2E, so that split votes are rare."""
    due = []
    for seed in range(200):
        region = Region(seed=seed)
        due.append((region["a"].core._member.election_due - region.time) // MILLISECOND)
    assert E_MS <= min(due) < E_MS * 1.1
    assert E_MS * 1.9 < max(due) < 2 * E_MS


def test_3_4_candidate_enters_next_term_and_votes_for_itself() -> None:
    """It asks all other voters, with a log position, once its own vote is durable."""
    region, a = alone()
    make_candidate(region, a)
    assert (a.core.term, a.core.vote) == (1, A)
    assert not [m for m in said(region, VoteRequest) if not m.pre]
    a.work()
    assert len(said(region, VoteRequest)) == 2
    assert a.disk.hard_state == HardState(Term(1), A)


@pytest.mark.parametrize(("granting", "wins"), [("", False), ("b", False), ("bc", True), ("bcd", True)])
def test_3_4_majority_wins(granting: str, wins: bool) -> None:
    """A majority of all voters, its own vote included."""
    region, a = alone(voters="abcde")
    region.time = a.core._member.election_due
    a.tick()
    for node in "bc":
        a.receive(NodeId(node), VoteReply(Term(1), pre=True, granted=True))
    a.work()
    for node in granting:
        a.receive(NodeId(node), VoteReply(Term(1), pre=False, granted=True))
        a.receive(NodeId(node), VoteReply(Term(1), pre=False, granted=True))
    assert (a.core.role is Role.LEADER) == wins


def test_3_4_votes_of_strangers_and_learners_count_nothing() -> None:
    """Only voters of the membership decide."""
    region, a = alone()
    make_candidate(region, a)
    a.work()
    for node in "xyz":
        a.receive(NodeId(node), VoteReply(Term(1), pre=False, granted=True))
    assert a.core.role is Role.CANDIDATE


def test_3_4_first_come_first_served() -> None:
    """One vote a term; repeated for the same candidate, refused to others."""
    region, a = alone()
    past_stickiness(region)
    a.receive(B, vote_request(1))
    a.receive(C, vote_request(1))
    a.receive(B, vote_request(1))
    a.work()
    assert [m.granted for m in said(region, VoteReply, to="c")] == [False]
    assert [m.granted for m in said(region, VoteReply, to="b")] == [True, True]


def test_3_4_candidate_yields_to_the_terms_leader() -> None:
    """An append of its own term shows that another one has won."""
    region, a = alone()
    make_candidate(region, a)
    a.receive(B, append(1, (0, 0)))
    assert (a.core.role, a.core.leader) == (Role.FOLLOWER, B)


def test_3_4_split_vote_ends_in_a_new_election() -> None:
    """Without a winner each candidate times out and tries the next term."""
    region, a = alone()
    make_candidate(region, a)
    a.work()
    a.receive(B, VoteReply(Term(1), pre=False, granted=False))
    a.receive(C, VoteReply(Term(1), pre=False, granted=False))
    assert a.core.role is Role.FOLLOWER
    make_candidate(region, a)
    assert a.core.term == 2


def test_3_4_leader_announces_itself_at_once_and_beats() -> None:
    """Its first message goes out with the election, then one each heartbeat."""
    region, a = alone()
    make_leader(region, a)
    assert len([m for m in said(region, AppendEntries) if m.entries]) == 2
    beats = 0
    for _ in range(30):
        region.tick(10)
        beats += len(said(region, AppendEntries, to="c"))
    assert beats == 5


# 3.5 Log replication


def test_3_5_entries_get_the_leaders_term_and_next_indices() -> None:
    """They are appended in order and sent to everybody."""
    region = Region()
    a = region.elect("a")
    assert a.propose(b"x", b"y") == 2
    assert [(e.index, e.term) for e in a.log_entries()] == [(1, 1), (2, 1), (3, 1)]
    region.settle()
    assert region["c"].log_entries() == a.log_entries()


def test_3_5_committed_by_a_majority_and_then_told() -> None:
    """The leader applies once a majority has the entry; followers learn of it by the commit index."""
    region = Region(tuple("abcde"))
    a = region.elect("a")
    region.cut = {NodeId("d"), NodeId("e"), C}
    index = a.propose(b"x")
    region.settle()
    assert a.core.commit_index == index - 1
    region.cut = {NodeId("d"), NodeId("e")}
    region.run(200)
    assert [region[n].disk.state.index for n in "abc"] == [index] * 3


def test_3_5_no_match_no_append() -> None:
    """The consistency check: the entry before must be there, with its term."""
    region, a = alone()
    a.receive(B, append(3, (1, 2), entry(2, 3)))
    a.work()
    assert a.core.last_index == 0
    assert said(region, AppendReply)[-1].rejected == 1


def test_3_5_conflicting_entries_give_way() -> None:
    """Entries that the leader doesn't have are replaced, with all that follow."""
    region, a = alone()
    a.receive(B, append(2, (0, 0), entry(1, 1), entry(2, 2), entry(3, 2), entry(4, 2)))
    a.work()
    a.receive(C, append(3, (1, 1), entry(2, 3, b"new")))
    a.work()
    assert a.log_entries() == [entry(1, 1), entry(2, 3, b"new")]
    assert a.disk.log == a.log_entries()
    assert said(region, AppendReply, to="c")[-1].match == 2


def test_3_5_shorter_append_of_the_past_removes_nothing() -> None:
    """Only a conflict truncates: a late copy of an earlier message must not take back what was acknowledged."""
    _, a = alone()
    a.receive(B, append(1, (0, 0), entry(1, 1), entry(2, 1), entry(3, 1)))
    a.work()
    a.receive(B, append(1, (0, 0), entry(1, 1)))
    a.receive(B, append(1, (0, 0)))
    a.work()
    assert a.core.last_index == 3


def test_3_5_commit_covers_only_what_was_verified() -> None:
    """A follower's own tail beyond the message may differ from the leader's: it isn't committed by a heartbeat."""
    _, a = alone()
    a.receive(B, append(1, (0, 0), entry(1, 1), entry(2, 1)))
    a.work()
    a.receive(C, append(2, (1, 1), commit=2))
    assert a.core.commit_index == 1


def test_3_5_backs_off_by_terms() -> None:
    """The hint skips all entries of conflicting terms at once, so one reply is enough for a term."""
    region = Region()
    a = region.elect("a")
    region.cut = {A}
    a.propose(*[b"lost"] * 50)
    a.work()
    region.run(1500, only="bc")
    leader = next(m for m in (region["b"], region["c"]) if m.core.role is Role.LEADER)
    leader.propose(*[b"kept"] * 50)
    region.settle()
    region.cut = set()
    region.letters.clear()
    rejections = 0
    for _ in range(100):
        region.tick(10)
        rejections += sum(isinstance(m.message, AppendReply) and m.message.rejected is not None for m in region.letters)
        region.deliver()
        for member in region.up:
            member.work()
    assert region["a"].log_entries() == leader.log_entries()
    assert rejections <= 3


def test_3_5_leader_append_only() -> None:
    """Leader Append-Only: a leader only appends, whatever others send it."""
    region, a = alone()
    make_leader(region, a)
    a.propose(b"x")
    before = a.log_entries()
    a.receive(B, AppendReply(Term(1), 1, LogIndex(0), LogIndex(2), LogIndex(0), Term(0)))
    a.receive(B, append(0, (0, 0), entry(1, 0)))
    assert a.log_entries() == before


def test_3_5_log_matching() -> None:
    """Log Matching: logs that agree at one index and term agree up to there, after elections and losses."""
    for seed in range(10):
        region = Region(tuple("abcde"), seed=seed)
        chance = random.Random(seed)
        for step in range(200):
            region.tick(20)
            if region.leader is not None and chance.random() < 0.5:
                region.leader.propose(b"%d" % step)
            if chance.random() < 0.05:
                region.cut = {NodeId(n) for n in chance.sample("abcde", 2)}
            region.letters = [letter for letter in region.letters if chance.random() < 0.9]
            region.deliver()
            for member in region.up:
                if chance.random() < 0.7:
                    member.work()
        logs = [member.log_entries() for member in region.up]
        assert max(len(log) for log in logs) > 10
        for one in logs:
            for other in logs:
                same = [i for i in range(min(len(one), len(other))) if one[i].term == other[i].term]
                if same:
                    assert one[: same[-1] + 1] == other[: same[-1] + 1]


# 3.6 Safety


@pytest.mark.parametrize(
    ("ours", "theirs", "granted"),
    [
        ((1, 1), (1, 1), True),
        ((1, 1), (2, 1), True),
        ((2, 1), (1, 1), False),
        ((3, 1), (1, 2), True),
        ((1, 2), (9, 1), False),
    ],
)
@pytest.mark.parametrize("pre", [True, False])
def test_3_6_1_only_an_up_to_date_log_gets_votes(
    ours: tuple[int, int], theirs: tuple[int, int], granted: bool, pre: bool
) -> None:
    """The last term decides, then the length (indices, terms)."""
    region, a = alone()
    index, term = ours
    a.receive(B, append(term, (0, 0), *(entry(i, term) for i in range(1, index + 1))))
    a.work()
    region.letters.clear()
    past_stickiness(region)
    a.receive(C, vote_request(5, theirs, pre=pre))
    a.work()
    assert [m.granted for m in said(region, VoteReply)] == [granted]


def test_3_6_2_old_terms_entries_are_not_counted() -> None:
    """Figure 3.7: a majority's copies of an older entry don't commit it; one entry of the leader's term does."""
    region, a = alone(voters="abcde")
    a.receive(B, append(1, (0, 0), entry(1, 1), entry(2, 1)))
    a.work()
    region.time = a.core._member.election_due
    a.tick()
    for node in "bc":
        a.receive(NodeId(node), VoteReply(Term(2), pre=True, granted=True))
    a.work()
    for node in "bc":
        a.receive(NodeId(node), VoteReply(Term(2), pre=False, granted=True))
    a.work()
    assert a.core.role is Role.LEADER
    for node in "bcd":
        a.receive(NodeId(node), AppendReply(Term(2), 1, LogIndex(2)))
    assert a.core.commit_index == 0
    for node in "bc":
        a.receive(NodeId(node), AppendReply(Term(2), 1, LogIndex(3)))
    assert a.core.commit_index == 3


def test_3_6_3_leader_completeness() -> None:
    """Leader Completeness: whoever wins has every committed entry, after losses of any minority."""
    for seed in range(20):
        region = Region(tuple("abcde"), seed=seed)
        chance = random.Random(seed)
        region.run(1500)
        committed: list[Entry] = []
        for _ in range(4):
            leader = region.leader
            assert leader is not None
            region.cut = {NodeId(n) for n in chance.sample(sorted(set("abcde") - {leader.node}), 2)}
            leader.propose(b"%d" % seed)
            region.settle()
            committed = leader.log_entries()[: leader.core.commit_index]
            leader.crash()
            region.cut = set()
            region.run(2500)
            new = region.leader
            assert new is not None
            assert new.log_entries()[: len(committed)] == committed
            leader.start()
            region.run(200)


def test_3_6_3_state_machine_safety() -> None:
    """State Machine Safety: all members apply the same entry at each index; what is handed out is never replaced."""
    region = Region(config=small())
    applied: dict[int, Entry] = {}

    def check(_: SimMember, ready: object) -> None:
        for one in ready.committed:  # type: ignore[attr-defined]  # A Ready.
            assert applied.setdefault(one.index, one) == one

    for member in region.up:
        member.on_ready = check
    for turn in range(6):
        region.run(1500)
        leader = region.leader
        assert leader is not None
        leader.propose(b"%d" % turn)
        region.settle()
        leader.crash()
        region.run(1500)
        leader.start()
    assert len(applied) >= 6


# 3.7 Follower and candidate crashes


def test_3_7_messages_may_come_twice() -> None:
    """Requests are idempotent: a crash before the reply makes the sender repeat them."""
    region, a = alone()
    message = append(1, (0, 0), entry(1, 1), entry(2, 1), commit=2)
    for _ in range(3):
        a.receive(B, message)
        a.work()
    assert a.core.last_index == a.disk.state.index == 2
    assert {m.match for m in said(region, AppendReply)} == {2}


def test_3_7_leader_repeats_until_the_follower_is_back() -> None:
    """A crashed follower gets what it missed."""
    region = Region()
    a = region.elect("a")
    region["c"].crash()
    a.propose(b"x", b"y")
    region.run(1000)
    region["c"].start()
    region.run(200)
    assert region["c"].disk.state == a.disk.state


# 3.8 Persisted state and server restarts


def test_3_8_vote_outlives_a_restart() -> None:
    """A voter that restarts doesn't vote a second time in its term."""
    region, a = alone()
    past_stickiness(region)
    a.receive(B, vote_request(1))
    a.work()
    a.crash()
    a.start()
    past_stickiness(region)
    region.letters.clear()
    a.receive(C, vote_request(1))
    a.work()
    assert [m.granted for m in said(region, VoteReply)] == [False]


def test_3_8_nothing_said_before_it_is_durable() -> None:
    """Vote and acknowledgement wait for their write, then go out."""
    region, a = alone()
    past_stickiness(region)
    a.receive(B, vote_request(1))
    assert said(region, VoteReply) == []
    a.work()
    assert [m.granted for m in said(region, VoteReply)] == [True]
    a.receive(B, append(1, (0, 0), entry(1, 1)))
    assert said(region, AppendReply) == []
    a.work()
    assert [m.match for m in said(region, AppendReply)] == [1]


def test_3_8_heartbeats_are_answered_during_a_write() -> None:
    """A slow disk keeps back the acknowledgement of entries, not the sign of life."""
    region, a = alone()
    a.receive(B, append(1, (0, 0)))
    a.work()
    region.letters.clear()
    a.receive(B, append(1, (0, 0), entry(1, 1), number=2))
    a.receive(B, append(1, (1, 1), number=3))
    assert [(m.round, m.match) for m in said(region, AppendReply)] == [(3, 0)]
    a.work()
    assert [(m.round, m.match) for m in said(region, AppendReply)] == [(3, 1)]


def test_3_8_own_vote_counts_once_durable() -> None:
    """A candidate whose disk hasn't its vote doesn't lead, whoever voted for it."""
    region, a = alone()
    make_candidate(region, a)
    a.receive(B, VoteReply(Term(1), pre=False, granted=True))
    assert role_of(a) is Role.CANDIDATE
    a.work()
    assert a.core.role is Role.LEADER


def test_3_8_own_vote_waits_for_its_own_write() -> None:
    """The end of an earlier write says nothing of the vote."""
    region, a = alone()
    a.receive(B, append(1, (0, 0), entry(1, 1)))
    make_candidate(region, a)
    a.receive(B, VoteReply(Term(2), pre=False, granted=True))
    assert len(a.writes) == 2
    a.write_one()
    assert role_of(a) is Role.CANDIDATE
    a.write_one()
    assert a.core.role is Role.LEADER


def test_3_8_leaders_own_copy_counts_once_durable() -> None:
    """10.2.1: the leader sends before it has written, and counts itself afterwards."""
    region, a = alone()
    make_leader(region, a)
    a.receive(B, AppendReply(Term(1), 1, LogIndex(1)))
    a.propose(b"x")
    assert said(region, AppendEntries, to="b")[-1].entries
    a.receive(B, AppendReply(Term(1), 1, LogIndex(2)))
    assert a.core.commit_index == 1
    a.work()
    assert a.core.commit_index == 2


def test_3_8_commit_index_is_found_again() -> None:
    """It isn't stored: a restarted region finds it by the first entry of a new leader."""
    region = Region()
    a = region.elect("a")
    a.propose(b"x")
    region.settle()
    for member in region.up:
        member.crash()
        member.start()
    region.run(2000)
    assert [member.disk.state.index for member in region.up] == [3, 3, 3]


# 3.9 Timing and availability


def test_3_9_time_outs_must_leave_room_for_heartbeats() -> None:
    """Broadcast time must be well below the election time-out: such a configuration is refused."""
    with pytest.raises(RaftConfigInvalid, match="heartbeat"):
        RaftConfig(election_ns=100 * MILLISECOND, heartbeat_ns=60 * MILLISECOND).validate()


def test_3_9_new_leader_soon_after_a_crash() -> None:
    """Within 2E and a little, in nearly all cases: worst of 30 under four."""
    for seed in range(30):
        region = Region(tuple("abcde"), seed=seed)
        region.run(2000)
        leader = region.leader
        assert leader is not None
        leader.crash()
        region.run(4 * E_MS)
        assert region.leader is not None


# 9.6 Pre-vote: 3.4 without disturbing anybody


def test_9_6_pre_vote_changes_nothing() -> None:
    """Neither side's term or vote; and who can't win doesn't raise its term."""
    region, a = alone()
    past_stickiness(region)
    a.receive(B, vote_request(7, pre=True))
    a.receive(C, vote_request(8, pre=True))
    assert [(m.term, m.granted) for m in said(region, VoteReply)] == [(7, True), (8, True)]
    assert (a.core.term, a.core.vote, a.writes) == (0, None, a.writes.__class__())
    for _ in range(300):
        region.tick(20)
    assert a.core.term == 0
