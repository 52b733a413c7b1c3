"""What a run depends on besides its spec: the code, and what is under it.

The same spec gives the same trace where both are the same. The commit is for people: what to check out.
"""

import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

import apsw

import keycluster

FLOORS: Final = ("client", "cluster", "node", "simulations")
"""Whose code decides what a run does."""

PACKAGES: Final = ("apsw", "msgpack", "msgspec", "trio", "cryptography")
"""Whose versions may: by what they encode, or in which order they do things."""

GIT_S = 10.0  # For one of its commands: a file system may hang.


@dataclass(frozen=True, slots=True)
class Origin:
    """Empty values are of a file that doesn't say."""

    code_sha256: str = ""
    commit: str = ""
    """As `git describe` names it, or a version."""
    versions: dict[str, str] = field(default_factory=dict)

    def is_same_code(self, other: "Origin") -> bool:
        return self.code_sha256 == other.code_sha256

    def changes_to(self, now: "Origin") -> list[str]:
        """Why a run may go another way `now`; of what isn't known here, nothing."""
        changes = []
        if self.code_sha256 and not self.is_same_code(now):
            changes.append(f"the code has changed since (then {self.commit or 'unknown'}, now {now.commit})")
        for name, then in self.versions.items():
            if then != now.versions.get(name):
                changes.append(f"{name} was {then}, is {now.versions.get(name, 'unknown')}")
        return changes


@cache
def origin() -> Origin:
    """Of this process."""
    return Origin(code_sha256(), commit(), versions())


@cache
def code_sha256() -> str:
    """Of all modules that a run may use, with their names."""
    return tree_sha256(Path(keycluster.__file__).parent)


def tree_sha256(root: Path) -> str:
    """The same of the package in another folder."""
    total = hashlib.sha256()
    for floor in FLOORS:
        folder = (root / floor).resolve()
        for path in sorted(folder.rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{floor}/{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()


def versions() -> dict[str, str]:
    return {
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def commit() -> str:
    """Of the checkout that the package is in; where it is in none, its version."""
    folder = Path(keycluster.__file__).resolve().parent
    # A package that is installed inside another project's checkout isn't among the files of that one.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py"):
        described = _git(folder, "describe", "--always", "--dirty")
        if described:
            return described
    return f"version {metadata.version('keycluster')}"


def _git(folder: Path, *words: str) -> str:
    """What it says; nothing where there is no git, or no repository that it trusts."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "--no-optional-locks", "-C", str(folder), *words],  # noqa: S607 (the user's own)
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()
