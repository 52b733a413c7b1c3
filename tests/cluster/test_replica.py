"""One member put together, in whole regions: serving, acknowledging, time, roll-back, divergence."""

import copy
from collections import Counter

import pytest

from keycluster.cluster.acknowledgements import Acknowledgements
from keycluster.cluster.cluster_time import ClockVerdict, NoClusterTime
from keycluster.cluster.leases.messages import AppliedReport, LeaseAsk, SettledNotice
from keycluster.cluster.raft.errors import HandingOver, MembershipRefused, NotLeader
from keycluster.cluster.raft.messages import AppendReply, EntryKind, Membership, Message, SnapshotOutcome, SnapshotReply
from keycluster.cluster.replica import Replica, ReplicaConfig, ReplicaConfigInvalid, StateDiverged
from keycluster.cluster.types import MILLISECOND, SECOND, ClusterTime, Instant, LogIndex, NodeId, Term
from keycluster.cluster.witness import RolledBack
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.world import World


def region(*, voters: int = 3, learners: int = 0, seed: int = 1) -> World:
    """All serve, and one change is settled."""
    world = World(seed, voters=voters, learners=learners)
    world.start_all()
    world.run_while(lambda: world.leader() is None, ns_max=5 * SECOND)
    world.run_while(lambda: not all(world.may_serve(node) for node in world.machines), ns_max=5 * SECOND)
    write(world)
    return world


def leader_of(world: World) -> Machine:
    leader = world.leader()
    assert leader is not None
    return leader


def replica_of(machine: Machine) -> Replica:
    assert machine.member is not None
    return machine.member.replica


def followers(world: World) -> list[Machine]:
    return [machine for machine in world.machines.values() if machine is not leader_of(world)]


def write(world: World) -> int:
    index = world.propose(leader_of(world), [b"change"])
    return world.run_while(lambda: world.settled < index, ns_max=5 * SECOND)


# Serving


def test_region_of_one_serves_and_settles_alone() -> None:
    """Its quorum is itself; after a restart it serves again."""
    world = region(voters=1)
    assert write(world) < 20 * MILLISECOND
    world.crash(NodeId("n1"))
    world.start(NodeId("n1"))
    assert not world.may_serve(NodeId("n1"))
    world.run_while(lambda: not world.may_serve(NodeId("n1")), ns_max=SECOND)
    write(world)


def test_voters_and_learners_serve_in_peace() -> None:
    """Nobody's lease runs out while all are well."""
    world = region(voters=3, learners=2)
    for _ in range(300):
        world.run_for(10 * MILLISECOND)
        assert all(world.may_serve(node) for node in world.machines)


@pytest.mark.parametrize("seed", range(1, 6))  # Seed 0 has a split vote: an election longer than what the leases last.
def test_followers_serve_through_a_change_of_leader(seed: int) -> None:
    """A lease is good to its end: an election within it costs the others' data plane nothing, the winner's a moment."""
    world = region(seed=seed)
    rest = [machine.node for machine in followers(world)]
    world.crash(leader_of(world).node)
    refused: Counter[NodeId] = Counter()
    for _ in range(1_500):
        world.run_for(MILLISECOND)
        refused.update(node for node in rest if not world.may_serve(node))
    assert set(refused) <= {leader_of(world).node}
    assert refused.total() < 20
    assert write(world) < 30 * MILLISECOND


def test_restarted_member_serves_only_on_a_new_lease() -> None:
    """What was held before a crash was in memory."""
    world = region()
    node = followers(world)[0].node
    world.crash(node)
    world.start(node)
    assert not world.may_serve(node)
    world.run_while(lambda: not world.may_serve(node), ns_max=SECOND)


def test_member_far_behind_comes_back_by_snapshot_and_serves() -> None:
    """An installed snapshot counts as applied."""
    world = region()
    node = followers(world)[0].node
    world.crash(node)
    for _ in range(20):
        world.propose(leader_of(world), [b"change"])
        world.run_for(10 * MILLISECOND)
    world.run_for(SECOND)
    for machine in world.machines.values():
        if machine.member is not None:
            machine.disk.log.compact(machine.disk.state.index)
    world.start(node)
    world.run_while(lambda: not world.may_serve(node), ns_max=5 * SECOND)
    assert world.machines[node].disk.log.first_index > 1


# Acknowledging


def test_acknowledgement_waits_to_the_instant_that_the_last_lease_ends() -> None:
    """Not to the next coarse tick: `next_wakeup` names the instant."""
    world = region()
    leader, silent = leader_of(world), followers(world)[0]
    world.cut_off(silent.node)
    index = world.propose(leader, [b"change"])
    leadership = replica_of(leader)._leadership
    assert leadership is not None
    until = leadership.book.counted_until(silent.node, leader.now(world.t))
    assert until is not None
    world.run_while(lambda: world.settled < index, ns_max=2 * SECOND)
    assert 0 <= leader.now(world.t) - until < MILLISECOND // 1000


def test_only_the_leader_acknowledges() -> None:
    """A follower knows what is settled, but a success leaves from the leader alone."""
    world = region()
    leader, follower = leader_of(world), followers(world)[0]
    world.run_for(10 * MILLISECOND)
    settled = replica_of(follower).settled_index
    assert replica_of(leader).acknowledges(settled, leader.now(world.t))
    assert not replica_of(leader).acknowledges(LogIndex(settled + 1), leader.now(world.t))
    assert not replica_of(follower).acknowledges(settled, follower.now(world.t))


def test_reports_and_notices_are_coalesced() -> None:
    """A hundred changes at once cost some reports and notices, not one of each a change."""
    world = region()
    sent: Counter[type] = Counter()

    def count(sender: NodeId, receiver: NodeId, message: object) -> int:
        sent[type(message)] += 1
        return 0

    world.meddle = count
    last = LogIndex(world.propose(leader_of(world), [b"change"] * 100) + 99)
    world.run_while(lambda: world.settled < last, ns_max=SECOND)
    world.run_for(10 * MILLISECOND)
    assert 2 <= sent[AppliedReport] <= 30
    assert 2 <= sent[SettledNotice] <= 60


def test_proposal_at_a_follower_names_the_leader() -> None:
    """It is refused before it is stamped."""
    world = region()
    with pytest.raises(NotLeader) as refused:
        world.propose(followers(world)[0], [b"change"])
    assert refused.value.leader_hint == leader_of(world).node


# Membership


def test_second_change_is_refused_while_the_first_waits_for_leases() -> None:
    """One change at a time, also before its first entry is appended."""
    world = region(learners=2)
    leader = leader_of(world)
    voters = world.genesis.voters
    target = Membership(voters=voters, learners=world.genesis.learners[:1])
    replica_of(leader).propose_membership(target, leader.now(world.t))
    assert replica_of(leader).membership_change_waits
    with pytest.raises(MembershipRefused):
        replica_of(leader).propose_membership(Membership(voters=voters), leader.now(world.t))
    world.run_while(lambda: replica_of(leader).core.committed_membership != target, ns_max=2 * SECOND)
    assert not replica_of(leader).membership_change_waits


def test_membership_is_refused_where_it_cannot_begin() -> None:
    """At a follower, without a change in it, with a voter and a learner leaving at once, and during a hand-over."""
    world = region(learners=1)
    leader, follower = leader_of(world), followers(world)[0]
    target = Membership(voters=world.genesis.voters)
    with pytest.raises(NotLeader):
        replica_of(follower).propose_membership(target, follower.now(world.t))
    with pytest.raises(MembershipRefused):
        replica_of(leader).propose_membership(world.genesis, leader.now(world.t))
    with pytest.raises(MembershipRefused):
        replica_of(leader).propose_membership(Membership(voters=world.genesis.voters[:2]), leader.now(world.t))
    replica_of(leader).transfer_leadership(follower.node, leader.now(world.t))
    with pytest.raises(HandingOver):
        replica_of(leader).propose_membership(target, leader.now(world.t))


def begin_removal_of_silent_learner(world: World) -> tuple[Machine, Membership]:
    """The leader, and the membership that it waits to change to."""
    leader = leader_of(world)
    world.cut_off(world.genesis.learners[0])
    goal = Membership(voters=world.genesis.voters)
    world.feed(leader, lambda m, now: m.replica.propose_membership(goal, now))
    assert replica_of(leader).membership_change_waits
    return leader, goal


def test_waiting_change_outlives_a_hand_over_that_fails() -> None:
    """The lease it waits for ends while leadership is on its way to a member that is cut off: it goes on afterwards."""
    world = region(learners=1)
    leader, goal = begin_removal_of_silent_learner(world)
    lease_left = world.run_while(lambda: replica_of(leader).membership_change_waits, ns_max=2 * SECOND)

    world = region(learners=1)
    leader, goal = begin_removal_of_silent_learner(world)
    target = followers(world)[0].node
    world.cut_off(target)
    world.propose(leader, [b"change"])  # The target lacks it: TimeoutNow isn't sent, and the leader goes on.
    world.run_for(lease_left - 50 * MILLISECOND)
    world.feed(leader, lambda m, now: m.replica.transfer_leadership(target, now))
    world.run_for(100 * MILLISECOND)
    assert replica_of(leader).core.is_handing_over
    assert replica_of(leader).core.membership == world.genesis
    world.run_while(lambda: replica_of(leader).core.committed_membership != goal, ns_max=SECOND)


def test_leader_removes_itself() -> None:
    """It goes on until the change is committed, then another leads and all that are left serve."""
    world = region()
    leader = leader_of(world)
    rest = tuple(machine.node for machine in followers(world))
    world.feed(leader, lambda m, now: m.replica.propose_membership(Membership(voters=tuple(sorted(rest))), now))
    world.run_while(lambda: leader.node in replica_of(world.machines[rest[0]]).core.membership.members, ns_max=SECOND)
    world.run_while(lambda: world.leader() in (None, leader), ns_max=3 * SECOND)
    assert not world.may_serve(leader.node)
    world.run_while(lambda: not all(world.may_serve(node) for node in rest), ns_max=3 * SECOND)
    assert write(world) < 30 * MILLISECOND


# Cluster time


def test_every_serving_node_knows_cluster_time() -> None:
    """Within some milliseconds of the median of the machines' clocks, whatever one of them says."""
    world = World(1)
    world.machines[NodeId("n1")].wall_offset_ns = 30 * SECOND
    world.start_all()
    world.run_while(lambda: not all(world.may_serve(node) for node in world.machines), ns_max=5 * SECOND)
    world.run_for(SECOND)
    right = world.machines[NodeId("n2")].wall(world.t)
    for machine in world.machines.values():
        time = replica_of(machine).cluster_time(machine.now(world.t))
        assert time is not None
        assert abs(time - right) < 20 * MILLISECOND
    assert replica_of(world.machines[NodeId("n1")]).clock_verdict is ClockVerdict.OFF
    assert replica_of(world.machines[NodeId("n2")]).clock_verdict is ClockVerdict.GOOD


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_node_more_than_a_minute_off_serves_nothing(node: str) -> None:
    """Leader or not; the others serve, and it serves again when its clock is right."""
    world = region()
    world.machines[NodeId(node)].wall_offset_ns = 62 * SECOND
    world.run_for(SECOND)
    assert [other for other in world.machines if not world.may_serve(other)] == [node]
    assert write(world) < 30 * MILLISECOND
    world.machines[NodeId(node)].wall_offset_ns = 0
    world.run_for(SECOND)
    assert world.may_serve(NodeId(node))


def test_leader_that_hears_no_majoritys_clocks_cannot_stamp() -> None:
    """A region's first leader has been told nothing either."""
    world = World(1)
    world.meddle = lambda sender, receiver, message: None if isinstance(message, LeaseAsk) else 0
    world.start_all()
    world.run_while(lambda: world.leader() is None, ns_max=5 * SECOND)
    world.run_for(100 * MILLISECOND)
    with pytest.raises(NoClusterTime):
        world.propose(leader_of(world), [b"change"])
    world.meddle = None
    world.run_for(300 * MILLISECOND)
    write(world)


@pytest.mark.parametrize("seed", range(4))
def test_stamps_never_go_back_over_leaders(seed: int) -> None:
    """Neither time nor running time, though the leaders' own clocks are seconds apart."""
    world = World(seed)
    for number, machine in enumerate(world.machines.values()):
        machine.wall_offset_ns = number * 3 * SECOND
    world.start_all()
    for _ in range(3):
        world.run_while(lambda: world.leader() is None, ns_max=5 * SECOND)
        world.run_for(400 * MILLISECOND)
        write(world)
        write(world)
        crashed = leader_of(world).node
        world.crash(crashed)
        world.run_for(200 * MILLISECOND)
        world.start(crashed)
    world.run_for(2 * SECOND)
    log = max(world.machines.values(), key=lambda machine: machine.disk.log.last_index).disk.log
    stamps = [
        (int.from_bytes(entry.payload[:8], "big"), int.from_bytes(entry.payload[8:16], "big"))
        for entry in log.held
        if entry.kind is EntryKind.COMMAND
    ]
    assert len(stamps) >= 6
    assert [time for time, _ in stamps] == sorted(time for time, _ in stamps)
    assert [running for _, running in stamps] == sorted(running for _, running in stamps)
    assert 0 < stamps[-1][1] <= world.t * 1001 // 1000


# What stops a node


def test_rolled_back_node_finds_out_and_neither_votes_nor_serves() -> None:
    """An hour-old copy of a disk, put back: the first peer to greet it knows better."""
    world = region()
    victim = followers(world)[0]
    old = copy.deepcopy(victim.disk)
    for _ in range(5):
        write(world)
    world.crash(victim.node)
    victim.disk = old
    with pytest.raises(RolledBack, match="join as a new learner"):
        world.start(victim.node)
    replica = replica_of(victim)
    assert not replica.may_serve(victim.now(world.t))
    with pytest.raises(RolledBack):
        replica.ready()


def test_every_member_stores_what_all_acknowledged() -> None:
    """So that it is known even when the leader of that time is gone."""
    world = region()
    for _ in range(3):
        write(world)
    for machine in world.machines.values():
        assert set(machine.disk.witness) == set(world.machines)
        assert all(index > 0 for _, index in machine.disk.witness.values())
    other = followers(world)[0]
    known = replica_of(other).known_of(leader_of(world).node)
    assert known is not None
    assert known[0] == replica_of(other).core.term


def test_whole_disk_comes_back_without_complaint() -> None:
    """After a crash with writes under way its peers know nothing that it lacks."""
    world = region()
    for machine in followers(world):
        world.propose(leader_of(world), [b"change"] * 5)
        world.crash(machine.node)
        world.start(machine.node)
        world.run_for(500 * MILLISECOND)


@pytest.mark.parametrize(
    ("message", "acknowledges"),
    [
        (AppendReply(Term(1), 1, LogIndex(2)), True),
        (AppendReply(Term(1), 1, LogIndex(0)), False),
        (AppendReply(Term(1), 1, LogIndex(2), rejected=LogIndex(3)), False),
        (SnapshotReply(Term(1), 1, SnapshotOutcome.INSTALLED), True),
        (SnapshotReply(Term(1), 1, SnapshotOutcome.CONTINUE, 9), False),
    ],
)
def test_acknowledgement_that_went_out_explains_what_peers_know(message: Message, acknowledges: bool) -> None:
    """Of an append or of a whole snapshot: what a peer then knows is of this life, and no roll-back."""
    world = World(1, voters=1)
    world.start_all()
    core = replica_of(world.machines[NodeId("n1")]).core
    record = Acknowledgements(core, {})
    world.run_while(lambda: world.leader() is None or not core.own_term_committed, ns_max=SECOND)
    record.go_out([(NodeId("n2"), message)])
    told = (core.term, core.last_index)
    if acknowledges:
        record.check_own(told)
    else:
        with pytest.raises(RolledBack):
            record.check_own(told)


def test_acknowledgement_that_waited_for_the_disk_is_of_its_own_term() -> None:
    """The member may be in a later term when it leaves; what a peer then knows is still of this life."""
    world = World(1, voters=1)
    world.start_all()
    world.run_while(lambda: world.leader() is None, ns_max=SECOND)
    world.run_for(SECOND)
    world.crash(NodeId("n1"))
    world.start(NodeId("n1"))
    core = replica_of(world.machines[NodeId("n1")]).core
    record, term, more = Acknowledgements(core, {}), core.term, LogIndex(core.last_index + 1)
    world.run_while(lambda: core.term == term or not core.own_term_committed, ns_max=SECOND)
    record.go_out([(NodeId("n2"), AppendReply(term, 1, more))])
    record.check_own((term, more))


def test_state_that_differs_from_the_leaders_stops_the_node() -> None:
    """The leader's digest comes with each lease."""
    world = region()
    follower = followers(world)[0]
    assert follower.member is not None
    follower.member.digests[replica_of(follower).applied_index] = b"another"
    with pytest.raises(StateDiverged, match=follower.node):
        world.run_for(SECOND)
    assert not world.may_serve(follower.node)
    with pytest.raises(StateDiverged):
        replica_of(follower).ready()


def test_digest_of_a_state_not_reached_yet_is_compared_later() -> None:
    """A follower that lags compares once it has applied that far."""
    world = region(voters=1, learners=1)
    leader, follower = leader_of(world), followers(world)[0]
    world.set_apply_hangs(follower.node, True)
    world.propose(leader, [b"change"])
    world.run_for(50 * MILLISECOND)
    replica_of(leader)._digest = b"another"
    world.run_for(400 * MILLISECOND)
    world.set_apply_hangs(follower.node, False)
    with pytest.raises(StateDiverged):
        world.run_for(5 * MILLISECOND)


# Parameters


@pytest.mark.parametrize(
    "config",
    [
        ReplicaConfig(tick_ns=0),
        ReplicaConfig(tick_ns=600 * MILLISECOND),
        ReplicaConfig(renew_ns=600 * MILLISECOND),
        ReplicaConfig(report_ns=0),
    ],
)
def test_parameters_that_do_not_fit_are_refused(config: ReplicaConfig) -> None:
    """Before anything runs on them."""
    ReplicaConfig().validate()
    with pytest.raises(ReplicaConfigInvalid):
        config.validate()


def test_wakeup_is_never_far_and_never_past() -> None:
    """Leader, follower, and a member that knows no leader: within a tick."""
    world = region()
    for _ in range(100):
        world.run_for(7 * MILLISECOND)
        for machine in world.machines.values():
            now = machine.now(world.t)
            assert now <= replica_of(machine).next_wakeup(now) <= now + world.config.tick_ns
    lonely = followers(world)[0]
    world.cut_off(lonely.node)
    world.run_for(2 * SECOND)
    now = lonely.now(world.t)
    assert now < replica_of(lonely).next_wakeup(now) <= now + world.config.tick_ns
    assert replica_of(lonely).cluster_time(Instant(now + 10 * SECOND)) is None
    assert replica_of(lonely).cluster_time(now) != ClusterTime(0)
