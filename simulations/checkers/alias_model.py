"""One alias, one call after another: which key it names, if any. A partition of its own, since it moves between keys.

Whether the key is there and in a state to be named is the key's partition's to judge (key_model.py).
"""

from typing import Final

from keycluster.simulations.checkers.history import Call, OutcomeKind
from keycluster.simulations.checkers.key_model import (
    ALREADY_EXISTS,
    CHANGES,
    DECIDED_BY_REQUEST,
    INVALID_STATE,
    LIMIT_EXCEEDED,
    NOT_FOUND,
)
from keycluster.simulations.checkers.references import key_answered, key_named

NO_TARGET: Final = ""


class AliasModel:
    """The alias of that name, in its account. States are key ids; `NO_TARGET` while there is no such alias."""

    initial = NO_TARGET

    def __init__(self, name: str) -> None:
        self._name = name

    def step(self, state: str, call: Call) -> str | None:
        """See `linearizability.Model`."""
        if call.operation == "CompleteKeyDeletion":
            return NO_TARGET if state == key_named(call) else state
        if call.kind is OutcomeKind.REFUSED:
            return state if self._may_refuse(state, call) else None
        after = self._carried_out(state, call)
        return state if after is None and call.kind is OutcomeKind.UNKNOWN else after

    def is_read(self, call: Call) -> bool:
        """See `linearizability.Model`."""
        return call.operation not in CHANGES and call.operation != "CompleteKeyDeletion"

    @staticmethod
    def _may_refuse(state: str, call: Call) -> bool:
        exists = state != NO_TARGET
        if call.code in DECIDED_BY_REQUEST:
            return True
        if call.operation == "CreateAlias":  # The key is looked at before the alias.
            return {ALREADY_EXISTS: exists, LIMIT_EXCEEDED: not exists}.get(
                call.code, call.code in (NOT_FOUND, INVALID_STATE)
            )
        if call.operation == "UpdateAlias":  # The alias is looked at before the key that it shall name.
            return {NOT_FOUND: not exists, INVALID_STATE: exists, LIMIT_EXCEEDED: exists}.get(call.code, False)
        return call.code == NOT_FOUND and not exists

    def _carried_out(self, state: str, call: Call) -> str | None:
        """None: it would be refused, or would have answered something else."""
        exists = state != NO_TARGET
        match call.operation:
            case "CreateAlias":
                return None if exists else key_named(call, "TargetKeyId")
            case "UpdateAlias":
                return key_named(call, "TargetKeyId") if exists else None
            case "DeleteAlias":
                return NO_TARGET if exists else None
            case "ListAliases":
                return state if self._is_listed_right(state, call) else None
            case _:
                return state if key_answered(call) == state else None

    def _is_listed_right(self, state: str, call: Call) -> bool:
        listed = [entry.get("TargetKeyId") for entry in call.value["Aliases"] if entry["AliasName"] == self._name]
        of_key = key_named(call)
        shown = [] if state == NO_TARGET or of_key not in (None, state) else [state]
        return listed == shown
