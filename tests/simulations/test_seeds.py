"""Seeds of both simulators: some that are always the same, and some that nobody has tried yet.

The fixed ones keep simulators and checkers working; the fresh ones look for bugs, each time elsewhere. Where one of
these fails, the message names the seed and the command that runs it again.
"""

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest

from keycluster.cluster.types import SECOND
from keycluster.simulations.campaign.pool import Done, Job, Pool
from keycluster.simulations.campaign.totals import USES, WRITES
from keycluster.simulations.campaign.worker import MODULES
from keycluster.simulations.runs import RunSpec, SeedReport, Simulator

LIMIT_S = 100.0


@dataclass(frozen=True, slots=True)
class Set:
    simulator: Simulator
    time_s: int
    fixed: int
    fresh: int


SETS = [Set(Simulator.CORE, 20, fixed=8, fresh=8), Set(Simulator.REGION, 3, fixed=2, fresh=2)]


def runs(simulator: Simulator, *, first: int, count: int, time_s: int) -> list[Done]:
    """On all cores."""
    spec = RunSpec(simulator, first, time_s * SECOND)
    jobs = [Job(replace(spec, seed=first + number)) for number in range(count)]
    with Pool(MODULES[simulator], workers=len(os.sched_getaffinity(0)), limit_s=LIMIT_S) as pool:
        return list(pool.completed(jobs))


def succeeded(report: SeedReport, operations: Iterable[str]) -> int:
    return sum(report.operations[f"{operation} ok"] for operation in operations)


def demand_nothing_found(done: list[Done]) -> None:
    """In runs that have shown something: writes come of what is asked for when all are well again, at the latest."""
    for one in done:
        spec, failures = one.report.spec, one.report.failures
        again = f"keycluster simulate --{spec.simulator.value} --seed {spec.seed} --time {spec.time_ns // SECOND}"
        told = "\n".join(f"{failure.checker}: {failure.message}" for failure in failures)
        assert not failures, f"seed {spec.seed} failed; again: {again}\n{told}"
        assert succeeded(one.report, WRITES), f"seed {spec.seed}: no write succeeded; again: {again}"
        assert succeeded(one.report, USES), f"seed {spec.seed}: no use succeeded; again: {again}"


@pytest.mark.parametrize("these", SETS, ids=lambda these: these.simulator.value)
def test_fixed_seeds_find_nothing(these: Set) -> None:
    """As they did the last time. Fresh ones may have no fault at all: they are short and few."""
    done = runs(these.simulator, first=1, count=these.fixed, time_s=these.time_s)
    demand_nothing_found(done)
    assert sum(one.report.faults.total() for one in done) > 0


@pytest.mark.parametrize("these", SETS, ids=lambda these: these.simulator.value)
def test_fresh_seeds_find_nothing(these: Set) -> None:
    """Which nobody has tried yet."""
    first = secrets.randbits(48)
    demand_nothing_found(runs(these.simulator, first=first, count=these.fresh, time_s=these.time_s))
