"""What a core run is made of: clocks, links, the stand-in state, and how its speed is measured."""

import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.raft.messages import COMMAND, Entry, Membership, SnapshotMeta
from keycluster.cluster.types import SECOND, ClusterTime, LogIndex, NodeId, Term
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.member import Disk, DurableLog
from keycluster.simulations.core.network import Effect, Network, Weather
from keycluster.simulations.core.run import SUPPORTED
from keycluster.simulations.core.shape import draw_shape, drawn
from keycluster.simulations.core.speed import measure, where_time_goes
from keycluster.simulations.core.state import ANYTHING, AppliedState, encode_change, stamp
from keycluster.simulations.runs import RunSpec, Simulator

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
LINK = (N1, N2)
RATES = st.integers(-90_000, 90_000)
TIMES = st.integers(0, 10**14)


def empty_state() -> AppliedState:
    return AppliedState(index=LogIndex(0), term=Term(0), membership=Membership(voters=(N1,)))


def a_machine(ppm: int) -> Machine:
    return Machine(N1, Disk(DurableLog(LogIndex(0), Term(0)), empty_state()), clock_base=10**15, clock_ppm=ppm)


@given(RATES, RATES, TIMES, TIMES)
def test_clock_that_changes_its_rate_never_jumps(before: int, after: int, t: int, later: int) -> None:
    """It shows the same at that moment, and goes on from there."""
    machine = a_machine(before)
    shows = machine.now(t)
    machine.set_rate(after, t)
    assert abs(machine.now(t) - shows) <= 1
    assert machine.now(t + later) >= machine.now(t)


@given(RATES, TIMES)
def test_clock_shows_an_instant_first_when_it_says(ppm: int, ns: int) -> None:
    """What is due by a machine's clock comes neither early nor late."""
    machine = a_machine(ppm)
    due = machine.now(ns)
    t = machine.real(due)
    assert machine.now(t) >= due
    assert t == 0 or machine.now(t - 1) < due


def test_links_cut_twice_are_healed_twice() -> None:
    """Of two cuts that overlap, one going leaves the other."""
    network = Network()
    network.begin_cut(1, [(N1, N2), (N1, N3)])
    network.begin_cut(2, [(N1, N2)])
    assert network.end_cut(1) == {(N1, N3)}
    assert network.cut == {(N1, N2)}
    assert network.end_cut(2) == {(N1, N2)}
    assert network.end_cut(3) == frozenset()
    assert not network.cut


def test_links_clogged_twice_are_freed_twice() -> None:
    """As with cuts, link by link."""
    network = Network()
    network.begin_clog(1, [(N1, N2)])
    network.begin_clog(1, [(N2, N3)])
    network.begin_clog(2, [(N1, N2)])
    assert not network.end_clog(1, (N1, N2))
    assert network.end_clog(1, (N2, N3))
    assert network.end_clog(2, (N1, N2))
    assert not network.clogged


def test_weather_loses_repeats_and_delays() -> None:
    """Each by its own chance."""
    rng = random.Random(1)
    assert Network(loss=1.0).delays(rng, LINK, 0) == []
    assert len(Network(duplicate=1.0).delays(rng, LINK, 0)) == 2
    slow = [Network(slow_chance=1.0, slow_ns_max=SECOND).delays(rng, LINK, 0)[0] for _ in range(50)]
    assert max(slow) > 100 * max(Network().delays(rng, LINK, 0))
    network = Network(loss=0.5, duplicate=0.5, slow_chance=0.5)
    network.begin_cut(1, [(N1, N2)])
    network.heal()
    assert len(network.delays(rng, LINK, 0)) == 1
    assert not network.cut


WEATHER = {
    Effect.LOST: Weather(loss=0.05),
    Effect.DOUBLED: Weather(duplicate=0.05),
    Effect.DELAYED: Weather(slow_chance=0.05, slow_ns_max=20_000_000),
    Effect.OVERTAKEN: Weather(slow_chance=0.05, slow_ns_max=20_000_000),
}


@pytest.mark.parametrize("effect", WEATHER)
def test_weather_tells_of_the_first_frame_that_feels_it(effect: Effect) -> None:
    """Once, and not before: most frames feel nothing of it."""
    network, rng, told = Network(), random.Random(1), list[int]()
    network.begin_weather(1, WEATHER[effect], effect, lambda: told.append(1))
    felt_at, last = None, 0
    for number in range(500):
        t = number * 300_000
        delays = network.delays(rng, LINK, t)
        felt = {
            Effect.LOST: not delays,
            Effect.DOUBLED: len(delays) == 2,
            Effect.DELAYED: any(delay > 1_000_000 for delay in delays),
            Effect.OVERTAKEN: any(t + delay < last for delay in delays),
        }
        last = max([last, *(t + delay for delay in delays if delay > 1_000_000)])
        felt_at = number if felt[effect] and felt_at is None else felt_at
        assert bool(told) is (felt_at is not None)
    assert told == [1]
    assert felt_at is not None
    assert felt_at > 0


def test_weather_that_is_hidden_or_over_tells_nothing() -> None:
    """Of two losses the worse one counts; of one that has ended none."""
    network, rng, told = Network(), random.Random(1), list[int]()
    for number, loss in enumerate((0.1, 1.0)):
        network.begin_weather(number, Weather(loss=loss), Effect.LOST, partial(told.append, number))
    assert network.delays(rng, LINK, 0) == []
    assert told == [1]
    network.end_weather(1)
    network.end_weather(0)
    network.had(Effect.LOST)
    assert told == [1]
    assert network.loss == 0


def test_cut_and_clog_tell_of_the_first_frame_that_they_stop() -> None:
    """All that have that link, and nobody else; and none that has ended."""
    network, told = Network(), list[str]()
    for number, links in enumerate(([(N1, N2)], [(N1, N2), (N2, N1)], [(N2, N3)], [(N1, N2)])):
        network.begin_cut(number, links, partial(told.append, f"cut {number}"))
        network.begin_clog(number, links, partial(told.append, f"clog {number}"))
    network.end_cut(3)
    network.end_clog(3, (N1, N2))
    for _ in range(2):
        network.stopped((N1, N2))
        network.held((N1, N2))
    assert sorted(told) == ["clog 0", "clog 1", "cut 0", "cut 1"]


def change(index: int, *, number: int, value: int, expected: int = ANYTHING) -> Entry:
    command = encode_change(client=1, number=number, register=0, expected=expected, value=value)
    return Entry(Term(1), LogIndex(index), COMMAND, stamp(command, ClusterTime(index), index))


def test_repeated_change_is_made_once() -> None:
    """By its caller's number; its outcome is remembered."""
    state = empty_state().apply(change(1, number=1, value=10)).apply(change(2, number=2, value=11))
    again = state.apply(change(3, number=1, value=10)).apply(change(4, number=2, value=12))
    assert again.registers == {0: 11}
    assert again.sessions == {1: (2, True)}
    assert again.digest != state.digest


def test_change_that_expects_another_value_is_not_made() -> None:
    """And says so."""
    state = empty_state().apply(change(1, number=1, value=10))
    refused = state.apply(change(2, number=2, value=11, expected=9))
    assert (refused.registers, refused.sessions) == ({0: 10}, {1: (2, False)})
    made = refused.apply(change(3, number=3, value=11, expected=10))
    assert (made.registers, made.sessions) == ({0: 11}, {1: (3, True)})


def test_members_that_apply_the_same_share_the_state() -> None:
    """And those that don't have another one, from there on."""
    state, entry = empty_state(), change(1, number=1, value=10)
    assert state.apply(entry) is state.apply(entry)
    other = state.apply(change(1, number=1, value=11))
    assert other.digest != state.apply(entry).digest
    assert state.apply(entry).registers == {0: 10}


def test_log_behind_a_snapshot_stays_only_if_it_fits() -> None:
    """It must have the snapshot's own last entry."""
    entries = [change(index, number=index, value=index) for index in range(1, 6)]
    membership = Membership(voters=(N1,))
    log = DurableLog(LogIndex(0), Term(0), list(entries))
    log.copy().reset_to(SnapshotMeta(LogIndex(3), Term(1), membership, None))
    assert log.held == entries
    log.reset_to(SnapshotMeta(LogIndex(3), Term(1), membership, None))
    assert (log.base, log.last_index) == (3, 5)
    log.reset_to(SnapshotMeta(LogIndex(4), Term(2), membership, None))
    assert (log.base, log.base_term, log.last_index) == (4, 2, 4)


def test_what_a_spec_says_changes_no_other_draw() -> None:
    """So that fewer nodes or clients leave the rest of a shrunk run as it was."""
    spec = RunSpec(Simulator.CORE, 5, 10 * SECOND)
    shape = draw_shape(spec, SUPPORTED)
    smaller = draw_shape(RunSpec(Simulator.CORE, 5, 10 * SECOND, nodes=2, clients=9), SUPPORTED)
    assert (smaller.voters, smaller.clients) == (2, 9)
    assert (smaller.faults, smaller.learners, smaller.drift_ppm) == (shape.faults, shape.learners, shape.drift_ppm)
    assert draw_shape(drawn(spec, shape), SUPPORTED) == shape


def test_speed_is_measured() -> None:
    """Figures that say something, and parts that make up the whole."""
    speed = measure(seconds=1)
    assert speed.simulated_s_per_s > 1
    assert speed.events_per_simulated_s > 100
    shares = where_time_goes(seconds=1)
    assert 99 < sum(shares.values()) < 101
    assert shares["simulations/core"] > 1
