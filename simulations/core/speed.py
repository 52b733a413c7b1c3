"""How fast the core simulator is: `python -m keycluster.simulations.core.speed`, interpreted and compiled.

Measured by processor time, so that other work on the machine counts less, with 5 nodes at 20 operations a simulated
second: once without faults and once with usual ones, the median of some seeds. What is compiled is measured by a
process of its own; `--interpreted` leaves it out.
"""

import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from keycluster.cluster.types import SECOND
from keycluster.simulations.campaign.compiled import compiled_code
from keycluster.simulations.core.run import run
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import RunSpec, Simulator

NODES = 5
CLIENTS = 4
OPERATIONS_PER_S = 20.0
INTERPRETED = "--interpreted"
SEEDS = range(1, 6)


@dataclass(frozen=True, slots=True)
class Speed:
    simulated_s_per_s: float
    events_per_s: float
    events_per_simulated_s: float


def measure(*, seconds: int = 60, kinds: tuple[FaultKind, ...] | None = ()) -> Speed:
    """Of `seconds` simulated ones, the median of some seeds. `kinds` as in `RunSpec`: none, or None for all."""
    speeds = []
    for seed in SEEDS:
        begun = time.process_time()
        report = run(_spec(seed, seconds, kinds))
        took = time.process_time() - begun
        simulated = report.simulated_ns / SECOND
        speeds.append(Speed(simulated / took, report.events / took, report.events / simulated))
    return Speed(
        *(
            round(statistics.median(getattr(speed, name) for speed in speeds), 1)
            for name in ("simulated_s_per_s", "events_per_s", "events_per_simulated_s")
        )
    )


def where_time_goes(*, seconds: int = 60, kinds: tuple[FaultKind, ...] | None = ()) -> dict[str, float]:
    """The share of each part of the code in a run, in percent, as a profiler sees it (which makes calls dearer)."""
    profile = cProfile.Profile()
    profile.runcall(run, _spec(1, seconds, kinds))
    shares = Counter[str]()
    for (path, _, _), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]  # typeshed
        shares[_part(path)] += own
    total = sum(shares.values())
    return {part: round(100 * own / total, 1) for part, own in shares.most_common()}


def _part(path: str) -> str:
    for part in ("cluster/raft", "cluster/leases", "simulations/core", "simulations/checkers", "simulations"):
        if f"keycluster/{part}/" in path:
            return part
    return "rest of cluster" if "keycluster/cluster/" in path else "Python itself"


def _spec(seed: int, seconds: int, kinds: tuple[FaultKind, ...] | None) -> RunSpec:
    return RunSpec(
        Simulator.CORE,
        seed,
        seconds * SECOND,
        kinds=kinds,
        nodes=NODES,
        clients=CLIENTS,
        operations_per_s=OPERATIONS_PER_S,
    )


def main() -> int:
    figures: dict[str, Any] = {
        "without faults": asdict(measure()),
        "with faults": asdict(measure(kinds=None)),
    }
    if sys.argv[1:] != [INTERPRETED]:
        figures["compiled"] = _measured_compiled()
        figures["where the time goes, interpreted, without faults, percent"] = where_time_goes()
    print(json.dumps(figures, indent=1))
    return 0


def _measured_compiled() -> dict[str, Any]:
    """By this very module, in the folder where the rest is compiled."""
    folder = compiled_code(lambda text: print(text, file=sys.stderr))
    command = [sys.executable, "-P", "-m", "keycluster.simulations.core.speed", INTERPRETED]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603
    figures: dict[str, Any] = json.loads(output)
    return figures


if __name__ == "__main__":
    sys.exit(main())
