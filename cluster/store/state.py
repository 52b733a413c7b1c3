"""The applied key state: rows in SQLite, changed only by committed entries, each batch in one transaction with its
index.

Invariant: rows, applied index, membership and set hash on disk are always those of one and the same index. Readers go
through the *view*, which stays at the commit it was moved to by `refresh` for as long as nobody moves it: handlers and
caches see exactly one index.

The view holds a read transaction open, and a WAL can start anew only if no reader stands on it. So `apply` checkpoints
a large WAL *before* it writes, when the view stands at the newest commit and all can be copied; then it lets the view
stand up and sit down again at that same commit, now in the database file instead of the WAL. The view's owner can't
notice.

Threads: `apply`, `install_snapshot`, `checkpoint_if_large` in a worker thread, one at a time; `write_snapshot` in any
one beside them; `refresh` and the view inline on the event loop.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import apsw
import msgspec

from keycluster.cluster.invariant import require
from keycluster.cluster.raft.messages import Entry, EntryKind, Membership, SnapshotMeta, decode_membership_entry
from keycluster.cluster.seams import Disk
from keycluster.cluster.store import snapshot
from keycluster.cluster.store.authentication import SET_MODULUS_MASK, StateAuthentication, StateKeys
from keycluster.cluster.store.database import Database, close_quietly
from keycluster.cluster.store.errors import store_errors, translated
from keycluster.cluster.store.rows import SCHEMA, RowReader, StateMeta, encode_meta, verify_state
from keycluster.cluster.types import LogIndex, NodeId, Term

FILE_NAME = "state.db"
DIGESTS_KEPT = 4_096  # Recent indexes whose digest can be compared; a peer asks about what it was just told.

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Applied(Generic[T]):
    """What a batch came to."""

    index: LogIndex
    results: tuple[T | None, ...]  # One for each entry; None for those that `apply_one` isn't called for.
    touched: frozenset[tuple[int, bytes]]  # Rows put or deleted, by table and key.


class StateView:
    """The state at exactly `applied_index`. Moved by `StateStore.refresh` alone."""

    def __init__(self, connection: apsw.Connection, path: Path, authentication: StateAuthentication) -> None:
        """Inner: made by the store."""
        self._connection = connection
        self._path = path
        self._authentication = authentication
        self._rows = RowReader(connection, path, authentication)
        self._lock = threading.Lock()  # The worker thread steps in for the moment of `repin`.
        self._meta: StateMeta
        self._digest: bytes | None
        self._pin()

    @property
    def applied_index(self) -> LogIndex:
        return self._meta.applied_index

    @property
    def applied_term(self) -> Term:
        return self._meta.applied_term

    @property
    def membership(self) -> Membership:
        """As of `applied_index`."""
        return self._meta.membership

    @property
    def last_leader(self) -> NodeId | None:
        """Named by the newest LEADER entry applied."""
        return self._meta.last_leader

    @property
    def snapshot_meta(self) -> SnapshotMeta:
        return self._meta.snapshot

    @property
    def digest(self) -> bytes:
        """HMAC(sum, index): equal at all replicas with equal rows."""
        if self._digest is None:
            total = self._authentication.open_sum(self._meta.sealed_sum, self._meta.applied_index)
            self._digest = self._authentication.set_digest(total, self._meta.applied_index)
        return self._digest

    def get(self, table: int, key: bytes) -> bytes | None:
        """The row's value, None if there is none. Raises `StoreDamaged` for a row that isn't authentic."""
        with self._lock:
            return self._rows.get(table, key)

    def scan(
        self, table: int, *, prefix: bytes = b"", after: bytes | None = None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Up to `limit` (key, value) in order of the key's bytes, of keys with `prefix` that come after `after`."""
        with self._lock:
            return self._rows.scan(table, prefix=prefix, after=after, limit=limit)

    def count(self, table: int) -> int:
        """Rows of the table: it takes time in proportion to them."""
        with self._lock:
            return self._rows.count(table)

    def repin(self) -> None:
        """Ends the read transaction and begins one at the newest commit."""
        with self._lock:
            self._pin()

    def _pin(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
            self._connection.execute("BEGIN")
        except apsw.Error as error:
            raise translated(error, self._path) from error
        self._meta = self._rows.meta()  # The first read takes the snapshot.
        self._digest = None


class StateTx:
    """The state inside a batch's transaction: its own uncommitted writes included."""

    def __init__(
        self, connection: apsw.Connection, path: Path, authentication: StateAuthentication, total: int
    ) -> None:
        """Inner: made by `apply`."""
        self._connection = connection
        self._path = path
        self._authentication = authentication
        self._rows = RowReader(connection, path, authentication)
        self._touched: list[tuple[int, bytes]] = []
        self.total = total

    @property
    def touched(self) -> frozenset[tuple[int, bytes]]:
        """Rows put or deleted so far, by table and key."""
        return frozenset(self._touched)

    def get(self, table: int, key: bytes) -> bytes | None:
        """The row's value, None if there is none. Raises `StoreDamaged` for a row that isn't authentic."""
        return self._rows.get(table, key)

    def scan(
        self, table: int, *, prefix: bytes = b"", after: bytes | None = None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Up to `limit` (key, value) in order of the key's bytes, of keys with `prefix` that come after `after`."""
        return self._rows.scan(table, prefix=prefix, after=after, limit=limit)

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Makes the row or replaces its value."""
        self._drop_term(table, key)
        record = self._authentication.seal_row(table, key, value)
        self._execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (table, key, record))
        self.total = (self.total + self._authentication.set_term(table, key, value)) & SET_MODULUS_MASK
        self._touched.append((table, key))

    def delete(self, table: int, key: bytes) -> None:
        """Removes the row if it is there."""
        if self._drop_term(table, key):
            self._execute("DELETE FROM rows WHERE tab = ? AND key = ?", (table, key))
            self._touched.append((table, key))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undoes all inside it when an exception leaves it, which goes on upwards. May be nested."""
        total, touched = self.total, len(self._touched)
        self._execute("SAVEPOINT inner")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK TO inner")
            self._execute("RELEASE inner")
            self.total = total
            del self._touched[touched:]
            raise
        self._execute("RELEASE inner")

    def _drop_term(self, table: int, key: bytes) -> bool:
        """Takes the present row, if any, out of the sum."""
        present = self._rows.get(table, key)
        if present is None:
            return False
        self.total = (self.total - self._authentication.set_term(table, key, present)) & SET_MODULUS_MASK
        return True

    def _execute(self, statement: str, values: tuple[int | bytes, ...] = ()) -> None:
        try:
            self._connection.execute(statement, values)
        except apsw.Error as error:
            raise translated(error, self._path) from error


class StateStore:
    """See the module's docstring. Made by `create` and `open`."""

    def __init__(
        self, disk: Disk, database: Database, authentication: StateAuthentication, meta: StateMeta, total: int
    ) -> None:
        """Inner: use `open`."""
        self._disk = disk
        self._database = database
        self._path = database.path
        self._authentication = authentication
        self._meta = meta
        self._total = total
        self._digests: dict[LogIndex, bytes] = {}
        self._note_digests([(meta.applied_index, authentication.set_digest(total, meta.applied_index))])
        self.view = StateView(database.connect_reader(), self._path, authentication)

    @classmethod
    def create(
        cls, disk: Disk, folder: Path, keys: StateKeys, *, membership: Membership, base: SnapshotMeta | None = None
    ) -> "StateStore":
        """Makes an empty state at index 0 (or `base`) with this membership, and opens it. Fails if there is one."""
        authentication = StateAuthentication(keys)
        start = base or SnapshotMeta(LogIndex(0), Term(0), membership, None)
        sealed = authentication.seal_sum(0, start.index)
        meta = StateMeta(start.index, start.term, start.membership, start.last_leader, start.index, sealed)

        def fill(connection: apsw.Connection) -> None:
            connection.execute("INSERT INTO meta VALUES (1, ?)", (authentication.seal_meta(encode_meta(meta)),))

        Database.create(disk, folder / FILE_NAME, SCHEMA, fill)
        return cls.open(disk, folder, keys)

    @classmethod
    def exists(cls, disk: Disk, folder: Path) -> bool:
        return disk.size(folder / FILE_NAME) > 0

    @classmethod
    def open(cls, disk: Disk, folder: Path, keys: StateKeys, *, wal_pages_large: int | None = None) -> "StateStore":
        """Blocking: verifies every row and the set hash. Raises `StoreDamaged`, `StoreFailed`, `StoreLocked`."""
        database = Database.open(disk, folder / FILE_NAME, SCHEMA, wal_pages_large=wal_pages_large)
        try:
            authentication = StateAuthentication(keys)
            with store_errors(database.path):
                meta, total = verify_state(database.writer, database.path, authentication)
                return cls(disk, database, authentication, meta, total)
        except BaseException:
            database.close()
            raise

    @property
    def installed_index(self) -> LogIndex:
        """Index of the snapshot that this state was installed from, 0 if from none."""
        return self._meta.installed_index

    def refresh(self) -> None:
        """Moves the view to the newest commit. Quick; on the event loop."""
        self.view.repin()

    def apply(self, entries: Sequence[Entry], apply_one: Callable[[StateTx, Entry], T]) -> Applied[T]:
        """Blocking: one synced transaction for the batch. The entries follow the applied index without a gap.

        `apply_one` is called for COMMAND and MEMBERSHIP entries, in order. Any exception of it rolls the whole batch
        back and propagates: a failure that every replica would meet alike must be caught inside it
        (`StateTx.savepoint`).
        """
        require(bool(entries), "an empty batch")
        with self._database.writing:
            self.checkpoint_if_large()
            with self._database.transaction() as connection:
                batch: _Batch[T] = _Batch(
                    StateTx(connection, self._path, self._authentication, self._total), self._meta
                )
                for entry in entries:
                    batch.apply(entry, apply_one, self._authentication)
                meta = batch.meta(self._authentication)
                record = self._authentication.seal_meta(encode_meta(meta))
                connection.execute("UPDATE meta SET record = ? WHERE id = 1", (record,))
            self._meta, self._total = meta, batch.tx.total
            self._note_digests(batch.digests)
        return Applied(meta.applied_index, tuple(batch.results), batch.tx.touched)

    def digest_at(self, index: LogIndex) -> bytes | None:
        """HMAC(sum, index) as of a recent index, None if it is too far back or not applied yet."""
        return self._digests.get(index)

    def checkpoint_if_large(self) -> bool:
        """Blocking: frees a large WAL for the next batch, unless the view still has to be moved to the newest commit.

        `apply` does this by itself; call it when nothing is applied any more. Returns whether it did anything.
        """
        with self._database.writing:
            # The view can only move forwards, and in this thread nothing is committed meanwhile: once it stands at the
            # newest commit it stays there, and `repin` changes what it stands on, not what it shows.
            if not self._database.wal_is_large or self.view.applied_index != self._meta.applied_index:
                return False
            self._database.checkpoint()
            self.view.repin()
            return True

    def write_snapshot(self, path: Path) -> SnapshotMeta:
        """Blocking: copies the newest commit into the file `path`. May run beside `apply`, which it doesn't hold up."""
        source = self._database.connect()
        try:
            return snapshot.write_snapshot(self._disk, path, source, self._authentication)
        finally:
            close_quietly(source)

    def install_snapshot(self, path: Path, meta: SnapshotMeta) -> None:
        """Blocking: replaces the state by the snapshot's, in one transaction; a crash leaves the old or the new one.

        Raises `SnapshotRefused`, with the state as it was, unless the file verifies wholly and is the one of `meta`.
        The view shows it once it is refreshed. The log must be reset to `meta` afterwards (`recovery.py`).
        """
        verified = snapshot.verified_snapshot(self._disk, path, meta, self._authentication)
        with verified as (source, new, total), self._database.writing:
            require(meta.index > self._meta.applied_index, f"snapshot {meta.index} is no news for {self._path}")
            self._database.replace_content(source)
            self._meta, self._total = new, total
            self._digests = {}
            self._note_digests([(new.applied_index, self._authentication.set_digest(total, new.applied_index))])

    def close(self) -> None:
        """Idempotent. The view can't be read any more."""
        self._database.close()

    def _note_digests(self, digests: Sequence[tuple[LogIndex, bytes]]) -> None:
        # Read by the event loop meanwhile, one `get` at a time: each step below leaves the dict whole.
        for index, digest in digests:
            self._digests[index] = digest
            self._digests.pop(LogIndex(index - DIGESTS_KEPT), None)


class _Batch(Generic[T]):
    """One batch on its way through the state."""

    def __init__(self, tx: StateTx, before: StateMeta) -> None:
        self.tx = tx
        self.results: list[T | None] = []
        self.digests: list[tuple[LogIndex, bytes]] = []
        self._before = before
        self._index = before.applied_index
        self._term = before.applied_term
        self._membership = before.membership
        self._last_leader = before.last_leader

    def apply(
        self, entry: Entry, apply_one: Callable[[StateTx, Entry], T], authentication: StateAuthentication
    ) -> None:
        require(entry.index == self._index + 1, f"entry {entry.index} applied after {self._index}")
        require(entry.term >= self._term, f"entry {entry.index} of term {entry.term} applied after term {self._term}")
        self._index, self._term = entry.index, entry.term
        if entry.kind is EntryKind.LEADER:
            self._last_leader = NodeId(entry.payload.decode())
            self.results.append(None)
        else:
            if entry.kind is EntryKind.MEMBERSHIP:
                self._membership = decode_membership_entry(entry.payload).membership
            self.results.append(apply_one(self.tx, entry))
        self.digests.append((self._index, authentication.set_digest(self.tx.total, self._index)))

    def meta(self, authentication: StateAuthentication) -> StateMeta:
        return msgspec.structs.replace(
            self._before,
            applied_index=self._index,
            applied_term=self._term,
            membership=self._membership,
            last_leader=self._last_leader,
            sealed_sum=authentication.seal_sum(self.tx.total, self._index),
        )
