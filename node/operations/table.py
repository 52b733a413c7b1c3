"""The operations of AWS's API that this node carries out, once, for both doors. Operators' own are in `admin.py`.

A row says all that a door has to know: the types, what the caller must be allowed, which way the request goes, what it
costs, and what a node answers that can't know it is current. Source of the last one: the errors that the AWS KMS API
Reference lists for each operation (KeyUnavailableException before DependencyTimeoutException before
KMSInternalException).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from keycluster.cluster.invariant import require
from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import (
    DependencyTimeoutException,
    KeyUnavailableException,
    KmsError,
    KMSInternalException,
)
from keycluster.node.operations.data import DATA
from keycluster.node.operations.reads import READS
from keycluster.node.operations.writes import WRITES
from keycluster.node.room import Room


class Plane(Enum):
    """Which way a request goes through a node."""

    DATA = "data"  # Answered at once from applied state, under the lease.
    READ = "read"  # Likewise, but the answer waits until what it saw is applied everywhere (rule L10).
    WRITE = "write"  # The handler makes a command; the answer is what applying it came to.


class Cost(Enum):
    """Whether a handler may run on the event loop (security.md, 12)."""

    # Tens of microseconds on the data plane; up to 3 ms for a list of 1,000 keys, 10 ms for the worst policy of 32 KiB.
    # `node/turns.py` keeps any number of them from holding up the loop for much longer than one.
    QUICK = "quick"
    SLOW = "slow"  # For bounded threads with a share per account. None yet: the first one brings them.


Handler = Callable[[Room, Caller, Any], Any]
"""`(room, caller, request)`: the response, or on the WRITE plane the command's body. Raises KmsError; never waits."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One row."""

    name: str
    request_type: type[wire.Shape]
    response_type: type[wire.Shape]
    action: str  # What a policy must allow: kms:Encrypt. ReEncrypt asks for a second one on its destination.
    plane: Plane
    cost: Cost
    unavailable: type[KmsError]  # The answer without a live lease: HTTP 500, retryable elsewhere.
    handler: Handler


_KEY = KeyUnavailableException
_DEPENDENCY = DependencyTimeoutException
_INTERNAL = KMSInternalException

_UNAVAILABLE: Final[dict[str, type[KmsError]]] = {
    "Encrypt": _KEY,
    "Decrypt": _KEY,
    "ReEncrypt": _KEY,
    "GenerateDataKey": _KEY,
    "GenerateDataKeyWithoutPlaintext": _KEY,
    "GenerateRandom": _DEPENDENCY,
    "CreateKey": _DEPENDENCY,
    "DescribeKey": _DEPENDENCY,
    "ListKeys": _DEPENDENCY,
    "EnableKey": _DEPENDENCY,
    "DisableKey": _DEPENDENCY,
    "ScheduleKeyDeletion": _DEPENDENCY,
    "CancelKeyDeletion": _DEPENDENCY,
    "UpdateKeyDescription": _DEPENDENCY,
    "GetKeyPolicy": _DEPENDENCY,
    "PutKeyPolicy": _DEPENDENCY,
    "ListKeyPolicies": _DEPENDENCY,
    "TagResource": _INTERNAL,
    "UntagResource": _INTERNAL,
    "ListResourceTags": _INTERNAL,
    "CreateAlias": _DEPENDENCY,
    "UpdateAlias": _DEPENDENCY,
    "DeleteAlias": _DEPENDENCY,
    "ListAliases": _DEPENDENCY,
    "EnableKeyRotation": _DEPENDENCY,
    "DisableKeyRotation": _DEPENDENCY,
    "GetKeyRotationStatus": _DEPENDENCY,
    "RotateKeyOnDemand": _DEPENDENCY,
    "ListKeyRotations": _INTERNAL,
}

_ACTIONS: Final = {"ReEncrypt": "kms:ReEncryptFrom"}  # All others are called as their operation is.


def _row(name: str, plane: Plane, handler: Handler) -> Operation:
    """The wire types are found by their names, which are AWS's."""
    return Operation(
        name=name,
        request_type=getattr(wire, f"{name}Request"),
        response_type=getattr(wire, f"{name}Response"),
        action=_ACTIONS.get(name, f"kms:{name}"),
        plane=plane,
        cost=Cost.QUICK,
        unavailable=_UNAVAILABLE[name],
        handler=handler,
    )


OPERATIONS: Final[dict[str, Operation]] = {
    name: _row(name, plane, handler)
    for plane, handlers in ((Plane.DATA, DATA), (Plane.READ, READS), (Plane.WRITE, WRITES))
    for name, handler in handlers.items()
}
"""Every operation by its name, as in `X-Amz-Target: TrentService.<name>` and in a native request."""

require(
    OPERATIONS.keys() == _UNAVAILABLE.keys(),
    f"operations without a handler or a row: {OPERATIONS.keys() ^ _UNAVAILABLE.keys()}",
)
