"""What several faults at once have done to links: each is whole again when the last of them is over."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from keycluster.simulations.region.links import FAIR, Links, Weather

LinkName = tuple[str, str]
"""From whom to whom."""


@dataclass
class Attack:
    """One run's."""

    links: Links
    _cuts: Counter[LinkName] = field(default_factory=Counter)
    _clogs: Counter[LinkName] = field(default_factory=Counter)
    _weather: dict[int, Weather] = field(default_factory=dict)  # By fault.

    def cut(self, links: Iterable[LinkName]) -> None:
        for link in links:
            self._cuts[link] += 1
            if self._cuts[link] == 1:
                self.links.cut(*link)

    def heal(self, links: Iterable[LinkName]) -> None:
        for link in links:
            self._cuts[link] -= 1
            if not self._cuts[link]:
                self.links.heal(*link)

    def clog(self, link: LinkName) -> None:
        self._clogs[link] += 1
        if self._clogs[link] == 1:
            self.links.clog(*link)

    def unclog(self, link: LinkName) -> None:
        self._clogs[link] -= 1
        if not self._clogs[link]:
            self.links.unclog(*link)

    def begin_weather(self, number: int, weather: Weather) -> None:
        self._weather[number] = weather
        self._set_weather()

    def end_weather(self, number: int) -> None:
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
        self.links.set_weather(weather)
