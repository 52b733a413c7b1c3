"""Rows of the state database: the schema, authenticated reads, and the whole check of a database.

A row is (table, key) → record, the record authenticated with both (`authentication.py`). Tables are numbers that mean
nothing here. What a row's MAC can't tell, that a row is missing, an old one back or one there too much, the set hash
tells when the whole database is checked: at every start, and in a snapshot before it is installed.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from keycluster.cluster.raft.messages import Membership, SnapshotMeta
from keycluster.cluster.store.authentication import SET_MODULUS_MASK, NotAuthentic, StateAuthentication
from keycluster.cluster.store.database import Schema, check_schema
from keycluster.cluster.store.errors import READ_ERRORS, StoreDamaged, translated
from keycluster.cluster.types import LogIndex, NodeId, Term

SCHEMA = Schema(
    (
        "CREATE TABLE meta(id INTEGER PRIMARY KEY, record BLOB NOT NULL)",
        "CREATE TABLE rows(tab INTEGER NOT NULL, key BLOB NOT NULL, record BLOB NOT NULL, PRIMARY KEY(tab, key))"
        " WITHOUT ROWID",
    )
)

_NOT_OURS = (NotAuthentic, TypeError, struct.error)  # Also where a value has another type, or is out of range.

_GET = "SELECT record FROM rows WHERE tab = ? AND key = ?"
_SCAN = "SELECT key, record FROM rows WHERE tab = ? AND key >= ? ORDER BY key LIMIT ?"
_SCAN_BELOW = "SELECT key, record FROM rows WHERE tab = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"


class StateMeta(msgspec.Struct, frozen=True, array_like=True):
    """The state's one meta row, authenticated, rewritten by every batch in the batch's own transaction."""

    applied_index: LogIndex
    applied_term: Term
    membership: Membership
    last_leader: NodeId | None
    installed_index: LogIndex  # Of the snapshot that the state was installed from, 0 if from none.
    sealed_sum: bytes

    @property
    def snapshot(self) -> SnapshotMeta:
        """What a snapshot of this state is announced as."""
        return SnapshotMeta(self.applied_index, self.applied_term, self.membership, self.last_leader)


encode_meta = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(StateMeta)


class RowReader:
    """Authenticated reads through one connection. Not safe in two threads at once: its owner sees to that."""

    def __init__(self, connection: apsw.Connection, path: Path, authentication: StateAuthentication) -> None:
        self._cursor = connection.cursor()
        self._path = path
        self._authentication = authentication

    def get(self, table: int, key: bytes) -> bytes | None:
        """The row's value, None if there is none. Raises `StoreDamaged`, `StoreFailed`."""
        found = self._select(_GET, (table, key))
        return self._open(table, key, found[0][0]) if found else None

    def scan(
        self, table: int, *, prefix: bytes = b"", after: bytes | None = None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Up to `limit` (key, value) in order of the key's bytes, of keys with `prefix` that come after `after`."""
        start = prefix if after is None else max(prefix, after + b"\0")
        end = _end_of(prefix)
        if end is None:
            found = self._select(_SCAN, (table, start, limit))
        else:
            found = self._select(_SCAN_BELOW, (table, start, end, limit))
        return [(key, self._open(table, key, record)) for key, record in found]

    def count(self, table: int) -> int:
        """Rows of the table: it takes time in proportion to them."""
        return int(self._select("SELECT count(*) FROM rows WHERE tab = ?", (table,))[0][0])

    def meta(self) -> StateMeta:
        found = self._select("SELECT id, record FROM meta", ())
        if len(found) != 1 or not isinstance(found[0][1], bytes):
            raise StoreDamaged(self._path, "it has no meta record")
        try:
            return _decoder.decode(self._authentication.open_meta(found[0][1]))
        except NotAuthentic as error:
            raise StoreDamaged(self._path, f"its meta record is not authentic: {error}") from None

    def _select(self, statement: str, values: Sequence[int | bytes]) -> list[Any]:
        try:
            return self._cursor.execute(statement, values).fetchall()
        except READ_ERRORS as error:
            raise translated(error, self._path) from error

    def _open(self, table: int, key: bytes, record: bytes) -> bytes:
        try:
            return self._authentication.open_row(table, key, record)
        except _NOT_OURS as error:
            raise StoreDamaged(self._path, f"a row of table {table} is not authentic ({error})") from None


def verify_state(connection: apsw.Connection, path: Path, authentication: StateAuthentication) -> tuple[StateMeta, int]:
    """Checks schema, meta record, every row and the set hash. Returns the meta and the sum. Raises `StoreDamaged`."""
    check_schema(connection, path, SCHEMA)
    meta = RowReader(connection, path, authentication).meta()
    total = 0
    for table, key, record in connection.execute("SELECT tab, key, record FROM rows"):
        try:
            value = authentication.open_row(table, key, record)
            total += authentication.set_term(table, key, value)
        except _NOT_OURS as error:
            raise StoreDamaged(path, f"a row of table {table} is not authentic ({error})") from None
    total &= SET_MODULUS_MASK
    try:
        expected = authentication.open_sum(meta.sealed_sum, meta.applied_index)
    except NotAuthentic as error:
        raise StoreDamaged(path, str(error)) from None
    if total != expected:
        raise StoreDamaged(
            path, f"its rows are not those of index {meta.applied_index}: some are missing, old or too many"
        )
    return meta, total


def _end_of(prefix: bytes) -> bytes | None:
    """The least key above all keys with this prefix; None if there is none above."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
