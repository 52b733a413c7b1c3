"""What members decide is looked at as they do: each check fails when the rule is broken, whatever comes of that."""

import pytest

from keycluster.cluster.leases.grantor import LeaseGrantor
from keycluster.cluster.leases.messages import NONCE_BYTES, LeaseAnswer
from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.log import RaftLog
from keycluster.cluster.raft.member import Member
from keycluster.cluster.raft.messages import ReadIndexReply, TimeoutNow, VoteRequest
from keycluster.cluster.raft.ready import ReadState
from keycluster.cluster.replica import Replica
from keycluster.cluster.types import MILLISECOND, SECOND, LogIndex, NodeId, Term
from keycluster.simulations.core import contract, door, lease_checks, promises, votes
from keycluster.simulations.core.door import Acknowledged, Door, Request
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.world import World

N1, N2 = NodeId("n1"), NodeId("n2")


@pytest.fixture
def world() -> World:
    """Three members that serve."""
    world = World(1)
    world.start_all()
    world.run_while(lambda: not all(world.may_serve(node) for node in world.machines), ns_max=5 * SECOND)
    return world


def leader_of(world: World) -> Machine:
    leader = world.leader()
    assert leader is not None
    return leader


def followers_of(world: World) -> list[Machine]:
    return [machine for machine in world.machines.values() if machine is not leader_of(world)]


def found_within(world: World, ns: int) -> str:
    """Which checker finds something."""
    with pytest.raises(Found) as found:
        world.run_for(ns)
    return found.value.checker


def receive(world: World, voter: Machine, sender: NodeId, message: VoteRequest) -> None:
    """As the world gives it to the voter. Raises `Found`."""
    now, before = voter.now(world.t), votes.stand_of(voter)
    assert voter.member is not None
    voter.member.core.receive(sender, message, now)
    votes.took(voter, sender, message, before, now)


def request_to(voter: Machine, *, ahead: int = 1, hand_over: bool = False) -> VoteRequest:
    """For an equal log, a term or some after the voter's; a pre-vote, unless it is a hand-over."""
    assert voter.member is not None
    core = voter.member.core
    term = Term(core.term + ahead)
    return VoteRequest(term, core.last_index, core.last_term, pre=not hand_over, hand_over=hand_over)


# L7, L8: whom a voter may help


def test_voter_that_doesnt_stick_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the pre-vote that it gives to one whom the leader doesn't reach."""
    monkeypatch.setattr(Member, "is_sticky", False)
    deaf, _ = followers_of(world)
    world.network.begin_cut(1, [(leader_of(world).node, deaf.node)])
    assert found_within(world, 2 * SECOND) == votes.STICKINESS


def test_voter_that_forgets_at_restart_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have heard a leader a moment ago, in the life before."""
    candidate, voter = followers_of(world)
    for node in world.machines:
        world.crash(node)
    world.run_for(SECOND)
    world.start(voter.node)
    receive(world, voter, candidate.node, request_to(voter))
    monkeypatch.setattr(Member, "is_sticky", False)
    with pytest.raises(Found) as found:
        receive(world, voter, candidate.node, request_to(voter))
    assert found.value.checker == votes.STICKINESS
    world.run_for(world.raft.election_ns + MILLISECOND)
    receive(world, voter, candidate.node, request_to(voter))


def test_hand_over_that_counts_in_any_term_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stickiness gives way in the next term after that of the leader that was heard, and in no other."""
    monkeypatch.setattr(Member, "is_sticky", False)
    candidate, voter = followers_of(world)
    with pytest.raises(Found) as found:
        receive(world, voter, candidate.node, request_to(voter, ahead=2, hand_over=True))
    assert found.value.checker == votes.STICKINESS
    candidate, voter = voter, candidate
    receive(world, voter, candidate.node, request_to(voter, ahead=1, hand_over=True))


def test_leader_that_serves_after_a_hand_over_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the rest of its term, also when nobody took over."""
    monkeypatch.setattr(Replica, "may_serve", lambda replica, now: True)
    leader = leader_of(world)
    assert leader.leads_in is not None
    promises.require_kept(leader, [(N2, TimeoutNow(leader.leads_in))])
    assert found_within(world, SECOND) == contract.GIVEN_UP


# 3.6.1


def test_vote_for_a_shorter_log_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pre-vote too."""
    leader, (behind, voter) = leader_of(world), followers_of(world)
    world.network.begin_cut(1, [(leader.node, behind.node), (voter.node, behind.node)])
    world.propose(leader, [b"one"])
    world.run_for(100 * MILLISECOND)
    monkeypatch.setattr(RaftLog, "is_up_to_date", lambda log, *, last_index, last_term: True)
    world.crash(leader.node)
    assert found_within(world, 5 * SECOND) == votes.UP_TO_DATE


# What a leader says before an entry of its own term is committed


@pytest.mark.parametrize(
    ("message", "checker"),
    [
        (
            LeaseAnswer(Term(1), bytes(NONCE_BYTES), LogIndex(1), LogIndex(1), None, None, 0, LogIndex(1), b""),
            promises.LEASES,
        ),
        (ReadIndexReply(Term(1), 1, LogIndex(1)), door.READ_INDEX),
    ],
    ids=["lease", "read"],
)
def test_leader_that_answers_too_soon_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, message: ReplicaMessage, checker: str
) -> None:
    """To a member that asks it."""
    leader = leader_of(world)
    assert leader.leads_in == message.term
    promises.require_kept(leader, [(N2, message)])
    monkeypatch.setattr(RaftCore, "own_term_committed", False)
    with pytest.raises(Found) as found:
        promises.require_kept(leader, [(N2, message)])
    assert found.value.checker == checker


def test_leader_that_reads_too_soon_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its own door."""
    leader = leader_of(world)
    a_door = Door(leader, world.safety, Acknowledged())
    monkeypatch.setattr(RaftCore, "read_index", lambda core, request, now: None)
    a_door.take(Request(1, 0, 0, door.CONFIRM, 0), leader.now(world.t), leader.wall(world.t))
    monkeypatch.setattr(RaftCore, "own_term_committed", False)
    with pytest.raises(Found) as found:
        a_door.confirmed([ReadState(1, LogIndex(10**6))])
    assert found.value.checker == door.READ_INDEX


# L6


def test_leader_that_counts_nobody_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it comes to lead, whether or not anybody holds a lease."""
    monkeypatch.setattr(LeaseGrantor, "counted_until", lambda book, member, now: None)
    world.crash(leader_of(world).node)
    assert found_within(world, 5 * SECOND) == lease_checks.COUNTED


# L2, L4, L8


def test_quorum_lease_that_lasts_too_long_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a majority sticks to the leader: nobody need be elected."""
    monkeypatch.setattr(RaftConfig, "lease_ns", 310 * MILLISECOND)
    assert found_within(world, SECOND) == lease_checks.QUORUM_LEASE


@pytest.mark.parametrize("why", ["no quorum lease", "given up", "no member"])
def test_lease_that_must_not_be_granted_is_found(world: World, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """As its answer leaves."""
    leader = leader_of(world)
    assert leader.leads_in is not None
    answer = LeaseAnswer(leader.leads_in, bytes(NONCE_BYTES), LogIndex(1), LogIndex(1), None, None, 0, LogIndex(1), b"")
    promises.require_kept(leader, [(N2, answer)])
    if why == "no quorum lease":
        monkeypatch.setattr(RaftCore, "quorum_lease_until", None)
    elif why == "given up":
        monkeypatch.setattr(RaftCore, "hand_over_sent", True)
        promises.require_kept(leader, [(N2, answer), (N2, TimeoutNow(leader.leads_in))])
    holder = NodeId("n9") if why == "no member" else N2
    with pytest.raises(Found) as found:
        promises.require_kept(leader, [(holder, answer)])
    assert found.value.checker == promises.LEASES
