"""What one member knows about itself and its term: shared by the parts of the core, changed by verbs only.

Rule L7 lives here: *stickiness* is a time since a leader was last heard. It outlives changes of term, and construction
counts as hearing one, because the life before may have acknowledged a leader a moment ago.
"""

from enum import StrEnum

from keycluster.cluster.invariant import require
from keycluster.cluster.raft.config import Jitter, RaftConfig
from keycluster.cluster.raft.log import LogReader, RaftLog
from keycluster.cluster.raft.messages import COMMAND, Entry, EntryKind, HardState, Membership, decode_membership_entry
from keycluster.cluster.raft.outbox import Outbox
from keycluster.cluster.raft.reads import ForwardedReads
from keycluster.cluster.raft.trail import Trail
from keycluster.cluster.types import Instant, LogIndex, NodeId, Term


class Role(StrEnum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER = Role  # `Role.LEADER` takes 0.1 µs to look up; each message does it often.


class Member:
    def __init__(
        self,
        *,
        node: NodeId,
        config: RaftConfig,
        hard_state: HardState,
        log: LogReader,
        membership: Membership,
        last_leader: NodeId | None,
        applied: LogIndex,
        jitter: Jitter,
        now: Instant,
    ) -> None:
        config.validate()
        if membership.voters:  # Else a member whose log or snapshot is still to tell who belongs to the region.
            membership.validate()
        self.node = node
        self.config = config
        self.outbox = Outbox()
        self.now = now  # Of the newest input.

        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = FOLLOWER
        self.leader: NodeId | None = None
        self.heard_at = now
        self.heard_term = hard_state.term  # The newest term that a leader heard from may have had.
        self.is_installing = False  # A snapshot takes the log's place just now: the log must stay as it is.

        self.log = RaftLog(log, applied=applied, tail_bytes_max=config.tail_bytes_max)
        require(self.log.last_term <= self.term, f"the log ends in term {self.log.last_term}, term is {self.term}")
        self.memberships = Trail(applied, membership)
        self.leaders = Trail(applied, last_leader)
        for entry in self.log.unapplied():
            self._follow_trails(entry)

        self.forwarded = ForwardedReads(config, jitter)
        self._jitter = jitter
        self.election_due = now
        self._election_timeout_ns = 0
        self.draw_election_timeout()

    # Membership

    @property
    def membership(self) -> Membership:
        return self.memberships.newest

    @property
    def is_voter(self) -> bool:
        return self.membership.is_voter(self.node)

    @property
    def may_be_needed_as_leader(self) -> bool:
        """A voter, or one until the entry that takes it out is committed (4.2.2).

        It may be the only one that has that entry, so nobody else could win the votes of those who have it. It doesn't
        count itself then.
        """
        return any(membership.is_voter(self.node) for membership in self.memberships.standing)

    @property
    def is_only_voter(self) -> bool:
        """Nobody else can lead, so there is nobody to wait for.

        The membership must be committed: before that the leader that took itself out still leads, on our word alone.
        """
        membership = self.memberships.newest
        return (
            len(membership.voters) == 1
            and membership.all_voters == (self.node,)
            and self.memberships.newest_index <= self.log.commit_index
        )

    # Term and role

    def follow(self, term: Term, leader: NodeId | None) -> None:
        """Becomes a follower, in a newer term or in this one; of nobody known yet when `leader` is None."""
        require(term >= self.term, f"term would go back from {self.term} to {term}")
        if term > self.term:
            self._enter(term, vote=None)
        if self.role is not FOLLOWER:
            self.role = FOLLOWER
            self.draw_election_timeout()
        self._set_leader(leader)

    def become_pre_candidate(self) -> None:
        self.role = PRE_CANDIDATE
        self._set_leader(None)
        self.draw_election_timeout()

    def become_candidate(self) -> None:
        self._enter(Term(self.term + 1), vote=self.node)
        self.role = CANDIDATE
        self._set_leader(None)
        self.draw_election_timeout()

    def become_leader(self) -> None:
        self.role = LEADER
        self._set_leader(self.node)
        self.heard_term = self.term  # So that the successor we name may ask for our vote too (L8).

    def vote_for(self, candidate: NodeId) -> None:
        require(self.vote in (None, candidate), f"second vote in term {self.term}")
        if self.vote is None:
            self.vote = candidate
            self.outbox.change_hard_state(HardState(self.term, candidate))
        self.draw_election_timeout()

    def _enter(self, term: Term, *, vote: NodeId | None) -> None:
        self.term, self.vote = term, vote
        self.leader = None
        self.outbox.reads += self.forwarded.fail_all()
        self.outbox.change_hard_state(HardState(term, vote))

    def _set_leader(self, leader: NodeId | None) -> None:
        if leader != self.leader:
            self.leader = leader
            self.outbox.reads += self.forwarded.fail_all()

    # Time

    def draw_election_timeout(self) -> None:
        """A new random time-out, running from now."""
        shortest = self.config.election_ns
        self._election_timeout_ns = shortest + int(self._jitter.random() * shortest)
        self.election_due = Instant(self.now + self._election_timeout_ns)

    def hear_leader(self) -> None:
        self.heard_at = self.now
        self.heard_term = self.term
        self.election_due = Instant(self.now + self._election_timeout_ns)

    @property
    def is_sticky(self) -> bool:
        """L7 for a member that doesn't lead: it helps nobody to replace the leader it heard a moment ago."""
        return self.now - self.heard_at < self.config.election_ns and not self.is_only_voter

    @property
    def is_stalled(self) -> bool:
        """A write has been under way for longer than a healthy disk takes."""
        oldest = self.outbox.oldest_write()
        return oldest is not None and self.now - oldest > self.config.disk_stall_ns

    # Log

    def append(self, entries: list[Entry]) -> None:
        self.log.append(entries)
        for entry in entries:
            if entry.kind is not COMMAND:
                self._follow_trails(entry)

    def truncate(self, first: LogIndex) -> None:
        self.log.truncate(first)
        self.memberships.truncate(first)
        self.leaders.truncate(first)

    def commit_to(self, index: LogIndex) -> None:
        if index <= self.log.commit_index:
            return
        self.log.commit_to(index)
        self.memberships.commit_to(self.log.commit_index)
        self.leaders.commit_to(self.log.commit_index)

    def _follow_trails(self, entry: Entry) -> None:
        if entry.kind is EntryKind.MEMBERSHIP:
            self.memberships.append(entry.index, decode_membership_entry(entry.payload).membership)
        elif entry.kind is EntryKind.LEADER:
            self.leaders.append(entry.index, NodeId(entry.payload.decode()))
