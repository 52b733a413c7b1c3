"""What happens between two machines, for each direction: latency, loss, cuts and clogs, as the nemesis sets them.

A link carries the segments of all streams from one name to another. Streams are TCP's, so loss shows as the delay of a
retransmission. A *cut* link loses everything, acknowledgements of the other direction included; a *clogged* one keeps
everything until it is unclogged. Segments are judged in the instant they would arrive.

Names are those of nodes and clients. Names in one group (an AZ) are near to each other.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVarTuple, Unpack

from keycluster.cluster.types import MILLISECOND
from keycluster.simulations.region.pipes import RETRANSMISSION_NS, Connection, Effect, Pipe
from keycluster.simulations.region.wire import Wire

Args = TypeVarTuple("Args")

MICROSECOND = 1_000

LATENCY_NEAR_NS = (100 * MICROSECOND, 300 * MICROSECOND)
"""One way within a group, from and to."""
LATENCY_FAR_NS = (300 * MICROSECOND, 900 * MICROSECOND)
"""One way between groups: AZs of one region are a millisecond apart, there and back."""

LOST_AT_ONCE_MAX = 3
"""Times that one segment is lost by mere chance: 1.4 s in all, below what breaks a stream between nodes."""

UNCLOG_NS_MAX = 2 * MILLISECOND


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad links are. Chances are for each segment."""

    loss: float = 0.0
    """Chance to be lost, and sent again after the retransmission time-out."""
    delay: float = 0.0
    """Chance to take up to `delay_ns_max` longer."""
    delay_ns_max: int = 300 * MILLISECOND
    reorder: float = 0.0
    """Chance to take up to `reorder_ns_max` longer, so that segments of other streams overtake it."""
    reorder_ns_max: int = 5 * MILLISECOND
    pieces: float = 0.002
    """Chance to arrive in two pieces: a reader must not take a read for a frame."""


FAIR = Weather()


@dataclass(slots=True, eq=False)
class Link:
    """One direction between two names."""

    source: str
    target: str
    rng: random.Random
    links: "Links" = field(repr=False)
    back: "Link" = field(init=False, repr=False)
    """The other direction."""
    latency_ns: int = LATENCY_FAR_NS[0]
    spread_ns: int = LATENCY_FAR_NS[1] - LATENCY_FAR_NS[0]
    weather: Weather = FAIR
    pieces: float = FAIR.pieces
    cut: bool = False
    clogged: bool = False
    target_down: bool = False
    blocked: bool = False
    """Any of the three above: nothing gets through now."""
    blocked_ns: int = 0
    """Since when, if it is."""
    held: dict[Pipe, None] = field(default_factory=dict)
    """What waits for the clog to end."""
    held_back: bool = False
    """Whether the newest segment was, so that others may overtake it."""

    def delay_ns(self) -> int:
        """How long the next segment takes."""
        delay = self.latency_ns + int(self.rng.random() * self.spread_ns)
        if self.weather is FAIR:
            return delay
        return delay + self._bad_weather_ns(self.weather)

    def _bad_weather_ns(self, weather: Weather) -> int:
        rng, extra, self.held_back = self.rng, 0, False
        if weather.loss and rng.random() < weather.loss:
            times = 1
            while times < LOST_AT_ONCE_MAX and rng.random() < weather.loss:
                times += 1
            self.links.tell(Effect.LOST, self, times)
            extra += RETRANSMISSION_NS * (2**times - 1)
        if weather.delay and rng.random() < weather.delay:
            self.links.tell(Effect.DELAYED, self)
            extra += int(rng.random() * weather.delay_ns_max)
        if weather.reorder and rng.random() < weather.reorder:
            self.links.tell(Effect.REORDERED, self)
            self.held_back = True
            extra += int(rng.random() * weather.reorder_ns_max)
        return extra

    def sent(self, stream: Pipe, at_ns: int) -> None:
        """A segment with the newest delay will arrive then."""
        if self.weather is not FAIR:
            self.links.sent(self, stream, at_ns)

    @property
    def blocked_by(self) -> Effect:
        """If it is blocked."""
        return Effect.CLOGGED if self.clogged and not self.cut else Effect.CUT

    def update(self, now_ns: int) -> bool:
        """Sets `blocked` anew; returns whether it has become so."""
        was = self.blocked
        self.blocked = self.cut or self.clogged or self.target_down
        anew = self.blocked and not was
        if anew:
            self.blocked_ns = now_ns
        return anew


class Links:
    """All links of a simulation. `counts` tells what had an effect."""

    def __init__(self, wire: Wire, rng: random.Random) -> None:
        self.wire = wire
        self.rng = rng
        self.counts: Counter[str] = Counter()
        self.tap: Callable[[str, str, bytes], object] | None = None
        """Called with sender, receiver and bytes for all that is sent, whether it arrives or not."""
        self.felt: Callable[[Effect, Link], object] = _no_matter
        """Called when there is such an effect on a link, or still is."""
        self._late: tuple[Pipe | None, int] = (
            None,
            0,
        )  # Of segments held back, the stream and the arrival of the last.
        self._links: dict[tuple[str, str], Link] = {}
        self._groups: dict[str, str] = {}
        self._weather = FAIR
        self._down: dict[str, None] = {}
        self._connections: dict[tuple[str, str], dict[Connection, None]] = {}

    # What the nemesis does.

    def place(self, name: str, group: str) -> None:
        """Says in which group (AZ) a name is. Without that it is near to nobody."""
        self._groups[name] = group
        for link in self._links.values():
            self._measure(link)

    def cut(self, source: str, target: str) -> None:
        """Nothing gets from `source` to `target` until `heal`; the other direction is another link."""
        link = self.link(source, target)
        link.cut = True
        self._blocked_anew(link)

    def heal(self, source: str, target: str) -> None:
        """Ends a cut. What was sent meanwhile arrives when its sender tries again next, if it hasn't given up."""
        link = self.link(source, target)
        link.cut = False
        link.update(self.wire.now_ns)

    def clog(self, source: str, target: str) -> None:
        """What is sent from `source` to `target` waits until `unclog`."""
        link = self.link(source, target)
        link.clogged = True
        self._blocked_anew(link)

    def unclog(self, source: str, target: str) -> None:
        """Lets go what was held, each stream in order, streams in any order."""
        link = self.link(source, target)
        link.clogged = False
        link.update(self.wire.now_ns)
        held, link.held = link.held, {}
        for pipe in held:
            self.wire.after(int(link.rng.random() * UNCLOG_NS_MAX), pipe.release)

    def heal_all(self) -> None:
        """Ends all cuts and clogs, and bad weather."""
        self.set_weather(FAIR)
        for source, target in list(self._links):
            self.heal(source, target)
            self.unclog(source, target)

    def set_weather(self, weather: Weather, source: str | None = None, target: str | None = None) -> None:
        """For all links, those yet to be used included; or for those from `source`, to `target`, or both."""
        if source is None and target is None:
            self._weather = weather
        for link in self._links.values():
            if source in (None, link.source) and target in (None, link.target):
                link.weather, link.pieces = weather, weather.pieces

    def reset(self, one: str, other: str) -> int:
        """Breaks all connections between two names, as a firewall does that forgot them. Returns how many."""
        connections = list(self._between(one, other))
        for connection in connections:
            self.counts[Effect.RESET] += 1
            connection.reset()
        return len(connections)

    def down(self, name: str, *, machine: bool = False) -> None:
        """The process of that name has died, or its machine has.

        A dead process's streams are closed by its system: what it sent arrives, then the end, or a reset. A machine's
        just fall silent, and nothing reaches it until `up`; what finds no stream there then is answered by a reset.
        """
        if machine:
            self._down[name] = None
            self._set_down(name)
        for pair, connections in list(self._connections.items()):
            if name in pair:
                for connection in list(connections):
                    connection.lose(name, silently=machine)

    def up(self, name: str) -> None:
        """Its machine runs again."""
        if name in self._down:
            del self._down[name]
            self._set_down(name)

    def tell(self, effect: Effect, link: Link, times: int = 1) -> None:
        """It has happened."""
        self.counts[effect] += times
        self.felt(effect, link)

    def sent(self, link: Link, stream: Pipe, at_ns: int) -> None:
        """In bad weather; it will arrive then."""
        late_stream, late_ns = self._late
        if at_ns < late_ns and stream is not late_stream:
            self.tell(Effect.OVERTAKEN, link)
        elif at_ns > late_ns and link.held_back:
            self._late = stream, at_ns

    # What streams ask for.

    def link(self, source: str, target: str) -> Link:
        """The link of that direction."""
        link = self._links.get((source, target))
        return link if link is not None else self._new_link(source, target)

    def carry(
        self,
        link: Link,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        retry_ns: int = RETRANSMISSION_NS,
        wanted: Callable[[], bool],
    ) -> None:
        """Runs `callback(*args)` when a message of a handshake has got through, tried again as long as `wanted`."""

        def arrive(next_retry_ns: int) -> None:
            if not wanted():
                return
            if link.blocked:
                self.tell(link.blocked_by, link)
                self.wire.after(next_retry_ns, arrive, 2 * next_retry_ns)
            else:
                callback(*args)

        self.wire.after(link.delay_ns(), arrive, retry_ns)

    def add(self, connection: Connection) -> None:
        """From now on it is told what happens to its links."""
        self._connections.setdefault(connection.names, {})[connection] = None

    def forget(self, connection: Connection) -> None:
        """It has no ends any more."""
        self._connections[connection.names].pop(connection, None)

    def _between(self, one: str, other: str) -> dict[Connection, None]:
        return {**self._connections.get((one, other), {}), **self._connections.get((other, one), {})}

    def _new_link(self, source: str, target: str) -> Link:
        pair = [
            Link(a, b, random.Random(self.rng.getrandbits(64)), self) for a, b in ((source, target), (target, source))
        ]
        pair[0].back, pair[1].back = pair[1], pair[0]
        for link in pair:
            link.weather, link.pieces = self._weather, self._weather.pieces
            link.target_down = link.target in self._down
            link.update(self.wire.now_ns)
            self._measure(link)
            self._links[link.source, link.target] = link
        return self._links[source, target]

    def _measure(self, link: Link) -> None:
        group = self._groups.get(link.source)
        near = group is not None and group == self._groups.get(link.target)
        shortest, longest = LATENCY_NEAR_NS if near else LATENCY_FAR_NS
        link.latency_ns, link.spread_ns = shortest, longest - shortest

    def _set_down(self, name: str) -> None:
        for link in self._links.values():
            if link.target == name:
                link.target_down = name in self._down
                link.update(self.wire.now_ns)

    def _blocked_anew(self, link: Link) -> None:
        if link.update(self.wire.now_ns):
            for connection in self._between(link.source, link.target):
                connection.round_trip_blocked()


def _no_matter(_effect: Effect, _link: Link) -> None:
    pass
