"""A run as lanes of spans and moments, made from the records of its trace.

A *span* is a state that lasted (a node leads, is down; a call was open), a *moment* is what a record says and no span
does. Spans that are open at the end of the run end there.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.runs import SeedReport
from keycluster.simulations.trace import Detail, Record, What

BYTES_SHOWN = 8
_CALLS_NAMED = re.compile(r"\bcalls? #?(\d+)((?:(?:,| and|, and) #?\d+)*)", re.IGNORECASE)


class LaneKind(StrEnum):
    """In the order in which lanes are drawn."""

    NEMESIS = "nemesis"
    NETWORK = "network"
    NODE = "node"
    CLIENT = "client"


class SpanKind(StrEnum):
    UP = "up"
    DOWN = "down"
    PAUSED = "paused"
    LEADS = "leads"
    SERVES = "serves"
    CUT = "cut"
    FAULT = "fault"
    CALL = "call"


@dataclass(slots=True)
class Span:
    kind: SpanKind
    start_ns: int
    end_ns: int | None
    """None: still open."""
    text: str
    number: int | None = None
    """A leader's term, a call's number."""
    outcome: str = ""
    """Of a call: `ok`, `refused`, `failed`, `unknown`, or nothing if it never returned."""
    offends: bool = False


@dataclass(slots=True)
class Moment:
    at_ns: int
    what: str
    text: str


@dataclass(slots=True)
class Lane:
    name: str
    kind: LaneKind
    spans: list[Span] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    offends: bool = False


@dataclass(frozen=True, slots=True)
class Offence:
    at_ns: int
    checker: str
    message: str
    calls: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    report: SeedReport
    ends_ns: int
    lanes: list[Lane]
    offences: list[Offence]

    def of_kind(self, kind: LaneKind) -> list[Lane]:
        return [lane for lane in self.lanes if lane.kind is kind]


def seconds(at_ns: int) -> str:
    return f"{at_ns / SECOND:.4f} s"


def duration(ns: int) -> str:
    return f"{ns / SECOND:.2f} s" if ns >= SECOND else f"{ns / MILLISECOND:.0f} ms"


def in_words(detail: Iterable[Detail]) -> str:
    """Bytes are named by their beginning: they are hashes, ids, ciphertexts."""
    return " ".join(part[:BYTES_SHOWN].hex() if isinstance(part, bytes) else str(part) for part in detail)


def make_timeline(report: SeedReport, records: Sequence[Record]) -> Timeline:
    """All lanes in which something happened, and the run's offences: recorded ones, and the report's others."""
    ends_ns = max(report.simulated_ns, records[-1].at_ns if records else 0, 1)
    offences = _offences(report, records, ends_ns)
    drawing = _Drawing(frozenset(number for offence in offences for number in offence.calls))
    for record in records:
        drawing.add(record)
    drawing.end(ends_ns)
    order = list(LaneKind)
    lanes = [lane for lane in drawing.lanes.values() if lane.spans or lane.moments]
    lanes.sort(key=lambda lane: (order.index(lane.kind), _natural(lane.name)))
    return Timeline(report, ends_ns, lanes, offences)


def _natural(name: str) -> list[tuple[int, str]]:
    """n10 behind n9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _offences(report: SeedReport, records: Sequence[Record], ends_ns: int) -> list[Offence]:
    found = [_recorded(record) for record in records if record.what == What.OFFENCE]
    checkers = {failure.checker for failure in report.failures}
    found = [offence for offence in found if offence.message or offence.checker not in checkers]
    told = {(offence.checker, offence.message) for offence in found}
    for failure in report.failures:
        if (failure.checker, failure.message) not in told:
            at_ns = ends_ns if failure.at_ns is None else failure.at_ns
            found.append(Offence(at_ns, failure.checker, failure.message, _calls_in(failure.message)))
    return sorted(found, key=lambda offence: offence.at_ns)


def _recorded(record: Record) -> Offence:
    checker, message = (*(in_words([part]) for part in record.detail[:2]), "", "")[:2]
    calls = tuple(part for part in record.detail[2:] if isinstance(part, int))
    return Offence(record.at_ns, checker, message, calls or _calls_in(message))


def _calls_in(message: str) -> tuple[int, ...]:
    """Numbers that a message names as calls: `call 17`, `calls 3, 5 and 8`, `#4`."""
    texts = ["".join(match.groups()) for match in _CALLS_NAMED.finditer(message)]
    texts += re.findall(r"#\d+", message)
    return tuple(dict.fromkeys(int(number) for text in texts for number in re.findall(r"\d+", text)))


class _Drawing:
    """Takes records one by one."""

    def __init__(self, offending: frozenset[int]) -> None:
        self.lanes: dict[str, Lane] = {}
        self._offending = offending
        self._open: dict[tuple[str, SpanKind], Span] = {}
        self._calls: dict[tuple[str, int], Span] = {}
        self._cuts: dict[str, list[Span]] = {}

    def add(self, record: Record) -> None:
        lane = self._lane(record)
        draw = _DRAWN_BY.get(record.what)
        if draw is None:
            lane.moments.append(Moment(record.at_ns, record.what, in_words(record.detail)))
        else:
            draw(self, lane, record)

    def end(self, at_ns: int) -> None:
        """What is open lasts to the end."""
        for lane in self.lanes.values():
            for span in lane.spans:
                span.end_ns = at_ns if span.end_ns is None else span.end_ns
                lane.offends |= span.offends

    def _lane(self, record: Record) -> Lane:
        lane = self.lanes.get(record.lane)
        if lane is None:
            kind = LaneKind.NODE
            if record.lane in (LaneKind.NEMESIS, LaneKind.NETWORK):
                kind = LaneKind(record.lane)
            elif record.what in (What.CALL, What.RETURNS):
                kind = LaneKind.CLIENT
            lane = self.lanes[record.lane] = Lane(record.lane, kind)
        return lane

    def _begin(self, lane: Lane, kind: SpanKind, at_ns: int, text: str, *, number: int | None = None) -> None:
        span = Span(kind, at_ns, None, text, number)
        lane.spans.append(span)
        self._open[lane.name, kind] = span

    def _close(self, lane: Lane, kind: SpanKind, at_ns: int) -> None:
        span = self._open.pop((lane.name, kind), None)
        if span is not None:
            span.end_ns = at_ns

    def _live(self, lane: Lane, record: Record) -> None:
        """A process ends, and with it all that it was; what it was through a pause, it is not told."""
        at_ns, what = record.at_ns, record.what
        self._close(lane, SpanKind.PAUSED, at_ns)
        if what == What.PAUSES:
            self._begin(lane, SpanKind.PAUSED, at_ns, "paused")
        elif what != What.RESUMES:
            for kind in (SpanKind.UP, SpanKind.DOWN, SpanKind.LEADS, SpanKind.SERVES):
                self._close(lane, kind, at_ns)
            words = " ".join(filter(None, [what, in_words(record.detail)]))
            self._begin(lane, SpanKind.UP if what == What.STARTS else SpanKind.DOWN, at_ns, words)

    def _leads(self, lane: Lane, record: Record) -> None:
        self._close(lane, SpanKind.LEADS, record.at_ns)
        term = next((part for part in record.detail if isinstance(part, int)), None)
        self._begin(lane, SpanKind.LEADS, record.at_ns, f"leads in term {term}", number=term)

    def _follows(self, lane: Lane, record: Record) -> None:
        self._close(lane, SpanKind.LEADS, record.at_ns)

    def _serves(self, lane: Lane, record: Record) -> None:
        if (lane.name, SpanKind.SERVES) not in self._open:
            self._begin(lane, SpanKind.SERVES, record.at_ns, "serves")

    def _serves_not(self, lane: Lane, record: Record) -> None:
        self._close(lane, SpanKind.SERVES, record.at_ns)

    def _offends(self, lane: Lane, record: Record) -> None:
        """What was found is told apart from the lanes."""
        lane.offends = True

    def _cut(self, lane: Lane, record: Record) -> None:
        span = Span(SpanKind.CUT, record.at_ns, None, in_words(record.detail))
        lane.spans.append(span)
        self._cuts.setdefault(span.text, []).append(span)

    def _heal(self, lane: Lane, record: Record) -> None:
        """The links it names, or all if it names none that are cut."""
        text = in_words(record.detail)
        healed = [text] if text in self._cuts else list(self._cuts)
        for name in healed:
            for span in self._cuts.pop(name):
                span.end_ns = record.at_ns

    def _fault(self, lane: Lane, record: Record) -> None:
        """Its last detail is how long it lasts, if that is a number."""
        *words, last = record.detail or ("",)
        if not isinstance(last, int) or isinstance(last, bool):
            words, last = [*words, last], 0
        lasts = max(last, 0)
        text = f"{in_words(words)} for {duration(lasts)}" if lasts else in_words(words)
        lane.spans.append(Span(SpanKind.FAULT, record.at_ns, record.at_ns + lasts, text))

    def _call(self, lane: Lane, record: Record) -> None:
        number = record.detail[0] if record.detail and isinstance(record.detail[0], int) else None
        span = Span(SpanKind.CALL, record.at_ns, None, in_words(record.detail[1:]), number)
        span.offends = number is not None and number in self._offending
        lane.spans.append(span)
        if number is not None:
            self._calls[lane.name, number] = span

    def _return(self, lane: Lane, record: Record) -> None:
        number = record.detail[0] if record.detail and isinstance(record.detail[0], int) else None
        span = None if number is None else self._calls.pop((lane.name, number), None)
        if span is not None:
            said = in_words(record.detail[1:])
            span.end_ns, span.outcome = record.at_ns, said.partition(" ")[0].partition("(")[0].partition(":")[0]
            span.text = f"{span.text} → {said}"


_DRAWN_BY: dict[str, Callable[[_Drawing, Lane, Record], None]] = {
    What.STARTS: _Drawing._live,
    What.CRASHES: _Drawing._live,
    What.STOPS: _Drawing._live,
    What.PAUSES: _Drawing._live,
    What.RESUMES: _Drawing._live,
    What.LEADS: _Drawing._leads,
    What.FOLLOWS: _Drawing._follows,
    What.SERVES: _Drawing._serves,
    What.SERVES_NOT: _Drawing._serves_not,
    What.CUT: _Drawing._cut,
    What.HEALED: _Drawing._heal,
    What.FAULT: _Drawing._fault,
    What.CALL: _Drawing._call,
    What.RETURNS: _Drawing._return,
    What.OFFENCE: _Drawing._offends,
}
"""Any other record is a moment in its lane."""
