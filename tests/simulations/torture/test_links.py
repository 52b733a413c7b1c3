"""A proxy passes on every byte in order, until a nemesis stops, delays or breaks the link."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from keycluster.cluster.types import SECOND
from keycluster.simulations.torture.links import Links, Proxy, Weather

HOST = "127.0.0.1"
QUIET_SECONDS = 0.05
"""Nothing that could come takes so long on loopback."""


@asynccontextmanager
async def _joined(
    links: Links, source: Callable[[str], str | None] = lambda address: "a"
) -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Two ends of a connection from a to b, through a proxy."""
    [listener] = await trio.open_tcp_listeners(0, host=HOST)
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery, listener:
        proxy = Proxy("b", HOST, port, source)
        told = await nursery.start(partial(proxy.serve, links, listen_host=HOST))
        async with await trio.open_tcp_stream(HOST, told) as asking:
            with trio.fail_after(5):
                async with await listener.accept() as answering:
                    yield asking, answering
        nursery.cancel_scope.cancel()


async def _is_quiet(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(QUIET_SECONDS):
        await stream.receive_some(1)
        return False
    return True


@pytest.fixture
def links() -> Links:
    return Links(random.Random(1))


async def test_proxy_passes_on_everything_both_ways(links: Links) -> None:
    """A megabyte there, another back, and the end of the stream."""
    there, back = random.Random(1).randbytes(1_000_000), random.Random(2).randbytes(1_000_000)
    async with _joined(links) as (asking, answering):

        async def say(stream: trio.SocketStream, content: bytes) -> None:
            await stream.send_all(content)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, asking, there)
            nursery.start_soon(say, answering, back)
            assert b"".join([piece async for piece in answering]) == there
            assert b"".join([piece async for piece in asking]) == back


async def test_stopped_link_says_nothing_and_goes_on_later(links: Links) -> None:
    """One direction waits, the other works; what was sent meanwhile comes when the last fault is over."""
    async with _joined(links) as (asking, answering):
        links.stop([("a", "b")])
        links.stop([("a", "b")])
        await asking.send_all(b"x")
        assert await _is_quiet(answering)
        await answering.send_all(b"y")
        assert await asking.receive_some(1) == b"y"
        links.go_on([("a", "b")])
        assert await _is_quiet(answering)
        links.go_on([("a", "b")])
        assert await answering.receive_some(1) == b"x"


async def test_stopped_link_doesn_t_tell_of_an_end(links: Links) -> None:
    """A process that died behind a cut is not known to be dead."""
    async with _joined(links) as (asking, answering):
        links.stop([("b", "a")])
        await answering.aclose()
        assert await _is_quiet(asking)
        links.go_on([("b", "a")])
        assert await asking.receive_some(1) == b""


async def test_reset_breaks_the_connections_of_two(links: Links) -> None:
    """Theirs, whoever dialled, and nobody else's."""
    async with _joined(links) as (asking, answering):
        await asking.send_all(b"x")
        assert await answering.receive_some(1) == b"x"  # So it has gone through.
        assert links.reset("a", "c") == 0
        assert links.reset("b", "a") == 1
        for stream in (asking, answering):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)


async def test_weather_makes_pieces_late(links: Links, autojump_clock: trio.testing.MockClock) -> None:
    """A lost segment costs a retransmission; a delayed one up to so much. Both end with the weather."""
    felt: list[str] = []
    links.begin_weather(1, Weather(loss=1.0), is_felt=lambda: felt.append("loss"))
    began = trio.current_time()
    await links.passes(("a", "b"))
    assert 0.2 <= trio.current_time() - began <= 0.4
    links.end_weather(1)
    links.begin_weather(2, Weather(delay=1.0, delay_ns_max=SECOND), is_felt=lambda: felt.append("delay"))
    began = trio.current_time()
    await links.passes(("a", "b"))
    assert 0.0 < trio.current_time() - began <= 1.0
    links.end_weather(2)
    began = trio.current_time()
    await links.passes(("a", "b"))
    assert trio.current_time() == began
    assert felt == ["loss", "delay"]


async def test_weather_is_felt_once_and_only_by_what_it_hits(autojump_clock: trio.testing.MockClock) -> None:
    """Not when it begins, not by pieces that are on time, not on links of who is spared; and the first time only."""
    links, felt = Links(random.Random(1), spared="watch"), list[str]()
    links.begin_weather(1, Weather(), is_felt=lambda: felt.append("fair"))
    links.begin_weather(2, Weather(loss=1.0), is_felt=lambda: felt.append("loss"))
    began = trio.current_time()
    await links.passes(("watch", "a"))
    await links.passes(("a", "watch"))
    assert trio.current_time() == began
    assert felt == []
    await links.passes(("a", "b"))
    await links.passes(("a", "b"))
    assert felt == ["loss"]


async def test_nobody_known_is_served_by_a_port_with_known_callers(links: Links) -> None:
    """Such a connection ends at once."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy("b", HOST, 1, lambda address: None)
        port = await nursery.start(partial(proxy.serve, links, listen_host=HOST))
        async with await trio.open_tcp_stream(HOST, port) as asking:
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                assert await asking.receive_some(1) == b""
        nursery.cancel_scope.cancel()
