"""All checkers over one history."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from keycluster.simulations.checkers.alias_model import AliasModel
from keycluster.simulations.checkers.ciphertexts import check_ciphertexts
from keycluster.simulations.checkers.currency import check_currency
from keycluster.simulations.checkers.history import Call, History
from keycluster.simulations.checkers.idempotency import check_idempotency
from keycluster.simulations.checkers.key_aspects import STATE, KeyAspectAlone, parts_of
from keycluster.simulations.checkers.key_model import KeyModel
from keycluster.simulations.checkers.linearizability import STEPS_MAX, Model, Verdict, check_linearizable
from keycluster.simulations.checkers.partitions import Partitions
from keycluster.simulations.checkers.refusals import check_refusals
from keycluster.simulations.checkers.register_model import RegisterModel
from keycluster.simulations.runs import Failure

LINEARIZABILITY: Final = "linearizability"
UNDECIDED: Final = "linearizability-undecided"
"""A failure too: what wasn't decided wasn't checked."""

WHOLE_PART: Final = 10
"""A tenth of the steps is tried for a key as a whole, before it is looked at in parts: most that end do so in few."""

FAILURES_SHOWN: Final = 20
"""Of one checker: one bug can spoil thousands of calls."""


def check_all(
    history: History, *, known_keys: Collection[str] = (), asks_amiss: bool = False, steps_max: int = STEPS_MAX
) -> list[Failure]:
    """What is wrong with a run, by what its clients saw. `known_keys`: made before the history began. `asks_amiss`:
    clients ask for what must be refused whatever the state is, so any refusal may be right."""
    found = [
        check_linearizability(history, known_keys=known_keys, steps_max=steps_max),
        check_currency(history),
        check_ciphertexts(history),
        check_idempotency(history, known_keys=known_keys),
        [] if asks_amiss else check_refusals(history),
    ]
    return [failure for failures in found for failure in _shortened(failures)]


def check_linearizability(
    history: History, *, known_keys: Collection[str] = (), steps_max: int = STEPS_MAX
) -> list[Failure]:
    """Of the control plane, key by key and alias by alias, and of the register. What `known_keys` were made as isn't
    known, so their partitions are left out."""
    partitions = Partitions(history.calls)
    failures: list[Failure] = []
    for key, calls in partitions.keys.items():
        if key not in known_keys:
            failures += _check_key(key, calls, steps_max)
    for name, calls in partitions.aliases.items():
        failures += _check(name, calls, AliasModel(name), steps_max)
    return failures + _check("the register", partitions.register, RegisterModel(), steps_max)


def _check_key(key: str, calls: list[Call], steps_max: int) -> list[Failure]:
    """The whole, and where that takes too long part by part."""
    whole = _check(f"key {key}", calls, KeyModel(), max(1, steps_max // WHOLE_PART))
    if not any(failure.checker == UNDECIDED for failure in whole):
        return whole
    failures: list[Failure] = []
    for part, model, seen in parts_of(calls):
        found = _check(f"{part} of key {key}", seen, model, steps_max)
        if model.aspect != STATE and any(failure.checker == UNDECIDED for failure in found):
            alone = KeyAspectAlone(model.aspect)
            found = _check(f"{part} of key {key}, without its state", alone.seen_in(seen), alone, steps_max)
        failures += found
    return failures


def _check(subject: str, calls: Sequence[Call], model: Model[Any], steps_max: int) -> list[Failure]:
    result = check_linearizable(calls, model, steps_max=steps_max)
    if result.verdict is Verdict.LINEARIZABLE:
        return []
    checker = UNDECIDED if result.verdict is Verdict.UNDECIDED else LINEARIZABILITY
    return [Failure(checker, f"{subject}: {result.describe()}", result.stuck[0].returned_ns if result.stuck else None)]


def _shortened(failures: list[Failure]) -> list[Failure]:
    left_out = len(failures) - FAILURES_SHOWN
    if left_out <= 0:
        return failures
    last = failures[FAILURES_SHOWN - 1]
    return [*failures[: FAILURES_SHOWN - 1], Failure(last.checker, f"{last.message} (and {left_out} more)", last.at_ns)]
