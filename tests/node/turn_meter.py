"""How much work each turn of the event loop does, by a clock that only work moves."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class TurnMeter(trio.abc.Instrument):
    """`now` is the clock; `spend` is what work does with it."""

    def __init__(self) -> None:
        self.by_turn = [0.0]
        self._time = 0.0

    def now(self) -> float:
        return self._time

    def spend(self, seconds: float) -> None:
        self._time += seconds
        self.by_turn[-1] += seconds

    def after_io_wait(self, timeout: float) -> None:
        self.by_turn.append(0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)

    @property
    def longest(self) -> float:
        return max(self.by_turn)
