"""Reads without a log entry (dissertation 6.4, "ReadIndex").

The leader notes its commit index, and answers once a round of heartbeats that was *sent after the read came* has been
acknowledged by a quorum: then no newer leader had committed anything before the read. It first needs a committed entry
of its own term, else its commit index may be behind. A follower asks the leader.

Every read gets an answer, if only that it failed: at the latest after `RaftConfig.patience_ns`, and at once when
leadership changes. A forwarded read has a number that is never used twice, over restarts either (it starts at a random
place): else an answer to an earlier life's read could pass for the answer to a newer one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from keycluster.cluster.raft.config import Jitter, RaftConfig
from keycluster.cluster.raft.ready import ReadAnswer, ReadFailed, ReadState
from keycluster.cluster.types import Instant, LogIndex, NodeId

READ_NUMBER_BITS = 56


@dataclass(frozen=True, slots=True)
class LeaderRead:
    """A read that the leader has to confirm, its own or a follower's."""

    asker: NodeId | None  # None: our own caller.
    number: int  # The caller's request, or the follower's number.
    deadline: Instant
    index: LogIndex  # Committed when the read came.
    round: int  # The first round sent after that.


class ForwardedReads:
    """Reads that this follower has asked the leader about."""

    def __init__(self, config: RaftConfig, jitter: Jitter) -> None:
        self._config = config
        self._next = jitter.getrandbits(READ_NUMBER_BITS)
        self._asked: dict[int, tuple[int, Instant]] = {}  # In order of deadline.

    @property
    def is_full(self) -> bool:
        return len(self._asked) >= self._config.reads_pending_max

    @property
    def deadline(self) -> Instant | None:
        """The earliest."""
        return next(iter(self._asked.values()))[1] if self._asked else None

    def add(self, request: int, now: Instant) -> int:
        """Returns the number to ask with."""
        self._next += 1
        self._asked[self._next] = (request, Instant(now + self._config.patience_ns))
        return self._next

    def answer(self, number: int, index: LogIndex | None) -> ReadAnswer | None:
        """None: not asked, or answered already."""
        asked = self._asked.pop(number, None)
        if asked is None:
            return None
        return ReadFailed(asked[0]) if index is None else ReadState(asked[0], index)

    def expired(self, now: Instant) -> list[ReadAnswer]:
        """The reads that nobody answered in time."""
        late = [number for number, (_, deadline) in self._asked.items() if deadline <= now] if self._asked else []
        return [ReadFailed(self._asked.pop(number)[0]) for number in late]

    def fail_all(self) -> list[ReadAnswer]:
        asked, self._asked = self._asked, {}
        return [ReadFailed(request) for request, _ in asked.values()]


class LeaderReads:
    """Reads that this leader has to confirm."""

    def __init__(self, config: RaftConfig) -> None:
        self._config = config
        # Index and round of the early ones are not known yet.
        self._early: deque[LeaderRead] = deque()  # Came before an entry of the leader's term was committed.
        self._waiting: deque[LeaderRead] = deque()  # For their round, in its order.

    @property
    def is_full(self) -> bool:
        return len(self._early) + len(self._waiting) >= self._config.reads_pending_max

    @property
    def round_wanted(self) -> int:
        """The newest round that reads wait for; 0 if none do."""
        return self._waiting[-1].round if self._waiting else 0

    @property
    def deadline(self) -> Instant | None:
        """The earliest."""
        if not self._early and not self._waiting:
            return None
        return min(reads[0].deadline for reads in (self._early, self._waiting) if reads)

    def add_early(self, asker: NodeId | None, number: int, now: Instant) -> None:
        self._early.append(LeaderRead(asker, number, Instant(now + self._config.patience_ns), LogIndex(0), 0))

    def add(self, asker: NodeId | None, number: int, now: Instant, *, index: LogIndex, next_round: int) -> None:
        deadline = Instant(now + self._config.patience_ns)
        self._waiting.append(LeaderRead(asker, number, deadline, index, next_round))

    def own_term_committed(self, *, index: LogIndex, next_round: int) -> None:
        """The early ones can be confirmed now."""
        while self._early:
            read = self._early.popleft()
            self._waiting.append(LeaderRead(read.asker, read.number, read.deadline, index, next_round))

    def confirmed(self, quorum_round: int) -> list[LeaderRead]:
        return _take_while(self._waiting, lambda read: read.round <= quorum_round)

    def expired(self, now: Instant) -> list[LeaderRead]:
        late = _take_while(self._early, lambda read: read.deadline <= now)
        return late + _take_while(self._waiting, lambda read: read.deadline <= now)

    def take_all(self) -> list[LeaderRead]:
        reads = [*self._early, *self._waiting]
        self._early.clear()
        self._waiting.clear()
        return reads


def _take_while(reads: deque[LeaderRead], condition: Callable[[LeaderRead], bool]) -> list[LeaderRead]:
    taken = []
    while reads and condition(reads[0]):
        taken.append(reads.popleft())
    return taken
