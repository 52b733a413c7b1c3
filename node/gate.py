"""The one way out of a node: every answer of both doors passes here before it is sent (design.md, contract 6).

Answers of one read pass together. A door can encode only what the gate has released, and mypy holds it to that: this is
the place where an answer waits until its audit record is durable. There is no audit yet, so today the gate counts.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NewType

import msgspec

from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.wire.errors import KmsError


class Answer(msgspec.Struct, frozen=True):
    """What one request came to: `response` or `error` is set, never both.

    Never made invisible to the garbage collector (`gc=False`): an error may lead back to what holds the answer.
    """

    number: int
    """The request's, as its door counts."""
    operation: str
    """As asked for: perhaps none that exists. Empty where the request couldn't even be read."""
    caller: Caller | None
    """None where nobody was recognised."""
    response: msgspec.Struct | None
    error: KmsError | None


def without_trace(error: KmsError) -> KmsError:
    """An error on its way out, without where it came from.

    A traceback holds the frames that it passed and all that they worked on: the request, and the list that this very
    answer stands in. Such a circle stays in memory until the garbage collector comes by; a client that sends large
    requests to be refused would fill it faster than that.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


Released = NewType("Released", Sequence[Answer])
"""Answers that may leave the node now."""


class Gate:
    """One node's, shared by its doors."""

    def __init__(self) -> None:
        self.passed = 0
        self.refusals: Counter[str] = Counter()
        """By error code. The codes are ours, so there are few."""

    async def pass_out(self, answers: Sequence[Answer]) -> Released:
        """Returns when all of `answers` may leave, together."""
        self.passed += len(answers)
        for answer in answers:
            if answer.error is not None:
                self.refusals[answer.error.code] += 1
        return Released(answers)
