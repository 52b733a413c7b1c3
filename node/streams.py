"""Byte streams over non-blocking sockets on trio, plain and TLS, made for many small messages.

Why not `trio.SSLStream`: one of its receives and one send cost about 30 µs more than these (tests and figures in
docs/decisions), because each of its calls passes several locks and yields to the scheduler once more. The rules here:

- One task receives, one sends, at the same time if they like; a second of either kind is refused.
- `receive_some` lets other tasks run whenever it takes bytes from the socket (at most 64 KiB each time), so that no
  flooding client keeps the loop; what one such read brought is handed on without waiting again.
- `send_all` waits only when the socket's buffer is full. A cancelled `send_all` leaves the stream broken, as half a
  record may be out.
"""

import contextlib
import socket
import ssl

import trio

from keycluster.node.addresses import join_address
from keycluster.node.pki import public_key_of

SOCKET_READ_BYTES = 65_536
"""One read from a socket: four full TLS records, about sixty small requests."""


class PlainStream:
    """A connected TCP socket. Owns it: `aclose` or `close` closes it."""

    __slots__ = ("_broken", "_closed", "_sending", "_socket", "peer_address")

    peer_public_key: bytes | None = None
    peer_certificate: bytes | None = None

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            # Without it the last small answer of a batch waits for the other side's delayed ACK: 40 ms.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._sending = False
        self._broken = False
        self._closed = False
        self.peer_address = _peer_address(connected)

    async def receive_some(self, count_max: int) -> bytes:
        while not self._closed:
            # Waiting first saves the read that nearly always finds nothing, and lets other tasks run.
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(min(count_max, SOCKET_READ_BYTES))
            except BlockingIOError:
                continue
            except OSError as error:
                if not self._closed:
                    raise trio.BrokenResourceError(f"receiving failed: {error.strerror}") from error
        raise trio.ClosedResourceError

    async def send_all(self, content: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed or self._broken:
            raise trio.ClosedResourceError if self._closed else trio.BrokenResourceError
        self._sending = True
        self._broken = True  # Until all is out: whoever cancels us leaves half a message behind.
        try:
            sent = self._send_nowait(content)
            if sent < len(content):
                await self._send_rest(memoryview(content)[sent:])
            self._broken = False
        finally:
            self._sending = False

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def break_when_unanswered(self, seconds: int) -> None:
        """Has the system break the connection when the other side acknowledges nothing for so long, busy or idle.

        Without it bytes sent into a network that has lost its way are repeated for a quarter of an hour, less and less
        often: once the network is back they may still wait for minutes.
        """
        if self._socket.family in (socket.AF_INET, socket.AF_INET6):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1_000)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)

    def close(self) -> None:
        """Closes the socket; tasks that wait on it get `trio.ClosedResourceError`."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def _send_rest(self, left: memoryview) -> None:
        while left:
            await trio.lowlevel.wait_writable(self._socket)
            left = left[self._send_nowait(left) :]

    def _send_nowait(self, content: bytes | bytearray | memoryview) -> int:
        try:
            return self._socket.send(content)
        except BlockingIOError:
            return 0
        except OSError as error:
            if self._closed:
                raise trio.ClosedResourceError from None
            raise trio.BrokenResourceError(f"sending failed: {error.strerror}") from error


class TlsStream:
    """TLS over a `PlainStream`, through OpenSSL's memory buffers. Do `handshake` before anything else.

    Python's `ssl` gets no socket: bytes go in and out by hand, so that nothing ever blocks inside OpenSSL.
    """

    __slots__ = ("_flush_waiters", "_flushing", "_incoming", "_outgoing", "_plain", "_sending", "_tls",
                 "peer_address", "peer_certificate", "peer_public_key")  # fmt: skip

    def __init__(self, plain: PlainStream, context: ssl.SSLContext, *, server_hostname: str | None = None) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        server_side = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._sending = False
        self._flushing = False
        self._flush_waiters = trio.lowlevel.ParkingLot()
        self.peer_address = plain.peer_address
        self.peer_certificate: bytes | None = None
        self.peer_public_key: bytes | None = None

    async def handshake(self) -> None:
        """Raises `ssl.SSLError` (the other side is told why), `trio.BrokenResourceError` or `CertificateRefused`."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush()  # The alert.
                raise
            if not await self._fetch():
                raise trio.BrokenResourceError("the other side hung up during the TLS handshake")
        await self._flush()
        self.peer_certificate = self._tls.getpeercert(binary_form=True)
        if self.peer_certificate is not None:
            self.peer_public_key = public_key_of(self.peer_certificate)

    async def receive_some(self, count_max: int) -> bytes:
        while True:
            content = self._read_nowait(count_max)
            if content is not None:
                return content
            if self._outgoing.pending:
                await self._flush()  # OpenSSL answers a key update by itself.
            if not await self._fetch():
                return b""

    async def send_all(self, content: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if not content:
            return
        self._sending = True
        try:
            self._tls.write(content)  # Into a memory buffer: takes all of it.
            await self._flush()
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(f"TLS failed: {error.reason}") from error
        finally:
            self._sending = False

    async def aclose(self) -> None:
        await self._plain.aclose()

    def _read_nowait(self, count_max: int) -> bytes | None:
        """All that is here, several TLS records at once; None when more is needed, empty at the end."""
        try:
            first = self._tls.read(count_max)
            if not self._incoming.pending or not first:
                return first
            records = [first]
            count_left = count_max - len(first)
            with contextlib.suppress(ssl.SSLWantReadError):
                while count_left > 0 and self._incoming.pending and (record := self._tls.read(count_left)):
                    records.append(record)
                    count_left -= len(record)
            return b"".join(records)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(f"TLS failed: {error.reason}") from error

    async def _fetch(self) -> bool:
        encrypted = await self._plain.receive_some(SOCKET_READ_BYTES)
        self._incoming.write(encrypted)
        return bool(encrypted)

    async def _flush(self) -> None:
        """Sends what OpenSSL has ready, in its order, whichever of the two tasks made it."""
        while self._flushing:
            await self._flush_waiters.park()
        self._flushing = True
        try:
            while encrypted := self._outgoing.read():
                await self._plain.send_all(encrypted)
        finally:
            self._flushing = False
            self._flush_waiters.unpark_all()


def _peer_address(connected: socket.socket) -> str:
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return "local:0"
    try:
        host, port = connected.getpeername()[:2]
    except OSError:  # It left already; the first receive will say so.
        return "unknown:0"
    return join_address(host, port)
