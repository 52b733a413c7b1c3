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


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What one request came to: `response` or `error` is set, never both."""

    number: int
    """The request's, as its door counts."""
    operation: str
    """As asked for: perhaps none that exists. Empty where the request couldn't even be read."""
    caller: Caller | None
    """None where nobody was recognised."""
    response: msgspec.Struct | None
    error: KmsError | None


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
