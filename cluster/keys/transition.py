"""What a command's handler works with: the transaction, the region, the time and the caller."""

from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from keycluster.cluster.keys.commands import Caller, NewBackingKey
from keycluster.cluster.keys.key_states import check_state
from keycluster.cluster.keys.records import (
    EMPTY_ROW,
    AccessKeyRecord,
    BackingKey,
    ClockRecord,
    DueKind,
    KeyRecord,
    KeyState,
    RegionRecord,
    RotationType,
    StateWriter,
    Table,
    due_row,
    encode_record,
    key_row,
)
from keycluster.cluster.keys.resolve import key_arn, resolve
from keycluster.cluster.keys.token import (
    BACKING_KEY_ID_BYTES,
    TOKEN_BYTES,
    TokenInvalid,
    generation_of,
)
from keycluster.cluster.types import ClusterTime, LogIndex
from keycluster.cluster.wire.errors import KMSInternalException, ValidationException


@dataclass(frozen=True, slots=True)
class Transition:
    """One command on its way through `apply`. Handlers change rows through it and raise KmsError to refuse."""

    state: StateWriter
    region: RegionRecord
    index: LogIndex  # Of the command in the log.
    clock: ClockRecord
    caller: Caller
    access_key: AccessKeyRecord | None  # The caller's; None when the region itself speaks.

    @property
    def now(self) -> ClusterTime:
        return self.clock.time

    def arn(self, key: KeyRecord) -> str:
        return key_arn(self.region, key.account, key.key_id)

    def key_for(self, operation: str, reference: str) -> KeyRecord:
        """The key that a caller names, who may carry out `operation` on it, in a state that allows it."""
        key = resolve(self.state, reference, self.caller, self.region, action=f"kms:{operation}", aliases=False)
        check_state(operation, key.state, self.arn(key))
        return key

    def put_key(self, key: KeyRecord, *, replacing: KeyRecord | None) -> None:
        """Writes the key's row, and its place in the schedule where that differs from the row that was there."""
        old = set() if replacing is None else _due_rows(replacing)
        new = _due_rows(key)
        for row in sorted(old - new):
            self.state.delete(Table.DUE, row)
        for row in sorted(new - old):
            self.state.put(Table.DUE, row, EMPTY_ROW)
        self.state.put(Table.KEYS, key_row(key.key_id), encode_record(key))

    def change_key(self, key: KeyRecord, **fields: Any) -> None:
        """Writes the key's row with other `fields`."""
        self.put_key(replace(key, **fields), replacing=key)

    def delete_key(self, key: KeyRecord) -> None:
        """Removes the key's row, with all its tokens, and its place in the schedule."""
        for row in sorted(_due_rows(key)):
            self.state.delete(Table.DUE, row)
        self.state.delete(Table.KEYS, key_row(key.key_id))

    def accept(self, backing: NewBackingKey, rotation: RotationType) -> BackingKey:
        """The proposer's new backing key, made now. Raises KMSInternalException: the proposer makes another one."""
        check_backing_key(backing)
        if generation_of(backing.token) != self.region.generation:
            raise KMSInternalException("The domain key has changed since the request was made: try again")
        return BackingKey(backing.id, backing.token, self.now, rotation, self.index)

    def add_backing_key(self, key: KeyRecord, backing: NewBackingKey, rotation: RotationType) -> KeyRecord:
        if key.backing_key(backing.id) is not None:
            raise KMSInternalException("The new backing key's id is taken: try again")
        return replace(key, backing_keys=(*key.backing_keys, self.accept(backing, rotation)))


def check_backing_key(backing: NewBackingKey) -> None:
    """That it has the form of one. Nobody without the domain key can tell more."""
    if len(backing.id) != BACKING_KEY_ID_BYTES or len(backing.token) != TOKEN_BYTES:
        raise ValidationException("The command's backing key is malformed")
    try:
        generation_of(backing.token)
    except TokenInvalid:
        raise ValidationException("The command's backing key is malformed") from None


def _due_rows(key: KeyRecord) -> set[bytes]:
    """What the schedule holds for a key. A key that isn't enabled isn't rotated; it catches up when it is again."""
    rows = set()
    if key.deletion_at is not None:
        rows.add(due_row(DueKind.DELETION, key.deletion_at, key.key_id))
    if key.rotation_next is not None and key.state is KeyState.ENABLED:
        rows.add(due_row(DueKind.ROTATION, key.rotation_next, key.key_id))
    return rows
