"""Of which code a run is: a commit where there is one, else a version."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import keycluster
from keycluster.simulations.campaign import origin as module
from keycluster.simulations.campaign.origin import Origin, commit, origin

VERSION = f"version {metadata.version('keycluster')}"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a folder of its own, in place of ours."""
    folder = tmp_path / "checkout" / "keycluster"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.setattr(keycluster, "__file__", str(folder / "__init__.py"))
    return folder


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@needs_git
def test_a_checkout_is_named_by_its_commit(package: Path) -> None:
    """With a word for changes that are in no commit."""
    git(package, "init")
    git(package, "add", "__init__.py")
    git(package, "commit", "-m", "first")
    clean = commit()
    assert 7 <= len(clean) <= 40
    (package / "__init__.py").write_text("changed = True\n")
    assert commit() == f"{clean}-dirty"


@needs_git
def test_without_git_it_is_a_version(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where the package lies in another project's checkout, whose commits say nothing about it."""
    assert commit() == VERSION
    git(package, "init")
    git(package, "commit", "--allow-empty", "-m", "another project's")
    assert commit() == VERSION
    git(package, "add", "__init__.py")
    assert commit() != VERSION
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() == VERSION


def test_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each process: a campaign may write a thousand files."""
    answers = iter(["first", "second"])
    monkeypatch.setattr(module, "commit", lambda: next(answers))
    origin.cache_clear()
    assert [origin().commit, origin().commit] == ["first", "first"]
    origin.cache_clear()


def test_what_has_changed_is_said() -> None:
    """Both ways round; what a file doesn't name is no change, nor is another commit of the same code."""
    now = Origin("b", "c2", {"Python": "3.12.1", "SQLite": "3.50"})
    assert Origin().changes_to(now) == []
    assert Origin("b", "c1").changes_to(now) == []
    assert Origin("a", "c1", {"Python": "3.11.2", "SQLite": "3.50", "gone": "1"}).changes_to(now) == [
        "the code has changed since (then c1, now c2)",
        "Python was 3.11.2, is 3.12.1",
        "gone was 1, is unknown",
    ]


def test_versions_are_of_what_runs() -> None:
    """Those that may change a trace."""
    versions = module.versions()
    assert versions["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(module.PACKAGES) < versions.keys()
