"""Which operation is allowed on a key in which state: AWS's table, as a table.

Source: AWS KMS developer guide, "Key states of AWS KMS keys", for keys made in the region (Origin AWS_KMS).
Where that table leaves a choice (a cryptographic operation on a key pending deletion gets DisabledException or
KMSInvalidStateException) ours is KMSInvalidStateException, as for everything else in that state.
"""

from enum import Enum
from typing import Final

from keycluster.cluster.keys.records import KeyState
from keycluster.cluster.wire.errors import DisabledException, KMSInvalidStateException


class Verdict(Enum):
    """What an operation meets. The texts are AWS's."""

    ALLOWED = "allowed"
    DISABLED = "is disabled."  # DisabledException
    PENDING = "is pending deletion."  # KMSInvalidStateException
    NOT_PENDING = "is not pending deletion."  # KMSInvalidStateException


class Rule(Enum):
    """The rows that AWS's table comes down to: verdicts for Enabled, Disabled, PendingDeletion."""

    ALWAYS = (Verdict.ALLOWED, Verdict.ALLOWED, Verdict.ALLOWED)
    UNLESS_PENDING = (Verdict.ALLOWED, Verdict.ALLOWED, Verdict.PENDING)
    ENABLED_ONLY = (Verdict.ALLOWED, Verdict.DISABLED, Verdict.PENDING)
    PENDING_ONLY = (Verdict.NOT_PENDING, Verdict.NOT_PENDING, Verdict.ALLOWED)


_COLUMN: Final = {KeyState.ENABLED: 0, KeyState.DISABLED: 1, KeyState.PENDING_DELETION: 2}

RULES: Final[dict[str, Rule]] = {
    "CancelKeyDeletion": Rule.PENDING_ONLY,
    "CreateAlias": Rule.UNLESS_PENDING,
    "Decrypt": Rule.ENABLED_ONLY,
    "DeleteAlias": Rule.ALWAYS,
    "DescribeKey": Rule.ALWAYS,
    "DisableKey": Rule.UNLESS_PENDING,
    "DisableKeyRotation": Rule.ENABLED_ONLY,
    "EnableKey": Rule.UNLESS_PENDING,
    "EnableKeyRotation": Rule.ENABLED_ONLY,
    "Encrypt": Rule.ENABLED_ONLY,
    "GenerateDataKey": Rule.ENABLED_ONLY,
    "GenerateDataKeyWithoutPlaintext": Rule.ENABLED_ONLY,
    "GetKeyPolicy": Rule.ALWAYS,
    "GetKeyRotationStatus": Rule.ALWAYS,
    "ListAliases": Rule.ALWAYS,
    "ListKeyPolicies": Rule.ALWAYS,
    "ListKeyRotations": Rule.ALWAYS,
    "ListResourceTags": Rule.ALWAYS,
    "PutKeyPolicy": Rule.ALWAYS,
    "ReEncrypt": Rule.ENABLED_ONLY,
    "RotateKeyOnDemand": Rule.ENABLED_ONLY,
    "ScheduleKeyDeletion": Rule.UNLESS_PENDING,
    "TagResource": Rule.UNLESS_PENDING,
    "UntagResource": Rule.UNLESS_PENDING,
    "UpdateAlias": Rule.UNLESS_PENDING,  # Of the key that the alias shall name; the one it named may be in any state.
    "UpdateKeyDescription": Rule.UNLESS_PENDING,
}


def verdict(operation: str, state: KeyState) -> Verdict:
    rule: tuple[Verdict, Verdict, Verdict] = RULES[operation].value
    return rule[_COLUMN[state]]


def check_state(operation: str, state: KeyState, arn: str) -> None:
    """Raises DisabledException or KMSInvalidStateException unless `operation` may act on a key in `state`."""
    found = verdict(operation, state)
    if found is Verdict.ALLOWED:
        return
    error = DisabledException if found is Verdict.DISABLED else KMSInvalidStateException
    raise error(f"{arn} {found.value}")
