"""Whose a folder is: torture works in an empty one, or in one of `keycluster dev`'s that nobody uses now.

Nothing is touched before that is known: a user may name the folder of a region that runs, or a wrong one.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SETTINGS: Final = "dev.json"
"""What `dev` writes before anything else that would be missed."""
LOCK: Final = "lock"
"""Held while `dev` runs (flock), and while we do: the region is in one's hands only."""
DEV_LOG: Final = "torture-dev.log"
LEFT_BY_A_REFUSAL: Final = frozenset({LOCK, DEV_LOG})
"""Of a `dev` that didn't begin: the folder is still nobody's."""


class RegionUnfit(Exception):
    """The folder's region can't be used; the text says why."""


def prepare(folder: Path) -> None:
    """Makes it if it isn't there. Raises `RegionUnfit` for one that is somebody else's."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except FileExistsError:
        raise RegionUnfit(f"{folder} is not a folder") from None
    except OSError as error:
        raise RegionUnfit(f"{folder}: {error.strerror}") from None
    if SETTINGS not in names and not names <= LEFT_BY_A_REFUSAL:
        raise RegionUnfit(f"{folder} holds other things than a region of `keycluster dev`: choose another folder")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """For this process alone; ends with it, however it ends. Raises `RegionUnfit` where somebody else has it."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RegionUnfit(f"{folder / LOCK}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RegionUnfit(f"{folder} is in use by another `keycluster dev` or `torture`") from None
        yield
    finally:
        os.close(descriptor)
