"""Copies of this package, whole as an import needs them, and patched.

The original stays as it is; and since all copies of one hunt are made from one first copy, work that goes on in the
original meanwhile changes nothing either.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keycluster
from keycluster.simulations.planted.bugs import PlantedBug

PACKAGE = "keycluster"
_FOLDERS = ("cli", "client", "cluster", "node", "simulations")


class PatchFails(Exception):
    """A patch doesn't apply to the code as it is; the text is git's."""


@contextmanager
def package_copy(of: Path | None = None) -> Iterator[Path]:
    """A temporary folder to put on PYTHONPATH, with a copy of the package: of the running one, or of another copy."""
    source = Path(keycluster.__file__).parent if of is None else of / PACKAGE
    with tempfile.TemporaryDirectory(prefix="keycluster-planted-") as folder:
        target = Path(folder) / PACKAGE
        target.mkdir()
        for file in sorted(source.glob("*.py")):
            shutil.copy(file, target / file.name)
        for name in _FOLDERS:  # Links in a checkout; their content is what is wanted.
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(folder)


@contextmanager
def patched_copy(bug: PlantedBug, *, of: Path | None = None) -> Iterator[Path]:
    """As `package_copy`, with the bug in it. Raises `PatchFails`."""
    with package_copy(of) as folder:
        apply_patch(bug, folder)
        yield folder


def apply_patch(bug: PlantedBug, folder: Path) -> None:
    """To the copy in `folder`. Raises `PatchFails`, also when there is no git."""
    command = ["git", "apply", "--whitespace=nowarn", f"--directory={PACKAGE}", "-"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}  # No part of a repository around it.
    try:
        done = subprocess.run(  # noqa: S603 (our own words)
            command, cwd=folder, env=environment, input=bug.patch, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise PatchFails("planted bugs are applied by `git apply`, and there is no git here: install it") from None
    if done.returncode != 0:
        raise PatchFails(f"{bug.name}.patch doesn't apply: {done.stderr.strip()}")
