"""Operations by key states, as AWS documents them: the table, and the state machine that keeps to it."""

import pytest

from keycluster.cluster.keys.commands import (
    CancelKeyDeletion,
    CommandBody,
    CreateAlias,
    DeleteAlias,
    DisableKey,
    DisableKeyRotation,
    EnableKey,
    EnableKeyRotation,
    PutKeyPolicy,
    RotateKeyOnDemand,
    ScheduleKeyDeletion,
    TagResource,
    UntagResource,
    UpdateAlias,
    UpdateKeyDescription,
)
from keycluster.cluster.keys.key_states import RULES, check_state, verdict
from keycluster.cluster.keys.policy import default_policy
from keycluster.cluster.keys.records import KeyRecord, KeyState
from keycluster.cluster.wire.errors import KmsError
from tests.key_machine import KeyMachine
from tests.room_on_memory import ACCOUNT

# AWS KMS developer guide, "Key states of AWS KMS keys", for Origin AWS_KMS. "·" success, "D" DisabledException
# "is disabled.", "P" KMSInvalidStateException "is pending deletion.", "N" KMSInvalidStateException "is not pending
# deletion.".              Enabled Disabled PendingDeletion
AWS_TABLE = """
CancelKeyDeletion                N N ·
CreateAlias                      · · P
Decrypt                          · D P
DeleteAlias                      · · ·
DescribeKey                      · · ·
DisableKey                       · · P
DisableKeyRotation               · D P
EnableKey                        · · P
EnableKeyRotation                · D P
Encrypt                          · D P
GenerateDataKey                  · D P
GenerateDataKeyWithoutPlaintext  · D P
GetKeyPolicy                     · · ·
GetKeyRotationStatus             · · ·
ListAliases                      · · ·
ListKeyPolicies                  · · ·
ListKeyRotations                 · · ·
ListResourceTags                 · · ·
PutKeyPolicy                     · · ·
ReEncrypt                        · D P
RotateKeyOnDemand                · D P
ScheduleKeyDeletion              · · P
TagResource                      · · P
UntagResource                    · · P
UpdateAlias                      · · P
UpdateKeyDescription             · · P
"""
ERRORS = {
    "D": ("DisabledException", "is disabled."),
    "P": ("KMSInvalidStateException", "is pending deletion."),
    "N": ("KMSInvalidStateException", "is not pending deletion."),
}
STATES = (KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DELETION)
CELLS = [
    (line.split()[0], state, mark)
    for line in AWS_TABLE.strip().splitlines()
    for state, mark in zip(STATES, line.split()[1:], strict=True)
]


def test_table_has_every_operation_on_a_key() -> None:
    """No operation is without a rule, and none has a rule that AWS's table lacks."""
    assert {operation for operation, _, _ in CELLS} == RULES.keys()


@pytest.mark.parametrize(("operation", "state", "mark"), CELLS)
def test_check_state_refuses_as_aws_does(operation: str, state: KeyState, mark: str) -> None:
    """Code and text of each cell."""
    if mark == "·":
        assert verdict(operation, state).value == "allowed"
        check_state(operation, state, "arn:k")
        return
    code, text = ERRORS[mark]
    with pytest.raises(KmsError) as refusal:
        check_state(operation, state, "arn:k")
    assert (refusal.value.code, refusal.value.message) == (code, f"arn:k {text}")


def commands_on(machine: KeyMachine, key: KeyRecord) -> dict[str, CommandBody]:
    """The commands of all operations on `key` that go through the log."""
    return {
        "CancelKeyDeletion": CancelKeyDeletion(key.key_id),
        "CreateAlias": CreateAlias("alias/new", key.key_id),
        "DeleteAlias": DeleteAlias("alias/old"),
        "DisableKey": DisableKey(key.key_id),
        "DisableKeyRotation": DisableKeyRotation(key.key_id),
        "EnableKey": EnableKey(key.key_id),
        "EnableKeyRotation": EnableKeyRotation(key.key_id, 365),
        "PutKeyPolicy": PutKeyPolicy(key.key_id, default_policy(ACCOUNT, "aws")),
        "RotateKeyOnDemand": RotateKeyOnDemand(key.key_id, machine.next_backing_key()),
        "ScheduleKeyDeletion": ScheduleKeyDeletion(key.key_id, 30),
        "TagResource": TagResource(key.key_id, (("a", "b"),)),
        "UntagResource": UntagResource(key.key_id, ("a",)),
        "UpdateAlias": UpdateAlias("alias/elsewhere", key.key_id),
        "UpdateKeyDescription": UpdateKeyDescription(key.key_id, "new"),
    }


def key_in(machine: KeyMachine, state: KeyState) -> KeyRecord:
    key, elsewhere = machine.create_key(), machine.create_key()
    machine.ok(CreateAlias("alias/old", key.key_id))
    machine.ok(CreateAlias("alias/elsewhere", elsewhere.key_id))
    if state is KeyState.DISABLED:
        machine.ok(DisableKey(key.key_id))
    if state is KeyState.PENDING_DELETION:
        machine.ok(ScheduleKeyDeletion(key.key_id, 7))
    return machine.key(key.key_id)


LOGGED = commands_on(KeyMachine(), KeyMachine().create_key()).keys()


@pytest.mark.parametrize(("operation", "state", "mark"), [cell for cell in CELLS if cell[0] in LOGGED])
def test_command_meets_the_cell_of_its_key(operation: str, state: KeyState, mark: str) -> None:
    """`apply` keeps to the table, and a refusal leaves the key's row as it was."""
    machine = KeyMachine()
    key = key_in(machine, state)
    command = commands_on(machine, key)[operation]
    if mark == "·":
        machine.ok(command)
        return
    code, text = ERRORS[mark]
    assert machine.refusal(command) == (code, f"{machine.arn(key.key_id)} {text}")
    assert machine.key(key.key_id) == key


def test_alias_moves_away_from_a_key_pending_deletion() -> None:
    """UpdateAlias asks for the state of the key that the alias shall name, not of the one it named."""
    machine = KeyMachine()
    key = key_in(machine, KeyState.PENDING_DELETION)
    target = machine.create_key()
    machine.ok(UpdateAlias("alias/old", target.key_id))
    assert machine.key(target.key_id).aliases == ("alias/old",)
    assert machine.key(key.key_id).aliases == ()
