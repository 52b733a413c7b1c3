"""Streams with TCP's behaviour over simulated links: the seam's `ByteStream`, and what is under way below it.

A connection has two ends (`SimStream`) and two directions (`Pipe`). What a pipe promises: the receiver reads exactly
a beginning of what was sent, in order; all of it, then the end, if the sender closed in order and nothing broke.

A segment that doesn't get through is sent again after 200 ms, then after twice as long each time, and all that was
sent after it waits behind it. As with the real streams between nodes (node/network.py), one whose other side
acknowledges nothing for two seconds breaks; idle ones ask for a sign of life and break after three. Streams of clients
wait for ever. An end that was closed, died or broke answers what still comes with a reset.

In fair weather a send costs one entry of the wire's heap and no task.
"""

from collections import deque
from typing import TYPE_CHECKING

import trio

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.node.network import PEER_UNANSWERED_SECONDS

if TYPE_CHECKING:
    from keycluster.simulations.region.links import Link, Links

UNREAD_BYTES_MAX = 512 * 1024
"""Sent and not read yet: both systems' buffers together. A sender waits above it."""

READ_BYTES_MAX = 65_536
"""As node/streams.py: one read of a socket."""

RETRANSMISSION_NS = 200 * MILLISECOND
RETRANSMISSION_NS_MAX = 120 * SECOND
"""RFC 6298, 2.5 allows for a bound; it is Linux's."""

UNANSWERED_NS = PEER_UNANSWERED_SECONDS * SECOND
KEEPALIVE_INTERVAL_NS = 1 * SECOND
"""As node/streams.py sets it (TCP_KEEPINTVL): an unanswered question ends an idle stream that much later."""

PIECE_NS_MAX = 2 * MILLISECOND
RESET_LOSES_CHANCE = 0.5
"""That a reset overtakes what was under way."""

_END = b""


class SimStream:
    """One end of a connection."""

    __slots__ = ("_arrived", "_connection", "_reader", "_room_waiter", "_sending", "_torn", "broken", "closed",
                 "ended", "gone", "heard", "incoming", "name", "outgoing", "peer_address", "peer_certificate",
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
        self.heard = 0  # Segments so far.
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
        self.heard += 1
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
            if self.outgoing.link.rng.random() < RESET_LOSES_CHANCE:
                self.outgoing.drop()
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


class Pipe:
    """One direction of a connection: what was sent and isn't read yet."""

    __slots__ = ("_backoff_ns", "_dropped", "_flight", "_last_at", "_links", "_retrying", "_stalled", "_unacked_since",
                 "_wire", "back", "link", "receiver", "sender", "unanswered_ns", "unread")  # fmt: skip

    def __init__(self, links: "Links", sender: SimStream, receiver: SimStream, unanswered_ns: int | None) -> None:
        self.link: Link = links.link(sender.name, receiver.name)
        self.back: Link = self.link.back
        self.sender = sender
        self.receiver = receiver
        self.unanswered_ns = unanswered_ns
        self.unread = 0
        self._links = links
        self._wire = links.wire
        self._flight: deque[tuple[int, bytes | None]] = deque()  # Due at; bytes, the end, or a reset.
        self._last_at = 0
        self._stalled = False  # The first in flight didn't get through, and all else waits behind it.
        self._retrying = False
        self._backoff_ns = 0
        self._unacked_since: int | None = None
        self._dropped = False

    @property
    def under_way(self) -> bool:
        """Whether anything is still to come."""
        return bool(self._flight)

    def send(self, content: bytes) -> None:
        if self._links.tap is not None:
            self._links.tap(self.link.source, self.link.target, content)
        self.unread += len(content)
        self._put(content)

    def finish(self) -> None:
        """No more comes."""
        self._put(_END)

    def reset(self) -> None:
        """The other end is told to break, and may lose what is under way."""
        if self.link.rng.random() < RESET_LOSES_CHANCE:
            self._flight.clear()
        self._put(None)

    def drop(self) -> None:
        """Nobody will send what is under way again, and it is lost."""
        self._dropped = True
        self._flight.clear()

    def was_read(self, count: int) -> None:
        self.unread -= count
        self.sender.made_room()

    def release(self) -> None:
        """The clog has ended."""
        if self._stalled and not self.link.blocked:
            self._stalled = False
            if not self.back.blocked:
                self._unacked_since = None
            self._deliver()

    def _put(self, item: bytes | None) -> None:
        if self._dropped:
            return
        at = self._wire.now_ns + self.link.delay_ns()
        if self._flight and at <= self._last_at:
            self._flight.append((self._last_at, item))  # Nothing overtakes within a stream: it comes with the last.
            return
        self._last_at = at
        self._flight.append((at, item))
        self._wire.at(at, self._arrive)

    def _arrive(self) -> None:
        if self._stalled or not self._flight:
            return
        if self.link.blocked:
            self._stall()
        else:
            self._deliver()

    def _deliver(self) -> None:
        receiver, flight, now = self.receiver, self._flight, self._wire.now_ns
        while flight and flight[0][0] <= now:
            if receiver.gone:
                self._find_nobody()
                return
            item = flight.popleft()[1]
            if item is None:
                receiver.break_off("reset by the other side")
            elif item == _END:
                receiver.take_end()
            elif self.link.pieces and len(item) > 1 and self.link.rng.random() < self.link.pieces:
                receiver.take(self._break_piece(item))
                break
            else:
                receiver.take(item)
        if self.back.blocked:
            self._await_acknowledgement()

    def _break_piece(self, item: bytes) -> bytes:
        """A part that arrives now; the rest does later."""
        rng = self.link.rng
        size = rng.randrange(1, len(item))
        at = self._wire.now_ns + int(rng.random() * PIECE_NS_MAX)
        self._flight.appendleft((at, item[size:]))
        self._last_at = max(self._last_at, at)
        self._wire.at(at, self._arrive)
        self._links.counts["pieces"] += 1
        return item[:size]

    def _find_nobody(self) -> None:
        if self.sender.gone:
            self.drop()
        elif self.back.blocked:
            self._stalled = True
            self._await_acknowledgement()
        else:
            self.drop()
            self._wire.after(self.back.delay_ns(), self.sender.break_off, "reset by the other side")

    def _stall(self) -> None:
        self._stalled = True
        if self.link.clogged and not self.link.cut:
            self._links.counts["clogged"] += 1
            self.link.held[self] = None
        else:
            self._links.counts["cut"] += 1
        self._await_acknowledgement()

    def _await_acknowledgement(self) -> None:
        if self.back.target_down:
            self.drop()  # The sender's machine is down itself: nobody sends again.
            return
        if self._unacked_since is None:
            self._unacked_since = self._wire.now_ns
            if self.unanswered_ns is not None:
                self._wire.after(self.unanswered_ns, self._give_up, self._wire.now_ns)
        if not self._retrying:
            self._retrying = True
            self._backoff_ns = RETRANSMISSION_NS
            self._wire.after(self._backoff_ns, self._retry)

    def _retry(self) -> None:
        if self._dropped:
            return
        if self.back.target_down:
            self.drop()
            return
        if not self.link.blocked:
            self.link.held.pop(self, None)
            if self._stalled:
                self._stalled = False
                self._deliver()
            if not self.back.blocked:
                self._unacked_since = None
                self._retrying = False
                return
        self._backoff_ns = min(2 * self._backoff_ns, RETRANSMISSION_NS_MAX)
        self._wire.after(self._backoff_ns, self._retry)

    def _give_up(self, since: int) -> None:
        if self._unacked_since == since and not self._dropped:
            self._links.counts["timed out"] += 1
            self.sender.break_off("the other side acknowledges nothing")


class Connection:
    """Both ends of one, `dialler` first. Told by `Links` what happens to the links it runs over."""

    __slots__ = ("_links", "_unanswered_ns", "dialler", "listener", "names")

    def __init__(
        self, links: "Links", *, dialler: tuple[str, str], listener: tuple[str, str], between_nodes: bool
    ) -> None:
        """Names and addresses of both."""
        self._links = links
        self._unanswered_ns = UNANSWERED_NS if between_nodes else None
        self.names = (dialler[0], listener[0])
        self.dialler = SimStream(dialler[0], self, listener[1])
        self.listener = SimStream(listener[0], self, dialler[1])
        there = Pipe(links, self.dialler, self.listener, self._unanswered_ns)
        back = Pipe(links, self.listener, self.dialler, self._unanswered_ns)
        self.dialler.outgoing, self.dialler.incoming = there, back
        self.listener.outgoing, self.listener.incoming = back, there
        links.add(self)

    def reset(self) -> None:
        """Both ends break once they hear of it."""
        for end in (self.dialler, self.listener):
            self._links.wire.after(end.incoming.link.delay_ns(), end.break_off, "reset by a third")

    def lose(self, name: str, *, silently: bool) -> None:
        """The process of that name has died."""
        for end in (self.dialler, self.listener):
            if end.name == name:
                end.die(silently=silently)

    def end_gone(self) -> None:
        """One end has gone, in one way or another."""
        if self.dialler.gone and self.listener.gone:
            self._links.forget(self)
        else:
            self.round_trip_blocked()

    def round_trip_blocked(self) -> None:
        """No acknowledgement can come now, or from nobody: streams between nodes notice, idle ones too."""
        if self._unanswered_ns is not None:
            for end in (self.dialler, self.listener):
                self._links.wire.after(self._unanswered_ns, self._ask_for_life, end, end.heard)

    def _ask_for_life(self, end: SimStream, heard: int) -> None:
        if end.gone:
            return
        other = self.listener if end is self.dialler else self.dialler
        link = end.outgoing.link
        if not (link.blocked or link.back.blocked):
            if other.gone and not end.ended and not end.incoming.under_way:
                end.break_off("reset by the other side")
        elif end.heard == heard:
            self._links.wire.after(KEEPALIVE_INTERVAL_NS, self._give_up, end, heard)
        else:
            self._links.wire.after(UNANSWERED_NS, self._ask_for_life, end, end.heard)

    def _give_up(self, end: SimStream, heard: int) -> None:
        if not end.gone and end.heard == heard:
            self._links.counts["timed out"] += 1
            end.break_off("the other side gives no sign of life")
