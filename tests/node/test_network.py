"""Who gets through which port: real sockets on loopback, real TLS."""

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from keycluster.cluster.seams import ByteStream, DialError, ServeLimits, TlsIdentity
from keycluster.cluster.types import WallTime
from keycluster.node.network import PortStatistics, RealNetwork
from keycluster.node.pki import Authority, AuthorityName, new_authority, to_pem
from keycluster.node.world import RealClock
from tests.node.tls_parties import DAY, Parties, Party, new_parties
from tests.room_on_memory import SeededEntropy

DEADLINE = 10.0
LOOPBACK = "127.0.0.1:0"

Serve = Callable[..., Awaitable[None]]


@pytest.fixture(scope="module")
def parties() -> Parties:
    return new_parties()


@pytest.fixture
def network() -> RealNetwork:
    return RealNetwork()


@asynccontextmanager
async def port(serve: Serve, *args: Any, **options: Any) -> AsyncIterator[str]:
    """A server for the length of the block; gives its address. The whole block has a deadline."""
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(partial(serve, LOOPBACK, *args, **options))
            nursery.cancel_scope.cancel()


async def echo(stream: ByteStream) -> None:
    while content := await stream.receive_some(65_536):
        await stream.send_all(content)


async def ask(stream: ByteStream, question: bytes = b"hello") -> bytes:
    """What comes back; empty if the other side hung up."""
    await stream.send_all(question)
    return await stream.receive_some(100)


async def connect(address: str) -> trio.SocketStream:
    """TCP alone."""
    host, _, port_number = address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port_number))


async def is_admitted(network: RealNetwork, address: str, party: Party, server: Party, ca: Authority) -> bool:
    """Whether a client that shows `party` gets an answer at a peer port: with TLS 1.3 a refusal shows at the read."""
    try:
        stream = await network.dial_peer(
            address, identity=party.identity, peer_ca=ca.certificate, expected_public_key=server.public_key
        )
        return await ask(stream) == b"hello"
    except (DialError, trio.BrokenResourceError):
        return False


def raw_context(*, identity: TlsIdentity | None = None, folder: Path | None = None) -> ssl.SSLContext:
    """A client that checks nothing, as an attacker's would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if identity is not None and folder is not None:
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            load_der_private_key,
        )

        key = load_der_private_key(identity.private_key, None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        (folder / "identity.pem").write_text(to_pem(identity.certificate) + pem)
        context.load_cert_chain(folder / "identity.pem")
    return context


def shake_by_hand(address: str, context: ssl.SSLContext, *, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """Blocking: a handshake and one echo through Python's own sockets."""
    host, _, port_number = address.rpartition(":")
    raw = socket.create_connection((host, int(port_number)), timeout=5)
    secured = context.wrap_socket(raw, session=session)
    secured.sendall(b"hello")
    assert secured.recv(5) == b"hello"
    return secured


async def test_peers_know_each_other_by_key(network: RealNetwork, parties: Parties) -> None:
    """Both ends of a peer connection are told the other's public key, as the certificate has it."""
    server, client = parties.node("n1", parties.peer_ca), parties.node("n2", parties.peer_ca)
    seen: list[bytes | None] = []

    async def handler(stream: ByteStream) -> None:
        seen.append(stream.peer_public_key)
        await echo(stream)

    ca = parties.peer_ca.certificate
    async with port(network.serve_peers, handler, identity=server.identity, peer_ca=ca) as address:
        stream = await network.dial_peer(
            address, identity=client.identity, peer_ca=ca, expected_public_key=server.public_key
        )
        assert await ask(stream) == b"hello"
        assert stream.peer_public_key == server.public_key
        assert stream.peer_certificate == server.identity.certificate
        assert stream.peer_address == address
        assert seen == [client.public_key]


async def test_streams_between_nodes_break_when_unanswered(network: RealNetwork, parties: Parties) -> None:
    """Both ends, busy or idle: else a network that was gone for a minute is followed by minutes without a word."""
    server, client = (parties.node(name, parties.peer_ca) for name in ("n1", "n2"))
    found: list[tuple[int, ...]] = []

    def look(stream: ByteStream) -> None:
        plain = stream._plain._socket  # type: ignore[attr-defined]  # Of a real one.
        options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
        found.append(tuple(plain.getsockopt(socket.IPPROTO_TCP, option) for option in options))
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1

    async def handler(stream: ByteStream) -> None:
        look(stream)
        await echo(stream)

    async with port(
        network.serve_peers, handler, identity=server.identity, peer_ca=parties.peer_ca.certificate
    ) as address:
        stream = await network.dial_peer(
            address,
            identity=client.identity,
            peer_ca=parties.peer_ca.certificate,
            expected_public_key=server.public_key,
        )
        assert await ask(stream) == b"hello"
        look(stream)
    assert found == [(2_000, 2, 1)] * 2


async def test_peer_of_another_ca_is_refused(network: RealNetwork, parties: Parties) -> None:
    """A certificate of the client CA, or of a stranger's CA of the same name, opens no peer port."""
    server = parties.node("n1", parties.peer_ca)
    stranger = new_authority(AuthorityName.PEER, "us-east-1", entropy=parties.entropy, now=RealClock().wall())
    ca = parties.peer_ca
    async with port(network.serve_peers, echo, identity=server.identity, peer_ca=ca.certificate) as address:
        for authority, admitted in ((parties.client_ca, False), (stranger, False), (ca, True)):
            client = parties.node("n2", authority)
            assert await is_admitted(network, address, client, server, ca) is admitted


async def test_peer_with_expired_certificate_is_refused(network: RealNetwork, parties: Parties) -> None:
    """A certificate that has run out, or is not valid yet, opens no peer port."""

    def founded(moment: int) -> Authority:
        """The same authority, with the same key, as if it were of that moment: what it issues is valid from then on."""
        return new_authority(AuthorityName.PEER, "us-east-1", entropy=SeededEntropy(), now=WallTime(moment))

    now = RealClock().wall()
    ca = founded(now)
    server = parties.node("n1", ca)
    async with port(network.serve_peers, echo, identity=server.identity, peer_ca=ca.certificate) as address:
        for moment, admitted in ((now - 11 * 365 * DAY, False), (now + 30 * DAY, False), (now, True)):
            client = parties.node("n2", founded(moment), now=WallTime(moment))
            assert await is_admitted(network, address, client, server, ca) is admitted


async def test_client_without_certificate_is_refused_at_the_peer_port(network: RealNetwork, parties: Parties) -> None:
    """Who shows no certificate never reaches the handler."""
    server, reached = parties.node("n1", parties.peer_ca), []

    async def handler(stream: ByteStream) -> None:
        reached.append(stream)

    ca = parties.peer_ca.certificate
    async with port(network.serve_peers, handler, identity=server.identity, peer_ca=ca) as address:
        stream = await network.dial_native(address, client_ca=None)
        with pytest.raises(trio.BrokenResourceError):
            await ask(stream)
        assert not reached


async def test_dial_peer_refuses_another_key_than_the_pinned_one(network: RealNetwork, parties: Parties) -> None:
    """A node of the right CA that isn't the expected one is refused before a byte is sent."""
    server, other = parties.node("n1", parties.peer_ca), parties.node("n2", parties.peer_ca)
    ca = parties.peer_ca.certificate
    async with port(network.serve_peers, echo, identity=server.identity, peer_ca=ca) as address:
        with pytest.raises(DialError, match="another public key"):
            await network.dial_peer(address, identity=other.identity, peer_ca=ca, expected_public_key=other.public_key)


async def test_dial_peer_refuses_a_server_of_another_ca(network: RealNetwork, parties: Parties) -> None:
    """Even the pinned key doesn't count when its certificate is of another CA: both must hold."""
    server, client = parties.node("n1", parties.client_ca), parties.node("n2", parties.peer_ca)
    async with port(network.serve_native, echo, identity=server.identity) as address:
        with pytest.raises(DialError, match="not accepted"):
            await network.dial_peer(
                address,
                identity=client.identity,
                peer_ca=parties.peer_ca.certificate,
                expected_public_key=server.public_key,
            )


async def test_dial_native_checks_ca_and_name(network: RealNetwork, parties: Parties) -> None:
    """A client trusts the region's client CA alone, and a certificate that names the host it dialled."""
    server, ca = parties.node("n1", parties.client_ca), parties.client_ca.certificate
    async with port(network.serve_native, echo, identity=server.identity) as address:
        stream = await network.dial_native(address, client_ca=ca)
        assert await ask(stream) == b"hello"
        assert stream.peer_certificate == server.identity.certificate
        with pytest.raises(DialError, match="not accepted"):
            await network.dial_native(address, client_ca=parties.peer_ca.certificate)
    elsewhere = parties.node("n1", parties.client_ca, hosts=("10.0.0.1", "kms.example"))
    async with port(network.serve_native, echo, identity=elsewhere.identity) as address:
        with pytest.raises(DialError, match="not accepted"):
            await network.dial_native(address, client_ca=ca)


async def test_tls_1_2_is_refused(network: RealNetwork, parties: Parties) -> None:
    """No older version is spoken, whatever the client offers."""
    server = parties.node("n1", parties.client_ca)
    context = raw_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with port(network.serve_native, echo, identity=server.identity) as address:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol version"):
            await trio.to_thread.run_sync(shake_by_hand, address, context)


async def test_no_session_can_be_resumed(network: RealNetwork, parties: Parties, tmp_path: Path) -> None:
    """The server gives no tickets, so each connection proves its certificate anew."""
    server, client = parties.node("n1", parties.peer_ca), parties.node("n2", parties.peer_ca)
    context = raw_context(identity=client.identity, folder=tmp_path)

    def twice(address: str) -> tuple[bool, bool]:
        first = shake_by_hand(address, context)
        session = first.session
        first.close()
        second = shake_by_hand(address, context, session=session)
        reused = bool(second.session_reused)
        second.close()
        return session is not None and session.has_ticket, reused

    ca = parties.peer_ca.certificate
    async with port(network.serve_peers, echo, identity=server.identity, peer_ca=ca) as address:
        assert await trio.to_thread.run_sync(twice, address) == (False, False)


async def test_dial_to_nobody_fails_in_one_line(network: RealNetwork) -> None:
    """A closed port and a name that isn't there are DialErrors that name the address."""
    closed = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{closed.getsockname()[1]}"
    closed.close()
    with trio.fail_after(DEADLINE), pytest.raises(DialError, match=f"{address} does not answer: Connection refused"):
        await network.dial_native(address, client_ca=None)


async def test_dial_gives_up_on_a_silent_server(network: RealNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that accepts and says nothing costs a bounded time."""
    monkeypatch.setattr("keycluster.node.network.DIAL_SECONDS_MAX", 0.1)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, trio.fail_after(DEADLINE), pytest.raises(DialError, match="does not answer within"):
        await network.dial_native(f"127.0.0.1:{silent.getsockname()[1]}", client_ca=None)


async def test_plain_port_serves_loopback_only(network: RealNetwork) -> None:
    """Without TLS an address that others can reach is refused at once."""
    with trio.fail_after(DEADLINE):
        for address in ("0.0.0.0:0", "[::]:0"):
            with pytest.raises(ValueError, match="not a loopback address"):
                await network.serve_plain(address, echo)
    async with port(network.serve_plain, echo) as address:
        stream = await connect(address)
        await stream.send_all(b"hello")
        assert await stream.receive_some(5) == b"hello"
        await stream.aclose()


async def test_plain_port_with_identity_speaks_tls(network: RealNetwork, parties: Parties) -> None:
    """The AWS door's TLS is the native door's: same version, same rules."""
    server = parties.node("n1", parties.client_ca)
    async with port(network.serve_plain, echo, identity=server.identity) as address:
        stream = await network.dial_native(address, client_ca=parties.client_ca.certificate)
        assert await ask(stream) == b"hello"


async def test_half_open_connections_give_way_to_newer_ones(network: RealNetwork, parties: Parties) -> None:
    """Many that never finish their handshake don't keep an honest client out."""
    server = parties.node("n1", parties.client_ca)
    limits = ServeLimits(half_open_max=3, handshake_seconds=60)
    async with port(network.serve_native, echo, identity=server.identity, limits=limits) as address:
        idle = [await connect(address) for _ in range(8)]
        stream = await network.dial_native(address, client_ca=parties.client_ca.certificate)
        assert await ask(stream) == b"hello"
        assert await idle[0].receive_some(1) == b""  # The oldest was ended.
        statistics = network.statistics()[address]
        assert statistics.half_open <= 3
        assert statistics.evicted >= 6
        for connection in idle:
            await connection.aclose()


async def test_slow_handshake_is_ended(network: RealNetwork, parties: Parties) -> None:
    """A client that connects and says nothing is hung up on."""
    server = parties.node("n1", parties.client_ca)
    limits = ServeLimits(handshake_seconds=0.05)
    async with port(network.serve_native, echo, identity=server.identity, limits=limits) as address:
        connection = await connect(address)
        assert await connection.receive_some(1) == b""
        assert network.statistics()[address].handshakes_failed == 1
        await connection.aclose()


async def test_connections_beyond_the_limit_are_closed_at_accept(network: RealNetwork, parties: Parties) -> None:
    """Nobody takes more connections of a port than it has, and one that ends makes room."""
    server, ca = parties.node("n1", parties.client_ca), parties.client_ca.certificate
    limits = ServeLimits(connections_max=1)
    async with port(network.serve_native, echo, identity=server.identity, limits=limits) as address:
        first = await network.dial_native(address, client_ca=ca)
        with pytest.raises(DialError):
            await network.dial_native(address, client_ca=ca)
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert network.statistics()[address].connections == 0
        again = await network.dial_native(address, client_ca=ca)
        assert await ask(again) == b"hello"
        assert network.statistics()[address].over_limit == 1


async def test_garbage_instead_of_tls_leaves_the_port_serving(network: RealNetwork, parties: Parties) -> None:
    """Bytes that are no TLS end their own connection and nothing else."""
    server, ca = parties.node("n1", parties.client_ca), parties.client_ca.certificate
    async with port(network.serve_native, echo, identity=server.identity) as address:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 600, b"\x16\x03\x01\xff\xff" + b"x" * 700, b""):
            connection = await connect(address)
            await connection.send_all(garbage)
            await connection.send_eof()
            while await connection.receive_some(1000):
                pass
            await connection.aclose()
        stream = await network.dial_native(address, client_ca=ca)
        assert await ask(stream) == b"hello"
        assert network.statistics()[address].handshakes_failed == 4


async def test_handler_fault_ends_the_server(network: RealNetwork) -> None:
    """A broken stream ends its connection; any other exception of a handler is ours, and is not hidden."""

    async def fail(stream: ByteStream) -> None:
        if await stream.receive_some(1) == b"b":
            raise trio.BrokenResourceError
        raise LookupError("ours")

    async def provoke() -> None:
        async with port(network.serve_plain, fail) as address:
            for letter in (b"b", b"x"):
                connection = await connect(address)
                await connection.send_all(letter)
                assert await connection.receive_some(1) == b""
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await provoke()
    assert raised.group_contains(LookupError, match="ours")


async def test_statistics_count_each_connection(network: RealNetwork) -> None:
    """What `statistics` tells is what happened."""
    async with port(network.serve_plain, echo) as address:
        connection = await connect(address)
        await connection.send_all(b"x")
        assert await connection.receive_some(1) == b"x"
        assert network.statistics() == {address: PortStatistics(connections=1, accepted=1)}
        await connection.aclose()


async def test_private_key_never_touches_a_file(
    network: RealNetwork, parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python's `ssl` reads the key from is in memory, and encrypted there."""
    server = parties.node("n1", parties.client_ca)
    loaded: list[tuple[str, bytes]] = []
    load = ssl.SSLContext.load_cert_chain

    def watch(context: ssl.SSLContext, path: str, **options: Any) -> None:
        loaded.append((path, Path(path).read_bytes()))
        load(context, path, **options)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watch)
    async with port(network.serve_native, echo, identity=server.identity):
        pass
    [(path, content)] = loaded
    assert path.startswith("/proc/self/fd/")
    assert b"ENCRYPTED PRIVATE KEY" in content
