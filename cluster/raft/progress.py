"""How far each member's log has come, as its leader knows it, and how much may be on its way to it.

PROBE       where the logs meet is not known: one append at a time
REPLICATE   it is: appends are sent without waiting, within a window of messages and bytes
SNAPSHOT    what it needs is compacted: no entries until a snapshot is installed
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.types import Instant, LogIndex, NodeId

NOTHING = LogIndex(0)


class ProgressState(StrEnum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


PROBE, REPLICATE, SNAPSHOT = ProgressState  # Looking up an enumeration's member is slow.


@dataclass(frozen=True, slots=True)
class ProgressView:
    """A copy for status and metrics."""

    state: ProgressState
    match: LogIndex
    next: LogIndex
    inflight_messages: int
    inflight_bytes: int
    heard_at: Instant | None


@dataclass(slots=True)
class Progress:
    peer: NodeId
    next: LogIndex  # The first entry to send. Always above `match`.
    match: LogIndex = NOTHING  # Durable at the peer, and equal to ours. Never goes back within a term.
    state: ProgressState = PROBE
    heard_at: Instant | None = None  # The last reply of this term.
    commit_sent: LogIndex = NOTHING
    probe_sent: bool = False  # PROBE: wait for the reply, or the next heartbeat.
    inflight_bytes: int = 0
    _inflight: deque[tuple[LogIndex, int]] = field(default_factory=deque)  # Last index and size of each append.

    def become_probe(self, next_index: LogIndex) -> None:
        self._become(PROBE)
        self.next = LogIndex(max(next_index, self.match + 1))

    def become_replicate(self) -> None:
        self._become(REPLICATE)
        self.next = LogIndex(self.match + 1)

    def become_snapshot(self) -> None:
        self._become(SNAPSHOT)

    def _become(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = False
        self._inflight.clear()
        self.inflight_bytes = 0

    def matched(self, index: LogIndex) -> bool:
        """The peer acknowledged everything up to `index`. Returns whether that is news."""
        if index <= self.match:
            return False
        self.match = index
        self.next = LogIndex(max(self.next, index + 1))
        while self._inflight and self._inflight[0][0] <= index:
            self.inflight_bytes -= self._inflight.popleft()[1]
        return True

    def sent(self, last: LogIndex, size: int) -> None:
        """An append up to `last` went out."""
        if self.state is REPLICATE:
            self.next = LogIndex(last + 1)
            self._inflight.append((last, size))
            self.inflight_bytes += size
        else:
            self.probe_sent = True

    def may_send(self, config: RaftConfig) -> bool:
        if self.state is REPLICATE:
            return (
                len(self._inflight) < config.inflight_messages_max and self.inflight_bytes < config.inflight_bytes_max
            )
        return self.state is PROBE and not self.probe_sent

    def view(self) -> ProgressView:
        return ProgressView(self.state, self.match, self.next, len(self._inflight), self.inflight_bytes, self.heard_at)
