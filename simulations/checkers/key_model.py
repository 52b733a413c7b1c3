"""One KMS key's control plane, one call after another: what each operation does and answers in each state.

Written from AWS's documentation and not from `cluster/keys/`, so that the two check each other: state table of the
developer guide ("Key states of AWS KMS keys"), each operation's page of the API Reference for the rest.

What happens by itself is a call too, made by the region and of unknown outcome: `CompleteKeyDeletion` and
`RotateKeyAutomatically`, recorded by whoever makes time pass so far that they may happen.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from keycluster.simulations.checkers.history import Call, OutcomeKind

ABSENT_STATE: Final = ""
ENABLED: Final = "Enabled"
DISABLED: Final = "Disabled"
PENDING: Final = "PendingDeletion"

ON_DEMAND_ROTATIONS_MAX: Final = 25
TAGS_MAX: Final = 50
ROTATION_DAYS_DEFAULT: Final = 365

NOT_FOUND: Final = "NotFoundException"
KEY_DISABLED: Final = "DisabledException"
INVALID_STATE: Final = "KMSInvalidStateException"
LIMIT_EXCEEDED: Final = "LimitExceededException"
ALREADY_EXISTS: Final = "AlreadyExistsException"

DECIDED_BY_REQUEST: Final = frozenset(
    {
        "CustomKeyStoreNotFoundException",
        "InvalidAliasNameException",
        "InvalidArnException",
        "InvalidMarkerException",
        "MalformedPolicyDocumentException",
        "SerializationException",
        "TagException",
        "UnknownOperationException",
        "UnsupportedOperationException",
        "ValidationException",
    }
)
"""Refusals that say nothing of the state."""

DECIDED_BY_STATE: Final = frozenset({NOT_FOUND, KEY_DISABLED, INVALID_STATE, LIMIT_EXCEEDED, ALREADY_EXISTS})
"""Refusals that a model must explain. All others (of the caller, of a node that is busy) may hide an effect: a request
that was sent twice may have been carried out the first time."""


class Key(NamedTuple):
    """A key as its control plane shows it."""

    state: str = ABSENT_STATE
    description: str = ""
    policy: str | None = None
    """None: the default, whose text this model doesn't know."""
    tags: tuple[tuple[str, str], ...] = ()
    rotation_days: int | None = None
    on_demand_rotations: int = 0
    rotations: int = 0
    material: str | None = None
    """The current key material's id; None: no answer has said it since it changed."""
    deletion_date: float | None = None
    """None: not pending deletion, or no answer has said it."""


ABSENT: Final = Key()

_ALWAYS: Final = frozenset({ENABLED, DISABLED, PENDING})
_UNLESS_PENDING: Final = frozenset({ENABLED, DISABLED})
_ENABLED_ONLY: Final = frozenset({ENABLED})
_PENDING_ONLY: Final = frozenset({PENDING})

ALLOWED_IN: Final[dict[str, frozenset[str]]] = {
    "CancelKeyDeletion": _PENDING_ONLY,
    "CreateAlias": _UNLESS_PENDING,
    "DescribeKey": _ALWAYS,
    "DisableKey": _UNLESS_PENDING,
    "DisableKeyRotation": _ENABLED_ONLY,
    "EnableKey": _UNLESS_PENDING,
    "EnableKeyRotation": _ENABLED_ONLY,
    "GetKeyPolicy": _ALWAYS,
    "GetKeyRotationStatus": _ALWAYS,
    "ListAliases": _ALWAYS,
    "ListKeyPolicies": _ALWAYS,
    "ListKeyRotations": _ALWAYS,
    "ListResourceTags": _ALWAYS,
    "PutKeyPolicy": _ALWAYS,
    "RotateKeyOnDemand": _ENABLED_ONLY,
    "ScheduleKeyDeletion": _UNLESS_PENDING,
    "TagResource": _UNLESS_PENDING,
    "UntagResource": _UNLESS_PENDING,
    "UpdateAlias": _UNLESS_PENDING,
    "UpdateKeyDescription": _UNLESS_PENDING,
}
"""Origin AWS_KMS. What isn't allowed in a disabled key is DisabledException, all else KMSInvalidStateException."""


class _Refused(Exception):
    """By the model; `code` as AWS names it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


# What each change does to a key that it is allowed on.


def _schedule_deletion(key: Key, call: Call) -> Key:
    date = call.value.get("DeletionDate") if call.is_ok else None
    return key._replace(state=PENDING, deletion_date=date)


def _cancel_deletion(key: Key, call: Call) -> Key:
    return key._replace(state=DISABLED, deletion_date=None)


def _tag(key: Key, call: Call) -> Key:
    merged = tuple(sorted({**dict(key.tags), **tag_pairs(call.arguments["Tags"])}.items()))
    if len(merged) > TAGS_MAX:
        raise _Refused(LIMIT_EXCEEDED)
    return key._replace(tags=merged)


def _untag(key: Key, call: Call) -> Key:
    return key._replace(tags=tuple(tag for tag in key.tags if tag[0] not in call.arguments["TagKeys"]))


def _enable_rotation(key: Key, call: Call) -> Key:
    return key._replace(rotation_days=call.arguments.get("RotationPeriodInDays") or ROTATION_DAYS_DEFAULT)


def _rotate(key: Key, call: Call) -> Key:
    if key.on_demand_rotations >= ON_DEMAND_ROTATIONS_MAX:
        raise _Refused(LIMIT_EXCEEDED)
    return key._replace(on_demand_rotations=key.on_demand_rotations + 1, rotations=key.rotations + 1, material=None)


_CHANGES: Final[dict[str, Callable[[Key, Call], Key]]] = {
    "CancelKeyDeletion": _cancel_deletion,
    "CreateAlias": lambda key, call: key,
    "DisableKey": lambda key, call: key._replace(state=DISABLED),
    "DisableKeyRotation": lambda key, call: key._replace(rotation_days=None),
    "EnableKey": lambda key, call: key._replace(state=ENABLED),
    "EnableKeyRotation": _enable_rotation,
    "PutKeyPolicy": lambda key, call: key._replace(policy=call.arguments["Policy"]),
    "RotateKeyOnDemand": _rotate,
    "ScheduleKeyDeletion": _schedule_deletion,
    "TagResource": _tag,
    "UntagResource": _untag,
    "UpdateAlias": lambda key, call: key,
    "UpdateKeyDescription": lambda key, call: key._replace(description=call.arguments["Description"]),
}

CHANGES: Final = frozenset(_CHANGES) | {"CreateKey", "DeleteAlias"}
"""The operations that change a key or an alias."""


# What each answer says of the key: the key, with what the answer taught, or None where the answer can't be of it.


def _described(key: Key, call: Call) -> Key | None:
    metadata = call.value["KeyMetadata"]
    if metadata["KeyState"] != key.state or metadata["Enabled"] is not (key.state == ENABLED):
        return None
    if metadata.get("Description", "") != key.description:
        return None
    date = metadata.get("DeletionDate")
    if (date is not None) is not (key.state == PENDING) or (date is not None and key.deletion_date not in (None, date)):
        return None
    taught = _taught_material(key, metadata.get("CurrentKeyMaterialId"))
    return None if taught is None else taught._replace(deletion_date=date)


def _taught_material(key: Key, material: str | None) -> Key | None:
    if material is None:
        return key
    if key.material is None:
        return key._replace(material=material)
    return key if key.material == material else None


def _policy_got(key: Key, call: Call) -> Key | None:
    return key if key.policy in (None, call.value["Policy"]) else None


def _tags_listed(key: Key, call: Call) -> Key | None:
    tags = tag_pairs(call.value["Tags"])
    if "Marker" in call.arguments or call.value.get("Truncated", False):
        return key
    return key if tags == dict(key.tags) else None


def _rotation_got(key: Key, call: Call) -> Key | None:
    is_shown = key.rotation_days is not None and key.state != PENDING
    if call.value["KeyRotationEnabled"] is not is_shown:
        return None
    return key if not is_shown or call.value["RotationPeriodInDays"] == key.rotation_days else None


def _rotations_listed(key: Key, call: Call) -> Key | None:
    rotations = call.value["Rotations"]
    if "Marker" in call.arguments or call.value.get("Truncated", False):
        return key
    has_first = call.arguments.get("IncludeKeyMaterial") == "ALL_KEY_MATERIAL"
    if len(rotations) != key.rotations + has_first:
        return None
    current = [rotation["KeyMaterialId"] for rotation in rotations if rotation["KeyMaterialState"] == "CURRENT"]
    if not rotations:
        return key
    return _taught_material(key, current[0]) if len(current) == 1 else None


_ANSWERS: Final[dict[str, Callable[[Key, Call], Key | None]]] = {
    "DescribeKey": _described,
    "GetKeyPolicy": _policy_got,
    "GetKeyRotationStatus": _rotation_got,
    "ListAliases": lambda key, call: key,
    "ListKeyPolicies": lambda key, call: key,
    "ListKeyRotations": _rotations_listed,
    "ListResourceTags": _tags_listed,
}

ON_ONE_KEY: Final = frozenset(_CHANGES) | frozenset(_ANSWERS)


class KeyModel:
    """A key that nobody has made yet."""

    initial = ABSENT

    def step(self, state: Key, call: Call) -> Key | None:
        """See `linearizability.Model`."""
        if call.operation == "ListKeys":
            return state if (state.state != ABSENT_STATE) is call.value["IsListed"] else None
        if call.code in DECIDED_BY_REQUEST:
            return state
        try:
            after = self._carried_out(state, call)
        except _Refused as refusal:
            if call.kind is OutcomeKind.UNKNOWN:
                return state
            return state if call.code == refusal.code else None
        return after if call.kind is OutcomeKind.UNKNOWN or call.is_ok else self._refused(state, call)

    def is_read(self, call: Call) -> bool:
        """See `linearizability.Model`."""
        return call.operation not in CHANGES and call.operation not in _BY_ITSELF

    @staticmethod
    def _carried_out(state: Key, call: Call) -> Key | None:
        """Raises `_Refused`. None: carried out, but not with that answer."""
        own = _BY_ITSELF.get(call.operation)
        if own is not None:
            return own(state, call)
        if state.state not in ALLOWED_IN[call.operation]:
            raise _Refused(_refusal(state, call.operation))
        change = _CHANGES.get(call.operation)
        if change is not None:
            return change(state, call)
        return _ANSWERS[call.operation](state, call) if call.is_ok else state

    @staticmethod
    def _refused(state: Key, call: Call) -> Key | None:
        """A refusal where this model finds none: of what it doesn't know."""
        if call.operation == "CreateAlias" and call.code in (ALREADY_EXISTS, LIMIT_EXCEEDED):
            return state  # The key is looked at first, then the alias and how many the key has.
        if call.operation == "UpdateAlias" and call.code == LIMIT_EXCEEDED:
            return state
        if call.operation in ("GetKeyPolicy", "PutKeyPolicy") and call.code == NOT_FOUND:
            return state if call.arguments.get("PolicyName") not in (None, "default") else None
        return None


def _refusal(state: Key, operation: str) -> str:
    if state.state == ABSENT_STATE:
        return NOT_FOUND
    if state.state == DISABLED and ALLOWED_IN[operation] is _ENABLED_ONLY:
        return KEY_DISABLED
    return INVALID_STATE


def _created(state: Key, call: Call) -> Key | None:
    if state.state != ABSENT_STATE:
        raise _Refused(ALREADY_EXISTS)
    arguments = call.arguments
    made = Key(
        state=ENABLED,
        description=arguments.get("Description") or "",
        policy=arguments.get("Policy"),
        tags=tuple(sorted(tag_pairs(arguments.get("Tags") or ()).items())),
    )
    return _described(made, call) if call.is_ok else made


def _deleted(state: Key, call: Call) -> Key:
    """At the end of its waiting time; what comes later is as if it had never been. `Until`: the latest that it may have
    been, in Unix time. A key whose time comes later stays."""
    until = call.arguments.get("Until")
    is_due = until is None or state.deletion_date is None or state.deletion_date <= until
    return ABSENT if state.state == PENDING and is_due else state


def _rotated(state: Key, call: Call) -> Key:
    if state.state != ENABLED or state.rotation_days is None:
        return state
    return state._replace(rotations=state.rotations + 1, material=None)


_BY_ITSELF: Final[dict[str, Callable[[Key, Call], Key | None]]] = {
    "CompleteKeyDeletion": _deleted,
    "CreateKey": _created,
    "RotateKeyAutomatically": _rotated,
}
"""What asks for no key that is there."""


def tag_pairs(tags: Any) -> dict[str, str]:
    """Tags, or what is asked to become such, by their keys."""
    return {tag["TagKey"]: tag["TagValue"] for tag in tags}
