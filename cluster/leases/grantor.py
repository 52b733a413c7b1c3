"""The leader's book of leases: whom it counts, and what is settled (L2, L5, L6).

One `LeaseGrantor` lives as long as one leadership. It knows two things about each member: until when it must be
counted as a holder, and up to where it has applied. `settled` is what everybody who may serve has applied.

A member that is counted without a break since a grant can't serve anything below the *first* of these grants' commit
indexes (before that grant it held nothing), so that index is a floor for what it has applied as far as serving goes.
It makes the settled index never fall when a member that lags behind gets a lease.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from keycluster.cluster.marks import Mark
from keycluster.cluster.types import Instant, LogIndex, NodeId

_LAGS = Mark("a member that lags gets no lease")

LAG_SAMPLES: Final = 64  # Per L: how finely the leader's own progress is remembered, to see for how long a member lags.
RETURN_FRACTION: Final = 2  # One that isn't counted gets a lease only when it lags by less than L/2: `lags_too_far`.


@dataclass(frozen=True, slots=True)
class Counted:
    """A member that holds, or must be taken to hold, a lease."""

    until: Instant  # By the leader's clock. From then on the member's own clock has ended it as well.
    floor: LogIndex  # The member serves nothing older than this.


@dataclass(frozen=True, slots=True)
class _Hold:
    """What members that are counted hold back."""

    own_applied: LogIndex
    settled: LogIndex
    until: Instant | None  # When the first lease ends that holds back; None: nothing is held back.


class LeaseGrantor:
    """L6 at birth: every member counts as a holder until the election + L, except this leader itself and the last one.

    The last term's leader served under its own quorum lease, which has ended, or it could not have been followed; it
    dropped what it held when it became leader, and can have got nothing later, as that needs a committed entry of a
    later term (L2), which this leader's log would have.
    """

    def __init__(
        self,
        *,
        lease_ns: int,
        members: Iterable[NodeId],
        excluded: Iterable[NodeId | None],
        elected_at: Instant,
        applied: LogIndex,
    ) -> None:
        """`members`: of the newest configuration, learners and both halves. `excluded`: self and the last leader.
        `applied`: this leader's at its election."""
        self._lease_ns = lease_ns
        until = Instant(elected_at + lease_ns)
        left_out = set(excluded)
        self._counted = {m: Counted(until, LogIndex(0)) for m in sorted(set(members)) if m not in left_out}
        self._counted_all_until: Instant | None = until  # Nobody's lease ends before. None: nobody has one.
        self._applied: dict[NodeId, LogIndex] = {}
        self._held: _Hold | None = None
        self._applied_at_election = applied
        # Own applied index over the last L, oldest first. It starts at the election: before, no write waited here.
        self._progress: deque[tuple[Instant, LogIndex]] = deque([(elected_at, LogIndex(0))])

    def reported(self, member: NodeId, applied: LogIndex) -> None:
        """The member told what it has applied. Reports may come late and twice: the highest counts."""
        if applied > self._applied.get(member, 0):
            self._applied[member] = applied
            self._held = None

    def advanced(self, own_applied: LogIndex, now: Instant) -> None:
        """Remembers this leader's own progress. Call whenever it may have advanced, and at every tick."""
        at, last = self._progress[-1]
        if own_applied > last and now - at >= self._lease_ns // LAG_SAMPLES:
            self._progress.append((now, own_applied))
        while len(self._progress) > 1 and self._progress[1][0] <= now - self._lease_ns:
            self._progress.popleft()

    def lags_too_far(self, member: NodeId, now: Instant) -> bool:
        """L2(c): a write has waited for this member longer than L, or would at once if the member were counted again.

        A member whose apply hangs is refused once an index that the leader applied L ago is missing at it; its last
        lease runs out, and writes go on: 2 L at worst, once. To come back it must have caught up to within L/2, or it
        would stop all writes again each time it asks.
        """
        allowed, needed = self._lease_ns, LogIndex(0)
        if not self.counts(member, now):
            allowed, needed = self._lease_ns // RETURN_FRACTION, self._applied_at_election
        for at, index in self._progress:
            if at > now - allowed:
                break
            needed = max(needed, index)
        lags = self._applied.get(member, LogIndex(0)) < needed
        if lags:
            _LAGS.hit()
        return lags

    def note(self, member: NodeId, *, commit: LogIndex, now: Instant) -> None:
        """L2: counts the member until `now` + L, before its answer leaves; `now` was read after its question came."""
        floor = self._counted[member].floor if self.counts(member, now) else commit
        until = Instant(now + self._lease_ns)
        self._counted[member] = Counted(until, floor)
        if self._counted_all_until is None or until < self._counted_all_until:
            self._counted_all_until = until
        self._held = None

    def counts(self, member: NodeId, now: Instant) -> bool:
        """Whether the member must be taken to hold a lease. A `now` from before a pause errs on the side of yes."""
        return self.counted_until(member, now) is not None

    def counted_until(self, member: NodeId, now: Instant) -> Instant | None:
        """When the member's lease has run out; None if it has, or there was none."""
        counted = self._counted.get(member)
        return counted.until if counted is not None and counted.until > now else None

    def settled(self, own_applied: LogIndex, now: Instant) -> LogIndex:
        """L5: what this leader and every counted member have applied."""
        return self._hold(own_applied, now).settled

    def next_end(self, own_applied: LogIndex, now: Instant) -> Instant | None:
        """When the first lease ends that holds back what this leader has applied; None if nothing is held back."""
        return self._hold(own_applied, now).until

    def _hold(self, own_applied: LogIndex, now: Instant) -> "_Hold":
        """Asked for after each input, so it is kept until a lease ends or somebody advances."""
        if self._counted_all_until is not None and now >= self._counted_all_until:
            self._counted = {m: c for m, c in self._counted.items() if c.until > now}
            self._counted_all_until = min((c.until for c in self._counted.values()), default=None)
            self._held = None
        held = self._held
        if held is None or held.own_applied != own_applied:
            held = self._held = self._compute_hold(own_applied)
        return held

    def _compute_hold(self, own_applied: LogIndex) -> "_Hold":
        settled, until = own_applied, None
        for member, counted in self._counted.items():
            floor = self._applied.get(member, counted.floor)
            floor = max(floor, counted.floor)
            if floor < own_applied:
                settled = min(settled, floor)
                if until is None or counted.until < until:
                    until = counted.until
        return _Hold(own_applied, settled, until)

    def holders(self, now: Instant) -> list[NodeId]:
        """Members that are counted, sorted: for status."""
        return sorted(m for m, c in self._counted.items() if c.until > now)

    def applied_at(self, member: NodeId) -> LogIndex:
        """The highest applied index the member has reported to this leader; 0 before the first report."""
        return self._applied.get(member, LogIndex(0))
