"""What may hold when a call runs: the values that attributes of keys, aliases and access keys may have.

The data plane isn't linearizable while a change is under way: until it is answered, some nodes act on the old state and
some on the new one. So a call must fit *some* state that may hold while it runs. A write's value may hold unless it was
surely overwritten: by a write that began after it had ended, and that had ended before the call began.

What the control plane's reads show binds too: such an answer leaves once all nodes have applied what it rests on (rule
L10 of the design). So a value is over when another one was seen by a read that began after the value's write had ended,
though the client that changed it never heard of it.

`WRITES` says of each operation what it makes or shows of which attribute; later issues add rows.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from keycluster.simulations.checkers.history import NEVER, Call, OutcomeKind
from keycluster.simulations.checkers.key_model import (
    ABSENT_STATE,
    DISABLED,
    ENABLED,
    PENDING,
)
from keycluster.simulations.checkers.partitions import judged, merge_repeats
from keycluster.simulations.checkers.references import alias_named, key_answered, key_named, name_of

NO_KEY: Final = ""
"""What an alias that doesn't exist names."""
ACTIVE, INACTIVE, NO_ACCESS_KEY = "active", "inactive", "absent"
ANY_MATERIAL: Final = "new"
"""A rotation's material, whose id only later answers say."""


class Attribute(StrEnum):
    """What changes, and must be seen to have changed."""

    STATE = "key state"  # Of a key id: Enabled, Disabled, PendingDeletion, or absent.
    TARGET = "alias target"  # Of an alias: a key id or NO_KEY.
    MATERIAL = "key material"  # Of a key id: the id of the material that encrypts.
    ACCESS_KEY = "access key"  # Of an access key's id: active, inactive, absent.


INITIAL: Final[dict[Attribute, str]] = {
    Attribute.STATE: ABSENT_STATE,
    Attribute.TARGET: NO_KEY,
    Attribute.MATERIAL: ANY_MATERIAL,
    Attribute.ACCESS_KEY: NO_ACCESS_KEY,
}

Written = tuple[Attribute, str, str]
"""What is written: the attribute, whose, and its value."""


@dataclass(frozen=True, slots=True)
class _Write:
    """Or what a read showed."""

    value: str
    began: int
    ended: int
    """NEVER for one of unknown outcome: nothing overwrites it surely, and it overwrites nothing surely."""


class _Ended:
    """The greatest beginning of those that have ended by a time."""

    def __init__(self, writes: Iterable[_Write]) -> None:
        self._ends: list[int] = []
        self._last_begun: list[int] = []
        for write in sorted(writes, key=lambda write: write.ended):
            self._ends.append(write.ended)
            self._last_begun.append(max(write.began, self._last_begun[-1] if self._last_begun else -1))

    def last_begun(self, *, before: int) -> int:
        answered = bisect_left(self._ends, before)
        return -1 if answered == 0 else self._last_begun[answered - 1]


class _Writes:
    """All that was written of one attribute of one subject, and what may hold when."""

    def __init__(self, writes: Iterable[_Write], shown: Iterable[_Write]) -> None:
        self._writes = sorted(writes, key=lambda write: write.ended)
        self._ends = [write.ended for write in self._writes]
        self._ended = _Ended(self._writes)
        self._shown = {
            value: _Ended(write for write in shown if write.value == value)
            for value in sorted({write.value for write in shown})
        }

    def may_hold(self, call: Call) -> list[str]:
        """The values that may hold at some moment of `call`."""
        found = []
        for write in self._left(call):
            if write.began < call.ended and write.value not in found and not self._was_seen_gone(write, call):
                found.append(write.value)
        return found

    def are_over(self, call: Call) -> set[str]:
        """The values that were surely overwritten before `call` began."""
        left = self._left(call)
        return {write.value for write in self._writes[: len(self._writes) - len(left)]}

    def _left(self, call: Call) -> list[_Write]:
        """Those that no other write has surely overwritten when `call` begins."""
        return self._writes[bisect_left(self._ends, self._ended.last_begun(before=call.began)) :]

    def _was_seen_gone(self, write: _Write, call: Call) -> bool:
        """Whether another value was seen, once `write` had ended and before `call` began."""
        return any(
            write.ended < shown.last_begun(before=call.began)
            for value, shown in self._shown.items()
            if value != write.value
        )


# What operations write, and what the control plane's answers show.


def _state(value: str) -> Callable[[Call], Iterable[Written]]:
    def write(call: Call) -> Iterable[Written]:
        key = key_named(call)
        if key is not None:
            yield Attribute.STATE, key, value

    return write


def _alias(call: Call) -> Iterable[Written]:
    alias, target = alias_named(call, "AliasName"), key_named(call, "TargetKeyId")
    if alias is not None:
        yield Attribute.TARGET, alias, NO_KEY if call.operation == "DeleteAlias" or target is None else target


def _described(call: Call) -> Iterable[Written]:
    key = key_answered(call)
    if key is None:
        return
    metadata = call.value["KeyMetadata"]
    yield Attribute.STATE, key, metadata["KeyState"]
    material = metadata.get("CurrentKeyMaterialId")
    if material is not None:
        yield Attribute.MATERIAL, key, material
    alias = alias_named(call)
    if alias is not None:
        yield Attribute.TARGET, alias, key


def _rotated(call: Call) -> Iterable[Written]:
    key = key_named(call)
    if key is not None:
        yield Attribute.MATERIAL, key, ANY_MATERIAL


def _rotations_listed(call: Call) -> Iterable[Written]:
    key = key_named(call)
    for rotation in call.value["Rotations"] if call.is_ok and key is not None else ():
        if key is not None and rotation["KeyMaterialState"] == "CURRENT":
            yield Attribute.MATERIAL, key, rotation["KeyMaterialId"]


def _aliases_listed(call: Call) -> Iterable[Written]:
    for entry in call.value["Aliases"] if call.is_ok else ():
        yield Attribute.TARGET, entry["AliasName"], entry.get("TargetKeyId", NO_KEY)


def _access_key_made(call: Call) -> Iterable[Written]:
    if call.is_ok:
        yield Attribute.ACCESS_KEY, call.value["AccessKeyId"], ACTIVE


def _access_key_deactivated(call: Call) -> Iterable[Written]:
    yield Attribute.ACCESS_KEY, call.arguments["AccessKeyId"], INACTIVE


WRITES: Final[dict[str, Callable[[Call], Iterable[Written]]]] = {
    "CreateKey": _described,
    "EnableKey": _state(ENABLED),
    "DisableKey": _state(DISABLED),
    "ScheduleKeyDeletion": _state(PENDING),
    "CancelKeyDeletion": _state(DISABLED),
    "CompleteKeyDeletion": _state(ABSENT_STATE),
    "DescribeKey": _described,
    "RotateKeyOnDemand": _rotated,
    "RotateKeyAutomatically": _rotated,
    "ListKeyRotations": _rotations_listed,
    "CreateAlias": _alias,
    "UpdateAlias": _alias,
    "DeleteAlias": _alias,
    "ListAliases": _aliases_listed,
    "CreateAccessKey": _access_key_made,
    "DeactivateAccessKey": _access_key_deactivated,
}

READS: Final = frozenset({"DescribeKey", "ListAliases", "ListKeyRotations"})

SHOWN: Final = frozenset({Attribute.STATE, Attribute.TARGET})
"""Attributes whose every value was written by a call that says so. A reading of another one may be the first to tell of
a value, and so is taken for its write."""


class View:
    """What may hold of everything when a call runs."""

    def __init__(self, calls: Iterable[Call]) -> None:
        calls = list(calls)
        every = [call for call in map(judged, merge_repeats(calls)) if call is not None]
        told = [call for call in every if call.kind is not OutcomeKind.REFUSED and call.operation in WRITES]
        self._made = {key_answered(call) for call in told if call.operation == "CreateKey"}
        self._made_access_keys = {call.value["AccessKeyId"] for call in told if call.operation == "CreateAccessKey"}
        writes: defaultdict[tuple[Attribute, str], list[_Write]] = defaultdict(list)
        shown: defaultdict[tuple[Attribute, str], list[_Write]] = defaultdict(list)
        for call in told:
            ended = _ended(call)
            for attribute, subject, value in WRITES[call.operation](call):
                into = shown if attribute in SHOWN and call.operation in READS else writes
                into[attribute, subject].append(_Write(value, call.began, ended))
        _unname_deleted(told, writes)
        self._writes = {of: _Writes([*self._initial(*of), *writes[of]], shown[of]) for of in sorted({*writes, *shown})}
        self.key_of_blob = _keys_of_blobs(calls)

    def _initial(self, attribute: Attribute, subject: str) -> list[_Write]:
        """What holds before the history, or may: no answer tells of the creation of some keys."""
        match attribute:
            case Attribute.STATE if subject not in self._made:
                return [_Write(ABSENT_STATE, -1, -1), _Write(ENABLED, -1, NEVER)]
            case Attribute.ACCESS_KEY if subject not in self._made_access_keys:
                return [_Write(ACTIVE, -1, -1)]
            case _:
                return [_Write(INITIAL[attribute], -1, -1)]

    def may_hold(self, attribute: Attribute, subject: str, call: Call) -> list[str]:
        writes = self._writes.get((attribute, subject))
        if writes is None:
            return [write.value for write in self._initial(attribute, subject)]
        return writes.may_hold(call)

    def are_over(self, attribute: Attribute, subject: str, call: Call) -> set[str]:
        writes = self._writes.get((attribute, subject))
        return set() if writes is None else writes.are_over(call)


def _ended(call: Call) -> int:
    """When it was over for all nodes: NEVER for what may yet be made."""
    return call.made if call.kind is OutcomeKind.UNKNOWN else call.ended


def _unname_deleted(told: Iterable[Call], writes: dict[tuple[Attribute, str], list[_Write]]) -> None:
    """A key's end is the end of its aliases."""
    for call in told:
        if call.operation == "CompleteKeyDeletion":
            key, ended = key_named(call), _ended(call)
            for (attribute, _), found in writes.items():
                if attribute is Attribute.TARGET and any(write.value == key for write in found):
                    found.append(_Write(NO_KEY, call.began, ended))


def _keys_of_blobs(calls: Iterable[Call]) -> dict[bytes, str]:
    found = {}
    for call in calls:
        if call.is_ok and isinstance(call.value, dict) and "CiphertextBlob" in call.value:
            found[call.value["CiphertextBlob"]] = name_of(call.value["KeyId"])
    return found
