"""Loud failures for what the code under test must not reach past the seams while it is simulated.

Clocks, the system's randomness and the global generator refuse callers of the product's modules; sockets and threads
refuse everybody, since nothing in a simulated run needs one. Only the thread that runs the simulation is watched.
Replaced are names in modules: what was taken out of them by `from time import time` escapes, and a static check
(tests/test_architecture.py's kind) is the place to catch that.
"""

import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from trio import _threads

PRODUCT = ("keycluster.node", "keycluster.cluster", "keycluster.client")

PASSED_THROUGH = frozenset({"os", "random", "secrets", "uuid", "tempfile"})
"""Modules that ask for their callers: those are looked at instead."""

CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "clock_gettime",
          "clock_gettime_ns", "sleep")  # fmt: skip
RANDOM = ("random", "uniform", "randint", "randrange", "getrandbits", "randbytes", "choice", "choices", "sample",
          "shuffle", "gauss", "expovariate", "seed")  # fmt: skip


Refuse = Callable[[str], NoReturn]


class SeamBypassed(RuntimeError):
    """Simulated code asked the real world for something, past clock, entropy, disk or network."""


@contextmanager
def guarded(report: Callable[[BaseException], object]) -> Iterator[None]:
    """Within it the real world is out of reach. Attempts are reported too: their exceptions may be caught."""
    with ExitStack() as stack:

        def refuse(what: str) -> NoReturn:
            bypassed = SeamBypassed(f"{what} in a simulated run, past the seams of keycluster.cluster.seams")
            report(bypassed)
            raise bypassed

        def replace(owner: Any, name: str, guard: object) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, guard)

        for name in CLOCKS:
            replace(time, name, _refuse_product(f"time.{name}", getattr(time, name), refuse))
        for name in RANDOM:
            replace(random, name, _refuse_product(f"random.{name}", getattr(random, name), refuse))
        for owner, name in ((os, "urandom"), (os, "getrandom"), (random, "_urandom")):
            replace(owner, name, _refuse_product("os.urandom", getattr(owner, name), refuse))
        replace(socket.socket, "__init__", _refuse_all("a socket", socket.socket.__init__, refuse))
        replace(_threads, "start_thread_soon", _refuse_all("a thread", vars(_threads)["start_thread_soon"], refuse))
        yield


def _refuse_product(what: str, original: Callable[..., Any], refuse: Refuse) -> Callable[..., Any]:
    thread = threading.get_ident()

    def guard(*args: Any, **named: Any) -> Any:
        if threading.get_ident() == thread:
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_globals.get("__name__") in PASSED_THROUGH:
                frame = frame.f_back
            if str(frame.f_globals.get("__name__")).startswith(PRODUCT):
                refuse(f"{frame.f_globals['__name__']}, line {frame.f_lineno}, calls {what}")
        return original(*args, **named)

    return guard


def _refuse_all(what: str, original: Callable[..., Any], refuse: Refuse) -> Callable[..., Any]:
    thread = threading.get_ident()

    def guard(*args: Any, **named: Any) -> Any:
        if threading.get_ident() == thread:
            refuse(f"{what} is wanted")
        return original(*args, **named)

    return guard
