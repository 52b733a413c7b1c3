"""One member's consensus: the Raft algorithm without input and output.

Inputs are method calls (a tick, a message, proposals, "written", "applied"), each with the time, read after the input
came. Outputs are gathered and drained by `ready`, whose value says what to do in which order. Nothing here waits,
reads a clock, or draws a random number of its own; equal inputs give equal outputs.

    member       term, vote, role, log, membership: what all parts share
    election     who leads                              following    a follower's log
    replication  a leader's log, `rounds`, `progress`   handover     leadership given away
    snapshot_sender, snapshot_receiver                  reads        ReadIndex
    questions    what can be asked of a core

Sources: Ongaro, "Consensus: Bridging Theory and Practice" (the dissertation; numbers in comments are its sections), its
erratum on single-server changes (raft-dev, 2015), and design.md's rules L4, L7, L8.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from keycluster.cluster.invariant import require
from keycluster.cluster.marks import Mark
from keycluster.cluster.raft.config import Jitter, RaftConfig
from keycluster.cluster.raft.election import Election
from keycluster.cluster.raft.errors import HandingOver, MembershipRefused, NotLeader, ProposalsFull, TransferRefused
from keycluster.cluster.raft.following import Following
from keycluster.cluster.raft.handover import HandOver
from keycluster.cluster.raft.log import LogReader
from keycluster.cluster.raft.member import CANDIDATE, LEADER, Member
from keycluster.cluster.raft.membership import first_step, leave
from keycluster.cluster.raft.messages import (
    ENTRY_BYTES_OVERHEAD,
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshot,
    Membership,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    SnapshotMeta,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    encode_membership_entry,
    entry_bytes,
)
from keycluster.cluster.raft.questions import Questions
from keycluster.cluster.raft.reads import LeaderRead
from keycluster.cluster.raft.ready import ReadFailed, ReadState, Ready
from keycluster.cluster.raft.replication import Replication
from keycluster.cluster.raft.snapshot_receiver import SnapshotReceiver
from keycluster.cluster.types import Instant, LogIndex, NodeId

_OWN_REMOVAL = Mark("a leader commits its own removal")
_DISK_STALLED = Mark("a leader whose disk stalls gives leadership away")
_NOBODY_TOOK_OVER = Mark("a leader that handed over steps down, since nobody took over")
_DESERTED = Mark("a leader that no quorum follows steps down")


class RaftCore(Questions):
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
        """`membership` and `last_leader` are as of `applied`; entries above it are looked through for newer ones.

        The log must reach `applied`: a snapshot that was installed just before a crash is finished by the caller.
        """
        member = Member(
            node=node,
            config=config,
            hard_state=hard_state,
            log=log,
            membership=membership,
            last_leader=last_leader,
            applied=applied,
            jitter=jitter,
            now=now,
        )
        replication = Replication(member)
        super().__init__(member, replication, HandOver(member, replication))
        self._election = Election(self._member)
        self._following = Following(self._member)
        self._receiver = SnapshotReceiver(self._member)
        self._leaders_due = now  # As leader, except heartbeats: see `deadline`.
        self._handed_out = applied  # The last entry handed out to apply.
        self._applying: deque[tuple[LogIndex, int]] = deque()  # Handed out, not yet applied: last index and size.
        self._applying_bytes = 0

    # Inputs: time and messages

    def tick(self, now: Instant) -> None:
        """To be called at `deadline`. Earlier calls do nothing; late ones delay, they never make anything unsafe."""
        m = self._member
        m.now = now
        m.outbox.reads += m.forwarded.expired(now)
        if m.role is LEADER:
            self._tick_leader()
        else:
            self._election.tick()

    @property
    def deadline(self) -> Instant | None:
        """When `tick` has something to do, perhaps past; it may change with each input. None: not before another."""
        m = self._member
        if m.role is LEADER:
            heartbeat = self._replication.heartbeat_due
            return heartbeat if heartbeat < self._leaders_due else self._leaders_due
        election, reads = self._election.due, m.forwarded.deadline
        return election if reads is None or (election is not None and election < reads) else reads

    def _next_leaders_due(self) -> Instant:
        """When a leader has to do something else than a heartbeat, as of this tick.

        Whatever comes up between two ticks is due later than the next heartbeat, so it needn't be looked for after each
        input: all of these time-outs are longer (`RaftConfig.validate`).
        """
        m = self._member
        dues = [Instant(m.now + m.config.disk_stall_ns)]
        if (read := self._replication.reads.deadline) is not None:
            dues.append(read)
        if (hand_over := self._hand_over.due) is not None:
            dues.append(hand_over)
        if not m.is_only_voter:
            dues.append(Instant(self._quorum_since() + m.config.patience_ns + 1))
            if (oldest_write := m.outbox.oldest_write()) is not None and not self._hand_over.is_forced:
                dues.append(Instant(oldest_write + m.config.disk_stall_ns + 1))
        return min(dues)

    def _tick_leader(self) -> None:
        m = self._member
        self._fail_reads(self._replication.reads.expired(m.now))
        if m.is_stalled and not m.is_only_voter and not self._hand_over.is_forced:
            self._move_leadership_away()
        is_deserted = m.now - self._quorum_since() > m.config.patience_ns and not m.is_only_voter
        gives_up = self._hand_over.tick()
        if gives_up or is_deserted:
            (_NOBODY_TOOK_OVER if gives_up else _DESERTED).hit()
            self._step_down()
        if m.role is LEADER:
            self._replication.tick()
            self._leaders_due = self._next_leaders_due()

    def receive(self, sender: NodeId, message: Message, now: Instant) -> None:
        m = self._member
        m.now = now
        was_leading = m.role is LEADER
        if message.term == m.term or self._agree_on_term(sender, message):
            self._handle(sender, message)
        if was_leading and m.role is not LEADER:
            self._fail_reads(self._replication.reads.take_all())

    def _agree_on_term(self, sender: NodeId, message: Message) -> bool:
        """Takes over a higher term. Returns whether a message of another term still matters (3.3).

        Vote requests are let through, since it depends on more than the term; so are reads, which change no term.
        """
        m = self._member
        if isinstance(message, VoteRequest | ReadIndexRequest | ReadIndexReply):
            return True
        if isinstance(message, VoteReply) and message.pre and message.granted:
            return True  # It carries the term that we asked about.
        if message.term > m.term:
            m.follow(message.term, None)
            return True
        if isinstance(message, AppendEntries | InstallSnapshot):
            # A leader of the past learns the term from this; without it, it could not reach us ever again.
            m.outbox.send(sender, AppendReply(m.term, 0, LogIndex(0)))
        return False

    def _handle(self, sender: NodeId, message: Message) -> None:
        match message:
            case AppendEntries():
                self._following.on_append(sender, message)
            case AppendReply():
                self._on_append_reply(sender, message)
            case VoteRequest():
                self._election.on_request(sender, message, leads_surely=self._leads_surely())
            case VoteReply():
                self._election.on_reply(sender, message)
                self._lead_if_won()
            case TimeoutNow():
                self._election.on_timeout_now(sender, message)
            case InstallSnapshot():
                self._following.hear(sender)
                self._receiver.on_chunk(sender, message)
            case SnapshotReply():
                self._on_snapshot_reply(sender, message)
            case ReadIndexRequest():
                self._on_read_request(sender, message)
            case ReadIndexReply():
                self._on_read_reply(message)

    # Inputs: proposals

    def propose(self, payloads: Sequence[bytes], now: Instant) -> LogIndex:
        """Appends commands, all or none. Returns the first one's index; they stand in `term`.

        Raises `NotLeader`, `HandingOver`, or `ProposalsFull`: above the cap nothing is taken, unless nothing at all is
        uncommitted (else a batch larger than the cap could never go).
        """
        m = self._member
        m.now = now
        self._require_leading()
        require(bool(payloads), "nothing proposed")
        size = sum(map(len, payloads)) + ENTRY_BYTES_OVERHEAD * len(payloads)
        if m.log.uncommitted_bytes and m.log.uncommitted_bytes + size > m.config.uncommitted_bytes_max:
            raise ProposalsFull(f"{m.log.uncommitted_bytes} bytes are not committed yet")
        return self._replication.append(EntryKind.COMMAND, list(payloads))

    def propose_membership(self, target: Membership, now: Instant, *, context: bytes = b"") -> LogIndex:
        """Starts a change: in one step when only learners change, else by a joint phase that `leave_joint` ends.

        Raises `NotLeader`, `HandingOver`, `MembershipRefused`. `context` goes into the entry as it is.
        """
        self._member.now = now
        self._require_leading()
        step = first_step(self._member.membership, target)
        self._require_settled_membership()
        return self._append_membership(step, context)

    def leave_joint(self, now: Instant) -> LogIndex:
        """Ends the joint phase. Never done by itself: the caller first lets run out what those who leave still hold."""
        self._member.now = now
        self._require_leading()
        if not self.can_leave_joint:
            raise MembershipRefused("there is no committed joint membership to leave")
        return self._append_membership(leave(self._member.membership), b"")

    def _append_membership(self, membership: Membership, context: bytes) -> LogIndex:
        payload = encode_membership_entry(membership, context)
        index = self._replication.append(EntryKind.MEMBERSHIP, [payload])
        self._after_commit()
        return index

    def _require_leading(self) -> None:
        m = self._member
        if m.role is not LEADER:
            raise NotLeader(m.leader)
        if self.is_handing_over:
            raise HandingOver(f"to {self._hand_over.target}")

    def _require_settled_membership(self) -> None:
        m = self._member
        if not self._replication.is_own_term_committed:
            # The erratum: without this, two leaders' single changes could each have a quorum without the other.
            raise MembershipRefused("no entry of this leader's term is committed yet")
        if m.memberships.newest_index > m.log.commit_index:
            raise MembershipRefused("a change is in flight")

    def transfer_leadership(self, target: NodeId, now: Instant) -> None:
        """Hands leadership to a voter (3.10). Raises `NotLeader`, `HandingOver`, `TransferRefused`.

        Until it has worked, or E has gone by, nothing can be proposed.
        """
        m = self._member
        m.now = now
        if m.role is not LEADER:
            raise NotLeader(m.leader)
        if self._hand_over.is_sent:
            raise HandingOver(f"to {self._hand_over.target}")
        if target == m.node or target not in m.membership.voters:
            raise TransferRefused(f"{target} is not another voter")
        self._hand_over.begin(target, forced=self._hand_over.is_forced)

    def read_index(self, request: int, now: Instant) -> None:
        """Asks from which index on a state may answer a read. The answer comes in `Ready.reads`, always.

        `request` must not be used for two reads.
        """
        m = self._member
        m.now = now
        if m.role is LEADER:
            self._read_as_leader(None, request)
        elif m.leader is None or m.forwarded.is_full:
            m.outbox.reads.append(ReadFailed(request))
        else:
            m.outbox.send(m.leader, ReadIndexRequest(m.term, m.forwarded.add(request, now)))

    # Inputs: what the driver has done

    def persisted(self, ticket: int, now: Instant) -> None:
        """Storage has completed the write `ticket`, and all before it."""
        m = self._member
        m.now = now
        m.outbox.persisted(ticket)
        m.log.persisted(ticket)
        if m.role is LEADER:
            if self._replication.persisted():
                self._after_commit()
        elif m.role is CANDIDATE:
            self._election.count_own_vote()
            self._lead_if_won()
        else:
            self._following.acknowledge()

    def applied_to(self, index: LogIndex, now: Instant) -> None:
        """Everything up to `index` is applied."""
        m = self._member
        m.now = now
        m.log.applied_to(index)
        while self._applying and self._applying[0][0] <= index:
            self._applying_bytes -= self._applying.popleft()[1]

    def offer_snapshot(self, peer: NodeId, meta: SnapshotMeta, *, size: int, now: Instant) -> None:
        """Answers `Ready.snapshots_wanted`: there is a snapshot of `size` bytes for this peer.

        It must stay readable until the peer wants another one, has installed it, or leadership ends. Ignored when not
        wanted any more, or too old: the log must still have the entry after it.
        """
        m = self._member
        m.now = now
        progress = self._replication.progress.get(peer)
        if m.role is LEADER and progress is not None:
            self._replication.snapshots.offer(progress, meta, size=size)

    def snapshot_chunk_read(self, peer: NodeId, meta: SnapshotMeta, *, offset: int, data: bytes, now: Instant) -> None:
        """Answers one of `Ready.snapshot_reads`."""
        m = self._member
        m.now = now
        if m.role is LEADER:
            self._replication.snapshots.chunk_read(peer, meta, offset=offset, data=data)

    def snapshot_read_failed(self, peer: NodeId, now: Instant) -> None:
        """The snapshot can't be read any more: another one will be wanted after a while."""
        self._member.now = now
        if self._member.role is LEADER:
            self._replication.snapshots.read_failed(peer)

    def snapshot_chunk_stored(self, meta: SnapshotMeta, *, offset_next: int, now: Instant) -> None:
        """Answers `Ready.snapshot_chunk`: it is stored up to `offset_next`."""
        self._member.now = now
        self._receiver.chunk_stored(meta, offset_next=offset_next)

    def snapshot_installed(self, meta: SnapshotMeta, now: Instant) -> None:
        """Answers `Ready.snapshot_install`: state and log now begin with it."""
        m = self._member
        m.now = now
        self._receiver.installed(meta)
        self._handed_out = max(self._handed_out, m.log.applied_index)
        while self._applying and self._applying[0][0] <= m.log.applied_index:
            self._applying_bytes -= self._applying.popleft()[1]

    def snapshot_refused(self, meta: SnapshotMeta, now: Instant) -> None:
        """Answers `Ready.snapshot_install`: it doesn't verify; nothing has changed."""
        self._member.now = now
        self._receiver.refused(meta)

    # Output

    def ready(self) -> Ready:
        """Drains what is to be done; see `Ready`. Call after every input, or a few."""
        m = self._member
        if m.role is LEADER:
            self._replication.flush()
            if self._replication.reads.round_wanted:
                self._answer_reads()
        return m.outbox.drain(m.outbox.take_persist(m.log, m.now), self._take_committed())

    def _take_committed(self) -> list[Entry]:
        """The next entries to apply: committed, durable here, and within the bytes that may be under way."""
        m = self._member
        if self._handed_out >= m.log.commit_index or m.is_installing:
            return []
        end = min(m.log.commit_index, m.log.stable_index)
        if self._handed_out >= end:
            return []
        room = m.config.apply_bytes_max - self._applying_bytes
        if room <= 0:
            return []
        entries = m.log.entries(LogIndex(self._handed_out + 1), LogIndex(end + 1), room)
        self._handed_out = entries[-1].index
        size = sum(map(entry_bytes, entries))
        self._applying.append((self._handed_out, size))
        self._applying_bytes += size
        return entries

    # Leading

    def _lead_if_won(self) -> None:
        if self._election.is_won:
            self._hand_over.reset()
            self._replication.begin()

    def _step_down(self) -> None:
        m = self._member
        m.follow(m.term, None)
        self._fail_reads(self._replication.reads.take_all())

    def _after_commit(self) -> None:
        """Steps down once our own removal is committed (4.2.2), and has the best successor start at once."""
        if self._member.role is LEADER and self._replication.is_removed:
            _OWN_REMOVAL.hit()
            successor = self._replication.best_successor()
            if successor is not None:
                self._replication.flush()  # So that it knows what is committed.
                self._hand_over.send_last(successor.peer)
            self._step_down()

    def _move_leadership_away(self) -> None:
        """Our disk is stalled: the others can do better (raft-notes: heartbeats alone would keep us in office)."""
        _DISK_STALLED.hit()
        successor = self._replication.best_successor()
        if successor is None:
            self._step_down()
        else:
            self._hand_over.begin(successor.peer, forced=True)

    def _quorum_since(self) -> Instant:
        """Since when a quorum is known to follow us."""
        sent_at = self._replication.rounds.quorum_sent_at
        return self._replication.began_at if sent_at is None else sent_at

    def _leads_surely(self) -> bool:
        m = self._member
        return m.role is LEADER and m.now - self._quorum_since() < m.config.election_ns

    def _on_append_reply(self, sender: NodeId, message: AppendReply) -> None:
        if self._member.role is LEADER:
            has_committed = self._replication.on_append_reply(sender, message)
            self._hand_over.step()
            if has_committed:
                self._after_commit()

    def _on_snapshot_reply(self, sender: NodeId, message: SnapshotReply) -> None:
        progress = self._replication.progress.get(sender)
        if (
            self._member.role is LEADER
            and progress is not None
            and self._replication.on_snapshot_reply(progress, message)
        ):
            self._after_commit()

    # Reads

    def _on_read_request(self, sender: NodeId, message: ReadIndexRequest) -> None:
        m = self._member
        if m.role is LEADER:
            self._read_as_leader(sender, message.read)
        else:
            m.outbox.send(sender, ReadIndexReply(m.term, message.read, None))

    def _read_as_leader(self, asker: NodeId | None, number: int) -> None:
        m = self._member
        replication = self._replication
        if replication.reads.is_full:
            self._fail_reads([LeaderRead(asker, number, m.now, LogIndex(0), 0)])
        elif replication.is_own_term_committed:
            next_round = replication.rounds.newest + 1
            replication.reads.add(asker, number, m.now, index=m.log.commit_index, next_round=next_round)
        else:
            replication.reads.add_early(asker, number, m.now)

    def _on_read_reply(self, message: ReadIndexReply) -> None:
        answer = self._member.forwarded.answer(message.read, message.index)
        if answer is not None:
            self._member.outbox.reads.append(answer)

    def _answer_reads(self) -> None:
        m = self._member
        for read in self._replication.reads.confirmed(self._replication.rounds.quorum_round):
            if read.asker is None:
                m.outbox.reads.append(ReadState(read.number, read.index))
            else:
                m.outbox.send(read.asker, ReadIndexReply(m.term, read.number, read.index))

    def _fail_reads(self, reads: Iterable[LeaderRead]) -> None:
        m = self._member
        for read in reads:
            if read.asker is None:
                m.outbox.reads.append(ReadFailed(read.number))
            else:
                m.outbox.send(read.asker, ReadIndexReply(m.term, read.number, None))
