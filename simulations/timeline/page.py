"""A run as one HTML file that needs nothing else: lanes of spans over time, to be zoomed, with details under the mouse.

Places are percentages of the run's time, so zooming only makes the drawing wider; it is whole without JavaScript too.
A long run has far more spans than a screen has points: those of one kind that would be closer together than a point are
drawn as one and counted, at a resolution that keeps the file small. What a checker names is never merged.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.timeline.model import Lane, LaneKind, Span, SpanKind, Timeline, duration, seconds
from keycluster.simulations.timeline.page_parts import BODY_END, BODY_START, SCRIPT, STYLE

ELEMENTS_MAX = 8_000
POINTS = 16_000  # Of time's axis, to begin with: sixteen screens.
POINTS_MIN = 250
NEAR_PART = 60  # Of the run's time, before and after a finding: there
NEAR_FINER = 64  # the resolution is so much finer.
NEAR_FINDINGS = 3
LETTER_PART = 220  # Of time's axis: so many letters fit side by side on a screen.
CLIENT_LANES_MAX = 24  # Others have their calls in one lane.
SUB_ROWS_MAX = {LaneKind.NEMESIS: 10, LaneKind.NETWORK: 10, LaneKind.CLIENT: 4}
CUTTING = {FaultKind.PARTITION, FaultKind.ONE_WAY, FaultKind.PARTIAL, FaultKind.CLOG, FaultKind.AZ_LOSS}
TITLES_MAX = 8  # Of merged spans, in their details.
TERM_COLOURS = 8
TICKS = 12

HEAD_HEIGHT = 24
NODE_HEIGHT = 44
ROW_HEIGHT = 14
LANE_GAP = 6


@dataclass(slots=True)
class _Mark:
    """A rectangle to be drawn."""

    css: str
    start_ns: int
    end_ns: int
    top: int
    height: int
    title: str
    label: str = ""
    stays: bool = False
    """Never merged with others."""
    count: int = 1
    titles: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Band:
    """A lane, as it is drawn."""

    name: str
    css: str
    top: int
    height: int
    marks: list[_Mark]


def draw_page(timeline: Timeline) -> str:
    """The whole file."""
    bands, height = _bands(timeline)
    points = POINTS
    near = _near(timeline)
    thinned = [_thinned(band.marks, timeline.ends_ns // points, near) for band in bands]
    while sum(map(len, thinned)) > ELEMENTS_MAX and points > POINTS_MIN:
        points //= 2
        thinned = [_thinned(band.marks, timeline.ends_ns // points, near) for band in bands]
    names = "".join(
        f'<div class="name {band.css}" style="top:{band.top}px;height:{band.height}px">{escape(band.name)}</div>'
        for band in bands
    )
    drawing = "".join(_svg(timeline, bands, thinned, height))
    spec = timeline.report.drawn or timeline.report.spec
    title = f"{spec.simulator.value} seed {spec.seed}"
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    body = BODY_START.format(title=title, facts=escape(_facts(timeline)), offences="".join(_offence_list(timeline)))
    lanes = (
        f'<div id="lanes"><div id="names" style="height:{height}px">{names}</div><div id="scroll">{drawing}</div></div>'
    )
    return f"{head}<style>{STYLE}</style></head><body>{body}{lanes}{BODY_END}<script>{SCRIPT}</script></body></html>\n"


def _facts(timeline: Timeline) -> str:
    report, spec = timeline.report, timeline.report.drawn or timeline.report.spec
    facts = [f"{timeline.ends_ns / SECOND:.2f} s simulated", f"{report.events:,} events"]
    if spec.faults is not None:
        facts.append(f"{len(spec.faults)} faults")
    facts += [f"{kind} {count}" for kind, count in sorted(report.faults.items())]
    return " · ".join([*facts, f"trace {report.trace_sha256[:16] or 'none'}"])


def _offence_list(timeline: Timeline) -> Iterator[str]:
    for offence in timeline.offences:
        place = offence.at_ns / timeline.ends_ns
        yield (
            f'<li><button data-at="{place:.6f}">{escape(offence.checker)} at {seconds(offence.at_ns)}</button> '
            f"{escape(offence.message)}</li>"
        )
    if not timeline.offences:
        yield '<li class="none">Nothing was found in this run.</li>'


# Lanes to bands of marks


def _bands(timeline: Timeline) -> tuple[list[_Band], int]:
    bands: list[_Band] = []
    top = HEAD_HEIGHT
    for lane in _with_few_clients(timeline.lanes):
        marks, height = _node_marks(lane, top) if lane.kind is LaneKind.NODE else _packed_marks(lane, top)
        css = f"{lane.kind.value} offends" if lane.offends else lane.kind.value
        bands.append(_Band(lane.name, css, top, height, marks))
        top += height + LANE_GAP
    return bands, top


def _with_few_clients(lanes: Sequence[Lane]) -> Iterator[Lane]:
    """Those with offending calls first; what is too many shares a lane."""
    clients = sorted((lane for lane in lanes if lane.kind is LaneKind.CLIENT), key=lambda lane: not lane.offends)
    yield from (lane for lane in lanes if lane.kind is not LaneKind.CLIENT)
    if len(clients) <= CLIENT_LANES_MAX:
        yield from (lane for lane in lanes if lane.kind is LaneKind.CLIENT)
        return
    alone, rest = clients[: CLIENT_LANES_MAX - 1], clients[CLIENT_LANES_MAX - 1 :]
    yield from alone
    shared = Lane(f"{len(rest)} others", LaneKind.CLIENT)
    for lane in rest:
        shared.spans += lane.spans
        shared.moments += lane.moments
    shared.spans.sort(key=lambda span: span.start_ns)
    shared.moments.sort(key=lambda moment: moment.at_ns)
    yield shared


def _title(lane: Lane, span: Span) -> str:
    end_ns = span.start_ns if span.end_ns is None else span.end_ns
    number = f"#{span.number} " if span.kind is SpanKind.CALL and span.number is not None else ""
    lasted = f" to {seconds(end_ns)} ({duration(end_ns - span.start_ns)})" if end_ns > span.start_ns else ""
    return f"{lane.name}: {number}{span.text}\n{seconds(span.start_ns)}{lasted}"


def _mark(lane: Lane, span: Span, css: str, *, top: int, height: int, label: str = "") -> _Mark:
    end_ns = span.start_ns if span.end_ns is None else span.end_ns
    css = f"{css} offends" if span.offends else css
    return _Mark(css, span.start_ns, end_ns, top, height, _title(lane, span), label, stays=span.offends)


def _node_marks(lane: Lane, top: int) -> tuple[list[_Mark], int]:
    """What it is as a background, leading and serving as two strips, all else as ticks below."""
    places: dict[SpanKind, tuple[int, int]] = {
        SpanKind.UP: (0, NODE_HEIGHT),
        SpanKind.DOWN: (0, NODE_HEIGHT),
        SpanKind.LEADS: (4, 14),
        SpanKind.SERVES: (22, 7),
        SpanKind.PAUSED: (0, NODE_HEIGHT),
    }
    marks = []
    for kind, (offset, height) in places.items():
        for span in (span for span in lane.spans if span.kind is kind):
            css, label = kind.value, ""
            if kind is SpanKind.LEADS:
                css, label = f"leads t{(span.number or 0) % TERM_COLOURS}", f"t{span.number}"
            marks.append(_mark(lane, span, css, top=top + offset, height=height, label=label))
    others = [span for span in lane.spans if span.kind not in places]
    marks += [_mark(lane, span, span.kind.value, top=top + 32, height=8) for span in others]
    return [*marks, *_moment_marks(lane, top + 32, 8)], NODE_HEIGHT


def _packed_marks(lane: Lane, top: int) -> tuple[list[_Mark], int]:
    """Spans that overlap lie under each other, as far as there is room."""
    ends = [-1] * SUB_ROWS_MAX[lane.kind]
    marks, rows = [], 1
    for span in lane.spans:
        row = next((row for row, end in enumerate(ends) if end <= span.start_ns), len(ends) - 1)
        ends[row] = max(ends[row], span.start_ns if span.end_ns is None else span.end_ns)
        rows = max(rows, row + 1)
        label = span.text.partition(" ")[0] if span.kind in (SpanKind.FAULT, SpanKind.CUT) else ""
        css = f"{span.kind.value} {_word(span.outcome)}".strip()
        marks.append(_mark(lane, span, css, top=top + row * ROW_HEIGHT, height=ROW_HEIGHT - 2, label=label))
    return [*marks, *_moment_marks(lane, top, rows * ROW_HEIGHT)], rows * ROW_HEIGHT


def _word(outcome: str) -> str:
    """As the name of a class: outcomes come from a trace, and a trace may hold anything."""
    return outcome if outcome in ("ok", "refused", "failed", "unknown") else ""


def _moment_marks(lane: Lane, top: int, height: int) -> list[_Mark]:
    return [
        _Mark("moment", m.at_ns, m.at_ns, top, height, f"{lane.name}: {m.what} {m.text}\n{seconds(m.at_ns)}")
        for m in lane.moments
    ]


def _near(timeline: Timeline) -> list[tuple[int, int]]:
    """Spans of time around what was found first, and around the calls that it is about."""
    reach = timeline.ends_ns // NEAR_PART
    found = timeline.offences[:NEAR_FINDINGS]
    times = [offence.at_ns for offence in found]
    numbers = {number for offence in found for number in offence.calls}
    times += [s.start_ns for lane in timeline.lanes for s in lane.spans if s.offends and s.number in numbers]
    return [(at_ns - reach, at_ns + reach) for at_ns in times]


def _thinned(marks: Sequence[_Mark], everywhere_ns: int, near: Sequence[tuple[int, int]]) -> list[_Mark]:
    """Short ones of a kind in a row, less than a point apart, become one."""
    kept: list[_Mark] = []
    last: dict[tuple[str, int], _Mark] = {}
    for mark in marks:
        is_near = any(start <= mark.start_ns <= end for start, end in near)
        point_ns = everywhere_ns // NEAR_FINER if is_near else everywhere_ns
        before = last.get((mark.css, mark.top))
        is_short = mark.end_ns - mark.start_ns < point_ns
        if (
            before is not None
            and is_short
            and mark.start_ns - before.end_ns < point_ns
            and mark.end_ns - before.start_ns < point_ns * 2
        ):
            before.end_ns, before.count = max(before.end_ns, mark.end_ns), before.count + 1
            if len(before.titles) < TITLES_MAX:
                before.titles.append(mark.title)
            continue
        copy = _Mark(
            mark.css,
            mark.start_ns,
            mark.end_ns,
            mark.top,
            mark.height,
            mark.title,
            mark.label,
            mark.stays,
            titles=[mark.title],
        )
        kept.append(copy)
        if not mark.stays:  # Nothing is merged into it, then; and its class is no other mark's.
            last[mark.css, mark.top] = copy
    return kept


# Marks to SVG


def _svg(timeline: Timeline, bands: Sequence[_Band], thinned: Sequence[Sequence[_Mark]], height: int) -> Iterator[str]:
    def percent(ns: int) -> str:
        return f"{100 * ns / timeline.ends_ns:.4f}%"

    yield f'<svg id="drawing" data-seconds="{timeline.ends_ns / SECOND:.9f}" height="{height}" role="img">'
    yield (
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="hatch" width="2.5" height="6"/></pattern></defs><g id="ticks">'
    )
    for tick in range(TICKS):
        at_s = tick * timeline.ends_ns / TICKS / SECOND
        yield f'<text class="tick" x="{100 * tick / TICKS:.3f}%" y="14">{at_s:.2f} s</text>'
    yield "</g>"
    for marks in thinned:
        for mark in marks:
            yield _rectangle(mark, timeline.ends_ns, percent)
    yield from _shades(timeline, bands, percent)
    for offence in timeline.offences:
        title = escape(f"{offence.checker}: {offence.message}\n{seconds(offence.at_ns)}")
        x = percent(offence.at_ns)
        line = f'<line class="offence" x1="{x}" x2="{x}" y1="{HEAD_HEIGHT - 4}" y2="{height}">'
        yield f"{line}<title>{title}</title></line>"
    yield "</svg>"


def _shades(timeline: Timeline, bands: Sequence[_Band], percent: Callable[[int], str]) -> Iterator[str]:
    """Cut links darken all nodes' lanes as long as they last."""
    nodes = [band for band in bands if band.css.startswith(LaneKind.NODE.value)]
    if not nodes:
        return
    top, bottom = nodes[0].top, nodes[-1].top + nodes[-1].height
    spans = [span for lane in timeline.lanes for span in lane.spans if span.end_ns is not None]
    cuts = [span for span in spans if span.kind is SpanKind.CUT]
    if not cuts:  # A simulator may tell of faults alone.
        cuts = [span for span in spans if span.kind is SpanKind.FAULT and span.text.partition(" ")[0] in CUTTING]
    for span in cuts:
        x, width = percent(span.start_ns), percent((span.end_ns or 0) - span.start_ns)
        yield f'<rect class="shade" x="{x}" width="{width}" y="{top}" height="{bottom - top}"/>'


def _rectangle(mark: _Mark, ends_ns: int, percent: Callable[[int], str]) -> str:
    title = "\n".join(mark.titles)
    if mark.count > len(mark.titles):
        title += f"\n… and {mark.count - len(mark.titles)} more"
    x, width = percent(mark.start_ns), percent(mark.end_ns - mark.start_ns)
    rectangle = (
        f'<rect class="{mark.css}" x="{x}" width="{width}" y="{mark.top}" height="{mark.height}">'
        f"<title>{escape(title)}</title></rect>"
    )
    if mark.label and (mark.end_ns - mark.start_ns) * LETTER_PART >= ends_ns * (len(mark.label) + 1):
        css = "label" if mark.css.startswith("leads") else "label dark"
        rectangle += f'<text class="{css}" x="{x}" dx="4" y="{mark.top + 11}">{escape(mark.label)}</text>'
    return rectangle
