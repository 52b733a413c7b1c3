"""What happened in a run, in order: hashed always, kept only when somebody will read it.

The hash decides whether two runs were the same. A time line (`timeline.py`) is drawn from the records of a run that is
repeated with `keep`: keeping changes nothing else.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

Detail = int | str | bytes | float | bool | None

BATCH = 2_048  # Records hashed at once: a call for each costs more than the rest of it.


def _header_bytes(count: int) -> int:
    """Of a msgpack array of so many, below 65,536: fixarray or array 16."""
    return 1 if count < 16 else 3


class What:
    """Kinds of records that a time line draws in a way of their own; any other is text in its lane."""

    LEADS: Final = "leads"  # From now on this node leads; detail: term.
    FOLLOWS: Final = "follows"  # It leads no more.
    SERVES: Final = "serves"  # Its lease began; detail: nothing.
    SERVES_NOT: Final = "serves-not"
    STARTS: Final = "starts"
    CRASHES: Final = "crashes"
    STOPS: Final = "stops"  # Ended in order, or by itself; detail: why.
    PAUSES: Final = "pauses"
    RESUMES: Final = "resumes"
    CUT: Final = "cut"  # Lane "network"; detail: a description of the links.
    HEALED: Final = "healed"
    FAULT: Final = "fault"  # Lane "nemesis"; detail: kind, whom, for how long.
    CALL: Final = "call"  # Lane: a client; detail: call number, operation, key.
    RETURNS: Final = "returns"  # detail: call number, outcome, node.
    APPLIES: Final = "applies"  # detail: index.
    SETTLED: Final = "settled"  # detail: index.
    OFFENCE: Final = "offence"  # A finding; detail: checker, message, then the numbers of the calls it is about.


@dataclass(frozen=True, slots=True)
class Record:
    at_ns: int
    lane: str
    what: str
    detail: tuple[Detail, ...]


class Trace:
    def __init__(self, *, keep: bool = False) -> None:
        self.count = 0
        self._keeps = keep
        self._kept: list[Record] = []
        self._batch: list[tuple[int, str, str, tuple[Detail, ...]]] = []
        self._hash = hashlib.sha256()
        self._encode = msgspec.msgpack.Encoder().encode

    def note(self, at_ns: int, lane: str, what: str, *detail: Detail) -> None:
        """`at_ns` is the run's own clock; a lane is a node, a client, "network" or "nemesis"."""
        self._batch.append((at_ns, lane, what, detail))
        if len(self._batch) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        self.count += len(self._batch)
        encoded = self._encode(self._batch)
        # Without the list's own header: where one batch ends and the next begins decides nothing.
        self._hash.update(encoded[_header_bytes(len(self._batch)) :])
        if self._keeps:
            self._kept += [Record(*record) for record in self._batch]
        self._batch.clear()

    def sha256(self) -> str:
        """Of all records so far, in hexadecimal."""
        self._flush()
        return self._hash.copy().hexdigest()

    def records(self) -> list[Record]:
        """Those kept: all or none."""
        self._flush()
        return self._kept
