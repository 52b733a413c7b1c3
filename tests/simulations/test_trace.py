"""The hash of a run is that of its records alone."""

from hypothesis import given
from hypothesis import strategies as st

from keycluster.simulations.trace import BATCH, Trace


@given(count=st.integers(0, 40), asked_after=st.sets(st.integers(0, 40)))
def test_hash_is_the_same_however_often_it_is_asked_for(count: int, asked_after: set[int]) -> None:
    """Looking at a trace, midway or twice, changes nothing of it."""
    one, looked_at = Trace(), Trace(keep=True)
    for number in range(count):
        for trace in (one, looked_at):
            trace.note(number, "n1", "does", number, "text", b"bytes", None)
        if number in asked_after:
            looked_at.sha256()
            looked_at.records()
    assert one.sha256() == looked_at.sha256() == one.sha256()
    assert one.count == len(looked_at.records()) == count


def test_hash_of_a_long_trace_does_not_hang_on_batches() -> None:
    """Batches of any length, full ones too."""
    one, looked_at = Trace(), Trace()
    for number in range(2 * BATCH + 20):
        one.note(number, "n1", "does")
        looked_at.note(number, "n1", "does")
        if number == 700:
            looked_at.sha256()
    assert one.sha256() == looked_at.sha256()


@given(record=st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.sampled_from("xy"), st.booleans()))
def test_hash_tells_records_apart(record: tuple[int, str, str, bool]) -> None:
    """Time, lane, kind and detail all count."""
    hashes = set()
    for at_ns, lane, what, detail in (record, (0, "a", "x", True)):
        trace = Trace()
        trace.note(at_ns, lane, what, detail)
        hashes.add(trace.sha256())
    assert len(hashes) == (1 if record == (0, "a", "x", True) else 2)
