"""What became of changes whose callers were never told: the nodes know.

A client that gives up must reckon with both for ever, and a checker that knows no more than clients do goes blind: one
lost answer to DisableKey, and one to EnableKey, and from then on no use of that key can be wrong. Here somebody looks
at what nodes apply. A change that no node ever applied was never made; one that is settled was made by then, since
whatever is settled is applied by every node that may serve.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from keycluster.cluster.keys.commands import CommandMalformed, Outcome, decode_payload
from keycluster.cluster.raft.messages import COMMAND, Entry
from keycluster.cluster.types import LogIndex
from keycluster.node.doors.aws import request_id_of
from keycluster.node.operations.table import OPERATIONS
from keycluster.simulations.checkers.history import NEVER, NOT_MADE, Call, History, OutcomeKind
from keycluster.simulations.checkers.partitions import MAY_BE_MADE, is_refused_for_caller
from keycluster.simulations.workload.aws_door import AwsDoor

OF_NO_KEY = frozenset({"CreateKey", "CreateAccessKey"})
"""What they made is named by their answer only."""


class Unanswered:
    """One run's."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._seen: set[LogIndex] = set()
        self._made: dict[str, LogIndex] = {}  # By request id: the entry that made it.
        self._refused: set[str] = set()  # Request ids: an entry was applied, and made nothing.
        self._unsettled: dict[LogIndex, str] = {}
        self._settled: dict[str, int] = {}  # By request id: the history's event.

    def moved(self, entries: Sequence[Entry], outcomes: Iterable[Outcome | None]) -> None:
        """A node has applied them."""
        for entry, outcome in zip(entries, outcomes, strict=True):
            if entry.index in self._seen:
                continue
            self._seen.add(entry.index)
            if entry.kind is COMMAND and outcome is not None:
                self._note(entry, outcome)

    def _note(self, entry: Entry, outcome: Outcome) -> None:
        try:
            request_id = decode_payload(entry.payload).command.request_id.hex()
        except CommandMalformed:
            return
        if outcome.error_code is not None:
            self._refused.add(request_id)
        elif self._made.setdefault(request_id, entry.index) == entry.index:
            self._unsettled[entry.index] = request_id

    def settled(self, index: LogIndex) -> None:
        """Every node that may serve has applied up to here."""
        for made in [made for made in self._unsettled if made <= index]:
            self._settled.setdefault(self._unsettled.pop(made), self._history.events)

    def resolve(self) -> None:
        """At the end, when nothing is under way any more: says in the history what is known by now."""
        # An entry that only a node saw that crashed in the same instant: then nothing is known of any.
        all_seen = not self._seen or len(self._seen) == max(self._seen) - min(self._seen) + 1
        asked: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self._history.calls:
            if call.request_id is not None:
                asked[_id_in_region(call.request_id, call)].append(call)
        for request_id, repeats in asked.items():
            for call in repeats:
                call.place = self._made.get(request_id, NEVER)
                is_in_doubt = call.kind is OutcomeKind.UNKNOWN or is_refused_for_caller(call)
                if is_in_doubt and call.operation in MAY_BE_MADE:
                    self._resolve(call, request_id, repeats, all_seen=all_seen)

    def _resolve(self, call: Call, request_id: str, repeats: Sequence[Call], *, all_seen: bool) -> None:
        others = [other for other in repeats if not _is_same(other, call)]
        if any(other.is_ok for other in others):
            call.made = NOT_MADE  # The id is another change's, which its caller was told of.
        elif others:
            return  # Whose entry it was isn't known.
        elif request_id in self._made:
            if call.operation not in OF_NO_KEY and request_id in self._settled:
                call.made = self._settled[request_id]
        elif all_seen and not (request_id in self._refused and len(repeats) > 1):
            # A refusal is remembered: a repeat was told how things stood when the first was applied.
            call.made = NOT_MADE


def _is_same(call: Call, other: Call) -> bool:
    return (call.operation, call.arguments) == (other.operation, other.arguments)


def _id_in_region(name: str, call: Call) -> str:
    """The AWS door makes one of what was asked and the SDK's id."""
    door, _, request_id = name.partition("/")
    if door != AwsDoor.kind:
        return request_id
    request = msgspec.convert(call.arguments, OPERATIONS[call.operation].request_type, builtin_types=(bytes,))
    return request_id_of(call.operation, msgspec.json.encode(request), request_id.encode()).hex()
