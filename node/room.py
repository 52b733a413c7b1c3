"""What every handler is given: the applied state as it is now, keys ready for use, and the seams.

Rows are read through `consensus.view`, which moves only between two steps of the event loop. What was read is kept
decoded, and backing keys unwrapped, in a cache of bounded size. Whoever moves the view says in the same step which rows
were written (`invalidate`), so that nothing kept is ever older than the view: that is "caches invalidated" in rule L5.

A room belongs to the event loop's thread, and nothing here waits.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from keycluster.cluster.invariant import require
from keycluster.cluster.keys.authorise import authorise
from keycluster.cluster.keys.blob import BlobKey
from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.keys.hierarchy import GenerationUnknown, Keyring, Purpose
from keycluster.cluster.keys.records import (
    ONLY_ROW,
    AccessKeyRecord,
    KeyRecord,
    RegionRecord,
    Table,
    access_key_row,
    decode_record,
    key_row,
    load_region,
)
from keycluster.cluster.keys.resolve import key_arn, owns_key, resolve
from keycluster.cluster.keys.token import TokenInvalid, TokenMeta, open_backing_key, open_secret
from keycluster.cluster.seams import Entropy
from keycluster.cluster.store.state import StateView
from keycluster.cluster.types import AccountId, KeyId, NodeId
from keycluster.cluster.wire.errors import AccessDeniedException, KeyUnavailableException, KMSInternalException
from keycluster.node.consensus import Consensus, NotSettledYet

CACHE_BYTES_MAX = 40 * 1024 * 1024  # 10,000 keys in use at once; a region may have any number more.
RESOLUTIONS_MAX = (
    16_384  # More than keys kept, or those would be looked up in the store by their names again and again.
)
NO_KEY = KeyId("00000000-0000-0000-0000-000000000000")
RESOLUTION_CHARS_MAX = 400  # Longer than any ARN of ours: what is longer names nothing that exists.

# What a kept row weighs in memory, by measurement and rounded up: objects, their table entry, and OpenSSL's context
# of an unwrapped backing key.
_ENTRY_BYTES = 1_500
_BYTES_PER_ROW_BYTE = 3
_BACKING_KEY_BYTES = 1_200

Row = tuple[int, bytes]  # Table and key.
_REGION_ROW: Row = (Table.REGION, ONLY_ROW)
_OF_THE_REGION = AccountId("")  # What belongs to no account.


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """For metrics and tests: `bytes_kept` is an estimate from above."""

    entries: int
    bytes_kept: int


class _Share:
    """What one account has in the cache: rows in order of use, and their weight."""

    __slots__ = ("bytes_kept", "rows")

    def __init__(self) -> None:
        self.bytes_kept = 0
        self.rows: OrderedDict[Row, None] = OrderedDict()


class HotCache:
    """What was made of rows, the least recently used dropped first; bounded in bytes, since rows differ in size.

    When it is full, an account that holds more than half of it drops its own first: however many keys one account
    uses, half the room is the others'. While they don't need it, it may have all.

    Rows that don't exist are not kept: whoever asks for random ones pays for the store's answer, and drops nothing.
    """

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes_kept = 0
        self._kept: OrderedDict[Row, tuple[Any, int, AccountId]] = OrderedDict()
        self._shares: dict[AccountId, _Share] = {}
        self._largest: AccountId | None = None  # The one that holds more than half, or did.

    def get(self, row: Row) -> Any:
        """None if nothing is kept for that row."""
        kept = self._kept.get(row)
        if kept is None:
            return None
        self._kept.move_to_end(row)
        self._shares[kept[2]].rows.move_to_end(row)
        return kept[0]

    def keep(self, row: Row, value: object, weight: int, *, account: AccountId) -> None:
        """`weight` in bytes, on `account`'s share. What alone would take a sixteenth of the room is not kept."""
        if weight > self._bytes_max // 16:
            return
        self.drop(row)
        self._kept[row] = (value, weight, account)
        self._bytes_kept += weight
        share = self._shares.setdefault(account, _Share())
        share.rows[row] = None
        share.bytes_kept += weight
        if share.bytes_kept > self._bytes_max // 2:
            self._largest = account
        while self._bytes_kept > self._bytes_max:
            self.drop(self._next_to_go())

    def _next_to_go(self) -> Row:
        largest = None if self._largest is None else self._shares.get(self._largest)
        if largest is not None and largest.bytes_kept > self._bytes_max // 2:
            return next(iter(largest.rows))
        return next(iter(self._kept))

    def drop(self, row: Row) -> None:
        kept = self._kept.pop(row, None)
        if kept is None:
            return
        _, weight, account = kept
        self._bytes_kept -= weight
        share = self._shares[account]
        share.bytes_kept -= weight
        del share.rows[row]
        if not share.rows:
            del self._shares[account]

    def clear(self) -> None:
        self._kept.clear()
        self._shares.clear()
        self._largest = None
        self._bytes_kept = 0

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(len(self._kept), self._bytes_kept)


class HotKey:
    """A CMK ready for use: its record, its ARN, and its backing keys, each unwrapped when first needed."""

    __slots__ = ("_blob_keys", "_consensus", "_is_settled", "_keyring", "arn", "record")

    def __init__(self, record: KeyRecord, arn: str, keyring: Keyring, consensus: Consensus) -> None:
        self.record = record
        self.arn = arn
        self._keyring = keyring
        self._consensus = consensus
        self._is_settled = len(record.backing_keys) == 1  # Who knows a new key's id has been answered.
        self._blob_keys: dict[bytes, BlobKey] = {}

    @property
    def current(self) -> BlobKey:
        """The backing key that encrypts. Raises as `blob_key`, or `NotSettledYet`: what one node encrypts every node
        must be able to decrypt, so nothing is encrypted under a rotation's key before all nodes have it."""
        newest = self.record.current
        if not self._is_settled:
            if newest.index > self._consensus.settled_index:
                raise NotSettledYet(newest.index)
            self._is_settled = True
        return self._blob_keys.get(newest.id) or self._unwrap(newest.id, newest.token)

    def blob_key(self, backing_key_id: bytes) -> BlobKey | None:
        """The backing key with that id, if this CMK ever had it.

        Raises KeyUnavailableException when the domain key generation it is sealed under isn't held here.
        """
        ready = self._blob_keys.get(backing_key_id)
        if ready is not None:
            return ready
        backing = self.record.backing_key(backing_key_id)
        return None if backing is None else self._unwrap(backing.id, backing.token)

    def _unwrap(self, backing_key_id: bytes, token: bytes) -> BlobKey:
        record = self.record
        meta = TokenMeta(
            account=record.account,
            key_id=record.key_id,
            backing_key_id=backing_key_id,
            spec=record.spec,
            usage=record.usage,
            origin=record.origin,
        )
        try:
            backing = open_backing_key(self._keyring, token, meta)
        except (GenerationUnknown, TokenInvalid) as error:
            _raise_unavailable(error, f"backing key {backing_key_id.hex()} of key {record.key_id}")
        ready = self._blob_keys[backing_key_id] = BlobKey(record.key_id, backing_key_id, backing)
        return ready

    def __repr__(self) -> str:
        return f"HotKey({self.arn})"


@dataclass(frozen=True, slots=True)
class Credential:
    """An access key with its secret. The same object as long as its row is the same: what is derived from the secret
    may be kept with the credential that it came from, and is out of date when `Room.credential` returns another."""

    record: AccessKeyRecord
    secret: bytes

    def caller(self, source: str) -> Caller:
        """Who speaks; `source` is where from."""
        record = self.record
        return Caller(
            account=record.account,
            principal=record.principal,
            access_key_id=record.access_key_id,
            credential_version=record.version,
            source=source,
        )

    def __repr__(self) -> str:
        return f"Credential({self.record.access_key_id})"


class Room:
    """One node's, for all handlers and both doors."""

    def __init__(
        self,
        *,
        region: str,
        node: NodeId,
        keyring: Keyring,
        entropy: Entropy,
        consensus: Consensus,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        self.region = region
        self.node = node
        self.keyring = keyring
        self.entropy = entropy
        self.consensus = consensus
        self.cache = HotCache(cache_bytes_max)
        # Key ids by what a caller of an account called them, after it was resolved. Only aliases ever change meaning.
        self._resolutions: OrderedDict[tuple[AccountId, str], KeyId] = OrderedDict()
        # Does a key's work for blobs that name none of the caller's: data.py.
        self.decoy = BlobKey(NO_KEY, bytes(16), entropy.random_bytes(32))

    @property
    def view(self) -> StateView:
        """The applied state, pinned."""
        return self.consensus.view

    @property
    def region_record(self) -> RegionRecord:
        """Raises KMSInternalException on a node that has not yet applied the region's founding."""
        kept: RegionRecord | None = self.cache.get(_REGION_ROW)
        if kept is not None:
            return kept
        record = load_region(self.view)
        if record is None:
            raise KMSInternalException("", detail="the region is not founded yet")
        self.cache.keep(_REGION_ROW, record, _ENTRY_BYTES, account=_OF_THE_REGION)
        return record

    def resolve(self, text: str, caller: Caller, *, action: str) -> HotKey:
        """The key that a key id, key ARN, alias name or alias ARN names and that `caller` may carry out `action` on.

        Raises NotFoundException, InvalidArnException or AccessDeniedException.
        """
        key_id = self._resolutions.get((caller.account, text))
        if key_id is not None:
            key = self.hot_key(key_id)
            if key is not None:
                authorise(caller, action, key.record)
                return key
        record = resolve(self.view, text, caller, self.region_record, action=action, aliases=True)
        if len(text) <= RESOLUTION_CHARS_MAX:
            if len(self._resolutions) >= RESOLUTIONS_MAX:
                self._resolutions.popitem(last=False)
            self._resolutions[caller.account, text] = record.key_id
        key = self.hot_key(record.key_id)
        require(key is not None, f"key {record.key_id} was resolved and isn't there")
        return cast(HotKey, key)

    def claimed_key(self, key_id: KeyId, caller: Caller, *, action: str) -> HotKey | None:
        """The key that a blob claims, if `caller` may carry out `action` on it; None, whether it isn't there or isn't
        theirs, after the same work.

        A key that the caller's account hasn't got costs one look at an index row that isn't there, however large its
        own row is and whether or not its owner uses it just now: that row isn't read, and nothing is kept of it. Right
        as long as no account may use another's keys (`authorise_account`).
        """
        key: HotKey | None = self.cache.get((Table.KEYS, key_row(key_id)))
        if key is None or key.record.account != caller.account:
            if not owns_key(self.view, caller.account, key_id):
                return None
            key = self.hot_key(key_id)
        require(key is not None, f"account {caller.account} has key {key_id}, which isn't there")
        try:
            authorise(caller, action, cast(HotKey, key).record)
        except AccessDeniedException:
            return None
        return key

    def key(self, key_id: KeyId) -> KeyRecord | None:
        """The key's record, of whatever account."""
        key = self.hot_key(key_id)
        return None if key is None else key.record

    def hot_key(self, key_id: KeyId) -> HotKey | None:
        """The key, ready for use, of whatever account: who may use it is the caller's to ask (`authorise`)."""
        row = (Table.KEYS, key_row(key_id))
        kept: HotKey | None = self.cache.get(row)
        if kept is not None:
            return kept
        stored = self.view.get(*row)
        if stored is None:
            return None
        record = decode_record(stored, KeyRecord)
        key = HotKey(record, key_arn(self.region_record, record.account, key_id), self.keyring, self.consensus)
        weight = _ENTRY_BYTES + _BYTES_PER_ROW_BYTE * len(stored) + _BACKING_KEY_BYTES * len(record.backing_keys)
        self.cache.keep(row, key, weight, account=record.account)
        return key

    def credential(self, access_key_id: str) -> Credential | None:
        """The access key, active or not, with its secret.

        Raises KeyUnavailableException when the domain key generation it is sealed under isn't held here.
        """
        row = (Table.ACCESS_KEYS, access_key_row(access_key_id))
        kept: Credential | None = self.cache.get(row)
        if kept is not None:
            return kept
        stored = self.view.get(*row)
        if stored is None:
            return None
        record = decode_record(stored, AccessKeyRecord)
        try:
            secret = open_secret(self.keyring, Purpose.ACCESS_KEY, record.secret_sealed, owner=row[1])
        except (GenerationUnknown, TokenInvalid) as error:
            _raise_unavailable(error, f"the secret of access key {access_key_id}")
        credential = Credential(record, secret)
        weight = _ENTRY_BYTES + _BYTES_PER_ROW_BYTE * len(stored)
        self.cache.keep(row, credential, weight, account=record.account)
        return credential

    def invalidate(self, touched: Iterable[Row]) -> None:
        """Forgets what was made of rows that were written or deleted: call it in the step that moves the view."""
        for row in touched:
            self.cache.drop(row)
            if row[0] == Table.ALIASES:
                self._resolutions.clear()

    def clear(self) -> None:
        """Forgets everything: the view shows another state altogether, as after a snapshot."""
        self.cache.clear()
        self._resolutions.clear()


def _raise_unavailable(error: GenerationUnknown | TokenInvalid, what: str) -> NoReturn:
    """A missing generation is this node's own trouble. A seal that doesn't open in a row that verified is the
    proposer's fault, equal at all nodes: none of them stops for it."""
    if isinstance(error, GenerationUnknown):
        raise KeyUnavailableException("", detail=f"{what}: {error}") from None
    raise KMSInternalException("", detail=f"{what}: {error}") from None
