"""Whole runs: the same for the same seed anywhere, without findings, and able to find."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import structlog

from keycluster.cluster.replica import Replica
from keycluster.cluster.types import SECOND, Instant
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.region import run as region_run
from keycluster.simulations.region.run import SUPPORTED, run
from keycluster.simulations.runs import RunSpec, SeedReport, Simulator
from keycluster.simulations.trace import Trace

SEED = 4


def spec(seed: int = SEED, *, time_s: float = 3.0, kinds: tuple[FaultKind, ...] | None = None) -> RunSpec:
    return RunSpec(Simulator.REGION, seed, int(time_s * SECOND), kinds=kinds)


def checkers(report: SeedReport) -> set[str]:
    return {failure.checker for failure in report.failures}


def test_run_without_faults_finds_nothing_and_does_something() -> None:
    """Clients are served on both planes."""
    report = run(spec(kinds=()))
    assert report.failures == []
    assert not report.faults
    assert report.operations["CreateKey ok"]
    assert report.operations["Decrypt ok"]
    assert report.simulated_ns >= 3 * SECOND
    assert report.events > 100


@pytest.mark.parametrize("seed", [1, 12, 34])
def test_run_with_faults_finds_nothing(seed: int) -> None:
    """A fixed few; `make sim` runs fresh ones."""
    report = run(spec(seed, time_s=6))
    assert report.failures == []
    assert report.faults.total()


def test_run_is_the_same_again_whatever_ran_before() -> None:
    """And whether the trace is kept or not; what was drawn gives the same run."""
    first = run(spec())
    run(spec(seed=9))
    trace = Trace(keep=True)
    again = run(spec(), trace=trace)
    assert (again.trace_sha256, again.events) == (first.trace_sha256, first.events)
    assert trace.records()
    assert first.drawn is not None
    assert first.drawn.faults is not None
    assert run(first.drawn).trace_sha256 == first.trace_sha256
    assert run(replace(first.drawn, faults=())).trace_sha256 != first.trace_sha256


_PROGRAM = """
from keycluster.simulations.region.run import run
from keycluster.simulations.runs import RunSpec, Simulator
print(run(RunSpec(Simulator.REGION, 4, 3_000_000_000)).trace_sha256)
"""


def test_run_is_the_same_in_any_process() -> None:
    """With hundreds of tasks, whatever the hashes of strings are."""
    found = {run(spec()).trace_sha256}
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(ran.stdout.strip())
    assert len(found) == 1


def test_run_leaves_logging_as_it_was() -> None:
    """The product's lines are the run's while it lasts."""
    before = structlog.get_config()
    run(spec(time_s=1, kinds=()))
    assert structlog.get_config() == before


def test_run_finds_a_node_that_serves_without_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the inside: what is settled isn't applied by all that may serve."""
    kinds = (FaultKind.PARTITION, FaultKind.PAUSE)
    assert run(spec(time_s=1, kinds=())).failures == []  # The region that it starts from is a good one.
    monkeypatch.setattr(Replica, "may_serve", lambda replica, now: True)
    assert "settled" in checkers(run(spec(time_s=6, kinds=kinds)))


def test_run_finds_a_region_that_never_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Liveness: once the first leader is gone nobody serves any more."""
    asked = spec(time_s=4, kinds=(FaultKind.CRASH_ALL,))
    assert run(asked).failures == []
    may_serve, terms = Replica.may_serve, set[int]()

    def only_at_first(replica: Replica, now: Instant) -> bool:
        serves = may_serve(replica, now)
        if serves and not terms:
            terms.add(replica.core.term)
        return serves and replica.core.term in terms

    monkeypatch.setattr(Replica, "may_serve", only_at_first)
    assert "liveness" in checkers(run(asked))


def test_failure_of_the_simulator_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never taken for a run without findings, and never raised."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(region_run, "SimWorkload", fail)
    report = run(spec(time_s=1))
    assert checkers(report) == {"simulator"}
    assert "out of order" in report.failures[0].message


def test_every_fault_has_a_strike() -> None:
    """What is supported can be asked for."""
    assert set(SUPPORTED) == set(region_run.STRIKES)
