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
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import trio

from keycluster.cluster.marks import all_marks, forget_hits
from keycluster.simulations.faults import Fault, FaultKind, draw_schedule
from keycluster.simulations.region.deterministic import run_deterministically
from keycluster.simulations.region.finish import demand_liveness, make_peace
from keycluster.simulations.region.logs import captured_logs, is_fault_of_ours, line_of
from keycluster.simulations.region.loss_faults import LOSS_STRIKES
from keycluster.simulations.region.member_faults import MEMBER_STRIKES
from keycluster.simulations.region.nemesis import Nemesis, Strike
from keycluster.simulations.region.network_faults import NETWORK_STRIKES
from keycluster.simulations.region.node_faults import NODE_STRIKES
from keycluster.simulations.region.region import RegionShape, SimRegion, open_region
from keycluster.simulations.region.template import Template, template_of
from keycluster.simulations.runs import Failure, RunSpec, SeedReport
from keycluster.simulations.trace import Trace

STRIKES: Final[dict[FaultKind, Strike]] = {**NETWORK_STRIKES, **NODE_STRIKES, **MEMBER_STRIKES, **LOSS_STRIKES}
SUPPORTED: Final[tuple[FaultKind, ...]] = tuple(kind for kind in FaultKind if kind in STRIKES)

GAP_SCALE: Final = 2.0  # Fewer faults to a second than in the core simulator: a node has more to do in between.
BEGIN_S_MAX: Final = 20.0
VOTERS: Final = (3, 3, 3, 5, 5)
LEARNERS: Final = (0, 0, 1, 2)
AZS: Final = (3, 3, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """All that the seed decides before the run begins."""

    shape: RegionShape
    faults: tuple[Fault, ...]


def run(spec: RunSpec, *, trace: Trace | None = None) -> SeedReport:
    """Never raises for a finding, nor for a fault of its own: both are in the report's failures."""
    trace = trace if trace is not None else Trace()
    report = SeedReport(spec)
    began = time.perf_counter()
    try:
        drawn = _draw(spec)
        report.drawn = replace(spec, nodes=drawn.shape.voters, faults=drawn.faults)
        template = template_of(drawn.shape)
        forget_hits()
        this = _Run(spec, drawn, template, trace=trace, report=report)
        run_deterministically(this.run, seed=spec.seed)
    except Exception as error:  # noqa: BLE001  # A simulator that fails has found nothing, and must say so.
        report.failures.append(Failure("simulator", _describe(error)))
    report.marks.update({mark.name: mark.count for mark in all_marks() if mark.count})
    report.trace_sha256 = trace.sha256()
    report.wall_s = time.perf_counter() - began
    return report


def _draw(spec: RunSpec) -> _Drawn:
    rng = random.Random(f"shape/{spec.seed}")
    voters, learners, azs = rng.choice(VOTERS), rng.choice(LEARNERS), rng.choice(AZS)
    shape = RegionShape(voters=spec.nodes or voters, learners=learners, azs=azs)
    kinds = SUPPORTED if spec.kinds is None else [kind for kind in spec.kinds if kind in STRIKES]
    faults = spec.faults
    if faults is None:
        faults = draw_schedule(spec.seed, time_ns=spec.time_ns, kinds=kinds, gap_scale=GAP_SCALE)
    return _Drawn(shape, faults)


class _Run:
    """One run, inside `run_deterministically`."""

    def __init__(self, spec: RunSpec, drawn: _Drawn, template: Template, *, trace: Trace, report: SeedReport) -> None:
        self._spec = spec
        self._drawn = drawn
        self._template = template
        self._trace = trace
        self._report = report

    async def run(self) -> None:
        async with open_region(str(self._spec.seed), trace=self._trace) as region:
            with captured_logs(partial(self._take_line, region)):
                try:
                    await self._run_in(region)
                finally:
                    self._report.failures += region.checks.failures
                    self._report.simulated_ns = region.wire.now_ns
                    self._report.events = region.wire.fired

    async def _run_in(self, region: SimRegion) -> None:
        template, spec = self._template, self._spec
        nemesis = Nemesis(region, strikes=STRIKES, trace=self._trace)
        rng = random.Random(f"finish/{spec.seed}")
        region.put_up(template.shape, template.files, template.client_ca)
        with trio.move_on_after(BEGIN_S_MAX) as beginning:
            await region.all_serve(template.shape)
        if beginning.cancelled_caught:
            region.checks.found("liveness", "the region didn't come up at all")
        await nemesis.run(self._drawn.faults, time_ns=spec.time_ns)
        self._report.faults.update(nemesis.counts)
        if region.members_move:
            await make_peace(nemesis, prove=partial(_prove, region))
        await demand_liveness(nemesis, rng, prove=partial(_prove, region))
        await make_peace(nemesis, prove=partial(_prove, region))

    def _take_line(self, region: SimRegion, lane: str, level: str, event: str, rest: Mapping[str, Any]) -> None:
        line = line_of(event, rest)
        self._trace.note(region.wire.now_ns, lane, level, line)
        if is_fault_of_ours(level, event, rest):
            region.checks.found("log", f"{lane}: {line}")


async def _prove(region: SimRegion) -> bool:
    await region.operate("CreateAccessKey", account="123456789012")
    return True


def _describe(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
