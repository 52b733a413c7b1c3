"""Simulated operating-system processes: sets of tasks that can be stopped, continued and killed from outside.

A task belongs to the process in whose context it was spawned (a context variable, which trio hands on), whoever owns
the nursery. Tasks of no process (the nemesis, checkers, system tasks) always run.

*Stopped* (SIGSTOP): no task of it takes a step. What would wake one is kept, in order, and handed over at `resume`.
Time goes on, so deadlines that pass meanwhile show then. A step under way in the very moment is finished.

*Killed*: all tasks are cancelled, shields included, whatever they hold on to. Python runs their `finally` blocks, as
no real kill would: callers cut off the process's disk and network first, so that nothing of it reaches the world.
"""

import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

import outcome
import trio
from trio._core import _run

from keycluster.cluster.invariant import require
from keycluster.simulations.region.deterministic import Loop, current_loop, patched, take_off_shields

_of_task: ContextVar["Process | None"] = ContextVar("process", default=None)


def process_of(task: trio.lowlevel.Task) -> "Process | None":
    """The process a task belongs to."""
    return task.context.get(_of_task)  # The variable's default is None, and so is this one's.


class Process:
    """One process; made inside `run_deterministically`, run once. A restarted node is another one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.steps = 0
        """Steps its tasks took while they were counted: from the first `at_step` on, as long as one waits."""
        self._table = _table_of(current_loop())
        self._scope = trio.CancelScope()
        self._started = False
        self._over = False
        self._held: deque[trio.lowlevel.Task] | None = None
        self._at_step: list[tuple[int, int, Callable[[], object]]] = []

    def __repr__(self) -> str:
        return f"Process({self.name})"

    @property
    def paused(self) -> bool:
        return self._held is not None

    async def run(self, main: Callable[..., Awaitable[object]], *args: object) -> None:
        """Runs `main(*args)`, and what it spawns, as this process, until it ends or is killed.

        The calling task isn't part of it. An exception of `main` comes out as it is. Cancelled from outside, it kills
        the process: a stopped one could not end in order.
        """
        require(not self._started, f"process {self.name} is run a second time")
        self._started = True
        ending: list[outcome.Outcome[object]] = []

        async def as_process() -> None:
            ending.append(await outcome.acapture(main, *args))

        context = copy_context()
        context.run(_of_task.set, self)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._kill_when_cancelled)
                async with trio.open_nursery() as tasks:
                    context.run(tasks.start_soon, as_process)
                self._over = True
                nursery.cancel_scope.cancel()
        if ending and not self.killed:
            ending[0].unwrap()

    async def _kill_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not self._over:
                self.kill()

    def pause(self) -> None:
        """SIGSTOP. Does nothing where it is stopped already."""
        if self._held is None and not self.killed:
            self._held = deque()
            self._table.stop(self, self._held)

    def resume(self) -> None:
        """SIGCONT. Does nothing where it isn't stopped."""
        if self._held is not None:
            held, self._held = self._held, None
            self._table.go_on(self, held)

    def kill(self) -> None:
        """SIGKILL, also of a stopped one. The `run` of it returns once all of its tasks are gone."""
        if not self.killed:
            self.killed = True
            self._at_step.clear()
            self._scope.cancel()
            self.resume()
            self._table.bury(self._scope)

    def at_step(self, step: int, callback: Callable[[], object]) -> None:
        """Runs `callback()` right after the step with which `steps` reaches `step`."""
        require(step > self.steps, "that step was taken already")
        if not self.killed:
            heappush(self._at_step, (step, self._table.next_number(), callback))
            self._table.count_steps(self)

    def took_step(self) -> bool:
        """Counts one (called by the table). Returns whether anybody still waits for one."""
        self.steps += 1
        while self._at_step and self._at_step[0][0] <= self.steps:
            heappop(self._at_step)[2]()
        return bool(self._at_step)


@dataclass(eq=False)
class _StepCounter(trio.abc.Instrument):
    """Installed only while somebody waits for a step: it costs 0.3 µs each."""

    table: "_Table"

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        process = process_of(task)
        if process is not None and process in self.table.counted:
            try:
                waited_for = process.took_step()
            except BaseException as failure:  # noqa: BLE001 (trio would only log it)
                self.table.loop.fail(failure)
                waited_for = False
            if not waited_for:
                self.table.stop_counting(process)


class _Table:
    """What the processes of a run have in common."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.next_number = count().__next__
        self.counted: dict[Process, None] = {}
        self._counter: _StepCounter | None = None
        self._stopped: dict[Process, deque[trio.lowlevel.Task]] = {}
        self._patch = ExitStack()
        loop.at_end(self._patch.close)

    def stop(self, process: Process, held: deque[trio.lowlevel.Task]) -> None:
        if not self._stopped:
            self._patch.enter_context(patched(_run.Runner, "reschedule", self._reschedule(_run.Runner.reschedule)))
        self._stopped[process] = held
        runner = _run.GLOBAL_RUN_CONTEXT.runner
        for waiting in (_batch_under_way(), runner.runq):
            held += [task for task in waiting if process_of(task) is process]
            left = [task for task in waiting if process_of(task) is not process]
            waiting.clear()
            waiting.extend(left)

    def go_on(self, process: Process, held: deque[trio.lowlevel.Task]) -> None:
        del self._stopped[process]
        if not self._stopped:
            self._patch.close()
        _run.GLOBAL_RUN_CONTEXT.runner.runq.extend(held)

    def _reschedule(self, original: Callable[..., None]) -> Callable[..., None]:
        stopped = self._stopped

        def reschedule(runner: _run.Runner, task: trio.lowlevel.Task, next_send: Any = _run._NO_SEND) -> None:
            original(runner, task, next_send)
            process = process_of(task)
            if process is not None and process in stopped:
                runner.runq.pop()
                stopped[process].append(task)

        return reschedule

    def count_steps(self, process: Process) -> None:
        self.counted[process] = None
        if self._counter is None:
            self._counter = _StepCounter(self)
            trio.lowlevel.add_instrument(self._counter)

    def stop_counting(self, process: Process) -> None:
        self.counted.pop(process, None)
        if not self.counted and self._counter is not None:
            trio.lowlevel.remove_instrument(self._counter)
            self._counter = None

    def bury(self, scope: trio.CancelScope) -> None:
        """Takes the shields off a killed process's tasks, again before each pass: a `finally` may raise new ones."""

        def dig() -> None:
            if scope._cancel_status is None:
                end()
            else:
                take_off_shields(scope._cancel_status)

        end = self.loop.before_each_pass(dig)
        dig()


def _batch_under_way() -> list[trio.lowlevel.Task]:
    """The tasks that trio's loop has taken out of its queue and not come to yet: a local variable of it."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is _run.unrolled_run.__code__:
            batch: list[trio.lowlevel.Task] = frame.f_locals["batch"]
            return batch
    return []  # Called between passes, out of a wire's callback.


_tables: dict[Loop, _Table] = {}


def _table_of(loop: Loop) -> _Table:
    if loop not in _tables:
        _tables[loop] = _Table(loop)
        loop.at_end(lambda: _tables.pop(loop))
    return _tables[loop]
