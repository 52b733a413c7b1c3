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
        own_wall: Callable[[Instant], WallTime | None],
        renew_ns: int,
        report_ns: int,
        now: Instant,
    ) -> None:
        self._core = core
        self._node = core.node
        self._holder = holder
        self._nonces = nonces
        self._own_wall = own_wall
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

    def message(
        self, *, applied: LogIndex, settled: LogIndex, now: Instant
    ) -> tuple[NodeId, LeaseAsk | AppliedReport] | None:
        """What has to be told now, and to whom.

        The report is one of all that was applied since the last (the question carries what was applied when it was
        asked), or again what isn't settled.
        """
        leader = self._core.leader
        if leader is None or leader == self._node:
            return None
        has_asked = self._asked == leader and self._asked_term == self._core.term
        if not has_asked or now - self._asked_at >= self._renew_ns:
            return self._ask(leader, applied, now)
        is_overdue = settled < applied and now - self._reported_at >= self._report_ns
        if applied <= self._reported and not is_overdue:
            return None
        self._reported, self._reported_at = applied, now
        return leader, AppliedReport(self._core.term, applied, settled)

    def _ask(self, leader: NodeId, applied: LogIndex, now: Instant) -> tuple[NodeId, LeaseAsk] | None:
        """L1: t0 is `now`, kept here by the nonce; the question leaves later."""
        wall = self._own_wall(now)
        if wall is None:
            return None  # Before the first input that came with a clock.
        nonce, term = self._nonces(), self._core.term
        self._holder.asks(nonce, leader=leader, term=term, now=now)
        self._asked, self._asked_term, self._asked_at = leader, term, now
        self._reported, self._reported_at = applied, now
        return leader, LeaseAsk(term, nonce, applied, wall)

    def due(self, *, applied: LogIndex, settled: LogIndex) -> Instant | None:
        """When there is something to say again, to a leader that has been asked."""
        if self._core.leader is None:
            return None
        due = self._asked_at + self._renew_ns
        if settled < applied and self._reported_at + self._report_ns < due:
            due = self._reported_at + self._report_ns
        return Instant(due)
