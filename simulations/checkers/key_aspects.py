"""A key seen in part: its state and one more thing. For histories in which the whole is too much to search.

Calls of unknown outcome are what makes a search long: each may have happened or not, and with ten of them on different
things (a tag, a policy, a description) there are a thousand keys that might be. Seen in part a key has few: what was
done to anything else only says in which state that was allowed.

Where many of the unknown calls changed the state itself, a part is at last seen alone, without the state: whether that
allowed what was done is then judged by the part that is the state.

A history that is linearizable is so in every part, so what is found in a part is found. What is missed is an order of
two things that no state tells of.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from keycluster.simulations.checkers.history import Call, Members, OutcomeKind, ok
from keycluster.simulations.checkers.key_model import (
    ABSENT,
    ABSENT_STATE,
    ENABLED,
    LIMIT_EXCEEDED,
    Key,
    KeyModel,
    tag_pairs,
)

ASPECTS: Final[dict[str, frozenset[str]]] = {
    "state": frozenset({"deletion_date"}),
    "description": frozenset({"description"}),
    "policy": frozenset({"policy"}),
    "tags": frozenset({"tags"}),
    "rotation": frozenset({"rotation_days", "on_demand_rotations", "rotations", "material"}),
}
"""Each with the members of `Key` that it has beside the state."""

_ABOUT: Final[dict[str, str]] = {
    "DisableKeyRotation": "rotation",
    "EnableKeyRotation": "rotation",
    "PutKeyPolicy": "policy",
    "RotateKeyAutomatically": "rotation",
    "RotateKeyOnDemand": "rotation",
    "TagResource": "tags",
    "UntagResource": "tags",
    "UpdateKeyDescription": "description",
}
"""Changes of one aspect alone."""


STATE: Final = "state"

_SHOWN_BY: Final[dict[str, frozenset[str]]] = {
    "description": frozenset({"DescribeKey"}),
    "policy": frozenset({"GetKeyPolicy"}),
    "tags": frozenset({"ListResourceTags"}),
    "rotation": frozenset({"DescribeKey", "GetKeyRotationStatus", "ListKeyRotations"}),
}
"""The reads that tell of an aspect."""


def parts_of(calls: Sequence[Call]) -> Iterator[tuple[str, "KeyAspect", Sequence[Call]]]:
    """All parts of a key, each with its name, its model and the calls as it sees them. Each tag is a part."""
    for aspect in ASPECTS:
        if aspect != "tags":
            yield aspect, KeyAspect(aspect), calls
    keys = {tag["TagKey"] for call in calls for tag in _tags_in(call)}
    for key in sorted(keys):
        yield f"tag {key!r}", KeyAspect("tags"), [_with_one_tag(call, key) for call in calls]


def _tags_in(call: Call) -> Iterable[Members]:
    yield from call.arguments.get("Tags") or ()
    if call.is_ok and call.operation == "ListResourceTags":
        yield from call.value["Tags"]


def _with_one_tag(call: Call, key: str) -> Call:
    """As if the key could have no other tag."""
    if call.arguments.get("Tags"):
        return replace(call, arguments={**call.arguments, "Tags": _only(call.arguments["Tags"], key)})
    if call.is_ok and call.operation == "ListResourceTags":
        return replace(call, outcome=ok({**call.value, "Tags": _only(call.value["Tags"], key)}))
    return call


def _only(tags: Iterable[Members], key: str) -> tuple[Members, ...]:
    return tuple(tag for tag in tags if tag["TagKey"] == key)


class KeyAspect:
    """One aspect, as a `linearizability.Model`."""

    initial = ABSENT

    def __init__(self, aspect: str) -> None:
        self.aspect = aspect
        self._whole = KeyModel()
        self._hidden = {name: getattr(ABSENT, name) for name in Key._fields if name not in {"state", *ASPECTS[aspect]}}

    def step(self, state: Key, call: Call) -> Key | None:
        if call.code == LIMIT_EXCEEDED and self._is_about_another(call):
            return state  # Of a number that isn't seen here.
        told = {name: value for name, value in _told(call).items() if name in self._hidden}
        after = self._whole.step(state._replace(**told) if told else state, call)
        return None if after is None else after._replace(**self._hidden)

    def is_read(self, call: Call) -> bool:
        return self._whole.is_read(call) or self._is_about_another(call)

    def _is_about_another(self, call: Call) -> bool:
        return _ABOUT.get(call.operation, self.aspect) != self.aspect


def _told(call: Call) -> dict[str, Any]:
    """What an answer says of a key: taken for true where it isn't looked at."""
    read = _READS.get(call.operation)
    return read(call.value, call.arguments) if call.is_ok and read is not None else {}


def _rotations_told(value: Members, arguments: Members) -> dict[str, Any]:
    has_first = arguments.get("IncludeKeyMaterial") == "ALL_KEY_MATERIAL"
    return {"rotations": len(value["Rotations"]) - has_first, "material": None}


_READS: Final[dict[str, Callable[[Members, Members], dict[str, Any]]]] = {
    "DescribeKey": lambda value, _: {
        "description": value["KeyMetadata"].get("Description", ""),
        "material": None,
        "deletion_date": None,
    },
    "GetKeyPolicy": lambda value, _: {"policy": value["Policy"]},
    "GetKeyRotationStatus": lambda value, _: {
        "rotation_days": value["RotationPeriodInDays"] if value["KeyRotationEnabled"] else None
    },
    "ListKeyRotations": _rotations_told,
    "ListResourceTags": lambda value, _: {"tags": tuple(sorted(tag_pairs(value["Tags"]).items()))},
}
"""What a read's answer says, by `Key`'s members, of the answer and what was asked."""


class KeyAspectAlone(KeyAspect):
    """One aspect without the state: a key is there or not, and allows everything."""

    def step(self, state: Key, call: Call) -> Key | None:
        if call.is_ok and call.operation == "DescribeKey" and state.state != ABSENT_STATE:
            state = state._replace(state=call.value["KeyMetadata"]["KeyState"])
        after = super().step(state, call)
        return after if after is None or after.state == ABSENT_STATE else after._replace(state=ENABLED)

    def seen_in(self, calls: Iterable[Call]) -> list[Call]:
        """Those that say something of it."""
        return [call for call in calls if self._says_something(call)]

    def _says_something(self, call: Call) -> bool:
        if call.operation == "CreateKey":
            return True
        if call.operation in _SHOWN_BY[self.aspect]:
            is_hidden = call.operation == "GetKeyRotationStatus" and call.is_ok and not call.value["KeyRotationEnabled"]
            return call.is_ok and not is_hidden  # Off is also what a key pending deletion shows.
        is_of_state = call.kind is OutcomeKind.REFUSED and call.code != LIMIT_EXCEEDED
        return _ABOUT.get(call.operation) == self.aspect and not is_of_state
