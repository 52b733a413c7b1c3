"""Looks for planted bugs and prints the table: bug, seeds needed, seconds, and the checker that found it.

Ends with 1 if any isn't found within its bound, or by another checker than its patch names; with 2 if one can't be
looked for.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from keycluster.simulations.planted.bugs import PatchMalformed, PlantedBug, all_bugs
from keycluster.simulations.planted.copies import PatchFails, package_copy
from keycluster.simulations.planted.hunt import Found, HuntFails, hunt
from keycluster.simulations.planted.report import as_markdown, as_text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="keycluster.simulations.planted", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", help="this bug; may be given more than once")
    parser.add_argument("--simulator", choices=("core", "region"), help="those of this one")
    parser.add_argument("--seeds-max", type=int, metavar="N", help="instead of each bug's own bound")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="bugs looked for at the same time")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each bug")
    parser.add_argument("--write-docs", type=Path, metavar="FILE", help="write the table there: docs/planted-bugs.md")
    chosen = parser.parse_args(arguments)
    try:
        bugs = _choose(chosen.only, chosen.simulator)
        results = []
        for found in _hunt_all(bugs, seeds_max=chosen.seeds_max, jobs=chosen.jobs):
            print(json.dumps(found.to_json()) if chosen.json else as_text(found), flush=True)
            results.append(found)
    except (PatchMalformed, PatchFails, HuntFails) as error:
        print(error, file=sys.stderr)
        return 2
    if chosen.write_docs is not None:
        chosen.write_docs.write_text(as_markdown(sorted(results, key=lambda found: found.bug.name)))
    return 0 if all(found.as_expected for found in results) else 1


def _choose(names: Sequence[str] | None, simulator: str | None) -> list[PlantedBug]:
    bugs = {bug.name: bug for bug in all_bugs()}
    unknown = sorted(set(names or ()) - bugs.keys())
    if unknown:
        raise PatchMalformed(f"no planted bug is called {', '.join(unknown)}; there are: {', '.join(bugs)}")
    chosen = [bugs[name] for name in names] if names else list(bugs.values())
    return [bug for bug in chosen if simulator in (None, bug.simulator)]


def _hunt_all(bugs: Sequence[PlantedBug], *, seeds_max: int | None, jobs: int) -> Iterator[Found]:
    with package_copy() as original, ThreadPoolExecutor(jobs) as threads:
        hunts = [threads.submit(hunt, bug, original, seeds_max=seeds_max) for bug in bugs]
        for done in as_completed(hunts):
            yield done.result()


if __name__ == "__main__":
    sys.exit(main())
