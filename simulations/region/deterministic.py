"""trio as a function of a seed: the same tasks, woken in the same order at the same virtual instants, in any process.

trio orders what it does by chance, by object addresses and by the machine's clock. Inside `run_deterministically` each
of these is replaced, for the duration of the run:

- the run loop sorts each batch of tasks by age and shuffles it with a generator of the seed (trio's own switch);
- sets of tasks and of cancel scopes are ordered by numbers counted from the run's beginning, not by addresses;
- deadlines at the same instant are told apart by the order in which they were set;
- time is virtual: when no task can run, the loop steps to the next deadline or to the next event of the `EventSource`
  (the wire, whose callbacks run between tasks and cost no task), and never asks the kernel about sockets;
- garbage is collected at counted points, because finalisers are part of what happens.

What the code under test must not do while it runs (threads, sockets, clocks, the system's randomness) raises
`SeamBypassed` (guards.py). The patches were written for one version of trio's run loop; any other is refused.

Sources: trio's `_core/_run.py`; its issue 1587 about clocks that jump.
"""

import gc
import hashlib
import inspect
import itertools
import random
import warnings
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableSequence
from contextlib import ExitStack, contextmanager
from heapq import heappush
from math import inf
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import trio
from trio._core import _entry_queue, _io_epoll, _run

from keycluster.cluster.invariant import require
from keycluster.cluster.types import SECOND
from keycluster.simulations.region.guards import SeamBypassed, guarded

__all__ = ["EventSource", "Loop", "SeamBypassed", "Stuck", "UnknownTrio", "current_loop", "run_deterministically"]

T = TypeVar("T")

READ_SOURCES = {
    _run: "0354771966e15f5549a6d6b3cfaba8b666a429712c54af367c368c27c8edcb7b",
    _io_epoll: "7da665ef738566d4b440b065b487718ceca019422ee6ab35473b98faab51fd59",
    _entry_queue: "4c02ca7ec3e1726d5d79451349e440eff20607a18294f5135141e9c516efe784",
}
"""SHA-256 of the files of trio that were read for the patches below."""

PASSES_AT_AN_INSTANT_MAX = 200_000
"""Passes of the run loop without time going on: somebody turns in circles."""

PASSES_PER_COLLECTION = 20_000
"""Passes of the run loop between two garbage collections: some 50 MB, and less than 1 % of the time."""

EVERY_PATCH = frozenset({"order of batches", "order of tasks", "order of scopes", "order of deadlines", "garbage"})
"""What a test may leave out, to show what it is for."""


class UnknownTrio(RuntimeError):
    """The installed trio isn't the one that the patches were written for."""


class Stuck(RuntimeError):
    """Nothing will ever happen again, or the same instant never ends."""


class EventSource(Protocol):
    """What happens at chosen instants without a task."""

    def next_ns(self) -> int | None:
        """When the next event is due."""
        ...

    def run_due(self, now_ns: int) -> None:
        """Runs all events up to that instant."""
        ...


class VirtualClock(trio.abc.Clock):
    """Stands still, until the loop steps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.now_ns = 0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0 if deadline <= self.now_s else inf  # How long nobody waits: `Loop.step` goes on in time.


class Loop:
    """The run under way: its clock, and what takes place between passes of trio's run loop."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.passes = 0
        self._source: EventSource | None = None
        self._each_pass: tuple[Callable[[], None], ...] = ()
        self._passes_here = 0
        self._failure: BaseException | None = None
        self._failure_told = False
        self._at_end = ExitStack()

    def attach(self, source: EventSource) -> None:
        """From now on, until `detach`."""
        if self._source is not None:
            raise RuntimeError("there is one source of events to a run")
        self._source = source

    def detach(self) -> None:
        self._source = None

    def before_each_pass(self, call: Callable[[], None]) -> Callable[[], None]:
        """Has `call` run before each pass of the run loop. Returns what ends that."""
        self._each_pass = (*self._each_pass, call)

        def end() -> None:
            self._each_pass = tuple(other for other in self._each_pass if other is not call)

        return end

    def at_end(self, call: Callable[[], object]) -> None:
        """Has `call` run once the run is over, the last one told first."""
        self._at_end.callback(call)

    def end(self) -> None:
        """Runs what was told to `at_end`."""
        self._at_end.close()

    def fail(self, failure: BaseException) -> None:
        """Ends the run with this exception, raised in its main task: for what goes wrong outside of any task."""
        if self._failure is None:
            self._failure = failure

    def raise_failure(self) -> None:
        """Raises what `fail` was told, whatever the main task made of it."""
        if self._failure is not None:
            raise self._failure

    def step(self, runner: _run.Runner) -> None:
        """Before each pass: goes on in time if nothing can run now."""
        self.passes += 1
        for call in self._each_pass:
            call()
        if runner.runq or runner.waiting_for_idle:
            self._passes_here += 1
            if self._passes_here == PASSES_AT_AN_INSTANT_MAX:
                names = sorted({task.name for task in runner.runq})[:5]
                self.fail(Stuck(f"tasks go on for ever at {self.clock.now_s:.6f} s: {', '.join(names)}"))
            elif self._passes_here == 2 * PASSES_AT_AN_INSTANT_MAX:
                self.raise_failure()  # They don't even end when cancelled.
        else:
            self._passes_here = 0
            self._go_on(runner)
        if self._failure is not None and not self._failure_told:
            self._tell_failure(runner)

    def _go_on(self, runner: _run.Runner) -> None:
        clock, source = self.clock, self._source
        deadline = runner.deadlines.next_deadline()
        event_ns = source.next_ns() if source is not None else None
        if event_ns is not None and event_ns / SECOND <= deadline:
            if event_ns > clock.now_ns:
                clock.now_ns, clock.now_s = event_ns, event_ns / SECOND
        elif deadline < inf:
            if deadline > clock.now_s:
                clock.now_ns, clock.now_s = round(deadline * SECOND), deadline
        else:
            self.fail(Stuck(f"at {clock.now_s:.6f} s all tasks wait, and nothing is to come"))
            self._insist(runner)
            return
        if event_ns is not None and event_ns <= clock.now_ns:
            try:
                source.run_due(clock.now_ns)  # type: ignore[union-attr]  # It told event_ns.
            except BaseException as failure:  # noqa: BLE001 (told in the main task)
                self.fail(failure)

    def _insist(self, runner: _run.Runner) -> None:
        """The main task was told of the failure, and yet something waits for ever."""
        if self._failure_told and runner.main_task is not None:
            take_off_shields(runner.main_task._cancel_status)
            if not runner.runq:
                self.raise_failure()  # Tasks are left where they are: better than going on for ever.

    def _tell_failure(self, runner: _run.Runner) -> None:
        main, failure = runner.main_task, self._failure
        if main is None or failure is None:
            return

        def raise_failure() -> NoReturn:
            raise failure

        if main._abort_func is not None:
            self._failure_told = True
            main._attempt_abort(raise_failure)
        elif main in runner.runq:
            self._failure_told = True
            main._next_send_fn, main._next_send = main.coro.throw, failure


def take_off_shields(status: _run.CancelStatus) -> None:
    """Has cancellation reach whatever is within a scope, shields or not."""
    statuses = list(status._children)
    while statuses:
        inner = statuses.pop()
        if inner._scope.shield:
            inner._scope.shield = False
        statuses.extend(inner._children)


_current: Loop | None = None


def current_loop() -> Loop:
    """The run under way; raises `RuntimeError` outside of one."""
    if _current is None:
        raise RuntimeError("this works inside run_deterministically only")
    return _current


def run_deterministically(
    main: Callable[[], Awaitable[T]], *, seed: int | str, leave_out: Collection[str] = frozenset()
) -> T:
    """`trio.run(main)` in virtual time, from 0, with the same course of events for the same seed.

    Raises what `main` raises; `Stuck` when nothing can happen any more; `UnknownTrio`. Not to be nested. `leave_out`
    names patches of `EVERY_PATCH` not to be made: for the tests that show what each is for.
    """
    global _current  # noqa: PLW0603 (one run at a time, as with trio itself)
    _require_known_trio()
    require(EVERY_PATCH.issuperset(leave_out), f"there are no such patches: {leave_out}")
    if _current is not None:
        raise RuntimeError("a deterministic run inside another")
    loop = Loop()
    with ExitStack() as stack:
        _current = loop
        stack.callback(_forget_loop)
        stack.callback(loop.end)
        for patch in _patches(loop, seed, leave_out):
            stack.enter_context(patch)

        async def guarded_main() -> T:
            stack.enter_context(guarded(loop.fail))  # Not sooner: trio itself opens two sockets.
            return await main()

        try:
            result = trio.run(guarded_main, clock=loop.clock)
        except BaseException as error:
            _abandon(error)
            raise
        finally:
            loop.raise_failure()
    return result


def _abandon(error: BaseException) -> None:
    """Has trio clean up after an exception out of `Loop.step`, which leaves its loop suspended, for the next run."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is _run.run.__code__:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # It says that this is no way to end.
                trace.tb_frame.f_locals["gen"].close()
        trace = trace.tb_next


def _forget_loop() -> None:
    global _current  # noqa: PLW0603
    _current = None


def _require_known_trio() -> None:
    for module, expected in READ_SOURCES.items():
        path = Path(inspect.getfile(module))
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise UnknownTrio(
                f"trio {trio.__version__} is not the one these simulations were written for: {path.name} differs. "
                "Read it, see that what simulations/region/deterministic.py and process.py replace still means the "
                "same, and change READ_SOURCES"
            )


@contextmanager
def patched(owner: Any, name: str, value: object) -> Iterator[None]:
    """Sets an attribute of a module or class for a while."""
    missing = object()
    old = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if old is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, old)


def _patches(loop: Loop, seed: int | str, leave_out: Collection[str]) -> Iterator[Any]:
    yield patched(_io_epoll.EpollIOManager, "get_events", _get_events(loop))
    yield patched(_run, "_r", _Scheduler(f"scheduler/{seed}"))
    yield patched(_run.CancelScope, "_might_change_registered_deadline", _change_deadline)
    yield patched(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", "order of batches" not in leave_out)
    if "order of tasks" not in leave_out:
        yield patched(_run.Task, "__hash__", _task_hash())
    if "order of scopes" not in leave_out:
        yield patched(_run, "CancelStatus", _numbered_cancel_status())
    if "order of deadlines" not in leave_out:
        yield patched(_run.Deadlines, "add", _add_deadline())
    if "garbage" not in leave_out:
        yield _counted_collections(loop)


class _Scheduler(random.Random):
    """trio's choice among tasks, without the cost of choosing among one."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        draw = self.random
        for last in range(len(x) - 1, 0, -1):
            other = int(draw() * (last + 1))
            x[last], x[other] = x[other], x[last]


class _DeadlineChange:
    """`CancelScope._might_change_registered_deadline` without a generator: each scope passes it two or three times.

    With the random choice above it makes a run of a region some 8 % faster.
    """

    __slots__ = ("_scope",)

    def __init__(self, scope: _run.CancelScope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        scope = self._scope
        old = scope._registered_deadline
        new = inf if scope._cancel_status is None or scope._cancel_called else scope._deadline
        if old != new:
            scope._registered_deadline = new
            deadlines = _run.GLOBAL_RUN_CONTEXT.runner.deadlines
            if old != inf:
                deadlines.remove(old, scope)
            if new != inf:
                deadlines.add(new, scope)


def _change_deadline(scope: _run.CancelScope) -> _DeadlineChange:
    return _DeadlineChange(scope)  # A function, as it becomes a method.


def _get_events(loop: Loop) -> Callable[[Any, float], Any]:
    ask_kernel = _io_epoll.EpollIOManager.get_events

    def get_events(manager: _io_epoll.EpollIOManager, timeout: float) -> Any:
        runner = _run.GLOBAL_RUN_CONTEXT.runner
        if runner.clock is not loop.clock:
            return ask_kernel(manager, timeout)  # Another thread's run.
        queue = runner.entry_queue
        if queue.queue or queue.idempotent_queue:
            return ask_kernel(manager, 0)  # Ctrl-C, or an abandoned generator: trio wakes itself by a socket.
        loop.step(runner)
        return ()

    return get_events


def _task_hash() -> Callable[[_run.Task], int]:
    """Tasks are numbered through all runs of a process: counted from this run's first, sets iterate as in any other."""
    [counter] = [field for field in _run.Task.__attrs_attrs__ if field.name == "_counter"]
    first: int = counter.default.factory()  # type: ignore[union-attr]  # It has a default: see READ_SOURCES.

    def task_hash(task: _run.Task) -> int:
        return task._counter - first

    return task_hash


def _numbered_cancel_status() -> type:
    numbers = itertools.count()

    class NumberedCancelStatus(_run.CancelStatus):
        __slots__ = ("number",)

        def __attrs_post_init__(self) -> None:
            self.number = next(numbers)
            super().__attrs_post_init__()

        def __hash__(self) -> int:
            return self.number

    return NumberedCancelStatus


def _add_deadline() -> Callable[[_run.Deadlines, float, _run.CancelScope], None]:
    numbers = itertools.count()

    def add(deadlines: _run.Deadlines, deadline: float, cancel_scope: _run.CancelScope) -> None:
        heappush(deadlines._heap, (deadline, next(numbers), cancel_scope))
        deadlines._active += 1

    return add


@contextmanager
def _counted_collections(loop: Loop) -> Iterator[None]:
    """What was there before stays out of it: it is much, and none of the run's doing."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()

    def collect() -> None:
        if loop.passes % PASSES_PER_COLLECTION == 0:
            gc.collect()

    loop.before_each_pass(collect)
    try:
        yield
    finally:
        gc.unfreeze()
        if loop.passes > PASSES_PER_COLLECTION:
            gc.collect()
        if was_enabled:
            gc.enable()
