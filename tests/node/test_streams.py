"""The streams themselves: what comes in goes out whole, in order, and without harm from who doesn't behave."""

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keycluster.cluster.seams import ByteStream
from keycluster.node.network import _client_context, _server_context
from keycluster.node.streams import SOCKET_READ_BYTES, PlainStream, TlsStream
from tests.node.tls_parties import new_parties

DEADLINE = 20.0

Pair = tuple[ByteStream, ByteStream]


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    parties = new_parties()
    return _client_context(None), _server_context(parties.node("n1", parties.client_ca).identity)


@asynccontextmanager
async def plain_pair() -> AsyncIterator[Pair]:
    left, right = (PlainStream(end) for end in socket.socketpair())
    with trio.fail_after(DEADLINE):
        yield left, right
    left.close()
    right.close()


@asynccontextmanager
async def tls_pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    async with plain_pair() as (left, right):
        assert isinstance(left, PlainStream)
        assert isinstance(right, PlainStream)
        client, server = TlsStream(left, contexts[0]), TlsStream(right, contexts[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            nursery.start_soon(server.handshake)
        yield client, server


async def receive_exactly(stream: ByteStream, count: int, *, at_a_time: int = 65_536) -> bytes:
    received = bytearray()
    while len(received) < count:
        content = await stream.receive_some(at_a_time)
        assert content
        assert len(content) <= at_a_time
        received += content
    return bytes(received)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(st.binary(max_size=300) | st.integers(1, 100_000).map(lambda n: b"m" * n), max_size=12),
    at_a_time=st.integers(1, 200_000),
)
def test_tls_stream_keeps_every_byte_in_order(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], messages: list[bytes], at_a_time: int
) -> None:
    """Any sequence of sends, in both directions at once, arrives as it was, however it is read."""
    sent = b"".join(messages)
    read_size = max(at_a_time, len(sent) // 200 + 1)

    async def send(stream: ByteStream) -> None:
        for message in messages:
            await stream.send_all(message)

    async def receive(stream: ByteStream) -> None:
        assert await receive_exactly(stream, len(sent), at_a_time=read_size) == sent

    async def both_ways() -> None:
        async with tls_pair(contexts) as ends, trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(send, end)
                nursery.start_soon(receive, end)

    trio.run(both_ways)


async def test_one_receive_brings_several_records(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """What one read of the socket brought is handed over together: a door answers it with one write."""
    async with tls_pair(contexts) as (client, server):
        for _ in range(10):
            await client.send_all(b"x" * 500)
        assert await server.receive_some(SOCKET_READ_BYTES) == b"x" * 5_000


async def test_end_of_stream_is_empty(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """After the other side closed, what it sent before still comes, then nothing."""
    async with tls_pair(contexts) as (client, server):
        await client.send_all(b"last words")
        await client.aclose()
        assert await server.receive_some(100) == b"last words"
        assert await server.receive_some(100) == b""
        assert await server.receive_some(100) == b""


async def test_altered_record_breaks_the_stream(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A byte changed on the way is never handed over."""
    async with plain_pair() as (left, middle_left), plain_pair() as (middle_right, right):
        assert isinstance(left, PlainStream)
        assert isinstance(right, PlainStream)
        client, server = TlsStream(left, contexts[0]), TlsStream(right, contexts[1])
        flip = False

        async def carry(source: ByteStream, target: ByteStream) -> None:
            while content := await source.receive_some(65_536):
                altered = bytearray(content)
                altered[-1] ^= flip
                await target.send_all(altered)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry, middle_left, middle_right)
            nursery.start_soon(carry, middle_right, middle_left)
            async with trio.open_nursery() as shaking:
                shaking.start_soon(client.handshake)
                shaking.start_soon(server.handshake)
            flip = True
            await client.send_all(b"secret")
            with pytest.raises(trio.BrokenResourceError, match="TLS failed"):
                await server.receive_some(100)
            nursery.cancel_scope.cancel()


async def test_second_sender_is_refused(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Two tasks never send at once on one stream: their messages would mix."""
    async with tls_pair(contexts) as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(50_000_000))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.send_all(b"x")
        nursery.cancel_scope.cancel()


async def test_cancelled_send_leaves_the_stream_broken(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Half a message may be out: nothing more is sent after it."""
    async with tls_pair(contexts) as (client, _):
        with trio.move_on_after(0.05) as scope:
            await client.send_all(bytes(50_000_000))
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"more")


async def test_send_waits_for_a_slow_reader(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A sender is held up by the socket's buffer, and goes on as the other side reads."""
    async with tls_pair(contexts) as (client, server):
        done = trio.Event()

        async def send() -> None:
            await client.send_all(bytes(8_000_000))
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert not done.is_set()
            await receive_exactly(server, 8_000_000)
            await done.wait()


@pytest.mark.parametrize("operation", ["send", "receive"])
async def test_closing_wakes_who_waits(contexts: tuple[ssl.SSLContext, ssl.SSLContext], operation: str) -> None:
    """A task that waits on a stream which another task closes is told so."""
    async with tls_pair(contexts) as (client, _):

        async def use() -> None:
            if operation == "send":
                await client.send_all(bytes(50_000_000))
            else:
                await client.receive_some(1)

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await use()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some(1)
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")


async def test_flooding_client_lets_other_tasks_run() -> None:
    """A stream that always has more to read gives way after each read of the socket."""
    async with plain_pair() as (left, right):
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async def flood() -> None:
            while True:
                await left.send_all(bytes(1_000_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(take_turns)
            await receive_exactly(right, 100 * SOCKET_READ_BYTES)
            assert turns >= 100
            nursery.cancel_scope.cancel()


async def test_small_messages_leave_at_once() -> None:
    """Nagle's algorithm is off on TCP: it would hold a small answer back for 40 ms."""
    listener = socket.create_server(("127.0.0.1", 0))
    connected = socket.create_connection(listener.getsockname())
    stream = PlainStream(connected)
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    await stream.aclose()
    listener.close()


async def test_handshake_with_who_hangs_up(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """An end in the middle of a handshake is a broken stream, not an endless wait."""
    async with plain_pair() as (left, right):
        assert isinstance(right, PlainStream)
        await left.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await TlsStream(right, contexts[1]).handshake()


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    end.close()


@pytest.mark.parametrize("use", [lambda s: s.receive_some(1), lambda s: s.send_all(bytes(50_000_000))])
async def test_reset_connection_breaks_the_stream(use: Callable[[ByteStream], object]) -> None:
    """A connection that the other side reset raises, whichever way it is used."""
    listener = socket.create_server(("127.0.0.1", 0))
    connected = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    listener.close()
    stream = PlainStream(connected)
    _reset(accepted)
    with trio.fail_after(DEADLINE), pytest.raises(trio.BrokenResourceError):
        await use(stream)  # type: ignore[misc]  # Both are coroutines.
    await stream.aclose()
