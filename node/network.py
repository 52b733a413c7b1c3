"""Real sockets: who may connect, and what strangers may take of a port (cluster/seams.py, `Network`).

TLS as security.md 8 and 9 want it: version 1.3 only; no session tickets (a resumed session would accept a certificate
that has expired since); at the peer port a client certificate of the one peer CA; no other CA is ever loaded.

Closing sends no TLS close_notify and expects none: sending one can block on a peer that doesn't read, and every
protocol here says by itself where a message ends, so a cut connection only ever loses whole answers.
"""

import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_der_private_key,
)

from keycluster.cluster.seams import (
    ADDRESS_NOT_REPORTED,
    DEFAULT_LIMITS,
    AddressReport,
    ByteStream,
    DialError,
    ServeLimits,
    StreamHandler,
    TlsIdentity,
)
from keycluster.node.addresses import join_address, split_address
from keycluster.node.pki import CertificateRefused
from keycluster.node.streams import PlainStream, TlsStream

DIAL_SECONDS_MAX = 5.0
"""For the name look-up, the connection and the handshake together."""

PEER_UNANSWERED_SECONDS = 2
"""A stream between nodes is broken, and dialled anew, when the other machine acknowledges nothing for so long."""

LISTEN_BACKLOG = 1024

ACCEPT_RETRY_SECONDS = 0.1
ACCEPT_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Nothing to accept with: connections that end give it back, so wait and go on (trio's listeners do the same)."""


@dataclass(slots=True)
class PortStatistics:
    """What happened at one listening port since it opened; the first two are as of now."""

    connections: int = 0
    half_open: int = 0
    accepted: int = 0
    over_limit: int = 0
    """Closed at accept: `connections_max` reached."""
    evicted: int = 0
    """Half-open ones ended for newer ones."""
    handshakes_failed: int = 0
    """Time-outs and evictions included."""


Shake = Callable[[PlainStream], Awaitable[ByteStream]]


class RealNetwork:
    """TCP and TLS of this machine."""

    def __init__(self) -> None:
        self._ports: dict[str, PortStatistics] = {}

    def statistics(self) -> dict[str, PortStatistics]:
        """Per listening address."""
        return dict(self._ports)

    async def dial_peer(
        self, address: str, *, identity: TlsIdentity, peer_ca: bytes, expected_public_key: bytes
    ) -> ByteStream:
        context = _client_context(peer_ca)
        context.check_hostname = False  # The pinned key says more than a name, and survives a change of address.
        _load_identity(context, identity)
        stream = await _dial(address, context, server_hostname=None, shake=_peer_shake)
        if stream.peer_public_key != expected_public_key:
            await stream.aclose()
            raise DialError(f"{address} shows another public key than the one pinned for that node")
        return stream

    async def dial_native(self, address: str, *, client_ca: bytes | None) -> ByteStream:
        host, _ = split_address(address)
        return await _dial(address, _client_context(client_ca), server_hostname=host if client_ca else None)

    async def serve_peers(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity,
        peer_ca: bytes,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        context = _server_context(identity)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=peer_ca)
        await self._serve(address, _Port(handler, limits, partial(_peer_shake, context)), task_status)

    async def serve_native(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        shake = partial(_shake, _server_context(identity))
        await self._serve(address, _Port(handler, limits, shake), task_status)

    async def serve_plain(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity | None = None,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        shake = _no_shake if identity is None else partial(_shake, _server_context(identity))
        await self._serve(address, _Port(handler, limits, shake), task_status, loopback_only=identity is None)

    async def _serve(
        self, address: str, port: "_Port", task_status: AddressReport, *, loopback_only: bool = False
    ) -> None:
        listeners = await _listen(address)
        try:
            if loopback_only and not all(_is_loopback(listener) for listener in listeners):
                raise ValueError(f"{address} is not a loopback address, and without TLS no other is served")
            host, _ = split_address(address)
            bound = join_address(host, listeners[0].getsockname()[1])
            self._ports[bound] = port.statistics
            await port.run(listeners, lambda: task_status.started(bound))
        finally:
            for listener in listeners:
                trio.lowlevel.notify_closing(listener)
                listener.close()


class _Port:
    """One listening port: accepts, shakes hands, calls the handler, and counts."""

    def __init__(self, handler: StreamHandler, limits: ServeLimits, shake: Shake) -> None:
        self.statistics = PortStatistics()
        self._handler = handler
        self._limits = limits
        self._shake = shake
        self._half_open: dict[PlainStream, trio.CancelScope] = {}  # In order of arrival: the oldest is first.

    async def run(self, listeners: list[socket.socket], listening: Callable[[], None]) -> None:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept, listener, nursery)
            listening()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                accepted, _ = listener.accept()
            except OSError as error:
                if error.errno in ACCEPT_OUT_OF_RESOURCES:
                    await trio.sleep(ACCEPT_RETRY_SECONDS)
                # Anything else is a connection that ended before we took it: accept(2) tells such errors here.
                continue
            if self.statistics.connections >= self._limits.connections_max:
                self.statistics.over_limit += 1
                accepted.close()
                continue
            self.statistics.accepted += 1
            self.statistics.connections += 1
            nursery.start_soon(self._connection, accepted)

    async def _connection(self, accepted: socket.socket) -> None:
        plain: PlainStream | None = None
        try:
            plain = PlainStream(accepted)
            stream = await self._shake_in_time(plain)
            if stream is not None:
                await self._handler(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.statistics.connections -= 1
            if plain is None:
                accepted.close()
            else:
                plain.close()

    async def _shake_in_time(self, plain: PlainStream) -> ByteStream | None:
        """The stream, or None where the other side was too slow, evicted, or not acceptable."""
        if len(self._half_open) >= self._limits.half_open_max:
            self.statistics.evicted += 1
            self._half_open.pop(next(iter(self._half_open))).cancel()
        stream: ByteStream | None = None
        with trio.move_on_after(self._limits.handshake_seconds) as scope:
            self._half_open[plain] = scope
            self.statistics.half_open = len(self._half_open)
            try:
                stream = await self._shake(plain)
            except (ssl.SSLError, trio.BrokenResourceError, CertificateRefused):
                pass
            finally:
                self._half_open.pop(plain, None)
                self.statistics.half_open = len(self._half_open)
        if stream is None:
            self.statistics.handshakes_failed += 1
        return stream


async def _no_shake(plain: PlainStream) -> ByteStream:
    return plain


async def _shake(context: ssl.SSLContext, plain: PlainStream, server_hostname: str | None = None) -> TlsStream:
    stream = TlsStream(plain, context, server_hostname=server_hostname)
    await stream.handshake()
    return stream


async def _peer_shake(context: ssl.SSLContext, plain: PlainStream, server_hostname: str | None = None) -> TlsStream:
    plain.break_when_unanswered(PEER_UNANSWERED_SECONDS)
    return await _shake(context, plain, server_hostname)


async def _dial(
    address: str,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None,
    shake: Callable[[ssl.SSLContext, PlainStream, str | None], Awaitable[TlsStream]] = _shake,
) -> TlsStream:
    with trio.move_on_after(DIAL_SECONDS_MAX):
        plain = await _connect(address)
        try:
            stream = await shake(context, plain, server_hostname)
        except ssl.SSLCertVerificationError as error:
            plain.close()
            raise DialError(f"{address} shows a certificate that is not accepted: {error.verify_message}") from error
        except (ssl.SSLError, trio.BrokenResourceError, CertificateRefused) as error:
            plain.close()
            raise DialError(f"{address} does not finish the TLS handshake: {error}") from error
        except BaseException:
            plain.close()
            raise
        return stream
    raise DialError(f"{address} does not answer within {DIAL_SECONDS_MAX:g} s")


async def _connect(address: str) -> PlainStream:
    host, port = split_address(address)
    try:
        connected = await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise DialError(f"{address} does not answer: {_reason(error)}") from error
    return PlainStream(socket.socket(fileno=connected.socket.detach()))


def _reason(error: OSError) -> str:
    """What went wrong at the last of a host's addresses: trio's own text says only that all of them failed."""
    cause: BaseException = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else str(cause)  # Below 0: the resolver's.


async def _listen(address: str) -> list[socket.socket]:
    """Listening sockets, one for each of the host's addresses. Raises `OSError`, its text naming the address."""
    host, port = split_address(address)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=LISTEN_BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"can't listen at {address}: {error.strerror or error}") from error
    sockets = [socket.socket(fileno=listener.socket.detach()) for listener in listeners]
    if port == 0:
        # Each address would have taken another free port: one is enough.
        for spare in sockets[1:]:
            spare.close()
        del sockets[1:]
    for listener in sockets:
        listener.setblocking(False)
    return sockets


def _is_loopback(listener: socket.socket) -> bool:
    host = str(listener.getsockname()[0])
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _client_context(ca: bytes | None) -> ssl.SSLContext:
    """Trusts `ca` (DER) alone; without one nothing is checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=ca)
    return context


def _server_context(identity: TlsIdentity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    _load_identity(context, identity)
    return context


def _load_identity(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    """Python's `ssl` reads keys from files only: it gets one in memory, encrypted under a password made for it."""
    password = os.urandom(32).hex().encode()
    private_key = load_der_private_key(identity.private_key, None)
    certificates = [x509.load_der_x509_certificate(der) for der in (identity.certificate, *identity.chain)]
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    pem += private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
    descriptor = os.memfd_create("tls-identity", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=password)
    finally:
        os.close(descriptor)
