"""Runs repeat, in any process; each patch is needed; what would reach past the seams fails loudly."""

import gc
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import trio
from trio._core import _run

from keycluster.simulations.region import deterministic
from keycluster.simulations.region.deterministic import (
    EVERY_PATCH,
    SeamBypassed,
    Stuck,
    UnknownTrio,
    current_loop,
    run_deterministically,
)
from keycluster.simulations.region.wire import Wire
from tests.simulations.region import busy_program

ROOT = Path(__file__).parents[3]


def test_busy_program_gives_one_trace_in_processes_of_different_hash_seeds() -> None:
    """Hundreds of tasks do the same in the same order, whatever PYTHONHASHSEED is and wherever objects lie."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulations.region.busy_program"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (0, 1, 4_000_000)
    ]
    traces = {program.communicate(timeout=60)[0] for program in programs}
    assert all(program.returncode == 0 for program in programs)
    assert len(traces) == 1
    assert len(traces.pop().strip()) == 64


def test_busy_program_gives_one_trace_after_other_runs() -> None:
    """What ran before in the process leaves nothing behind."""
    first = busy_program.run()
    other = busy_program.run(seed=2)
    disturbance = busy_program.disturb_memory()
    assert busy_program.run() == first != other
    del disturbance


SHOWN_BY = {
    "order of batches": busy_program.waits_for_idleness,
    "order of tasks": busy_program.cancelled_tasks,
    "order of scopes": busy_program.cancelled_scopes,
    "order of deadlines": busy_program.equal_deadlines,
    "garbage": busy_program.garbage,
}


def test_every_patch_has_a_part_of_the_program() -> None:
    """None may be added without its reason."""
    assert SHOWN_BY.keys() == EVERY_PATCH


@pytest.mark.parametrize(("patch", "part"), SHOWN_BY.items())
def test_each_patch_is_needed(patch: str, part: Callable[[busy_program.Note], object]) -> None:
    """The same part of the program repeats with all patches, and doesn't without the one that is for it."""

    def traces(*, leave_out: frozenset[str]) -> set[str]:
        found = set()
        for _ in range(6):
            disturbance = busy_program.disturb_memory()
            found.add(busy_program.run(part, leave_out=leave_out))
            del disturbance
        return found

    assert len(traces(leave_out=frozenset())) == 1
    assert len(traces(leave_out=frozenset({patch}))) > 1


def test_patches_are_undone() -> None:
    """After a run, also a failed one, trio and the modules of the real world are what they were."""

    def state() -> list[object]:
        return [
            _run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING, _run.CancelStatus, _run.Deadlines.add,
            _run.Runner.reschedule, "__hash__" in vars(_run.Task),
            time.time, os.urandom, random.random, socket.socket.__init__,
        ]  # fmt: skip

    async def fail() -> None:
        raise ValueError("on purpose")

    before = state()
    with pytest.raises(ValueError, match="on purpose"):
        run_deterministically(fail, seed=1)
    assert state() == before
    with pytest.raises(RuntimeError, match="inside run_deterministically"):
        current_loop()


def test_virtual_time_passes_without_real_time() -> None:
    """A day of sleep takes no time, and a deadline is met to the bit."""

    async def main() -> float:
        with trio.move_on_after(0.1):
            await trio.sleep_forever()
        assert trio.current_time() == 0.1
        await trio.sleep_until(86_400.3)
        return trio.current_time()

    started = time.monotonic()
    assert run_deterministically(main, seed=1) == 86_400.3
    assert time.monotonic() - started < 5


def test_run_in_which_nothing_can_happen_is_stuck() -> None:
    """All wait for ever: that is told, and tasks are ended in order."""
    ended = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.sleep(3)
            await trio.Event().wait()

    with pytest.raises(Stuck, match=r"at 3\.0"):
        run_deterministically(main, seed=1)
    assert ended == [True]


def test_run_that_never_leaves_an_instant_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that go on without time going on are found."""
    monkeypatch.setattr(deterministic, "PASSES_AT_AN_INSTANT_MAX", 1_000)

    async def main() -> None:
        await trio.sleep(0.5)
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(Stuck, match=r"at 0\.5"):
        run_deterministically(main, seed=1)


def test_run_that_cannot_be_ended_leaves_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that don't even end when cancelled are left behind, and cost a campaign one seed."""
    monkeypatch.setattr(deterministic, "PASSES_AT_AN_INSTANT_MAX", 1_000)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # What is left behind complains when it is collected.

    async def main() -> None:
        while True:
            with suppress(Stuck):
                await trio.lowlevel.cancel_shielded_checkpoint()

    with pytest.raises(Stuck):
        run_deterministically(main, seed=1)
    run_deterministically(trio.lowlevel.checkpoint, seed=1)
    gc.collect()


def test_failure_out_of_a_callback_ends_the_run() -> None:
    """What goes wrong outside of any task comes out of the run as it is."""

    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    async def main() -> None:
        wire = Wire()
        wire.after(1_000, fail)
        async with trio.open_nursery() as nursery:
            await nursery.start(wire.run)

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run_deterministically(main, seed=1)


def test_other_trio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run loop that nobody read isn't patched blindly."""
    monkeypatch.setattr(deterministic, "READ_SOURCES", {_run: "0" * 64})
    with pytest.raises(UnknownTrio, match=r"_run\.py differs"):
        run_deterministically(trio.lowlevel.checkpoint, seed=1)


def test_run_inside_a_run_is_refused() -> None:
    """There is one loop at a time."""

    async def main() -> None:
        run_deterministically(trio.lowlevel.checkpoint, seed=2)

    with pytest.raises(RuntimeError, match="inside another"):
        run_deterministically(main, seed=1)


def in_product(source: str) -> Callable[[], object]:
    """A function of that expression, in a module that looks like one of the product's."""
    module = ModuleType("keycluster.node.made_up")
    vars(module).update(os=os, time=time, random=random, uuid=uuid, secrets=secrets)
    exec(f"def call():\n    return {source}", vars(module))
    call: Callable[[], object] = module.call
    return call


@pytest.mark.parametrize(
    "source",
    ["time.time()", "time.monotonic()", "time.time_ns()", "time.clock_gettime_ns(time.CLOCK_BOOTTIME)", "os.urandom(8)",
     "random.random()", "random.choice([1])", "secrets.token_bytes(8)", "uuid.uuid4()"],
)  # fmt: skip
def test_product_code_that_reaches_past_a_seam_fails(source: str) -> None:
    """Clocks and randomness of the real world refuse the product's modules, and nobody else."""
    call = in_product(source)
    call()

    async def main() -> None:
        eval(source)
        call()

    with pytest.raises(SeamBypassed, match=r"keycluster\.node\.made_up, line 2"):
        run_deterministically(main, seed=1)
    call()


async def want_socket() -> None:
    socket.socket()


async def want_thread() -> None:
    await trio.to_thread.run_sync(lambda: None)


@pytest.mark.parametrize("want", [want_socket, want_thread])
def test_sockets_and_threads_are_refused(want: Callable[[], Awaitable[None]]) -> None:
    """Nothing in a simulated run needs one. The run fails even where the refusal is caught."""

    async def main() -> None:
        with suppress(Exception):
            await want()
        await trio.sleep(1)

    with pytest.raises(SeamBypassed, match="is wanted"):
        run_deterministically(main, seed=1)


def test_other_threads_may_do_what_they_like() -> None:
    """A worker of a campaign talks to its scheduler meanwhile."""

    async def main() -> None:
        elsewhere: list[socket.socket] = []
        thread = threading.Thread(target=lambda: elsewhere.append(socket.socket()))
        thread.start()
        thread.join()
        elsewhere[0].close()

    run_deterministically(main, seed=1)


def test_interrupt_from_the_keyboard_ends_a_run() -> None:
    """Though the loop doesn't ask the kernel for events."""

    async def main() -> None:
        await trio.sleep(1)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run_deterministically(main, seed=1)
