"""What all groups of operations build on: an operation's name, answer and kind, and one way to call it."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from keycluster.cluster.wire.operations import Shape

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Generic[R]):
    """One operation as the client calls it."""

    name: str
    decoder: msgspec.msgpack.Decoder[R]
    is_change: bool
    """Whether it carries a request id, by which the region makes a change once however often it is sent."""


def reading(name: str, response: type[R]) -> Operation[R]:
    """An operation that changes nothing in the region."""
    return Operation(name, msgspec.msgpack.Decoder(response), is_change=False)


def changing(name: str, response: type[R]) -> Operation[R]:
    """An operation that changes what the region agrees on."""
    return Operation(name, msgspec.msgpack.Decoder(response), is_change=True)


class Calls:
    """The base of each group of operations. Who inherits says where calls go."""

    def _call(self, operation: Operation[R], request: Shape, timeout: float | None) -> Awaitable[R]:
        raise NotImplementedError


def members(given: Sequence[T] | None) -> tuple[T, ...] | None:
    """A list argument as requests have it. A string isn't taken for the list of its letters: TypeError."""
    if given is None:
        return None
    return listed(given)


def listed(given: Sequence[T]) -> tuple[T, ...]:
    """As `members`, for arguments that must be given."""
    if isinstance(given, str | bytes):
        raise TypeError(f"a list is needed, not {given!r}")
    return tuple(given)
