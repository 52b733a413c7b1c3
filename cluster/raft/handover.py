"""Handing leadership over (dissertation 3.10, rule L8).

    idle --begin--> waiting until the target has the whole log --TimeoutNow--> sent --> a newer term, or step down

Before TimeoutNow is sent a hand-over can fail and the leader goes on. Afterwards it can't: the target's vote request
overrules stickiness, so the leader's quorum lease is worth nothing any more. It proposes nothing for the rest of its
term, and if nobody has taken over after E, it steps down.
"""

from keycluster.cluster.raft.member import Member
from keycluster.cluster.raft.messages import TimeoutNow
from keycluster.cluster.raft.replication import Replication
from keycluster.cluster.types import Instant, NodeId


class HandOver:
    def __init__(self, member: Member, replication: Replication) -> None:
        self._member = member
        self._replication = replication
        self.target: NodeId | None = None
        self.is_sent = False  # TimeoutNow, in this term.
        self.is_forced = False  # We must not lead on even if it fails.
        self._deadline = Instant(0)
        self._repeat_at = Instant(0)

    def reset(self) -> None:
        """A new leadership."""
        self.target = None
        self.is_sent = self.is_forced = False

    def begin(self, target: NodeId, *, forced: bool) -> None:
        m = self._member
        self.target = target
        self.is_forced = forced
        self._deadline = Instant(m.now + m.config.election_ns)
        self.step()

    def step(self) -> None:
        """Sends TimeoutNow once the target has all of the log."""
        if self.target is None or self.is_sent:
            return
        progress = self._replication.progress.get(self.target)
        if progress is not None and progress.match == self._member.log.last_index:
            self._deadline = Instant(self._member.now + self._member.config.election_ns)
            self._send(self.target)

    def send_last(self, target: NodeId) -> None:
        """For a leader that steps down in any case: helps its successor without waiting for a time-out."""
        self._send(target)

    def _send(self, target: NodeId) -> None:
        m = self._member
        self.is_sent = True
        self._repeat_at = Instant(m.now + m.config.heartbeat_ns)
        m.outbox.send(target, TimeoutNow(m.term))

    @property
    def due(self) -> Instant | None:
        """When `tick` has something to do."""
        if self.target is None:
            return None
        return min(self._deadline, self._repeat_at) if self.is_sent else self._deadline

    def tick(self) -> bool:
        """Returns whether the leader must step down."""
        now = self._member.now
        if self.target is None:
            return False
        if now >= self._deadline:
            if self.is_sent or self.is_forced:
                return True
            self.target = None
        elif self.is_sent and now >= self._repeat_at:
            self._send(self.target)
        return False
