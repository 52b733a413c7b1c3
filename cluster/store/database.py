"""One SQLite database of a store: how it is made, opened, written and checkpointed.

Two connections: the *writer*, used by one worker thread at a time, and *readers*, which see synced commits only and
never wait for the writer (on one shared connection an inline read saw uncommitted rows and waited out the sync:
tried).

Opening looks at the WAL before SQLite does (`wal.py`), compares the schema with ours (a trigger planted in the file
would run inside our writes), and empties the WAL, so that frames of a torn commit never stand behind newer ones.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from keycluster.cluster.seams import Disk, FolderInUse
from keycluster.cluster.store.errors import StoreDamaged, StoreError, StoreFailed, StoreLocked, store_errors, translated
from keycluster.cluster.store.wal import scan_wal

PAGE_BYTES = 4096  # SQLite's default since 3.12; checked when a store is opened.
WAL_PAGES_LARGE = 1_000  # 4 MiB. From here on a checkpoint is worth its two syncs; also bounds what a start must scan.
BUSY_MS = 5_000  # No connection of ours holds a lock for long; whoever else has the file open must let go.
CACHE_KIB = 8_192

_UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True)
class Schema:
    """Statements that make the tables, in SQLite's own spelling: `sqlite_schema` keeps them word by word."""

    statements: tuple[str, ...]


class Database:
    """See the module's docstring. Made by `create` and `open`; whoever made it closes it."""

    def __init__(self, disk: Disk, path: Path, unlock: Callable[[], None], wal_pages_large: int) -> None:
        self.path = path
        self.wal_pages = 0
        self._wal_pages_large = wal_pages_large
        self._disk = disk
        self._unlock = unlock
        self._failed: StoreError | None = None
        self._checkpoint_at = wal_pages_large
        self.writing = threading.RLock()
        self._readers: list[apsw.Connection] = []
        self.writer = self.connect()

    @classmethod
    def create(cls, disk: Disk, path: Path, schema: Schema, fill: Callable[[apsw.Connection], None]) -> None:
        """Makes the file with its tables and first rows, whole or not at all. Its folder is made too."""
        with store_errors(path):
            disk.make_folder(path.parent)
            unlock = _lock(disk, path)
            try:
                if disk.size(path):
                    raise StoreFailed(path, "a store is there already")
                unfinished = path.with_name(path.name + _UNFINISHED)
                _remove(disk, unfinished)
                disk.write_at(unfinished, 0, b"")  # SQLite would make it with the umask's mode, this is 0600.
                _fill(disk, unfinished, schema, fill)
                disk.rename(unfinished, path)
            finally:
                unlock()

    @classmethod
    def open(cls, disk: Disk, path: Path, schema: Schema, *, wal_pages_large: int | None = None) -> "Database":
        """`wal_pages_large`: where checkpoints begin, if not at 4 MiB.

        Raises `StoreDamaged`, `StoreFailed` or `StoreLocked`.
        """
        with store_errors(path):
            if not disk.size(path):
                raise StoreDamaged(path, "the file is missing or empty")
            unlock = _lock(disk, path)
            try:
                scan_wal(disk, path.with_name(path.name + "-wal"))
                database = cls(disk, path, unlock, wal_pages_large or WAL_PAGES_LARGE)
            except BaseException:
                unlock()
                raise
            try:
                check_schema(database.writer, path, schema)
                database.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except BaseException:
                database.close()
                raise
            return database

    def connect(self) -> apsw.Connection:
        """One more connection, set up for durability and secrecy. Whoever asked for it closes it, before `close`."""
        with store_errors(self.path):
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=self._disk.vfs)
            try:
                _set_up(connection, self.path)
            except BaseException:
                close_quietly(connection)
                raise
            connection.set_wal_hook(self._wal_written)
            return connection

    def connect_reader(self) -> apsw.Connection:
        """A connection that only reads and lives until `close`."""
        connection = self.connect()
        connection.pragma("query_only", True)
        self._readers.append(connection)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """One synced transaction. An exception rolls back and propagates; after a disk's failure no other begins."""
        with self.writing:
            if self._failed is not None:
                raise self._failed
            try:
                self.writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self.writer
                    self.writer.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise
            except apsw.Error as error:
                translation = translated(error, self.path)
                if isinstance(translation, StoreError):
                    self._failed = translation
                raise translation from error

    def replace_content(self, source: apsw.Connection) -> None:
        """All of the database becomes `source`'s, in one synced transaction. Readers stay at the commit they see."""
        with self.writing:
            if self._failed is not None:
                raise self._failed
            try:
                copy_database(self.writer, source)
            except apsw.Error as error:
                self._failed = StoreFailed(self.path, f"{type(error).__name__}: {error}")
                raise self._failed from error
            # SQLite tells the hook of commits, and a copy's end is none.
            self.wal_pages = self._disk.size(self.path.with_name(self.path.name + "-wal")) // PAGE_BYTES

    def checkpoint(self) -> None:
        """Copies the WAL's commits into the database and syncs it, as far as readers let it.

        Once all of it is copied and no reader stands on the WAL, the next commit starts the WAL anew.
        """
        with self.writing, store_errors(self.path):
            self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._checkpoint_at = self.wal_pages + self._wal_pages_large

    @property
    def wal_is_large(self) -> bool:
        """Also false for a while after a checkpoint that could not free the WAL, for a slow reader's sake."""
        return self.wal_pages >= self._checkpoint_at

    def close(self) -> None:
        """Idempotent. The last connection to close checkpoints and removes the WAL."""
        with self.writing:
            for connection in (*self._readers, self.writer):
                close_quietly(connection)
            self._unlock()
            self._unlock = _nothing

    def _wal_written(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self.wal_pages:  # Started anew.
            self._checkpoint_at = self._wal_pages_large
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors (disk full, I/O); then there is nothing to do.
        if self.writer.in_transaction:
            self.writer.execute("ROLLBACK")


def close_quietly(connection: apsw.Connection) -> None:
    """Nothing of ours is unsynced at a close: an error while tidying up loses nothing and must not hide another one."""
    with suppress(apsw.Error):
        connection.close(True)


def copy_database(target: apsw.Connection, source: apsw.Connection) -> None:
    """All pages in one step: one read transaction at the source, one write transaction at the target."""
    backup = target.backup("main", source, "main")
    try:
        backup.step()  # Commits, too.
    finally:
        with suppress(apsw.Error):  # The one that stopped it says more.
            backup.close(True)


def check_schema(connection: apsw.Connection, path: Path, schema: Schema) -> None:
    """Raises `StoreDamaged` unless the database has exactly our tables and nothing else: no index, view or trigger."""
    found = connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
    if found != [(statement,) for statement in schema.statements]:
        raise StoreDamaged(path, "its schema is not this program's")


def _fill(disk: Disk, path: Path, schema: Schema, fill: Callable[[apsw.Connection], None]) -> None:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs=disk.vfs)
    try:
        _set_up(connection, path)
        with connection:
            for statement in schema.statements:
                connection.execute(statement)
            fill(connection)
        # All of it into the file that is about to be renamed. Closing would do that too, but not say if it failed.
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        close_quietly(connection)


def _set_up(connection: apsw.Connection, path: Path) -> None:
    connection.set_busy_timeout(BUSY_MS)
    connection.pragma("trusted_schema", False)
    connection.pragma("cell_size_check", True)
    mode = connection.pragma("journal_mode", "WAL")
    if mode != "wal":
        # Without shared memory SQLite silently stays in another mode, where readers and the writer block each other.
        raise StoreFailed(path, f"the file system can't do write-ahead logging (journal_mode is {mode})")
    if connection.pragma("page_size") != PAGE_BYTES:
        raise StoreDamaged(path, "its pages have another size")
    connection.pragma("synchronous", "FULL")
    connection.pragma("secure_delete", True)
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("journal_size_limit", 4 * WAL_PAGES_LARGE * PAGE_BYTES)
    connection.pragma("cache_size", -CACHE_KIB)


def _lock(disk: Disk, path: Path) -> Callable[[], None]:
    try:
        return disk.lock(path.with_name("lock"))
    except FolderInUse:
        raise StoreLocked(path.parent) from None


def _remove(disk: Disk, path: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal", ""):
        disk.remove(path.with_name(path.name + suffix))


def _nothing() -> None:
    pass
