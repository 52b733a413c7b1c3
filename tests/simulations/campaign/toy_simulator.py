"""A simulator that takes no time, with bugs at known seeds: what campaigns, shrinking and time lines are tried on.

A run is a region of three nodes that does nothing but elect leaders; it fails by `toy` where the last pause follows a
partition. Some seeds' runs end in other ways, as `ENDS` says.
"""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

from keycluster.cluster.marks import Mark, all_marks, forget_hits
from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.faults import FaultKind, draw_schedule
from keycluster.simulations.runs import Failure, RunSpec, SeedReport
from keycluster.simulations.trace import Trace, What

SUPPORTED = (FaultKind.PAUSE, FaultKind.PARTITION, FaultKind.CRASH, FaultKind.LOSS)

PAUSED = Mark("toy: a node was paused", within=("core",))
NEVER = Mark("toy: this never happens", within=("core",))

DIES, HANGS, RAISES, STRAYS, SLOW = 1_013, 1_017, 1_019, 1_023, 2_000
"""Seeds with an end of their own: killed, never, by an exception, with another trace each time; from `SLOW` on, slowly
(and told in a file, if the environment names one)."""


def run(spec: RunSpec, *, trace: Trace | None = None) -> SeedReport:
    if spec.seed == DIES:
        print("a last word", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.seed == HANGS:
        time.sleep(3_600)
    if spec.seed == RAISES:
        raise ValueError("a run's own exception")
    if spec.seed >= SLOW:
        time.sleep(0.1)
        with Path(os.environ["TOY_DONE"]).open("a") as file:
            file.write(f"{spec.seed} {os.getppid()}\n")
    return _run(spec, trace or Trace())


def _run(spec: RunSpec, trace: Trace) -> SeedReport:
    forget_hits()
    rng = random.Random(f"toy/{spec.seed}")
    faults = spec.faults
    if faults is None:
        faults = draw_schedule(spec.seed, time_ns=spec.time_ns, kinds=SUPPORTED if spec.kinds is None else spec.kinds)
    drawn = replace(
        spec,
        nodes=spec.nodes or 3,
        clients=spec.clients or 4,
        operations_per_s=spec.operations_per_s or 20.0,
        faults=faults,
    )
    report = SeedReport(spec=spec, drawn=drawn)
    nodes = [f"n{number + 1}" for number in range(drawn.nodes or 3)]
    for node in nodes:
        trace.note(0, node, What.STARTS)
    _calls(drawn, trace, rng, report)
    partitioned = False
    for term, fault in enumerate(faults):
        node = fault.rng().choice(nodes)
        report.faults[fault.kind.value] += 1
        trace.note(fault.at_ns, "nemesis", What.FAULT, fault.kind.value, node, fault.for_ns)
        match fault.kind:
            case FaultKind.PAUSE:
                PAUSED.hit()
                trace.note(fault.at_ns, node, What.PAUSES)
                trace.note(fault.at_ns + fault.for_ns, node, What.RESUMES)
                if partitioned:
                    _found(report, trace, fault.at_ns + MILLISECOND)
                    break
            case FaultKind.PARTITION:
                partitioned = True
                trace.note(fault.at_ns, "network", What.CUT, f"{node} | the others")
                trace.note(fault.at_ns + fault.for_ns, "network", What.HEALED, f"{node} | the others")
            case FaultKind.CRASH:
                trace.note(fault.at_ns, node, What.CRASHES)
                trace.note(fault.at_ns + fault.for_ns, node, What.STARTS)
        trace.note(fault.at_ns + 1, nodes[0], What.LEADS, term + 1)
        trace.note(fault.at_ns + 2, nodes[0], What.SERVES)
    if spec.seed == STRAYS:
        trace.note(spec.time_ns, "n1", "stray", os.urandom(8))
    report.simulated_ns = spec.time_ns + SECOND
    report.trace_sha256, report.events = trace.sha256(), trace.count
    report.marks.update({mark.name: mark.count for mark in all_marks() if mark.count})
    return report


def _calls(drawn: RunSpec, trace: Trace, rng: random.Random, report: SeedReport) -> None:
    at_ns = 0
    for number in range(int(drawn.time_ns / SECOND * (drawn.operations_per_s or 1))):
        client, at_ns = f"c{number % (drawn.clients or 1)}", at_ns + 40 * MILLISECOND
        trace.note(at_ns, client, What.CALL, number, "Encrypt", "k1")
        trace.note(
            at_ns + rng.randrange(MILLISECOND), client, What.RETURNS, number, rng.choice(["ok", "refused"]), "n1"
        )
        report.operations["Encrypt ok"] += 1


def _found(report: SeedReport, trace: Trace, at_ns: int) -> None:
    message = "a pause after a partition, seen by call 3 </script><b>&"
    trace.note(at_ns, "n1", What.OFFENCE, "toy", message, 3)
    report.failures.append(Failure("toy", message, at_ns))
