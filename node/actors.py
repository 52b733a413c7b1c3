"""A node is a tree of supervised actors on trio (design.md, "Actors").

An actor's logic is a plain class; here stands what keeps it running. An actor is started, reports when it is ready,
and is stopped in reverse order of starting. When it fails it is either restarted with back-off (`RESTART`: links,
maintenance) or takes the node down (`STOP_NODE`: what holds state, where going on could serve something wrong). Some
failures take it down whoever meets them: a damaged store isn't worked around by reading it again.
Nothing outlives the supervisor's nursery.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import structlog
import trio

M = TypeVar("M")

RESTART_FIRST_S = 0.05  # The first restart comes at once for a person, but not in a loop that burns a core.
RESTART_LONGEST_S = 5.0
HEALTHY_AFTER_S = 10.0  # An actor that ran this long starts over with the shortest back-off.
STOP_DEADLINE_S = 5.0  # An actor that hasn't stopped by then is cancelled.

log = structlog.get_logger(__name__)


class MailboxFull(Exception):
    """The actor is behind: the caller answers with a throttling error or drops what may be dropped."""


class Mailbox(Generic[M]):
    """A bounded queue into one actor. `tell` never waits; `take_all` is the actor's own and has one caller."""

    def __init__(self, *, capacity: int) -> None:
        self._capacity = capacity
        self._messages: deque[M] = deque()
        self._waiting = trio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def tell(self, message: M) -> None:
        """Raises MailboxFull at capacity."""
        if len(self._messages) >= self._capacity:
            raise MailboxFull
        self._messages.append(message)
        self._waiting.set()

    async def take_all(self) -> list[M]:
        """Everything that waits, at least one message."""
        while not self._messages:
            self._waiting = trio.Event()
            await self._waiting.wait()
        taken = list(self._messages)
        self._messages.clear()
        return taken


class Ask(Generic[M]):
    """One question's answer: set once by the actor, awaited by who asked."""

    __slots__ = ("_answer", "_answered")

    def __init__(self) -> None:
        self._answered = trio.Event()
        self._answer: M | None = None

    def answer(self, value: M) -> None:
        """The first answer counts; later ones are dropped (a forwarded command may be answered twice)."""
        if not self._answered.is_set():
            self._answer = value
            self._answered.set()

    async def wait(self) -> M:
        await self._answered.wait()
        return self._answer  # type: ignore[return-value]  # Set together with the event; M itself may be None.


class OnFailure(StrEnum):
    """What the supervisor does when an actor ends with an exception."""

    RESTART = "restart"
    STOP_NODE = "stop node"


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """`run` calls `task_status.started()` once the actor is ready and returns when its `stop` scope is cancelled."""

    name: str
    run: Callable[..., Awaitable[None]]
    on_failure: OnFailure


class Supervisor:
    """Starts actors in order, restarts or gives up by their spec, stops them in reverse order."""

    def __init__(self, nursery: trio.Nursery, *, fatal: tuple[type[Exception], ...] = ()) -> None:
        """`fatal`: exceptions that are never answered by a restart."""
        self._nursery = nursery
        self._fatal = fatal
        self._running: list[tuple[ActorSpec, trio.CancelScope, trio.Event]] = []
        self.restarts = 0

    async def start(self, spec: ActorSpec) -> None:
        """Returns once the actor said that it is ready."""
        scope = trio.CancelScope()
        ended = trio.Event()
        await self._nursery.start(self._supervise, spec, scope, ended)
        self._running.append((spec, scope, ended))

    async def stop(self) -> None:
        """Cancels actors one after the other, the last started first, each with a deadline."""
        with trio.CancelScope(shield=True):
            while self._running:
                spec, scope, ended = self._running.pop()
                scope.cancel()
                with trio.move_on_after(STOP_DEADLINE_S):
                    await ended.wait()
                if not ended.is_set():
                    log.warning("actor did not stop in time", actor=spec.name)

    async def _supervise(
        self,
        spec: ActorSpec,
        scope: trio.CancelScope,
        ended: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        first = _OnceStatus(task_status)
        pause = RESTART_FIRST_S
        try:
            with scope:
                while True:
                    began = trio.current_time()
                    try:
                        await spec.run(task_status=first)
                    except Exception as error:
                        if spec.on_failure is OnFailure.STOP_NODE or self._is_fatal(error):
                            raise
                        log.warning("actor failed and is restarted", actor=spec.name, error=describe(error))
                    else:
                        return
                    if trio.current_time() - began > HEALTHY_AFTER_S:
                        pause = RESTART_FIRST_S
                    self.restarts += 1
                    await trio.sleep(pause)
                    pause = min(pause * 2, RESTART_LONGEST_S)
        finally:
            ended.set()

    def _is_fatal(self, error: Exception) -> bool:
        if isinstance(error, ExceptionGroup):
            return error.subgroup(self._fatal) is not None
        return isinstance(error, self._fatal)


class _OnceStatus:
    """A task status that a restarted actor may report to again: only its first start is waited for."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status
        self._reported = False

    def started(self, value: None = None) -> None:
        if not self._reported:
            self._reported = True
            self._status.started(value)


def describe(error: BaseException) -> str:
    """One line for the log: types and messages of an exception and of what an exception group holds, no traceback.

    What several tasks found at the same time is said once.
    """
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(describe(inner) for inner in error.exceptions))
    text = str(error).replace("\n", " ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
