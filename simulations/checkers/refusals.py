"""Every refusal is one that something explains: where requests ask for nothing wrong, most codes can only be a bug.

The other checkers judge refusals that tell of a state, each against its model. What no model knows would pass them all:
a node that calls a good request malformed, or its own operator a stranger. So the codes that may come at all are here.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from keycluster.simulations.checkers.ciphertexts import INVALID_CIPHERTEXT
from keycluster.simulations.checkers.currency import ACCESS_DENIED, INCORRECT_KEY, JUDGES, UNRECOGNISED
from keycluster.simulations.checkers.history import Call, History, OutcomeKind
from keycluster.simulations.checkers.key_model import DECIDED_BY_STATE, INVALID_STATE, KEY_DISABLED, NOT_FOUND
from keycluster.simulations.checkers.partitions import MISMATCH
from keycluster.simulations.runs import Failure

CHECKER: Final = "refusals"

NEVER_FAILS_BY: Final = frozenset({"NodeNotTrusted", "RequestTooLarge"})
"""What the client itself finds, and no fault of a run brings about."""

_OF_A_KEY: Final = frozenset({NOT_FOUND, KEY_DISABLED, INVALID_STATE})
_OF_A_BLOB: Final = frozenset({ACCESS_DENIED, INCORRECT_KEY, INVALID_CIPHERTEXT})


def check_refusals(history: History) -> list[Failure]:
    """For workloads that ask for nothing malformed."""
    meanings: dict[str, list[Call]] = {}
    for call in history.calls:
        if call.request_id is not None:
            meanings.setdefault(call.request_id, []).append(call)
    return [
        Failure(CHECKER, f"{call.describe()}: nothing in this run explains it", call.returned_ns)
        for call in history.calls
        if not _is_explained(call) and not _had_two_meanings(call, meanings)
    ]


def _had_two_meanings(call: Call, meanings: Mapping[str, Iterable[Call]]) -> bool:
    """Whether the request id was another request's too, as far as that had begun."""
    return call.code == MISMATCH and any(
        (other.operation, other.arguments) != (call.operation, call.arguments) and other.began < call.ended
        for other in meanings.get(call.request_id or "", ())
    )


def _is_explained(call: Call) -> bool:
    if call.kind is OutcomeKind.FAILED:
        return call.code not in NEVER_FAILS_BY
    if call.kind is not OutcomeKind.REFUSED:
        return True
    if call.code == UNRECOGNISED:
        return call.access_key_id is not None  # Others are nobody's to withdraw.
    if call.code in _OF_A_BLOB:
        return "CiphertextBlob" in call.arguments
    return call.code in (_OF_A_KEY if call.operation in JUDGES else DECIDED_BY_STATE)
