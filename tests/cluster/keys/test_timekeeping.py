"""Time in the key state: never backwards, and nothing destroyed after it leapt."""

from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.records import ClockRecord
from keycluster.cluster.keys.timekeeping import EXCESS_MAX_NS, HOLD_NS, advance, confirmed, destruction_held
from keycluster.cluster.types import SECOND, ClusterTime

HOUR = 3600 * SECOND
START = 1_800_000_000 * SECOND


def clock_after(*steps: tuple[int, int]) -> ClockRecord:
    """The clock after stamps that are each (time, running time) later than the one before, in nanoseconds."""
    time, running = START, 0
    clock = advance(None, time=ClusterTime(time), running_ns=running)
    for later, ran in steps:
        time, running = time + later, running + ran
        clock = advance(clock, time=ClusterTime(time), running_ns=running)
    return clock


def test_time_that_runs_with_the_region_holds_nothing() -> None:
    """A year of ticks, each as long by both clocks, leaves no excess."""
    clock = clock_after(*[(24 * HOUR, 24 * HOUR)] * 365)
    assert clock.excess_ns == 0
    assert not destruction_held(clock)


def test_region_stopped_for_over_an_hour_holds_for_24_running_hours() -> None:
    """The stop counts as a leap; a day of running ends the hold, time passing while stopped doesn't."""
    clock = clock_after((2 * HOUR, 0))
    assert destruction_held(clock)
    assert destruction_held(advance(clock, time=ClusterTime(clock.time + 23 * HOUR), running_ns=23 * HOUR))
    assert not destruction_held(advance(clock, time=ClusterTime(clock.time + 24 * HOUR), running_ns=24 * HOUR))
    stopped_again = advance(clock, time=ClusterTime(clock.time + 48 * HOUR), running_ns=0)
    assert stopped_again.held_until_running_ns == HOLD_NS
    assert destruction_held(stopped_again)


def test_stop_of_less_than_an_hour_holds_nothing() -> None:
    """A restart or an election is no leap."""
    assert not destruction_held(clock_after((EXCESS_MAX_NS, 0)))
    assert destruction_held(clock_after((EXCESS_MAX_NS + 1, 0)))


def test_wrong_clocks_that_jump_a_year_hold() -> None:
    """The region runs, but its time leaps."""
    assert destruction_held(clock_after((365 * 24 * HOUR, SECOND)))


def test_small_gains_are_forgiven_and_many_at_once_are_not() -> None:
    """A second at each of a thousand elections over months is nothing; many of ten seconds in a row hold."""
    assert not destruction_held(clock_after(*[(HOUR + SECOND, HOUR)] * 5000))
    assert destruction_held(clock_after(*[(11 * SECOND, SECOND)] * 400))


def test_confirmed_time_lifts_the_hold() -> None:
    """An operator's word ends it at once."""
    assert not destruction_held(confirmed(clock_after((2 * HOUR, 0))))


@given(st.lists(st.tuples(st.integers(-3 * HOUR, 3 * HOUR), st.integers(-HOUR, 3 * HOUR)), max_size=30))
def test_clock_never_goes_backwards(steps: list[tuple[int, int]]) -> None:
    """Whatever is stamped, time and running time only grow, and the excess stays within its bound."""
    time, running = START, 10 * HOUR
    clock = advance(None, time=ClusterTime(time), running_ns=running)
    for later, ran in steps:
        time, running = time + later, max(0, running + ran)
        after = advance(clock, time=ClusterTime(time), running_ns=running)
        assert after.time >= clock.time
        assert after.running_ns >= clock.running_ns
        assert 0 <= after.excess_ns <= EXCESS_MAX_NS
        clock = after
