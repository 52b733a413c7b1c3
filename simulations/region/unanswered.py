"""What became of changes whose callers were never told: the nodes know.

A client that gives up must reckon with both for ever, and a checker that knows no more than clients do goes blind: one
lost answer to DisableKey, and one to EnableKey, and from then on no use of that key can be wrong. Here somebody looks
at what nodes apply. A change that no node ever applied was never made; one that is settled was made by then, since
whatever is settled is applied by every node that may serve.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from keycluster.cluster.keys.commands import CommandMalformed, Outcome, decode_payload
from keycluster.cluster.raft.messages import COMMAND, Entry
from keycluster.cluster.types import LogIndex
from keycluster.simulations.checkers.history import Call, History, Members, OutcomeKind, failed
from keycluster.simulations.checkers.partitions import MAY_BE_MADE

DOOR = "native/"
"""At the other one a request's id is made by the door."""
NEVER_MADE = "NeverMade"
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
        asked = Counter(call.request_id for call in self._history.calls)
        meant = {call.request_id: _meaning(call) for call in self._history.calls if call.is_ok}
        for call in self._history.calls:
            name = call.request_id or ""
            if call.kind is not OutcomeKind.UNKNOWN or call.operation not in MAY_BE_MADE or not name.startswith(DOOR):
                continue
            request_id = name.removeprefix(DOOR)
            if meant.get(name, _meaning(call)) != _meaning(call):
                call.outcome = failed(NEVER_MADE)  # The id is another change's, which its caller was told of.
            elif request_id in self._made:
                if call.operation not in OF_NO_KEY and request_id in self._settled:
                    call.made = self._settled[request_id]
            elif all_seen and not (request_id in self._refused and asked[name] > 1):
                # A refusal is remembered: a repeat was told how things stood when the first was applied.
                call.outcome = failed(NEVER_MADE)


def _meaning(call: Call) -> tuple[str, Members]:
    return call.operation, call.arguments
