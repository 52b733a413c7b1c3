"""Who reaches whom, and when. Chances are per frame; delays in nanoseconds.

A frame is what one machine has for another after one input. It takes between `delay_ns_min` and that plus
`delay_ns_spread`, so frames overtake each other.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from keycluster.cluster.types import NodeId

Link = tuple[NodeId, NodeId]
"""From, to: each direction is a link of its own."""


@dataclass(slots=True)
class Network:
    delay_ns_min: int = 200_000
    delay_ns_spread: int = 800_000
    slow_chance: float = 0.0  # Of a delay up to `slow_ns_max`.
    slow_ns_max: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    cut: set[Link] = field(default_factory=set)
    clogged: set[Link] = field(default_factory=set)  # What comes on these waits until they are free again.
    _cuts: dict[int, frozenset[Link]] = field(default_factory=dict)
    _clogs: dict[int, frozenset[Link]] = field(default_factory=dict)

    def delays(self, rng: random.Random) -> list[int]:
        """One for each copy that arrives."""
        if rng.random() < self.loss:
            return []
        copies = 2 if rng.random() < self.duplicate else 1
        return [self._delay(rng) for _ in range(copies)]

    def _delay(self, rng: random.Random) -> int:
        if rng.random() < self.slow_chance:
            return int(rng.random() * self.slow_ns_max)
        return self.delay_ns_min + int(rng.random() * self.delay_ns_spread)

    # Cuts and clogs that overlap: each is taken back by its own number.

    def begin_cut(self, number: int, links: Iterable[Link]) -> None:
        self._cuts[number] = frozenset(links)
        self.cut = set().union(*self._cuts.values())

    def end_cut(self, number: int) -> frozenset[Link]:
        """Returns the links that are free now."""
        ended = self._cuts.pop(number, frozenset())
        self.cut = set().union(*self._cuts.values())
        return ended - self.cut

    def begin_clog(self, number: int, links: Iterable[Link]) -> None:
        self._clogs[number] = self._clogs.get(number, frozenset()) | frozenset(links)
        self.clogged = set().union(*self._clogs.values())

    def end_clog(self, number: int, link: Link) -> bool:
        """Frees one link of a clog. Returns whether it is free now."""
        rest = self._clogs.pop(number, frozenset()) - {link}
        if rest:
            self._clogs[number] = rest
        self.clogged = set().union(*self._clogs.values())
        return link not in self.clogged

    def heal(self) -> None:
        """Everything reaches everybody, soon and once."""
        self._cuts.clear()
        self._clogs.clear()
        self.cut, self.clogged = set(), set()
        self.loss = self.duplicate = self.slow_chance = 0.0
