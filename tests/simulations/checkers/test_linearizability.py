"""The checker of linearizability tells good histories from bad ones, as brute force does, and fast."""

import random
import time
from collections.abc import Sequence
from itertools import combinations, permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keycluster.simulations.checkers.history import Call, History, OutcomeKind, failed, ok, refused, unknown
from keycluster.simulations.checkers.linearizability import Result, Verdict, check_linearizable
from keycluster.simulations.checkers.register_model import RegisterModel
from tests.simulations.checkers.histories import Script


def _verdict(script: Script) -> Verdict:
    return _check(script.history).verdict


def _check(history: History, *, steps_max: int = 200_000) -> Result[tuple[object]]:
    return check_linearizable(history.calls, RegisterModel(), steps_max=steps_max)


def test_calls_one_after_another_are_linearizable() -> None:
    """A register read as it was written."""
    script = Script()
    script.write(1)
    script.read(1)
    script.write(2)
    script.read(2)
    assert _verdict(script) is Verdict.LINEARIZABLE


def test_stale_read_is_found() -> None:
    """What was overwritten before a read began is not there any more."""
    script = Script()
    script.write(1)
    script.write(2)
    script.read(1)
    assert _verdict(script) is Verdict.VIOLATED


def test_read_of_what_nobody_wrote_is_found() -> None:
    """A value out of nowhere."""
    script = Script()
    script.write(1)
    script.read(3)
    assert _verdict(script) is Verdict.VIOLATED


def test_write_that_changes_nothing_at_first_may_come_after_another() -> None:
    """It happens when it must, not as soon as it can."""
    script = Script()
    script.write(1)
    script.begin_write(2)
    again = script.begin_write(1)
    script.read(2)
    script.end(again)
    script.read(1)
    assert _verdict(script) is Verdict.LINEARIZABLE


def test_lost_update_is_found() -> None:
    """Two compare-and-sets from one value can't both succeed."""
    script = Script()
    script.write(0)
    first = script.begin("CompareAndSet", {"Expected": 0, "Value": 1})
    second = script.begin("CompareAndSet", {"Expected": 0, "Value": 2})
    script.end(first)
    script.end(second)
    assert _verdict(script) is Verdict.VIOLATED


def test_update_applied_twice_is_found() -> None:
    """A write seen, then overwritten, is not seen again."""
    script = Script()
    write = script.begin_write(1)
    script.read(1)
    script.write(2)
    script.read(2)
    script.read(1)
    script.end(write)
    assert _verdict(script) is Verdict.VIOLATED


def test_own_write_that_is_not_read_is_found() -> None:
    """Who has written reads it, whatever else was there."""
    script = Script()
    script.write(1)
    script.write(2)
    overlapping = script.begin_read()
    script.read(1)
    script.end_read(overlapping, 2)
    assert _verdict(script) is Verdict.VIOLATED


def test_reads_that_disagree_on_the_order_are_found() -> None:
    """Two readers see two overlapping writes in opposite orders."""
    script = Script()
    writes = [script.begin_write(1), script.begin_write(2)]
    script.read(1)
    script.read(2)
    script.read(1)
    for write in writes:
        script.end(write)
    assert _verdict(script) is Verdict.VIOLATED


def test_overlapping_calls_may_happen_in_any_order() -> None:
    """A read during a write may see the old value or the new one."""
    for value in (1, 2):
        script = Script()
        script.write(1)
        write, read = script.begin_write(2), script.begin_read()
        script.end_read(read, value)
        script.end(write)
        assert _verdict(script) is Verdict.LINEARIZABLE


def test_unknown_write_may_happen_late_or_never() -> None:
    """A write whose client gave up may be seen after any time, or by nobody."""
    for values in ((1, 1), (1, 2), (2, 2)):
        script = Script()
        script.write(1)
        script.lose(script.begin_write(2))
        for value in values:
            script.read(value)
        assert _verdict(script) is Verdict.LINEARIZABLE


def test_unknown_write_happens_once() -> None:
    """What was seen, overwritten and seen again was made twice."""
    script = Script()
    script.lose(script.begin_write(2))
    script.read(2)
    script.write(1)
    script.read(2)
    assert _verdict(script) is Verdict.VIOLATED


def test_unknown_write_happens_not_before_it_began() -> None:
    """No value is read before anybody asked for it."""
    script = Script()
    script.read(2)
    script.lose(script.begin_write(2))
    assert _verdict(script) is Verdict.VIOLATED


def test_two_equal_unknown_writes_happen_once_each() -> None:
    """Each of two lost writes of one value may be seen, a third time may not."""
    script = Script()
    script.lose(script.begin_write(2))
    script.lose(script.begin_write(2))
    for _ in range(2):
        script.write(1)
        script.read(2)
    assert _verdict(script) is Verdict.LINEARIZABLE
    script.write(1)
    script.read(2)
    assert _verdict(script) is Verdict.VIOLATED


def test_failed_call_never_happens() -> None:
    """What certainly failed isn't read."""
    script = Script()
    script.write(1)
    script.do("Write", {"Value": 2}, failed("ThrottlingException"))
    script.read(2)
    assert _verdict(script) is Verdict.VIOLATED


def test_refusal_is_judged_like_an_answer() -> None:
    """A compare-and-set refused though it would have fitted all the time is a violation."""
    script = Script()
    script.write(1)
    script.do("CompareAndSet", {"Expected": 2, "Value": 3}, refused("Differs"))
    assert _verdict(script) is Verdict.LINEARIZABLE
    script.do("CompareAndSet", {"Expected": 1, "Value": 3}, refused("Differs"))
    assert _verdict(script) is Verdict.VIOLATED


def test_violation_says_which_call_fits_nowhere() -> None:
    """The report shows the longest order and what comes after it."""
    script = Script()
    script.write(1)
    script.write(2)
    stale = script.read(1)
    result = _check(script.history)
    assert result.stuck == (stale,)
    assert [call.number for call in result.placed] == [0, 1]
    assert f"#{stale.number} " in result.describe()


def _concurrent(calls: int, *, width: int, seed: int, lost: float = 0.0, values: int | None = None) -> History:
    """A good history: each call takes effect when it begins. Of so many values, or each write with its own."""
    rng = random.Random(seed)
    history, value, running = History(), None, list[tuple[Call, object]]()
    for number in range(calls):
        if len(running) == width:
            call, answer = running.pop(rng.randrange(width))
            history.end(call, 0, ok({"Value": answer}) if rng.random() >= lost else unknown())
        if rng.random() < 0.5:
            value = number if values is None else rng.randrange(values)
            running.append((history.begin(0, "c", "Write", "register", {"Value": value}), None))
        else:
            running.append((history.begin(0, "c", "Read", "register", {}), value))
    return history


@pytest.mark.parametrize("lost", [0.0, 0.05])
def test_thousands_of_calls_are_checked_in_well_under_a_second(lost: float) -> None:
    """3,000 calls, eight at a time, a twentieth of them lost."""
    history = _concurrent(3_000, width=8, seed=1, lost=lost)
    started = time.process_time()
    result = _check(history)
    assert result.verdict is Verdict.LINEARIZABLE
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_good_history_is_never_blamed(lost: float) -> None:
    """Also where many writes are alike, so that most change nothing when they could first happen."""
    for seed in range(1_500):
        history = _concurrent(10, width=4, seed=seed, lost=lost, values=2)
        assert _check(history).verdict is Verdict.LINEARIZABLE, seed


def test_many_different_lost_writes_are_decided() -> None:
    """A hundred that may or may not have happened, of which each reading needs one at most."""
    script = Script()
    for value in range(100):
        script.lose(script.begin_write(value))
    for value in (3, 50, 7, 99):
        script.read(value)
    assert _check(script.history).verdict is Verdict.LINEARIZABLE
    script.read(3)
    assert _check(script.history).verdict is Verdict.VIOLATED


def test_search_that_takes_too_long_is_undecided() -> None:
    """The bound on steps is an outcome of its own, neither good nor bad."""
    history = _concurrent(200, width=8, seed=1)
    assert _check(history, steps_max=100).verdict is Verdict.UNDECIDED


def test_order_that_is_known_is_found_without_going_back() -> None:
    """Forty writes at once, lost ones among them, read in an order that nobody would guess."""
    rng = random.Random(1)
    script = Script()
    writes = [script.begin_write(value) for value in range(40)]
    for write in writes[:20]:
        script.lose(write)
    order = rng.sample(writes, 40)
    for write in order:
        script.read(write.arguments["Value"])
    for write in writes[20:]:
        script.end(write)
    assert _check(script.history, steps_max=4_000).verdict is Verdict.UNDECIDED
    for place, write in enumerate(order):
        write.place = place
    assert _check(script.history, steps_max=4_000).verdict is Verdict.LINEARIZABLE


def _is_linearizable_by_force(calls: Sequence[Call]) -> bool:
    """Every choice of unknown calls that happened, in every order that the times allow."""
    must = [call for call in calls if call.kind in (OutcomeKind.OK, OutcomeKind.REFUSED)]
    may = [call for call in calls if call.kind is OutcomeKind.UNKNOWN]
    model = RegisterModel()
    for count in range(len(may) + 1):
        for happened in combinations(may, count):
            for order in permutations([*must, *happened]):
                state: tuple[object] | None = model.initial
                for position, call in enumerate(order):
                    if any(later.ended < call.began for later in order[position + 1 :] if later in must):
                        state = None
                    if state is None:
                        break
                    state = model.step(state, call)
                if state is not None:
                    return True
    return False


_CALL = st.tuples(
    st.sampled_from(["Write", "Read", "CompareAndSet"]),
    st.sampled_from([*OutcomeKind, OutcomeKind.OK, OutcomeKind.OK]),
    st.integers(0, 2),
    st.integers(0, 2),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_CALL, min_size=1, max_size=6), st.randoms(use_true_random=False))
@example([("Write", OutcomeKind.UNKNOWN, 1, 0)] * 3, random.Random(0))
def test_verdict_is_that_of_brute_force(calls: list[tuple[str, OutcomeKind, int, int]], rng: random.Random) -> None:
    """On small histories the search finds exactly what trying every order finds, wherever calls are said to stand."""
    history, running = History(), list[tuple[Call, OutcomeKind, int]]()
    for operation, kind, value, expected in calls:
        arguments = {} if operation == "Read" else {"Value": value, "Expected": expected}
        running.append((history.begin(0, "c", operation, "register", arguments), kind, value))
        while running and rng.random() < 0.5:
            _end(history, *running.pop(rng.randrange(len(running))))
    for one in running:
        if rng.random() < 0.7:
            _end(history, *one)
    for call in history.calls:
        if rng.random() < 0.5:
            call.place = rng.randrange(4)
    expected_verdict = Verdict.LINEARIZABLE if _is_linearizable_by_force(history.calls) else Verdict.VIOLATED
    assert _check(history).verdict is expected_verdict


def _end(history: History, call: Call, kind: OutcomeKind, value: int) -> None:
    outcomes = {
        OutcomeKind.OK: ok({"Value": value}),
        OutcomeKind.REFUSED: refused("Differs"),
        OutcomeKind.UNKNOWN: unknown(),
        OutcomeKind.FAILED: failed(),
    }
    history.end(call, 0, outcomes[kind])
