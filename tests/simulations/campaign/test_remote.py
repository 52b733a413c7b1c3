"""A campaign on Dask: two worker processes on loopback, one killed in the middle, and no seed lost."""

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dask
import distributed
import pytest

from keycluster.simulations.campaign import remote
from keycluster.simulations.campaign.campaign import CampaignOptions, run_campaign
from keycluster.simulations.campaign.findings import Findings
from keycluster.simulations.campaign.origin import code_sha256, origin
from keycluster.simulations.campaign.pool import DIED, Job
from keycluster.simulations.campaign.remote import RemoteFailed
from keycluster.simulations.campaign.totals import Totals
from keycluster.simulations.runs import RunSpec, SeedReport, Simulator

DIES, SLOW = 1_013, 2_000  # The toy's.
SEEDS = 24


@pytest.fixture(params=[3], ids=["patient"])
def cluster(toy: str, told: Path, request: pytest.FixtureRequest) -> Iterator[distributed.LocalCluster]:
    """Workers are processes of their own; they inherit the toy's path and where it tells of its runs. The parameter is
    how many workers may die of a batch before the scheduler gives it back."""
    origin.cache_clear()
    code_sha256.cache_clear()  # Somebody may have worked on the code since another test asked for it.
    allowed = dask.config.set({"distributed.scheduler.allowed-failures": request.param})
    with (
        allowed,
        distributed.LocalCluster(  # type: ignore[no-untyped-call]  # Distributed has no types.
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
    ):
        yield cluster


@pytest.mark.timeout(100)
@pytest.mark.parametrize("cluster", [3, 0], indirect=True, ids=["given-to-another", "given-back"])
def test_no_seed_is_lost_with_a_killed_worker(
    cluster: distributed.LocalCluster, toy: str, spec: RunSpec, told: Path, tmp_path: Path
) -> None:
    """Each seed is counted once, with the trace that it has here; those of the killed worker were run again."""
    workers = [nanny.pid for nanny in cluster.workers.values()]
    killed = threading.Event()

    def kill_one() -> None:
        while not killed.is_set():
            lines = told.read_text().splitlines()
            busy = {int(line.split()[1]) for line in lines} & set(workers)
            if len(lines) >= 4 and busy:
                os.kill(min(busy), signal.SIGKILL)
                return
            killed.wait(0.05)

    options = CampaignOptions(
        template=replace(spec, seed=SLOW), module=toy, count=SEEDS, scheduler=cluster.scheduler_address, limit_s=20
    )
    totals = Totals(Simulator.CORE, ())
    reports: list[SeedReport] = []
    findings = Findings(tmp_path / "failures", module=toy, workers=1, limit_s=20)
    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        run_campaign(options, totals, findings, lambda report, _: reports.append(report))
    finally:
        killed.set()
        killer.join()
    assert sorted(report.spec.seed for report in reports) == list(range(SLOW, SLOW + SEEDS))
    assert totals.seeds == SEEDS
    assert not [failure for report in reports for failure in report.failures if failure.checker != "toy"]
    runs = Counter(line.split()[0] for line in told.read_text().splitlines())
    assert runs.total() > SEEDS, "nobody was killed within a batch"
    [here] = [r.trace_sha256 for r in reports if r.spec.seed == SLOW]
    sys.modules.pop("toy_simulator", None)
    assert here == local_trace(toy, replace(spec, seed=SLOW))


def local_trace(toy: str, spec: RunSpec) -> str:
    from keycluster.simulations.campaign.pool import Pool

    with Pool(toy, workers=1, limit_s=20) as pool:
        [done] = pool.completed([Job(spec)])
    return done.report.trace_sha256


def test_a_run_that_kills_its_process_is_that_seeds_failure(
    cluster: distributed.LocalCluster, toy: str, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Dask worker lives on. Another code's worker is refused, as is one without this simulator."""
    jobs = [Job(replace(spec, seed=seed)) for seed in (DIES - 1, DIES, DIES + 1)]
    done = list(remote.completed(cluster.scheduler_address, toy, jobs, limit_s=20))
    assert {one.job.spec.seed: [f.checker for f in one.report.failures] for one in done} == {
        DIES - 1: [],
        DIES: [DIED],
        DIES + 1: [],
    }
    with pytest.raises(RemoteFailed, match="No module"):
        list(remote.completed(cluster.scheduler_address, "no.such.simulator", jobs, limit_s=20))
    ours = origin()
    for other, complaint in (
        (replace(ours, code_sha256="another"), "has another version of keycluster's code: "),
        (
            replace(ours, versions={**ours.versions, "SQLite": "9.9", "trio": "9.8"}),
            r"has SQLite [\d.]+, not 9\.9, trio",
        ),
    ):
        monkeypatch.setattr(remote, "origin", lambda other=other: other)
        with pytest.raises(RemoteFailed, match=f"^the worker at .* {complaint}") as refused:
            list(remote.completed(cluster.scheduler_address, toy, jobs, limit_s=20))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("error", [distributed.client.FuturesCancelledError([]), OSError("closed")])
def test_a_lost_scheduler_ends_the_campaign(error: Exception, spec: RunSpec) -> None:
    """In a sentence: who'd know what became of the runs is gone."""

    class Client:
        def wait_for_workers(self, n_workers: int, timeout: float) -> None: ...
        def submit(self, *arguments: object, **options: object) -> object:
            return object()

        def nthreads(self) -> dict[str, int]:
            return {"w1": 1}

    def wait(futures: object, **options: object) -> object:
        raise error

    submitted = remote._Submitted(Client(), wait, "toy", iter([Job(spec)]), 1.0)
    with pytest.raises(RemoteFailed, match="the scheduler is gone"):
        next(submitted.completed())


def test_without_a_scheduler_or_dask_it_says_so(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence that says what to do."""
    monkeypatch.setattr(remote, "CONNECT_S", 0.5)
    told: list[str] = []
    with pytest.raises(RemoteFailed, match=r"no scheduler answers at tcp://127\.0\.0\.1:1"):
        list(remote.completed("tcp://127.0.0.1:1", "toy", [Job(spec)], limit_s=1, tell=told.append))
    assert told == ["looking for the scheduler at tcp://127.0.0.1:1, for 0.5 s at most"]
    with pytest.raises(RemoteFailed, match="no scheduler answers at nonsense"):
        list(remote.completed("nonsense://", "toy", [Job(spec)], limit_s=1))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RemoteFailed, match=r"pip install 'keycluster\[campaign\]'"):
        list(remote.completed("tcp://127.0.0.1:1", "toy", [Job(spec)], limit_s=1))
