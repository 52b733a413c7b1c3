"""What several faults at once have done to links: each is whole again when the last of them is over.

Each has its number, and `then`: called once, when a segment, or what opens a connection, first felt it.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from keycluster.simulations.region.links import FAIR, Link, Links, Weather
from keycluster.simulations.region.pipes import Effect

LinkName = tuple[str, str]
"""From whom to whom."""
Then = Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Unfelt:
    """What nobody has felt so far."""

    effect: Effect
    what: Weather | frozenset[LinkName]
    then: Then


@dataclass
class Attack:
    """One run's."""

    links: Links
    _cuts: Counter[LinkName] = field(default_factory=Counter)
    _cut_by: dict[int, tuple[LinkName, ...]] = field(default_factory=dict)
    _clogs: Counter[LinkName] = field(default_factory=Counter)
    _weather: dict[int, Weather] = field(default_factory=dict)
    _now: Weather = FAIR
    _unfelt: dict[int, _Unfelt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.links.felt = self._felt

    def cut(self, number: int, links: Iterable[LinkName], then: Then) -> None:
        self._cut_by[number] = tuple(links)
        for link in self._cut_by[number]:
            self._cuts[link] += 1
            if self._cuts[link] == 1:
                self.links.cut(*link)
        self._unfelt[number] = _Unfelt(Effect.CUT, frozenset(self._cut_by[number]), then)

    def heal(self, number: int) -> None:
        self._unfelt.pop(number, None)
        for link in self._cut_by.pop(number):
            self._cuts[link] -= 1
            if not self._cuts[link]:
                self.links.heal(*link)

    def clog(self, number: int, link: LinkName, then: Then) -> None:
        """One more of that number."""
        self._clogs[link] += 1
        if self._clogs[link] == 1:
            self.links.clog(*link)
        self._unfelt[number] = _Unfelt(Effect.CLOGGED, self._unfelt_links(number) | {link}, then)

    def unclog(self, number: int, link: LinkName) -> None:
        if number in self._unfelt:
            self._unfelt[number] = replace(self._unfelt[number], what=self._unfelt_links(number) - {link})
        self._clogs[link] -= 1
        if not self._clogs[link]:
            self.links.unclog(*link)

    def begin_weather(self, number: int, weather: Weather, effect: Effect, then: Then) -> None:
        """`then` is called when it first has that effect."""
        self._weather[number] = weather
        self._unfelt[number] = _Unfelt(effect, weather, then)
        self._set_weather()

    def end_weather(self, number: int) -> None:
        self._unfelt.pop(number, None)
        del self._weather[number]
        self._set_weather()

    def _set_weather(self) -> None:
        """The worst of each."""
        weather = FAIR
        for one in self._weather.values():
            weather = Weather(
                loss=max(weather.loss, one.loss),
                delay=max(weather.delay, one.delay),
                delay_ns_max=max(weather.delay_ns_max, one.delay_ns_max),
                reorder=max(weather.reorder, one.reorder),
                reorder_ns_max=max(weather.reorder_ns_max, one.reorder_ns_max),
                pieces=max(weather.pieces, one.pieces),
            )
        self._now = weather
        self.links.set_weather(weather)

    def _unfelt_links(self, number: int) -> frozenset[LinkName]:
        unfelt = self._unfelt.get(number)
        return unfelt.what if unfelt is not None and isinstance(unfelt.what, frozenset) else frozenset()

    def _felt(self, effect: Effect, link: Link) -> None:
        """Each that had a part in it is told, and those that something worse hides are not."""
        name = (link.source, link.target)
        for number, unfelt in list(self._unfelt.items()):
            if unfelt.effect is not effect:
                continue
            if isinstance(unfelt.what, Weather):
                has_part = _rules(unfelt.what, effect, self._now)
            else:  # What a machine that is down would have got is lost anyhow.
                has_part = name in unfelt.what and not link.target_down
            if has_part:
                del self._unfelt[number]
                unfelt.then()


def _rules(weather: Weather, effect: Effect, now: Weather) -> bool:
    """Whether nothing worse hides it."""
    match effect:
        case Effect.LOST:
            return weather.loss >= now.loss
        case Effect.DELAYED:
            return weather.delay >= now.delay or weather.delay_ns_max >= now.delay_ns_max
        case _:
            return weather.reorder >= now.reorder or weather.reorder_ns_max >= now.reorder_ns_max
