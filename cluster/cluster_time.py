"""Cluster time: what the region takes for the time of day, whatever one node's clock says (security.md, 6).

The leader hears every voter's clock with its questions for a lease and takes the median of a majority. It never goes
backwards: after a clock that ran ahead is put right, cluster time stands still until the median has caught up. Between
observations the monotonic clock advances it. It is handed out with leases, so every node that may serve knows it, and a
new leader goes on from what the last one told.

Of an even number of clocks the lower middle one counts: better that a deadline passes late than early.

Running time is how long the region has run under leaders, by their monotonic clocks: what a wrong clock can't move.
The key state compares the two before it destroys anything, and remembers requests by it (keys/requests.py). While
nobody leads it stands still, so it errs on the side of too little.

A leader's running time is never more than `AHEAD_NS_MAX` ahead of the newest stamp that it has applied, and what it
would have gained beyond that it loses for good. So a leader that was suspended doesn't count its absence, nor one that
gets nothing committed the time in which nothing was done; and the next leader, who has every committed stamp in its
log, can't be behind what anybody was ever told by more than that.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import SECOND, ClusterTime, Instant, NodeId, RunningTime, WallTime

OBSERVATION_NS_MAX: Final = 2 * SECOND  # How long a clock counts as heard: eight times the interval of lease questions.
TOLD_NS_MAX: Final = 5 * SECOND  # How long what a leader told may be advanced by oneself: some elections long.
OFFSET_NS_WARN: Final = 10 * SECOND
OFFSET_NS_MAX: Final = 60 * SECOND
AHEAD_NS_MAX: Final = 15 * SECOND
"""Three times the interval of the commands that a leader's maintenance stamps at least, of running time."""


class NoClusterTime(Exception):
    """No majority's clocks were heard lately: a command can't be stamped. A new leader hears them at once."""


class ClockVerdict(Enum):
    """How far this node's own clock is from the majority's median."""

    GOOD = "good"
    OFF = "off"  # By more than 10 s: said in status and log.
    REFUSES = "refuses"  # By more than 60 s: this node serves nothing.


@dataclass(frozen=True, slots=True)
class ClockReading:
    """Cluster time as one node hands it to another, with the median behind it."""

    time: ClusterTime
    median: WallTime
    running_ns: int


@dataclass(frozen=True, slots=True)
class _Heard:
    """A clock's value and this node's instant when it was heard."""

    wall: WallTime
    at: Instant

    def advanced_to(self, now: Instant) -> WallTime:
        return WallTime(self.wall + max(0, now - self.at))


class ClusterClock:
    """One node's knowledge of cluster time, as leader or as a follower that is told."""

    def __init__(self, *, node: NodeId, floor: ClusterTime, running_floor: int) -> None:
        """`floor`, `running_floor`: of the newest stamp in the applied state."""
        self._node = node
        self._latest = floor
        self._stamped_ns = self._running_ns = running_floor
        self._looked_at: Instant | None = None  # As leader: when `_running_ns` was true. None: it doesn't lead.
        self._clocks: dict[NodeId, _Heard] = {}  # This node's own, and as leader the members'.
        self._told: _Heard | None = None  # The last leader's median.

    def lead(self, now: Instant) -> None:
        """This node became leader: running time goes on here. What others' clocks said to it before is too old."""
        self._clocks = {node: heard for node, heard in self._clocks.items() if node == self._node}
        self.running_ns(now)
        self._looked_at = now

    def follow(self, now: Instant) -> None:
        """This node no longer leads."""
        self.running_ns(now)
        self._looked_at = None

    def observe(self, node: NodeId, wall: WallTime, now: Instant) -> None:
        """A node's clock (this one's own too) was heard. Old by what the message took: that errs on the late side."""
        self._clocks[node] = _Heard(wall, now)
        self.running_ns(now)

    def own_wall(self, now: Instant) -> WallTime | None:
        """This node's own clock as last observed; None before that."""
        own = self._clocks.get(self._node)
        return None if own is None else own.advanced_to(now)

    def told(self, reading: ClockReading, now: Instant) -> None:
        """The leader of the current term handed out cluster time."""
        self._told = _Heard(reading.median, now)
        self._latest = max(self._latest, reading.time)
        self._running_ns = max(self.running_ns(now), reading.running_ns)

    def stamp_applied(self, time: ClusterTime, running_ns: int, now: Instant) -> None:
        """The newest stamp in the applied state. A leader that finds a predecessor's goes on from that one."""
        self._latest = max(self._latest, time)
        self._running_ns = max(self.running_ns(now), running_ns)
        self._stamped_ns = max(self._stamped_ns, running_ns)

    def median(self, membership: Membership, now: Instant) -> WallTime | None:
        """The majority's median as this node knows it; None if neither heard nor told lately."""
        if self._looked_at is not None and (heard := self._heard(membership, now)) is not None:
            return heard
        if self._told is not None and now - self._told.at <= TOLD_NS_MAX:
            return self._told.advanced_to(now)
        return None

    def _heard(self, membership: Membership, now: Instant) -> WallTime | None:
        fresh = {
            voter: heard.advanced_to(now)
            for voter in membership.all_voters
            if (heard := self._clocks.get(voter)) is not None and now - heard.at <= OBSERVATION_NS_MAX
        }
        if not membership.has_quorum(fresh):
            return None
        return sorted(fresh.values())[(len(fresh) - 1) // 2]

    def time(self, membership: Membership, now: Instant) -> ClusterTime | None:
        """Cluster time, never less than what this node gave out or was told before. None: nothing heard lately."""
        reading = self.reading(membership, now)
        return None if reading is None else reading.time

    def reading(self, membership: Membership, now: Instant) -> ClockReading | None:
        """Cluster time and what is behind it: what a leader hands out with a lease. None: nothing heard lately."""
        median = self.median(membership, now)
        if median is None:
            return None
        self._latest = ClusterTime(max(self._latest, median))
        return ClockReading(self._latest, median, self.running_ns(now))

    def running_ns(self, now: Instant) -> int:
        """The region's running time. Only as leader does it advance by itself, and no further than `AHEAD_NS_MAX`."""
        if self._looked_at is not None and now > self._looked_at:
            furthest = max(self._running_ns, self._stamped_ns + AHEAD_NS_MAX)
            self._running_ns = min(self._running_ns + now - self._looked_at, furthest)
            self._looked_at = now
        return self._running_ns

    @property
    def stamped(self) -> RunningTime:
        """Running time by the newest applied stamp: what was committed, and no clock of anybody's."""
        return RunningTime(self._stamped_ns)

    def offset_ns(self, membership: Membership, now: Instant) -> int | None:
        """How far this node's own clock is ahead of the median: of the median, not of cluster time, for a region
        whose time stands still after a wrong clock must go on serving. None if either is unknown."""
        own, median = self._clocks.get(self._node), self.median(membership, now)
        return None if own is None or median is None else own.advanced_to(now) - median

    def verdict(self, membership: Membership, now: Instant) -> ClockVerdict:
        """Unknown counts as good: without a median there is no lease either."""
        offset = abs(self.offset_ns(membership, now) or 0)
        if offset > OFFSET_NS_MAX:
            return ClockVerdict.REFUSES
        return ClockVerdict.OFF if offset > OFFSET_NS_WARN else ClockVerdict.GOOD
