"""A run for a terminal: time goes down, a column for each node, what the nemesis does before them, the calls behind.

Only what changes who may do what gets a row; calls are counted, but for those that a checker names. Kinds of records
that a simulator adds for itself are shown where they are few. Of a long run what stands around the first finding is
kept, and its beginning.
"""

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from keycluster.cluster.types import SECOND
from keycluster.simulations.timeline.model import Lane, LaneKind, Span, SpanKind, Timeline, duration, seconds
from keycluster.simulations.trace import What

WIDTH = 132
SIDE_WIDTH = 26  # Of the nemesis' column, and of the clients'.
CELL_MAX = 60  # Letters of one record.
NODE_WIDTH_MIN, NODE_WIDTH_MAX = 12, 16
ROWS_MAX = 400
ROWS_AT_START = 60
ROWS_BEFORE, ROWS_AFTER = 260, 60  # The first finding.
FEW = 30  # Records of one kind that are still worth rows of their own,
QUIET = {What.APPLIES, What.SETTLED, "info"}  # but never these: they only say that all is well.

OUTCOMES = ("ok", "refused", "failed", "unknown")  # In the order in which they are told.

LEGEND = "█ leads and serves   ▓ leads   ┃ serves   │ up   ‖ paused   · down"
_GLYPHS = {
    frozenset({SpanKind.LEADS, SpanKind.SERVES}): "█",
    frozenset({SpanKind.LEADS}): "▓",
    frozenset({SpanKind.SERVES}): "┃",
}
_BEGINS = {SpanKind.LEADS: "leads t{0.number}", SpanKind.SERVES: "serves", SpanKind.PAUSED: "paused"}
_ENDS = {SpanKind.LEADS: "follows", SpanKind.SERVES: "serves not", SpanKind.PAUSED: "resumes"}


@dataclass(slots=True)
class _Event:
    """Something for a cell, or for a whole row (no column)."""

    at_ns: int
    column: str | None
    text: str
    lane: Lane | None = None
    kind: SpanKind | None = None
    begins: bool = True


@dataclass(slots=True)
class _Row:
    at_ns: int
    cells: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    whole: str | None = None


def draw_text(timeline: Timeline) -> str:
    """The whole page."""
    nodes = timeline.of_kind(LaneKind.NODE)
    room = (WIDTH - 12 - 2 * SIDE_WIDTH) // max(1, len(nodes))
    width = max(NODE_WIDTH_MIN, min(NODE_WIDTH_MAX, room))
    rows = _rows(timeline, nodes)
    lines = [*_heading(timeline), "", LEGEND, ""]
    header = "".join(f"{lane.name[: width - 1]:{width}}" for lane in nodes)
    lines.append(f"{'time':>10}  {'faults':{SIDE_WIDTH}}{header}calls".rstrip())
    lines += _lines(rows, nodes, width)
    return "\n".join(lines) + "\n"


def _heading(timeline: Timeline) -> list[str]:
    report, spec = timeline.report, timeline.report.drawn or timeline.report.spec
    shape = [
        f"{value:g} {name.removesuffix('s') if value == 1 else name}"
        for name, value in (("nodes", spec.nodes), ("clients", spec.clients), ("operations/s", spec.operations_per_s))
        if value is not None
    ]
    shape.append(f"{spec.time_ns / SECOND:g} s with faults")
    faults = "" if spec.faults is None else f", {len(spec.faults)} faults"
    lines = [
        f"{spec.simulator.value} seed {spec.seed}: {', '.join(shape)}{faults}",
        f"trace {report.trace_sha256 or 'of a run without an end'}",
    ]
    for offence in timeline.offences:
        text = f"✗ {offence.checker} at {seconds(offence.at_ns)}: {offence.message}"
        for number, line in enumerate(text.splitlines()):
            lines += textwrap.wrap(line, WIDTH, initial_indent="" if number == 0 else "  ", subsequent_indent="    ")
    return lines if timeline.offences else [*lines, "nothing found"]


def _events(timeline: Timeline, nodes: list[Lane]) -> list[_Event]:
    events: list[_Event] = []
    kinds = Counter(moment.what for lane in timeline.lanes for moment in lane.moments)
    for lane in timeline.lanes:
        column = lane.name if lane in nodes else ("calls" if lane.kind is LaneKind.CLIENT else "faults")
        turns = {span.start_ns for span in lane.spans if span.kind in (SpanKind.UP, SpanKind.DOWN)}
        for span in lane.spans:
            events += _of_span(lane, column, span)
            if span.kind in _ENDS and span.end_ns in turns:
                events[-1].text = ""  # That the process has ended says it.
        for moment in lane.moments:
            if kinds[moment.what] <= FEW and moment.what not in QUIET:
                events.append(_Event(moment.at_ns, column, _cut(f"{moment.what} {moment.text}".strip()), lane))
    for offence in timeline.offences:
        events.append(_Event(offence.at_ns, None, f"✗ {offence.checker}: {offence.message.partition(chr(10))[0]}"))
    return sorted(events, key=lambda event: event.at_ns)


def _of_span(lane: Lane, column: str, span: Span) -> Iterator[_Event]:
    end_ns = span.start_ns if span.end_ns is None else span.end_ns
    match span.kind:
        case SpanKind.CALL if span.offends:
            text = f"{lane.name} #{span.number} {span.text}"
            yield _Event(span.start_ns, None, f"→ {text.partition(' → ')[0]}")
            yield _Event(end_ns, None, f"← {text} after {duration(end_ns - span.start_ns)}")
        case SpanKind.CALL:
            yield _Event(end_ns, column, span.outcome or "open", lane, span.kind)
        case SpanKind.FAULT:
            yield _Event(span.start_ns, column, span.text, lane, span.kind)
        case SpanKind.CUT:
            yield _Event(span.start_ns, column, f"cut {span.text}", lane, span.kind)
            yield _Event(end_ns, column, f"healed {span.text}", lane, span.kind, begins=False)
        case _:
            yield _Event(span.start_ns, column, _cut(_BEGINS.get(span.kind, "{0.text}").format(span)), lane, span.kind)
            yield _Event(end_ns, column, _ENDS.get(span.kind, ""), lane, span.kind, begins=False)


def _cut(text: str) -> str:
    """A cell is narrow; the page has the whole."""
    return text if len(text) <= CELL_MAX else f"{text[: CELL_MAX - 1]}…"


def _rows(timeline: Timeline, nodes: list[Lane]) -> list[_Row]:
    """Events of one moment share a row where their columns are free."""
    rows: list[_Row] = []
    states: dict[str, set[SpanKind]] = {lane.name: set() for lane in nodes}
    calls: Counter[str] = Counter()
    for event in _events(timeline, nodes):
        if event.kind is SpanKind.CALL and event.column is not None:
            calls[event.text] += 1
            continue
        if not event.begins and event.at_ns >= timeline.ends_ns:
            continue  # It is only the run that ends.
        if event.column in states and event.kind is not None:
            (states[event.column].add if event.begins else states[event.column].discard)(event.kind)
        if not event.text:
            continue
        row = rows[-1] if rows else None
        if row is None or row.at_ns != event.at_ns or row.whole or event.column is None:
            row = _Row(event.at_ns)
            rows.append(row)
            if calls and event.column is not None:
                row.cells["calls"] = _counted(calls)
        row.states = {name: _glyph(kinds) for name, kinds in states.items()}
        if event.column is None:
            row.whole = event.text
        else:
            row.cells[event.column] = ", ".join(filter(None, [row.cells.get(event.column), event.text]))
    if calls:
        rows.append(_Row(timeline.ends_ns, {"calls": _counted(calls)}, rows[-1].states if rows else {}))
    return rows


def _counted(calls: Counter[str]) -> str:
    """Those since the row before; then they are counted anew."""
    outcomes = [outcome for outcome in OUTCOMES if calls[outcome]] + sorted(calls.keys() - set(OUTCOMES))
    text = ", ".join(f"{calls[outcome]} {outcome}" for outcome in outcomes)
    calls.clear()
    return text


def _glyph(kinds: set[SpanKind]) -> str:
    if SpanKind.DOWN in kinds:
        return "·"
    if SpanKind.PAUSED in kinds:
        return "‖"
    return _GLYPHS.get(frozenset(kinds & {SpanKind.LEADS, SpanKind.SERVES}), "│" if SpanKind.UP in kinds else " ")


def _lines(rows: list[_Row], nodes: list[Lane], width: int) -> Iterator[str]:
    kept = _kept(rows)
    last = -1
    for place in kept:
        if place != last + 1:
            yield f"{'⋮':>10}  {place - last - 1} rows left out"
        last = place
        yield from _line(rows[place], nodes, width)


def _kept(rows: list[_Row]) -> list[int]:
    if len(rows) <= ROWS_MAX:
        return list(range(len(rows)))
    found = next((place for place, row in enumerate(rows) if row.whole and row.whole.startswith("✗")), len(rows) - 1)
    return [p for p in range(len(rows)) if p < ROWS_AT_START or found - ROWS_BEFORE <= p <= found + ROWS_AFTER]


def _line(row: _Row, nodes: list[Lane], width: int) -> Iterator[str]:
    at = f"{row.at_ns / SECOND:10.4f}  "
    if row.whole is not None:
        yield from textwrap.wrap(row.whole, WIDTH, initial_indent=at, subsequent_indent=" " * 14)
        return
    faults = textwrap.wrap(row.cells.get("faults", ""), SIDE_WIDTH - 2) or [""]
    calls = [row.cells.get("calls", "")]
    texts = [textwrap.wrap(row.cells.get(lane.name, ""), width - 3) or [""] for lane in nodes]
    for depth in range(max(map(len, [faults, calls, *texts]))):
        cells = (
            f"{row.states.get(lane.name, ' ')} {text[depth] if depth < len(text) else '':{width - 2}}"
            for lane, text in zip(nodes, texts, strict=True)
        )
        fault, call = (side[depth] if depth < len(side) else "" for side in (faults, calls))
        yield f"{at if depth == 0 else ' ' * 12}{fault:{SIDE_WIDTH}}{''.join(cells)}{call}".rstrip()
