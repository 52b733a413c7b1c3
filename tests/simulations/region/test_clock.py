"""A machine's clock drifts within the product's bound, never goes back, and its wall clock may be wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.types import SECOND
from keycluster.simulations.region.clock import DRIFT_PPM_MAX, WALL_EPOCH_NS, SimClock
from keycluster.simulations.region.wire import Wire


class HandWire(Wire):
    """As much of a wire as a clock looks at."""

    now_ns = 0
    leapt_ns = 0

    def __init__(self) -> None:
        pass


RATES = st.integers(-DRIFT_PPM_MAX, DRIFT_PPM_MAX)


@given(st.integers(0, 10**15), RATES, st.lists(st.tuples(st.integers(0, 10**11), RATES)))
def test_now_is_continuous_and_within_the_bound(base_ns: int, ppm: int, changes: list[tuple[int, int]]) -> None:
    """A change of rate doesn't move it, and over any span it is off by no more than the bound, and rounding."""
    wire = HandWire()
    clock = SimClock(wire, base_ns=base_ns, ppm=ppm)
    assert clock.now() == base_ns
    for passed, rate in changes:
        before = clock.now()
        wire.now_ns += passed
        after = clock.now()
        assert abs(after - before - passed) <= passed * DRIFT_PPM_MAX // 1_000_000 + 1
        assert after >= before
        clock.set_rate(rate)
        assert clock.now() == after


def test_rate_is_what_was_asked_for() -> None:
    """A thousand ppm are a millisecond each second."""
    wire = HandWire()
    clock = SimClock(wire, base_ns=7, ppm=1_000)
    wire.now_ns = 10 * SECOND
    assert clock.now() == 7 + 10_010_000_000
    assert clock.ppm == 1_000


def test_rate_outside_the_bound_is_refused() -> None:
    """No run may break what the product rests on."""
    with pytest.raises(InvariantBroken):
        SimClock(HandWire(), base_ns=0, ppm=DRIFT_PPM_MAX + 1)


def test_wall_clock_jumps_and_leaves_now_alone() -> None:
    """It starts off by its offset, drifts with the machine, and moves when it is set."""
    wire = HandWire()
    clock = SimClock(wire, base_ns=500, wall_offset_ns=-3 * SECOND)
    assert clock.wall() == WALL_EPOCH_NS - 3 * SECOND
    wire.now_ns = SECOND
    now = clock.now()
    clock.jump_wall(5 * SECOND)
    assert clock.now() == now
    assert clock.wall() == WALL_EPOCH_NS + 3 * SECOND
    assert clock.wall_error_ns == 2 * SECOND
