"""How rows, log entries and snapshots are authenticated (security.md, 5).

Three constructions, each under keys of its own, all HMAC-SHA-256:

- *Records*: whatever is stored carries `format ‖ generation ‖ MAC`, the MAC over what it is, where it stands and its
  bytes. So a row can't be altered, nor moved to another table or key.
- *The chain*: each log entry's MAC covers the one before it. So entries can't be altered, reordered or dropped from the
  middle; the last link stands in the log's own meta record, so none can be dropped from the end.
- *The set hash*: the sum mod 2^256 of one keyed term per row. It changes with each row at the cost of that row alone,
  does not depend on the order of writes, and is equal on replicas with equal rows. A row put back to an older value
  with its then valid MAC is found by it. Terms and sum never stand anywhere in clear: who sees enough of either can
  solve for rows that give the same sum (linear algebra). The sum is stored encrypted, bound to its index; peers
  compare HMAC(sum, index).

The sum is sealed with AES-256-GCM-SIV (RFC 8452) and its index as nonce. All replicas hold the same key and seal the
same sum at the same index, so the ciphertexts agree; and where they don't (a region put back from a backup that goes
on differently), a repeated nonce costs nothing, which plain GCM could not say.
"""

import hmac
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from keycluster.cluster.invariant import require
from keycluster.cluster.types import LogIndex, Term

FORMAT = 1
KEY_BYTES = 32
MAC_BYTES = 32
SET_MODULUS_MASK = (1 << 256) - 1

_PREFIX = Struct(">BI")  # format, generation
_ROW = Struct(">BIII")  # use, generation, table, bytes of the key
_USE = Struct(">BI")  # use, generation
_INDEX = Struct(">BIQ")  # use, generation, index
_ENTRY = Struct(">BIQQB")  # use, generation, index, term, kind

RECORD_HEAD_BYTES = _PREFIX.size + MAC_BYTES


class Use(IntEnum):
    """First byte under each MAC: no two uses of one key can be taken for each other."""

    ROW = 1
    STATE_META = 2
    SNAPSHOT = 3
    SET_TERM = 4
    SET_DIGEST = 5
    LOG_META = 6
    LOG_START = 7
    LOG_ENTRY = 8
    SET_SUM = 9


class NotAuthentic(Exception):
    """A MAC, seal or format that doesn't verify. Inner: the stores say which file and row."""


@dataclass(frozen=True, slots=True)
class StateKeys:
    """The purpose keys of one domain key generation that authenticate state: 32 bytes each, never shown."""

    generation: int
    row_mac: bytes = field(repr=False)
    set_hash: bytes = field(repr=False)
    sum_seal: bytes = field(repr=False)
    log_mac: bytes = field(repr=False)

    def __post_init__(self) -> None:
        sizes = {len(self.row_mac), len(self.set_hash), len(self.sum_seal), len(self.log_mac)}
        require(sizes == {KEY_BYTES}, f"state keys must have {KEY_BYTES} bytes each, not {sorted(sizes)}")


class _Mac:
    """HMAC-SHA-256 under one key. Copying a keyed state takes two thirds of a fresh one's time; safe in threads."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod="sha256")

    def __call__(self, *parts: bytes) -> bytes:
        state = self._keyed.copy()
        for part in parts:
            state.update(part)
        return state.digest()

    def start(self) -> hmac.HMAC:
        return self._keyed.copy()


class StateAuthentication:
    """Seals and opens what the state store keeps. Safe to use from two threads at once."""

    def __init__(self, keys: StateKeys) -> None:
        self.generation = keys.generation
        self._prefix = _PREFIX.pack(FORMAT, keys.generation)
        self._row_mac = _Mac(keys.row_mac)
        self._set_hash = _Mac(keys.set_hash)
        self._seal = AESGCMSIV(keys.sum_seal)

    def seal_row(self, table: int, key: bytes, value: bytes) -> bytes:
        """What is stored for a row: prefix ‖ MAC(table, key, value) ‖ value."""
        head = _ROW.pack(Use.ROW, self.generation, table, len(key))
        return self._prefix + self._row_mac(head + key + value) + value

    def open_row(self, table: int, key: bytes, record: bytes) -> bytes:
        """The row's value. Raises `NotAuthentic`."""
        value = _record_value(record, self._prefix)
        head = _ROW.pack(Use.ROW, self.generation, table, len(key))
        if not hmac.compare_digest(self._row_mac(head + key + value), record[5:RECORD_HEAD_BYTES]):
            raise NotAuthentic("its MAC doesn't match")
        return value

    def set_term(self, table: int, key: bytes, value: bytes) -> int:
        """The row's share of the set hash: secret."""
        head = _ROW.pack(Use.SET_TERM, self.generation, table, len(key))
        return int.from_bytes(self._set_hash(head + key + value), "big")

    def set_digest(self, total: int, index: LogIndex) -> bytes:
        """What peers compare: equal exactly if their sums at `index` are."""
        return self._set_hash(_INDEX.pack(Use.SET_DIGEST, self.generation, index) + total.to_bytes(32, "big"))

    def seal_sum(self, total: int, index: LogIndex) -> bytes:
        bound = _INDEX.pack(Use.SET_SUM, self.generation, index)
        return self._seal.encrypt(index.to_bytes(12, "big"), total.to_bytes(32, "big"), bound)

    def open_sum(self, sealed: bytes, index: LogIndex) -> int:
        """Raises `NotAuthentic` for another index, another key or changed bytes."""
        bound = _INDEX.pack(Use.SET_SUM, self.generation, index)
        try:
            return int.from_bytes(self._seal.decrypt(index.to_bytes(12, "big"), sealed, bound), "big")
        except InvalidTag:
            raise NotAuthentic("the sum of its rows doesn't open at its index") from None

    def seal_meta(self, body: bytes) -> bytes:
        return self._prefix + self._row_mac(_USE.pack(Use.STATE_META, self.generation) + body) + body

    def open_meta(self, record: bytes) -> bytes:
        body = _record_value(record, self._prefix)
        expected = self._row_mac(_USE.pack(Use.STATE_META, self.generation) + body)
        if not hmac.compare_digest(expected, record[5:RECORD_HEAD_BYTES]):
            raise NotAuthentic("its MAC doesn't match")
        return body

    def snapshot_mac(self) -> hmac.HMAC:
        """A running MAC for a snapshot file: feed it the whole file, then the trailer's body."""
        mac = self._row_mac.start()
        mac.update(_USE.pack(Use.SNAPSHOT, self.generation))
        return mac


class LogAuthentication:
    """Links of the log's chain, and its meta record."""

    def __init__(self, keys: StateKeys) -> None:
        self.generation = keys.generation
        self._prefix = _PREFIX.pack(FORMAT, keys.generation)
        self._mac = _Mac(keys.log_mac)

    def chain_start(self, index: LogIndex, term: Term) -> bytes:
        """The link before the first entry of a log that begins after (index, term)."""
        return self._mac(_ENTRY.pack(Use.LOG_START, self.generation, index, term, 0))

    def chain_next(self, previous: bytes, *, index: LogIndex, term: Term, kind: int, payload: bytes) -> bytes:
        """The link of an entry. `previous` has a fixed length, so nothing can be moved between the parts."""
        return self._mac(_ENTRY.pack(Use.LOG_ENTRY, self.generation, index, term, kind) + previous, payload)

    def seal_meta(self, body: bytes) -> bytes:
        return self._prefix + self._mac(_USE.pack(Use.LOG_META, self.generation) + body) + body

    def open_meta(self, record: bytes) -> bytes:
        body = _record_value(record, self._prefix)
        expected = self._mac(_USE.pack(Use.LOG_META, self.generation) + body)
        if not hmac.compare_digest(expected, record[5:RECORD_HEAD_BYTES]):
            raise NotAuthentic("its MAC doesn't match")
        return body


def _record_value(record: bytes, prefix: bytes) -> bytes:
    if len(record) < RECORD_HEAD_BYTES or record[: len(prefix)] != prefix:
        raise NotAuthentic("its format or key generation is not the one in use")
    return record[RECORD_HEAD_BYTES:]
