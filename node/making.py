"""A node's data folder: what is where in it, and how it is made by `init` or by `join`.

    node.sealed   the node's secrets under its seal (sealing.py)
    log/ state/   the stores, each with a lock of its own
    lock          held by whoever works in the folder: a node that runs, `init`, `join`
    unfinished    only while a node is being made
    join.sealed   only while a join waits for its answer

The mark `unfinished` is written first and removed last. A folder that has it holds nothing that anybody was promised:
the next try clears it away. A folder that holds a node without the mark is never touched.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from keycluster.cluster.seams import Disk, FolderInUse
from keycluster.node.sealing import PENDING_NAME, SEALED_NAME

MARK_NAME = "unfinished"
LOCK_NAME = "lock"
LOG_FOLDER = "log"
STATE_FOLDER = "state"

MARK = b"keycluster init or join did not finish here: run it again\n"


class FolderTaken(Exception):
    """The data folder can't be used for a new node; one line that says why."""


@contextmanager
def making(data: Path, disk: Disk, *, keep_pending: bool) -> Iterator[None]:
    """A folder for a new node: locked, marked and cleared of an earlier try's remains. Unmarked when all went well.

    `keep_pending` keeps what an unfinished join must find again. Blocking. Raises `FolderTaken`.
    """
    disk.make_folder(data)
    try:
        unlock = lock_data(data, disk)
    except FolderInUse as error:
        raise FolderTaken(str(error)) from None
    try:
        remains = _remains(data, disk)
        if remains and not is_unfinished(data, disk):
            found = ", ".join(str(path.relative_to(data)) for path in remains)
            raise FolderTaken(f"{data} holds a node already ({found}): choose another folder")
        disk.replace(data / MARK_NAME, MARK)
        for path in remains:
            disk.remove(path)
        if not keep_pending:
            disk.remove(data / PENDING_NAME)
        yield
        disk.remove(data / PENDING_NAME)
        disk.remove(data / MARK_NAME)
    finally:
        unlock()


def lock_data(data: Path, disk: Disk) -> Callable[[], None]:
    """Takes the folder for this process; what is returned gives it back. Raises `FolderInUse`."""
    return disk.lock(data / LOCK_NAME)


def is_unfinished(data: Path, disk: Disk) -> bool:
    """Whether a node was begun here and not finished: it must not start."""
    return disk.size(data / MARK_NAME) > 0


def holds_node(data: Path, disk: Disk) -> bool:
    """Whether a node was made here to the end."""
    return disk.size(data / SEALED_NAME) > 0 and not is_unfinished(data, disk)


def _remains(data: Path, disk: Disk) -> list[Path]:
    stores = [data / folder / name for folder in (LOG_FOLDER, STATE_FOLDER) for name in disk.list(data / folder)]
    sealed = data / SEALED_NAME
    return [sealed, *stores] if disk.size(sealed) else stores
