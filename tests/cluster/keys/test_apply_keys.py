"""The life of a key through the log: made, described, tagged, rotated, scheduled for deletion, destroyed."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from keycluster.cluster.keys.commands import (
    CancelKeyDeletion,
    CommandBody,
    CompleteKeyDeletion,
    CreateAlias,
    DisableKey,
    EnableKey,
    EnableKeyRotation,
    NewBackingKey,
    PutKeyPolicy,
    RotateKeyAutomatically,
    RotateKeyOnDemand,
    ScheduleKeyDeletion,
    TagResource,
    UntagResource,
    UpdateKeyDescription,
)
from keycluster.cluster.keys.describe import key_material_id, key_metadata
from keycluster.cluster.keys.limits import DAY, TAGS_PER_KEY_MAX
from keycluster.cluster.keys.policy import default_policy
from keycluster.cluster.keys.records import (
    DueKind,
    KeyRecord,
    KeyState,
    RotationType,
    Table,
    account_key_row,
    due_row,
    key_row,
)
from keycluster.cluster.types import ClusterTime
from keycluster.cluster.wire import operations as wire
from tests.key_machine import KeyMachine, backing_key, key_id_of
from tests.room_on_memory import ACCOUNT, OTHER_ACCOUNT, REGION

DAY_S = 24 * 3600


def due_of(machine: KeyMachine) -> set[bytes]:
    return {row for row, _ in machine.state.scan(Table.DUE, limit=1000)}


def let_days_pass(machine: KeyMachine, days: int) -> None:
    """With ticks in between, as a region that runs has them: no leap."""
    machine.pass_time(days * DAY_S)


def test_created_key_is_answered_as_aws_answers() -> None:
    """All members of KeyMetadata that a symmetric key of the region has, and none else."""
    machine = KeyMachine()
    body = machine.new_create_key(description="mine", tags=(("b", "2"), ("a", "1")))
    metadata = machine.ok(body, dict[str, Any])["KeyMetadata"]
    assert metadata == {
        "AWSAccountId": ACCOUNT,
        "KeyId": body.key_id,
        "Arn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{body.key_id}",
        "CreationDate": machine.time / 1e9,
        "Enabled": True,
        "Description": "mine",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled",
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
        "CurrentKeyMaterialId": key_material_id(body.key_id, body.backing.id),
    }
    assert len(metadata["CurrentKeyMaterialId"]) == 64
    key = machine.key(body.key_id)
    assert key.tags == (("a", "1"), ("b", "2"))
    assert key.current.token == body.backing.token
    assert machine.state.get(Table.ACCOUNT_KEYS, account_key_row(ACCOUNT, key.key_id)) == b""


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"key_id": "not-a-uuid"}, "ValidationException"),
        ({"description": "x" * 8193}, "ValidationException"),
        ({"backing": NewBackingKey(b"short", b"short")}, "ValidationException"),
        ({"backing": replace(backing_key(1), token=b"\x09" + backing_key(1).token[1:])}, "ValidationException"),
        ({"backing": backing_key(1, generation=2)}, "KMSInternalException"),
        ({"tags": (("aws:a", "b"),)}, "TagException"),
        ({"tags": (("a", "b"), ("a", "c"))}, "TagException"),
        ({"tags": (("", "b"),)}, "ValidationException"),
        ({"tags": (("a", "b" * 257),)}, "ValidationException"),
        ({"tags": tuple((f"t{n}", "") for n in range(51))}, "LimitExceededException"),
        ({"policy": "{}"}, "MalformedPolicyDocumentException"),
        ({"policy": '{"Version": "2012-10-17", "Statement": []}'}, "UnsupportedOperationException"),
    ],
)
def test_create_key_that_breaks_a_rule_makes_no_row(fields: dict[str, Any], code: str) -> None:
    """`apply` checks what rows rely on, whatever a node let through."""
    machine = KeyMachine()
    before = machine.rows()
    assert machine.code(machine.new_create_key(**fields)) == code
    after = machine.rows()
    for table in (Table.KEYS, Table.ACCOUNT_KEYS, Table.DUE, Table.ALIASES):
        assert after.get(table) == before.get(table)


def test_create_key_with_an_id_that_is_taken_is_refused() -> None:
    """No key ever takes another's place."""
    machine = KeyMachine()
    key = machine.create_key()
    assert machine.code(machine.new_create_key(key_id=key.key_id), caller=machine.other) == "AlreadyExistsException"
    assert machine.key(key.key_id) == key


def test_policy_is_kept_as_it_was_given() -> None:
    """The default text takes no room; another wording of it is what GetKeyPolicy shows."""
    machine = KeyMachine()
    text = default_policy(ACCOUNT, "aws")
    key = machine.create_key(policy=text)
    assert key.policy is None
    other_words = json.dumps(json.loads(text))
    machine.ok(PutKeyPolicy(key.key_id, other_words))
    assert machine.key(key.key_id).policy == other_words
    machine.ok(PutKeyPolicy(key.key_id, text))
    assert machine.key(key.key_id).policy is None


def test_scheduled_key_is_pending_and_cancelling_leaves_it_disabled() -> None:
    """Dates, states and answers of both operations."""
    machine = KeyMachine()
    key = machine.create_key()
    answer = machine.ok(ScheduleKeyDeletion(key.key_id, 7), wire.ScheduleKeyDeletionResponse)
    deletion_at = machine.time + 7 * DAY
    assert answer == wire.ScheduleKeyDeletionResponse(
        key_id=machine.arn(key.key_id),
        deletion_date=deletion_at / 1e9,
        key_state="PendingDeletion",
        pending_window_in_days=7,
    )
    pending = key_metadata(machine.key(key.key_id), machine.region)
    assert (pending.enabled, pending.key_state, pending.deletion_date) == (False, "PendingDeletion", deletion_at / 1e9)
    assert due_of(machine) == {due_row(DueKind.DELETION, ClusterTime(deletion_at), key.key_id)}
    cancelled = machine.ok(CancelKeyDeletion(machine.arn(key.key_id)), wire.CancelKeyDeletionResponse)
    assert cancelled.key_id == machine.arn(key.key_id)
    assert machine.key(key.key_id) == replace(key, state=KeyState.DISABLED)
    assert due_of(machine) == set()


@pytest.mark.parametrize(
    ("days", "bound"),
    [(6, "greater than or equal to 7"), (31, "less than or equal to 30"), (2**63, "less than or equal to 30")],
)
def test_window_outside_7_to_30_days_is_refused_in_aws_words(days: int, bound: str) -> None:
    """The service's limits are narrower than its model's."""
    machine = KeyMachine()
    key = machine.create_key()
    assert machine.refusal(ScheduleKeyDeletion(key.key_id, days)) == (
        "ValidationException",
        f"1 validation error detected: Value '{days}' at 'pendingWindowInDays' failed to satisfy constraint: "
        f"Member must have value {bound}",
    )


def scheduled(machine: KeyMachine) -> tuple[KeyRecord, CompleteKeyDeletion]:
    key = machine.create_key()
    machine.ok(CreateAlias("alias/gone", key.key_id))
    machine.ok(EnableKeyRotation(key.key_id, 90))
    machine.ok(ScheduleKeyDeletion(key.key_id, 7))
    deletion_at = machine.key(key.key_id).deletion_at
    assert deletion_at is not None
    return key, CompleteKeyDeletion(key.key_id, deletion_at)


def test_due_deletion_leaves_nothing_of_the_key() -> None:
    """Row, token, index, schedule and aliases are gone; the key is as unknown as one that never was."""
    machine = KeyMachine()
    key, complete = scheduled(machine)
    let_days_pass(machine, 7)
    machine.ok(complete, caller=machine.region_speaks)
    for table in (Table.KEYS, Table.ACCOUNT_KEYS, Table.ALIASES, Table.DUE):
        assert machine.rows().get(table) is None, table
    remembered = machine.rows()
    assert not any(key.current.token in row for rows in remembered.values() for row in rows.values())
    assert machine.refusal(EnableKey(key.key_id)) == (
        "NotFoundException",
        f"Key '{machine.arn(key.key_id)}' does not exist",
    )
    machine.ok(CreateAlias("alias/gone", machine.create_key().key_id))


def test_deletion_that_is_not_due_is_refused() -> None:
    """Too early, cancelled, scheduled anew, or asked for by a caller: the key stays."""
    machine = KeyMachine()
    key, complete = scheduled(machine)
    machine.pass_time(7 * DAY_S - 1)
    assert machine.code(complete, caller=machine.region_speaks) == "KMSInvalidStateException"
    machine.pass_time(1)
    assert machine.code(complete) == "AccessDeniedException"
    machine.ok(CancelKeyDeletion(key.key_id))
    assert machine.code(complete, caller=machine.region_speaks) == "KMSInvalidStateException"
    machine.ok(ScheduleKeyDeletion(key.key_id, 8))
    machine.pass_time(8 * DAY_S)
    assert machine.code(complete, caller=machine.region_speaks) == "KMSInvalidStateException"
    assert machine.key(key.key_id).state is KeyState.PENDING_DELETION


def test_deletion_after_time_leapt_waits_for_a_day_of_running() -> None:
    """No wrong clock deletes a key: security.md, 6."""
    machine = KeyMachine()
    key, complete = scheduled(machine)
    machine.pass_time(30 * DAY_S, running=False)
    code, message = machine.refusal(complete, caller=machine.region_speaks)
    assert (code, message.startswith("Time has leapt")) == ("KMSInvalidStateException", True)
    machine.pass_time(DAY_S - 1)
    assert machine.code(complete, caller=machine.region_speaks) == "KMSInvalidStateException"
    machine.pass_time(1)
    machine.ok(complete, caller=machine.region_speaks)
    assert machine.state.get(Table.KEYS, key_row(key.key_id)) is None


def test_rotation_on_demand_keeps_every_older_backing_key() -> None:
    """The new one encrypts, the old ones stay for what they encrypted; 25 are allowed in all."""
    machine = KeyMachine()
    key = machine.create_key()
    for _ in range(25):
        machine.pass_time(1)
        answer = machine.ok(RotateKeyOnDemand(key.key_id, machine.next_backing_key()), wire.RotateKeyOnDemandResponse)
        assert answer.key_id == key.key_id
    rotated = machine.key(key.key_id)
    assert rotated.backing_keys[0] == key.current
    assert len(rotated.backing_keys) == 26
    assert rotated.current.created == machine.time
    assert rotated.backing_key(key.current.id) == key.current
    assert (
        key_metadata(rotated, machine.region).current_key_material_id
        != key_metadata(key, machine.region).current_key_material_id
    )
    assert machine.code(RotateKeyOnDemand(key.key_id, machine.next_backing_key())) == "LimitExceededException"


def test_rotation_without_a_token_says_try_again_and_is_not_remembered() -> None:
    """The proposer hadn't heard of the key: its repeat, under the same request id, goes through."""
    machine = KeyMachine()
    key = machine.create_key()
    again = {"request_id": b"r" * 16, "params_hash": b"h" * 32}
    assert machine.code(RotateKeyOnDemand(key.key_id, None), **again) == "DependencyTimeoutException"
    machine.ok(RotateKeyOnDemand(key.key_id, machine.next_backing_key()), **again)


def test_rotation_with_a_backing_key_that_is_there_already_is_refused() -> None:
    """Two backing keys of one id could not be told apart by a blob."""
    machine = KeyMachine()
    body = machine.new_create_key()
    machine.ok(body)
    assert machine.code(RotateKeyOnDemand(body.key_id, body.backing)) == "KMSInternalException"


def automatic(machine: KeyMachine, key: KeyRecord) -> RotateKeyAutomatically:
    return RotateKeyAutomatically(key.key_id, machine.key(key.key_id).current.id, machine.next_backing_key())


def test_automatic_rotation_happens_once_a_period() -> None:
    """When due, by what the proposer saw, and never twice for one date."""
    machine = KeyMachine()
    key = machine.create_key()
    region = machine.region_speaks
    machine.ok(EnableKeyRotation(key.key_id, 90))
    assert due_of(machine) == {due_row(DueKind.ROTATION, ClusterTime(machine.time + 90 * DAY), key.key_id)}
    assert machine.code(automatic(machine, key), caller=region) == "KMSInvalidStateException"
    let_days_pass(machine, 90)
    twice = automatic(machine, key), automatic(machine, key)
    machine.ok(twice[0], caller=region)
    assert machine.code(twice[1], caller=region) == "KMSInvalidStateException"
    rotated = machine.key(key.key_id)
    assert [backing.rotation for backing in rotated.backing_keys] == [RotationType.INITIAL, RotationType.AUTOMATIC]
    assert rotated.rotation_next == machine.time + 90 * DAY
    assert due_of(machine) == {due_row(DueKind.ROTATION, ClusterTime(machine.time + 90 * DAY), key.key_id)}
    assert rotated.on_demand_rotations == 0
    stale = RotateKeyAutomatically(key.key_id, key.current.id, machine.next_backing_key())
    let_days_pass(machine, 90)
    assert machine.code(stale, caller=region) == "KMSInvalidStateException"


def test_disabled_key_is_not_rotated_and_catches_up_once_enabled() -> None:
    """Its date stays, its place in the schedule comes back."""
    machine = KeyMachine()
    key = machine.create_key()
    machine.ok(EnableKeyRotation(key.key_id, 90))
    due = due_of(machine)
    machine.ok(DisableKey(key.key_id))
    assert due_of(machine) == set()
    let_days_pass(machine, 100)
    assert machine.code(automatic(machine, key), caller=machine.region_speaks) == "KMSInvalidStateException"
    machine.ok(EnableKey(key.key_id))
    assert due_of(machine) == due
    machine.ok(automatic(machine, key), caller=machine.region_speaks)


@pytest.mark.parametrize("days", [89, 2561])
def test_rotation_period_outside_aws_limits_is_refused(days: int) -> None:
    """90 to 2560 days."""
    machine = KeyMachine()
    key = machine.create_key()
    assert machine.code(EnableKeyRotation(key.key_id, days)) == "ValidationException"


def test_tags_are_merged_replaced_and_removed() -> None:
    """Sorted by tag key, later values winning; removing what isn't there is no error."""
    machine = KeyMachine()
    key = machine.create_key(tags=(("b", "1"),))
    machine.ok(TagResource(key.key_id, (("c", "3"), ("a", "0"), ("b", "2"))))
    assert machine.key(key.key_id).tags == (("a", "0"), ("b", "2"), ("c", "3"))
    machine.ok(UntagResource(key.key_id, ("b", "none")))
    assert machine.key(key.key_id).tags == (("a", "0"), ("c", "3"))
    full = tuple((f"t{number}", "") for number in range(TAGS_PER_KEY_MAX - 2))
    machine.ok(TagResource(key.key_id, full))
    assert machine.code(TagResource(key.key_id, (("one more", ""),))) == "LimitExceededException"
    machine.ok(TagResource(key.key_id, (("a", "again"),)))


def test_description_is_replaced() -> None:
    """Whatever its letters."""
    machine = KeyMachine()
    key = machine.create_key(description="old")
    machine.ok(UpdateKeyDescription(key.key_id, "neu: ø ✓"))
    assert machine.key(key.key_id).description == "neu: ø ✓"


@pytest.mark.parametrize(
    "make",
    [
        EnableKey,
        DisableKey,
        CancelKeyDeletion,
        lambda key: ScheduleKeyDeletion(key, 7),
        lambda key: UpdateKeyDescription(key, "x"),
        lambda key: TagResource(key, (("a", "b"),)),
        lambda key: UntagResource(key, ("a",)),
        lambda key: PutKeyPolicy(key, default_policy(OTHER_ACCOUNT, "aws")),
        lambda key: EnableKeyRotation(key, 90),
        lambda key: RotateKeyOnDemand(key, backing_key(1)),
        lambda key: CreateAlias("alias/x", key),
    ],
)
def test_command_on_another_accounts_key_is_denied(make: Any) -> None:
    """`apply` authorises, whatever the door decided; the text is that of a key that doesn't exist."""
    machine = KeyMachine()
    key = machine.create_key()
    there: CommandBody = make(machine.arn(key.key_id))
    nowhere: CommandBody = make(machine.arn(key_id_of(-1)))
    refused = machine.refusal(there, caller=machine.other)
    assert refused[0] == "AccessDeniedException"
    assert refused == machine.refusal(nowhere, caller=machine.other)
    assert machine.key(key.key_id) == key
