"""A program of hundreds of tasks that notes everything whose order trio leaves to chance, addresses or real time.

As a program it prints the SHA-256 of its notes: `python -m tests.simulations.region.busy_program`.
"""

import hashlib
import os
import random
from collections.abc import Callable, Collection
from itertools import count

import trio
import trio.testing

from keycluster.simulations.region.deterministic import run_deterministically

TASKS = 150

Note = Callable[..., None]


async def wait_noting(note: Note, *what: object) -> None:
    """Waits until it is cancelled, and notes when that reaches it."""

    def abort(_: object) -> trio.lowlevel.Abort:
        note("aborted", *what)
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(abort)


async def cancelled_tasks(note: Note) -> None:
    """One nursery's tasks are cancelled: trio keeps them in a set."""
    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(wait_noting, note, "task", number)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def cancelled_scopes(note: Note) -> None:
    """Tasks that wait within scopes of their own are cancelled from outside: trio keeps the scopes in a set."""

    async def within_scope(number: int) -> None:
        with trio.CancelScope():
            await wait_noting(note, "scope", number)

    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(within_scope, number)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def equal_deadlines(note: Note) -> None:
    """Scopes end at one instant: trio keeps them in a heap, by address."""

    async def until(deadline: float, number: int) -> None:
        with trio.move_on_at(deadline):
            await wait_noting(note, "deadline", number)

    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(until, trio.current_time() + 0.5, number)


async def waits_for_idleness(note: Note) -> None:
    """Tasks wait for all others to block: trio keeps them in a dictionary, sorted by address."""

    async def until_idle(number: int) -> None:
        await trio.testing.wait_all_tasks_blocked()
        note("idle", number)

    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(until_idle, number)


class Cycle:
    """Garbage that only a collection finds, and that has something to say then."""

    def __init__(self, note: Note, number: int) -> None:
        self.itself = self
        self.note = note
        self.number = number

    def __del__(self) -> None:
        self.note("collected", self.number)


async def garbage(note: Note) -> None:
    for number in range(60 * TASKS):
        Cycle(note, number)
        if number % 50 == 0:
            note("made", number)
            await trio.sleep(0.001)


async def traffic(note: Note) -> None:
    """What programs do: channels, events, locks, time-outs, all at random times."""
    rng = random.Random("traffic")
    send, receive = trio.open_memory_channel[int](3)
    lock = trio.Lock()

    async def sender(number: int) -> None:
        for _ in range(3):
            await trio.sleep(rng.choice((0.01, 0.02, 0.03)))
            await send.send(number)

    async def receiver(name: int) -> None:
        with trio.move_on_after(0.2):
            while True:
                number = await receive.receive()
                async with lock:
                    note("received", name, number, round(trio.current_time(), 6))
                    await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(sender, number)
        for name in range(TASKS):
            nursery.start_soon(receiver, name)
        await trio.sleep(0.25)
        nursery.cancel_scope.cancel()


async def everything(note: Note) -> None:
    async with trio.open_nursery() as nursery:
        for part in (cancelled_tasks, cancelled_scopes, equal_deadlines, garbage, traffic):
            nursery.start_soon(part, note)
    await waits_for_idleness(note)


def run(part: Callable[[Note], object] = everything, *, seed: int = 1, leave_out: Collection[str] = ()) -> str:
    """The SHA-256 of the notes."""
    digest, numbers, over = hashlib.sha256(), count(), False

    def note(*what: object) -> None:
        if not over:
            digest.update(repr((next(numbers), *what)).encode())

    async def main() -> None:
        await part(note)  # type: ignore[misc]  # Parts are async functions.

    run_deterministically(main, seed=seed, leave_out=leave_out)
    over = True
    return digest.hexdigest()


def disturb_memory() -> list[object]:
    """Has later objects lie at other addresses; they do as long as the result lives."""
    rng = random.Random(os.urandom(8))
    objects: list[object] = [bytearray(rng.randrange(1, 600)) for _ in range(20_000)]
    objects += [{rng.random(): rng.random()} for _ in range(5_000)]
    rng.shuffle(objects)
    left = objects[: rng.randrange(5_000, 20_000)]
    objects.clear()
    return [left, [[] for _ in range(rng.randrange(600))]]  # These count towards the next garbage collection.


if __name__ == "__main__":
    disturbance = disturb_memory()
    print(run())
