"""All clients of a simulated region: the same calls again from the same seed, and what is asked at the end."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import trio

from keycluster.simulations.checkers.currency import check_currency
from keycluster.simulations.checkers.history import History, OutcomeKind
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.workload import SimWorkload
from keycluster.simulations.trace import Trace
from keycluster.simulations.workload.plan import STEPS, Plan, draw_plan
from tests.simulations.region.quiet_region import in_region

PLAN = replace(
    draw_plan(1, clients=4, rate_per_s=60.0), weights=STEPS, aws_clients=1, keys_max=5, pin_chance=0.3, in_flight_max=4
)


class Ran:
    """A run without faults, over."""

    def __init__(self, plan: Plan = PLAN, *, seconds: float = 5.0, days: int = 0) -> None:
        self.history, self.trace = History(), Trace()
        self.alive = False
        self.plan, self.seconds, self.days = plan, seconds, days
        self.work: SimWorkload
        in_region(self._body, trace=self.trace)

    async def _body(self, region: SimRegion) -> None:
        self.work = work = SimWorkload(region, self.plan, seed="7", history=self.history, trace=self.trace)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.run)
            await trio.sleep(self.seconds)
            await work.stop()
        self.alive = await work.prove_alive(seconds=5.0)
        if self.days:
            await work.let_time_pass(days=self.days)
        await work.last_look(blobs_max=30)


@pytest.fixture(scope="module")
def ran() -> Ran:
    return Ran()


def test_clients_do_a_little_of_everything(ran: Ran) -> None:
    """At every node, through both doors, and without an answer that contract 2 forbids."""
    done = Counter(call.operation for call in ran.history.calls if call.is_ok)
    assert len(done) > 20
    assert {call.client for call in ran.history.calls} >= {"c0", "c1", "c2", "c3", "visitor"}
    assert {call.node for call in ran.history.calls if call.is_ok} >= {"n0", "n1", "n2"}
    assert {(call.request_id or "/").split("/")[0] for call in ran.history.calls} == {"native", "aws", ""}
    assert (ran.alive, ran.work.failures, check_currency(ran.history)) == (True, [], [])


def test_nothing_is_in_doubt_in_fair_weather(ran: Ran) -> None:
    """Unknown outcomes come from faults alone: without any, each call has an answer."""
    assert not [call.describe() for call in ran.history.calls if call.kind is OutcomeKind.UNKNOWN]


def test_last_look_asks_for_what_was_encrypted(ran: Ran) -> None:
    """Each key at each node, and ciphertexts of the whole run."""
    last = [call for call in ran.history.calls if call.client == "visitor"]
    keys = {call.key for call in ran.history.calls if call.operation == "CreateKey" and call.is_ok}
    assert {(call.key, call.node) for call in last if call.operation == "DescribeKey"} == {
        (key, node) for key in keys for node in ("n0", "n1", "n2")
    }
    assert sum(call.operation == "Decrypt" for call in last) == 30


def test_same_seed_asks_and_is_answered_the_same(ran: Ran) -> None:
    """Byte by byte, with TLS, HTTP, log-ins and four programs at once."""
    again = Ran()
    assert again.trace.sha256() == ran.trace.sha256()
    assert list(again.history.to_json_lines()) == list(ran.history.to_json_lines())


def test_another_process_with_other_hashes_does_the_same(ran: Ran) -> None:
    """No order of a set or a hash decides anything."""
    code = "from tests.simulations.region.test_workload import Ran; print(Ran().trace.sha256())"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.split()[-1] == ran.trace.sha256()


def test_time_that_passes_ends_keys_and_rotates_others() -> None:
    """A key's waiting time is longer than any run: clocks go on at its end, and an operator confirms it."""
    weights = {**dict.fromkeys(STEPS, 0.0), "create_key": 1.0, "encrypt": 3.0, "enable_rotation": 1.0}
    plan = replace(PLAN, weights={**weights, "schedule_deletion": 1.0}, clients=2, aws_clients=0, rate_per_s=20.0)
    ran = Ran(plan, days=400)
    scheduled = {call.key for call in ran.history.calls if call.operation == "ScheduleKeyDeletion" and call.is_ok}
    assert scheduled
    by_itself = [(call.operation, call.key) for call in ran.history.calls if call.client == "region"]
    made = {call.key for call in ran.history.calls if call.operation == "CreateKey" and call.client != "visitor"}
    assert {key for operation, key in by_itself if operation == "CompleteKeyDeletion"} == scheduled
    assert {key for operation, key in by_itself if operation == "RotateKeyAutomatically"} >= made
    last = [call for call in ran.history.calls if call.client == "visitor" and call.operation == "DescribeKey"]
    assert {call.key for call in last if call.code == "NotFoundException"} == scheduled
    assert any(
        call.operation == "ListKeyRotations" and call.is_ok and call.value["Rotations"] for call in ran.history.calls
    )


def test_stop_waits_for_what_is_under_way() -> None:
    """Every call that was begun has ended when it returns, by its own time at the latest."""

    async def body(region: SimRegion) -> object:
        history, trace = History(), Trace()
        work = SimWorkload(region, replace(PLAN, rate_per_s=200.0), seed="3", history=history, trace=trace)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.run)
            await trio.sleep(1.0)
            for node in region.nodes.values():
                node.crash("a test")
            await trio.sleep(0.5)
            await work.stop()
        return len(history.calls) > 50, [call for call in history.calls if call.outcome is None]

    assert in_region(body) == (True, [])


def test_dead_region_is_not_alive() -> None:
    """A proof of life that nobody could fail would be none."""

    async def body(region: SimRegion) -> object:
        work = SimWorkload(region, PLAN, seed="3", history=History(), trace=Trace())
        seen: list[bool] = [await work.prove_alive(seconds=5.0)]
        for node in list(region.nodes.values())[:2]:
            node.crash("a test")
        seen.append(await work.prove_alive(seconds=5.0))
        return seen

    assert in_region(body) == [True, False]


def test_visitor_knows_nothing_of_the_clients() -> None:
    """It is on no list of the nemesis, and asks as any program does."""

    async def body(region: SimRegion) -> object:
        work = SimWorkload(region, PLAN, seed="3", history=History(), trace=Trace())
        return work.names

    assert in_region(body) == ["c0", "c1", "c2", "c3"]
