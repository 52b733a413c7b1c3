"""Who reaches whom, and when. Chances are per frame; delays in nanoseconds.

A frame is what one machine has for another after one input. It takes between `delay_ns_min` and that plus
`delay_ns_spread`, so frames overtake each other.

Weather, cuts and clogs each have the number of who began them, and `then`: called once, when a frame first felt it.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from keycluster.cluster.types import NodeId

Link = tuple[NodeId, NodeId]
"""From, to: each direction is a link of its own."""
Then = Callable[[], None]


def nothing() -> None:
    """For those who needn't know."""


class Effect(Enum):
    """What weather does to frames."""

    LOST = "lost"
    DOUBLED = "doubled"
    DELAYED = "delayed"  # It takes longer than any does in fair weather.
    OVERTAKEN = "overtaken"  # One that was delayed, by one that was sent later on the same link.


@dataclass(frozen=True, slots=True)
class Weather:
    loss: float = 0.0
    duplicate: float = 0.0
    slow_chance: float = 0.0  # Of a delay up to `slow_ns_max`.
    slow_ns_max: int = 0


@dataclass(frozen=True, slots=True)
class _Awaited:
    """Weather that no frame has felt so far."""

    weather: Weather
    effect: Effect
    then: Then


@dataclass(slots=True)
class Network:
    delay_ns_min: int = 200_000
    delay_ns_spread: int = 800_000
    slow_chance: float = 0.0  # As in `Weather`: the worst of each that there is now.
    slow_ns_max: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    cut: set[Link] = field(default_factory=set)
    clogged: set[Link] = field(default_factory=set)  # What comes on these waits until they are free again.
    _cuts: dict[int, frozenset[Link]] = field(default_factory=dict)
    _clogs: dict[int, frozenset[Link]] = field(default_factory=dict)
    _weather: dict[int, Weather] = field(default_factory=dict)
    _late: dict[Link, int] = field(default_factory=dict)  # When the last of delayed frames arrives, as far as known.
    _unfelt_weather: dict[int, _Awaited] = field(default_factory=dict)
    _unfelt_cuts: dict[int, Then] = field(default_factory=dict)
    _unfelt_clogs: dict[int, Then] = field(default_factory=dict)

    def delays(self, rng: random.Random, link: Link, t: int) -> list[int]:
        """Of a frame sent at `t`: one for each copy that arrives."""
        if rng.random() < self.loss:
            self.had(Effect.LOST)
            return []
        copies = 2 if rng.random() < self.duplicate else 1
        delays = [self._delay(rng) for _ in range(copies)]
        if self._unfelt_weather:
            self._look_at(delays, link, t)
        return delays

    def _delay(self, rng: random.Random) -> int:
        if rng.random() < self.slow_chance:
            return int(rng.random() * self.slow_ns_max)
        return self.delay_ns_min + int(rng.random() * self.delay_ns_spread)

    def _look_at(self, delays: list[int], link: Link, t: int) -> None:
        """Whether the weather shows in these."""
        if len(delays) > 1:
            self.had(Effect.DOUBLED)
        for delay in delays:
            late = self._late.get(link, 0)
            if t + delay < late:
                self.had(Effect.OVERTAKEN)
            if delay > self.delay_ns_min + self.delay_ns_spread:
                self._late[link] = max(late, t + delay)
                self.had(Effect.DELAYED)

    # Weather

    def begin_weather(self, number: int, weather: Weather, effect: Effect, then: Then) -> None:
        """`then` is called when it first has that effect."""
        self._weather[number] = weather
        self._unfelt_weather[number] = _Awaited(weather, effect, then)
        self._set_weather()

    def end_weather(self, number: int) -> None:
        del self._weather[number]
        self._unfelt_weather.pop(number, None)
        self._set_weather()

    def _set_weather(self) -> None:
        """The worst of each."""
        all_of_it = self._weather.values()
        self.loss = max((weather.loss for weather in all_of_it), default=0.0)
        self.duplicate = max((weather.duplicate for weather in all_of_it), default=0.0)
        self.slow_chance = max((weather.slow_chance for weather in all_of_it), default=0.0)
        self.slow_ns_max = max((weather.slow_ns_max for weather in all_of_it), default=0)

    def had(self, effect: Effect) -> None:
        """A frame, or a caller's message, felt it: by those of the weather that nothing worse hides."""
        if self._unfelt_weather:
            for number, awaited in list(self._unfelt_weather.items()):
                if awaited.effect is effect and self._rules(awaited.weather, effect):
                    del self._unfelt_weather[number]
                    awaited.then()

    def _rules(self, weather: Weather, effect: Effect) -> bool:
        if effect is Effect.LOST:
            return weather.loss >= self.loss
        if effect is Effect.DOUBLED:
            return weather.duplicate >= self.duplicate
        return weather.slow_chance >= self.slow_chance or weather.slow_ns_max >= self.slow_ns_max

    # Cuts and clogs that overlap: each is taken back by its own number.

    def begin_cut(self, number: int, links: Iterable[Link], then: Then = nothing) -> None:
        self._cuts[number] = frozenset(links)
        self._unfelt_cuts[number] = then
        self.cut = set().union(*self._cuts.values())

    def end_cut(self, number: int) -> frozenset[Link]:
        """Returns the links that are free now."""
        ended = self._cuts.pop(number, frozenset())
        self._unfelt_cuts.pop(number, None)
        self.cut = set().union(*self._cuts.values())
        return ended - self.cut

    def stopped(self, link: Link) -> None:
        """A frame was lost by cuts."""
        for number in [number for number in self._unfelt_cuts if link in self._cuts[number]]:
            self._unfelt_cuts.pop(number)()

    def begin_clog(self, number: int, links: Iterable[Link], then: Then = nothing) -> None:
        """More of them, if some of that number are clogged already."""
        self._clogs[number] = self._clogs.get(number, frozenset()) | frozenset(links)
        self._unfelt_clogs[number] = then
        self.clogged = set().union(*self._clogs.values())

    def end_clog(self, number: int, link: Link) -> bool:
        """Frees one link of a clog. Returns whether it is free now."""
        rest = self._clogs.pop(number, frozenset()) - {link}
        if rest:
            self._clogs[number] = rest
        else:
            self._unfelt_clogs.pop(number, None)
        self.clogged = set().union(*self._clogs.values())
        return link not in self.clogged

    def held(self, link: Link) -> None:
        """A frame waits because of clogs."""
        for number in [number for number in self._unfelt_clogs if link in self._clogs[number]]:
            self._unfelt_clogs.pop(number)()

    def heal(self) -> None:
        """Everything reaches everybody, soon and once."""
        for each in (self._cuts, self._clogs, self._weather):
            each.clear()
        for unfelt in (self._unfelt_cuts, self._unfelt_clogs, self._unfelt_weather):
            unfelt.clear()
        self.cut, self.clogged = set(), set()
        self._set_weather()
