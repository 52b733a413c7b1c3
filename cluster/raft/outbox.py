"""What waits to go out, and what must not go out yet.

A member's word counts only once it can't forget it: whatever it says in a term waits until term and vote are on disk
(dissertation 3.8). As log and vote are written in order, a vote request that leaves after its term is durable also
speaks of a durable log. Pre-votes promise nothing and don't wait.
"""

from collections import deque

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.raft.log import RaftLog
from keycluster.cluster.raft.messages import AppendReply, Entry, HardState, Message, SnapshotMeta
from keycluster.cluster.raft.ready import NOTHING, IncomingChunk, Persist, ReadAnswer, Ready, SnapshotRead
from keycluster.cluster.types import Instant, NodeId

HELD_MESSAGES_MAX = 1_000  # Behind a stalled disk. Older ones are dropped, as a network may drop them.


class Outbox:
    def __init__(self) -> None:
        self.messages: list[tuple[NodeId, Message]] = []
        self.reads: list[ReadAnswer] = []
        self.snapshots_wanted: list[NodeId] = []
        self.snapshot_reads: list[SnapshotRead] = []
        self.snapshot_chunk: IncomingChunk | None = None
        self.snapshot_install: SnapshotMeta | None = None
        self._held: deque[tuple[int, NodeId, Message]] = deque(maxlen=HELD_MESSAGES_MAX)
        self._outstanding: deque[tuple[int, Instant]] = deque()  # Tickets, and when they were handed out.
        self._hard_state: HardState | None = None  # Changed, and not yet in a write.
        self._hard_state_ticket = 0
        self._next_ticket = 1
        self._persisted_ticket = 0

    # Messages

    def send(self, to: NodeId, message: Message) -> None:
        """Sends once term and vote are durable."""
        if self.hard_state_is_durable:
            self.messages.append((to, message))
        else:
            self._hold(to, message)

    def send_unbound(self, to: NodeId, message: Message) -> None:
        """Sends at once: for what promises nothing."""
        self.messages.append((to, message))

    def _hold(self, to: NodeId, message: Message) -> None:
        if isinstance(message, AppendReply):
            # One reply a member is enough; on a stalled disk heartbeats would pile them up.
            for position, (_, other, held) in enumerate(self._held):
                if other == to and isinstance(held, AppendReply):
                    del self._held[position]
                    break
        self._held.append((self._hard_state_ticket, to, message))

    # Writes

    @property
    def hard_state_is_durable(self) -> bool:
        return self._hard_state_ticket <= self._persisted_ticket

    def change_hard_state(self, state: HardState) -> None:
        self._hard_state = state
        self._hard_state_ticket = self._next_ticket

    def persisted(self, ticket: int) -> None:
        if ticket >= self._next_ticket:
            raise InvariantBroken(f"ticket {ticket} was never handed out")
        self._persisted_ticket = max(ticket, self._persisted_ticket)
        while self._outstanding and self._outstanding[0][0] <= ticket:
            self._outstanding.popleft()
        while self._held and self._held[0][0] <= self._persisted_ticket:
            _, to, message = self._held.popleft()
            self.messages.append((to, message))

    def oldest_write(self) -> Instant | None:
        """When the oldest write that hasn't completed was handed out."""
        return self._outstanding[0][1] if self._outstanding else None

    # Draining

    def take_persist(self, log: RaftLog, now: Instant) -> Persist | None:
        if self._hard_state is None and not log.has_unsaved:
            return None
        ticket = self._next_ticket
        self._next_ticket += 1
        self._outstanding.append((ticket, now))
        truncate_from, entries = log.hand_out(ticket)
        hard_state, self._hard_state = self._hard_state, None
        return Persist(ticket, hard_state, truncate_from, entries)

    def drain(self, persist: Persist | None, committed: list[Entry]) -> Ready:
        if persist is None and not committed and self._is_empty:
            return NOTHING
        ready = Ready(
            persist,
            self.messages,
            committed,
            self.reads,
            self.snapshots_wanted,
            self.snapshot_reads,
            self.snapshot_chunk,
            self.snapshot_install,
        )
        self.messages, self.reads, self.snapshots_wanted, self.snapshot_reads = [], [], [], []
        self.snapshot_chunk = self.snapshot_install = None
        return ready

    @property
    def _is_empty(self) -> bool:
        return not (
            self.messages
            or self.reads
            or self.snapshots_wanted
            or self.snapshot_reads
            or self.snapshot_chunk is not None
            or self.snapshot_install is not None
        )
