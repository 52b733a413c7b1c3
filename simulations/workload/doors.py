"""Where a workload's calls go in: one way to ask, whichever door and client is behind it."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeAlias

from keycluster.client.endpoints import Credentials
from keycluster.client.key_client import KeyClient
from keycluster.cluster.wire.operations import Shape
from keycluster.node.operations.table import OPERATIONS, Plane

CHANGES: Final = frozenset(name for name, operation in OPERATIONS.items() if operation.plane is Plane.WRITE) | {
    "CreateAccessKey",
    "DeactivateAccessKey",
    "ConfirmTime",
}
"""What carries a request id, by which a region makes it once."""

Answered: TypeAlias = tuple[Shape, str | None]
"""A response, and the node that gave it, where that is known."""


class Door(Protocol):
    """One client's way into a region. `kind` keeps request ids apart: those of one door mean nothing at another."""

    @property
    def kind(self) -> str: ...

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that it can ask, sorted."""
        ...

    async def ask(self, request: Shape, *, at: str | None, seconds: float, request_id: bytes | None = None) -> Answered:
        """One call, with whatever retries the client makes. With `at` no other node is asked.

        Raises KeyclusterError, by which `outcome_of` tells what is known: what is in doubt is `DeadlineExceeded`.
        """
        ...


OpenDoor = Callable[[Credentials], AbstractAsyncContextManager[Door]]
"""A client of its own with that access key. Raises KeyclusterError."""


def operation_of(request: Shape) -> str:
    """By AWS's name."""
    return type(request).__name__.removesuffix("Request")


_chosen: ContextVar[list[bytes] | None] = ContextVar("request ids", default=None)


def request_ids(fresh: Callable[[], bytes]) -> Callable[[], bytes]:
    """A `KeyClient`'s source of request ids by which a `NativeDoor` may choose a call's.

    The chosen one is given out once: a client that draws an id for each of its tries must be seen to do so.
    """

    def next_id() -> bytes:
        chosen = _chosen.get()
        return chosen.pop() if chosen else fresh()

    return next_id


class NativeDoor:
    """A `KeyClient` that is open; its request ids come from `request_ids`."""

    kind = "native"

    def __init__(self, client: KeyClient) -> None:
        self.client = client

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(sorted(node.node for node in self.client.statistics()))

    async def ask(self, request: Shape, *, at: str | None, seconds: float, request_id: bytes | None = None) -> Answered:
        operations = self.client if at is None else self.client.at(at)
        method: Callable[..., Any] = getattr(operations, _method_of(operation_of(request)))
        members = {name: getattr(request, name) for name in request.__struct_fields__}
        given = {name: value for name, value in members.items() if value is not None}
        before = _chosen.set(None if request_id is None else [request_id])
        try:
            return await method(**given, timeout=seconds), at
        finally:
            _chosen.reset(before)


def _method_of(operation: str) -> str:
    """As boto3 names it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
