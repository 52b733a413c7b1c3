"""The Raft log with term and vote: entries chained by MAC, one synced transaction a write.

Invariant: what `entries` returns is what `write` was given. Terms and links of all entries stand in memory (40 bytes
each), so an entry read from the disk is checked against what this process wrote or verified at its start, not against
what the disk says now.

Record of an entry: link 32 ‖ term u64 ‖ kind u8 ‖ payload, by index. The meta record holds the last index and its
link: a log whose end was cut off is found when it is opened.

Threads: `write`, `compact` and `reset_to` in a worker thread, one at a time; all others inline on the event loop.
"""

import struct
import threading
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from struct import Struct

import apsw
import msgspec

from keycluster.cluster.invariant import InvariantBroken, require
from keycluster.cluster.raft.messages import Entry, EntryKind, HardState, SnapshotMeta, entry_bytes
from keycluster.cluster.seams import Disk
from keycluster.cluster.store.authentication import MAC_BYTES, LogAuthentication, NotAuthentic, StateKeys
from keycluster.cluster.store.database import Database, Schema
from keycluster.cluster.store.errors import StoreDamaged, store_errors
from keycluster.cluster.types import LogIndex, NodeId, Term

FILE_NAME = "log.db"
TAIL_BYTES_MAX = 8 << 20  # Newest entries kept in memory, by `entry_bytes`: what followers that keep up are sent.

_SCHEMA = Schema(
    (
        "CREATE TABLE entries(idx INTEGER PRIMARY KEY, record BLOB NOT NULL)",
        "CREATE TABLE meta(id INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    )
)
_HEAD = Struct(">32sQB")  # link, term, kind

Witness = dict[NodeId, tuple[Term, LogIndex]]


class LogMeta(msgspec.Struct, frozen=True, array_like=True):
    """The log's one meta row, authenticated, rewritten by every write."""

    hard_state: HardState
    witness: tuple[tuple[NodeId, Term, LogIndex], ...]
    base_index: LogIndex  # The entry before the first one kept; 0 if the log has them all.
    base_term: Term
    base_link: bytes
    last_index: LogIndex
    last_link: bytes


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(LogMeta)


class LogStore:
    """Implements the Raft core's `LogReader`. Made by `create` and `open`."""

    def __init__(self, database: Database, authentication: LogAuthentication) -> None:
        """Inner: use `open`."""
        self._database = database
        self._path = database.path
        self._authentication = authentication
        self._reader = database.connect_reader()
        self._reading = threading.Lock()
        self._guard = threading.Lock()  # Of all fields below, held for moments only.
        self._meta = _read_meta(database.writer, self._path, authentication)
        self._terms: array[int] = array("Q")
        self._links = bytearray()
        self._before: tuple[LogIndex, Term, array[int]] = (self._meta.base_index, self._meta.base_term, array("Q"))
        self._tail: deque[Entry] = deque()
        self._tail_bytes = 0

    @classmethod
    def create(cls, disk: Disk, folder: Path, keys: StateKeys, *, base: SnapshotMeta | None = None) -> "LogStore":
        """Makes an empty log, beginning after `base` if given, and opens it. `StoreFailed` if there is one."""
        authentication = LogAuthentication(keys)
        index = base.index if base else LogIndex(0)
        term = base.term if base else Term(0)
        link = authentication.chain_start(index, term)
        meta = LogMeta(HardState(Term(0), None), (), index, term, link, index, link)

        def fill(connection: apsw.Connection) -> None:
            connection.execute("INSERT INTO meta VALUES (1, ?)", (authentication.seal_meta(_encode(meta)),))

        Database.create(disk, folder / FILE_NAME, _SCHEMA, fill)
        return cls.open(disk, folder, keys)

    @classmethod
    def exists(cls, disk: Disk, folder: Path) -> bool:
        return disk.size(folder / FILE_NAME) > 0

    @classmethod
    def open(cls, disk: Disk, folder: Path, keys: StateKeys, *, wal_pages_large: int | None = None) -> "LogStore":
        """Blocking: verifies every entry and the chain. Raises `StoreDamaged`, `StoreFailed`, `StoreLocked`."""
        database = Database.open(disk, folder / FILE_NAME, _SCHEMA, wal_pages_large=wal_pages_large)
        try:
            with store_errors(database.path):
                store = cls(database, LogAuthentication(keys))
                store._load()
                return store
        except BaseException:
            database.close()
            raise

    @property
    def hard_state(self) -> HardState:
        return self._meta.hard_state

    @property
    def witness(self) -> Witness:
        """What each member is known to have acknowledged (security.md, 5)."""
        return {node: (term, index) for node, term, index in self._meta.witness}

    @property
    def base(self) -> tuple[LogIndex, Term]:
        """Index and term of the entry before the first one kept."""
        return self._meta.base_index, self._meta.base_term

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self._meta.base_index + 1)

    @property
    def last_index(self) -> LogIndex:
        """The base's index if the log is empty."""
        return self._meta.last_index

    def term(self, index: LogIndex) -> Term:
        """Of an entry kept, or of the base. Of one that the last compaction took, too: see `entries`."""
        with self._guard:
            meta = self._meta
            for base_index, base_term, terms in ((meta.base_index, meta.base_term, self._terms), self._before):
                if index == base_index:
                    return base_term
                if base_index < index <= base_index + len(terms):
                    return Term(terms[index - base_index - 1])
        raise InvariantBroken(f"no entry {index} in {self._bounds(meta)}")

    def entries(self, lo: LogIndex, hi: LogIndex, bytes_max: int) -> list[Entry]:
        """Entries lo ≤ index < hi, fewer if they come to more than `bytes_max` (`entry_bytes`), but at least one.

        None if `lo` isn't kept. The worker thread may compact the log, or reset it, between a caller's look at
        `first_index` and this call: that is no mistake of the caller. Raises `StoreDamaged` if the disk has other
        entries than were written.
        """
        with self._guard:
            end = min(hi, self._meta.last_index + 1)
            if not self._meta.base_index < lo < end:
                return []
            if self._tail and self._tail[0].index <= lo:
                start = lo - self._tail[0].index
                return list(_bounded((self._tail[at] for at in range(start, start + end - lo)), bytes_max))
        found = self._read(lo, hi, bytes_max)
        if found is None:
            # A write that replaces or erases just these entries may be between its commit and its note in memory.
            with self._database.writing:
                if not self._meta.base_index < lo <= self._meta.last_index:
                    return []
                found = self._read(lo, hi, bytes_max)
        if found is None:
            raise StoreDamaged(self._path, f"entries {lo} and following are not what was written")
        return found

    def write(
        self,
        *,
        hard_state: HardState | None = None,
        truncate_from: LogIndex | None = None,
        entries: Sequence[Entry] = (),
        witness: Mapping[NodeId, tuple[Term, LogIndex]] | None = None,
    ) -> None:
        """Blocking: one transaction, durable when it returns. `entries` follow the last one that is kept."""
        with self._database.writing:
            self._checkpoint_if_large()
            old = self._meta
            keep = old.last_index if truncate_from is None else LogIndex(min(old.last_index, truncate_from - 1))
            require(keep >= old.base_index, f"truncation from {truncate_from} in {self._bounds(old)}")
            links = self._chain(entries, after=keep)
            last = LogIndex(keep + len(entries))
            meta = LogMeta(
                hard_state or old.hard_state,
                old.witness if witness is None else tuple((node, *witness[node]) for node in sorted(witness)),
                old.base_index,
                old.base_term,
                old.base_link,
                last,
                links[-1] if links else self._link(keep),
            )
            records = [
                (entry.index, _HEAD.pack(link, entry.term, entry.kind) + entry.payload)
                for entry, link in zip(entries, links, strict=True)
            ]
            with self._database.transaction() as connection:
                if keep < old.last_index:
                    connection.execute("DELETE FROM entries WHERE idx > ?", (keep,))
                connection.executemany("INSERT INTO entries VALUES (?, ?)", records)
                self._put_meta(connection, meta)
            with self._guard:
                self._note(meta, keep=keep, entries=entries, links=links)

    def compact(self, upto: LogIndex) -> None:
        """Blocking: entries up to and with `upto` are erased. Call it only once the state holds them durably."""
        with self._database.writing:
            old = self._meta
            require(upto <= old.last_index, f"compaction up to {upto} in {self._bounds(old)}")
            if upto > old.base_index:
                self._rebase(upto, self.term(upto), self._link(upto), drop_suffix=False)

    def reset_to(self, meta: SnapshotMeta) -> None:
        """Blocking: the log begins after the installed snapshot; what follows stays only if it joins up with it."""
        with self._database.writing:
            old = self._meta
            require(meta.index >= old.base_index, f"reset to {meta.index} in {self._bounds(old)}")
            if meta.index <= old.last_index and self.term(meta.index) == meta.term:
                self.compact(meta.index)
            else:
                link = self._authentication.chain_start(meta.index, meta.term)
                self._rebase(meta.index, meta.term, link, drop_suffix=True)

    def close(self) -> None:
        """Idempotent."""
        with self._reading:
            self._database.close()

    def _rebase(self, index: LogIndex, term: Term, link: bytes, *, drop_suffix: bool) -> None:
        old = self._meta
        last = (index, link) if drop_suffix else (old.last_index, old.last_link)
        meta = msgspec.structs.replace(
            old, base_index=index, base_term=term, base_link=link, last_index=last[0], last_link=last[1]
        )
        with self._database.transaction() as connection:
            if drop_suffix:
                connection.execute("DELETE FROM entries")
            else:
                connection.execute("DELETE FROM entries WHERE idx <= ?", (index,))
            self._put_meta(connection, meta)
        gone = min(index, old.last_index) - old.base_index
        with self._guard:
            self._meta = meta
            self._before = old.base_index, old.base_term, self._terms[:]
            del self._terms[: None if drop_suffix else gone]
            del self._links[: None if drop_suffix else gone * MAC_BYTES]
            while self._tail and (drop_suffix or self._tail[0].index <= index):
                self._tail_bytes -= entry_bytes(self._tail.popleft())

    def _load(self) -> None:
        """Verifies the whole log and fills the memory's part."""
        meta = self._meta
        expected, link = meta.base_index + 1, meta.base_link
        for index, record in self._database.writer.execute("SELECT idx, record FROM entries ORDER BY idx"):
            if index != expected:
                raise StoreDamaged(self._path, f"entry {expected} is missing")
            entry, stored = self._parse(index, record)
            link = self._next_link(link, entry)
            if link != stored:
                raise StoreDamaged(self._path, f"entry {index} is not what was written")
            self._terms.append(entry.term)
            self._links += link
            self._keep_in_tail(entry)
            expected += 1
        if (meta.last_index, meta.last_link) != (expected - 1, link):
            raise StoreDamaged(self._path, f"it ends at entry {expected - 1} where {meta.last_index} had been written")

    def _read(self, lo: LogIndex, hi: LogIndex, bytes_max: int) -> list[Entry] | None:
        """From the disk; None if it isn't what the memory's links say."""
        found: list[Entry] = []
        size = 0
        with self._reading, store_errors(self._path):
            cursor = self._reader.execute(
                "SELECT idx, record FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx", (lo, hi)
            )
            for index, record in cursor:
                entry, _ = self._parse(index, record)
                if found and size + entry_bytes(entry) > bytes_max:
                    break
                found.append(entry)
                size += entry_bytes(entry)
            cursor.close(True)
        with self._guard:
            return found if self._is_written(lo, found) else None

    def _is_written(self, lo: LogIndex, found: list[Entry]) -> bool:
        if not found or not self._meta.base_index < lo:
            return False
        link = self._link(LogIndex(lo - 1))
        for index, entry in enumerate(found, start=lo):
            link = self._next_link(link, entry)
            if entry.index != index or index > self._meta.last_index or link != self._link(entry.index):
                return False
        return True

    def _parse(self, index: int, record: bytes) -> tuple[Entry, bytes]:
        try:
            link, term, kind = _HEAD.unpack_from(record)
            return Entry(Term(term), LogIndex(index), EntryKind(kind), record[_HEAD.size :]), link
        except (ValueError, TypeError, struct.error):
            raise StoreDamaged(self._path, f"entry {index} is malformed") from None

    def _chain(self, entries: Sequence[Entry], *, after: LogIndex) -> list[bytes]:
        links = []
        link = self._link(after)
        for index, entry in enumerate(entries, start=after + 1):
            require(entry.index == index, f"entry {entry.index} where {index} follows")
            link = self._next_link(link, entry)
            links.append(link)
        return links

    def _next_link(self, link: bytes, entry: Entry) -> bytes:
        return self._authentication.chain_next(
            link, index=entry.index, term=entry.term, kind=entry.kind, payload=entry.payload
        )

    def _link(self, index: LogIndex) -> bytes:
        at = (index - self._meta.base_index - 1) * MAC_BYTES
        return self._meta.base_link if at < 0 else bytes(self._links[at : at + MAC_BYTES])

    def _put_meta(self, connection: apsw.Connection, meta: LogMeta) -> None:
        record = self._authentication.seal_meta(_encode(meta))
        connection.execute("UPDATE meta SET record = ? WHERE id = 1", (record,))

    def _note(self, meta: LogMeta, *, keep: LogIndex, entries: Sequence[Entry], links: list[bytes]) -> None:
        """Takes over in memory what is durable now."""
        kept = keep - meta.base_index
        del self._terms[kept:]
        del self._links[kept * MAC_BYTES :]
        while self._tail and self._tail[-1].index > keep:
            self._tail_bytes -= entry_bytes(self._tail.pop())
        self._meta = meta
        self._terms.extend(entry.term for entry in entries)
        self._links += b"".join(links)
        for entry in entries:
            self._keep_in_tail(entry)

    def _keep_in_tail(self, entry: Entry) -> None:
        self._tail.append(entry)
        self._tail_bytes += entry_bytes(entry)
        while self._tail_bytes > TAIL_BYTES_MAX:
            self._tail_bytes -= entry_bytes(self._tail.popleft())

    def _checkpoint_if_large(self) -> None:
        # Readers of the log hold no transaction open between calls, so this frees the WAL for the write that follows.
        if self._database.wal_is_large:
            self._database.checkpoint()

    def _bounds(self, meta: LogMeta) -> str:
        return f"{self._path} with entries {meta.base_index + 1}..{meta.last_index}"


def _bounded(entries: Iterator[Entry], bytes_max: int) -> Iterator[Entry]:
    size = 0
    for at, entry in enumerate(entries):
        size += entry_bytes(entry)
        if at and size > bytes_max:
            return
        yield entry


def _read_meta(connection: apsw.Connection, path: Path, authentication: LogAuthentication) -> LogMeta:
    rows = connection.execute("SELECT id, record FROM meta").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][1], bytes):
        raise StoreDamaged(path, "it has no meta record")
    try:
        return _decoder.decode(authentication.open_meta(rows[0][1]))
    except NotAuthentic as error:
        raise StoreDamaged(path, f"its meta record is not authentic: {error}") from None
