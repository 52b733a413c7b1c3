"""Runs on many machines, by Dask's `distributed`: it knows its workers, and gives what a lost one had to another.

Seeds travel in small batches. A batch whose worker was killed is given to another by the scheduler; one that has killed
several comes back and is handed in seed by seed, so that the seed at fault is found and the others are not lost with
it. Whatever comes twice is counted once, since a run is decided by its spec alone.

Dask's workers take code from whoever reaches them: they and the scheduler belong on a network of their own, or behind
Dask's own TLS (`tls://`).
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import platform
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from importlib import import_module
from itertools import islice
from typing import Any

from keycluster.simulations.campaign.compiled import CannotCompile, compiled_code
from keycluster.simulations.campaign.origin import Origin, origin
from keycluster.simulations.campaign.pool import DIED, Done, Job, Pool, WorkerWontStart, done_from_line
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, Simulator

BATCH = {Simulator.CORE: 8, Simulator.REGION: 2}  # Runs: a few seconds' work, against a second to start a process.
BATCHES_A_THREAD = 2  # One at work and one that waits.
CONNECT_S = 15.0
WORKERS_S = 60.0  # Until the first worker must be there.
ATTEMPTS = 3  # With a seed alone, after its batch has come back.
_LOG = logging.getLogger(__name__)  # A Dask worker's own.
RETRIES = 2  # Of a batch that raised, on whichever worker.


class RemoteFailed(Exception):
    """The campaign can't go on: no scheduler, no workers, other code or versions there."""


class CodeDiffers(Exception):
    """Raised on a worker, whose runs wouldn't be the ones that were asked for."""


def run_batch(module: str, specs: list[str], limit_s: float, asker: dict[str, str], is_compiled: bool) -> list[str]:
    """On a Dask worker: each run in a process of ours, since a worker has threads and a simulation wants its own.

    A machine's first batch waits until the code is compiled there. `asker` is what `what_decides` says where the
    campaign is.
    """
    _require_same(asker, here=origin())
    jobs = [Job(RunSpec.from_json(spec)) for spec in specs]
    compiled = compiled_code(_LOG.info) if is_compiled else None
    with Pool(module, workers=1, limit_s=limit_s, compiled=compiled) as pool:
        lines = {done.job.spec.to_json(): done.to_line() for done in pool.completed(jobs)}
    return [lines[job.spec.to_json()] for job in jobs]


def what_decides(one: Origin) -> dict[str, str]:
    """What must be the same wherever runs of a campaign are done: else a trace couldn't be had again here."""
    return {"code": one.code_sha256, **one.versions}


def _require_same(asker: dict[str, str], *, here: Origin) -> None:
    ours = what_decides(here)
    if asker["code"] != ours["code"]:
        raise CodeDiffers(f"the worker at {platform.node()} has another version of keycluster's code: {here.commit}")
    others = [f"{name} {ours.get(name)}, not {asked}" for name, asked in asker.items() if ours.get(name) != asked]
    if others:
        raise CodeDiffers(f"the worker at {platform.node()} has {', '.join(others)}")


def completed(
    address: str,
    module: str,
    jobs: Iterable[Job],
    *,
    limit_s: float,
    is_compiled: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Generator[Done]:
    """Each job's outcome as it comes, from the workers of the scheduler at `address`; `tell` hears what is waited for.

    Raises `RemoteFailed`.
    """
    try:
        distributed: Any = import_module("distributed")  # Half of its functions have no types.
    except ImportError:
        raise RemoteFailed("--on needs Dask: pip install 'keycluster[campaign]'") from None
    tell(f"looking for the scheduler at {address}, for {CONNECT_S:g} s at most")
    try:
        client = distributed.Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise RemoteFailed(f"no scheduler answers at {address}: {error}") from None
    submitted = _Submitted(client, distributed.wait, module, iter(jobs), limit_s, is_compiled=is_compiled)
    if not client.nthreads():
        tell(f"it has no workers yet: waiting for the first, for {WORKERS_S:g} s at most")
    try:
        yield from submitted.completed()
    finally:
        with contextlib.suppress(Exception):  # What is lost with the connection needn't be cancelled.
            client.cancel(submitted.batches)
        client.close(timeout=2)


class _Submitted:
    """What is under way."""

    def __init__(
        self,
        client: Any,
        wait: Any,
        module: str,
        waiting: Iterator[Job],
        limit_s: float,
        *,
        is_compiled: bool = False,
    ) -> None:
        self.batches: dict[Any, list[Job]] = {}
        self._client = client
        self._wait = wait
        self._module = module
        self._waiting = waiting
        self._limit_s = limit_s
        self._is_compiled = is_compiled
        self._attempts: Counter[str] = Counter()

    def completed(self) -> Iterator[Done]:
        try:
            self._client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError:
            raise RemoteFailed(f"no worker came to the scheduler within {WORKERS_S:.0f} s") from None
        while True:
            try:
                self._hand_out()
                if not self.batches:
                    return
                ready = self._wait(list(self.batches), return_when="FIRST_COMPLETED").done
            except (asyncio.CancelledError, concurrent.futures.CancelledError, OSError):  # A lost one cancels all.
                raise RemoteFailed("the scheduler is gone, and with it what it still had to do") from None
            for future in ready:
                yield from self._received(future)

    def _hand_out(self) -> None:
        threads = sum(self._client.nthreads().values())
        while len(self.batches) < max(1, threads) * BATCHES_A_THREAD:
            first = next(self._waiting, None)
            if first is None:
                return
            self._submit([first, *islice(self._waiting, BATCH[first.spec.simulator] - 1)])

    def _submit(self, jobs: list[Job]) -> None:
        specs = [job.spec.to_json() for job in jobs]
        future = self._client.submit(
            run_batch,
            self._module,
            specs,
            self._limit_s,
            what_decides(origin()),
            self._is_compiled,
            key=f"keycluster-{jobs[0].spec.seed}-{uuid.uuid4().hex}",
            retries=RETRIES,
        )
        self.batches[future] = jobs

    def _received(self, future: Any) -> Iterator[Done]:
        jobs = self.batches.pop(future)
        if future.status == "finished":
            lines: list[str] = future.result()
            yield from (done_from_line(job, line) for job, line in zip(jobs, lines, strict=True))
            return
        error: Any = future.exception() if future.status == "error" else None
        if isinstance(error, CodeDiffers):
            raise RemoteFailed(str(error))
        if isinstance(error, (CannotCompile, WorkerWontStart, ImportError)):
            raise RemoteFailed(f"{type(error).__name__} on a worker: {error}")
        for job in jobs:
            yield from self._again(job, error)

    def _again(self, job: Job, error: object) -> Iterator[Done]:
        """By itself, a few times."""
        spec = job.spec.to_json()
        self._attempts[spec] += 1
        if self._attempts[spec] <= ATTEMPTS:
            self._submit([job])
            return
        text = f"{type(error).__name__}: {error}"
        yield Done(
            job, SeedReport(spec=job.spec, failures=[Failure(DIED, f"lost on every worker it was given to: {text}")])
        )
