"""A process notices that it was suspended (SIGSTOP, a debugger, a machine that slept), and what it reads is void then.

What lies unread in a connection's buffer may be as old as the suspension: its sender may have had the same done at
another node since, and seen it undone. Read now, it would be dated by what this node has heard since it woke. So each
session of a client is good for the time between two suspensions only: a door closes an older one without acting on
what it reads from it. Clients connect again and ask again under the same request id, if they still care.

The clock notices by itself: the event loop reads it many times a second, for Raft's ticks and for each read of a door
(`may_serve`), always before state is looked at. So a door that compares `suspensions` after such a read has the present
one, and pays one comparison.

What the clock doesn't count isn't noticed: CLOCK_BOOTTIME goes on through SIGSTOP and suspend to RAM or disk, but a
hypervisor may stop a paused guest's clocks (docs/security.md, 6).
"""

from typing import Final

from keycluster.cluster.cluster_time import AHEAD_NS_MAX
from keycluster.cluster.invariant import require
from keycluster.cluster.keys.requests import AGE_NS_MAX, REMEMBERED_LEAST_NS
from keycluster.cluster.seams import Clock
from keycluster.cluster.types import SECOND, Instant, WallTime

SUSPENDED_NS_MAX: Final = 10 * SECOND
"""An event loop that doesn't come round for so long was suspended, or as good as. A busy one takes milliseconds, and
what leases and elections bear is a second. What is read after a shorter gap may be dated late by that gap."""

BACKLOG_NS_MAX: Final = 1 * SECOND
"""So long after a suspension a connection without a handshake may be one that waited to be accepted all along."""

VOID: Final = -1
"""What a session has that is never good."""

require(AHEAD_NS_MAX < AGE_NS_MAX, "a command that was just taken is not too old")
require(
    AGE_NS_MAX + SUSPENDED_NS_MAX + BACKLOG_NS_MAX < REMEMBERED_LEAST_NS,
    "what was forgotten is too old, however late it was read",
)


class WatchedClock:
    """The node's clock, which counts the suspensions that its reading shows. For the event loop's thread alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_at = clock.now()
        self._woke_at: Instant | None = None
        self.suspensions = 0
        """How many were noticed. A session is good as long as it is what it was when the session was opened."""

    def now(self) -> Instant:
        now = self._clock.now()
        if now - self._read_at > SUSPENDED_NS_MAX:
            self.suspensions += 1
            self._woke_at = now
        self._read_at = now
        return now

    def wall(self) -> WallTime:
        return self._clock.wall()

    def session_without_handshake(self) -> int:
        """What `suspensions` must be for a session that was just accepted, if its client hasn't proved yet that it is
        there now; `VOID` if it may have waited for that through a suspension."""
        now = self.now()
        if self._woke_at is not None and now - self._woke_at <= BACKLOG_NS_MAX:
            return VOID
        return self.suspensions
