"""Handlers share the event loop with heartbeats, and accounts share it with each other."""

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from keycluster.node.turns import Turns
from tests.node.turn_meter import TurnMeter

TURN, WORK = 0.002, 0.0015


class Bench:
    """Turns, and the order in which work was done."""

    def __init__(self) -> None:
        self.meter = TurnMeter()
        self.turns = Turns(turn_seconds=TURN, now=self.meter.now)
        self.done: list[str] = []

    def work(self, name: str, seconds: float = WORK) -> str:
        self.meter.spend(seconds)
        self.done.append(name)
        return name

    async def ask(self, account: str, name: str, seconds: float = WORK) -> None:
        assert await self.turns.run(account, partial(self.work, name, seconds)) == name


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    with made.meter.running():
        yield made
    assert made.turns.waiting == 0


async def test_work_with_time_left_is_done_at_once(bench: Bench) -> None:
    """The usual case costs no turn."""
    began = len(bench.meter.by_turn)
    for _ in range(2):
        await bench.ask("a", "x")
    assert len(bench.meter.by_turn) == began


async def test_work_that_is_ready_at_once_is_spread_over_turns(bench: Bench) -> None:
    """However much there is: between two turns no more than the turn's time and what began within it."""
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(bench.ask, f"{number % 3}", f"{number}")
    assert len(bench.done) == 100
    assert bench.meter.longest <= TURN + WORK


async def test_quick_work_shares_turns(bench: Bench) -> None:
    """A turn isn't spent on one small piece."""
    began = len(bench.meter.by_turn)
    async with trio.open_nursery() as nursery:
        for number in range(1_000):
            nursery.start_soon(bench.ask, "a", f"{number}", TURN / 100)
    assert len(bench.meter.by_turn) - began < 30


async def test_account_that_asks_for_much_waits_for_itself(bench: Bench) -> None:
    """Another one's work is done after one piece of each who waits."""
    async with trio.open_nursery() as nursery:
        await _fill_the_turn(bench)
        for number in range(50):
            nursery.start_soon(bench.ask, "greedy", f"greedy {number}")
        await trio.lowlevel.checkpoint()
        bench.done.clear()
        nursery.start_soon(bench.ask, "modest", "modest")
    assert "modest" in bench.done[:5]


async def test_one_account_s_work_is_done_in_order(bench: Bench) -> None:
    """First come, first served."""
    async with trio.open_nursery() as nursery:
        await _fill_the_turn(bench)
        for number in range(20):
            nursery.start_soon(bench.ask, "a", f"{number}")
            await trio.lowlevel.checkpoint()  # trio starts tasks of one turn in any order.
    assert sorted(bench.done[2:], key=int) == bench.done[2:]


async def test_who_is_cancelled_in_line_leaves(bench: Bench) -> None:
    """Their work is never done, and nobody's is held up by it."""
    async with trio.open_nursery() as nursery:
        await _fill_the_turn(bench)
        scopes = [trio.CancelScope() for _ in range(30)]
        for number, scope in enumerate(scopes):
            nursery.start_soon(_ask_within, scope, bench, f"{number}")
        for _ in range(2):
            await trio.lowlevel.checkpoint()
        assert bench.turns.waiting > 3
        for scope in scopes:
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.turns.waiting == 0
        await bench.ask("a", "after")
    assert len(bench.done) < 20
    assert bench.done[-1] == "after"


async def test_work_that_fails_fails_for_its_asker_alone(bench: Bench) -> None:
    """At once, in line, and when its asker drives."""

    def fail() -> None:
        bench.meter.spend(WORK)
        raise ValueError("mine")

    async def ask_in_vain() -> None:
        with pytest.raises(ValueError, match="mine"):
            await bench.turns.run("a", fail)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask_in_vain)
            nursery.start_soon(bench.ask, "a", f"{number}")
    assert sorted(map(int, bench.done)) == list(range(20))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.004), st.integers(0, 3), st.booleans()), max_size=60))
def test_all_work_is_done_once_whoever_leaves(askers: list[tuple[str, float, int, bool]]) -> None:
    """Any askers at any time: who stays has their work done once, and no turn is longer than it may be."""
    trio.run(_walk, askers)


async def _walk(askers: list[tuple[str, float, int, bool]]) -> None:
    bench = Bench()
    scopes = [trio.CancelScope() for _ in askers]
    with bench.meter.running():
        async with trio.open_nursery() as nursery:
            for number, (account, seconds, pauses, leaves) in enumerate(askers):
                nursery.start_soon(_ask_within, scopes[number], bench, f"{number}", account, seconds)
                for _ in range(pauses):
                    await trio.lowlevel.checkpoint()
                if leaves:
                    scopes[number].cancel()
    stayed = {f"{number}" for number, (*_, leaves) in enumerate(askers) if not leaves}
    assert stayed <= set(bench.done)
    assert len(bench.done) == len(set(bench.done))
    assert bench.meter.longest <= TURN + 0.004
    assert bench.turns.waiting == 0
    began = len(bench.meter.by_turn)
    await bench.turns.run("a", lambda: None)
    await bench.turns.run("a", lambda: None)
    assert len(bench.meter.by_turn) == began  # Nobody is left driving.


async def _fill_the_turn(bench: Bench) -> None:
    for number in (-2, -1):
        await bench.ask("before", f"{number}")


async def _ask_within(
    scope: trio.CancelScope, bench: Bench, name: str, account: str = "a", seconds: float = WORK
) -> None:
    with scope:
        await bench.ask(account, name, seconds)
