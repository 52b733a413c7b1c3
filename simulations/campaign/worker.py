"""One run after the other, in a process of its own: `python -m keycluster.simulations.campaign.worker MODULE [CODE]`.

With a hash of the code it is one that must run what was compiled from it (`compiled.py`).

A line of JSON in is a run to be done, a line out is what came of it. Simulations patch their process (trio's scheduler,
marks' counters), may hang and may kill it; here that costs one seed's run and is told as that seed's failure.

The first line out says what the simulator can do. Standard output is kept for these lines: what a run prints goes to
standard error. The process ends with its input, also in the middle of a run: nobody is left who'd read of it.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

from keycluster.cluster.marks import all_marks
from keycluster.simulations.campaign.compiled import require_compiled
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, Simulator
from keycluster.simulations.timeline import draw
from keycluster.simulations.trace import Trace

MODULES = {
    Simulator.CORE: "keycluster.simulations.core.run",
    Simulator.REGION: "keycluster.simulations.region.run",
}
TRACEBACK_LINES = 6  # Of an exception that a run ended by: the rest is seen in a replay.


class SimulatorModule(Protocol):
    """What a simulator offers."""

    SUPPORTED: tuple[FaultKind, ...]
    run: Callable[..., SeedReport]


def load(module: str) -> SimulatorModule:
    """A simulator by the name of its module."""
    return cast(SimulatorModule, import_module(module))


def run_job(simulator: SimulatorModule, job: dict[str, Any]) -> SeedReport:
    """Never raises: an exception that gets out of a run is a failure of that run. Draws it where the job says so."""
    spec = RunSpec.from_json(job["spec"])
    trace = Trace(keep=True) if job.get("draw_to") else None
    began = time.monotonic()
    try:
        report = simulator.run(spec, trace=trace)
    except Exception as error:  # noqa: BLE001
        last = traceback.format_exc().strip().splitlines()[-TRACEBACK_LINES:]
        text = "\n".join([f"{type(error).__name__}: {error}", *last])
        report = SeedReport(spec=spec, failures=[Failure("exception", text)])
        if trace is not None:
            report.trace_sha256 = trace.sha256()
    report.wall_s = report.wall_s or time.monotonic() - began
    if trace is not None:
        draw.write(Path(job["draw_to"]), report, trace.records())
    return report


def result_line(report: SeedReport, marks: dict[str, list[str]]) -> dict[str, Any]:
    """What `pool` reads."""
    return {
        "report": report.to_json(),
        "drawn": None if report.drawn is None else report.drawn.to_json(),
        "marks": marks,
    }


def _lines_until_end(source: TextIO) -> Iterator[str]:
    """Lines of `source`; the process ends with it, whatever it is doing then."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    simulator = load(sys.argv[1])
    for code in sys.argv[2:]:
        require_compiled(code)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    answer({"supported": [kind.value for kind in simulator.SUPPORTED]})
    for line in _lines_until_end(sys.stdin):
        report = run_job(simulator, json.loads(line))
        answer(result_line(report, {mark.name: list(mark.within) for mark in all_marks()}))


if __name__ == "__main__":
    main()
