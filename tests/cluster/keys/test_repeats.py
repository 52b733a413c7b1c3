"""A request is carried out once, however late its copies come: by memory while it is young, by their age afterwards."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from keycluster.cluster.cluster_time import AHEAD_NS_MAX
from keycluster.cluster.keys import requests
from keycluster.cluster.keys.commands import DisableKey, EnableKey, Outcome, Tick
from keycluster.cluster.keys.records import KeyState, Table
from keycluster.cluster.keys.requests import AGE_NS_MAX, AGED_TEXT, REMEMBERED_LEAST_NS, REMEMBERED_NS
from keycluster.cluster.types import SECOND, RunningTime
from keycluster.cluster.wire.errors import DependencyTimeoutException
from keycluster.node.maintenance import LOOK_EVERY_S
from keycluster.node.proposals import FORWARD_AGAIN_S, HELD_S_MAX
from tests.key_machine import KeyMachine

ID = b"i" * 16
HASH = b"h" * 32
SDK_WAITS_NS = 60 * SECOND  # botocore's read_timeout, unless it is told otherwise.
COPY: dict[str, Any] = {"request_id": ID, "params_hash": HASH}
AGED = DependencyTimeoutException.code, AGED_TEXT


def keys_made(machine: KeyMachine) -> int:
    return len(machine.rows().get(Table.KEYS, {}))


def test_limits_of_age_and_memory_fit_together() -> None:
    """What was just taken isn't too old however quiet the region is, and what was forgotten is."""
    assert AHEAD_NS_MAX >= 3 * LOOK_EVERY_S * SECOND
    assert AGE_NS_MAX > AHEAD_NS_MAX + (HELD_S_MAX + FORWARD_AGAIN_S) * SECOND
    assert AGE_NS_MAX + AHEAD_NS_MAX < REMEMBERED_LEAST_NS < REMEMBERED_NS
    assert REMEMBERED_LEAST_NS - AGE_NS_MAX - AHEAD_NS_MAX > 2 * SDK_WAITS_NS


def test_repeat_after_the_wall_clocks_leapt_changes_nothing() -> None:
    """All clocks of a region that was suspended leap by as much; what it was asked for before, it has done."""
    machine = KeyMachine()
    first = machine.apply(machine.new_create_key(), **COPY)
    machine.pass_time(1800, running=False)
    machine.ok(Tick(), caller=machine.region_speaks)
    assert machine.apply(machine.new_create_key(), **COPY) == first
    assert keys_made(machine) == 1


def test_copy_that_was_under_way_for_too_long_is_refused_and_may_be_repeated() -> None:
    """The key that was disabled since stays disabled. The refusal isn't remembered: a fresh attempt is carried out."""
    machine = KeyMachine()
    key = machine.create_key()
    machine.ok(DisableKey(key.key_id))
    asked = machine.running_time
    machine.ok(EnableKey(key.key_id), **COPY)
    machine.ok(DisableKey(key.key_id))
    machine.pass_time(601)
    assert machine.refusal(EnableKey(key.key_id), asked=asked, **COPY) == AGED
    assert machine.key(key.key_id).state is KeyState.DISABLED
    machine.ok(EnableKey(key.key_id), **COPY)
    assert machine.key(key.key_id).state is KeyState.ENABLED


def test_late_copy_of_what_is_remembered_gets_its_outcome() -> None:
    """Age comes second: nobody is told to try again what has been done."""
    machine = KeyMachine()
    asked = machine.running_time
    first = machine.apply(machine.new_create_key(), asked=asked, **COPY)
    machine.pass_time(599)
    assert machine.apply(machine.new_create_key(), asked=asked, **COPY) == first


@pytest.mark.parametrize("request_id", [bytes(16), ID])
@given(age=st.integers(-2 * AGE_NS_MAX, 2 * AGE_NS_MAX))
def test_age_decides_by_the_log_alone(request_id: bytes, age: int) -> None:
    """To the nanosecond, remembered or not; a date that no entry has had, from whoever it comes, is none either."""
    machine = KeyMachine()
    machine.pass_time(100)
    machine.ok(Tick(), caller=machine.region_speaks)
    asked = RunningTime(machine.running_ns - age)
    outcome = machine.apply(machine.new_create_key(), asked=asked, request_id=request_id)
    assert (outcome.error_code is None) is (0 <= age <= AGE_NS_MAX)
    assert keys_made(machine) == (outcome.error_code is None)


def test_age_counts_from_the_newest_stamp_and_not_from_a_new_leaders() -> None:
    """A leader that knows an older running time doesn't make what is old young."""
    machine = KeyMachine()
    asked = machine.running_time
    machine.pass_time(31)
    machine.ok(Tick(), caller=machine.region_speaks)
    machine.running_ns = 0
    assert machine.refusal(machine.new_create_key(), asked=asked) == AGED


def test_regions_own_commands_have_no_age() -> None:
    """They say what they expect to find, and do nothing where they don't find it."""
    machine = KeyMachine()
    machine.pass_time(10**6)
    machine.ok(Tick(), caller=machine.region_speaks)


@dataclass
class Copy:
    """An attempt that a node has taken, and that may arrive any number of times, at any time."""

    number: int
    asked: RunningTime


@dataclass
class Asked:
    """What became of a request so far."""

    copies: int = 0
    carried_out_at: list[int] = field(default_factory=list)


class Repeats(RuleBasedStateMachine):
    """Attempts are dated when a node takes them, and arrive in any order, late and several times, under pressure on the
    memory too. Nobody may have a thing twice but who asks again minutes after it was done."""

    def __init__(self) -> None:
        super().__init__()
        self.freely, requests.REMEMBERED_FREELY = requests.REMEMBERED_FREELY, 4
        self.machine = KeyMachine()
        self.asked: list[Asked] = []
        self.copies: list[Copy] = []

    def teardown(self) -> None:
        requests.REMEMBERED_FREELY = self.freely

    @rule()
    def ask(self) -> None:
        self.asked.append(Asked())
        self._take(len(self.asked) - 1)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        self._take(data.draw(st.integers(0, len(self.asked) - 1)))

    def _take(self, number: int) -> None:
        self.asked[number].copies += 1
        self.copies.append(Copy(number, self.machine.running_time))

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        """A copy gets into the log."""
        copy = data.draw(st.sampled_from(self.copies))
        made = keys_made(self.machine)
        request_id = (copy.number + 1).to_bytes(16, "big")
        outcome = self.machine.apply(
            self.machine.new_create_key(), request_id=request_id, params_hash=HASH, asked=copy.asked
        )
        if keys_made(self.machine) > made:
            self._carried_out(self.asked[copy.number], copy)
        else:
            self._not_carried_out(self.asked[copy.number], copy, outcome)

    def _carried_out(self, request: Asked, copy: Copy) -> None:
        for at in request.carried_out_at:
            assert copy.asked >= at + REMEMBERED_LEAST_NS - AGE_NS_MAX, "a copy from before it was done"
        request.carried_out_at.append(self.machine.running_time)

    def _not_carried_out(self, request: Asked, copy: Copy, outcome: Outcome) -> None:
        if outcome.error_code is None:
            assert request.carried_out_at, "a success of what was never done"
        else:
            assert outcome.error_code == DependencyTimeoutException.code
            assert self.machine.running_time - copy.asked > AGE_NS_MAX, "what is young is carried out"

    @rule(seconds=st.sampled_from([0.1, 5, 29, 31, 149, 151, 181, 601]))
    def run_on(self, seconds: float) -> None:
        self.machine.pass_time(seconds)
        self.machine.ok(Tick(), caller=self.machine.region_speaks)

    @rule(seconds=st.sampled_from([5, 700, 7200]))
    def leap(self, seconds: float) -> None:
        """All wall clocks."""
        self.machine.pass_time(seconds, running=False)
        self.machine.ok(Tick(), caller=self.machine.region_speaks)

    @rule(seconds=st.integers(0, 20))
    def lead_by_another(self, seconds: int) -> None:
        """One that knows an older running time."""
        self.machine.term += 1
        self.machine.running_ns = max(0, self.machine.running_ns - seconds * SECOND)


Repeats.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestRepeats = Repeats.TestCase
