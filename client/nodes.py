"""What the client knows of each node: where it is, whether it is connected, and whether to leave it alone for a while.

Two things make a node worse than another one. It is *down* when it can't be reached or its connection broke: a task
of its own tries again with growing pauses, and calls go elsewhere meanwhile. It *rests* after it refused with "try
another node" (no lease, say): calls go elsewhere too, except that one is let through now and then to see.
"""

import random
from dataclasses import dataclass

from keycluster.client.connection import Connection
from keycluster.client.endpoints import NodeAddress
from keycluster.client.runtime import Event
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.errors import KmsError

DOWN_SECONDS_MIN = 0.05
DOWN_SECONDS_MAX = 2.0  # A node that comes back is used again after this at the latest.
REST_SECONDS_MIN = 0.1  # About a lease's renewal.
REST_SECONDS_MAX = 1.0


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """One node as the client sees it at this moment."""

    node: NodeId
    az: str
    is_connected: bool
    is_well: bool
    """False while it can't be reached, or refuses for want of a lease: calls go elsewhere then."""
    in_flight: int
    """Requests without a reply, those that their callers have given up included."""
    queued: int
    """Calls that wait to be sent."""


class KnownNode:
    """One node of the region. Changed by the client's tasks only, between two awaits."""

    def __init__(self, address: NodeAddress) -> None:
        self.address = address
        self.connection: Connection | None = None
        """Open, or None."""
        self.attempt: Event | None = None
        """While a connection is being made; set when that has ended, either way."""
        self.is_kept = False
        """Whether a task of the client makes and holds its connection."""
        self.trouble: Exception | None = None
        """Why the last attempt to connect failed."""
        self.refusal: KmsError | None = None
        """The node's final answer to the log-in: another attempt would get the same."""
        self.is_well = True
        """Neither down nor resting."""
        self.down_until = 0.0
        self._down_seconds = 0.0
        self._rests_until = 0.0
        self._rest_seconds = 0.0

    def is_usable(self, now: float) -> bool:
        """Whether to send it a call now. Where it rests and its time is over, one caller is told so, as a probe."""
        if self.down_until > 0.0:
            return False
        if self._rests_until > 0.0:
            if now < self._rests_until:
                return False
            self._rests_until = now + self._rest_seconds
        return True

    def mark_down(self, now: float, jitter: random.Random) -> float:
        """Returns for how many seconds."""
        self.is_well = False
        self._down_seconds = decorrelated(self._down_seconds, DOWN_SECONDS_MIN, DOWN_SECONDS_MAX, jitter)
        self.down_until = now + self._down_seconds
        return self._down_seconds

    def mark_connected(self, connection: Connection) -> None:
        self.connection = connection
        self.trouble = self.refusal = None
        self.down_until = self._down_seconds = 0.0
        self.is_well = self._rests_until == 0.0

    def mark_refused(self, now: float, jitter: random.Random) -> None:
        """It answered "try another node"."""
        self.is_well = False
        self._rest_seconds = decorrelated(self._rest_seconds, REST_SECONDS_MIN, REST_SECONDS_MAX, jitter)
        self._rests_until = now + self._rest_seconds

    def mark_answered(self) -> None:
        """It answered a call."""
        if not self.is_well:
            self._rests_until = self._rest_seconds = 0.0
            self.is_well = self.down_until == 0.0

    def statistics(self) -> NodeStatistics:
        """What there is to say of it now."""
        connection = self.connection
        return NodeStatistics(
            node=self.address.node,
            az=self.address.az,
            is_connected=connection is not None and connection.is_open,
            is_well=self.is_well,
            in_flight=0 if connection is None else connection.in_flight,
            queued=0 if connection is None else connection.queued,
        )


def decorrelated(previous: float, least: float, most: float, jitter: random.Random) -> float:
    """The next pause: random between `least` and thrice the previous one, at most `most`.

    Pauses of different clients drift apart whatever made them start together.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    return min(most, jitter.uniform(least, max(previous, least) * 3))


def by_preference(addresses: tuple[NodeAddress, ...], az: str | None, jitter: random.Random) -> list[KnownNode]:
    """Nodes of the client's own AZ first; within each group in random order, so that clients spread over them."""
    shuffled = jitter.sample(addresses, len(addresses))
    return [KnownNode(address) for address in sorted(shuffled, key=lambda address: az is not None and address.az != az)]
