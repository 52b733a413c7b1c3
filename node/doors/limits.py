"""What a stranger, and a client, may take of a door: counts, bytes and time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import trio

from keycluster.cluster.seams import ServeLimits
from keycluster.cluster.wire.errors import ThrottlingException
from keycluster.cluster.wire.frames import FRAME_BYTES_MAX, GREETING_BYTES_MAX
from keycluster.node.shares import THROTTLED_TEXT, Shares

READ_BYTES: Final = 65_536
"""One receive: bounds the work that is done in one piece (`node/turns.py` bounds all pieces of a turn together)."""

GLANCE_SECONDS: Final = 2.5
"""How often a connection looks at its time limits: they hold to within this, and cost the hot path one assignment."""


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """Both doors' limits. Seconds are the other side's time, never ours.

    Of connections, requests in flight and unfinished bytes one account may hold a quarter (`node/shares.py`).
    """

    connections_max: int = 4_096
    strangers_max: int = 1_024
    """Connections that haven't proved who they are. One more ends the oldest of them, so that those who are quick
    get in while others hold on to what they have."""
    requests_in_flight_max: int = 4_096
    """Requests of all connections that wait: for the log, for other nodes, or for their client to take the answers."""
    connection_requests_max: int = 256
    """The same for one connection; also how many requests of one receive are carried out."""
    log_in_seconds: float = 10.0
    idle_seconds: float = 600.0
    message_seconds: float = 20.0
    """From a frame's or a request's first byte to its last."""
    unfinished_bytes_max: int = 134_217_728
    """Held of frames and requests that aren't whole yet, of all whose account is known. Whoever would exceed it loses
    theirs: what comes in one receive needs none of it."""
    strangers_unfinished_bytes_max: int = 16_777_216
    """The same of strangers' requests. Who holds most of it is ended first: most first requests come in one receive.
    Greetings at the native door don't count: `strangers_max` of `greeting_bytes_max` are as much."""
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
    """How long writes may wait for a leader, all that one receive brought together: below the 60 s after which AWS's
    SDKs give up."""


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
    """How many requests wait: of one connection, and within its account's share of all connections'."""

    __slots__ = ("_account", "_is_over", "_limit", "_shares", "count")

    def __init__(self, limit: int, shares: Shares | None = None, account: str = "") -> None:
        self._limit = limit
        self._shares = shares
        self._account = account
        self._is_over = False
        self.count = 0

    def enter(self) -> None:
        """Raises ThrottlingException at the limit; `leave` must follow otherwise."""
        if self.count >= self._limit:
            raise ThrottlingException(THROTTLED_TEXT)
        if self._shares is not None:
            self._shares.enter(self._account)
        self.count += 1

    def leave(self, count: int = 1) -> None:
        if self._is_over:
            return
        self.count -= count
        if self._shares is not None and count:
            self._shares.leave(self._account, count)

    def end(self) -> None:
        """All leave at once. Tasks of the connection may still finish after its end: they leave nothing then."""
        self.leave(self.count)
        self._is_over = True


class Unfinished:
    """Bytes that a door holds of what isn't whole yet, of all connections together."""

    def __init__(self, limits: DoorLimits) -> None:
        self.known = Shares(limits.unfinished_bytes_max)
        self.strangers_count = 0
        self._strangers_max = limits.strangers_unfinished_bytes_max
        self._strangers: dict[Holding, None] = {}  # Those who hold anything.

    @property
    def count(self) -> int:
        return self.known.count + self.strangers_count

    def strangers_hold(self, holding: "Holding", growth: int) -> None:
        """`holding` has grown by so many bytes. Whoever holds most makes room; raises ThrottlingException if it is
        `holding` itself."""
        self.strangers_count += growth
        if holding.count:
            self._strangers[holding] = None
        else:
            self._strangers.pop(holding, None)
        while growth > 0 and self.strangers_count > self._strangers_max:
            largest = max(self._strangers, key=lambda stranger: stranger.count)
            if largest is holding:
                raise ThrottlingException(THROTTLED_TEXT)
            del self._strangers[largest]
            self.strangers_count -= largest.count
            largest.end()


class Holding:
    """One connection's part of a door's `Unfinished`."""

    __slots__ = ("_account", "_all", "_end", "count")

    def __init__(self, unfinished: Unfinished, end: Callable[[], None]) -> None:
        """`end` ends the connection."""
        self._all = unfinished
        self._end = end
        self._account: str | None = None
        self.count = 0

    def hold(self, count: int) -> None:
        """The connection holds `count` bytes now. Raises ThrottlingException if that is too much: it must end then."""
        growth = count - self.count
        if self._account is None:
            self.count = count
            self._all.strangers_hold(self, growth)
            return
        if growth > 0:
            self._all.known.enter(self._account, growth)
        elif growth < 0:
            self._all.known.leave(self._account, -growth)
        self.count = count

    def recognise(self, account: str) -> None:
        """What the connection holds counts as this account's. Raises as `hold`, and then holds nothing."""
        held = self.count
        self.hold(0)
        self._account = account
        self.hold(held)

    def end(self) -> None:
        """For others' sake."""
        self.count = 0
        self._end()


def host_of(address: str) -> str:
    """Who it is, without the port that differs with each connection."""
    return address.rpartition(":")[0].strip("[]")


class SessionVoid(Exception):
    """The process was suspended since this session was opened: nothing read from it may be acted on."""


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
    """A door's connections: bounded, strangers give way to newer ones, and accounts have shares."""

    def __init__(self, limits: DoorLimits) -> None:
        self._limits = limits
        self._strangers: dict[trio.CancelScope, None] = {}  # In order of arrival.
        self._accounts: dict[trio.CancelScope, str] = {}
        self._shares = Shares(limits.connections_max)
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

    def recognise(self, scope: trio.CancelScope, account: str) -> None:
        """Whoever is behind this connection has proved who they are. Raises ThrottlingException, and it is a stranger
        as before, if the account has its share of connections already."""
        self._shares.enter(account)
        self._accounts[scope] = account
        self._strangers.pop(scope, None)

    def depart(self, scope: trio.CancelScope) -> None:
        self._strangers.pop(scope, None)
        account = self._accounts.pop(scope, None)
        if account is not None:
            self._shares.leave(account)
        self.count -= 1


class Served(Protocol):
    """A door's side of one connection."""

    patience: Patience

    async def run(self) -> None:
        """Until the other side ends it or breaks a rule."""
        ...


async def serve_connection(connections: Connections, make: Callable[[trio.Nursery], Served]) -> None:
    """One connection from its arrival to its end, whoever ends it; its tasks live in the nursery."""
    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope
        if not connections.arrive(scope):
            return
        try:
            connection = make(nursery)
            nursery.start_soon(connection.patience.watch, scope)
            await connection.run()
        finally:
            connections.depart(scope)
            scope.cancel()
