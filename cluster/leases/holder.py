"""When this member may serve as a holder of leases (L1, L3).

The holder counts from when it *asked*, the leader from when it *received*: so the holder's side always ends first, by
whatever the question took on its way, and by the drift that both clocks may have.
"""

from dataclasses import dataclass

from keycluster.cluster.types import Instant, LogIndex, NodeId, Term

ASKS_MAX = (
    16  # Questions remembered at once; one is asked every L/4 and is useless after L, and each new leader is asked.
)
PPM = 1_000_000


def serve_ns(lease_ns: int, drift_ppm: int) -> int:
    """How long a holder may use what its leader counts as `lease_ns`: times (1-r)/(1+r), rounded down.

    The worst case is a leader whose clock is fast by r and a holder whose clock is slow by r.
    """
    return lease_ns * (PPM - drift_ppm) // (PPM + drift_ppm)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question under way. `asked_at` (t0) never leaves this memory, so no answer can stretch it."""

    leader: NodeId
    term: Term
    asked_at: Instant


@dataclass(frozen=True, slots=True)
class HeldLease:
    until: Instant
    commit: LogIndex  # Nothing is served under this lease before it is applied.


class LeaseHolder:
    """One member's questions and leases. A lease lasts to its end whatever becomes of its leader: see the package."""

    def __init__(self, *, lease_ns: int, drift_ppm: int) -> None:
        self._lease_ns = lease_ns
        self._serve_ns = serve_ns(lease_ns, drift_ppm)
        self._asks: dict[bytes, Ask] = {}  # By nonce, oldest first.
        self._serve_until: Instant | None = None  # Of the leases whose commit index is applied.
        self._waiting: list[HeldLease] = []  # Held, but this member hasn't applied that far yet.

    def asks(self, nonce: bytes, *, leader: NodeId, term: Term, now: Instant) -> None:
        """Remembers a question that is about to leave. `now` was read before it leaves."""
        self._asks = {n: a for n, a in self._asks.items() if a.asked_at + self._serve_ns > now}
        while len(self._asks) >= ASKS_MAX:
            del self._asks[next(iter(self._asks))]
        self._asks[nonce] = Ask(leader, term, now)

    def take(self, nonce: bytes, *, sender: NodeId, term: Term, current_term: Term, commit: LogIndex) -> bool:
        """An answer came; False if it answers no question of the current term (late, repeated, another's)."""
        ask = self._asks.get(nonce)
        if ask is None or ask.leader != sender or not ask.term == term == current_term:
            return False
        del self._asks[nonce]
        self._waiting.append(HeldLease(Instant(ask.asked_at + self._serve_ns), commit))
        return True

    def applied_to(self, applied: LogIndex) -> None:
        """Leases whose commit index is now applied may be used.

        An older lease stays usable beside a newer one that waits: the leader counts this member without a break, and
        so acknowledges nothing in between that this member hasn't applied.
        """
        for lease in self._waiting:
            if lease.commit <= applied and (self._serve_until is None or lease.until > self._serve_until):
                self._serve_until = lease.until
        self._waiting = [lease for lease in self._waiting if lease.commit > applied]

    def may_serve(self, now: Instant) -> bool:
        """L3. Call with a clock read after the request came; a clock value from before a pause may only say no."""
        return self._serve_until is not None and now < self._serve_until

    @property
    def serve_until(self) -> Instant | None:
        """The end of what may be used, perhaps past; None: nothing was held since the start or the last `drop`."""
        return self._serve_until

    def drop(self) -> None:
        """L4: on becoming leader. Questions are forgotten too, so that no late answer brings a lease back: the next
        leader doesn't count the last one as a holder (L6)."""
        self._asks.clear()
        self._waiting.clear()
        self._serve_until = None
