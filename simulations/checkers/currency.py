"""Contract 2 across both planes: once a change has been answered, no node acts on what was before it.

Both directions: no success on what an answered change has ended (a key disabled or to be deleted, an alias moved, an
access key deactivated), and no refusal for what an answered change has ended (a key enabled or made). What may hold
when a call runs is in `validity.py`; `JUDGES` says what each answer claims to hold, and later issues add rows.
"""

from collections.abc import Callable, Iterable
from typing import Final

from keycluster.simulations.checkers.history import Call, History, OutcomeKind
from keycluster.simulations.checkers.key_model import (
    ABSENT_STATE,
    DISABLED,
    ENABLED,
    INVALID_STATE,
    KEY_DISABLED,
    NOT_FOUND,
    PENDING,
)
from keycluster.simulations.checkers.references import alias_named, key_named, name_of
from keycluster.simulations.checkers.validity import (
    ACTIVE,
    ANY_MATERIAL,
    INACTIVE,
    NO_ACCESS_KEY,
    NO_KEY,
    Attribute,
    View,
)
from keycluster.simulations.runs import Failure

CHECKER: Final = "currency"

ACCESS_DENIED: Final = "AccessDeniedException"
UNRECOGNISED: Final = "UnrecognizedClientException"
INCORRECT_KEY: Final = "IncorrectKeyException"

_STATE_OF_REFUSAL: Final = {NOT_FOUND: ABSENT_STATE, KEY_DISABLED: DISABLED, INVALID_STATE: PENDING}

Complaint = str | None
Judge = Callable[[Call, View], Complaint]


def check_currency(history: History) -> list[Failure]:
    """Of each call that was answered by yes or no."""
    view = View(history.calls)
    failures = []
    for call in history.calls:
        if call.kind not in (OutcomeKind.OK, OutcomeKind.REFUSED):
            continue
        for judge in (_judge_access_key, *JUDGES.get(call.operation, ())):
            complaint = judge(call, view)
            if complaint is not None:
                failures.append(Failure(CHECKER, f"{call.describe()}: {complaint}", call.returned_ns))
    return failures


def _judge_access_key(call: Call, view: View) -> Complaint:
    """Of all operations: whose caller says by which access key."""
    used = call.access_key_id
    if used is None:
        return None
    if call.is_ok:
        return _claim(Attribute.ACCESS_KEY, used, {ACTIVE}, call, view)
    if call.code == UNRECOGNISED:
        return _claim(Attribute.ACCESS_KEY, used, {INACTIVE, NO_ACCESS_KEY}, call, view)
    return None


def _judge_target(call: Call, view: View) -> Complaint:
    """That an alias named the key that was used."""
    used = "SourceKeyId" if call.operation == "ReEncrypt" else "KeyId"
    pairs = [(used, used)]
    if call.operation == "ReEncrypt":
        pairs.append(("DestinationKeyId", "KeyId"))
    for asked, answered in pairs:
        alias = alias_named(call, asked)
        if alias is not None and call.is_ok:
            complaint = _claim(Attribute.TARGET, alias, {name_of(call.value[answered])}, call, view)
            if complaint is not None:
                return complaint
    return None


def _judge_state(call: Call, view: View) -> Complaint:
    """That the key was enabled where it was used, and otherwise in the state for which it was refused."""
    if call.is_ok:
        for key in _used(call):
            complaint = _claim(Attribute.STATE, key, {ENABLED}, call, view)
            if complaint is not None:
                return complaint
        return None
    state = _STATE_OF_REFUSAL.get(call.code)
    return None if state is None else _judge_refusal(call, view, state)


def _judge_refusal(call: Call, view: View, state: str) -> Complaint:
    keys = [key for asked in _asked(call, view) for key in asked]
    if state == ABSENT_STATE and NO_KEY in keys:
        return None
    held = {key: view.may_hold(Attribute.STATE, key, call) for key in keys if key != NO_KEY}
    if not held or any(state in states for states in held.values()):
        return None
    return f"no key of it may have been {state or 'absent'} then: {_shown(held)}"


def _judge_no_key(call: Call, view: View) -> Complaint:
    """A blob's key that doesn't exist, and that the request doesn't name, is AccessDeniedException."""
    blob_key = view.key_of_blob.get(call.arguments.get("CiphertextBlob", b""))
    if call.code != ACCESS_DENIED or blob_key is None:
        return None
    return _claim(Attribute.STATE, blob_key, {ABSENT_STATE}, call, view)


def _judge_wrong_key(call: Call, view: View) -> Complaint:
    """That the request may have named another key than the blob's."""
    member = "SourceKeyId" if call.operation == "ReEncrypt" else "KeyId"
    blob_key = view.key_of_blob.get(call.arguments.get("CiphertextBlob", b""))
    if call.code != INCORRECT_KEY or blob_key is None:
        return None
    named = _named(call, view, member)
    return None if any(key != blob_key for key in named) else f"it named the blob's own key, {blob_key}"


def _judge_material(call: Call, view: View) -> Complaint:
    """That a rotated key's old material doesn't encrypt any more."""
    if not call.is_ok:
        return None
    member = "DestinationKeyMaterialId" if call.operation == "ReEncrypt" else "KeyMaterialId"
    material, key = call.value.get(member), name_of(call.value["KeyId"])
    held = view.may_hold(Attribute.MATERIAL, key, call)
    if material is None or material in held:
        return None
    if ANY_MATERIAL in held and material not in view.are_over(Attribute.MATERIAL, key, call):
        return None
    return f"{key} was rotated: its material may have been {_shown(held)}, not {material}"


_USES: Final = (_judge_target, _judge_state)
_ENCRYPTS: Final = (*_USES, _judge_material)
_DECRYPTS: Final = (*_USES, _judge_no_key, _judge_wrong_key)

JUDGES: Final[dict[str, tuple[Judge, ...]]] = {
    "Encrypt": _ENCRYPTS,
    "GenerateDataKey": _ENCRYPTS,
    "GenerateDataKeyWithoutPlaintext": _ENCRYPTS,
    "Decrypt": _DECRYPTS,
    "ReEncrypt": (*_DECRYPTS, _judge_material),
}
"""What the answers of each operation of the data plane claim."""


def _claim(attribute: Attribute, subject: str, values: set[str], call: Call, view: View) -> Complaint:
    """None where one of `values` may hold."""
    held = view.may_hold(attribute, subject, call)
    if not values.isdisjoint(held):
        return None
    claimed = " or ".join(value or "absent" for value in sorted(values))
    return f"the {attribute.value} of {subject} can't have been {claimed}, only {_shown(held)}"


def _shown(held: object) -> str:
    match held:
        case dict():
            return "; ".join(f"{key}: {_shown(values)}" for key, values in held.items())
        case list():
            return ", ".join(str(value) or "absent" for value in held)
        case _:
            return str(held)


def _used(call: Call) -> Iterable[str]:
    """The keys that a successful call used."""
    yield name_of(call.value["KeyId"])
    if call.operation == "ReEncrypt":
        yield name_of(call.value["SourceKeyId"])


def _asked(call: Call, view: View) -> Iterable[list[str]]:
    """For each key that a call asks for: the keys that this may have been, NO_KEY among them."""
    blob_key = view.key_of_blob.get(call.arguments.get("CiphertextBlob", b""))
    if blob_key is not None:
        yield [blob_key]
    for member in ("KeyId", "SourceKeyId", "DestinationKeyId"):
        if member in call.arguments:
            yield _named(call, view, member)


def _named(call: Call, view: View, member: str) -> list[str]:
    key, alias = key_named(call, member), alias_named(call, member)
    if key is not None:
        return [key]
    return [] if alias is None else view.may_hold(Attribute.TARGET, alias, call)
