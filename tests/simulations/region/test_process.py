"""Processes are stopped, continued and killed from outside, whatever their tasks are at."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.cluster.invariant import InvariantBroken
from keycluster.simulations.region.deterministic import run_deterministically
from keycluster.simulations.region.process import Process, process_of
from keycluster.simulations.region.wire import Wire


async def tick(ticks: list[float], every_s: float = 1.0) -> None:
    while True:
        await trio.sleep(every_s)
        ticks.append(round(trio.current_time(), 6))


def run(main: Callable[[trio.Nursery], Awaitable[object]]) -> None:
    """Runs it with a nursery that is cancelled afterwards."""

    async def with_nursery() -> None:
        async with trio.open_nursery() as nursery:
            await main(nursery)
            nursery.cancel_scope.cancel()

    run_deterministically(with_nursery, seed=1)


def test_stopped_process_takes_no_step_and_goes_on_later() -> None:
    """A deadline that passed meanwhile shows once, at the end of the pause; others aren't held up."""

    async def main(nursery: trio.Nursery) -> None:
        stopped: list[float] = []
        other: list[float] = []
        process = Process("n1")
        nursery.start_soon(process.run, tick, stopped)
        nursery.start_soon(Process("n2").run, tick, other)
        await trio.sleep(2.5)
        process.pause()
        assert process.paused
        await trio.sleep(5.2)
        process.resume()
        await trio.sleep(1.5)
        assert stopped == [1, 2, 7.7, 8.7]
        assert other == [1, 2, 3, 4, 5, 6, 7, 8, 9]

    run(main)


def test_wake_ups_of_a_stopped_process_are_kept() -> None:
    """Each of its tasks takes exactly the step it was woken for, with the value it was given."""

    async def main(nursery: trio.Nursery) -> None:
        taken = []
        send, receive = trio.open_memory_channel[int](0)

        async def taker() -> None:
            taken.append(await receive.receive())

        async def takers() -> None:
            async with trio.open_nursery() as inner:
                for _ in range(5):
                    inner.start_soon(taker)

        process = Process("n1")
        nursery.start_soon(process.run, takers)
        await trio.sleep(1)
        process.pause()
        for number in range(5):
            send.send_nowait(number)
        await trio.sleep(1)
        assert taken == []
        process.resume()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert sorted(taken) == [0, 1, 2, 3, 4]

    run(main)


def test_tasks_about_to_run_are_stopped_too() -> None:
    """A pause takes effect within the batch of tasks that trio is at."""

    async def main(nursery: trio.Nursery) -> None:
        steps = []
        process = Process("n1")

        async def step_often() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                steps.append(trio.current_time())

        async def many() -> None:
            async with trio.open_nursery() as inner:
                for _ in range(50):
                    inner.start_soon(step_often)

        nursery.start_soon(process.run, many)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        process.pause()
        before = len(steps)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert len(steps) == before > 0
        process.resume()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert len(steps) > before
        process.kill()

    run(main)


def test_spawned_tasks_belong_to_the_process_of_their_spawner() -> None:
    """Also in another process's nursery, and in one that nobody's task opened."""

    async def main(nursery: trio.Nursery) -> None:
        owners: dict[str, Process | None] = {}
        inner: list[trio.Nursery] = []

        async def note_owner(name: str) -> None:
            owners[name] = process_of(trio.lowlevel.current_task())

        async def opens_nursery() -> None:
            async with trio.open_nursery() as opened:
                inner.append(opened)
                await trio.sleep_forever()

        async def spawns() -> None:
            await note_owner("main")
            nursery.start_soon(note_owner, "in the harness's nursery")
            inner[0].start_soon(note_owner, "in another process's nursery")

        one, two = Process("n1"), Process("n2")
        nursery.start_soon(one.run, opens_nursery)
        await trio.sleep(1)
        nursery.start_soon(two.run, spawns)
        nursery.start_soon(note_owner, "nobody's")
        await trio.sleep(1)
        assert owners.pop("nobody's") is None
        assert len(owners) == 3
        assert set(owners.values()) == {two}

    run(main)


def test_killed_process_ends_at_once_shields_or_not() -> None:
    """Shielded waits, and shields raised while it ends, hold up nothing; the stopped can be killed as well."""

    async def main(nursery: trio.Nursery) -> None:
        async def clings() -> None:
            try:
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)

        async def several() -> None:
            async with trio.open_nursery() as inner:
                for _ in range(3):
                    inner.start_soon(clings)

        for pause in (False, True):
            process, ended = Process("n1"), trio.Event()

            async def run_process(process: Process = process, ended: trio.Event = ended) -> None:
                await process.run(several)
                ended.set()

            nursery.start_soon(run_process)
            await trio.sleep(1)
            if pause:
                process.pause()
                await trio.sleep(1)
            process.kill()
            killed_at = trio.current_time()
            await ended.wait()
            assert trio.current_time() == killed_at
            assert process.killed
            assert not process.paused

    run(main)


def test_other_processes_survive_a_kill() -> None:
    """And so do those who wait for the killed one."""

    async def main(nursery: trio.Nursery) -> None:
        ticks: list[float] = []
        one = Process("n1")
        nursery.start_soon(one.run, tick, [])
        nursery.start_soon(Process("n2").run, tick, ticks)
        await trio.sleep(1.5)
        one.kill()
        one.kill()
        one.pause()
        await trio.sleep(1)
        assert ticks == [1, 2]

    run(main)


def test_failure_of_a_process_comes_out_unless_it_was_killed() -> None:
    """As it is, without a group around it; what the killed one raises in the end is nobody's business."""

    async def main(nursery: trio.Nursery) -> None:
        async def fail() -> None:
            raise ValueError("on purpose")

        async def fail_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose"):
            await Process("n1").run(fail)
        killed = Process("n1")
        nursery.start_soon(killed.run, fail_when_cancelled)
        await trio.sleep(1)
        killed.kill()
        await trio.sleep(1)
        with pytest.raises(InvariantBroken):
            await killed.run(fail)

    run(main)


def test_callback_runs_right_after_the_chosen_step() -> None:
    """Counting begins when somebody asks and stops with the last who does."""

    async def main(nursery: trio.Nursery) -> None:
        ticks: list[float] = []
        process, other = Process("n1"), Process("n2")
        nursery.start_soon(process.run, tick, ticks)
        nursery.start_soon(other.run, tick, [], 0.01)
        await trio.sleep(1.5)
        seen = []
        process.at_step(process.steps + 3, lambda: seen.append(list(ticks)))
        process.at_step(process.steps + 1, lambda: seen.append(list(ticks)))
        await trio.sleep(10)
        assert seen == [[1, 2], [1, 2, 3, 4]]
        assert process.steps == 3
        assert other.steps == 0
        process.at_step(4, process.kill)
        await trio.sleep(5)
        assert ticks[-1] == 12
        with pytest.raises(InvariantBroken):
            process.at_step(4, process.kill)

    run(main)


def test_failing_callback_ends_the_run() -> None:
    """trio would log an instrument's exception and go on without it."""

    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    async def main(nursery: trio.Nursery) -> None:
        process = Process("n1")
        nursery.start_soon(process.run, tick, [])
        process.at_step(2, fail)
        await trio.sleep(10)

    with pytest.raises(ZeroDivisionError):
        run(main)


def test_process_may_stop_itself_or_be_stopped_by_a_callback() -> None:
    """Out of one of its own steps, and between tasks."""

    async def main(nursery: trio.Nursery) -> None:
        wire, ticks = Wire(), []
        await nursery.start(wire.run)
        process = Process("n1")

        async def stops_itself() -> None:
            process.pause()
            ticks.append(trio.current_time())
            await trio.lowlevel.checkpoint()
            ticks.append(trio.current_time())

        nursery.start_soon(process.run, stops_itself)
        wire.at(3_000_000_000, process.resume)
        await trio.sleep(5)
        assert ticks == [0, 3]
        stopped = Process("n2")
        nursery.start_soon(stopped.run, tick, ticks)
        wire.at(6_500_000_000, stopped.pause)
        wire.at(9_500_000_000, stopped.resume)
        await trio.sleep(5)
        assert ticks[2:] == [6, 9.5]

    run(main)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["pause", "resume", "kill"]), st.integers(0, 2), st.integers(0, 30))))
def test_any_order_of_pauses_and_kills_keeps_the_promises(actions: list[tuple[str, int, int]]) -> None:
    """No step while stopped, none after the kill is through, and time that wasn't stopped is used in full."""

    async def main(nursery: trio.Nursery) -> None:
        processes = [Process(f"n{number}") for number in range(3)]
        ticks: list[list[float]] = [[] for _ in processes]
        for process, own in zip(processes, ticks, strict=True):
            nursery.start_soon(process.run, tick, own, 0.01)
        await trio.sleep(0.005)
        for action, which, tenths_s in actions:
            getattr(processes[which], action)()
            before = [len(own) for own in ticks]
            await trio.sleep(tenths_s / 10)
            for process, own, count in zip(processes, ticks, before, strict=True):
                if process.paused or process.killed:
                    assert len(own) == count
                else:
                    assert abs(len(own) - count - tenths_s * 10) <= 1

    run(main)
