"""The whole life of keys against a simple model, in step: Hypothesis chooses the commands, times and repeats.

The model knows nothing of rows: a dictionary of keys with their states, aliases and tags, and what was answered to each
request. After each step the rows must say the same as the model, indexes and all; no entry may scan; and at the end a
second replica that is given the same log must have the same rows, byte by byte.
"""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from keycluster.cluster.keys.apply import apply_entry
from keycluster.cluster.keys.commands import (
    CancelKeyDeletion,
    CommandBody,
    CompleteKeyDeletion,
    CreateAlias,
    DeleteAlias,
    DisableKey,
    DisableKeyRotation,
    EnableKey,
    EnableKeyRotation,
    Outcome,
    RotateKeyAutomatically,
    RotateKeyOnDemand,
    ScheduleKeyDeletion,
    TagResource,
    Tick,
    UntagResource,
    UpdateAlias,
)
from keycluster.cluster.keys.limits import DAY
from keycluster.cluster.keys.records import (
    AliasRecord,
    DueKind,
    KeyRecord,
    KeyState,
    PrincipalRecord,
    Table,
    account_key_row,
    alias_row,
    decode_record,
    due_row,
    key_row,
)
from keycluster.cluster.types import ClusterTime, KeyId
from tests.key_machine import KeyMachine
from tests.room_on_memory import ACCOUNT, MemoryState

ALIASES = st.sampled_from(["alias/a", "alias/b", "alias/c"])
TAG_KEYS = st.sampled_from(["p", "q", "r"])
ENABLED, DISABLED, PENDING = KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DELETION


@dataclass
class ModelKey:
    state: KeyState = ENABLED
    tags: dict[str, str] = field(default_factory=dict)
    aliases: set[str] = field(default_factory=set)
    backing_keys: int = 1
    on_demand: int = 0
    period_days: int | None = None
    rotation_next: int | None = None
    deletion_at: int | None = None


class NoScans(MemoryState):
    """With a million keys, an entry that scanned a table of theirs would stop the region."""

    def scan(
        self, table: int, *, prefix: bytes = b"", after: bytes | None = None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        assert table == Table.PRINCIPALS, f"apply scans {Table(table).name}"
        assert limit <= 16
        return super().scan(table, prefix=prefix, after=after, limit=limit)


class Lifecycle(RuleBasedStateMachine):
    keys = Bundle("keys")
    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        self.machine = KeyMachine(NoScans())
        self.model: dict[KeyId, ModelKey] = {}
        self.gone: set[KeyId] = set()
        self.requests = 0

    # Carrying out and expecting

    def send(self, body: CommandBody, refused: str | None) -> tuple[CommandBody, bytes, Outcome, int]:
        """Applies a caller's command, which must end as the model says; returns what a repeat needs."""
        self.requests += 1
        request_id = self.requests.to_bytes(16, "big")
        outcome = self.machine.apply(body, request_id=request_id)
        assert outcome.error_code == refused, (body, outcome)
        return body, request_id, outcome, self.machine.time

    def region(self, body: CommandBody, refused: str | None) -> None:
        outcome = self.machine.apply(body, caller=self.machine.region_speaks)
        assert outcome.error_code == refused, (body, outcome)

    def refusal(self, key_id: KeyId, *allowed: KeyState) -> str | None:
        """What the model expects of an operation that is allowed in these states."""
        if key_id in self.gone:
            return "NotFoundException"
        state = self.model[key_id].state
        if state in allowed:
            return None
        return "DisabledException" if state is DISABLED else "KMSInvalidStateException"

    # Keys

    @rule(target=keys, tags=st.dictionaries(TAG_KEYS, st.text(max_size=3), max_size=2))
    def create(self, tags: dict[str, str]) -> KeyId:
        body = self.machine.new_create_key(tags=tuple(tags.items()))
        self.send(body, None)
        self.model[body.key_id] = ModelKey(tags=dict(tags))
        return body.key_id

    @rule(target=sent, key_id=keys, enable=st.booleans())
    def enable_or_disable(self, key_id: KeyId, enable: bool) -> Any:
        refused = self.refusal(key_id, ENABLED, DISABLED)
        sent = self.send(EnableKey(key_id) if enable else DisableKey(key_id), refused)
        if refused is None:
            self.model[key_id].state = ENABLED if enable else DISABLED
        return sent

    @rule(target=sent, key_id=keys, days=st.integers(7, 30))
    def schedule(self, key_id: KeyId, days: int) -> Any:
        refused = self.refusal(key_id, ENABLED, DISABLED)
        sent = self.send(ScheduleKeyDeletion(key_id, days), refused)
        if refused is None:
            self.model[key_id].state = PENDING
            self.model[key_id].deletion_at = self.machine.time + days * DAY
        return sent

    @rule(target=sent, key_id=keys)
    def cancel(self, key_id: KeyId) -> Any:
        refused = self.refusal(key_id, PENDING)
        sent = self.send(
            CancelKeyDeletion(key_id), "KMSInvalidStateException" if refused == "DisabledException" else refused
        )
        if refused is None:
            self.model[key_id].state = DISABLED
            self.model[key_id].deletion_at = None
        return sent

    @rule(key_id=keys)
    def complete_deletion(self, key_id: KeyId) -> None:
        model = self.model.get(key_id)
        at = None if model is None else model.deletion_at
        due = at is not None and at <= self.machine.time
        self.region(CompleteKeyDeletion(key_id, ClusterTime(at or 0)), None if due else "KMSInvalidStateException")
        if due:
            del self.model[key_id]
            self.gone.add(key_id)

    # Tags

    @rule(target=sent, key_id=keys, tags=st.dictionaries(TAG_KEYS, st.text(max_size=3), max_size=3))
    def tag(self, key_id: KeyId, tags: dict[str, str]) -> Any:
        refused = self.refusal(key_id, ENABLED, DISABLED)
        sent = self.send(TagResource(key_id, tuple(tags.items())), refused)
        if refused is None:
            self.model[key_id].tags.update(tags)
        return sent

    @rule(target=sent, key_id=keys, tag_key=TAG_KEYS)
    def untag(self, key_id: KeyId, tag_key: str) -> Any:
        refused = self.refusal(key_id, ENABLED, DISABLED)
        sent = self.send(UntagResource(key_id, (tag_key,)), refused)
        if refused is None:
            self.model[key_id].tags.pop(tag_key, None)
        return sent

    # Aliases

    def owner(self, alias: str) -> ModelKey | None:
        return next((key for key in self.model.values() if alias in key.aliases), None)

    @rule(target=sent, key_id=keys, alias=ALIASES)
    def create_alias(self, key_id: KeyId, alias: str) -> Any:
        refused = self.refusal(key_id, ENABLED, DISABLED)
        if refused is None and self.owner(alias) is not None:
            refused = "AlreadyExistsException"
        sent = self.send(CreateAlias(alias, key_id), refused)
        if refused is None:
            self.model[key_id].aliases.add(alias)
        return sent

    @rule(target=sent, key_id=keys, alias=ALIASES)
    def update_alias(self, key_id: KeyId, alias: str) -> Any:
        owner = self.owner(alias)
        refused = "NotFoundException" if owner is None else self.refusal(key_id, ENABLED, DISABLED)
        sent = self.send(UpdateAlias(alias, key_id), refused)
        if refused is None and owner is not None:
            owner.aliases.remove(alias)
            self.model[key_id].aliases.add(alias)
        return sent

    @rule(target=sent, alias=ALIASES)
    def delete_alias(self, alias: str) -> Any:
        owner = self.owner(alias)
        sent = self.send(DeleteAlias(alias), "NotFoundException" if owner is None else None)
        if owner is not None:
            owner.aliases.remove(alias)
        return sent

    # Rotation

    @rule(target=sent, key_id=keys, days=st.integers(90, 100) | st.none())
    def set_rotation(self, key_id: KeyId, days: int | None) -> Any:
        refused = self.refusal(key_id, ENABLED)
        sent = self.send(DisableKeyRotation(key_id) if days is None else EnableKeyRotation(key_id, days), refused)
        if refused is None:
            self.model[key_id].period_days = days
            self.model[key_id].rotation_next = None if days is None else self.machine.time + days * DAY
        return sent

    @rule(target=sent, key_id=keys)
    def rotate_on_demand(self, key_id: KeyId) -> Any:
        refused = self.refusal(key_id, ENABLED)
        if refused is None and self.model[key_id].on_demand == 25:
            refused = "LimitExceededException"
        sent = self.send(RotateKeyOnDemand(key_id, self.machine.next_backing_key()), refused)
        if refused is None:
            self.model[key_id].on_demand += 1
            self.model[key_id].backing_keys += 1
        return sent

    @rule(key_id=keys, stale=st.booleans())
    def rotate_automatically(self, key_id: KeyId, stale: bool) -> None:
        model = self.model.get(key_id)
        if model is None:
            return
        seen = bytes(16) if stale else self.machine.key(key_id).current.id
        due = (
            not stale
            and model.state is ENABLED
            and model.rotation_next is not None
            and model.rotation_next <= self.machine.time
        )
        body = RotateKeyAutomatically(key_id, seen, self.machine.next_backing_key())
        self.region(body, None if due else "KMSInvalidStateException")
        if due and model.period_days is not None:
            model.backing_keys += 1
            model.rotation_next = self.machine.time + model.period_days * DAY

    # Time, repeats, another leader

    @rule(days=st.sampled_from([0.001, 1, 7, 30, 100]))
    def pass_time(self, days: float) -> None:
        self.machine.pass_time(days * 24 * 3600)
        self.region(Tick(), None)

    @rule()
    def change_leader(self) -> None:
        self.machine.term += 1

    @precondition(lambda self: self.requests)
    @rule(target=sent, earlier=consumes(sent))
    def repeat(self, earlier: tuple[CommandBody, bytes, Outcome, int]) -> Any:
        """A repeat within ten minutes changes nothing and gets the first answer. (A later one is a new request.)"""
        body, request_id, outcome, at = earlier
        if self.machine.time >= at + 600 * 10**9:
            return multiple()
        tables = (Table.KEYS, Table.ALIASES, Table.DUE, Table.ACCOUNT_KEYS, Table.REQUESTS)
        before = {table: dict(self.machine.state.tables.get(table, {})) for table in tables}
        assert self.machine.apply(body, request_id=request_id) == outcome
        assert {table: dict(self.machine.state.tables.get(table, {})) for table in tables} == before
        code = self.machine.code(body, request_id=request_id, params_hash=bytes(32))
        assert code == "IdempotentParameterMismatchException"
        return earlier

    # What must hold

    @invariant()
    def rows_say_what_the_model_says(self) -> None:
        rows = self.machine.state.tables
        assert set(rows.get(Table.KEYS, {})) == {key_row(key_id) for key_id in self.model}
        assert set(rows.get(Table.ACCOUNT_KEYS, {})) == {account_key_row(ACCOUNT, key_id) for key_id in self.model}
        for key_id, model in self.model.items():
            self.key_says_what_the_model_says(self.machine.key(key_id), model)

    def key_says_what_the_model_says(self, key: KeyRecord, model: ModelKey) -> None:
        assert key.state is model.state
        assert key.tags == tuple(sorted(model.tags.items()))
        assert key.aliases == tuple(sorted(model.aliases))
        assert len(key.backing_keys) == model.backing_keys
        assert len({backing.id for backing in key.backing_keys}) == model.backing_keys
        assert key.on_demand_rotations == model.on_demand
        assert (key.rotation_period_days, key.rotation_next) == (model.period_days, model.rotation_next)
        assert key.deletion_at == model.deletion_at
        assert (key.deletion_at is not None) == (key.state is PENDING)

    @invariant()
    def indexes_say_what_the_keys_say(self) -> None:
        rows = self.machine.state.tables
        due, aliases = set(), {}
        for key_id, model in self.model.items():
            if model.deletion_at is not None:
                due.add(due_row(DueKind.DELETION, ClusterTime(model.deletion_at), key_id))
            if model.rotation_next is not None and model.state is ENABLED:
                due.add(due_row(DueKind.ROTATION, ClusterTime(model.rotation_next), key_id))
            aliases.update({alias_row(ACCOUNT, alias): key_id for alias in model.aliases})
        assert set(rows.get(Table.DUE, {})) == due
        stored = rows.get(Table.ALIASES, {})
        assert {row: decode_record(alias, AliasRecord).key_id for row, alias in stored.items()} == aliases

    @invariant()
    def remembered_requests_are_counted(self) -> None:
        rows = self.machine.state.tables
        counts = [decode_record(row, PrincipalRecord) for row in rows.get(Table.PRINCIPALS, {}).values()]
        assert sum(count.next - count.first for count in counts) == len(rows.get(Table.REQUEST_ORDER, {}))
        assert len(rows.get(Table.REQUESTS, {})) <= len(rows.get(Table.REQUEST_ORDER, {}))

    def teardown(self) -> None:
        """A second replica is given the same log: its rows are the same bytes."""
        twin = MemoryState()
        for entry in self.machine.entries:
            apply_entry(twin, entry)
        assert {table: rows for table, rows in twin.tables.items() if rows} == self.machine.rows()


Lifecycle.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLifecycle = Lifecycle.TestCase
