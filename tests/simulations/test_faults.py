"""Schedules of faults: drawn from a seed, alike each time, and different enough from seed to seed."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import SHAPES, Fault, FaultKind, draw_schedule

KINDS = st.sampled_from(FaultKind)
FAULTS = st.builds(
    Fault,
    number=st.integers(0, 1_000),
    at_ns=st.integers(0, 60 * SECOND),
    kind=KINDS,
    for_ns=st.integers(0, 10 * SECOND),
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**48 - 1),
)


def test_every_kind_can_be_drawn() -> None:
    """Each has a shape; a kind that was forgotten there would be a KeyError in some seed."""
    assert SHAPES.keys() == set(FaultKind)


@given(st.integers(0, 2**48), st.sets(KINDS))
def test_a_schedule_is_the_seeds_alone(seed: int, kinds: set[FaultKind]) -> None:
    """The order in which kinds are named has no say; all faults are of these kinds, in order, within the time."""
    drawn = draw_schedule(seed, time_ns=20 * SECOND, kinds=sorted(kinds))
    assert drawn == draw_schedule(seed, time_ns=20 * SECOND, kinds=sorted(kinds, reverse=True))
    assert {fault.kind for fault in drawn} <= kinds
    assert [fault.number for fault in drawn] == list(range(len(drawn)))
    assert all(before.at_ns < after.at_ns < 20 * SECOND for before, after in pairwise(drawn))
    for fault in drawn:
        assert SHAPES[fault.kind].shortest_ns <= fault.for_ns <= SHAPES[fault.kind].longest_ns


def test_seeds_leave_kinds_out() -> None:
    """Swarm testing: over many seeds each kind is in some and missing from others."""
    seen = Counter(
        kind
        for seed in range(200)
        for kind in {fault.kind for fault in draw_schedule(seed, time_ns=60 * SECOND, kinds=FaultKind)}
    )
    assert seen.keys() == set(FaultKind)
    assert max(seen.values()) < 160


@given(FAULTS)
def test_a_fault_crosses_as_json(fault: Fault) -> None:
    """And has the same numbers of its own on the other side."""
    again = Fault.from_json(fault.to_json())
    assert again == fault
    assert again.rng().random() == fault.rng().random()
