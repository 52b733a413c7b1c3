"""What can be asked of a core: its term, log and membership, and, of a leader, its lease and its members' progress."""

from collections.abc import Iterator, Mapping

from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.handover import HandOver
from keycluster.cluster.raft.member import LEADER, Member, Role
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.raft.progress import ProgressView
from keycluster.cluster.raft.replication import Replication
from keycluster.cluster.types import Instant, LogIndex, NodeId, Term


class Questions:
    """The answers hold until the next input."""

    def __init__(self, member: Member, replication: Replication, hand_over: HandOver) -> None:
        self._member = member
        self._replication = replication
        self._hand_over = hand_over

    @property
    def node(self) -> NodeId:
        return self._member.node

    @property
    def config(self) -> RaftConfig:
        return self._member.config

    @property
    def role(self) -> Role:
        return self._member.role

    @property
    def is_leader(self) -> bool:
        return self._member.role is LEADER

    @property
    def term(self) -> Term:
        return self._member.term

    @property
    def vote(self) -> NodeId | None:
        return self._member.vote

    @property
    def leader(self) -> NodeId | None:
        """Who leads this term, as far as known; this node itself while it leads."""
        return self._member.leader

    @property
    def commit_index(self) -> LogIndex:
        return self._member.log.commit_index

    @property
    def applied_index(self) -> LogIndex:
        return self._member.log.applied_index

    @property
    def stable_index(self) -> LogIndex:
        """Durable here."""
        return self._member.log.stable_index

    @property
    def last_index(self) -> LogIndex:
        return self._member.log.last_index

    @property
    def last_term(self) -> Term:
        return self._member.log.last_term

    @property
    def membership(self) -> Membership:
        """The newest in the log, committed or not: the one that counts."""
        return self._member.memberships.newest

    @property
    def membership_index(self) -> LogIndex:
        """Of the entry that set it."""
        return self._member.memberships.newest_index

    @property
    def committed_membership(self) -> Membership:
        return self._member.memberships.committed

    @property
    def can_leave_joint(self) -> bool:
        """Leading, and the joint membership is committed."""
        m = self._member
        return (
            m.role is LEADER
            and m.membership.is_joint
            and m.memberships.newest_index <= m.log.commit_index
            and self._replication.is_own_term_committed
        )

    @property
    def is_installing_snapshot(self) -> bool:
        return self._member.is_installing

    @property
    def is_disk_stalled(self) -> bool:
        return self._member.is_stalled

    # Questions to a leader

    @property
    def own_term_committed(self) -> bool:
        """Leading, and an entry of this term is committed: the commit index is not behind (6.4)."""
        return self.is_leader and self._replication.is_own_term_committed

    @property
    def term_start(self) -> LogIndex | None:
        """The index of this leader's own first entry."""
        return self._replication.term_start if self.is_leader else None

    @property
    def last_term_leader(self) -> NodeId | None:
        """Named by the newest LEADER entry below this leader's own first one (L6)."""
        return self._replication.last_term_leader if self.is_leader else None

    @property
    def quorum_lease_until(self) -> Instant | None:
        """No other leader can exist before this (L4). None when not leading, when no quorum has answered yet, and
        after TimeoutNow was sent (L8)."""
        sent_at = self._replication.rounds.quorum_sent_at
        if not self.is_leader or self._hand_over.is_sent or sent_at is None:
            return None
        return Instant(sent_at + self._member.config.lease_ns)

    @property
    def is_handing_over(self) -> bool:
        """Proposals are refused: a transfer is under way, or TimeoutNow was sent in this term."""
        return self.is_leader and (self._hand_over.target is not None or self._hand_over.is_sent)

    @property
    def hand_over_sent(self) -> bool:
        """TimeoutNow was sent in this term: this leader serves and grants nothing any more (L8)."""
        return self.is_leader and self._hand_over.is_sent

    @property
    def progress(self) -> Mapping[NodeId, ProgressView]:
        """Of the other members, sorted; empty unless leading."""
        if not self.is_leader:
            return {}
        return {peer: progress.view() for peer, progress in self._replication.progress.items()}

    def matches(self) -> Iterator[tuple[NodeId, LogIndex]]:
        """As leader: up to where each other member has the log durably."""
        if self.is_leader:
            for peer, progress in self._replication.progress.items():
                yield peer, progress.match

    @property
    def uncommitted_bytes(self) -> int:
        return self._member.log.uncommitted_bytes

    @property
    def retain_above(self) -> LogIndex:
        """Compacting the log above this would make a member that answers, or a snapshot under way, start over."""
        m = self._member
        if m.role is not LEADER:
            return m.log.applied_index
        needed = [m.log.applied_index]
        for progress in self._replication.progress.values():
            if self._replication.is_alive(progress):
                needed.append(self._replication.needed_above(progress))
        return min(needed)
