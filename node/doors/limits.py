"""What a stranger, and a client, may take of a door: counts, bytes and time."""

from dataclasses import dataclass, replace
from typing import Final

import trio

from keycluster.cluster.seams import ServeLimits
from keycluster.cluster.wire.errors import ThrottlingException
from keycluster.cluster.wire.frames import FRAME_BYTES_MAX, GREETING_BYTES_MAX

READ_BYTES: Final = 65_536
"""One receive: bounds how much work lies between two steps of the event loop."""

GLANCE_SECONDS: Final = 2.5
"""How often a connection looks at its time limits: they hold to within this, and cost the hot path one assignment."""

THROTTLED_TEXT: Final = "Rate exceeded"


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """Both doors' limits. Seconds are the other side's time, never ours."""

    connections_max: int = 4_096
    strangers_max: int = 1_024
    """Connections that haven't proved who they are. One more ends the oldest of them, so that those who are quick
    get in while others hold on to what they have."""
    requests_in_flight_max: int = 4_096
    """Requests of all connections that wait: for the log, or for other nodes."""
    connection_requests_max: int = 256
    """The same for one connection; also how many requests of one receive are carried out."""
    log_in_seconds: float = 10.0
    idle_seconds: float = 600.0
    message_seconds: float = 20.0
    """From a frame's or a request's first byte to its last."""
    unfinished_bytes_max: int = 134_217_728
    """Held of all connections' frames and requests that aren't whole yet. Whoever would exceed it loses theirs: what
    comes in one receive needs none of it."""
    write_seconds: float = 20.0
    """Until an answer is out: whoever doesn't read it loses the connection."""
    greeting_bytes_max: int = GREETING_BYTES_MAX
    frame_bytes_max: int = FRAME_BYTES_MAX
    join_seconds: float = 60.0
    joins_max: int = 4
    head_bytes_max: int = 16_384
    """A request line and headers. A signed call of an SDK has under 2 KiB."""
    headers_max: int = 64
    body_bytes_max: int = 262_144
    """The largest request is a PutKeyPolicy: 128 KiB, perhaps escaped."""
    pipelined_max: int = 32
    """HTTP requests of one receive."""
    http_deadline_seconds: float = 20.0
    """How long a write may wait for a leader: below the 60 s after which AWS's SDKs give up."""


DEFAULT_LIMITS: Final = DoorLimits()

NEWCOMERS: Final = 128
"""Connections that a port takes beyond its door's: newcomers, and those they end, which take a moment to go."""


def door_limits(connections_max: int) -> DoorLimits:
    """A door's limits for so many connections, at most half of them strangers'."""
    strangers = min(DEFAULT_LIMITS.strangers_max, max(1, connections_max // 2))
    return replace(DEFAULT_LIMITS, connections_max=connections_max, strangers_max=strangers)


def port_limits(door: DoorLimits) -> ServeLimits:
    """What the port below a door takes. It can't tell strangers from friends, so it must not be full before the door
    is: there the newcomer ends the oldest stranger, here it would be turned away."""
    return ServeLimits(connections_max=door.connections_max + NEWCOMERS)


class Busy:
    """How many requests wait, of one connection and of all (its `parent`)."""

    __slots__ = ("_limit", "_parent", "count")

    def __init__(self, limit: int, parent: "Busy | None" = None) -> None:
        self._limit = limit
        self._parent = parent
        self.count = 0

    def enter(self) -> None:
        """Raises ThrottlingException at the limit; `leave` must follow otherwise."""
        if self.count >= self._limit:
            raise ThrottlingException(THROTTLED_TEXT)
        if self._parent is not None:
            self._parent.enter()
        self.count += 1

    def leave(self) -> None:
        self.count -= 1
        if self._parent is not None:
            self._parent.leave()


@dataclass(slots=True)
class Unfinished:
    """Bytes that a door holds of what isn't whole yet, of all connections together."""

    limit: int
    count: int = 0


class Holding:
    """One connection's share of a door's `Unfinished`."""

    __slots__ = ("_all", "count")

    def __init__(self, unfinished: Unfinished) -> None:
        self._all = unfinished
        self.count = 0

    def hold(self, count: int) -> None:
        """The connection holds `count` bytes now. Raises ThrottlingException if all together hold too much."""
        self._all.count += count - self.count
        grows = count > self.count
        self.count = count
        if grows and self._all.count > self._all.limit:
            raise ThrottlingException(THROTTLED_TEXT)


def host_of(address: str) -> str:
    """Who it is, without the port that differs with each connection."""
    return address.rpartition(":")[0].strip("[]")


class Patience:
    """How long one connection may still take with what it is at.

    A connection moves its two deadlines as it goes, by assignment. Cancel scopes would cost more than the requests.
    """

    __slots__ = ("_reading", "_writing")

    def __init__(self) -> None:
        self._reading = self._writing = float("inf")

    def read_within(self, seconds: float) -> None:
        self._reading = trio.current_time() + seconds

    def write_within(self, seconds: float) -> None:
        self._writing = trio.current_time() + seconds

    def written(self) -> None:
        self._writing = float("inf")

    async def watch(self, scope: trio.CancelScope) -> None:
        """Cancels `scope` once a deadline has passed; runs beside the connection."""
        while (left := min(self._reading, self._writing) - trio.current_time()) > 0:  # noqa: ASYNC110  # It waits for time.
            await trio.sleep(min(left, GLANCE_SECONDS))
        scope.cancel()


class Connections:
    """A door's connections: bounded, and strangers give way to newer ones."""

    def __init__(self, limits: DoorLimits) -> None:
        self._limits = limits
        self._strangers: dict[trio.CancelScope, None] = {}  # In order of arrival.
        self.count = 0
        self.evicted = 0
        self.refused = 0

    @property
    def strangers(self) -> int:
        return len(self._strangers)

    def arrive(self, scope: trio.CancelScope) -> bool:
        """False if there is no room. `depart` must follow in any case of True."""
        if len(self._strangers) >= self._limits.strangers_max or (
            self.count >= self._limits.connections_max and self._strangers
        ):
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel()
            self.evicted += 1
        elif self.count >= self._limits.connections_max:
            self.refused += 1
            return False
        self.count += 1
        self._strangers[scope] = None
        return True

    def recognise(self, scope: trio.CancelScope) -> None:
        """Whoever is behind this connection has proved who they are."""
        self._strangers.pop(scope, None)

    def depart(self, scope: trio.CancelScope) -> None:
        self._strangers.pop(scope, None)
        self.count -= 1
