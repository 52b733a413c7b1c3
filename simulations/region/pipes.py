"""What is under way between both ends of a stream: segments, retransmissions, time-outs (rules: sim_stream.py).

In fair weather a send costs one entry of the wire's heap and no task.
"""

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.node.network import PEER_UNANSWERED_SECONDS
from keycluster.simulations.region.sim_stream import RESET_LOSES_CHANCE, SimStream

if TYPE_CHECKING:
    from keycluster.simulations.region.links import Link, Links

RETRANSMISSION_NS = 200 * MILLISECOND
"""Linux's least retransmission time-out (TCP_RTO_MIN); it doubles each time (RFC 6298, 5.5)."""
RETRANSMISSION_NS_MAX = 120 * SECOND
"""RFC 6298, 2.5 allows for a bound; it is Linux's."""

UNANSWERED_NS = PEER_UNANSWERED_SECONDS * SECOND
KEEPALIVE_INTERVAL_NS = 1 * SECOND
"""As node/streams.py sets it (TCP_KEEPINTVL): an unanswered question ends an idle stream that much later."""

PIECE_NS_MAX = 2 * MILLISECOND

_END = b""


class Effect(StrEnum):
    """What can happen to segments and connections."""

    LOST = "lost"
    DELAYED = "delayed"
    REORDERED = "reordered"  # Held back, so that others may overtake it.
    OVERTAKEN = "overtaken"  # That one, by a segment of another stream.
    CUT = "cut"  # Stopped by a cut, or by the end of a machine.
    CLOGGED = "clogged"
    RESET = "reset"
    TIMED_OUT = "timed out"
    PIECES = "pieces"


class Pipe:
    """One direction of a connection: what was sent and isn't read yet."""

    __slots__ = ("_backoff_ns", "_dropped", "_flight", "_last_at", "_links", "_orphaned", "_retrying", "_stalled",
                 "_unacked_since", "_wire",
                 "back", "link", "receiver", "sender", "unanswered_ns", "unread")  # fmt: skip

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
        self._orphaned = False

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

    def orphan(self) -> None:
        """The sender's machine is gone: what has left it may arrive, and what doesn't get through is lost."""
        self._orphaned = True
        if self._stalled or self.link.rng.random() < RESET_LOSES_CHANCE:
            self.drop()

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
        self.link.sent(self, at)
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
        receiver.heard_ns = now
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
            else:
                receiver.take(item)
        if self.back.blocked:
            self._links.felt(self.back.blocked_by, self.back)
            self._await_acknowledgement()

    def _break_piece(self, item: bytes) -> bytes:
        """A part that arrives now; the rest does later."""
        rng = self.link.rng
        size = rng.randrange(1, len(item))
        at = self._wire.now_ns + int(rng.random() * PIECE_NS_MAX)
        self._flight.appendleft((at, item[size:]))
        self._last_at = max(self._last_at, at)
        self._wire.at(at, self._arrive)
        self._links.counts[Effect.PIECES] += 1
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
            self.link.held[self] = None
        self._links.tell(self.link.blocked_by, self.link)
        self._await_acknowledgement()

    def _await_acknowledgement(self) -> None:
        if self._orphaned:
            self.drop()
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
        if not self.link.blocked:
            self.link.held.pop(self, None)
            if self._stalled:
                self._stalled = False
                self._deliver()
            if not self.back.blocked:
                self._unacked_since = None
                self._retrying = False
                return
        else:
            self._links.felt(self.link.blocked_by, self.link)  # By faults, too, that have begun since.
        self._backoff_ns = min(2 * self._backoff_ns, RETRANSMISSION_NS_MAX)
        self._wire.after(self._backoff_ns, self._retry)

    def _give_up(self, since: int) -> None:
        if self._unacked_since == since and not self._dropped:
            self._links.counts[Effect.TIMED_OUT] += 1
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
                self._links.wire.after(self._unanswered_ns, self._ask_for_life, end)

    def _ask_for_life(self, end: SimStream) -> None:
        """Has its system send a question, if nothing was heard for long enough."""
        if end.gone:
            return
        wire, link = self._links.wire, end.outgoing.link
        other = self.listener if end is self.dialler else self.dialler
        if not (link.blocked or link.back.blocked):
            if other.gone and not end.ended and not end.incoming.under_way:
                end.break_off("reset by the other side")
            return
        heard_ns = self._heard_ns(end)
        if heard_ns + UNANSWERED_NS <= wire.now_ns:
            wire.after(KEEPALIVE_INTERVAL_NS, self._give_up, end, heard_ns)
        else:
            wire.at(heard_ns + UNANSWERED_NS, self._ask_for_life, end)

    @staticmethod
    def _heard_ns(end: SimStream) -> int:
        """When something came last, or could have: an acknowledgement leaves no trace here."""
        there = end.outgoing.link
        return max(end.heard_ns, min(link.blocked_ns for link in (there, there.back) if link.blocked))

    def _give_up(self, end: SimStream, heard_ns: int) -> None:
        link = end.outgoing.link
        if not end.gone and (link.blocked or link.back.blocked) and self._heard_ns(end) == heard_ns:
            self._links.counts[Effect.TIMED_OUT] += 1
            end.break_off("the other side gives no sign of life")
