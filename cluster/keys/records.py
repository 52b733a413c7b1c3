"""The rows of the applied key state: what is stored under which table and key.

Every row is a msgpack array of its record's fields, in order. A field is only ever added at the end, with a default,
so that an older row still decodes; none is removed or changed in meaning.

One row per key holds everything that a request on the key needs: backing keys, tags, alias names, policy. Index rows
exist only where a list or a schedule needs an order (`Table`). Nothing anywhere scans all keys.

Times are cluster time in nanoseconds. Secrets are stored sealed (`token.py`); the reprs of records leave them out.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from keycluster.cluster.types import AccountId, ClusterTime, KeyId, LogIndex, NodeId, RunningTime


class Table(IntEnum):
    """The tables of the applied state, by the number that the store knows. The comment says what a row's key is."""

    REGION = 1  # empty: there is one row.
    CLOCK = 2  # empty: there is one row.
    KEYS = 3  # key id
    ACCOUNT_KEYS = 4  # account 12 ‖ key id; the row is empty. The order of ListKeys.
    ALIASES = 5  # account 12 ‖ alias name. The order of ListAliases.
    DUE = 6  # DueKind u8 ‖ time u64 ‖ key id; the row is empty. What maintenance has to do, soonest first.
    REQUESTS = 7  # principal hash 16 ‖ request id 16
    REQUEST_ORDER = 8  # principal hash 16 ‖ sequence u64. Which of a principal's requests is forgotten first.
    PRINCIPALS = 9  # principal hash 16
    ACCESS_KEYS = 10  # access key id
    MEMBERS = 11  # node id
    AUTHORITIES = 12  # name
    GENERATIONS = 13  # generation u32
    WRAPS = 14  # generation u32 ‖ node id
    JOIN_TOKENS = 15  # join token id 16


class KeyState(StrEnum):
    """AWS's words. Keys that are made in the region know no other state."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


class RotationType(IntEnum):
    """Why a backing key was made."""

    INITIAL = 0
    AUTOMATIC = 1
    ON_DEMAND = 2


class DueKind(IntEnum):
    DELETION = 1
    ROTATION = 2


class MemberRole(StrEnum):
    VOTER = "voter"
    LEARNER = "learner"


class MemberState(StrEnum):
    """JOINING → ACTIVE → REMOVING → REMOVED. Only raft's membership entries make a member ACTIVE or REMOVED."""

    JOINING = "joining"  # Admitted by a join token, not yet in a membership entry.
    ACTIVE = "active"
    REMOVING = "removing"  # An operator asked; the leader takes it out when rule L9 allows.
    REMOVED = "removed"  # For ever: its id is never given again, its keys are forgotten.


class GenerationState(StrEnum):
    ACTIVE = "active"  # New tokens are sealed under it: exactly one generation is.
    RETIRING = "retiring"  # Still opens older tokens while they are re-wrapped.


class Record(Struct, frozen=True, array_like=True):
    """What every row is."""


class BackingKey(Record, frozen=True):
    """The material of one rotation. Never removed while its key lives: old ciphertext goes on decrypting."""

    id: bytes  # 16 random bytes, named in every blob.
    token: bytes  # The backing key sealed under the domain key, naming its generation.
    created: ClusterTime
    rotation: RotationType
    index: LogIndex  # Of the log entry that made it: nothing is encrypted under it before that is settled.

    def __repr__(self) -> str:
        return f"BackingKey(id={self.id.hex()}, created={self.created}, rotation={self.rotation.name})"


class KeyRecord(Record, frozen=True):
    """A CMK, whole."""

    key_id: KeyId
    account: AccountId
    created: ClusterTime
    state: KeyState
    backing_keys: tuple[BackingKey, ...]  # Oldest first, at least one; the last one encrypts.
    spec: str = "SYMMETRIC_DEFAULT"
    usage: str = "ENCRYPT_DECRYPT"
    origin: str = "AWS_KMS"
    description: str = ""
    policy: str | None = None  # As given by PutKeyPolicy; None is the default policy.
    tags: tuple[tuple[str, str], ...] = ()  # Sorted by tag key, each tag key once.
    aliases: tuple[str, ...] = ()  # Sorted alias names, each with its row in ALIASES.
    rotation_period_days: int | None = None  # None: automatic rotation is off.
    rotation_next: ClusterTime | None = None  # Set exactly when automatic rotation is on.
    deletion_at: ClusterTime | None = None  # Set exactly in PENDING_DELETION.

    @property
    def current(self) -> BackingKey:
        """The backing key that encrypts."""
        return self.backing_keys[-1]

    def backing_key(self, backing_key_id: bytes) -> BackingKey | None:
        """The backing key that a blob names. Newest first: most blobs are young."""
        for backing_key in reversed(self.backing_keys):
            if backing_key.id == backing_key_id:
                return backing_key
        return None

    @property
    def on_demand_rotations(self) -> int:
        return sum(1 for backing_key in self.backing_keys if backing_key.rotation is RotationType.ON_DEMAND)


class AliasRecord(Record, frozen=True):
    key_id: KeyId
    created: ClusterTime
    updated: ClusterTime


class RequestRecord(Record, frozen=True):
    """A request that was carried out or refused: its repeat gets the same outcome (requests.py)."""

    params_hash: bytes  # 32 bytes: SHA-256 of operation and parameters.
    outcome: bytes  # The Outcome, encoded.
    expires: RunningTime
    sequence: int  # Its place in REQUEST_ORDER.


class RequestOrderRecord(Record, frozen=True):
    request_id: bytes
    expires: RunningTime


class PrincipalRecord(Record, frozen=True):
    """How many requests of one principal are remembered: `next - first`."""

    first: int  # Sequence of the oldest one still remembered.
    next: int  # Sequence that the next one gets.


class ClockRecord(Record, frozen=True):
    """Cluster time as of the newest stamped entry, and the guard against time that leaps (timekeeping.py)."""

    time: ClusterTime
    running_ns: RunningTime
    excess_ns: int = 0  # How far time has run ahead of running time; forgiven slowly.
    held_until_running_ns: int = 0  # Nothing is destroyed before running_ns reaches this.
    forgot_until: bytes = b""  # The PRINCIPALS row where the next Tick goes on forgetting requests.


class RegionRecord(Record, frozen=True):
    region: str  # As in ARNs: us-east-1.
    founded: ClusterTime
    generation: int  # The active domain key generation: apply takes new tokens under this one only.
    partition: str = "aws"
    operators: int = 0  # Active access keys of operators: the last one stays, or nobody could ever make another.


class AccessKeyRecord(Record, frozen=True):
    """A credential. Its secret is generated, shown once and stored sealed."""

    access_key_id: str
    account: AccountId
    principal: str  # An ARN; for now always the account's root.
    secret_sealed: bytes  # Purpose ACCESS_KEY, owner = the access key id.
    version: int
    operator: bool  # May carry out the operations on the region itself.
    active: bool
    created: ClusterTime

    def __repr__(self) -> str:
        return f"AccessKeyRecord({self.access_key_id}, account={self.account}, active={self.active})"


class MemberRecord(Record, frozen=True):
    """A node: what it may become, and the public keys that are pinned while it isn't removed."""

    node: NodeId
    az: str
    wanted: MemberRole  # What it was admitted as. A wanted voter starts as a learner.
    identity_key: bytes  # SubjectPublicKeyInfo, DER; empty once removed.
    wrap_key: bytes  # Receives domain keys by HPKE; empty once removed.
    certificates: tuple[bytes, ...]  # DER, as issued at admission; empty once removed.
    peer_address: str  # host:port, as other nodes reach it; so are the next two as clients do.
    native_address: str
    aws_address: str
    state: MemberState
    role: MemberRole | None  # What raft's newest applied membership says it is; None if it isn't in there.
    admitted: ClusterTime


class AuthorityRecord(Record, frozen=True):
    """A certificate authority of the region: `peer` for nodes among themselves, `client` for the doors."""

    name: str
    certificate: bytes  # DER.
    private_key_sealed: bytes  # Purpose AUTHORITY, owner = the name.

    def __repr__(self) -> str:
        return f"AuthorityRecord({self.name})"


class GenerationRecord(Record, frozen=True):
    number: int
    created: ClusterTime
    state: GenerationState


class WrapRecord(Record, frozen=True):
    """A domain key generation, wrapped by HPKE to one node's pinned key."""

    generation: int
    node: NodeId
    wrapped: bytes

    def __repr__(self) -> str:
        return f"WrapRecord(generation={self.generation}, node={self.node})"


class JoinTokenRecord(Record, frozen=True):
    """The right to admit one node, once, within an hour."""

    token_id: bytes  # 16 bytes.
    secret_sealed: bytes  # Purpose JOIN_TOKEN, owner = the token id.
    role: MemberRole
    az: str
    expires: ClusterTime
    used_by: NodeId | None = None  # Set: burnt.

    def __repr__(self) -> str:
        return f"JoinTokenRecord({self.token_id.hex()}, role={self.role}, az={self.az}, used_by={self.used_by})"


class StateReader(Protocol):
    """Reading applied rows: `StateView`, and `StateTx` on its own uncommitted state."""

    def get(self, table: int, key: bytes, /) -> bytes | None: ...

    def scan(
        self, table: int, *, prefix: bytes = b"", after: bytes | None = None, limit: int
    ) -> list[tuple[bytes, bytes]]: ...


class StateWriter(StateReader, Protocol):
    """What `apply` writes through: `StateTx`. `savepoint` undoes all inside it when an exception leaves it."""

    def put(self, table: int, key: bytes, value: bytes, /) -> None: ...

    def delete(self, table: int, key: bytes, /) -> None: ...

    def savepoint(self) -> AbstractContextManager[None]: ...


RecordType = TypeVar("RecordType", bound=Record)

_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type[Record], msgspec.msgpack.Decoder[Any]] = {}


def encode_record(record: Record) -> bytes:
    return _ENCODER.encode(record)


def decode_record(row: bytes, of: type[RecordType]) -> RecordType:
    """Rows are authenticated by the store: one that doesn't decode is our fault, and msgspec's error is let out."""
    decoder = _DECODERS.get(of)
    if decoder is None:
        decoder = _DECODERS[of] = msgspec.msgpack.Decoder(of)
    return decoder.decode(row)  # type: ignore[no-any-return]  # The table of decoders isn't generic.


def load(state: StateReader, table: Table, key: bytes, of: type[RecordType]) -> RecordType | None:
    row = state.get(table, key)
    return None if row is None else decode_record(row, of)


def store(state: StateWriter, table: Table, key: bytes, record: Record) -> None:
    state.put(table, key, encode_record(record))


ONLY_ROW = b""
EMPTY_ROW = b""
SCAN_ROWS = 256  # Rows that a scan over a small table asks for at a time.


def key_row(key_id: KeyId) -> bytes:
    return key_id.encode()


def account_key_row(account: AccountId, key_id: KeyId) -> bytes:
    return account.encode() + key_id.encode()


def alias_row(account: AccountId, name: str) -> bytes:
    return account.encode() + name.encode()


def due_row(kind: DueKind, at: ClusterTime, key_id: KeyId) -> bytes:
    return due_prefix(kind) + at.to_bytes(8, "big") + key_id.encode()


def due_prefix(kind: DueKind) -> bytes:
    return bytes((kind,))


def parse_due_row(row: bytes) -> tuple[ClusterTime, KeyId]:
    return ClusterTime(int.from_bytes(row[1:9], "big")), KeyId(row[9:].decode())


def principal_row(principal: str) -> bytes:
    """16 bytes: a principal's ARN may have any length, and its place in three tables shouldn't."""
    return sha256(principal.encode()).digest()[:16]


def request_row(principal: bytes, request_id: bytes) -> bytes:
    return principal + request_id


def request_order_row(principal: bytes, sequence: int) -> bytes:
    return principal + sequence.to_bytes(8, "big")


def access_key_row(access_key_id: str) -> bytes:
    return access_key_id.encode()


def member_row(node: NodeId) -> bytes:
    return node.encode()


def authority_row(name: str) -> bytes:
    return name.encode()


def generation_row(generation: int) -> bytes:
    return generation.to_bytes(4, "big")


def wrap_row(generation: int, node: NodeId) -> bytes:
    return generation.to_bytes(4, "big") + node.encode()


def load_key(state: StateReader, key_id: KeyId) -> KeyRecord | None:
    return load(state, Table.KEYS, key_row(key_id), KeyRecord)


def load_region(state: StateReader) -> RegionRecord | None:
    return load(state, Table.REGION, ONLY_ROW, RegionRecord)


def load_clock(state: StateReader) -> ClockRecord | None:
    return load(state, Table.CLOCK, ONLY_ROW, ClockRecord)


def load_access_key(state: StateReader, access_key_id: str) -> AccessKeyRecord | None:
    return load(state, Table.ACCESS_KEYS, access_key_row(access_key_id), AccessKeyRecord)


def load_member(state: StateReader, node: NodeId) -> MemberRecord | None:
    return load(state, Table.MEMBERS, member_row(node), MemberRecord)


def load_authority(state: StateReader, name: str) -> AuthorityRecord | None:
    return load(state, Table.AUTHORITIES, authority_row(name), AuthorityRecord)


def load_wrap(state: StateReader, generation: int, node: NodeId) -> WrapRecord | None:
    return load(state, Table.WRAPS, wrap_row(generation, node), WrapRecord)


def load_join_token(state: StateReader, token_id: bytes) -> JoinTokenRecord | None:
    return load(state, Table.JOIN_TOKENS, token_id, JoinTokenRecord)


def load_members(state: StateReader) -> Iterator[MemberRecord]:
    """Every member that ever was, by node id. A region has dozens: this is the one table that is read whole."""
    after: bytes | None = None
    while True:
        rows = state.scan(Table.MEMBERS, after=after, limit=SCAN_ROWS)
        for _, row in rows:
            yield decode_record(row, MemberRecord)
        if len(rows) < SCAN_ROWS:
            return
        after = rows[-1][0]
