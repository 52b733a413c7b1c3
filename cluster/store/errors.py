"""What can go wrong with a store, by whose doing it is.

    StoreError
    ├── StoreDamaged     the content is not what this node wrote: never served, the node stops and is built anew
    ├── StoreFailed      the disk refused to read, write or sync: fatal too, since nobody knows what is on it now
    ├── StoreLocked      another process has the folder
    └── SnapshotRefused  a snapshot file from elsewhere isn't what it should be: the store itself is as it was

Each message is one line for an operator, without any row's content.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

REBUILD_HINT = "remove this node from the region and let it join again"

# The disk's doing, not the content's. Everything else that SQLite says about a database nobody but this code writes
# means that the content is not what was written ("malformed", "no such table", "not a database", "unsupported file
# format").
_DISK_ERRORS = (
    apsw.IOError,
    apsw.FullError,
    apsw.NoMemError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.AuthError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.ProtocolError,
    apsw.NoLFSError,
    apsw.InterruptError,
)
# Ours: a mistake in how the connection is used. It must be seen as what it is.
_PROGRAM_ERRORS = (apsw.MisuseError, apsw.ThreadingViolationError, apsw.ConnectionClosedError, apsw.BindingsError)


class StoreError(Exception):
    """Any of the below."""


class StoreDamaged(StoreError):
    """A file's content was changed, rolled back in part or lost by anything but this code."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} is damaged: {what}; {REBUILD_HINT}")
        self.path = path


class StoreFailed(StoreError):
    """The disk is full, read-only or broken. Never retried: after a failed sync nobody knows the content."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: the disk failed: {what}; check the disk, then start the node again")
        self.path = path


class StoreLocked(StoreError):
    """Another process has this store open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is in use by another process; stop it first")


class SnapshotRefused(StoreError):
    """A snapshot file that doesn't verify, or isn't the one that was announced."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"snapshot {path} is refused: {what}")
        self.path = path


READ_ERRORS = (apsw.Error, UnicodeDecodeError)  # The second where a blob's type was changed into text.


def translated(error: Exception, path: Path) -> Exception:
    """The store's error for one of SQLite's or the disk's."""
    if isinstance(error, _PROGRAM_ERRORS):
        return error
    if isinstance(error, UnicodeDecodeError):
        return StoreDamaged(path, "a value has another type than was written")
    what = f"{type(error).__name__}: {error}"
    return StoreFailed(path, what) if isinstance(error, (*_DISK_ERRORS, OSError)) else StoreDamaged(path, what)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's and the disk's errors inside into the store's."""
    try:
        yield
    except (*READ_ERRORS, OSError) as error:
        raise translated(error, path) from error
