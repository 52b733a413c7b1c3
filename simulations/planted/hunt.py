"""Looks for a planted bug: seeds one after the other, in a process that imports the patched copy."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycluster.simulations.planted.bugs import PlantedBug
from keycluster.simulations.planted.copies import patched_copy

SEED_WALL_S_MAX = 300.0  # A patched copy may loop for ever.
NO_VERDICTS = ("simulator", "linearizability-undecided")
"""Failures that show nothing of the product: a simulator's own fault, a checker that gave up."""


class HuntFails(Exception):
    """The copy doesn't run: neither found nor not found."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a hunt; without `seed` nothing was found."""

    bug: PlantedBug
    seeds: int
    """Run, the last one included."""
    wall_s: float
    seed: int | None = None
    checker: str = ""
    """Who found it first."""
    message: str = ""
    also_without: tuple[int, ...] = ()
    """Seeds that find something without the patch too: they don't count."""

    @property
    def as_expected(self) -> bool:
        """By a checker that the patch names: what another one finds may be a consequence that nobody thought of."""
        return self.seed is not None and self.checker in self.bug.checkers

    def to_json(self) -> dict[str, Any]:
        return {
            "bug": self.bug.name,
            "simulator": self.bug.simulator.value,
            "found": self.seed is not None,
            "as_expected": self.as_expected,
            "seed": self.seed,
            "seeds": self.seeds,
            "checker": self.checker,
            "message": self.message,
            "wall_s": round(self.wall_s, 1),
            "also_without": list(self.also_without),
        }


def hunt(bug: PlantedBug, original: Path, *, seeds_max: int | None = None) -> Found:
    """`original` is a copy without the bug. Raises `HuntFails`, `PatchFails`."""
    begun = time.monotonic()
    most = bug.seeds_max if seeds_max is None else seeds_max
    done, also_without = 0, []
    with patched_copy(bug, of=original) as folder:
        while done < most:
            reports = run_seeds(bug, folder, first=done + 1, count=most - done)
            done += len(reports)
            failures = [failure for failure in reports[-1]["failures"] if failure["checker"] not in NO_VERDICTS]
            if not failures:
                continue
            [control] = run_seeds(bug, original, first=done, count=1)
            if control["failures"]:
                also_without.append(done)
                continue
            failure = next((f for f in failures if f["checker"] in bug.checkers), failures[0])
            wall_s = time.monotonic() - begun
            return Found(bug, done, wall_s, done, failure["checker"], failure["message"], tuple(also_without))
    return Found(bug, done, time.monotonic() - begun, also_without=tuple(also_without))


def run_seeds(bug: PlantedBug, folder: Path, *, first: int, count: int) -> list[dict[str, Any]]:
    """Reports of seeds from `first` on, up to the first that finds something, `count` at most. Raises `HuntFails`."""
    command = [sys.executable, "-m", "keycluster.simulations.planted.seeds", str(folder), str(count)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(  # noqa: S603 (our own words)
            command,
            cwd=folder,
            env=environment,
            input=bug.spec(first).to_json(),
            capture_output=True,
            text=True,
            check=False,
            timeout=SEED_WALL_S_MAX * count,
        )
    except subprocess.TimeoutExpired:
        raise HuntFails(f"{bug.name}: no end after {SEED_WALL_S_MAX * count:.0f} s") from None
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0 or not reports:
        raise HuntFails(f"{bug.name}: the copy doesn't run: {done.stderr.strip()[-2_000:]}")
    return reports
