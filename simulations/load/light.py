"""A load client as light as Python can be: ready-made bytes, non-blocking sockets, answers counted and thrown away.

Meant for a process of its own. It keeps `in_flight` units on each connection and sends as many new ones as answers
came, in one write. A unit is whatever `unit` holds: a frame of one request or of many, or an HTTP request.
"""

import selectors
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

READ_BYTES = 262_144

Counter = Callable[[bytearray], int]
"""Takes the whole answers off the buffer and says how many they were."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, and how."""

    unit: bytes
    count: Counter
    requests_per_unit: int = 1
    connections: int = 1
    in_flight: int = 64
    seconds: float = 3.0
    warm_up_seconds: float = 0.5


def count_frame_replies(buffer: bytearray) -> int:
    """Replies in whole frames; only the array's header of each is looked at."""
    count = start = 0
    while len(buffer) - start >= 7:
        length = int.from_bytes(buffer[start : start + 4], "big")
        if len(buffer) - start < 4 + length:
            break
        first = buffer[start + 4]
        count += first & 0x0F if first < 0xA0 else int.from_bytes(buffer[start + 5 : start + 7], "big")
        start += 4 + length
    del buffer[:start]
    return count


def count_http_responses(buffer: bytearray) -> int:
    """Responses with a Content-Length, by their heads alone. Raises ValueError for one that isn't a success."""
    count = start = 0
    while (end := buffer.find(b"\r\n\r\n", start)) >= 0:
        head = bytes(buffer[start:end])
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(bytes(buffer[start : start + 1_000]).decode("latin-1"))
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        if len(buffer) < end + 4 + length:
            break
        start = end + 4 + length
        count += 1
    del buffer[:start]
    return count


class Connection:
    """One socket, TLS or not, already logged in where that is needed."""

    def __init__(self, connected: socket.socket | ssl.SSLSocket, count: Counter) -> None:
        connected.setblocking(False)
        self.socket = connected
        self._count = count
        self._unsent = b""
        self._received = bytearray()

    def send(self, content: bytes) -> None:
        self._unsent += content
        try:
            while self._unsent:
                sent = self.socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass

    def receive(self) -> int:
        """How many answers came."""
        try:
            while True:
                content = self.socket.recv(READ_BYTES)
                if not content:
                    raise ConnectionError("the server closed the connection")
                self._received += content
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        answers = self._count(self._received)
        if self._unsent:
            self.send(b"")
        return answers


def connect(address: str, *, tls: bool) -> socket.socket | ssl.SSLSocket:
    """A blocking connection; the certificate isn't looked at."""
    host, _, port = address.rpartition(":")
    plain = socket.create_connection((host, int(port)))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def drive(load: Load, sockets: list[socket.socket | ssl.SSLSocket]) -> float:
    """Requests answered per second, after the warm-up."""
    selector = selectors.DefaultSelector()
    for one in sockets:
        connection = Connection(one, load.count)
        selector.register(one, selectors.EVENT_READ, connection)
        connection.send(load.unit * load.in_flight)
    answered = 0
    owed: dict[Connection, int] = {}
    began = time.perf_counter()
    counted_from, ends = began + load.warm_up_seconds, began + load.warm_up_seconds + load.seconds
    while (now := time.perf_counter()) < ends:
        for key, _ in selector.select(timeout=1.0):
            connection = key.data
            answers = connection.receive()
            if now >= counted_from:
                answered += answers
            due = owed.get(connection, 0) + answers
            units, owed[connection] = divmod(due, load.requests_per_unit)
            if units:
                connection.send(load.unit * units)
    selector.close()
    return answered / load.seconds
