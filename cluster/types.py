"""Names for plain values that must not be mixed up, shared by every floor above."""

from typing import Final, NewType

NodeId = NewType("NodeId", str)
"""A node's name, unique in its region for ever: an id is never given to a second node, even after a removal."""

Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)

Instant = NewType("Instant", int)
"""Nanoseconds on one node's monotonic clock (CLOCK_BOOTTIME: it counts suspend). Never compared between nodes."""

WallTime = NewType("WallTime", int)
"""Nanoseconds since 1970-01-01 UTC by one node's own clock: an observation, not to be trusted alone."""

ClusterTime = NewType("ClusterTime", int)
"""Nanoseconds since 1970-01-01 UTC as the region agreed on it: a majority's median, never backwards."""

RunningTime = NewType("RunningTime", int)
"""Nanoseconds that the region has run under leaders, by their monotonic clocks (cluster_time.py). Wall clocks don't
move it, it stands still while nobody leads, and in the log it never goes backwards."""

AccountId = NewType("AccountId", str)
"""Twelve decimal digits."""

KeyId = NewType("KeyId", str)
"""A key's UUID in lower case, without ARN or alias."""

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
