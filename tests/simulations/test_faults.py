"""Schedules of faults: drawn from a seed, alike each time, and different enough from seed to seed."""

import random
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import (
    DURATION_SCALES,
    LEAPT_NS_MAX,
    MINUTE,
    SHAPES,
    Fault,
    FaultKind,
    draw_leap,
    draw_schedule,
)

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
        assert SHAPES[fault.kind].shortest_ns <= fault.for_ns <= SHAPES[fault.kind].longest_ns * max(DURATION_SCALES)


def test_seeds_leave_kinds_out() -> None:
    """Swarm testing: over many seeds each kind is in some and missing from others."""
    seen = Counter(
        kind
        for seed in range(200)
        for kind in {fault.kind for fault in draw_schedule(seed, time_ns=60 * SECOND, kinds=FaultKind)}
    )
    assert seen.keys() == set(FaultKind)
    assert max(seen.values()) < 160


def test_in_some_seeds_members_are_gone_for_long() -> None:
    """Far longer than a stream waits for an answer; in most seeds nobody is."""
    longest = [
        max((fault.for_ns for fault in draw_schedule(seed, time_ns=60 * SECOND, kinds=[FaultKind.CRASH])), default=0)
        for seed in range(200)
    ]
    assert 20 < sum(ns > 6 * SECOND for ns in longest) < 100
    assert all(ns > 6 * SECOND or ns <= SHAPES[FaultKind.CRASH].longest_ns for ns in longest)


def test_most_seeds_are_no_storms() -> None:
    """Where faults come all the time no work is done. Larger regions have more time between them, too."""
    seeds = range(200)
    schedules = [draw_schedule(seed, time_ns=60 * SECOND, kinds=FaultKind) for seed in seeds]
    storms = sum(len(faults) > 60 * 5 for faults in schedules)
    assert 0 < storms < len(schedules) // 4
    larger = [draw_schedule(seed, time_ns=60 * SECOND, kinds=FaultKind, nodes=6) for seed in seeds]
    assert sum(map(len, larger)) < 0.75 * sum(map(len, schedules))


def test_some_seeds_have_calm_windows() -> None:
    """So long that a region is well again, and works for a while; in other seeds of as many faults nothing stops."""
    calms = [
        sum(after.at_ns - before.at_ns > 2 * SECOND for before, after in pairwise(faults))
        for seed in range(200)
        if len(faults := draw_schedule(seed, time_ns=60 * SECOND, kinds=FaultKind)) > 150
    ]
    assert any(calm >= 3 for calm in calms)
    assert any(not calm for calm in calms)


def test_leaps_are_of_every_size_and_mostly_forwards() -> None:
    """Some short of the ten minutes for which request ids are remembered, most beyond, some beyond an hour."""
    leaps = [leap for seed in range(400) if (leap := draw_leap(random.Random(seed), leapt_ns=0)) is not None]
    assert len(leaps) == 400
    assert 60 < sum(abs(leap.by_ns) < 10 * MINUTE for leap in leaps) < 140
    assert 140 < sum(11 * MINUTE <= abs(leap.by_ns) <= 59 * MINUTE for leap in leaps) < 260
    assert 50 < sum(leap.by_ns < 0 for leap in leaps) < 120
    assert 60 < sum(leap.is_taken_back for leap in leaps) < 140


@given(st.integers(0, 2**32), st.integers(-LEAPT_NS_MAX, LEAPT_NS_MAX))
def test_leaps_stay_near_true_time(seed: int, leapt_ns: int) -> None:
    """Nothing comes due by them that waits for days."""
    leap = draw_leap(random.Random(seed), leapt_ns=leapt_ns)
    assert leap is None or abs(leapt_ns + leap.by_ns) <= LEAPT_NS_MAX


@given(FAULTS)
def test_a_fault_crosses_as_json(fault: Fault) -> None:
    """And has the same numbers of its own on the other side."""
    again = Fault.from_json(fault.to_json())
    assert again == fault
    assert again.rng().random() == fault.rng().random()
