"""Each lease rule L1 to L10 in a scenario of its own, and the proof that the scenario fails when the rule is left out.

A scenario runs whole replicas in `simulations/core/world.py`, whose checker looks after every step: no replica that
may serve lacks what any replica takes for settled. `test_rule_holds` runs it as the code is,
`test_rule_left_out_is_seen` with the rules left out that it must notice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from keycluster.cluster.invariant import InvariantBroken, require
from keycluster.cluster.leases.messages import LeaseAnswer, LeaseAsk, SettledNotice
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.replica import Replica, ReplicaConfig
from keycluster.cluster.types import MILLISECOND, SECOND, LogIndex, NodeId
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.world import World
from tests.rules_left_out import RULES_LEFT_OUT, RuleLeftOut

EAGER = ReplicaConfig(renew_ns=40 * MILLISECOND)  # Asks often, so that the last question before a cut is a late one.
LEARNER = NodeId("learner")


def region(*, voters: int = 3, learner: bool = False, config: ReplicaConfig | None = None, seed: int = 1) -> World:
    """A region that works: one leads, all serve, something is settled. The learner's node id is `LEARNER`."""
    world = World(seed, voters=voters, config=config)
    if learner:
        world.genesis = Membership(voters=world.genesis.voters, learners=(LEARNER,))
        for node in [*world.machines, LEARNER]:
            world.add_machine(node)
    world.start_all()
    world.run_while(lambda: world.leader() is None, ns_max=5 * SECOND)
    world.run_while(lambda: not all(world.may_serve(node) for node in world.machines), ns_max=5 * SECOND)
    write(world)
    return world


def leader_of(world: World) -> Machine:
    leader = world.leader()
    require(leader is not None, "nobody leads")
    assert leader is not None
    return leader


def replica_of(machine: Machine) -> Replica:
    assert machine.member is not None
    return machine.member.replica


def others(world: World, *left_out: NodeId) -> list[NodeId]:
    return [node for node in world.machines if node not in left_out and node != LEARNER]


def propose(world: World, leader: Machine) -> LogIndex:
    return world.propose(leader, [b"change"])


def write(world: World, *, ns_max: int = 5 * SECOND) -> int:
    """One change at the leader, until it is settled; how long that took."""
    index = propose(world, leader_of(world))
    return world.run_while(lambda: world.settled < index, ns_max=ns_max)


def until_led(world: World, *, after: NodeId | None = None, ns_max: int = 5 * SECOND) -> int:
    """Until somebody (other than `after`) leads and takes changes; how long that took."""

    def can_lead() -> bool:
        leader = world.leader()
        return (
            leader is not None
            and leader.node != after
            and replica_of(leader).core.own_term_committed
            and not replica_of(leader).core.is_handing_over
        )

    return world.run_while(lambda: not can_lead(), ns_max=ns_max)


def write_when_led(world: World, *, after: NodeId | None = None, ns_max: int = 5 * SECOND) -> int:
    """One change at whoever leads next, until it is settled; how long that took from when somebody led."""
    until_led(world, after=after, ns_max=ns_max)
    return write(world, ns_max=ns_max)


def hand_over(world: World, target: NodeId) -> None:
    leader = leader_of(world)
    world.feed(leader, lambda member, now: member.replica.transfer_leadership(target, now))


def until_leads(world: World, node: NodeId) -> None:
    def leads() -> bool:
        leader = world.leader()
        return leader is not None and leader.node == node

    world.run_while(lambda: not leads(), ns_max=5 * SECOND)


def until_renewed(world: World, node: NodeId) -> None:
    """Until the node has just got a fresh lease."""
    before = replica_of(world.machines[node]).serve_until
    world.run_while(lambda: replica_of(world.machines[node]).serve_until == before, ns_max=2 * SECOND)


# L1


def answers_that_take_long() -> None:
    """L1: an answer that took 800 ms is worth the rest of the lease, not a new one."""
    world = region()
    leader, slow = leader_of(world), others(world, leader_of(world).node)[0]
    world.meddle = lambda sender, receiver, message: 800 * MILLISECOND if receiver == slow else 0
    world.run_for(950 * MILLISECOND)
    before = replica_of(world.machines[slow]).serve_until
    world.run_while(lambda: replica_of(world.machines[slow]).serve_until == before, ns_max=2 * SECOND)
    world.cut_off(slow)
    propose(world, leader)
    world.run_for(2 * SECOND)
    require(world.settled_at[-1][1] == replica_of(leader).applied_index, "the change was never settled")


def leader_stopped_between_clock_and_answer() -> None:
    """L1, L2: an answer that the leader was stopped before sending, for longer than L, is worth nothing."""
    world = region(voters=5)
    leader, asker = leader_of(world), others(world, leader_of(world).node)[0]
    world.meddle = lambda sender, receiver, message: None if receiver == asker else 0
    world.stops_before_output = lambda machine, sender, message: (
        machine is leader and sender == asker and isinstance(message, LeaseAsk)
    )
    world.run_for(900 * MILLISECOND)  # The leader has taken questions and stands still before it answers.
    world.meddle = lambda sender, receiver, message: (
        None if receiver == asker and not isinstance(message, LeaseAnswer) else 0
    )
    world.cut_off(asker, keep=[leader.node])
    world.stops_before_output = lambda machine, sender, message: False
    write_when_led(world)
    world.run_for(200 * MILLISECOND)
    world.resume(leader.node)
    propose(world, leader_of(world))
    world.run_for(1500 * MILLISECOND)


def late_answer_to_one_who_led_since() -> None:
    """L1: an answer of an earlier term brings no lease back to one that led since: nobody counts it."""
    world = region(config=EAGER)
    first = leader_of(world)
    second, third = others(world, first.node)

    def delay_answers(sender: NodeId, receiver: NodeId, message: object) -> int:
        is_first_answer = isinstance(message, LeaseAnswer) and sender == first.node and receiver == second
        return 800 * MILLISECOND if is_first_answer else 0

    world.meddle = delay_answers
    world.run_for(100 * MILLISECOND)
    hand_over(world, second)
    until_leads(world, second)
    world.run_for(20 * MILLISECOND)
    hand_over(world, third)
    until_leads(world, third)
    world.cut_off(second)
    world.network.cut -= {(first.node, second)}
    world.meddle = lambda sender, receiver, message: None if (sender, receiver) == (first.node, second) else 0
    write_when_led(world)
    world.run_for(1500 * MILLISECOND)


# L2


def new_leader_behind_with_its_commit_index() -> None:
    """L2(a): a leader that can't know the commit index yet grants nothing on it."""
    world = region()
    leader = leader_of(world)
    behind = others(world, leader.node)
    for node in behind:
        world.set_apply_hangs(node, True)
    world.run_for(100 * MILLISECOND)
    propose(world, leader)
    world.run_for(2500 * MILLISECOND)  # Both are refused by now, and writes settle without them.
    propose(world, leader)
    world.run_for(50 * MILLISECOND)
    require(world.settled == replica_of(leader).applied_index, "a hanging apply still holds writes back")
    for node in list(world.machines):
        world.crash(node)
    for node in behind:
        world.set_apply_hangs(node, False)
        world.machines[node].write_ns = 250 * MILLISECOND  # Heartbeats are answered before the own entry is durable.
        world.start(node)
    write_when_led(world, ns_max=10 * SECOND)
    world.run_for(500 * MILLISECOND)


def old_leader_with_company() -> None:
    """L2(b): a leader that is cut off with a member lends it nothing once another may lead."""
    world = region(learner=True, config=EAGER, seed=2)  # Elects while the old one still thinks it leads.
    old = leader_of(world)
    for node in others(world, old.node):
        world.cut_off(node, keep=others(world, old.node, node))
    write_when_led(world, after=old.node)
    for _ in range(200):
        world.run_for(10 * MILLISECOND)
        propose(world, leader_of(world))


def member_of_an_uncommitted_configuration() -> None:
    """L2(c): who joined by an entry that isn't committed gets no lease: the next leader may never hear of it."""
    world = region(config=EAGER)
    old = leader_of(world)
    world.add_machine(LEARNER)
    world.start(LEARNER)
    for node in others(world, old.node):
        world.cut_off(node, keep=others(world, old.node, node))
    target = Membership(voters=world.genesis.voters, learners=(LEARNER,))
    world.feed(old, lambda member, now: member.replica.propose_membership(target, now))
    write_when_led(world, after=old.node)
    for _ in range(20):
        world.run_for(100 * MILLISECOND)
        propose(world, leader_of(world))


def apply_that_hangs() -> None:
    """L2(c): a member whose apply hangs stops writes for 2 L at most, once, and serves again when it has caught up."""
    world = region()
    leader = leader_of(world)
    hanging = others(world, leader.node)[0]
    world.set_apply_hangs(hanging, True)
    require(write(world) <= 2200 * MILLISECOND, "the first change waited too long")
    for _ in range(30):
        require(write(world) <= 30 * MILLISECOND, "a later change waited again")
        world.run_for(100 * MILLISECOND)
    world.set_apply_hangs(hanging, False)
    world.run_while(lambda: not world.may_serve(hanging), ns_max=500 * MILLISECOND)
    require(write(world) <= 30 * MILLISECOND, "the member that came back holds changes back")


def leader_whose_apply_hangs() -> None:
    """L5: it settles nothing, so it gives leadership to one that can."""
    world = region()
    old = leader_of(world)
    world.set_apply_hangs(old.node, True)
    index = propose(world, old)
    took = world.run_while(lambda: world.settled < index, ns_max=20 * SECOND)
    require(took < 3 * SECOND, f"writes stood still for {took} ns")
    for _ in range(20):
        require(write(world) <= 30 * MILLISECOND, "the hanging member holds changes back")
        world.run_for(50 * MILLISECOND)


def leader_whose_apply_hangs_when_the_best_voter_is_dead() -> None:
    """L5: it gives leadership to one that can take it, though a dead one had applied as much."""
    world = region()
    old = leader_of(world)
    alive, dead = sorted(others(world, old.node))  # Among equals the last one is chosen.
    world.set_apply_hangs(old.node, True)
    index = propose(world, old)
    world.run_for(500 * MILLISECOND)
    world.crash(dead)
    took = world.run_while(lambda: world.settled < index, ns_max=20 * SECOND)
    require(leader_of(world).node == alive, f"{alive} doesn't lead")
    require(took < 3 * SECOND, f"writes stood still for {took} ns")


# L3, L5


def member_cut_off_at_the_bound_of_drift() -> None:
    """L3, L5: the leader's clock fast by r and the holder's slow by r: the holder still ends first."""
    world = World(1)
    for machine in world.machines.values():
        machine.clock_ppm = -RaftConfig().drift_ppm
    world.start_all()
    world.run_while(lambda: world.leader() is None, ns_max=5 * SECOND)
    leader = leader_of(world)
    follower = others(world, leader.node)[0]
    world.crash(leader.node)
    world.run_while(lambda: world.leader() is None, ns_max=5 * SECOND)
    leader = leader_of(world)
    follower = next(node for node in others(world, leader.node) if world.machines[node].member is not None)
    leader.clock_base -= world.t * 2 * leader.clock_ppm // -1_000_000  # Its reading now stays as it is.
    leader.clock_ppm = RaftConfig().drift_ppm
    world.start_all()
    world.network.delay_ns_min = world.network.delay_ns_spread = 1_000  # Nothing helps but the shortening.
    write_when_led(world)
    world.run_for(SECOND)
    until_renewed(world, follower)
    world.cut_off(follower)
    propose(world, leader)
    world.run_for(2 * SECOND)
    require(world.settled == replica_of(leader).applied_index, "the change was never settled")


def member_that_comes_back_and_applies_slowly() -> None:
    """L3: with a new lease a member serves only once it has applied what was committed when it was granted."""
    world = region()
    leader = leader_of(world)
    member = others(world, leader.node)[0]
    world.cut_off(member)
    world.run_for(1200 * MILLISECOND)
    write(world)
    world.machines[member].apply_ns = 400 * MILLISECOND
    world.network.cut.clear()
    write(world)
    world.run_for(SECOND)


# L4


def old_leader_that_was_stopped() -> None:
    """L4: a leader that slept through its successor's election serves nothing when it wakes up."""
    world = region()
    old = leader_of(world)
    world.pause(old.node)
    write_when_led(world)
    world.cut_off(old.node)
    world.resume(old.node)
    world.run_for(2 * SECOND)


def leader_that_has_not_applied() -> None:
    """L4: a new leader serves only once its own term's entry, and so all that was settled before, is applied."""
    world = region()
    old = leader_of(world)
    successor = others(world, old.node)[0]
    world.set_apply_hangs(successor, True)
    propose(world, old)
    world.run_for(2500 * MILLISECOND)
    require(world.settled == replica_of(old).applied_index, "the hanging member still counts")
    hand_over(world, successor)
    until_leads(world, successor)
    world.run_for(150 * MILLISECOND)


def one_who_led_for_a_moment() -> None:
    """L4: becoming leader ends a lease for good: the next leader doesn't count it."""
    world = region()
    first = leader_of(world)
    second, third = others(world, first.node)
    until_renewed(world, second)
    hand_over(world, second)
    until_leads(world, second)
    world.run_for(10 * MILLISECOND)
    hand_over(world, third)
    until_leads(world, third)
    world.cut_off(second)
    write_when_led(world)
    world.run_for(1500 * MILLISECOND)


# L6


def leader_dies_and_a_learner_is_cut_off() -> None:
    """L6: a new leader waits for the silent, learners too, until its election + L, and no longer."""
    world = region(learner=True)
    until_renewed(world, LEARNER)
    world.cut_off(LEARNER)
    world.crash(leader_of(world).node)
    took = write_when_led(world)
    require(took < SECOND, f"writes stood still for {took} ns after the election: longer than L")


def leader_dies_and_a_voter_is_cut_off() -> None:
    """L6, as above with a voter."""
    world = region(voters=5)
    leader = leader_of(world)
    silent = others(world, leader.node)[0]
    until_renewed(world, silent)
    world.cut_off(silent)
    world.crash(leader.node)
    write_when_led(world)
    world.run_for(SECOND)


def leader_dies_in_a_joint_configuration() -> None:
    """L6: members of the outgoing half count too."""
    world = region(voters=5)
    leader = leader_of(world)
    leaving = others(world, leader.node)[0]
    until_renewed(world, leaving)
    begin_removal(world, leaving)
    world.run_while(lambda: not replica_of(leader).core.can_leave_joint, ns_max=SECOND)
    world.run_for(2 * MILLISECOND)
    world.cut_off(leaving)
    world.crash(leader.node)
    write_when_led(world)
    world.run_for(SECOND)


def leader_dies_and_all_others_answer() -> None:
    """L6: writes stop for an election, not for an election and L."""
    for seed in range(5):
        world = region(seed=seed)
        world.crash(leader_of(world).node)
        took = write_when_led(world)
        require(took < 50 * MILLISECOND, f"seed {seed}: {took} ns after the election writes still stood still")


# L7


def voter_that_hears_nothing_of_a_live_leader() -> None:
    """L7: a member that others still hear leads nobody away."""
    world = region()
    leader = leader_of(world)
    deaf, third = others(world, leader.node)
    world.network.cut |= {(leader.node, deaf)}
    world.run_for(250 * MILLISECOND)
    world.meddle = lambda sender, receiver, message: None if receiver == leader.node and world.led_by(deaf) else 0
    for _ in range(80):
        world.run_for(25 * MILLISECOND)
        if replica_of(world.machines[deaf]).core.own_term_committed:
            propose(world, world.machines[deaf])
    require(world.leader() is leader, f"{deaf} took over, though {third} hears the leader")


# L8


def hand_over_that_the_old_leader_does_not_hear_of() -> None:
    """L8: from TimeoutNow on the old leader serves nothing, though its quorum lease would still live."""
    world = region()
    old = leader_of(world)
    successor = others(world, old.node)[0]
    world.run_for(30 * MILLISECOND)
    hand_over(world, successor)
    world.meddle = lambda sender, receiver, message: None if receiver == old.node else 0
    write_when_led(world)
    world.run_for(SECOND)


def hand_over_with_a_member_that_hears_the_old_leader_only() -> None:
    """L8: from TimeoutNow on the old leader lends nothing either."""
    world = region(learner=True, config=EAGER)
    old = leader_of(world)
    successor = others(world, old.node)[0]
    hand_over(world, successor)
    world.meddle = lambda sender, receiver, message: (
        None if (receiver == old.node and sender != LEARNER) or (receiver == LEARNER and sender != old.node) else 0
    )
    write_when_led(world)
    for _ in range(20):
        world.run_for(50 * MILLISECOND)
        propose(world, leader_of(world))


# L9


def begin_removal(world: World, *leaving: NodeId) -> None:
    current = replica_of(leader_of(world)).core.membership
    voters = tuple(node for node in current.voters if node not in leaving)
    learners = tuple(node for node in current.learners if node not in leaving)
    target = Membership(voters=voters, learners=learners)
    world.feed(leader_of(world), lambda member, now: member.replica.propose_membership(target, now))


def removed_voter_is_cut_off() -> None:
    """L9: it leaves the configuration only after its lease: no later leader counts it."""
    world = region(voters=5)
    leader = leader_of(world)
    leaving = others(world, leader.node)[0]
    until_renewed(world, leaving)
    world.cut_off(leaving)
    begin_removal(world, leaving)
    world.run_for(100 * MILLISECOND)
    world.crash(leader.node)
    write_when_led(world)
    world.run_for(SECOND)


def removed_learner_is_cut_off() -> None:
    """L9, as above for a learner, whose removal takes one entry."""
    world = region(voters=3, learner=True)
    leader = leader_of(world)
    until_renewed(world, LEARNER)
    world.cut_off(LEARNER)
    begin_removal(world, LEARNER)
    world.run_for(100 * MILLISECOND)
    world.crash(leader.node)
    write_when_led(world)
    world.run_for(SECOND)


def removals_end() -> None:
    """L9: granting stops, so that a member that goes on asking is out after L, and writes go on meanwhile."""
    world = region(voters=5, learner=True)
    leader = leader_of(world)
    for leaving in (LEARNER, others(world, leader.node)[0]):
        begin_removal(world, leaving)
        begun = world.t
        while leaving in replica_of(leader).core.membership.members or replica_of(leader).core.membership.is_joint:
            require(write(world) <= 30 * MILLISECOND, "a change waited for the removal")
            require(world.t - begun < SECOND + 100 * MILLISECOND, f"{leaving} is still a member")
            world.run_for(20 * MILLISECOND)
        require(not world.may_serve(leaving), f"{leaving} may serve after its removal")


def new_leader_ends_a_removal() -> None:
    """L9: a leader that finds a joint configuration ends it by the same rule."""
    world = region(voters=5)
    leader = leader_of(world)
    leaving = others(world, leader.node)[0]
    until_renewed(world, leaving)
    begin_removal(world, leaving)
    world.run_for(50 * MILLISECOND)
    world.cut_off(leaving)
    world.crash(leader.node)
    write_when_led(world)
    world.run_while(lambda: leaving in replica_of(leader_of(world)).core.membership.members, ns_max=2 * SECOND)
    world.run_for(SECOND)


# L10


def settled_index_travels() -> None:
    """L10: every member knows within a round trip what is settled, and no member takes more for settled."""
    world = region()
    for _ in range(20):
        write(world)
        index = world.settled
        world.run_for(3 * MILLISECOND)
        for machine in world.machines.values():
            require(replica_of(machine).settled_index >= index, f"{machine.node} wasn't told")


def settled_notice_is_lost() -> None:
    """L10: a lost notice is repeated long before the next lease."""
    world = region()
    follower = others(world, leader_of(world).node)[0]
    world.meddle = lambda sender, receiver, message: None if isinstance(message, SettledNotice) else 0
    index = propose(world, leader_of(world))
    world.run_while(lambda: world.settled < index, ns_max=SECOND)
    world.run_for(MILLISECOND)
    world.meddle = lambda sender, receiver, message: None if isinstance(message, LeaseAnswer) else 0
    world.run_while(
        lambda: replica_of(world.machines[follower]).settled_index < index,
        ns_max=world.config.report_ns + 2 * world.config.tick_ns,
    )


# Scenarios against rules


@dataclass(frozen=True)
class Case:
    scenario: Callable[[], None]
    catches: tuple[str, ...]  # Names of rules left out, as in `tests/rules_left_out.py`.


CASES = (
    Case(answers_that_take_long, ("counts from the answer's arrival",)),
    Case(leader_stopped_between_clock_and_answer, ("counts from the answer's arrival",)),
    Case(late_answer_to_one_who_led_since, ("takes an answer of any term",)),
    Case(new_leader_behind_with_its_commit_index, ("grants before an own entry is committed",)),
    Case(old_leader_with_company, ("grants without a living quorum lease",)),
    Case(member_of_an_uncommitted_configuration, ("grants to members of a configuration not committed",)),
    Case(apply_that_hangs, ("grants to members that lag for ever",)),
    Case(leader_whose_apply_hangs, ("leads on though its apply hangs",)),
    Case(leader_whose_apply_hangs_when_the_best_voter_is_dead, ("leads on though its apply hangs",)),
    Case(
        member_cut_off_at_the_bound_of_drift,
        ("ignores the drift of clocks", "notes nothing", "acknowledges without counting holders"),
    ),
    Case(member_that_comes_back_and_applies_slowly, ("serves before the commit index is applied",)),
    Case(old_leader_that_was_stopped, ("leader serves without a quorum lease",)),
    Case(leader_that_has_not_applied, ("leader serves before its own entry is applied",)),
    Case(one_who_led_for_a_moment, ("leader keeps the lease it held",)),
    Case(
        leader_dies_and_a_learner_is_cut_off,
        ("new leader assumes no leases", "new leader assumes voters' leases only"),
    ),
    Case(leader_dies_and_a_voter_is_cut_off, ("new leader assumes no leases",)),
    Case(leader_dies_in_a_joint_configuration, ("new leader assumes the new half's leases only",)),
    Case(leader_dies_and_all_others_answer, ("new leader counts the last one too",)),
    Case(voter_that_hears_nothing_of_a_live_leader, ("voters stick to no leader",)),
    Case(hand_over_that_the_old_leader_does_not_hear_of, ("serves and grants after TimeoutNow",)),
    Case(hand_over_with_a_member_that_hears_the_old_leader_only, ("grants after TimeoutNow",)),
    Case(removed_voter_is_cut_off, ("takes members out while they hold leases",)),
    Case(removed_learner_is_cut_off, ("takes members out while they hold leases",)),
    Case(removals_end, ("grants to members on the way out", "grants to members whose removal is appended")),
    Case(new_leader_ends_a_removal, ("takes members out while they hold leases",)),
    Case(settled_index_travels, ("takes what it applied for settled", "tells nobody what is settled")),
    Case(settled_notice_is_lost, ("repeats no lost notice",)),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.scenario.__name__)
def test_rule_holds(case: Case) -> None:
    """The scenario's promise holds."""
    case.scenario()


@pytest.mark.parametrize(
    ("scenario", "what"),
    [(case.scenario, what) for case in CASES for what in case.catches],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_rule_left_out_is_seen(scenario: Callable[[], None], what: str) -> None:
    """Without its rule the scenario fails."""
    with left_out(what).open(), pytest.raises(InvariantBroken):
        scenario()


def left_out(what: str) -> RuleLeftOut:
    return next(rule for rule in RULES_LEFT_OUT if rule.what == what)


def test_every_rule_left_out_has_a_scenario() -> None:
    """No rule is without a case that fails when it is left out."""
    caught = {what for case in CASES for what in case.catches}
    assert caught == {left.what for left in RULES_LEFT_OUT}
    assert {left.rule for left in RULES_LEFT_OUT} == {f"L{number}" for number in range(1, 11)}
