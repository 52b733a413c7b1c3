"""What must hold after every step: Raft's five safety properties, and what the design adds to them.

Election Safety, Leader Append-Only, Log Matching, Leader Completeness, State Machine Safety (dissertation, figure 3.2);
that nothing is said before it is durable (3.8); that what is committed is durable at a quorum; that no leader is
elected while another one's quorum lease lives (rules L4, L7); and that a read's index covers all that was committed
when it was asked (6.4).
"""

from keycluster.cluster.raft.messages import (
    AppendReply,
    Entry,
    Membership,
    Message,
    VoteReply,
    VoteRequest,
)
from keycluster.cluster.raft.ready import ReadState, Ready
from keycluster.cluster.types import LogIndex, NodeId
from tests.cluster.raft.harness import SimMember


class Safety:
    def __init__(self, members: dict[NodeId, SimMember]) -> None:
        self._members = members
        self._leaders: dict[int, NodeId] = {}  # By term.
        self._entries: dict[tuple[int, int], tuple[int, Entry]] = {}  # (index, term): term of the one before, entry.
        self._committed: dict[int, Entry] = {}
        self._first_committed_term: dict[int, int] = {}  # The term in which an index was first seen committed.
        self._digests: dict[int, int] = {}  # Of the applied state, by index.
        self._seen_commit: dict[NodeId, tuple[object, int]] = {}  # Per life of a member.
        self._leader_logs: dict[NodeId, tuple[object, int, int, int]] = {}  # Life, term, last index and term.
        self._reads: dict[tuple[NodeId, int], int] = {}  # What was committed when it was asked.
        self.highest_commit = 0

    # Hooks

    def on_ready(self, member: SimMember, ready: Ready) -> None:
        for to, message in ready.messages:
            self._check_durable_word(member, to, message)
        for entry in ready.committed:
            self._check_committed(entry)
            assert member.disk.has(entry.index, entry.term), f"{member.node}: {entry} to apply is not durable"
        for answer in ready.reads:
            asked = self._reads.pop((member.node, answer.request))
            if isinstance(answer, ReadState):
                assert answer.index >= asked, f"{member.node}: read at {answer.index}, {asked} was committed before"

    def read_asked(self, node: NodeId, request: int) -> None:
        self._reads[(node, request)] = self.highest_commit

    def reads_forgotten(self, node: NodeId) -> None:
        """It crashed: nobody waits for the answers any more."""
        self._reads = {key: asked for key, asked in self._reads.items() if key[0] != node}

    def reads_open(self, node: NodeId) -> int:
        return sum(1 for key in self._reads if key[0] == node)

    def _check_durable_word(self, member: SimMember, to: NodeId, message: Message) -> None:
        """3.8: term, vote and entries are on disk before anybody hears of them."""
        disk = member.disk
        if isinstance(message, VoteReply | VoteRequest) and message.pre:
            return
        assert disk.hard_state.term >= message.term, f"{member.node} speaks in {message.term} before it is durable"
        if isinstance(message, VoteReply) and message.granted and disk.hard_state.term == message.term:
            assert disk.hard_state.vote == to, f"{member.node}: vote for {to} is not durable"
        if isinstance(message, VoteRequest) and disk.hard_state.term == message.term:
            assert disk.has(message.last_index, message.last_term), f"{member.node} asks with a log not durable"
        if isinstance(message, AppendReply) and member.core.term == message.term:
            assert message.match <= disk.last_index, f"{member.node} acknowledges {message.match} not durable"
            entry = self._entry_of(member, message.match)
            assert entry is None or disk.has(entry.index, entry.term), f"{member.node}: {entry} not durable"

    @staticmethod
    def _entry_of(member: SimMember, index: LogIndex) -> Entry | None:
        log = member.core._member.log
        found = log.entries(index, LogIndex(index + 1), 1) if index >= log.first_index else []
        return found[0] if found else None

    # After a step of one member

    def check(self, member: SimMember) -> None:
        if not member.is_up:
            self._leader_logs.pop(member.node, None)
            return
        self._check_log(member)
        self._check_leader(member)
        self._check_commit(member)
        self._check_lease(member)
        state = member.disk.state
        digest = self._digests.setdefault(state.index, state.digest)
        assert digest == state.digest, f"State Machine Safety: {member.node} differs at {state.index}"

    def _check_log(self, member: SimMember) -> None:
        """Log Matching, by induction: equal index and term means an equal entry and an equal predecessor's term."""
        log = member.core._member.log
        tail = log.unapplied()
        for entry in tail:
            before = log.term(LogIndex(entry.index - 1))
            if before is None:
                continue
            known = self._entries.setdefault((entry.index, entry.term), (before, entry))
            assert known == (before, entry), f"Log Matching: {member.node} has {entry} after {before}, known {known}"

    def _check_leader(self, member: SimMember) -> None:
        core = member.core
        if not core.is_leader:
            self._leader_logs.pop(member.node, None)
            return
        first = self._leaders.setdefault(core.term, member.node)
        assert first == member.node, f"Election Safety: {first} and {member.node} lead term {core.term}"
        log = core._member.log
        known = self._leader_logs.get(member.node)
        if known is None or known[:2] != (core, core.term):
            self._check_completeness(member)
        else:
            assert log.last_index >= known[2], f"Leader Append-Only: {member.node}'s log became shorter"
            term = log.term(LogIndex(known[2]))
            assert term in (None, known[3]), f"Leader Append-Only: {member.node} replaced entry {known[2]}"
        self._leader_logs[member.node] = (core, core.term, log.last_index, log.last_term)

    def _check_completeness(self, member: SimMember) -> None:
        log = member.core._member.log
        for index in range(log.first_index, self.highest_commit + 1):
            entry = self._committed.get(index)
            if entry is not None and self._first_committed_term[index] < member.core.term:
                term = log.term(LogIndex(index))
                assert term == entry.term, f"Leader Completeness: {member.node} lacks {entry}, has term {term}"

    def _check_commit(self, member: SimMember) -> None:
        core = member.core
        life, seen = self._seen_commit.get(member.node, (core, member.disk.base_index))
        if life is not core:
            seen = member.disk.base_index
        commit = core.commit_index
        if commit > seen:
            log = core._member.log
            for index in range(max(seen + 1, log.first_index), commit + 1):
                entry = log.entries(LogIndex(index), LogIndex(index + 1), 1)[0]
                if index > self.highest_commit:
                    self._check_durable_at_quorum(member, entry)
                self._check_committed(entry)
                self._first_committed_term.setdefault(index, core.term)
        self._seen_commit[member.node] = (core, commit)
        self.highest_commit = max(self.highest_commit, commit)

    def _check_committed(self, entry: Entry) -> None:
        known = self._committed.setdefault(entry.index, entry)
        assert known == entry, f"State Machine Safety: {known} and {entry} are both committed"

    def _check_durable_at_quorum(self, member: SimMember, entry: Entry) -> None:
        """The first to know is the term's leader: a quorum of its membership must have it on disk."""
        leader = self._leaders.get(member.core.term)  # It may have stepped down in the same step.
        assert leader == member.node, f"{member.node} commits {entry} before any leader"
        membership: Membership = member.core.membership
        having = [node for node, other in self._members.items() if other.disk.has(entry.index, entry.term)]
        assert membership.has_quorum(having), f"{entry} is committed with {having} of {membership}"

    def _check_lease(self, member: SimMember) -> None:
        """L4 and L7: while a leader's quorum lease lives, by its own clock, nobody leads a later term."""
        if not member.core.is_leader:
            return
        for other in self._members.values():
            if not (other.is_up and other.core.is_leader) or other is member:
                continue
            old, new = sorted((member, other), key=lambda one: one.core.term)
            until = old.core.quorum_lease_until
            assert until is None or until <= old.now, f"L4: {new.node} leads while {old.node}'s lease lives"
