"""A campaign: the runs of many seeds, on this machine or on many, each counted once."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from keycluster.cluster.types import SECOND
from keycluster.simulations.campaign import remote
from keycluster.simulations.campaign.findings import Findings
from keycluster.simulations.campaign.pool import Done, Job, Pool
from keycluster.simulations.campaign.totals import Totals
from keycluster.simulations.runs import RunSpec, SeedReport

SIMULATED_S_PER_S = 100.0  # Of the core simulator, interpreted, on one core.


@dataclass(frozen=True, slots=True)
class CampaignOptions:
    template: RunSpec
    """What all runs have in common; its seed is the first."""
    module: str
    """The simulator's."""
    count: int | None
    """Seeds, one after the other; None: as long as there is time."""
    seconds: float | None = None
    """No run begins later."""
    workers: int = 1
    limit_s: float = 300.0
    """Of wall time, for one run."""
    scheduler: str | None = None
    """Of Dask: runs are done by its workers instead of ours."""
    is_compiled: bool | None = False
    """Runs are done by code compiled by mypyc (`compiled.py`). None: on this machine, where it is there or pays."""

    @property
    def simulated_s(self) -> float:
        """Of all runs together; of a campaign that is bounded by real time, about what one core does in it."""
        if self.count is None:
            return (self.seconds or 0.0) * SIMULATED_S_PER_S
        return self.count * self.template.time_ns / SECOND

    def jobs(self) -> Iterator[Job]:
        ends = None if self.seconds is None else time.monotonic() + self.seconds
        seed = self.template.seed
        while (self.count is None or seed < self.template.seed + self.count) and (
            ends is None or time.monotonic() < ends
        ):
            yield Job(replace(self.template, seed=seed))
            seed += 1


OnDone = Callable[[SeedReport, Path | None], None]
"""Called after each run, with the replay file of one that failed."""


def run_campaign(
    options: CampaignOptions,
    totals: Totals,
    findings: Findings,
    on_done: OnDone,
    *,
    compiled: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """All runs; here by the code in the folder `compiled`, elsewhere by what is compiled there. `tell` hears what is
    waited for before the first. What was done before an exception (Ctrl-C too) is in `totals` and `findings`.

    Raises `pool.WorkerWontStart`, `remote.RemoteFailed`, and `OSError` where a failure can't be written down.
    """
    findings.make_folder()
    if options.scheduler is not None:
        remotely = remote.completed(
            options.scheduler,
            options.module,
            options.jobs(),
            limit_s=options.limit_s,
            is_compiled=bool(options.is_compiled),
            tell=tell,
        )
        _count(remotely, totals, findings, on_done)
        return
    with Pool(options.module, workers=options.workers, limit_s=options.limit_s, compiled=compiled) as pool:
        _count(pool.completed(options.jobs()), totals, findings, on_done)


def _count(outcomes: Generator[Done], totals: Totals, findings: Findings, on_done: OnDone) -> None:
    seen: set[int] = set()
    with contextlib.closing(outcomes):
        for done in outcomes:
            if done.report.spec.seed in seen:
                continue
            seen.add(done.report.spec.seed)
            totals.add(done.report, done.marks)
            on_done(done.report, _kept(done.report, findings, on_done) if done.report.failures else None)


def _kept(report: SeedReport, findings: Findings, on_done: OnDone) -> Path:
    try:
        return findings.keep(report)
    except OSError:
        on_done(report, None)  # Its seed is told at least.
        raise
