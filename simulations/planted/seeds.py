"""Runs within a copy: `python -m keycluster.simulations.planted.seeds FOLDER COUNT`, one JSON line a seed.

The first run's specification comes on stdin; the seeds after it differ in nothing else. Ends after the first seed that
finds something. FOLDER is where the package must come from: it would be of no use to look for a bug in the original.
"""

import json
import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import keycluster
from keycluster.simulations.runs import RunSpec


def main() -> int:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    imported = Path(keycluster.__file__).resolve()
    if not imported.is_relative_to(folder.resolve()):
        print(f"keycluster was imported from {imported}, not from the copy in {folder}", file=sys.stderr)
        return 2
    first = RunSpec.from_json(sys.stdin.read())
    run = import_module(f"keycluster.simulations.{first.simulator}.run").run
    parent = os.getppid()
    for seed in range(first.seed, first.seed + count):
        if os.getppid() != parent:
            return 1  # Nobody waits for it any more.
        report = run(replace(first, seed=seed))
        print(json.dumps(report.to_json()), flush=True)
        if report.failures:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
