"""How much of the event loop handlers get before everything else has a turn, and whose handler is next.

Heartbeats and leases are steps of the same loop: a handler that runs holds them up, and so do a thousand quick ones
that are ready at once. So in one turn of the loop (trio runs every task that is ready once, then looks for what is new)
no handler begins once handlers have run for `TURN_SECONDS`. Who comes later waits in their account's line, and the
lines take turns, one piece of work each: an account that asks for much waits for itself.

There is no task that does this, and so none to start or to lose. While anybody waits, one of the waiting drives: when
the loop comes back to it, it does its own work, then others' until the time is up, then names who drives in the next
turn.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import outcome
import trio

TURN_SECONDS: Final = 0.002
"""A thirtieth of a heartbeat's distance; thirty times a usual receive's work, so that most of them never wait."""

T = TypeVar("T")
_Work = Callable[[], Any]
_Task = trio.lowlevel.Task


class Turns:
    """One node's. A piece of work is plain code that waits for nothing: a handler, or all that one receive brought."""

    __slots__ = ("_is_driven", "_lines", "_now", "_spent", "_turn_seconds")

    def __init__(self, *, turn_seconds: float = TURN_SECONDS, now: Callable[[], float] = trio.current_time) -> None:
        self._turn_seconds = turn_seconds
        self._now = now
        self._spent = 0.0  # Since the loop surely turned: perhaps in several turns, then somebody waits for one more.
        self._is_driven = False
        self._lines: OrderedDict[str, OrderedDict[_Task, _Work]] = OrderedDict()  # By account, in order of their turns.

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    async def run(self, account: str, work: Callable[[], T]) -> T:
        """What `work` returns or raises: at once if nobody waits and there is time left, otherwise in line.

        Lines are as long as their accounts may have requests under way (`node/shares.py`). Who is cancelled leaves.
        """
        if self._is_driven:
            found = await self._wait_in_line(account, work)
            if found is not None:
                return cast(T, found.unwrap())
        elif self._spent < self._turn_seconds:
            return self._timed(work)
        else:
            self._is_driven = True
            await trio.lowlevel.cancel_shielded_checkpoint()  # Whoever is to drive must come to it.
        self._spent = 0.0
        try:
            return self._timed(work)
        finally:
            self._drive()

    def _timed(self, work: Callable[[], T]) -> T:
        began = self._now()
        try:
            return work()
        finally:
            self._spent += self._now() - began

    @staticmethod
    def _done(task: _Task, result: "outcome.Outcome[Any] | None") -> None:
        trio.lowlevel.reschedule(task, outcome.Value(result))

    def _drive(self) -> None:
        """Others' work until the time is up. What it raises is theirs."""
        while self._lines and self._spent < self._turn_seconds:
            task, work = self._next()
            self._done(task, outcome.capture(self._timed, work))
        if self._lines:
            task, _ = self._next()
            self._done(task, None)  # It drives, and begins with its own.
        else:
            self._is_driven = False

    def _next(self) -> tuple[_Task, _Work]:
        account, line = self._lines.popitem(last=False)
        first = line.popitem(last=False)
        if line:
            self._lines[account] = line  # Behind the others.
        return first

    async def _wait_in_line(self, account: str, work: _Work) -> "outcome.Outcome[Any] | None":
        """What came of the work; None if this task is to drive now."""
        task = trio.lowlevel.current_task()
        self._lines.setdefault(account, OrderedDict())[task] = work

        def leave(_: object) -> trio.lowlevel.Abort:
            line = self._lines[account]
            del line[task]
            if not line:
                del self._lines[account]
            return trio.lowlevel.Abort.SUCCEEDED

        return cast("outcome.Outcome[Any] | None", await trio.lowlevel.wait_task_rescheduled(leave))
