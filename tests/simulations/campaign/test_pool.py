"""Worker processes: whatever a run does to its own, every job comes out once."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keycluster.simulations.campaign.pool import DIED, NO_END, Job, Pool, WorkerWontStart
from keycluster.simulations.runs import RunSpec

DIES, HANGS, RAISES, SLOW = 1_013, 1_017, 1_019, 2_000  # The toy's.


def jobs(spec: RunSpec, *seeds: int) -> list[Job]:
    return [Job(replace(spec, seed=seed)) for seed in seeds]


def test_every_seed_comes_out_once_whatever_its_run_does(toy: str, spec: RunSpec) -> None:
    """Runs that die, hang and raise among those that don't; each is that seed's failure and costs no other."""
    seeds = [*range(1_010, 1_022), 3, 4]
    with Pool(toy, workers=2, limit_s=1.0) as pool:
        done = list(pool.completed(jobs(spec, *seeds)))
    assert Counter(one.job.spec.seed for one in done) == Counter(seeds)
    checkers = {one.job.spec.seed: [failure.checker for failure in one.report.failures] for one in done}
    assert checkers[DIES] == [DIED]
    assert checkers[HANGS] == [NO_END]
    assert checkers[RAISES] == ["exception"]
    [died] = [one.report for one in done if one.job.spec.seed == DIES]
    assert "signal 9" in died.failures[0].message
    assert "a last word" in died.failures[0].message
    whole = [one for one in done if one.job.spec.seed not in (DIES, HANGS, RAISES)]
    assert all(one.report.trace_sha256 and one.report.drawn is not None for one in whole)
    assert all("toy: this never happens" in one.marks for one in whole)


def test_a_run_is_the_same_in_any_worker(toy: str, spec: RunSpec) -> None:
    """And with whatever was run in it before."""
    with Pool(toy, workers=1, limit_s=20) as pool:
        alone = [one.report.trace_sha256 for one in pool.completed(jobs(spec, 9))]
        after_others = [one.report.trace_sha256 for one in pool.completed(jobs(spec, 7, 8, 9))]
    assert after_others[-1:] == alone


def test_a_simulator_that_cannot_be_loaded_is_an_error(spec: RunSpec) -> None:
    """Not a failure of each seed."""
    with Pool("no.such.simulator", workers=2, limit_s=20) as pool, pytest.raises(WorkerWontStart, match="No module"):
        list(pool.completed(jobs(spec, 1, 2)))


def test_jobs_are_taken_only_as_workers_are_free(toy: str, spec: RunSpec, told: Path) -> None:
    """A campaign that goes by time must not have handed out what it will have no time for."""
    taken = []

    def endless() -> Iterator[Job]:
        for seed in range(SLOW, SLOW + 1_000):
            taken.append(seed)
            yield Job(replace(spec, seed=seed))

    with Pool(toy, workers=2, limit_s=20) as pool:
        outcomes = pool.completed(endless())
        next(outcomes)
        outcomes.close()
    assert len(taken) <= 3


def test_leaving_a_pool_ends_its_processes(toy: str, spec: RunSpec) -> None:
    """Also one in the middle of a run, which would never end."""
    with Pool(toy, workers=1, limit_s=1_000) as pool:
        pool._hand_out(iter(jobs(spec, HANGS)))
        [worker] = pool._workers
        assert worker.process.poll() is None
    assert worker.process.poll() is not None


def test_a_worker_ends_with_its_input(toy: str, spec: RunSpec) -> None:
    """Even within a run: a parent that was killed leaves nothing behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "keycluster.simulations.campaign.worker", toy],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["supported"] == ["pause", "partition", "crash", "loss"]
    process.stdin.write(Job(replace(spec, seed=HANGS)).to_line() + "\n")
    process.stdin.close()
    began = time.monotonic()
    assert process.wait(timeout=30) == 0
    assert time.monotonic() - began < 30
    process.stdout.close()
