"""A room on a state in memory, for tests of handlers: no store, no raft, no clock; all random bytes from a seed.

    region = RoomOnMemory()
    key = region.add_key()
    encrypt(region.room, region.caller(), EncryptRequest(key_id=key.key_id, plaintext=b"x"))

Every change goes through `put` or `delete`, which invalidate the room's cache as a node does.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from keycluster.cluster.keys.commands import Caller, Outcome
from keycluster.cluster.keys.hierarchy import Keyring, Purpose
from keycluster.cluster.keys.records import (
    EMPTY_ROW,
    ONLY_ROW,
    AccessKeyRecord,
    AliasRecord,
    BackingKey,
    KeyRecord,
    KeyState,
    Record,
    RegionRecord,
    RotationType,
    Table,
    access_key_row,
    account_key_row,
    alias_row,
    encode_record,
    key_row,
    load_clock,
)
from keycluster.cluster.keys.token import TokenMeta, seal_backing_key, seal_secret
from keycluster.cluster.seams import WrapKeyPair
from keycluster.cluster.store.state import StateView
from keycluster.cluster.types import AccountId, ClusterTime, KeyId, LogIndex, NodeId, RunningTime
from keycluster.node.room import CACHE_BYTES_MAX, Room

REGION = "us-east-1"
ACCOUNT = AccountId("123456789012")
OTHER_ACCOUNT = AccountId("210987654321")
NOW = ClusterTime(1_800_000_000_000_000_000)


class MemoryState(StateView):
    """The applied state as dictionaries: reads as StateView's, writes as StateTx's. `reads` lists what was got."""

    applied_index = LogIndex(0)

    def __init__(self) -> None:
        self.tables: dict[int, dict[bytes, bytes]] = {}
        self.touched: set[tuple[int, bytes]] = set()
        self.reads: list[tuple[int, bytes]] = []

    def get(self, table: int, key: bytes) -> bytes | None:
        self.reads.append((table, key))
        return self.tables.get(table, {}).get(key)

    def scan(
        self, table: int, *, prefix: bytes = b"", after: bytes | None = None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        rows = sorted(self.tables.get(table, {}).items())
        return [row for row in rows if row[0].startswith(prefix) and (after is None or row[0] > after)][:limit]

    def count(self, table: int) -> int:
        return len(self.tables.get(table, {}))

    def put(self, table: int, key: bytes, value: bytes, /) -> None:
        self.tables.setdefault(table, {})[key] = value
        self.touched.add((table, key))

    def delete(self, table: int, key: bytes, /) -> None:
        self.tables.get(table, {}).pop(key, None)
        self.touched.add((table, key))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        before = {table: dict(rows) for table, rows in self.tables.items()}
        try:
            yield
        except BaseException:
            self.tables = before
            raise


class SeededEntropy:
    """Random bytes from a seed, never twice the same. `asked` lists the sizes."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self.asked: list[int] = []

    def random_bytes(self, count: int) -> bytes:
        self.asked.append(count)
        return self._random.randbytes(count)

    def jitter(self) -> random.Random:
        return self._random

    def new_wrap_key_pair(self) -> WrapKeyPair:
        raise NotImplementedError

    def wrap(self, plaintext: bytes, *, to: bytes, info: bytes) -> bytes:
        raise NotImplementedError

    def unwrap(self, wrapped: bytes, *, key_pair: WrapKeyPair, info: bytes) -> bytes:
        raise NotImplementedError


class StillConsensus:
    """A node that may serve, whose state only a test changes."""

    def __init__(self, state: MemoryState) -> None:
        self.state = state
        self.leader: NodeId | None = NodeId("node-a")
        self.serving = True
        self.time: ClusterTime | None = NOW
        self.settled_index = LogIndex(2**40)

    @property
    def view(self) -> StateView:
        return self.state

    def may_serve(self) -> bool:
        return self.serving

    def cluster_time(self) -> ClusterTime | None:
        return self.time

    @property
    def running_time(self) -> RunningTime:
        clock = load_clock(self.state)
        return RunningTime(0) if clock is None else clock.running_ns

    async def propose(self, command: bytes) -> Outcome:
        raise NotImplementedError

    async def settled(self, index: LogIndex) -> None:
        return


class RoomOnMemory:
    """The room, and what a test changes about its state."""

    def __init__(self, *, seed: int = 1, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self.state = MemoryState()
        self.entropy = SeededEntropy(seed)
        self.consensus = StillConsensus(self.state)
        self.keyring = Keyring(REGION, {1: self.entropy.random_bytes(32)}, 1)
        self.room = Room(
            region=REGION,
            node=NodeId("node-a"),
            keyring=self.keyring,
            entropy=self.entropy,
            consensus=self.consensus,
            cache_bytes_max=cache_bytes_max,
        )
        self.put(Table.REGION, ONLY_ROW, RegionRecord(region=REGION, founded=NOW, generation=1))

    def put(self, table: Table, key: bytes, record: Record | None) -> None:
        """None puts the empty row of an index."""
        self.state.put(table, key, EMPTY_ROW if record is None else encode_record(record))
        self.room.invalidate([(table, key)])

    def delete(self, table: Table, key: bytes) -> None:
        self.state.delete(table, key)
        self.room.invalidate([(table, key)])

    def caller(self, account: AccountId = ACCOUNT) -> Caller:
        return Caller(
            account=account,
            principal=f"arn:aws:iam::{account}:root",
            access_key_id=f"AKIA{account}",
            credential_version=1,
            source="192.0.2.1",
        )

    def new_backing_key(self, key_id: KeyId, account: AccountId, rotation: RotationType) -> BackingKey:
        backing_key_id = self.entropy.random_bytes(16)
        meta = TokenMeta(
            account=account,
            key_id=key_id,
            backing_key_id=backing_key_id,
            spec="SYMMETRIC_DEFAULT",
            usage="ENCRYPT_DECRYPT",
            origin="AWS_KMS",
        )
        token = seal_backing_key(
            self.keyring, 1, self.entropy.random_bytes(32), meta=meta, nonce=self.entropy.random_bytes(12)
        )
        return BackingKey(id=backing_key_id, token=token, created=NOW, rotation=rotation, index=LogIndex(1))

    def add_key(self, *, account: AccountId = ACCOUNT, state: KeyState = KeyState.ENABLED) -> KeyRecord:
        digits = self.entropy.random_bytes(16).hex()
        key_id = KeyId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")
        backing = self.new_backing_key(key_id, account, RotationType.INITIAL)
        record = KeyRecord(key_id=key_id, account=account, created=NOW, state=state, backing_keys=(backing,))
        self.put_key(record)
        return record

    def put_key(self, record: KeyRecord) -> None:
        """A new key's row, and its account's index row."""
        self.put(Table.KEYS, key_row(record.key_id), record)
        self.put(Table.ACCOUNT_KEYS, account_key_row(record.account, record.key_id), None)

    def change_key(self, key_id: KeyId, **fields: Any) -> KeyRecord:
        """The key's row with other fields: `state=KeyState.DISABLED`."""
        record = self.room.key(key_id)
        assert record is not None
        changed = msgspec.structs.replace(record, **fields)
        self.put(Table.KEYS, key_row(key_id), changed)
        return changed

    def rotate(self, key_id: KeyId, *, index: LogIndex = LogIndex(1)) -> KeyRecord:  # noqa: B008  # A plain number.
        record = self.room.key(key_id)
        assert record is not None
        backing = self.new_backing_key(key_id, record.account, RotationType.ON_DEMAND)
        backing = msgspec.structs.replace(backing, index=index)
        return self.change_key(key_id, backing_keys=(*record.backing_keys, backing))

    def add_alias(self, name: str, key_id: KeyId, *, account: AccountId = ACCOUNT) -> None:
        """Makes the alias, or lets it name another key."""
        self.put(Table.ALIASES, alias_row(account, name), AliasRecord(key_id=key_id, created=NOW, updated=NOW))

    def add_access_key(self, access_key_id: str, secret: bytes, *, account: AccountId = ACCOUNT) -> AccessKeyRecord:
        sealed = seal_secret(
            self.keyring,
            1,
            Purpose.ACCESS_KEY,
            secret=secret,
            owner=access_key_row(access_key_id),
            nonce=self.entropy.random_bytes(12),
        )
        record = AccessKeyRecord(
            access_key_id=access_key_id,
            account=account,
            principal=f"arn:aws:iam::{account}:root",
            secret_sealed=sealed,
            version=1,
            operator=False,
            active=True,
            created=NOW,
        )
        self.put(Table.ACCESS_KEYS, access_key_row(access_key_id), record)
        return record


def key_arn(record: KeyRecord) -> str:
    return f"arn:aws:kms:{REGION}:{record.account}:key/{record.key_id}"
