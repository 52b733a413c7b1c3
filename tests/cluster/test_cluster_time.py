"""Cluster time and running time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.cluster_time import (
    AHEAD_NS_MAX,
    OBSERVATION_NS_MAX,
    OFFSET_NS_MAX,
    OFFSET_NS_WARN,
    TOLD_NS_MAX,
    ClockReading,
    ClockVerdict,
    ClusterClock,
)
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import SECOND, ClusterTime, Instant, NodeId, WallTime

N1, N2, N3, LEARNER = (NodeId(name) for name in ("n1", "n2", "n3", "x"))
THREE = Membership(voters=(N1, N2, N3), learners=(LEARNER,))
START = 1_800_000_000 * SECOND


def leading_clock(**walls: int) -> ClusterClock:
    """n1's, leading since 0, all clocks heard at 0 with these offsets in seconds."""
    clock = ClusterClock(node=N1, floor=ClusterTime(0), running_floor=0)
    clock.lead(Instant(0))
    for node, seconds in walls.items():
        clock.observe(NodeId(node), WallTime(START + seconds * SECOND), Instant(0))
    return clock


@pytest.mark.parametrize(
    ("walls", "expected"),
    [
        ({"n1": 0, "n2": 5, "n3": 900_000}, 5),
        ({"n1": -900_000, "n2": 5, "n3": 7}, 5),
        ({"n1": 3, "n2": 5}, 3),
        ({"n1": 3, "n2": 5, "x": -900_000}, 3),
    ],
)
def test_time_is_the_lower_median_of_the_voters_heard(walls: dict[str, int], expected: int) -> None:
    """One wrong clock of three moves nothing, a learner's doesn't count, and of two the earlier one is taken."""
    assert leading_clock(**walls).time(THREE, Instant(0)) == START + expected * SECOND


def test_no_majority_heard_gives_no_time() -> None:
    """A leader that hears nobody can't stamp; nor can one that heard them too long ago."""
    assert leading_clock(n1=0).time(THREE, Instant(0)) is None
    assert leading_clock(n1=0, x=0).time(THREE, Instant(0)) is None
    clock = leading_clock(n1=0, n2=0)
    assert clock.time(THREE, Instant(OBSERVATION_NS_MAX)) is not None
    assert clock.time(THREE, Instant(OBSERVATION_NS_MAX + 1)) is None


def test_joint_configuration_needs_both_majorities() -> None:
    """As everything else it is decided by both halves."""
    joint = Membership(voters=(NodeId("n4"), NodeId("n5")), outgoing=(N1, N2, N3))
    clock = leading_clock(n1=0, n2=0, n3=0)
    assert clock.time(joint, Instant(0)) is None
    clock.observe(NodeId("n4"), WallTime(START), Instant(0))
    clock.observe(NodeId("n5"), WallTime(START), Instant(0))
    assert clock.time(joint, Instant(0)) == START


def test_time_advances_by_the_monotonic_clock_between_observations() -> None:
    """One second later it is one second later, though no clock was heard since."""
    clock = leading_clock(n1=0, n2=0)
    assert clock.time(THREE, Instant(SECOND)) == START + SECOND


def test_time_stands_still_rather_than_going_back() -> None:
    """When a clock that ran ahead is put right, time waits for the median."""
    clock = leading_clock(n1=100, n2=100)
    assert clock.time(THREE, Instant(0)) == START + 100 * SECOND
    clock.observe(N1, WallTime(START), Instant(0))
    clock.observe(N2, WallTime(START), Instant(0))
    assert clock.time(THREE, Instant(SECOND)) == START + 100 * SECOND
    assert clock.median(THREE, Instant(SECOND)) == START + SECOND


def test_floor_of_the_state_holds_time_up() -> None:
    """A leader whose majority's clocks are behind the newest stamp goes on from the stamp."""
    clock = ClusterClock(node=N1, floor=ClusterTime(START + SECOND), running_floor=0)
    clock.lead(Instant(0))
    clock.observe(N1, WallTime(START), Instant(0))
    assert clock.time(Membership(voters=(N1,)), Instant(0)) == START + SECOND


def told_clock() -> ClusterClock:
    clock = ClusterClock(node=N2, floor=ClusterTime(0), running_floor=0)
    clock.told(ClockReading(ClusterTime(START), WallTime(START), 7 * SECOND), Instant(0))
    return clock


def test_follower_advances_what_it_was_told_for_a_while() -> None:
    """Later it knows no time any more."""
    clock = told_clock()
    assert clock.time(THREE, Instant(SECOND)) == START + SECOND
    assert clock.time(THREE, Instant(TOLD_NS_MAX + 1)) is None


def test_new_leader_goes_on_from_what_it_was_told() -> None:
    """It can stamp before it has heard a majority, and never below what the last leader said."""
    clock = told_clock()
    clock.lead(Instant(SECOND))
    assert clock.time(THREE, Instant(SECOND)) == START + SECOND
    clock.observe(N2, WallTime(START - 100 * SECOND), Instant(SECOND))
    clock.observe(N3, WallTime(START - 100 * SECOND), Instant(SECOND))
    assert clock.time(THREE, Instant(SECOND)) == START + SECOND


def test_running_time_advances_under_a_leader_only() -> None:
    """A follower knows what it was told; as leader it adds its own monotonic time; an outage adds nothing."""
    clock = told_clock()
    assert clock.running_ns(Instant(50 * SECOND)) == 7 * SECOND
    clock.lead(Instant(100 * SECOND))
    assert clock.running_ns(Instant(103 * SECOND)) == 10 * SECOND
    clock.stamp_applied(ClusterTime(0), 9 * SECOND, Instant(103 * SECOND))  # Its own: not counted twice.
    assert clock.running_ns(Instant(103 * SECOND)) == 10 * SECOND
    clock.follow(Instant(104 * SECOND))
    assert clock.running_ns(Instant(200 * SECOND)) == 11 * SECOND


def test_leader_that_was_suspended_does_not_count_its_absence() -> None:
    """Nor does it catch up when commands are applied again: that time is lost for good."""
    clock = ClusterClock(node=N1, floor=ClusterTime(0), running_floor=0)
    clock.lead(Instant(0))
    clock.stamp_applied(ClusterTime(0), clock.running_ns(Instant(SECOND)), Instant(SECOND))
    woke = Instant(3600 * SECOND)
    assert clock.running_ns(woke) == SECOND + AHEAD_NS_MAX
    clock.stamp_applied(ClusterTime(0), clock.running_ns(woke), woke)
    assert clock.running_ns(Instant(woke + SECOND)) == 2 * SECOND + AHEAD_NS_MAX


def test_leader_that_gets_nothing_committed_does_not_run_on() -> None:
    """So whoever leads next, with all that was committed, is behind by no more than that, whatever it was told."""
    clock = ClusterClock(node=N1, floor=ClusterTime(0), running_floor=0)
    clock.lead(Instant(0))
    for second in range(100):
        clock.observe(N1, WallTime(START), Instant(second * SECOND))
    assert clock.running_ns(Instant(100 * SECOND)) == AHEAD_NS_MAX


def test_leader_goes_on_from_a_stamp_of_its_predecessor() -> None:
    """It may have been elected before it had applied its log."""
    clock = ClusterClock(node=N1, floor=ClusterTime(0), running_floor=0)
    clock.lead(Instant(0))
    clock.stamp_applied(ClusterTime(0), 100 * SECOND, Instant(SECOND))
    assert clock.running_ns(Instant(2 * SECOND)) == 101 * SECOND
    assert clock.stamped == 100 * SECOND


@given(st.lists(st.tuples(st.sampled_from(["look", "apply", "lead", "follow"]), st.integers(0, 60 * SECOND))))
def test_running_time_is_no_faster_than_time_and_never_far_ahead_of_what_was_applied(
    steps: list[tuple[str, int]],
) -> None:
    """Whatever happens to the process."""
    clock = ClusterClock(node=N1, floor=ClusterTime(0), running_floor=0)
    now = 0
    for what, elapsed in steps:
        now += elapsed
        if what == "apply":
            clock.stamp_applied(ClusterTime(0), clock.running_ns(Instant(now)), Instant(now))
        elif what == "lead":
            clock.lead(Instant(now))
        elif what == "follow":
            clock.follow(Instant(now))
        assert clock.running_ns(Instant(now)) <= min(now, clock.stamped + AHEAD_NS_MAX)


@pytest.mark.parametrize(
    ("offset", "verdict"),
    [
        (OFFSET_NS_WARN, ClockVerdict.GOOD),
        (OFFSET_NS_WARN + 1, ClockVerdict.OFF),
        (-OFFSET_NS_WARN - 1, ClockVerdict.OFF),
        (OFFSET_NS_MAX, ClockVerdict.OFF),
        (OFFSET_NS_MAX + 1, ClockVerdict.REFUSES),
        (-OFFSET_NS_MAX - 1, ClockVerdict.REFUSES),
    ],
)
def test_own_clock_is_judged_by_the_median(offset: int, verdict: ClockVerdict) -> None:
    """Over 10 s off it says so, over 60 s it refuses."""
    clock = told_clock()
    clock.observe(N2, WallTime(START + offset), Instant(0))
    assert clock.verdict(THREE, Instant(0)) is verdict
    assert clock.offset_ns(THREE, Instant(0)) == offset


def test_region_whose_time_stands_still_goes_on_serving() -> None:
    """Right clocks are judged by their median, not by a cluster time that ran ahead."""
    clock = ClusterClock(node=N1, floor=ClusterTime(START + 10**6 * SECOND), running_floor=0)
    clock.told(ClockReading(ClusterTime(START + 10**6 * SECOND), WallTime(START), 0), Instant(0))
    clock.observe(N1, WallTime(START), Instant(0))
    assert clock.verdict(THREE, Instant(0)) is ClockVerdict.GOOD


def test_nothing_heard_is_no_verdict() -> None:
    """A node that knows no median can't say that its clock is wrong."""
    clock = ClusterClock(node=N1, floor=ClusterTime(0), running_floor=0)
    clock.observe(N1, WallTime(START), Instant(0))
    assert clock.verdict(THREE, Instant(0)) is ClockVerdict.GOOD
    assert clock.offset_ns(THREE, Instant(0)) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["observe n1", "observe n2", "observe n3", "told", "lead", "follow", "floor"]),
            st.integers(0, 100 * SECOND),
            st.integers(0, SECOND),
        )
    )
)
def test_time_and_running_time_never_go_back(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is heard, told and applied in whatever order."""
    clock = ClusterClock(node=N1, floor=ClusterTime(0), running_floor=0)
    now = newest = running = 0
    for what, value, elapsed in steps:
        now += elapsed
        if what.startswith("observe"):
            clock.observe(NodeId(what.split()[1]), WallTime(value), Instant(now))
        elif what == "told":
            clock.told(ClockReading(ClusterTime(value), WallTime(value // 2), value), Instant(now))
        elif what == "lead":
            clock.lead(Instant(now))
        elif what == "follow":
            clock.follow(Instant(now))
        else:
            clock.stamp_applied(ClusterTime(value), value, Instant(now))
        time = clock.time(THREE, Instant(now))
        assert time is None or time >= newest
        newest = newest if time is None else time
        assert clock.running_ns(Instant(now)) >= running
        running = clock.running_ns(Instant(now))
