"""What is built from this tree: `keycluster.*` alone, so that an application may have a `client` of its own."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "keycluster", "client", "cluster", "node", "simulations")
FLOORS = {"cli", "client", "cluster", "node", "simulations"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a source distribution, built from a copy."""
    copy = tmp_path_factory.mktemp("copy")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    done = subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta as b; b.build_wheel('.'); b.build_sdist('.')"],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return copy


def test_the_wheel_holds_keycluster_alone(built: Path) -> None:
    """Every module of every floor, the mark that it is typed, and nothing at the top level beside it."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"keycluster"}
    modules = {name for name in names if name.endswith(".py")}
    expected = {
        f"keycluster/{floor}/{path.relative_to(folder).as_posix()}"
        for floor in FLOORS
        for folder in [(built / "keycluster" / floor).resolve()]
        for path in folder.rglob("*.py")
    }
    assert modules == expected | {"keycluster/__init__.py", "keycluster/__main__.py"}
    assert "keycluster/py.typed" in names


def test_the_source_distribution_is_whole(built: Path) -> None:
    """With files where the checkout has links: some systems have none."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        members = archive.getmembers()
    assert not any(member.issym() or member.islnk() for member in members)
    inside = {"/".join(member.name.split("/")[1:3]) for member in members}
    assert {f"keycluster/{floor}" for floor in FLOORS} <= inside
    assert {"pyproject.toml", "README.md"} <= inside


def test_users_get_ranges_and_developers_pins() -> None:
    """The metadata gives lower bounds; exact versions with hashes live in the lock file alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(">=" in requirement and "==" not in requirement for requirement in project["dependencies"])
    locked = (ROOT / "requirements.lock").read_text()
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        assert f"\n{requirement.partition('>=')[0].lower()}==" in f"\n{locked}"
    assert locked.count("--hash=sha256:") > locked.count("==")
