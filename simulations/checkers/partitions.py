"""A history, divided into keys and aliases, each with the calls that say something of it.

A call that is about several of them is in each of their partitions: what was done at one moment is then judged as if
it had been done to each at a moment of its own. That finds less than judging all together would, and nothing wrong.

One account is assumed, or aliases whose names no two accounts share.
"""

from collections.abc import Iterable
from dataclasses import replace

from keycluster.simulations.checkers.history import NOT_MADE, REGISTER, Call, OutcomeKind, ok, unknown
from keycluster.simulations.checkers.key_model import (
    ALREADY_EXISTS,
    CHANGES,
    DECIDED_BY_REQUEST,
    DECIDED_BY_STATE,
    INVALID_STATE,
    LIMIT_EXCEEDED,
    NOT_FOUND,
    ON_ONE_KEY,
)
from keycluster.simulations.checkers.references import alias_named, is_whole_list, key_answered, key_named

BY_ITSELF = frozenset({"CompleteKeyDeletion", "RotateKeyAutomatically"})

MAY_BE_MADE = CHANGES | BY_ITSELF | {"DeactivateAccessKey"}
"""What may have been done though nobody was told so."""

MISMATCH = "IdempotentParameterMismatchException"
"""Certainly without effect: the request id was another request's."""


def merge_repeats(calls: Iterable[Call]) -> list[Call]:
    """Calls with one request id as the one call that they are: from the first beginning to the first answer.

    That they all have the same answer is for `idempotency.py` to say.
    """
    merged: list[Call] = []
    places: dict[str, int] = {}
    for call in sorted(calls, key=lambda call: call.began):
        if call.code == MISMATCH:
            continue
        if call.request_id is None:
            merged.append(call)
            continue
        place = places.setdefault(f"{call.request_id} {call.operation} {call.arguments!r}", len(merged))
        if place == len(merged):
            merged.append(call)
        else:
            merged[place] = _joined(merged[place], call)
    return merged


def _joined(first: Call, repeat: Call) -> Call:
    """What is known of both; the beginning stays the first's unless that one certainly had no effect."""
    if _had_no_effect(first):
        return repeat
    if _had_no_effect(repeat):
        return first
    answered = [call for call in (first, repeat) if call.kind is not OutcomeKind.UNKNOWN]
    if not answered:
        return first
    earliest = min(answered, key=lambda call: call.ended)
    return replace(earliest, began=first.began, invoked_ns=first.invoked_ns)


def _had_no_effect(call: Call) -> bool:
    return call.kind is OutcomeKind.FAILED or call.made == NOT_MADE


def is_refused_for_caller(call: Call) -> bool:
    """Or for what a node was busy with: in any case not for what was asked, nor for the state."""
    return call.kind is OutcomeKind.REFUSED and call.code not in DECIDED_BY_REQUEST | DECIDED_BY_STATE


def judged(call: Call) -> Call | None:
    """The call as a model judges it; None if it says nothing: it certainly failed, or was refused for its caller.

    A change that was refused for its caller may have been made: its request may have been sent before that.
    """
    if _had_no_effect(call):
        return None
    if is_refused_for_caller(call):
        return replace(call, outcome=unknown(call.code)) if call.operation in MAY_BE_MADE else None
    if call.kind is OutcomeKind.UNKNOWN and call.operation not in MAY_BE_MADE:
        return None
    return call


class Partitions:
    """Of one history's control plane, and of its register."""

    def __init__(self, calls: Iterable[Call]) -> None:
        every = [call for call in map(judged, merge_repeats(calls)) if call is not None]
        self.keys: dict[str, list[Call]] = {}
        self.aliases: dict[str, list[Call]] = {}
        self.register = [call for call in calls if call.key == REGISTER]
        self._created = {key: call for call in every if (key := _created_key(call)) is not None}
        self._destructible = {key_named(call) for call in every if call.operation == "CompleteKeyDeletion"}
        for call in every:
            for key in _keys_of(call):
                self.keys.setdefault(key, []).append(call)
            for alias in self._aliases_of(call):
                self.aliases.setdefault(alias, []).append(call)
        self._add_key_lists([call for call in every if call.operation == "ListKeys" and is_whole_list(call)])
        self._add_alias_lists([call for call in every if call.operation == "ListAliases" and is_whole_list(call)])
        self._add_creations([call for call in every if call.operation == "CreateKey" and not call.is_ok])
        for of_alias in self.aliases.values():
            of_alias.extend(call for call in every if call.operation == "CompleteKeyDeletion")

    def _aliases_of(self, call: Call) -> Iterable[str]:
        named = alias_named(call, "AliasName")
        if named is not None and not self._is_ambiguous(call):
            yield named
        if call.operation == "DescribeKey":
            described = alias_named(call)
            if described is not None:
                yield described

    def _is_ambiguous(self, call: Call) -> bool:
        """Whether UpdateAlias may have found the alias or the key missing."""
        if call.operation != "UpdateAlias" or call.code != NOT_FOUND:
            return False
        target = key_named(call, "TargetKeyId")
        created = None if target is None else self._created.get(target)
        return created is None or target in self._destructible or call.began < created.ended

    def _add_creations(self, unanswered: list[Call]) -> None:
        """A key that no answer tells the creation of was made by one that wasn't answered."""
        for key, calls in self.keys.items():
            if key not in self._created:
                calls += [call for call in unanswered if call.kind is OutcomeKind.UNKNOWN]

    def _add_key_lists(self, lists: list[Call]) -> None:
        """A list says of each key whether it was there."""
        listed_in = [(call, frozenset(entry["KeyId"] for entry in call.value["Keys"])) for call in lists]
        for _, listed in listed_in:
            for key in sorted(listed):
                self.keys.setdefault(key, [])
        for call, listed in listed_in:
            there, missing = (replace(call, outcome=ok({"IsListed": is_listed})) for is_listed in (True, False))
            for key, calls in self.keys.items():
                calls.append(there if key in listed else missing)

    def _add_alias_lists(self, lists: list[Call]) -> None:
        for call in lists:
            for entry in call.value["Aliases"]:
                self.aliases.setdefault(entry["AliasName"], [])
        for of_alias in self.aliases.values():
            of_alias.extend(lists)


def _created_key(call: Call) -> str | None:
    return key_answered(call) if call.operation == "CreateKey" else None


def _keys_of(call: Call) -> Iterable[str]:
    if call.operation == "CreateKey":
        created = key_answered(call)
        if created is not None:
            yield created
    elif call.operation in ("CreateAlias", "UpdateAlias"):
        target = key_named(call, "TargetKeyId")
        if target is not None and _tells_of_target(call):
            yield target
    elif call.operation in ON_ONE_KEY | BY_ITSELF:
        key = key_named(call) or key_answered(call)
        if key is not None:
            yield key


def _tells_of_target(call: Call) -> bool:
    """An alias' change leaves its key as it is, so an unanswered one says nothing; UpdateAlias may miss the alias."""
    if call.is_ok or call.code in (INVALID_STATE, LIMIT_EXCEEDED):
        return True
    return call.operation == "CreateAlias" and call.code in (NOT_FOUND, ALREADY_EXISTS)
