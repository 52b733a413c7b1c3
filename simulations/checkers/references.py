"""What a call's members say about which key and which alias it is about."""

from typing import Any

from keycluster.cluster.keys.limits import ALIAS_PREFIX
from keycluster.simulations.checkers.history import Call

_KEY_PREFIX = "key/"


def name_of(reference: str) -> str:
    """A key id, or an alias' name, out of a reference that may be an ARN."""
    resource = reference.split(":", 5)[-1] if reference.startswith("arn:") else reference
    return resource.removeprefix(_KEY_PREFIX)


def key_named(call: Call, member: str = "KeyId") -> str | None:
    """The key that the request names by id or ARN; None if it names none, or by an alias."""
    name = _named(call, member)
    return None if name is None or name.startswith(ALIAS_PREFIX) else name


def alias_named(call: Call, member: str = "KeyId") -> str | None:
    """The alias by which the request names a key; None if it names none, or by id."""
    name = _named(call, member)
    return name if name is not None and name.startswith(ALIAS_PREFIX) else None


def _named(call: Call, member: str) -> str | None:
    reference = call.arguments.get(member)
    return name_of(reference) if isinstance(reference, str) else None


def key_answered(call: Call) -> str | None:
    """The key that the answer names, as that which was made, described or used."""
    if not call.is_ok or not isinstance(call.value, dict):
        return None
    described: dict[str, Any] = call.value.get("KeyMetadata") or call.value
    reference = described.get("KeyId")
    return name_of(reference) if isinstance(reference, str) else None


def is_whole_list(call: Call) -> bool:
    """Whether one answer lists all that there is."""
    return call.is_ok and "Marker" not in call.arguments and not call.value.get("Truncated", False)
