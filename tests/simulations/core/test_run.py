"""Whole runs: no findings, every fault happens, and a seed decides everything."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from keycluster.cluster.types import SECOND
from keycluster.simulations.core.run import SUPPORTED, run
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import RunSpec, SeedReport, Simulator
from keycluster.simulations.trace import Trace, What

FIXED_SEEDS = range(24)
FRESH_SEEDS = 8
TIME_NS = 10 * SECOND


def spec(seed: int, **more: object) -> RunSpec:
    return RunSpec(Simulator.CORE, seed, **{"time_ns": TIME_NS, **more})  # type: ignore[arg-type]  # Fields by name.


@pytest.fixture(scope="module")
def reports() -> list[SeedReport]:
    return [run(spec(seed)) for seed in FIXED_SEEDS]


def test_fixed_seeds_find_nothing(reports: list[SeedReport]) -> None:
    """No checker has anything to say, and there was enough to look at."""
    assert [(report.spec.seed, report.failures) for report in reports if report.failures] == []
    operations = sum((report.operations for report in reports), Counter[str]())
    assert operations["Write ok"] > 20 * len(reports)
    assert operations["Read ok"] > 20 * len(reports)
    assert operations["Use ok"] > 20 * len(reports)


def test_fixed_seeds_reach_rare_ways(reports: list[SeedReport]) -> None:
    """Elections that fail, logs that differ, snapshots, members that lag: without them nothing was tested."""
    seen = sum((report.marks for report in reports), Counter[str]())
    assert {
        "a leader that no quorum follows steps down",
        "a member catches up by a snapshot",
        "a member that lags gets no lease",
        "a voter sticks to the leader it heard",
        "entries of an earlier leader are replaced",
    } <= set(seen)


def test_fresh_seeds_find_nothing() -> None:
    """Each time others: a failure's message has the seed that repeats it."""
    first = int.from_bytes(os.urandom(4), "big")
    for seed in range(first, first + FRESH_SEEDS):
        assert run(spec(seed)).failures == [], f"keycluster simulate --core --seed {seed} --time {TIME_NS // SECOND}"


@pytest.mark.parametrize("kind", SUPPORTED)
def test_kind_of_fault_happens(kind: FaultKind) -> None:
    """Alone, on some seed: a fault that never has an effect tests nothing."""
    total = Counter[str]()
    for seed in range(20):
        report = run(spec(seed, kinds=(kind,), time_ns=5 * SECOND))
        assert report.failures == []
        total += report.faults
        if total[kind]:
            break
    assert total[kind] > 0
    assert set(total) == {kind}


def test_run_with_kinds_of_another_simulator_has_no_faults() -> None:
    """What cannot happen here isn't drawn."""
    assert not run(spec(1, kinds=(FaultKind.DISK_FULL,), time_ns=SECOND)).faults


def test_spec_that_names_everything_is_the_same_run() -> None:
    """Shrinking begins with what was drawn."""
    for seed in (3, 7):
        report = run(spec(seed))
        assert report.drawn is not None
        assert run(report.drawn).trace_sha256 == report.trace_sha256
        assert report.drawn.faults


def test_dropped_fault_leaves_the_others_their_draws() -> None:
    """A shrunk schedule still hits whom it hit, as long as nothing else has changed by then."""
    drawn = run(spec(4)).drawn
    assert drawn is not None
    assert drawn.faults is not None
    whole, shortened = Trace(keep=True), Trace(keep=True)
    run(drawn, trace=whole)
    run(drawn.with_faults(drawn.faults[:-1]), trace=shortened)
    last = drawn.faults[-1].at_ns
    before = [record for record in whole.records() if record.at_ns < last]
    assert before == [record for record in shortened.records() if record.at_ns < last]
    assert any(record.what == What.FAULT for record in before)


def test_trace_given_changes_nothing() -> None:
    """A run that is repeated to be looked at is the same run."""
    kept = Trace(keep=True)
    report = run(spec(9), trace=kept)
    assert report.trace_sha256 == run(spec(9)).trace_sha256 == kept.sha256()
    seen = {record.what for record in kept.records()}
    assert {What.LEADS, What.SERVES, What.CALL, What.RETURNS, What.APPLIES, What.FAULT, What.STARTS} <= seen


def test_seed_gives_the_same_trace_after_other_runs_in_the_process(reports: list[SeedReport]) -> None:
    """Nothing is carried over from one run to the next."""
    assert [run(spec(seed)).trace_sha256 for seed in (0, 11, 23)] == [reports[s].trace_sha256 for s in (0, 11, 23)]
    assert len({report.trace_sha256 for report in reports}) == len(reports)


def test_seed_gives_the_same_trace_in_any_process() -> None:
    """With any PYTHONHASHSEED: no order of a set or a hash reaches the trace."""
    program = (
        "from keycluster.simulations.core.run import run\n"
        "from keycluster.simulations.runs import RunSpec, Simulator\n"
        f"print([run(RunSpec(Simulator.CORE, seed, {TIME_NS})).trace_sha256 for seed in (2, 5, 8, 13)])\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "[" in outputs.pop()
