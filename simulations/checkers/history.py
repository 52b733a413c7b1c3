"""Who asked what, when, and what came of it: the record that every checker reads.

Members are named as AWS names them, in what was asked and in what was answered, with bytes as bytes, whichever door
the call went through: `plain` makes both of a request or response.

Order is taken from the record itself, not from its times: `began` and `ended` count the events of the history, since
under a virtual clock an answer and the next question have the same nanosecond. Who records calls `begin` before the
request can have left, and `end` once the answer is there, with nothing in between.

What is in doubt is always *unknown*: an outcome that says more than is known would blame the product for it.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self, TypeAlias

import msgspec

from keycluster.client.errors import NodeNotTrusted, NodesUnreachable, RequestTooLarge
from keycluster.cluster.wire.errors import KmsError
from keycluster.cluster.wire.operations import Shape

Members: TypeAlias = dict[str, Any]
"""A request's or response's members, by AWS's names: text, numbers, bytes, lists and further such dictionaries."""

REGISTER: Final = "register"
"""The key of calls on the core simulator's one register."""

NEVER: Final = 2**62
"""The end of a call that has none, as an event number: after all others."""

NOT_MADE: Final = -1
"""As `Call.made`: no node ever made it."""

_BYTES: Final = "base64"


class OutcomeKind(StrEnum):
    OK = "ok"
    REFUSED = "refused"  # An answer that says no, and why: it depends on the state, and had no effect.
    UNKNOWN = "unknown"  # Deadline passed, connection lost: may take effect at any time from its beginning, for ever.
    FAILED = "failed"  # Certainly without effect, and it says nothing of the state: try again.


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller was told, or not."""

    kind: OutcomeKind
    value: Any = None
    """Of OK: the response's members."""
    code: str = ""
    """Of REFUSED and FAILED: AWS's name of the error; of UNKNOWN: why, for the reader."""


def ok(value: Any = None) -> Outcome:
    return Outcome(OutcomeKind.OK, value=value)


def refused(code: str) -> Outcome:
    return Outcome(OutcomeKind.REFUSED, code=code)


def unknown(why: str = "") -> Outcome:
    return Outcome(OutcomeKind.UNKNOWN, code=why)


def failed(code: str = "") -> Outcome:
    return Outcome(OutcomeKind.FAILED, code=code)


def outcome_of(error: Exception) -> Outcome:
    """Of what a call raised: a node's refusal, or what the client itself found."""
    if isinstance(error, KmsError):
        if error.retryable:
            return unknown(error.code) if error.may_be_made else failed(error.code)
        return refused(error.code)
    if isinstance(error, NodesUnreachable | NodeNotTrusted | RequestTooLarge):
        return failed(type(error).__name__)
    return unknown(type(error).__name__)


def plain(shape: Shape) -> Members:
    """A request or response as it stands in a history."""
    members: Members = msgspec.to_builtins(shape, builtin_types=(bytes,))
    return members


@dataclass(slots=True, eq=False)
class Call:
    """One question and its answer, if it had one."""

    number: int
    """From 0, in the order in which calls began."""
    client: str
    operation: str
    key: str | None
    """What it is about, which partitions a history: a key's id (no ARN), an alias' name with `alias/`, or `REGISTER`.

    None for what is about no one key, and for CreateKey until its answer names the key.
    """
    arguments: Members
    """The request's members."""
    invoked_ns: int
    began: int
    """The number of this event in the history."""
    request_id: str | None = None
    """By which the region makes a change once; calls with the same one are repeats."""
    returned_ns: int | None = None
    """None: still without an answer when the history ended."""
    ended: int = NEVER
    outcome: Outcome | None = None
    made: int = NEVER
    """Of a change whose outcome its caller never learnt: the event by which every node acted on it, or `NOT_MADE`, if
    somebody who sees the nodes knows what became of it."""
    place: int = NEVER
    """Of a change: where it stands among all, if somebody who sees the nodes knows. A search tries them in that order
    first; it is believed nowhere."""
    node: str | None = None
    """Who answered, where that is known."""
    access_key_id: str | None = None
    """By which the caller proved who they are; None: by one that nobody deactivates in this run."""

    @property
    def kind(self) -> OutcomeKind:
        """A call without an answer may yet take effect."""
        return OutcomeKind.UNKNOWN if self.outcome is None else self.outcome.kind

    @property
    def is_ok(self) -> bool:
        return self.outcome is not None and self.outcome.kind is OutcomeKind.OK

    @property
    def value(self) -> Any:
        """The response's members; None if there was none."""
        return None if self.outcome is None else self.outcome.value

    @property
    def code(self) -> str:
        return "" if self.outcome is None else self.outcome.code

    def describe(self) -> str:
        """On one line, for reports: what was said, without plaintexts."""
        answer = "no answer" if self.outcome is None else " ".join(filter(None, (self.kind.value, self.code)))
        about = "" if self.key is None else f" {self.key}"
        at = "" if self.node is None else f" at {self.node}"
        end = "…" if self.returned_ns is None else f"{self.returned_ns / 1e9:.6f}"
        return (
            f"#{self.number} {self.client} {self.operation}{about}{at} [{self.invoked_ns / 1e9:.6f}, {end}]: {answer}"
        )

    def to_json(self) -> dict[str, Any]:
        outcome = self.outcome
        return {
            "number": self.number,
            "client": self.client,
            "operation": self.operation,
            "key": self.key,
            "arguments": _to_json(self.arguments),
            "invoked_ns": self.invoked_ns,
            "began": self.began,
            "request_id": self.request_id,
            "returned_ns": self.returned_ns,
            "ended": None if self.ended == NEVER else self.ended,
            "outcome": None
            if outcome is None
            else {"kind": outcome.kind.value, "value": _to_json(outcome.value), "code": outcome.code},
            "made": None if self.made == NEVER else self.made,
            "node": self.node,
            "access_key_id": self.access_key_id,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        outcome = value["outcome"]
        return cls(
            **{
                **value,
                "arguments": _from_json(value["arguments"]),
                "ended": NEVER if value["ended"] is None else value["ended"],
                "made": NEVER if value.get("made") is None else value["made"],
                "outcome": None
                if outcome is None
                else Outcome(OutcomeKind(outcome["kind"]), _from_json(outcome["value"]), outcome["code"]),
            }
        )


@dataclass(slots=True)
class History:
    """All calls of a run, in the order in which they began."""

    calls: list[Call] = field(default_factory=list)
    events: int = 0

    def begin(
        self,
        now_ns: int,
        client: str,
        operation: str,
        key: str | None,
        arguments: Members,
        *,
        request_id: str | None = None,
        access_key_id: str | None = None,
    ) -> Call:
        """Before anything of the request can have been sent. `now_ns` is the run's clock."""
        number, began = len(self.calls), self.events
        call = Call(number, client, operation, key, arguments, now_ns, began, request_id, access_key_id=access_key_id)
        self.events += 1
        self.calls.append(call)
        return call

    def end(
        self, call: Call, now_ns: int, outcome: Outcome, node: str | None = None, *, key: str | None = None
    ) -> None:
        """`key`: what the call turned out to be about, as CreateKey's answer says it."""
        call.returned_ns = now_ns
        call.ended = self.events
        self.events += 1
        call.outcome = outcome
        call.node = node
        if key is not None:
            call.key = key

    def by_key(self) -> dict[str, list[Call]]:
        """The calls on each key, in order; those about no one key are left out."""
        found: dict[str, list[Call]] = {}
        for call in self.calls:
            if call.key is not None:
                found.setdefault(call.key, []).append(call)
        return found

    def counts(self) -> Counter[str]:
        """By operation and outcome: `Encrypt ok`, `Encrypt refused DisabledException`, `CreateKey unknown`."""
        return Counter(
            f"{call.operation} {call.kind.value}" + (f" {call.code}" if call.kind is OutcomeKind.REFUSED else "")
            for call in self.calls
        )

    def to_json_lines(self) -> Iterable[str]:
        """A line for each call; `from_json_lines` reads them."""
        return (json.dumps(call.to_json()) for call in self.calls)

    @classmethod
    def from_json_lines(cls, lines: Iterable[str]) -> Self:
        """Raises `ValueError`, `KeyError` or `TypeError` for what isn't one."""
        calls = [Call.from_json(json.loads(line)) for line in lines if line.strip()]
        numbers = [call.began for call in calls] + [call.ended for call in calls if call.ended != NEVER]
        return cls(calls, max(numbers, default=-1) + 1)


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(name): _to_json(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(member) for member in value]
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_BYTES}:
            return base64.b64decode(value[_BYTES])
        return {name: _from_json(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_from_json(member) for member in value]
    return value
