"""Virtual time as simulated hardware uses it: callbacks at chosen instants, in nanoseconds from the run's beginning.

Callbacks run between tasks, one after the other, in order of their instants and then in the order they were asked for.
They may wake tasks and set events; they must not wait, and an exception out of one ends the run.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import TypeVarTuple, Unpack

import trio

from keycluster.simulations.region.deterministic import current_loop

Args = TypeVarTuple("Args")


class Wire:
    """Made inside `run_deterministically`; things happen while `run` runs."""

    def __init__(self) -> None:
        self._loop = current_loop()
        self._clock = self._loop.clock
        self._heap: list[tuple[int, int, Callable[..., object], tuple[object, ...]]] = []
        self._numbers = count().__next__
        self.leapt_ns = 0
        """What the wall clocks of all machines have leapt by together (`SimClock`)."""
        self.fired = 0
        """Callbacks run so far."""

    @property
    def now_ns(self) -> int:
        return self._clock.now_ns

    def at(self, at_ns: int, callback: Callable[[Unpack[Args]], object], *args: *Args) -> None:
        """Runs `callback(*args)` at that instant, or before any task runs again where it has passed."""
        heappush(self._heap, (at_ns, self._numbers(), callback, args))

    def after(self, delay_ns: int, callback: Callable[[Unpack[Args]], object], *args: *Args) -> None:
        """Runs `callback(*args)` that much later."""
        heappush(self._heap, (self._clock.now_ns + delay_ns, self._numbers(), callback, args))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        self._loop.attach(self)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._loop.detach()

    def next_ns(self) -> int | None:
        """When the next callback is due (`EventSource`)."""
        return self._heap[0][0] if self._heap else None

    def run_due(self, now_ns: int) -> None:
        """Runs what is due (`EventSource`)."""
        heap = self._heap
        while heap and heap[0][0] <= now_ns:
            _, _, callback, args = heappop(heap)
            self.fired += 1
            callback(*args)
