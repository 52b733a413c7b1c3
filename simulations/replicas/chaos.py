"""One random run: a few seconds of faults at everything, then peace, in which the region must work again.

Faults are drawn anew each time: message loss, delay, duplication, cut links, crashes with loss of unsynced writes,
pauses (also between an input and its outputs), an apply that hangs, slow disks, changes of members, hand-overs. Clocks
run at the edges of the bound. All of it comes from the seed; `Options` can leave a kind out.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from keycluster.cluster.cluster_time import NoClusterTime
from keycluster.cluster.invariant import require
from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.errors import RaftError
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.replica import ReplicaConfig
from keycluster.cluster.types import MILLISECOND, SECOND, LogIndex, NodeId
from keycluster.simulations.replicas.world import Machine, Network, World

VOTERS_MIN = 1
MEMBERS_MAX = 6
MACHINES_MAX = 9  # Node ids are never used twice: so many may come and go in one run.
FAULT_NS_MEANS = tuple(ns * MILLISECOND for ns in (80, 150, 300, 600))  # A run draws one: storms, and calm between.
PROPOSAL_NS_MEAN = 25 * MILLISECOND
PEACE_NS_MAX = 15 * SECOND


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is made of."""

    faults_ns: int = 6 * SECOND
    drift_ppm: int = 1_000
    kinds: Sequence[str] = (
        "crash",
        "pause",
        "cut",
        "split",
        "weather",
        "hang",
        "members",
        "hand_over",
        "compact",
        "storm",
        "greet",
    )


@dataclass(slots=True)
class Report:
    """What a run has seen: a run without faults or without serving has shown nothing."""

    seed: str
    steps: int = 0
    serving_seen: int = 0
    settled: int = 0
    leaders: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class Chaos(World):
    def __init__(self, seed: int | str, options: Options | None = None) -> None:
        self.options = options or Options()
        rng = random.Random(f"shape/{seed}")
        voters = rng.randint(VOTERS_MIN, 5)
        super().__init__(
            seed,
            voters=voters,
            learners=rng.randint(0, min(2, MEMBERS_MAX - voters)),
            raft=RaftConfig(drift_ppm=self.options.drift_ppm),
            config=ReplicaConfig(),
            network=Network(),
        )
        self.report = Report(str(seed))
        self._fault_ns_mean = rng.choice(FAULT_NS_MEANS)
        self._pause_chance = 0.0
        self.stops_before_output = self._stops
        self._ends = self.options.faults_ns
        for machine in self.machines.values():
            self._draw_clock(machine)
        self._faults: dict[str, Callable[[], None]] = {
            "crash": self._crash_one,
            "pause": self._pause_one,
            "cut": self._cut_some,
            "split": self._split,
            "weather": self._change_weather,
            "hang": self._hang_one,
            "members": self._change_members,
            "hand_over": self._hand_over,
            "compact": self._compact_one,
            "storm": self._pause_before_outputs,
            "greet": self._greet_some,
        }

    def run(self) -> Report:
        """The whole run. Raises `InvariantBroken`, `ContractBroken` among it."""
        self.start_all()
        self._next_fault()
        self._next_proposal()
        self.run_until(self._ends)
        self._make_peace()
        self._demand_progress()
        self.report.steps, self.report.serving_seen = self.steps, self.serving_seen
        self.report.settled, self.report.leaders = self.settled, len(self.leaders)
        return self.report

    # What goes on

    def _next_fault(self) -> None:
        kind = self.rng.choice(self.options.kinds)
        if self.t < self._ends:
            self._faults[kind]()
            self.report.faults[kind] += 1
            self.after(int(self.rng.expovariate(1 / self._fault_ns_mean)), self._next_fault)

    def _next_proposal(self) -> None:
        if self.t >= self._ends:
            return
        for machine in list(self.machines.values()):
            if machine.replica is not None and machine.replica.core.is_leader:
                self._try(machine, self._some_commands)
        self.after(int(self.rng.expovariate(1 / PROPOSAL_NS_MEAN)), self._next_proposal)

    def _some_commands(self, machine: Machine) -> None:
        self.propose(machine, [self.rng.randbytes(8) for _ in range(self.rng.randint(1, 3))])

    def _try(self, machine: Machine, call: Callable[[Machine], None]) -> None:
        """An input that may be refused."""
        try:
            call(machine)
        except (RaftError, NoClusterTime):
            pass
        finally:
            self._drain(machine)

    def _draw_clock(self, machine: Machine) -> None:
        ppm = self.options.drift_ppm
        machine.clock_ppm = self.rng.choice([-ppm, ppm, 0, self.rng.randint(-ppm, ppm)])
        machine.wall_offset_ns = self.rng.randint(-SECOND, SECOND)

    def _running(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.replica is not None]

    def _leader_or_any(self) -> Machine | None:
        """Faults seek the leader: half of them hit it."""
        leader = self.leader()
        if leader is not None and self.rng.random() < 0.5:
            return leader
        running = self._running()
        return self.rng.choice(running) if running else None

    # Faults

    def _crash_one(self) -> None:
        if (machine := self._leader_or_any()) is not None:
            node = machine.node
            self.crash(node)
            self.after(self.rng.randrange(5 * MILLISECOND, 900 * MILLISECOND), lambda: self.start(node))

    def _pause_one(self) -> None:
        if (machine := self._leader_or_any()) is not None:
            self._pause_for_a_while(machine)

    def _pause_for_a_while(self, machine: Machine) -> None:
        node = machine.node
        self.pause(node)
        self.after(self.rng.randrange(10 * MILLISECOND, 1_600 * MILLISECOND), lambda: self.resume(node))

    def _pause_before_outputs(self) -> None:
        """For a while, members stop now and then between an input and what it leads to."""
        self._pause_chance = 0.02
        self.after(300 * MILLISECOND, self._end_storm)

    def _end_storm(self) -> None:
        self._pause_chance = 0.0

    def _stops(self, machine: Machine, sender: NodeId, message: ReplicaMessage) -> bool:
        del sender, message
        if self.rng.random() >= self._pause_chance:
            return False
        node = machine.node
        self.after(self.rng.randrange(10 * MILLISECOND, 1_200 * MILLISECOND), lambda: self.resume(node))
        return True

    def _cut_some(self) -> None:
        """A member, or any set of links, in one direction or both."""
        nodes = list(self.machines)
        victim = self._leader_or_any()
        if victim is not None and self.rng.random() < 0.6:
            side = {victim.node}
        else:
            side = set(self.rng.sample(nodes, self.rng.randint(1, len(nodes))))
        out = {(a, b) for a in nodes for b in nodes if a in side and b not in side}
        back = {(b, a) for a, b in out}
        cut = self.rng.choice([out | back, out | back, out, back])
        if self.rng.random() < 0.3:
            cut = {link for link in sorted(cut) if self.rng.random() < 0.6}
        self._cut(cut)

    def _split(self) -> None:
        """The leader and as many others as make no majority, cut off from the rest."""
        leader = self.leader()
        if leader is None or leader.replica is None:
            return
        membership = leader.replica.core.membership
        others = [node for node in membership.members if node != leader.node]
        self.rng.shuffle(others)
        side = {leader.node}
        for node in others:
            if not membership.has_quorum({*side, node}) and self.rng.random() < 0.8:
                side.add(node)
        out = {(a, b) for a in self.machines for b in self.machines if a in side and b not in side}
        self._cut(out | {(b, a) for a, b in out})

    def _cut(self, links: set[tuple[NodeId, NodeId]]) -> None:
        self.network.cut |= links
        heal_after = self.rng.randrange(20 * MILLISECOND, 2_200 * MILLISECOND)
        self.after(heal_after, lambda: self.network.cut.difference_update(links))

    def _change_weather(self) -> None:
        rng, network = self.rng, self.network
        network.loss = rng.choice([0, 0, 0.02, 0.2])
        network.duplicate = rng.choice([0, 0.1])
        network.slow_chance = rng.choice([0, 0, 0.01, 0.1])
        network.slow_ns_max = rng.choice([5, 50, 400, 1_500]) * MILLISECOND
        for machine in self.machines.values():
            machine.apply_ns = rng.choice([1, 1, 5, 40]) * MILLISECOND
            machine.write_ns = rng.choice([1, 1, 5, 40]) * MILLISECOND

    def _hang_one(self) -> None:
        if (machine := self._leader_or_any()) is not None:
            node = machine.node
            self.set_apply_hangs(node, True)
            self.after(self.rng.randrange(50 * MILLISECOND, 3 * SECOND), lambda: self.set_apply_hangs(node, False))

    def _change_members(self) -> None:
        for machine in self._running():
            if machine.replica is not None and machine.replica.core.is_leader:
                self._try(machine, self._propose_members)

    def _propose_members(self, machine: Machine) -> None:
        member = machine.member
        if member is None:
            return
        target = self._draw_membership(member.replica.core.membership)
        for node in target.members:
            if node not in self.machines:
                self._draw_clock(self.add_machine(node))
                self.start(node)
        member.replica.propose_membership(target, machine.now(self.t))

    def _draw_membership(self, current: Membership) -> Membership:
        """One to three members added, promoted, demoted or dropped; who was dropped never returns."""
        voters, learners = set(current.voters), set(current.learners)
        for _ in range(self.rng.randint(1, 3)):
            change = self.rng.choice(["add voter", "add learner", "promote", "demote", "drop voter", "drop learner"])
            fresh = NodeId(f"n{len(self.machines) + 1}")
            may_add = len(voters | learners) < MEMBERS_MAX and len(self.machines) < MACHINES_MAX
            if change == "add voter" and may_add and fresh not in learners:
                voters.add(fresh)
            elif change == "add learner" and may_add and fresh not in voters:
                learners.add(fresh)
            elif change == "promote" and learners:
                node = self.rng.choice(sorted(learners))
                learners.remove(node)
                voters.add(node)
            elif change == "drop learner" and learners:
                learners.remove(self.rng.choice(sorted(learners)))
            elif change in ("demote", "drop voter") and len(voters) > VOTERS_MIN:
                node = self.rng.choice(sorted(voters))
                voters.remove(node)
                if change == "demote":
                    learners.add(node)
        return Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))

    def _hand_over(self) -> None:
        for machine in self._running():
            if machine.replica is not None and machine.replica.core.is_leader:
                self._try(machine, self._transfer)

    def _transfer(self, machine: Machine) -> None:
        if machine.member is not None:
            target = self.rng.choice(machine.member.replica.core.membership.voters)
            machine.member.replica.transfer_leadership(target, machine.now(self.t))

    def _compact_one(self) -> None:
        """Far enough that members that lag need a snapshot."""
        if (machine := self._leader_or_any()) is not None and machine.write_done_at <= self.t:
            machine.disk.log.compact(LogIndex(min(machine.disk.state.index, machine.disk.log.last_index)))

    def _greet_some(self) -> None:
        """Links break and come up again: a whole disk must never be taken for a rolled-back one."""
        for knowing in self._running():
            for known in self._running():
                self.greet(knowing, known)

    # The end

    def _make_peace(self) -> None:
        self._pause_chance = 0.0
        self.network.cut.clear()
        self.network.loss = self.network.duplicate = self.network.slow_chance = 0.0
        for machine in list(self.machines.values()):
            machine.apply_ns = machine.write_ns = MILLISECOND
            self.set_apply_hangs(machine.node, False)
            self.resume(machine.node)
            self.start(machine.node)

    def _demand_progress(self) -> None:
        """A write settles, and all members of the configuration serve."""
        self.run_while(lambda: not self._probe(), ns_max=PEACE_NS_MAX)
        probe = self.settled
        self.run_while(lambda: not self._all_serve(probe), ns_max=PEACE_NS_MAX)

    def _probe(self) -> bool:
        """Proposes at each leader until what was settled at the beginning of peace is left behind."""
        leader = self.leader()
        if leader is not None and leader.replica is not None and not leader.replica.core.membership.is_joint:
            if leader.replica.core.last_index <= leader.replica.settled_index:
                self._try(leader, self._some_commands)
            return leader.replica.core.own_term_committed and self.settled >= (leader.replica.core.term_start or 0) + 1
        return False

    def _all_serve(self, index: LogIndex) -> bool:
        leader = self.leader()
        if leader is None or leader.replica is None:
            return False
        members = leader.replica.core.membership.members
        require(bool(members), "no members")
        return all(self.may_serve(node) and self._applied(node) >= index for node in members)

    def _applied(self, node: NodeId) -> LogIndex:
        replica = self.machines[node].replica
        return replica.applied_index if replica is not None else LogIndex(0)


def run_seed(seed: int | str, options: Options | None = None) -> Report:
    """One run. What it raises names no seed: the caller knows it."""
    return Chaos(seed, options).run()
