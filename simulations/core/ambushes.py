"""Faults that wait for the moment at which they do most harm: most moments do none, and chance seldom meets the others.

Each begins with something that happens anyhow, makes the moment likelier if it can, looks for it again and again, and
gives up after a while.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from keycluster.cluster.cluster_time import NoClusterTime
from keycluster.cluster.raft.errors import RaftError
from keycluster.cluster.types import MILLISECOND, SECOND, NodeId, Term
from keycluster.simulations.core import changes, links
from keycluster.simulations.core.cuts import Cut, Cuts, Later
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.network import Then, nothing
from keycluster.simulations.core.world import World
from keycluster.simulations.faults import Fault

LOOK_NS = 1 * MILLISECOND  # So often it is looked whether the moment has come, …
CLOSE_LOOK_NS = 200_000  # … or, where less than a message's way counts, so often, …
WAIT_NS_MAX = 1 * SECOND  # … and for so long.
RELAY_NS_MAX = 3 * SECOND
ALONE_MAX = 8  # Changes that a leader writes which nobody follows.
JOINT_NS_MAX = 2 * SECOND  # A change may wait for leases first (L9).
CUT_NS = (100 * MILLISECOND, 2 * SECOND)
RELAY_CUT_NS = (1 * SECOND, 4 * SECOND)  # Longer than some elections that nobody wins.
UNHEARD_NS = (400 * MILLISECOND, 1_200 * MILLISECOND)  # Longer than a leader waits for its successor.
SOON_NS = 30 * MILLISECOND  # Less than it takes a leader to be heard again after a restart.
RESTART_NS = (1 * MILLISECOND, 25 * MILLISECOND)

Happened = Callable[[Fault, str], None]
"""More of a fault has happened, said in words."""
TookEffect = Callable[[Fault], None]
CrashFor = Callable[[NodeId, int], None]


class Ambushes:
    def __init__(
        self,
        world: World,
        cuts: Cuts,
        *,
        later: Later,
        crash_for: CrashFor,
        happened: Happened,
        took_effect: TookEffect,
    ) -> None:
        self._world = world
        self._cuts = cuts
        self._later = later
        self._crash_for = crash_for
        self._happened = happened
        self._took_effect = took_effect

    def _when(
        self,
        has_come: Callable[[], bool],
        act: Callable[[], None],
        *,
        ns_max: int = WAIT_NS_MAX,
        look_ns: int = LOOK_NS,
    ) -> None:
        self._look(has_come, act, look_ns, self._world.t + ns_max)

    def _look(self, has_come: Callable[[], bool], act: Callable[[], None], look_ns: int, until: int) -> None:
        if has_come():
            act()
        elif self._world.t < until:
            self._later(look_ns, partial(self._look, has_come, act, look_ns, until))

    def _leads_in(self) -> tuple[Machine, Term] | None:
        leader = self._world.leader()
        return None if leader is None or leader.leads_in is None else (leader, leader.leads_in)

    def _voters_beside(self, leader: Machine, *others: Machine) -> list[NodeId]:
        """Of those that run."""
        replica = leader.replica
        voters = () if replica is None else replica.core.membership.voters
        out = {leader.node, *(machine.node for machine in others)}
        return [node for node in voters if node not in out and self._world.machines[node].replica is not None]

    def _cut_off(self, fault: Fault, machine: Machine, ns: int, then: Then) -> None:
        cut = links.between([machine.node], [node for node in self._world.machines if node != machine.node])
        self._cuts.begin(cut, ns, then)
        self._happened(fault, links.describe(cut))

    # The leader is cut off, …

    def at_candidate(self, fault: Fault, rng: random.Random, ns: int, *, provokes: bool) -> str | None:
        """… just when somebody else campaigns: as short a moment as there is to do harm in.

        To provoke that, another voter hears nothing of the leader meanwhile. Those who still hear it must refuse.
        """
        leads = self._leads_in()
        if leads is None:
            return None
        leader, term = leads
        cut = links.partition(self._world, leader, fault.strength, rng)
        took_effect = partial(self._took_effect, fault)

        def cuts() -> None:
            self._cuts.begin(cut, ns, took_effect)
            self._happened(fault, links.describe(cut))

        self._when(
            lambda: any(m.disk.hard_state.term > term for m in self._world.machines.values()),
            cuts,
            look_ns=CLOSE_LOOK_NS,
        )
        voters = [node for node in self._world.machines if node != leader.node]
        if not provokes or not voters:
            return None  # Nothing has happened yet.
        deaf = {(leader.node, rng.choice(voters))}
        self._cuts.begin(deaf, WAIT_NS_MAX, took_effect)
        return f"{links.describe(deaf)}, and in wait for its candidate: {links.describe(cut)}"

    def until_successor(self, fault: Fault, rng: random.Random) -> str | None:
        """… and comes back, with what it wrote alone, when the next one has just begun to lead: that one has cut its
        log already, or is cut off itself now, so that the two histories meet at others."""
        leads = self._leads_in()
        if leads is None:
            return None
        leader, term = leads
        cut = links.partition(self._world, leader, fault.strength, rng)
        number = self._cuts.begin(cut, RELAY_NS_MAX, partial(self._took_effect, fault))
        self._write(leader, rng.randint(0, ALONE_MAX))
        begun = partial(self._has_successor, leader, term)
        self._when(begun, partial(self._change_over, fault, leader, number, rng), ns_max=RELAY_NS_MAX)
        return f"{links.describe(cut)}, until another one leads"

    def _write(self, leader: Machine, count: int) -> None:
        """As callers do that still reach it; changes that change nothing, if they are ever committed."""
        with suppress(RaftError, NoClusterTime):
            if count:
                self._world.propose(leader, [b"written alone"] * count)

    def _has_successor(self, old: Machine, term: Term) -> bool:
        """Whose first entry is applied, and whose disk is not at work."""
        leads = self._leads_in()
        if leads is None or leads[0] is old or leads[1] <= term:
            return False
        return leads[0].disk.state.term == leads[1] and leads[0].writing is None

    def _change_over(self, fault: Fault, old: Machine, number: Cut, rng: random.Random) -> None:
        leader = self._world.leader()
        if leader is None:
            return
        self._cuts.end(number)
        if rng.random() < 0.5:
            cut = [changes.compact(machine) for machine in self._world.machines.values() if machine is not old]
            self._happened(fault, f"logs are cut: {', '.join(text for text in cut if text is not None)}")
        else:
            self._cut_off(fault, leader, rng.randint(*RELAY_CUT_NS), partial(self._took_effect, fault))

    # Others

    def at_succession(self, fault: Fault, act: Callable[[], None]) -> bool:
        """Soon after somebody else campaigns. False if nobody leads."""
        leads = self._leads_in()
        if leads is None:
            return False
        _, term = leads

        def acts() -> None:
            act()
            self._happened(fault, "somebody campaigns")

        self._when(
            lambda: any(m.disk.hard_state.term > term for m in self._world.machines.values()), acts, ns_max=RELAY_NS_MAX
        )
        return True

    def restart_before_vote(self, fault: Fault, rng: random.Random) -> str | None:
        """A voter starts again just before another one, which the leader doesn't reach, asks for its vote."""
        leads = self._leads_in()
        voters = self._voters_beside(leads[0]) if leads is not None else []
        if leads is None or len(voters) < 2:
            return None
        deaf, victim = rng.sample(voters, 2)
        self._cuts.begin({(leads[0].node, deaf)}, WAIT_NS_MAX, nothing)

        def restarts() -> None:
            if self._world.machines[victim].member is not None:
                self._took_effect(fault)
            self._crash_for(victim, rng.randint(*RESTART_NS))
            self._happened(fault, victim)

        self._when(partial(self._campaigns_soon, self._world.machines[deaf]), restarts)
        return f"{victim}, once {deaf}, deaf to {leads[0].node}, is about to campaign"

    def _campaigns_soon(self, machine: Machine) -> bool:
        if machine.replica is None or machine.leads_in is not None:
            return False
        return 0 < machine.real(machine.replica.core._member.election_due) - self._world.t < SOON_NS

    def in_joint_phase(self, fault: Fault, rng: random.Random) -> None:
        """The leader is lost when another member knows of the joint configuration: the next one has to end it."""
        leads = self._leads_in()
        if leads is None:
            return
        leader, _ = leads
        ns, crashes = rng.randint(*CUT_NS), rng.random() < 0.5

        def has_come() -> bool:
            return leader.replica is not None and any(
                machine is not leader and machine.replica is not None and machine.replica.core.membership.is_joint
                for machine in self._world.machines.values()
            )

        def loses() -> None:
            if crashes:
                self._crash_for(leader.node, ns)
                self._happened(fault, leader.node)
            else:
                self._cut_off(fault, leader, ns, nothing)

        self._when(has_come, loses, ns_max=JOINT_NS_MAX)

    # Hand-overs

    def unheard(self, fault: Fault, leader: Machine, target: Machine, rng: random.Random) -> None:
        """Nobody takes over: from the moment at which the leader tells it to, the target doesn't hear it."""
        ns, term = rng.randint(*UNHEARD_NS), leader.leads_in

        def cuts() -> None:
            self._cuts.begin({(leader.node, target.node)}, ns, nothing)
            self._happened(fault, f"{leader.node} to {target.node}, unheard")

        self._when(lambda: term is not None and leader.gave_up_in == term, cuts, look_ns=CLOSE_LOOK_NS)

    def again(self, fault: Fault, leader: Machine, target: Machine, rng: random.Random) -> None:
        """The target hands over in turn, and a voter hears of the second hand-over only."""
        voters = self._voters_beside(leader, target)
        if not voters:
            return
        deaf = rng.choice(voters)
        third = rng.choice([leader.node, *(node for node in voters if node != deaf)])
        self._cuts.begin({(target.node, deaf)}, WAIT_NS_MAX, nothing)

        def hands_over() -> None:
            if changes.hand_over_to(self._world, target, third):
                self._happened(fault, f"{target.node} to {third}, {deaf} is deaf to {target.node}")

        self._when(lambda: target.replica is not None and target.leads_in is not None, hands_over)
