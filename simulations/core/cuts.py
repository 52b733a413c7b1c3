"""Links that are cut, each set for a while of its own; where two sets overlap, a link is free once both have ended."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NewType

from keycluster.simulations.core import links
from keycluster.simulations.core.network import Link, Then
from keycluster.simulations.core.world import World
from keycluster.simulations.trace import What

Cut = NewType("Cut", int)
Later = Callable[[int, Callable[[], None]], None]
"""(nanoseconds, what is to be done then, unless the faults are over)"""


class Cuts:
    def __init__(self, world: World, later: Later) -> None:
        self._world = world
        self._later = later
        self._count = 0
        self._texts: dict[Cut, str] = {}

    def begin(self, cut: Iterable[Link], ns: int, then: Then) -> Cut:
        """`then` is called when a frame was first lost by it."""
        self._count += 1
        number = Cut(self._count)
        self._texts[number] = links.describe(cut)
        self._world.network.begin_cut(number, cut, then)
        self._world.trace.note(self._world.t, "network", What.CUT, self._texts[number])
        self._later(ns, partial(self.end, number))
        return number

    def end(self, number: Cut) -> None:
        """Now, if it hasn't ended already."""
        text = self._texts.pop(number, None)
        if text is None:
            return
        for sender, receiver in sorted(self._world.network.end_cut(number)):
            self._world.machines[receiver].greeted.pop(sender, None)  # A new stream begins with a hello.
        self._world.trace.note(self._world.t, "network", What.HEALED, text)
