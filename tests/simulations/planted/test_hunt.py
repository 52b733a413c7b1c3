"""How a bug is looked for, on a stand-in for a simulator; and that real ones are found."""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keycluster.simulations.planted.__main__ import main
from keycluster.simulations.planted.bugs import PlantedBug, all_bugs, read_bug
from keycluster.simulations.planted.copies import PACKAGE, package_copy
from keycluster.simulations.planted.hunt import HuntFails, hunt
from keycluster.simulations.planted.report import as_markdown, as_text

STAND_IN = """
from keycluster.cluster.types import SECOND
from keycluster.simulations.runs import Failure, SeedReport


def run(spec, *, trace=None):
    report = SeedReport(spec)
    if spec.seed == 2:  # With the patch or without it.
        report.failures.append(Failure("flaw", "in any case"))
    if spec.seed == 3:
        report.failures.append(Failure("simulator", "its own fault"))
    if spec.seed >= 4 and SECOND != 1_000_000_000:
        report.failures += [Failure("other", "seen first"), Failure("time", f"a second has {SECOND} ns")]
    return report
"""

BUG = """What: a second is too short
Rule: SI
In: cluster/types.py <body>
Simulator: core
Checkers: time
Seeds: 6

diff --git a/cluster/types.py b/cluster/types.py
--- a/cluster/types.py
+++ b/cluster/types.py
@@ -8 +8 @@
-SECOND: Final = 1_000_000_000
+SECOND: Final = 999_000_000
"""

# Found in a few seconds each, by different checkers.
QUICK = (
    "l2-not-noted",
    "l3-served-before-applied",
    "l5-holders-not-counted",
    "acknowledged-unsynced",
    "vote-not-synced",
    "removed-node-votes",
    "request-id-forgotten-by-next-leader",
    "snapshot-without-state-hash",
)


@pytest.fixture
def bug(tmp_path: Path) -> PlantedBug:
    line = (
        (Path(__file__).parents[3] / "cluster" / "types.py")
        .read_text()
        .splitlines()
        .index("SECOND: Final = 1_000_000_000")
    )
    path = tmp_path / "short-second.patch"
    path.write_text(re.sub("@@ -8 .8 @@", f"@@ -{line + 1} +{line + 1} @@", BUG))
    return read_bug(path)


@pytest.fixture
def stand_in() -> Iterator[Path]:
    """A copy of the package whose core simulator only looks at the length of a second."""
    with package_copy() as folder:
        (folder / PACKAGE / "simulations" / "core" / "run.py").write_text(STAND_IN)
        yield folder


def test_hunt_counts_seeds_until_found(bug: PlantedBug, stand_in: Path) -> None:
    """The seed that fails with the patch alone is the finding; one that fails in any case, or says nothing, isn't."""
    found = hunt(bug, stand_in)
    assert (found.seed, found.seeds, found.also_without) == (4, 4, (2,))
    assert found.as_expected
    assert "short-second" in as_text(found)
    assert "| 4 |" in as_markdown([found])
    assert "1 of 1 found, 1 of them by a checker that is expected to.\n" in as_markdown([found])


def test_hunt_names_the_expected_checker_where_several_find(bug: PlantedBug, stand_in: Path) -> None:
    """What another one saw first is a consequence."""
    assert hunt(bug, stand_in).checker == "time"


def test_bug_found_by_a_checker_that_is_not_expected_is_told_apart(bug: PlantedBug, stand_in: Path) -> None:
    """It is found, but nobody knows why: no success, and both counts say so."""
    found = hunt(replace(bug, checkers=("currency", "digests")), stand_in)
    assert (found.seed, found.checker, found.as_expected) == (4, "other", False)
    assert found.to_json()["as_expected"] is False
    assert as_text(found).endswith("other, not currency or digests")
    table = as_markdown([found])
    assert "1 of 1 found, 0 of them by a checker that is expected to. Found otherwise: short-second.\n" in table
    assert "| other (expected: currency or digests) |" in table


def test_main_ends_with_1_unless_all_are_found_as_expected(
    bug: PlantedBug, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table in which a bug is found otherwise doesn't pass for a good one."""
    module = sys.modules[main.__module__]
    found = hunt(bug, stand_in)
    otherwise = replace(found, checker="other")
    for results, status in (([found], 0), ([found, otherwise], 1), ([replace(found, seed=None)], 1)):
        monkeypatch.setattr(module, "_hunt_all", lambda *_, results=results, **__: iter(results))
        assert main([]) == status


def test_hunt_ends_at_its_bound(bug: PlantedBug, stand_in: Path) -> None:
    """Three seeds are too few, and that is said."""
    found = hunt(bug, stand_in, seeds_max=3)
    assert (found.seed, found.seeds) == (None, 3)
    assert not found.as_expected
    assert "not in 3" in as_text(found)
    assert "0 of 1 found" in as_markdown([found])
    assert "Not found: short-second" in as_markdown([found])


def test_hunt_in_a_copy_that_does_not_run_is_no_result(bug: PlantedBug, stand_in: Path) -> None:
    """Neither found nor not found."""
    (stand_in / PACKAGE / "simulations" / "core" / "run.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(HuntFails, match="nothing_of_that_name"):
        hunt(bug, stand_in)


def test_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With the names that there are."""
    assert main(["--only", "no-such-bug"]) == 2
    assert "l2-not-noted" in capsys.readouterr().err


@pytest.mark.parametrize("name", QUICK)
def test_quick_bug_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Within its bound, by a checker that it names."""
    assert main(["--only", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [bug] = [bug for bug in all_bugs() if bug.name == name]
    assert found["as_expected"]
    assert found["checker"] in bug.checkers


@pytest.mark.skipif(os.environ.get("KEYCLUSTER_TESTS") != "full", reason="an hour: KEYCLUSTER_TESTS=full runs it")
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("bug", all_bugs(), ids=lambda bug: bug.name)
def test_planted_bug_is_found(bug: PlantedBug) -> None:
    """Every one of them, within its bound, by a checker that it names."""
    with package_copy() as original:
        found = hunt(bug, original)
        assert found.as_expected, as_text(found)
