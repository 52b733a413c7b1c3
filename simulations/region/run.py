"""One run of the region simulator: a region of whole nodes and its clients, from a seed to a report.

faults and work    for as long as the spec says
liveness           a random majority is healed, the rest is lost for good: all of the majority must serve again, and
                   a write must come back
peace              the rest returns, unfinished joins and removals come to their end: all members must serve
checks             what clients saw, and what is on the disks
"""

import random
import time
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from keycluster.cluster.marks import all_marks, forget_hits
from keycluster.node.raft_driver import DEFAULT_RETENTION, LogRetention
from keycluster.simulations.checkers.check import check_all
from keycluster.simulations.checkers.history import History, OutcomeKind
from keycluster.simulations.faults import DiskEffect, Fault, FaultKind, draw_schedule
from keycluster.simulations.region.amid_change import draw_survivors
from keycluster.simulations.region.client_faults import CLIENT_STRIKES
from keycluster.simulations.region.deterministic import run_deterministically
from keycluster.simulations.region.finish import demand_liveness, make_peace
from keycluster.simulations.region.lag_faults import LAG_STRIKES
from keycluster.simulations.region.leap_faults import LEAP_STRIKES
from keycluster.simulations.region.loss_faults import LOSS_STRIKES
from keycluster.simulations.region.lost_rows import LOST_ROW_STRIKES
from keycluster.simulations.region.member_faults import MEMBER_STRIKES
from keycluster.simulations.region.nemesis import Nemesis, Strike
from keycluster.simulations.region.network_faults import NETWORK_STRIKES
from keycluster.simulations.region.node import NodeState
from keycluster.simulations.region.node_faults import NODE_STRIKES
from keycluster.simulations.region.region import RegionShape, SimRegion, open_region
from keycluster.simulations.region.template import Template, template_of
from keycluster.simulations.region.unanswered import Unanswered
from keycluster.simulations.region.workload import SimWorkload
from keycluster.simulations.runs import Failure, RunSpec, SeedReport
from keycluster.simulations.trace import Trace, What
from keycluster.simulations.workload.plan import Plan, draw_plan

STRIKES: Final[dict[FaultKind, Strike]] = {
    **NETWORK_STRIKES,
    **NODE_STRIKES,
    **CLIENT_STRIKES,
    **MEMBER_STRIKES,
    **LOSS_STRIKES,
    **LOST_ROW_STRIKES,
    **LAG_STRIKES,
    **LEAP_STRIKES,
}
SUPPORTED: Final[tuple[FaultKind, ...]] = tuple(kind for kind in FaultKind if kind in STRIKES)

GAP_SCALE: Final = 1.5  # Fewer faults to a second than in the core simulator: a node has more to do in between.
BEGIN_S_MAX: Final = 20.0
REGION: Final = "region"
LAST_LOOK: Final = "last-look"
VOTERS: Final = (3, 3, 3, 5, 5)
LEARNERS: Final = (0, 0, 1, 2)
AZS: Final = (3, 3, 3, 2, 1)


RETENTIONS: Final = (DEFAULT_RETENTION, LogRetention(kept=8, kept_longest=64, slack=8), LogRetention(64, 256, 16))
"""Logs that are cut early make members that lag need snapshots."""
WAL_PAGES: Final = (30, 100, 300)
"""Where checkpoints begin: a short run shall see many, and what nodes scan when they start shall be short."""
AMID_CHANGE_CHANCE: Final = 0.5
"""Where members changed: that the region must go on while they still do, instead of after peace."""
PROOF_S: Final = 15.0
BLOBS_MAX: Final = 200  # Of the ciphertexts of a run, opened again at its end.
TIME_CONFIRMED_CHANCE: Final = 0.7
"""Regions were made long before they run, so time has leapt and nothing may be destroyed, until an operator says so."""
DAYS_LATER: Final = (0, 0, 8, 8, 15, 31, 120)
"""Clocks go on by so much before the last look: keys whose waiting period is over are to be gone."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """All that the seed decides before the run begins."""

    shape: RegionShape
    retention: LogRetention
    wal_pages_large: int
    faults: tuple[Fault, ...]
    plan: Plan


def run(spec: RunSpec, *, trace: Trace | None = None) -> SeedReport:
    """Never raises for a finding, nor for a fault of its own: both are in the report's failures."""
    trace = trace if trace is not None else Trace()
    report = SeedReport(spec)
    began = time.perf_counter()
    try:
        drawn = _draw(spec)
        report.drawn = replace(
            spec,
            nodes=drawn.shape.voters,
            clients=drawn.plan.clients,
            operations_per_s=drawn.plan.rate_per_s,
            faults=drawn.faults,
        )
        template = template_of(drawn.shape)
        forget_hits()
        this = _Run(spec, drawn, template, trace=trace, report=report)
        run_deterministically(this.run, seed=spec.seed)
        this.judge()
    except Exception as error:  # noqa: BLE001  # A simulator that fails has found nothing, and must say so.
        report.failures.append(Failure("simulator", "".join(traceback.format_exception(error))))
    report.marks.update({mark.name: mark.count for mark in all_marks() if mark.count and REGION in mark.within})
    report.trace_sha256 = trace.sha256()
    report.wall_s = time.perf_counter() - began
    return report


def _draw(spec: RunSpec) -> _Drawn:
    rng = random.Random(f"shape/{spec.seed}")
    voters, learners, azs = rng.choice(VOTERS), rng.choice(LEARNERS), rng.choice(AZS)
    shape = RegionShape(voters=spec.nodes or voters, learners=learners, azs=azs)
    faults = spec.faults
    if faults is None:
        kinds = SUPPORTED if spec.kinds is None else [kind for kind in spec.kinds if kind in STRIKES]
        nodes = shape.voters + shape.learners
        faults = draw_schedule(spec.seed, time_ns=spec.time_ns, kinds=kinds, nodes=nodes, gap_scale=GAP_SCALE)
    return _Drawn(
        shape=shape,
        retention=rng.choice(RETENTIONS),
        wal_pages_large=rng.choice(WAL_PAGES),
        faults=faults,
        plan=draw_plan(spec.seed, clients=spec.clients, rate_per_s=spec.operations_per_s),
    )


def _disk_effects(region: SimRegion) -> Counter[str]:
    """Of all of its disks."""
    counts = [node.disk.counts for node in region.nodes.values()]
    return +Counter(
        {
            DiskEffect.LOST.value: sum(each.writes_lost for each in counts),
            DiskEffect.TORN.value: sum(each.writes_torn for each in counts),
            DiskEffect.REFUSED.value: sum(each.refused for each in counts),
        }
    )


class _Run:
    """One run, inside `run_deterministically`; then judged."""

    def __init__(self, spec: RunSpec, drawn: _Drawn, template: Template, *, trace: Trace, report: SeedReport) -> None:
        self._spec = spec
        self._drawn = drawn
        self._template = template
        self._trace = trace
        self._report = report
        self._history = History()
        self._unanswered = Unanswered(self._history)

    async def run(self) -> None:
        report = self._report
        async with open_region(f"{self._spec.seed}", trace=self._trace) as region:
            try:
                await self._run_in(region)
            finally:
                report.simulated_ns = region.wire.now_ns
                report.effects.update(_disk_effects(region))
        report.failures += region.checks.failures
        report.events = region.wire.fired

    async def _run_in(self, region: SimRegion) -> None:
        drawn, template, spec = self._drawn, self._template, self._spec
        region.checks.on_applied, region.checks.on_settled = self._unanswered.moved, self._unanswered.settled
        nemesis = Nemesis(region, strikes=STRIKES, trace=self._trace)
        region.retention, region.wal_pages_large = drawn.retention, drawn.wal_pages_large
        region.put_up(template.shape, template.files, template.client_ca)
        with trio.move_on_after(BEGIN_S_MAX) as beginning:
            await region.all_serve(template.shape)
        if beginning.cancelled_caught:
            region.checks.found("liveness", "the region didn't come up at all")
        elif random.Random(f"time/{spec.seed}").random() < TIME_CONFIRMED_CHANCE:
            await region.operate("ConfirmTime")
        work = SimWorkload(region, drawn.plan, seed=f"{spec.seed}", history=self._history, trace=self._trace)
        nemesis.clients, nemesis.programs = work.names, work.clients
        nemesis.one_off = work.one_off
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.run)
            try:
                await nemesis.run(drawn.faults, time_ns=spec.time_ns)
            finally:
                self._report.faults.update(nemesis.counts)
            prove = partial(work.prove_alive, seconds=PROOF_S)
            rng = random.Random(f"finish/{spec.seed}")
            kept = None
            is_broken = any(node.state is NodeState.BROKEN for node in region.nodes.values())
            if region.members_move or is_broken or nemesis.doubtful is not None:
                kept = draw_survivors(nemesis, rng) if rng.random() < AMID_CHANGE_CHANCE else None
                if kept is None:
                    await make_peace(nemesis, prove=prove)
            await demand_liveness(nemesis, rng, prove=prove, kept=kept)
            await make_peace(nemesis, prove=prove)
            await work.stop()
        await self._look_at_the_end(region, work, rng)
        self._report.failures += work.failures

    async def _look_at_the_end(self, region: SimRegion, work: SimWorkload, rng: random.Random) -> None:
        days = rng.choice(DAYS_LATER)
        if days:
            try:
                await work.let_time_pass(days=days)
            except trio.TooSlowError:
                region.checks.found("liveness", f"what is due {days} days later isn't done")
        asked = len(self._history.calls)
        await work.last_look(blobs_max=BLOBS_MAX)
        for call in self._history.calls[asked:]:
            if call.kind not in (OutcomeKind.OK, OutcomeKind.REFUSED):
                region.checks.found(LAST_LOOK, f"all is well, and this has no answer: {call.describe()}")
        region.checks.look_at_logs()
        region.checks.look_on_disks()
        region.checks.look_at_doors()

    def judge(self) -> None:
        """By what clients saw."""
        self._report.operations.update(self._history.counts())
        self._unanswered.resolve()
        for failure in check_all(self._history):
            self._trace.note(failure.at_ns or self._report.simulated_ns, "checks", What.OFFENCE, failure.checker)
            self._report.failures.append(failure)
