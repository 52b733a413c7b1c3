"""TCP proxies between programs, and what a nemesis does to the links that go through them.

A link is one direction between two programs. What is stopped on it waits in the proxy and goes on later, as TCP's own
retransmission would have it; while it waits, neither side learns anything, also not that the other one is gone. New
connections are taken all the same: the one who dials hears nothing either.
"""

import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio

from keycluster.cluster.types import SECOND

LinkName = tuple[str, str]
"""From whom to whom."""

READ_BYTES: Final = 65_536
RETRANSMISSION_S: Final = (0.2, 0.4)
"""What a lost segment costs on a link: Linux's least retransmission timeout, and once more."""
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER, no time: closing sends RST.


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to a piece of a stream, on every link that isn't spared."""

    loss: float = 0.0
    """The chance that it must be sent again."""
    delay: float = 0.0
    """The chance that it takes up to `delay_ns_max` longer."""
    delay_ns_max: int = 0


class Links:
    """Of one run. Several faults may stop one link: it goes on when the last of them is over. There is no weather on
    links of the program `spared`, if there is one.
    """

    def __init__(self, rng: random.Random, *, spared: str | None = None) -> None:
        self._rng = rng
        self._spared = spared
        self._stopped: Counter[LinkName] = Counter()
        self._goes_on: dict[LinkName, trio.Event] = {}
        self._weather: dict[int, Weather] = {}  # By fault.
        self._is_felt: dict[int, Callable[[], None]] = {}  # Of weather that nobody has felt yet.
        self._connections: dict[Connection, None] = {}

    def stop(self, links: Iterable[LinkName]) -> None:
        for link in links:
            self._stopped[link] += 1
            if link not in self._goes_on:
                self._goes_on[link] = trio.Event()

    def go_on(self, links: Iterable[LinkName]) -> None:
        """Once for each `stop`."""
        for link in links:
            self._stopped[link] -= 1
            if self._stopped[link] <= 0:
                del self._stopped[link]
                self._goes_on.pop(link).set()

    def begin_weather(self, number: int, weather: Weather, *, is_felt: Callable[[], None]) -> None:
        """`is_felt` is called once, when the first piece is lost or late."""
        self._weather[number] = weather
        self._is_felt[number] = is_felt

    def end_weather(self, number: int) -> None:
        self._weather.pop(number, None)
        self._is_felt.pop(number, None)

    def reset(self, one: str, other: str) -> int:
        """Breaks all connections between the two; returns how many."""
        broken = [link for link in self._connections if {link.source, link.target} == {one, other}]
        for connection in broken:
            connection.reset()
        return len(broken)

    async def passes(self, link: LinkName) -> None:
        """Returns when a piece may go over `link`."""
        if self._spared not in link:
            for number, weather in tuple(self._weather.items()):
                if self._rng.random() < weather.loss:
                    await self._feel(number, self._rng.uniform(*RETRANSMISSION_S))
                if self._rng.random() < weather.delay:
                    await self._feel(number, self._rng.uniform(0, weather.delay_ns_max / SECOND))
        while link in self._goes_on:
            await self._goes_on[link].wait()

    async def _feel(self, number: int, seconds: float) -> None:
        if number in self._is_felt:
            self._is_felt.pop(number)()
        await trio.sleep(seconds)

    async def carry(self, connection: "Connection") -> None:
        """Passes on what both sides say, until it is over."""
        self._connections[connection] = None
        try:
            await connection.run(self)
        finally:
            del self._connections[connection]


class Connection:
    """One that goes through a proxy: `source` has dialled, `target` was meant."""

    def __init__(self, source: str, target: str, asking: trio.SocketStream, answering: trio.SocketStream) -> None:
        self.source = source
        self.target = target
        self._asking = asking
        self._answering = answering
        self._scope = trio.CancelScope()

    async def run(self, links: Links) -> None:
        """Closes both sides in the end."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, links, (self.source, self.target), self._asking, self._answering)
                    nursery.start_soon(self._pump, links, (self.target, self.source), self._answering, self._asking)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._asking)
                await trio.aclose_forcefully(self._answering)

    async def _pump(self, links: Links, link: LinkName, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while True:
                piece = await source.receive_some(READ_BYTES)
                await links.passes(link)
                if not piece:
                    await sink.send_eof()
                    return
                await sink.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await links.passes(link)  # A stopped link doesn't tell of a reset either.
            self.reset()

    def reset(self) -> None:
        """Both sides get RST."""
        for stream in (self._asking, self._answering):
            with contextlib.suppress(OSError):
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._scope.cancel()


@dataclass(frozen=True, slots=True)
class Proxy:
    """Stands before one port of `target`; `source` tells who has dialled, by their address. None: nobody known."""

    target: str
    host: str
    port: int
    source: Callable[[str], str | None]

    async def serve(
        self,
        links: Links,
        *,
        listen_host: str,
        listen_port: int = 0,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled; reports the port. Raises OSError."""
        listeners = await trio.open_tcp_listeners(listen_port, host=listen_host)

        async def carry(asking: trio.SocketStream) -> None:
            source = self.source(asking.socket.getpeername()[0])
            answering = None if source is None else await self._dial(links, source)
            if source is None or answering is None:
                await trio.aclose_forcefully(asking)
                return
            await links.carry(Connection(source, self.target, asking, answering))

        async with trio.open_nursery() as nursery:
            task_status.started(listeners[0].socket.getsockname()[1])
            nursery.start_soon(trio.serve_listeners, carry, listeners)

    async def _dial(self, links: Links, source: str) -> trio.SocketStream | None:
        """Nobody is reached over a stopped link, and nobody is known not to be there."""
        await links.passes((source, self.target))
        try:
            return await trio.open_tcp_stream(self.host, self.port)
        except OSError:
            await links.passes((self.target, source))
            return None
