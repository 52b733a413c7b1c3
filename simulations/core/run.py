"""One run: a time of faults, then liveness, then the last checks.

Liveness (as TigerBeetle's VOPR has it): a random majority of the voters is healed, the rest stay as they are at best:
down, stopped, cut off, or up with a disk or an apply that gets nothing done, for good. The majority must serve again
and make a change within a bound. Then the rest is healed too, and everybody must serve and leave nothing unanswered.
"""

import random
import time
import traceback
from collections import Counter
from typing import Final

from keycluster.cluster import marks
from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.replica import StateDiverged
from keycluster.cluster.types import SECOND, NodeId
from keycluster.cluster.witness import RolledBack
from keycluster.simulations.core.contract import DIVERGED
from keycluster.simulations.core.door import WRITE
from keycluster.simulations.core.electable import memberships_on
from keycluster.simulations.core.findings import Found, demand
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.nemesis import ACTS, Nemesis
from keycluster.simulations.core.peace import Peace
from keycluster.simulations.core.rollback import WITNESS
from keycluster.simulations.core.served import ServedWorld
from keycluster.simulations.core.shape import Shape, draw_shape, drawn
from keycluster.simulations.faults import DiskEffect, FaultKind
from keycluster.simulations.runs import Failure, RunSpec, SeedReport
from keycluster.simulations.trace import Trace, What

SUPPORTED: Final[tuple[FaultKind, ...]] = tuple(ACTS)

RECOVERY_NS_MAX = 10 * SECOND
"""Until a healed majority serves and has made a change: an election or some, the leases of the silent, a snapshot."""

LIVENESS = "liveness"
INVARIANT = "invariant"
EXCEPTION = "exception"
LOST = "acknowledged-lost"


def run(spec: RunSpec, *, trace: Trace | None = None) -> SeedReport:
    """Never raises for a finding: it is in the report. With a trace given, its keeper draws the time line."""
    begun = time.perf_counter()
    marks.forget_hits()
    shape = draw_shape(spec, SUPPORTED)
    core = CoreRun(spec, shape, trace or Trace())
    failures = core.run()
    return SeedReport(
        spec=spec,
        trace_sha256=core.trace.sha256(),
        simulated_ns=core.t,
        wall_s=time.perf_counter() - begun,
        events=core.steps,
        faults=core.nemesis.counts,
        effects=+Counter({DiskEffect.LOST.value: core.storage.writes_lost}),
        drawn=drawn(spec, shape),
        operations=core.callers.history.counts(),
        marks=Counter({mark.name: mark.count for mark in marks.all_marks() if mark.count}),
        failures=failures,
    )


class CoreRun(ServedWorld):
    def __init__(self, spec: RunSpec, shape: Shape, trace: Trace) -> None:
        self._shape = shape
        super().__init__(
            f"core/{spec.seed}",
            clients=shape.clients,
            operations_per_s=shape.operations_per_s,
            voters=shape.voters,
            learners=shape.learners,
            raft=shape.raft(),
            network=shape.network(),
            trace=trace,
        )
        self.nemesis = Nemesis(self, shape.faults, drift_ppm=shape.drift_ppm)
        self._time_ns = spec.time_ns
        self._rng = random.Random(f"liveness/{spec.seed}")

    def add_machine(self, node: NodeId, *, ppm: int = 0) -> Machine:
        clock = self._shape.clock_of(node)
        machine = super().add_machine(node, ppm=ppm or clock.ppm)
        machine.az = self._shape.az_of(node)
        machine.wall_offset_ns = machine.wall_offset_founded_ns = clock.wall_offset_ns + self.wall_leapt_ns
        return machine

    def run(self) -> list[Failure]:
        """The whole run."""
        try:
            self.start_all()
            self.callers.start()
            self.nemesis.start()
            self.run_until(self._time_ns)
            self._recover_with_majority()
            self._recover_all()
            return [self._failure_of(found, None) for found in self.callers.check(self.safety.committed)]
        except Exception as error:  # noqa: BLE001  # Whatever it is, it is this run's finding.
            return [self._failure_of(error, self.t)]

    def _failure_of(self, error: Exception, at_ns: int | None) -> Failure:
        failure = failure_of(error, at_ns)
        calls = error.calls if isinstance(error, Found) else ()
        self.trace.note(self.t, "nemesis", What.OFFENCE, failure.checker, failure.message, *calls)
        return failure

    # Liveness

    def _drop_changes_to_come(self) -> None:
        """Of members: one that waits for leases, or travels after its leader's death, could make the region depend on
        nodes that are about to be frozen."""
        for node, machine in self.machines.items():
            if machine.member is not None and machine.member.replica.membership_change_waits:
                self.crash(node)
        self.drop_frames_of_the_dead()

    def _recover_with_majority(self) -> None:
        self._drop_changes_to_come()
        self.nemesis.end()  # Puts newest disks back, which may know of other configurations.
        healed = self._draw_majority()
        self.trace.note(self.t, "nemesis", "heals", *healed)
        for node in self.machines:
            if node in healed:
                self.resume(node)
                self.start(node)
            else:
                self._freeze(node)
        self._demand_service(healed)

    def _draw_majority(self) -> list[NodeId]:
        """Enough of every configuration that anybody may still go by: on disks, and in the memory of those who run."""
        machines = self.machines.values()
        memberships = [membership for machine in machines for membership in memberships_on(machine.disk)]
        memberships += [machine.member.core.membership for machine in machines if machine.member is not None]
        nodes = list(self.machines)
        self._rng.shuffle(nodes)
        healed: list[NodeId] = []
        for node in nodes:
            if any(membership.is_voter(node) and not membership.has_quorum(healed) for membership in memberships):
                healed.append(node)
        return sorted(healed)

    def _freeze(self, node: NodeId) -> None:
        """For good; some of these can still vote, lead even, and then have to give that up."""
        how = self._rng.choice(("down", "stopped", "cut off", "its apply hangs", "its disk stalls"))
        self.trace.note(self.t, node, "stays frozen", how)
        match how:
            case "down":
                self.crash(node)
            case "stopped":
                self.pause(node)
            case "cut off":
                self.cut_off(node)
            case "its apply hangs":
                self.resume(node)
                self.start(node)
                self.set_apply_hangs(node, True)
            case _:
                self.resume(node)
                self.start(node)
                self.set_disk_stalls(node, True)

    def _recover_all(self) -> None:
        self.network.heal()
        for node in list(self.machines):
            self.set_apply_hangs(node, False)
            self.set_disk_stalls(node, False)
            self.resume(node)
            self.start(node)
        self._demand_service(list(self.machines))
        peace = Peace(self)
        peace.require_obeyed()
        self.callers.resting = True
        self.run_for(SECOND)
        self.require_nothing_lost()
        self._require_nothing_waits()
        peace.require_quiet()
        peace.require_soon_settled()

    def _demand_service(self, healed: list[NodeId]) -> None:
        """Those of `healed` that are members serve, a change is made, and none of members is left half done."""
        deadline = self.t + RECOVERY_NS_MAX
        acknowledged = self.acknowledged.count
        change = self.callers.ask_now(WRITE)
        while self.acknowledged.count == acknowledged or not self._all_serve(healed) or self._members_change():
            if self.t >= deadline:
                raise Found(LIVENESS, self._what_hangs(healed, acknowledged))
            self.run_for(SECOND // 20)
            if change.outcome is not None and self.acknowledged.count == acknowledged:
                change = self.callers.ask_now(WRITE)  # Given up: a lone client among many dead nodes may have to.

    def _all_serve(self, healed: list[NodeId]) -> bool:
        leader = self.leader()
        if leader is None or leader.replica is None:
            return False
        members = leader.replica.core.committed_membership.members
        return all(self.may_serve(node) for node in healed if node in members)

    def _members_change(self) -> bool:
        """A change that has begun ends by itself, once the leases of those who leave have run out (L9)."""
        leader = self.leader()
        replica = leader.replica if leader is not None else None
        return replica is not None and (replica.core.membership.is_joint or replica.membership_change_waits)

    def _what_hangs(self, healed: list[NodeId], acknowledged: int) -> str:
        leader = self.leader()
        silent = [node for node in healed if not self.may_serve(node)]
        changes = "changes are made" if self.acknowledged.count > acknowledged else "no change is made"
        led = f"{leader.node} leads" if leader is not None else "nobody leads"
        if self._members_change():
            led += ", a change of members is half done"
        return (
            f"{RECOVERY_NS_MAX / SECOND:.0f} s after {' '.join(healed)} were healed {led}, {changes}, "
            f"not serving: {' '.join(silent) or 'nobody'}"
        )

    def require_nothing_lost(self) -> None:
        """What was acknowledged is in the state of everybody who serves."""
        for node, machine in self.machines.items():
            if self.may_serve(node):
                demand(
                    machine.disk.state.index >= self.acknowledged.index,
                    LOST,
                    f"{node} serves {machine.disk.state.index}, {self.acknowledged.index} was acknowledged",
                )

    def _require_nothing_waits(self) -> None:
        """Where everybody serves and nothing is changed, all that was seen is soon known to be settled."""
        for node, machine in self.machines.items():
            waiting = machine.door.unsettled if self.may_serve(node) and machine.door is not None else []
            demand(not waiting, LIVENESS, f"{node} serves, and {len(waiting)} of its reads wait to be settled")


def failure_of(error: Exception, at_ns: int | None) -> Failure:
    """What a run ended with."""
    match error:
        case Found():
            return Failure(error.checker, str(error), at_ns)
        case StateDiverged():
            return Failure(DIVERGED, str(error), at_ns)
        case RolledBack():
            return Failure(WITNESS, str(error), at_ns)
        case InvariantBroken():
            return Failure(INVARIANT, str(error), at_ns)
    [*_, last] = traceback.extract_tb(error.__traceback__)
    return Failure(EXCEPTION, f"{type(error).__name__}: {error} ({last.name})", at_ns)
