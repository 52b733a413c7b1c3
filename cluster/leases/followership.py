"""What a member tells the leader that it follows: questions for leases (L1), and how far it has applied (L5).

A leader that has just been heard of is asked at once; after that a question goes out every L/4, and a report whenever
more has been applied. A report may get lost, so one that the leader hasn't settled is repeated.
"""

from collections.abc import Callable

from keycluster.cluster.leases.holder import LeaseHolder
from keycluster.cluster.leases.messages import AppliedReport, LeaseAsk
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.types import Instant, LogIndex, NodeId, Term, WallTime


class Followership:
    """Lives as long as the process: what was told to whom."""

    def __init__(
        self,
        core: RaftCore,
        holder: LeaseHolder,
        *,
        nonces: Callable[[], bytes],
        renew_ns: int,
        report_ns: int,
        now: Instant,
    ) -> None:
        self._core = core
        self._holder = holder
        self._nonces = nonces
        self._renew_ns = renew_ns
        self._report_ns = report_ns
        self._asked: NodeId | None = None  # The leader last asked, and in which term.
        self._asked_term = Term(0)
        self._asked_at = now
        self._reported = LogIndex(0)  # To that leader.
        self._reported_at = now

    def reset(self) -> None:
        """This member became leader: if it follows again, it asks again."""
        self._asked = None

    @property
    def leader(self) -> NodeId | None:
        """Whom this member follows, as far as known; None for the leader itself."""
        leader = self._core.leader
        return None if leader == self._core.node else leader

    @property
    def has_asked(self) -> bool:
        """The leader of now, in its term."""
        return self._asked is not None and self._asked == self._core.leader and self._asked_term == self._core.term

    def ask(self, leader: NodeId, *, applied: LogIndex, wall: WallTime, now: Instant) -> LeaseAsk:
        """L1: t0 is `now`, kept here by the nonce; the question leaves later."""
        nonce, term = self._nonces(), self._core.term
        self._holder.asks(nonce, leader=leader, term=term, now=now)
        self._asked, self._asked_term, self._asked_at = leader, term, now
        self._reported, self._reported_at = applied, now
        return LeaseAsk(term, nonce, applied, wall)

    def must_ask(self, now: Instant) -> bool:
        return not self.has_asked or now - self._asked_at >= self._renew_ns

    def report(self, *, applied: LogIndex, settled: LogIndex, now: Instant) -> AppliedReport | None:
        """One of all that was applied since the last, or again what isn't settled; None when there is nothing to say.

        To a leader that has been asked: the question itself carried what was applied then.
        """
        is_overdue = settled < applied and now - self._reported_at >= self._report_ns
        if applied <= self._reported and not is_overdue:
            return None
        self._reported, self._reported_at = applied, now
        return AppliedReport(self._core.term, applied, settled)

    def due(self, *, applied: LogIndex, settled: LogIndex) -> Instant | None:
        """When there is something to say again."""
        if self.leader is None:
            return None
        ask_at = Instant(self._asked_at + self._renew_ns)
        if settled >= applied:
            return ask_at
        return min(ask_at, Instant(self._reported_at + self._report_ns))
