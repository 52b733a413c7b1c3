"""A data folder while a node is being made in it, by `init` or by `join`.

The mark `unfinished` is written first and removed last. A folder that has it holds nothing that anybody was promised:
the next try clears it away. A folder that holds a node without the mark is never touched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keycluster.cluster.seams import Disk, FolderInUse
from keycluster.node.sealing import PENDING_NAME, SEALED_NAME

MARK_NAME = "unfinished"
LOCK_NAME = "lock"
"""Held by whoever works in the folder: a node that runs, `init`, `join`."""

MARK = b"keycluster init or join did not finish here: run it again\n"

STORE_PREFIXES = ("log.db", "state.db")
"""The stores' files: the databases and what SQLite and the stores put beside them."""


class FolderTaken(Exception):
    """The data folder can't be used for a new node; one line that says why."""


@contextmanager
def making(data: Path, disk: Disk, *, keep_pending: bool) -> Iterator[None]:
    """A folder for a new node: locked, marked and cleared of an earlier try's remains. Unmarked when all went well.

    `keep_pending` keeps what an unfinished join must find again. Blocking. Raises `FolderTaken`.
    """
    disk.make_folder(data)
    try:
        unlock = disk.lock(data / LOCK_NAME)
    except FolderInUse as error:
        raise FolderTaken(str(error)) from None
    try:
        remains = [name for name in disk.list(data) if name == SEALED_NAME or name.startswith(STORE_PREFIXES)]
        if remains and not is_unfinished(data, disk):
            raise FolderTaken(f"{data} holds a node already ({', '.join(remains)}): choose another folder")
        disk.replace(data / MARK_NAME, MARK)
        for name in remains:
            disk.remove(data / name)
        if not keep_pending:
            disk.remove(data / PENDING_NAME)
        yield
        disk.remove(data / PENDING_NAME)
        disk.remove(data / MARK_NAME)
    finally:
        unlock()


def is_unfinished(data: Path, disk: Disk) -> bool:
    """Whether a node was begun here and not finished: it must not start."""
    return disk.size(data / MARK_NAME) > 0
