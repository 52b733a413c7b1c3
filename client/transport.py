"""TLS 1.3 over anyio's sockets, by memory buffers: what one read of the socket brought is handed on as one piece.

anyio's own TLS stream hands on one record (16 KiB) at a time and passes the scheduler for each.
One task receives and one writes. Only the writing one sends: OpenSSL's own answers (key updates) wait for it, so that
records leave in the order they were made.
"""

import contextlib
import socket
import ssl

import anyio
from anyio.abc import SocketAttribute, SocketStream

from keycluster.client.errors import NodeNotTrusted

SOCKET_READ_BYTES = 65_536
CLOSE_SECONDS_MAX = 0.5  # For the farewell of a connection that is given up: the other side may read no more.


class StreamBroken(Exception):
    """The connection is of no more use; the text says why."""


def client_context(ca_file: str | None, ca_pem: str | None = None) -> ssl.SSLContext:
    """TLS 1.3 only, and only certificates of the region's client CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # With certificate and host name checked.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=ca_file, cadata=ca_pem)
    return context


class SecureStream:
    """A connected stream, handshake done. `connect` makes it, `aclose` ends it."""

    def __init__(self, raw: SocketStream, context: ssl.SSLContext, host: str) -> None:
        self._raw = raw
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    @classmethod
    async def connect(cls, host: str, port: int, context: ssl.SSLContext) -> "SecureStream":
        """Raises `StreamBroken`, or `NodeNotTrusted` for a certificate that isn't the region's."""
        try:
            raw = await anyio.connect_tcp(host, port)
        except OSError as error:
            reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise StreamBroken(f"connecting failed: {reason.strerror or reason}") from error
        # Without it a small request waits 40 ms for the other side's delayed ACK.
        raw_socket = raw.extra(SocketAttribute.raw_socket)  # noqa: S610  # Not Django's.
        raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = cls(raw, context, host)
        try:
            await stream._handshake()
        except BaseException:
            await anyio.aclose_forcefully(raw)
            raise
        return stream

    async def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                if not await self._fetch():
                    raise StreamBroken("the other side hung up during the TLS handshake") from None
            except ssl.SSLError as error:
                with contextlib.suppress(StreamBroken):
                    await self.flush()  # The alert, by which the other side knows why.
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise NodeNotTrusted(f"its certificate isn't the region's: {error.verify_message}") from error
                raise StreamBroken(f"TLS failed: {error.reason}") from error
            else:
                await self.flush()
                return

    @property
    def certificate(self) -> bytes:
        """The other side's (DER); its chain and its host name have been checked."""
        return self._tls.getpeercert(binary_form=True) or b""

    @property
    def has_output(self) -> bool:
        """Whether `flush` has something to send."""
        return self._outgoing.pending > 0

    def write_nowait(self, content: bytes) -> None:
        """Encrypts; `flush` sends. Raises `StreamBroken`."""
        try:
            self._tls.write(content)
        except ssl.SSLError as error:
            raise StreamBroken(f"TLS failed: {error.reason}") from error

    async def flush(self) -> None:
        """Sends what there is. If it is cancelled, a record may be half out: the stream is of no more use then."""
        if encrypted := self._outgoing.read():
            try:
                await self._raw.send(encrypted)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise StreamBroken("the connection broke") from error

    async def receive(self) -> bytes:
        """All that one read of the socket brought; empty at the end of the stream."""
        while True:
            try:
                parts = [self._tls.read(SOCKET_READ_BYTES)]
                with contextlib.suppress(ssl.SSLWantReadError):
                    while self._incoming.pending and parts[-1]:
                        parts.append(self._tls.read(SOCKET_READ_BYTES))
                return parts[0] if len(parts) == 1 else b"".join(parts)
            except ssl.SSLWantReadError:
                if not await self._fetch():
                    return b""
            except ssl.SSLError as error:
                raise StreamBroken(f"TLS failed: {error.reason}") from error

    async def _fetch(self) -> bool:
        try:
            encrypted = await self._raw.receive(SOCKET_READ_BYTES)
        except anyio.EndOfStream:
            return False
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise StreamBroken("the connection broke") from error
        self._incoming.write(encrypted)
        return True

    async def aclose(self) -> None:
        """Says farewell if that can be done quickly, and closes. Not interrupted by a cancellation."""
        with anyio.move_on_after(CLOSE_SECONDS_MAX, shield=True):
            with contextlib.suppress(ssl.SSLError, StreamBroken):
                self._say_farewell()
                await self.flush()
            await anyio.aclose_forcefully(self._raw)

    def _say_farewell(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
