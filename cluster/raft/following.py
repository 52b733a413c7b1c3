"""What a follower does with its leader's entries (dissertation 3.5) and how it acknowledges them."""

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.marks import Mark
from keycluster.cluster.raft.member import FOLLOWER, LEADER, Member
from keycluster.cluster.raft.messages import AppendEntries, AppendReply, Entry
from keycluster.cluster.types import LogIndex, NodeId, Term

_REPLACED = Mark("entries of an earlier leader are replaced")
_BUSY = Mark("an append comes while a snapshot is being installed", within=("core",))


class Following:
    def __init__(self, member: Member) -> None:
        self._member = member
        self._term = Term(0)  # The term in which the rest was learnt.
        self._verified = LogIndex(0)  # Up to here our log is known to equal the leader's, durable or not.
        self._round = 0  # The newest that came.
        self._round_answered = 0
        self._acknowledged = LogIndex(0)

    def hear(self, leader: NodeId) -> None:
        """A message that only this term's leader sends."""
        m = self._member
        if m.role is LEADER or (m.leader is not None and m.leader != leader):
            raise InvariantBroken(f"two leaders in term {m.term}: {m.leader} and {leader}")
        if m.leader is None or m.role is not FOLLOWER:
            m.follow(m.term, leader)
        if self._term != m.term:
            self._term = m.term
            self._verified = self._acknowledged = LogIndex(0)
            self._round = self._round_answered = 0
        m.hear_leader()

    def on_append(self, sender: NodeId, message: AppendEntries) -> None:
        m = self._member
        if not _is_well_formed(message):
            return
        self.hear(sender)
        self._round = max(self._round, message.round)
        if m.is_installing:
            _BUSY.hit()
            self._reply()  # The log must not change now: just say that we follow.
            return
        prev, entries = message.prev_index, message.entries
        if prev < m.log.commit_index:
            # What is committed here is in every later leader's log (Leader Completeness): nothing to compare.
            entries = entries[m.log.commit_index - prev :]
            prev = m.log.commit_index
        elif m.log.term(prev) != message.prev_term:
            self._reject(sender, message)
            return
        has_new = bool(entries) and self._take(entries)
        self._verified = LogIndex(max(self._verified, prev + len(entries)))
        m.commit_to(min(message.commit, self._verified))
        is_commit_only = not message.entries and message.round == self._round_answered
        if not has_new and not (is_commit_only and self._durable() == self._acknowledged):
            self._reply()  # New ones are acknowledged once they are durable.

    def _take(self, entries: tuple[Entry, ...]) -> bool:
        """Appends those we don't have, in place of others that stand there. Returns whether there were any."""
        m = self._member
        last = m.log.last_index
        for position, entry in enumerate(entries):
            if entry.index > last or m.log.term(entry.index) != entry.term:
                if entry.index <= last:
                    _REPLACED.hit()
                    m.truncate(entry.index)
                m.append(list(entries[position:]))
                return True
        return False

    def _reject(self, sender: NodeId, message: AppendEntries) -> None:
        m = self._member
        index, term = m.log.last_with_term_up_to(message.prev_index, message.prev_term)
        reply = AppendReply(m.term, self._round, LogIndex(0), message.prev_index, index, term)
        m.outbox.send(sender, reply)

    def acknowledge(self) -> None:
        """A write has completed: say so if it made more of the leader's log durable."""
        m = self._member
        if m.leader is not None and self._term == m.term and self._durable() > self._acknowledged:
            self._reply()

    def _durable(self) -> LogIndex:
        return min(self._verified, self._member.log.stable_index)

    def _reply(self) -> None:
        m = self._member
        if m.leader is not None:
            self._acknowledged = self._durable()
            self._round_answered = self._round
            m.outbox.send(m.leader, AppendReply(m.term, self._round, self._acknowledged))


def _is_well_formed(message: AppendEntries) -> bool:
    """Entries that follow each other and the one before, in terms that don't fall and aren't the future's."""
    index, term = message.prev_index, message.prev_term
    for entry in message.entries:
        if entry.index != index + 1 or entry.term < term:
            return False
        index, term = entry.index, entry.term
    return term <= message.term
