"""Callbacks of the wire run at their instants, in order."""

import trio
from hypothesis import given
from hypothesis import strategies as st

from keycluster.simulations.region.deterministic import run_deterministically
from keycluster.simulations.region.wire import Wire


@given(st.lists(st.integers(0, 10**12)), st.integers(0, 2**32))
def test_callbacks_run_at_their_instants_in_order(instants: list[int], seed: int) -> None:
    """To the nanosecond; those of one instant in the order they were asked for."""

    async def main() -> list[tuple[int, int, int]]:
        wire = Wire()
        ran: list[tuple[int, int, int]] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(wire.run)
            for number, instant in enumerate(instants):
                wire.at(instant, lambda *what: ran.append((wire.now_ns, *what)), instant, number)
            await trio.sleep(1_001)
            nursery.cancel_scope.cancel()
        return ran

    ran = run_deterministically(main, seed=seed)
    assert ran == sorted((instant, instant, number) for number, instant in enumerate(instants))


def test_callback_may_ask_for_more() -> None:
    """For now, which comes before any task runs again, or for later; and it may wake tasks."""

    async def main() -> list[object]:
        wire, woken = Wire(), trio.Event()
        ran: list[object] = []

        def first() -> None:
            ran.append("first")
            wire.after(0, second)
            wire.after(5, woken.set)

        def second() -> None:
            ran.append(wire.now_ns)

        async with trio.open_nursery() as nursery:
            await nursery.start(wire.run)
            wire.at(10, first)
            await woken.wait()
            ran.append(round(trio.current_time() * 1e9))
            nursery.cancel_scope.cancel()
        assert wire.fired == 3
        return ran

    assert run_deterministically(main, seed=1) == ["first", 10, 15]
