"""Traces: the hash is the records', and keeping them changes nothing."""

from hypothesis import given
from hypothesis import strategies as st

from keycluster.simulations.trace import BATCH, Detail, Record, Trace

DETAILS: st.SearchStrategy[Detail] = (
    st.integers(-(2**63), 2**63 - 1) | st.text(max_size=4) | st.binary(max_size=4) | st.booleans() | st.none()
)
RECORDS = st.tuples(
    st.integers(0, 2**63 - 1), st.text(max_size=3), st.text(max_size=3), st.lists(DETAILS, max_size=3).map(tuple)
)


def hashed(records: list[tuple[int, str, str, tuple[Detail, ...]]], *, keep: bool) -> Trace:
    trace = Trace(keep=keep)
    for at_ns, lane, what, detail in records:
        trace.note(at_ns, lane, what, *detail)
    return trace


@given(st.lists(RECORDS, max_size=20))
def test_keeping_changes_no_hash(records: list[tuple[int, str, str, tuple[Detail, ...]]]) -> None:
    """A run is drawn by repeating it with its records kept: then it must be the same run."""
    kept, unkept = hashed(records, keep=True), hashed(records, keep=False)
    assert kept.sha256() == unkept.sha256()
    assert kept.records() == [Record(*record) for record in records]
    assert unkept.records() == []


@given(st.lists(RECORDS, min_size=1, max_size=20), st.data())
def test_a_record_more_or_less_is_another_hash(
    records: list[tuple[int, str, str, tuple[Detail, ...]]], data: st.DataObject
) -> None:
    """Wherever it is missing."""
    place = data.draw(st.integers(0, len(records) - 1))
    fewer = records[:place] + records[place + 1 :]
    assert hashed(records, keep=False).sha256() != hashed(fewer, keep=False).sha256()


def test_a_long_trace_is_counted_and_kept_whole() -> None:
    """Over several batches, in order, and the hash may be asked for at any time in between."""
    trace, other = Trace(keep=True), Trace()
    for number in range(3 * BATCH + 5):
        trace.note(number, "n1", "step", number)
        other.note(number, "n1", "step", number)
    assert trace.sha256() == other.sha256()
    assert [record.at_ns for record in trace.records()] == list(range(3 * BATCH + 5))
    assert trace.count == 3 * BATCH + 5
