"""Streams with TCP's behaviour over simulated links: the seam's `ByteStream`, and what is under way below it.

A connection has two ends (`SimStream`) and two directions (`Pipe`). What a pipe promises: the receiver reads exactly
a beginning of what was sent, in order; all of it, then the end, if the sender closed in order and nothing broke.

A segment that doesn't get through is sent again after 200 ms, then after twice as long each time, and all that was
sent after it waits behind it. As with the real streams between nodes (node/network.py), one whose other side
acknowledges nothing for two seconds breaks; idle ones ask for a sign of life and break after three. Streams of clients
wait for ever. An end that was closed, died or broke answers what still comes with a reset.
"""

from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from keycluster.simulations.region.pipes import Connection, Pipe

UNREAD_BYTES_MAX = 512 * 1024
"""Sent and not read yet: both systems' buffers together. A sender waits above it."""

READ_BYTES_MAX = 65_536
"""As node/streams.py: one read of a socket."""

RESET_LOSES_CHANCE = 0.5
"""That a reset overtakes what was under way."""


class SimStream:
    """One end of a connection."""

    __slots__ = ("_arrived", "_connection", "_reader", "_room_waiter", "_sending", "_torn", "broken", "closed",
                 "ended", "gone", "heard_ns", "incoming", "name", "outgoing", "peer_address", "peer_certificate",
                 "peer_public_key")  # fmt: skip

    incoming: "Pipe"
    outgoing: "Pipe"

    def __init__(self, name: str, connection: "Connection", peer_address: str) -> None:
        self.name = name
        self.peer_address = peer_address
        self.peer_certificate: bytes | None = None
        self.peer_public_key: bytes | None = None
        self.closed = False  # By its owner.
        self.broken: str | None = None  # Why.
        self.gone = False  # There is no socket any more: whatever comes is answered by a reset.
        self.heard_ns = 0  # When something came last.
        self._connection = connection
        self._arrived: deque[bytes] = deque()
        self.ended = False  # The other side's end has been received.
        self._torn = False  # A cancelled send left half a message behind.
        self._sending = False
        self._reader: trio.lowlevel.Task | None = None
        self._room_waiter: trio.lowlevel.Task | None = None

    async def receive_some(self, count_max: int) -> bytes:
        if self._reader is not None:
            raise trio.BusyResourceError("another task is receiving on this stream")
        if self._arrived or self.ended or self.closed or self.broken is not None:
            await trio.lowlevel.checkpoint()
        else:
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_reading)
        if self.closed:
            raise trio.ClosedResourceError
        if self._arrived:
            return self._take(min(count_max, READ_BYTES_MAX))
        if self.broken is not None:
            raise trio.BrokenResourceError(f"receiving failed: {self.broken}")
        return b""

    async def send_all(self, content: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self.closed:
            raise trio.ClosedResourceError
        if self.broken is not None or self._torn:
            raise trio.BrokenResourceError(f"sending failed: {self.broken or 'a send was cancelled'}")
        if not content:
            return
        if len(content) <= UNREAD_BYTES_MAX - self.outgoing.unread:
            self.outgoing.send(bytes(content))
        else:
            await self._send_in_parts(memoryview(content))

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As `aclose`; tasks that wait on it get `trio.ClosedResourceError`."""
        if not self.closed:
            self.closed = True
            self._wake()
            if not self.gone:
                self._leave(unread=bool(self._arrived))

    def refuse(self) -> None:
        """Closes with a reset: a handshake that ends badly."""
        self.closed = True
        if not self.gone:
            self._leave(unread=True)

    # What the pipes tell.

    def take(self, content: bytes) -> None:
        """Bytes have arrived."""
        self._arrived.append(content)
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None

    def take_end(self) -> None:
        """The other side has closed, and all it sent is here."""
        self.ended = True
        self._wake()

    def break_off(self, reason: str) -> None:
        """A reset has arrived, or the system gave up."""
        if not self.gone:
            self.gone = True
            self.broken = reason
            self.outgoing.drop()
            self._wake()
            self._connection.end_gone()

    def made_room(self) -> None:
        """The other side has read."""
        if self._room_waiter is not None:
            trio.lowlevel.reschedule(self._room_waiter)
            self._room_waiter = None

    def die(self, *, silently: bool) -> None:
        """Its process has died; silently: with its machine."""
        if self.gone:
            return
        self.broken = "the process has died"
        if not silently:
            self._leave(unread=bool(self._arrived) or self.outgoing.link.rng.random() < RESET_LOSES_CHANCE)
        else:
            self.gone = True
            self.outgoing.orphan()
            self._connection.end_gone()
        self._wake()

    def _leave(self, *, unread: bool) -> None:
        """As a system closes a socket: with a reset if something was left unread, else once all is sent."""
        self.gone = True
        if unread:
            self.outgoing.reset()
        else:
            self.outgoing.finish()
        self._connection.end_gone()

    def _wake(self) -> None:
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None
        self.made_room()

    def _stop_reading(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _take(self, count_max: int) -> bytes:
        arrived = self._arrived
        if len(arrived) > 1:
            joined = b"".join(arrived)
            arrived.clear()
        else:
            joined = arrived.popleft()
        if len(joined) > count_max:
            arrived.appendleft(joined[count_max:])
            joined = joined[:count_max]
        self.incoming.was_read(len(joined))
        return joined

    async def _send_in_parts(self, left: memoryview) -> None:
        self._sending = self._torn = True
        try:
            while left:
                room = UNREAD_BYTES_MAX - self.outgoing.unread
                if room > 0:
                    self.outgoing.send(bytes(left[:room]))
                    left = left[room:]
                else:
                    await self._wait_for_room()
            self._torn = False
        finally:
            self._sending = False

    async def _wait_for_room(self) -> None:
        self._room_waiter = trio.lowlevel.current_task()

        def stop(_: object) -> trio.lowlevel.Abort:
            self._room_waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(stop)
        if self.closed:
            raise trio.ClosedResourceError
        if self.broken is not None:
            raise trio.BrokenResourceError(f"sending failed: {self.broken}")
