"""A trace as lanes of spans and moments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.types import SECOND
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, Simulator
from keycluster.simulations.timeline.model import Lane, LaneKind, Span, SpanKind, Timeline, make_timeline
from keycluster.simulations.trace import Detail, Record, What

SPEC = RunSpec(Simulator.CORE, 1, 10 * SECOND)


def timeline_of(*records: tuple[int, str, str, *tuple[Detail, ...]], failures: list[Failure] | None = None) -> Timeline:
    kept = [Record(at_ns, lane, what, tuple(detail)) for at_ns, lane, what, *detail in records]
    return make_timeline(SeedReport(SPEC, simulated_ns=100, failures=failures or []), kept)


def lane_of(timeline: Timeline, name: str) -> Lane:
    [lane] = [lane for lane in timeline.lanes if lane.name == name]
    return lane


def spans(timeline: Timeline, lane: str, kind: SpanKind) -> list[tuple[int, int | None]]:
    return [(span.start_ns, span.end_ns) for span in lane_of(timeline, lane).spans if span.kind is kind]


def test_what_a_node_was_lasts_until_something_ends_it() -> None:
    """A crash ends all of it; a new term ends the last one's lead; the end of the run ends what is left."""
    timeline = timeline_of(
        (0, "n1", What.STARTS),
        (10, "n1", What.LEADS, 3),
        (12, "n1", What.SERVES),
        (20, "n1", What.LEADS, 4),
        (25, "n1", What.PAUSES),
        (30, "n1", What.RESUMES),
        (40, "n1", What.CRASHES, "power"),
        (60, "n1", What.STARTS),
        (70, "n1", What.SERVES),
    )
    assert spans(timeline, "n1", SpanKind.LEADS) == [(10, 20), (20, 40)]
    assert spans(timeline, "n1", SpanKind.SERVES) == [(12, 40), (70, 100)]
    assert spans(timeline, "n1", SpanKind.PAUSED) == [(25, 30)]
    assert spans(timeline, "n1", SpanKind.DOWN) == [(40, 60)]
    assert spans(timeline, "n1", SpanKind.UP) == [(0, 40), (60, 100)]
    assert [span.number for span in lane_of(timeline, "n1").spans if span.kind is SpanKind.LEADS] == [3, 4]


def test_cuts_end_when_they_are_healed() -> None:
    """By their description, or all of them."""
    timeline = timeline_of(
        (1, "network", What.CUT, "a"),
        (2, "network", What.CUT, "b"),
        (3, "network", What.HEALED, "a"),
        (4, "network", What.CUT, "c"),
        (9, "network", What.HEALED),
    )
    assert spans(timeline, "network", SpanKind.CUT) == [(1, 3), (2, 9), (4, 9)]


def test_calls_are_joined_with_what_came_of_them() -> None:
    """Several may be open at once; one that never returns stays open to the end."""
    timeline = timeline_of(
        (1, "c1", What.CALL, 7, "Encrypt", "k1"),
        (2, "c1", What.CALL, 8, "DisableKey", "k1"),
        (5, "c1", What.RETURNS, 8, "ok", "n2"),
        (6, "c1", What.RETURNS, 99, "ok"),
    )
    first, second = lane_of(timeline, "c1").spans
    assert (first.number, first.end_ns, first.outcome) == (7, 100, "")
    assert (second.number, second.end_ns, second.outcome, second.text) == (8, 5, "ok", "DisableKey k1 → ok n2")


@pytest.mark.parametrize(
    ("offence", "failures"),
    [
        ((("nemesis", What.OFFENCE, "currency", "stale", 7, 9)), []),
        ((("nemesis", What.OFFENCE, "currency", "calls 7 and 9 differ")), []),
        (None, [Failure("currency", "call #7 saw what call 9 had changed", 50)]),
    ],
)
def test_offending_calls_are_marked(offence: tuple[str, ...] | None, failures: list[Failure]) -> None:
    """Named by the record, or in a checker's words."""
    records: list[tuple[int, str, str, *tuple[Detail, ...]]] = [
        (number, f"c{number}", What.CALL, number, "Encrypt") for number in (7, 8, 9)
    ]
    if offence is not None:
        records.append((50, offence[0], offence[1], *offence[2:]))
    timeline = timeline_of(*records, failures=failures)
    [found] = timeline.offences
    assert (found.at_ns, found.checker, found.calls) == (50, "currency", (7, 9))
    assert [lane.name for lane in timeline.lanes if lane.offends] == ["c7", "c9"]


def test_a_finding_is_told_once() -> None:
    """Most are in the trace and in the report."""
    failures = [Failure("safety", "two leaders", 5), Failure("liveness", "no leader")]
    timeline = timeline_of((5, "n1", What.OFFENCE, "safety", "two leaders"), failures=failures)
    assert [(offence.at_ns, offence.checker) for offence in timeline.offences] == [(5, "safety"), (100, "liveness")]


def test_a_fault_lasts_as_long_as_it_says() -> None:
    """By its last detail; one that takes no time has none to tell."""
    timeline = timeline_of(
        (1, "nemesis", What.FAULT, "pause", "n1", 30),
        (2, "nemesis", What.FAULT, "transfer", "n1 to n2", 0),
        (3, "nemesis", What.FAULT, "odd"),
    )
    told = [(span.start_ns, span.end_ns, span.text) for span in lane_of(timeline, "nemesis").spans]
    assert told == [(1, 31, "pause n1 for 0 ms"), (2, 2, "transfer n1 to n2"), (3, 3, "odd")]


def test_lanes_stand_in_an_order_to_read() -> None:
    """The nemesis first, then the network, nodes by number, clients."""
    records = [(0, name, What.STARTS) for name in ("n10", "n2", "n1")]
    timeline = timeline_of(
        (0, "c1", What.CALL, 1, "x"), *records, (0, "network", What.CUT, "x"), (0, "nemesis", What.FAULT, "x")
    )
    assert [lane.name for lane in timeline.lanes] == ["nemesis", "network", "n1", "n2", "n10", "c1"]
    assert lane_of(timeline, "c1").kind is LaneKind.CLIENT


WHATS = [value for name, value in vars(What).items() if not name.startswith("_")]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 100),
            st.sampled_from(["n1", "n2", "c1", "network", "nemesis"]),
            st.sampled_from([*WHATS, "own"]),
            st.lists(
                st.integers(0, 5) | st.text(max_size=3) | st.none() | st.binary(max_size=9) | st.booleans(), max_size=3
            ),
        ),
        max_size=40,
    )
)
def test_no_trace_is_too_odd(records: list[tuple[int, str, str, list[Detail]]]) -> None:
    """A time line is most needed where something went wrong: whatever is recorded, each span has an end in order."""
    in_order = sorted(records, key=lambda r: r[0])
    kept = [Record(at_ns, lane, what, tuple(detail)) for at_ns, lane, what, detail in in_order]
    timeline = make_timeline(SeedReport(SPEC, simulated_ns=100), kept)
    for lane in timeline.lanes:
        assert all(isinstance(span, Span) and span.end_ns is not None for span in lane.spans)
        assert all((span.end_ns or 0) >= span.start_ns for span in lane.spans)
