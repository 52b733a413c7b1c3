"""The patches as they stand: each applies to the present code, and changes what its head says."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keycluster.simulations.planted.bugs import PatchMalformed, PlantedBug, all_bugs, read_bug
from keycluster.simulations.planted.copies import PACKAGE, PatchFails, apply_patch, package_copy

BUGS = all_bugs()


def definitions(text: str) -> dict[str, str]:
    """Functions by their full names, and what stands around them in each class and in the module."""
    found: dict[str, str] = {}

    def visit(node: ast.AST, prefix: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found[".".join((*prefix, child.name))] = ast.dump(child)
            elif isinstance(child, ast.ClassDef):
                visit(child, (*prefix, child.name))
            else:
                name = ".".join((*prefix, "<body>"))
                found[name] = found.get(name, "") + ast.dump(child)

    visit(ast.parse(text), ())
    return found


def changes(before: Path, after: Path, path: str) -> set[str]:
    """`path definition` of all that differs."""
    old, new = definitions((before / path).read_text()), definitions((after / path).read_text())
    return {f"{path} {name}" for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with package_copy() as folder:
        kept = tmp_path_factory.mktemp("planted") / "original"
        folder.rename(kept)
        folder.mkdir()  # What removes it finds it.
    return kept


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_patch_changes_what_its_head_says(bug: PlantedBug, original: Path, tmp_path: Path) -> None:
    """It applies to the code as it is, and what changes are the definitions that its head names, no others."""
    paths = sorted({place.path for place in bug.places})
    for path in paths:  # No others are there: a patch of one more would fail.
        (tmp_path / PACKAGE / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original / PACKAGE / path, tmp_path / PACKAGE / path)
    apply_patch(bug, tmp_path)
    changed = [changes(original / PACKAGE, tmp_path / PACKAGE, path) for path in paths]
    assert set().union(*changed) == {f"{place.path} {place.definition}" for place in bug.places}


def test_there_are_enough_of_both_simulators() -> None:
    """The issue asks for 30 at least; names are unique as file names are."""
    assert len(BUGS) >= 45
    assert {bug.simulator.value for bug in BUGS} == {"core", "region"}


def test_every_lease_rule_is_left_out_somewhere() -> None:
    """L1 to L10."""
    rules = {bug.name.partition("-")[0] for bug in BUGS}
    assert {f"l{number}" for number in range(1, 11)} <= rules


def test_copy_is_what_a_patched_process_imports(original: Path) -> None:
    """And not the checkout that it was made from."""
    asked = "import keycluster, keycluster.node.run as r; print(keycluster.__file__); print(r.__file__)"
    with package_copy(original) as folder:
        command = [sys.executable, "-c", asked]
        environment = {"PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        assert all(Path(line).is_relative_to(folder) for line in done.stdout.split())


def test_seeds_refuse_to_run_on_another_package(original: Path, tmp_path: Path) -> None:
    """A hunt in the original would find nothing, and call that a result."""
    command = [sys.executable, "-m", "keycluster.simulations.planted.seeds", str(tmp_path), "1"]
    environment = {"PYTHONPATH": str(original)}
    done = subprocess.run(command, cwd=original, env=environment, input="", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not from the copy" in done.stderr


def test_patch_that_does_not_apply_says_so(original: Path) -> None:
    """With git's reason, and the patch's name."""
    bug = BUGS[0]
    with package_copy(original) as folder:
        apply_patch(bug, folder)
        with pytest.raises(PatchFails, match=bug.name):
            apply_patch(bug, folder)


def test_missing_git_is_told(original: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In words, not as a traceback."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PatchFails, match="no git"):
        apply_patch(BUGS[0], original)


@pytest.mark.parametrize(
    "head",
    [
        "What: a bug\n\n",
        "What: a\nRule: b\nSimulator: moon\nCheckers: c\nSeeds: 1\nIn: cluster/types.py X\n\n",
        "What: a\nRule: b\nSimulator: core\nCheckers: c\nSeeds: many\nIn: cluster/types.py X\n\n",
        "What: a\nRule: b\nSimulator: core\nCheckers: c\nSeeds: 1\n\n",
        "What: a\nWhat: b\nRule: b\nSimulator: core\nCheckers: c\nSeeds: 1\nIn: cluster/types.py X\n\n",
        "Colour: red\nWhat: a\nRule: b\nSimulator: core\nCheckers: c\nSeeds: 1\nIn: cluster/types.py X\n\n",
    ],
)
def test_malformed_head_is_refused(head: str, tmp_path: Path) -> None:
    """A patch that doesn't say what it is can't be looked for."""
    path = tmp_path / "odd.patch"
    path.write_text(head + "diff --git a/cluster/types.py b/cluster/types.py\n")
    with pytest.raises(PatchMalformed):
        read_bug(path)
