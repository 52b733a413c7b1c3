"""What a leader does with its log: sends it, counts who has it, commits (dissertation 3.5, 3.6.2, 10.2).

Appends are pipelined: in REPLICATE the next one goes out before the last is acknowledged. Nothing is sent while an
input is worked on; `flush` sends once per `ready()`, so that proposals of one batch share their messages.

The leader's own disk is one of many: it sends entries before they are durable here and counts itself only once they
are (10.2.1).
"""

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.marks import Mark
from keycluster.cluster.raft.member import Member
from keycluster.cluster.raft.messages import AppendEntries, AppendReply, Entry, EntryKind, SnapshotReply, entry_bytes
from keycluster.cluster.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from keycluster.cluster.raft.reads import LeaderReads
from keycluster.cluster.raft.rounds import Rounds
from keycluster.cluster.raft.snapshot_sender import SnapshotSender
from keycluster.cluster.types import Instant, LogIndex, NodeId, Term

_COMPACTED = Mark("a member needs entries that are compacted")
_BACKS_OFF = Mark("a leader goes back to where two logs meet")


class Replication:
    """Meaningful while the member leads. `begin` starts a leadership; nothing of an earlier one stays."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self.progress: dict[NodeId, Progress] = {}  # Of all other members, sorted.
        self.rounds = Rounds(member.node)
        self.reads = LeaderReads(member.config)
        self.snapshots = SnapshotSender(member)
        self.term_start = LogIndex(0)  # The leader's own first entry.
        self.last_term_leader: NodeId | None = None
        self.began_at = member.now
        self.heartbeat_due = member.now
        self._has_news = False  # Something to send may have come up since the last flush.

    def begin(self) -> None:
        m = self._member
        self.last_term_leader = m.leaders.newest
        self.term_start = LogIndex(m.log.last_index + 1)
        self.began_at = m.now
        self.progress = {}
        self.rounds.reset()
        self.snapshots.reset()
        m.become_leader()
        self._follow_membership(self.term_start)
        self.append(EntryKind.LEADER, [m.node.encode()])
        self.begin_round(probes_again=True)

    # Entries

    def append(self, kind: EntryKind, payloads: list[bytes]) -> LogIndex:
        """Returns the first entry's index."""
        m = self._member
        first = LogIndex(m.log.last_index + 1)
        m.append([Entry(m.term, LogIndex(first + place), kind, payload) for place, payload in enumerate(payloads)])
        self._has_news = True
        if kind is EntryKind.MEMBERSHIP:
            self._follow_membership(first)
            self.rounds.recount(m.membership)
            self.advance_commit()
        return first

    def _follow_membership(self, first: LogIndex) -> None:
        """The newest membership counts as soon as it is in the log (4.1). New members are sent that from `first` on."""
        m = self._member
        members = [peer for peer in m.membership.members if peer != m.node]
        for peer in self.progress.keys() - set(members):
            self.snapshots.forget(peer)
        self.progress = {peer: self.progress.get(peer) or Progress(peer, first) for peer in members}

    def advance_commit(self) -> bool:
        """Commits what a quorum has durably, if it is of this term: older entries only along with one (3.6.2).

        Returns whether it was anything. To be called when a match above the commit index is news, or who counts is.
        """
        m = self._member
        matches: dict[NodeId, int] = {peer: progress.match for peer, progress in self.progress.items()}
        matches[m.node] = m.log.stable_index
        index = LogIndex(m.membership.quorum_value(matches))
        if index <= m.log.commit_index or index < self.term_start:
            return False
        was_own_term_committed = self.is_own_term_committed
        m.commit_to(index)
        self._has_news = True
        if not was_own_term_committed:
            self.reads.own_term_committed(index=index, next_round=self.rounds.newest + 1)
        return True

    @property
    def is_own_term_committed(self) -> bool:
        return self._member.log.commit_index >= self.term_start

    @property
    def is_removed(self) -> bool:
        """The membership without us is committed: our work is done (4.2.2)."""
        m = self._member
        return not m.is_voter and m.memberships.newest_index <= m.log.commit_index

    # Time

    def tick(self) -> None:
        if self._member.now >= self.heartbeat_due:
            self.begin_round(probes_again=True)

    def begin_round(self, *, probes_again: bool) -> None:
        """A message to everybody, so that each reply confirms our leadership from now on."""
        m = self._member
        if probes_again:  # A round for reads doesn't put off the next of these: reads may come all the time.
            self.heartbeat_due = Instant(m.now + m.config.heartbeat_ns)
        self.rounds.begin(m.membership, m.now)
        for progress in self.progress.values():
            self._beat(progress, probes_again=probes_again)

    def _beat(self, progress: Progress, *, probes_again: bool) -> None:
        if progress.state is REPLICATE:
            self._send(progress, with_entries=False)
        elif progress.state is PROBE and probes_again:
            # Entries only for a member that answers: for a dead one they would be read each time for nothing.
            self._send(progress, with_entries=self.is_alive(progress))
        else:
            self._beat_without_log(progress)
        if progress.state is SNAPSHOT:
            self.snapshots.poll(progress)

    def _beat_without_log(self, progress: Progress) -> None:
        m = self._member
        nothing = LogIndex(0)
        m.outbox.send(progress.peer, AppendEntries(m.term, self.rounds.newest, nothing, Term(0), nothing))

    def is_alive(self, progress: Progress) -> bool:
        """Heard of lately. In a leadership's first moments everybody counts as alive."""
        m = self._member
        heard_at = self.began_at if progress.heard_at is None else progress.heard_at
        return m.now - heard_at <= m.config.patience_ns

    # Sending

    def flush(self) -> None:
        """Sends what there is to send, within each member's window."""
        if self.reads.round_wanted > self.rounds.newest:
            self.begin_round(probes_again=False)
        if not self._has_news:
            return
        self._has_news = False
        for progress in self.progress.values():
            self._catch_up(progress)

    def _catch_up(self, progress: Progress) -> None:
        m = self._member
        while progress.next <= m.log.last_index and progress.may_send(m.config):
            if not self._send(progress, with_entries=True):
                break
        news = min(m.log.commit_index, LogIndex(progress.next - 1))  # Commit counts up to what was sent only.
        if progress.state is REPLICATE and progress.commit_sent < news:
            self._send(progress, with_entries=False)
        elif progress.state is SNAPSHOT:
            self.snapshots.poll(progress)

    def _send(self, progress: Progress, *, with_entries: bool) -> bool:
        """Sends one append. False when what it needs is compacted: then a snapshot has to go first."""
        m = self._member
        prev = LogIndex(progress.next - 1)
        prev_term = m.log.term(prev)
        entries: list[Entry] = []
        if with_entries and prev_term is not None:
            entries = m.log.entries(progress.next, LogIndex(m.log.last_index + 1), m.config.append_bytes_max)
        if prev_term is None or (with_entries and not entries and prev < m.log.last_index):
            _COMPACTED.hit()
            progress.become_snapshot()
            self._beat_without_log(progress)
            return False
        commit = m.log.commit_index
        append = AppendEntries(m.term, self.rounds.newest, prev, prev_term, commit, tuple(entries))
        m.outbox.send(progress.peer, append)
        progress.commit_sent = min(commit, LogIndex(prev + len(entries)))
        if entries:
            progress.sent(entries[-1].index, sum(map(entry_bytes, entries)))
        elif progress.state is PROBE:
            progress.probe_sent = True
        return True

    # Replies

    def on_append_reply(self, sender: NodeId, message: AppendReply) -> bool:
        """Returns whether it made the commit index rise."""
        m = self._member
        progress = self.progress.get(sender)
        if progress is None:
            return False
        if message.match > m.log.last_index:
            raise InvariantBroken(f"{sender} acknowledges {message.match}, beyond our log's end, {m.log.last_index}")
        progress.heard_at = m.now
        self.rounds.echoed(sender, message.round, m.membership)
        if message.rejected is not None:
            self._on_rejected(progress, message, message.rejected)
            has_committed = False
        else:
            has_committed = self._on_matched(progress, message.match)
        # Else all that it doesn't have yet is on its way: most replies change nothing for anybody.
        self._has_news = self._has_news or progress.state is not REPLICATE or progress.next <= m.log.last_index
        return has_committed

    def _on_matched(self, progress: Progress, match: LogIndex) -> bool:
        is_news = progress.matched(match)
        if progress.state is PROBE and match >= progress.next - 1:
            progress.become_replicate()
            self._has_news = True  # What is committed.
        elif progress.state is SNAPSHOT and progress.match + 1 >= self._member.log.first_index:
            # It found what it needed otherwise.
            self.snapshots.forget(progress.peer)
            progress.become_probe(LogIndex(progress.match + 1))
        return is_news and match > self._member.log.commit_index and self.advance_commit()

    def _on_rejected(self, progress: Progress, message: AppendReply, rejected: LogIndex) -> None:
        """Goes back to where the logs may meet, in one step for each term in which they differ."""
        if progress.state is SNAPSHOT or rejected <= progress.match:
            return  # Out of date.
        if progress.state is PROBE and rejected != progress.next - 1:
            return
        _BACKS_OFF.hit()
        meet, _ = self._member.log.last_with_term_up_to(message.hint_index, message.hint_term)
        progress.become_probe(min(rejected, LogIndex(meet + 1)))

    def on_snapshot_reply(self, progress: Progress, message: SnapshotReply) -> bool:
        """Returns whether it made the commit index rise."""
        progress.heard_at = self._member.now
        self._has_news = True
        self.snapshots.on_reply(progress, message)
        return self.advance_commit()

    def persisted(self) -> bool:
        """More of our own log is durable. Returns whether that made the commit index rise."""
        log = self._member.log
        return log.stable_index > log.commit_index and self.advance_commit()

    def needed_above(self, progress: Progress) -> LogIndex:
        """The member needs the entries above this: behind what it has, or behind the snapshot on its way to it."""
        if progress.state is not SNAPSHOT:
            return progress.match
        index = self.snapshots.index_for(progress.peer)
        return self._member.log.applied_index if index is None else index

    def best_successor(self) -> Progress | None:
        """The voter to hand leadership to: of those that answer, the one whose log is longest."""
        m = self._member
        fit = [p for p in self.progress.values() if p.peer in m.membership.voters and self.is_alive(p)]
        heard = [p for p in fit if p.heard_at is not None]
        return max(heard, key=lambda p: (p.match, p.peer), default=None)
