"""Worker processes on this machine: each has one run at a time, and none can take a seed with it.

A worker that dies, or takes longer than a run may, is ended; that is its run's failure, and a new worker takes the next
run. So every job that is handed in comes out, exactly once.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast

from keycluster.simulations.campaign.origin import code_sha256
from keycluster.simulations.campaign.worker import result_line
from keycluster.simulations.runs import Failure, RunSpec, SeedReport

DIED = "worker-died"
NO_END = "no-end"
"""What stands for a checker's name where it wasn't a checker that found the failure."""

READ_BYTES = 1 << 16
STDERR_LINES = 5  # Of a worker that died.


class WorkerWontStart(Exception):
    """The simulator can't even be loaded: the text is the worker's last line."""


@dataclass(frozen=True, slots=True)
class Job:
    spec: RunSpec
    draw_to: str | None = None
    """Where its time line goes: a path, to which endings are added."""

    def to_line(self) -> str:
        return json.dumps({"spec": self.spec.to_json(), "draw_to": self.draw_to})


@dataclass(frozen=True, slots=True)
class Done:
    job: Job
    report: SeedReport
    marks: dict[str, list[str]] = field(default_factory=dict)
    """All that the worker knows, with the simulators that can get there: also those never hit."""

    def to_line(self) -> str:
        """As a worker writes it: what another machine's worker found goes on in this form."""
        return json.dumps(result_line(self.report, self.marks))


def done_from_line(job: Job, line: str | bytes) -> Done:
    """What a worker wrote about a job."""
    value: dict[str, Any] = json.loads(line)
    report = SeedReport.from_json(value["report"], job.spec)
    report.drawn = None if value["drawn"] is None else RunSpec.from_json(value["drawn"])
    return Done(job, report, value["marks"])


class Worker:
    """One process."""

    def __init__(self, module: str, compiled: Path | None) -> None:
        self.job: Job | None = None
        self.has_started = False
        self.began = time.monotonic()
        self._buffer = b""
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        paths = [path for path in sys.path if path]
        command = [sys.executable, "-P", "-m", "keycluster.simulations.campaign.worker", module]
        if compiled is not None:
            paths.insert(0, str(compiled))
            command.append(code_sha256())
        # A group of its own: Ctrl-C is for us, who then end it.
        self.process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            process_group=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self.stdin = cast(IO[bytes], self.process.stdin)
        self.stdout = cast(IO[bytes], self.process.stdout)

    def begin(self, job: Job) -> None:
        """It must have none. A worker that has just died is found by its output, which ends."""
        self.job, self.began = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self.stdin.write(job.to_line().encode() + b"\n")
            self.stdin.flush()

    def read(self) -> list[bytes] | None:
        """Whole lines that are there; None: it has ended."""
        received = os.read(self.stdout.fileno(), READ_BYTES)
        if not received:
            return None
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        return lines

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-STDERR_LINES:])


class Pool:
    """A context manager: leaving it ends all workers at once, whatever they do.

    `compiled` is a folder of `compiled.py`, to run that code and not what the interpreter runs here.
    """

    def __init__(self, module: str, *, workers: int, limit_s: float, compiled: Path | None = None) -> None:
        self._module = module
        self._compiled = compiled
        self._count = workers
        self._limit_s = limit_s
        self._workers: set[Worker] = set()
        self._selector = selectors.DefaultSelector()
        self._has_started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in list(self._workers):
            self._end(worker)
        self._selector.close()

    def completed(self, jobs: Iterable[Job]) -> Generator[Done]:
        """Each job's outcome as it comes. Jobs are taken as workers become free; to stop early, close the generator.

        Raises `WorkerWontStart`.
        """
        waiting = iter(jobs)
        try:
            while True:
                self._hand_out(waiting)
                busy = [worker for worker in self._workers if worker.job is not None]
                if not busy:
                    return
                yield from self._look(busy)
        finally:
            for worker in [worker for worker in self._workers if worker.job is not None]:
                self._end(worker)

    def _hand_out(self, waiting: Iterator[Job]) -> None:
        """A job to each worker that has none, as long as there are jobs."""
        idle = [worker for worker in self._workers if worker.job is None]
        for _ in range(len(idle) + self._count - len(self._workers)):
            job = next(waiting, None)
            if job is None:
                return
            (idle.pop() if idle else self._start()).begin(job)

    def _look(self, busy: list[Worker]) -> list[Done]:
        ends = min(worker.began for worker in busy) + self._limit_s
        readable = {key.data for key, _ in self._selector.select(max(0.0, ends - time.monotonic()))}
        done = [self._read(worker) for worker in readable]
        now = time.monotonic()
        done += [self._overdue(w) for w in busy if w.job is not None and now - w.began >= self._limit_s]
        return [one for one in done if one is not None]

    def _read(self, worker: Worker) -> Done | None:
        lines = worker.read()
        if lines is None:
            return self._died(worker)
        outcome = None
        for line in lines:
            if not worker.has_started:  # Its first line says what it can do: enough to know that it lives.
                self._has_started = worker.has_started = True
                worker.began = time.monotonic()
            elif worker.job is not None:
                outcome, worker.job = done_from_line(worker.job, line), None
        return outcome

    def _died(self, worker: Worker) -> Done | None:
        self._end(worker)
        if not self._has_started:  # Once one has, what ends the next at its start is that one's bad luck.
            raise WorkerWontStart(worker.last_words().rpartition("\n")[2] or "the worker ended without a word")
        status = worker.process.returncode
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return self._failed(worker, DIED, f"the worker died by {how}: {worker.last_words() or 'without a word'}")

    def _overdue(self, worker: Worker) -> Done | None:
        self._end(worker)
        return self._failed(worker, NO_END, f"the run didn't end within {self._limit_s:g} s of wall time")

    def _failed(self, worker: Worker, checker: str, message: str) -> Done | None:
        job, worker.job = worker.job, None
        if job is None:
            return None
        wall_s = time.monotonic() - worker.began
        return Done(job, SeedReport(spec=job.spec, wall_s=wall_s, failures=[Failure(checker, message)]))

    def _start(self) -> Worker:
        worker = Worker(self._module, self._compiled)
        self._workers.add(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
        return worker

    def _end(self, worker: Worker) -> None:
        self._workers.discard(worker)
        self._selector.unregister(worker.stdout)
        worker.end()
