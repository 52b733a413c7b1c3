"""One member of a region's consensus: the Raft core with leases, acknowledgements, cluster time and roll-back check.

No I/O, no clock: every input comes with `now`, the node's monotonic clock read *after* the input came, and with `wall`
where the node's own time of day matters. After any input the driver takes `ready()` and works it off; `next_wakeup`
says when `tick` must be called at the latest. What each lease rule is for: `leases/__init__.py` and design.md.

How an answer is made on the data plane: receive the request, read the clock, `may_serve(now)`, then read the state
through one snapshot opened after that check. The answer may leave later.

How a change is acknowledged: its entry is applied here with success, and `acknowledges(index, now)`. What was concluded
from state without an entry of its own also needs `may_serve`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from keycluster.cluster.acknowledgements import Acknowledgements
from keycluster.cluster.cluster_time import ClockReading, ClockVerdict, ClusterClock, NoClusterTime
from keycluster.cluster.leases import LeaseHolder
from keycluster.cluster.leases.followership import Followership
from keycluster.cluster.leases.leadership import Leadership
from keycluster.cluster.leases.messages import AppliedReport, LeaseAnswer, LeaseAsk, SettledNotice
from keycluster.cluster.marks import Mark
from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.errors import NotLeader
from keycluster.cluster.raft.messages import Membership, RaftMessage, SnapshotMeta
from keycluster.cluster.raft.ready import NOTHING, Persist
from keycluster.cluster.replica_config import ReplicaConfig, ReplicaConfigInvalid
from keycluster.cluster.replica_ready import NOTHING_TO_DO, ReplicaPersist, ReplicaReady
from keycluster.cluster.types import MILLISECOND, ClusterTime, Instant, LogIndex, NodeId, RunningTime, Term, WallTime
from keycluster.cluster.witness import Acknowledged, RolledBack, Witness

__all__ = [
    "NOTHING_TO_DO",
    "NO_STAMP",
    "Replica",
    "ReplicaConfig",
    "ReplicaConfigInvalid",
    "ReplicaPersist",
    "ReplicaReady",
    "Stamp",
    "StateDiverged",
]

_LATE_ANSWER = Mark("an answer for a lease comes late, or again, and brings none")
_NOTICED = Mark("a rolled-back disk is noticed")
_NOTICE_AGAIN = Mark("a notice of what is settled is repeated")

Stamp = Callable[[bytes, ClusterTime, int], bytes]
"""(command, cluster time, running ns) -> log payload."""

TIME_KEPT_NS: Final = 20 * MILLISECOND
"""Doors ask for cluster time with each request and compare it with minutes: a median each time would be a tenth of the
work of a signed Encrypt."""

CLOCK_CHECKED_NS: Final = 100 * MILLISECOND
"""This node's own clock is compared with the region's this often at most: each time would be a third of the work of a
message."""

NO_STAMP = ClusterTime(0)  # Before the first stamped command.


class StateDiverged(Exception):
    """This node's applied state differs from the leader's at the same index: it stops and is rebuilt from others."""


class Replica:
    def __init__(
        self,
        *,
        core: RaftCore,
        config: ReplicaConfig,
        nonces: Callable[[], bytes],
        stamp: Stamp,
        digest_at: Callable[[LogIndex], bytes | None],
        witness: Mapping[NodeId, Acknowledged],
        applied: LogIndex,
        digest: bytes,
        time_floor: ClusterTime,
        running_floor: int,
        now: Instant,
    ) -> None:
        """Takes up after a start: no lease is held, whatever was held before.

        `nonces` gives 16 fresh random bytes a call. `digest_at` is the state store's: its digest as of a recent index,
        None if not known. `witness` is the log store's. `applied`, `digest`, `time_floor` and `running_floor` are the
        applied state's index, its digest, and its newest stamp.
        """
        config.validate()
        self._core = core
        self._node = core.node
        self._config = config
        self._stamp = stamp
        self._digest_at = digest_at
        self._applied = applied
        self._digest = digest
        self._holder = LeaseHolder(lease_ns=config.lease_ns, drift_ppm=core.config.drift_ppm)
        self._leadership: Leadership | None = None
        self._clock = ClusterClock(node=core.node, floor=time_floor, running_floor=running_floor)
        self._followership = Followership(
            core,
            self._holder,
            nonces=nonces,
            own_wall=self._clock.own_wall,
            renew_ns=config.renew_ns,
            report_ns=config.report_ns,
            now=now,
        )
        self._clock_verdict = ClockVerdict.GOOD
        self._clock_checked_at = Instant(now - CLOCK_CHECKED_NS)
        self._acknowledgements = Acknowledgements(core, witness)
        self._time: ClusterTime | None = None
        self._time_looked_at = Instant(now - TIME_KEPT_NS)
        self._settled = LogIndex(0)
        self._settled_told = LogIndex(0)  # As leader: the newest that was sent along.
        self._leader_digest: tuple[LogIndex, bytes] | None = None  # To compare once applied that far.
        self._outbox: list[tuple[NodeId, ReplicaMessage]] = []
        self._stopped: Exception | None = None
        self._follow_core(now)

    # Inputs

    def tick(self, now: Instant, wall: WallTime) -> None:
        """Time has passed. Call by `next_wakeup` at the latest."""
        self._observe_own_clock(wall, now)
        self._core.tick(now)
        self._after_input(now)

    def receive(self, sender: NodeId, message: ReplicaMessage, now: Instant, wall: WallTime) -> None:
        """A message came on the link whose identity is `sender`. Raises `StateDiverged`."""
        self._glance_at_own_clock(wall, now)
        match message:
            case RaftMessage():
                self._core.receive(sender, message, now)
            case AppliedReport():
                self._take_report(sender, message)
            case SettledNotice():
                self._learn_settled(message.settled)
            case Witness():
                self._acknowledgements.take(sender, message)
            case LeaseAsk():
                self._take_ask(sender, message, now)
            case LeaseAnswer():
                self._take_answer(sender, message, now)
        self._after_input(now)

    def propose(self, commands: Sequence[bytes], now: Instant, wall: WallTime) -> LogIndex:
        """Stamps and proposes; the first one's index. Raises `NotLeader`, `ProposalsFull`, `HandingOver` as the core
        does, and `NoClusterTime` when no majority's clocks were heard lately."""
        self._glance_at_own_clock(wall, now)
        if self._leadership is None:
            raise NotLeader(self._core.leader)
        time = self._clock.time(self._core.membership, now)
        if time is None:
            raise NoClusterTime("no majority's clocks were heard lately")
        running_ns = self._clock.running_ns(now)
        first = self._core.propose([self._stamp(command, time, running_ns) for command in commands], now)
        self._after_input(now)
        return first

    def persisted(self, ticket: int, now: Instant) -> None:
        """Storage has completed everything up to this ticket, witness included."""
        self._core.persisted(ticket, now)
        self._after_input(now)

    def applied(
        self,
        index: LogIndex,
        now: Instant,
        *,
        digest: bytes,
        time_floor: ClusterTime = NO_STAMP,
        running_floor: int = 0,
    ) -> None:
        """Everything up to `index` is applied, visible to every reader, and caches are invalidated (L5).

        `time_floor` and `running_floor`: the newest stamp among what was applied. Raises `StateDiverged`.
        """
        self._core.applied_to(index, now)
        self._state_reached(index, digest)
        self._clock.stamp_applied(time_floor, running_floor, now)
        self._after_input(now)

    def propose_membership(self, target: Membership, now: Instant, *, context: bytes = b"") -> None:
        """Begins a change of members. The entries that take members out follow by themselves once those hold no lease
        (L9). The change is done when an entry with the target, not joint, is applied; lost leadership may lose it.
        Raises `NotLeader`, `MembershipRefused`, `MembershipMalformed`, `HandingOver`."""
        if self._leadership is None:
            raise NotLeader(self._core.leader)
        self._leadership.propose_membership(target, now, context=context)
        self._after_input(now)

    def transfer_leadership(self, target: NodeId, now: Instant) -> None:
        """Hands over once `target` has caught up; serving and granting stop before it is told (L8)."""
        self._core.transfer_leadership(target, now)
        self._after_input(now)

    def read_index(self, request: int, now: Instant) -> None:
        self._core.read_index(request, now)
        self._after_input(now)

    def learn_known_of_me(self, term: Term, index: LogIndex) -> None:
        """A peer told, first thing on a new link, what it knows this node acknowledged. Raises `RolledBack`."""
        try:
            self._acknowledgements.check_own((term, index))
        except RolledBack as rolled_back:
            _NOTICED.hit()
            self._stop(rolled_back)

    # Snapshots: the core's calls, and what an installed one means here

    def offer_snapshot(self, peer: NodeId, meta: SnapshotMeta, *, size: int, now: Instant) -> None:
        self._core.offer_snapshot(peer, meta, size=size, now=now)
        self._after_input(now)

    def snapshot_chunk_read(self, peer: NodeId, meta: SnapshotMeta, *, offset: int, data: bytes, now: Instant) -> None:
        self._core.snapshot_chunk_read(peer, meta, offset=offset, data=data, now=now)
        self._after_input(now)

    def snapshot_read_failed(self, peer: NodeId, now: Instant) -> None:
        self._core.snapshot_read_failed(peer, now)
        self._after_input(now)

    def snapshot_chunk_stored(self, meta: SnapshotMeta, *, offset_next: int, now: Instant) -> None:
        self._core.snapshot_chunk_stored(meta, offset_next=offset_next, now=now)
        self._after_input(now)

    def snapshot_installed(
        self,
        meta: SnapshotMeta,
        now: Instant,
        *,
        digest: bytes,
        time_floor: ClusterTime,
        running_floor: int,
    ) -> None:
        """The state is the snapshot's, visible to every reader, and caches are cleared. Raises `StateDiverged`."""
        self._core.snapshot_installed(meta, now)
        self._state_reached(meta.index, digest)
        self._clock.stamp_applied(time_floor, running_floor, now)
        self._after_input(now)

    def snapshot_refused(self, meta: SnapshotMeta, now: Instant) -> None:
        self._core.snapshot_refused(meta, now)
        self._after_input(now)

    # Output

    def ready(self) -> ReplicaReady:
        """What is to be written, sent and applied now; each is handed out once. Raises again what stopped this node:
        one that was rolled back or has diverged neither votes nor answers."""
        if self._stopped is not None:
            raise self._stopped
        raft = self._core.ready()
        settled = self._settled_messages() if self._leadership is not None else []
        if raft is NOTHING and not self._outbox and not settled:
            return NOTHING_TO_DO
        messages = [*raft.messages, *self._acknowledgements.go_out(raft.messages), *self._outbox, *settled]
        self._outbox = []
        return ReplicaReady(
            persist=self._with_witness(raft.persist) if raft.persist is not None else None,
            messages=messages,
            committed=raft.committed,
            reads=raft.reads,
            snapshots_wanted=raft.snapshots_wanted,
            snapshot_reads=raft.snapshot_reads,
            snapshot_chunk=raft.snapshot_chunk,
            snapshot_install=raft.snapshot_install,
        )

    # Questions

    @property
    def core(self) -> RaftCore:
        """For its questions (role, term, leader, membership, progress): inputs go through the replica."""
        return self._core

    def may_serve(self, now: Instant) -> bool:
        """L3, L4. Call with a clock read after the request came, then read the state. A clock value from before a
        pause may only be used to find that a lease has run out."""
        if self._stopped is not None or self._clock_verdict is ClockVerdict.REFUSES:
            return False
        if self._leadership is not None:
            return self._leadership.may_serve(self._applied, now)
        return self._holder.may_serve(now)

    @property
    def serve_until(self) -> Instant | None:
        """The end, perhaps past, of this node's lease or, as leader, of its quorum lease: for status."""
        return self._core.quorum_lease_until if self._leadership is not None else self._holder.serve_until

    @property
    def applied_index(self) -> LogIndex:
        return self._applied

    @property
    def settled_index(self) -> LogIndex:
        """L10: what everybody who may serve has applied, as far as this node knows. Never falls."""
        return self._settled

    def acknowledges(self, index: LogIndex, now: Instant) -> bool:
        """L5: whether a success that rests on everything up to `index` may leave this node as the leader's."""
        if self._leadership is None or self._stopped is not None:
            return False
        self._settle(now)
        return self._settled >= index

    def cluster_time(self, now: Instant) -> ClusterTime | None:
        """None: nothing heard of the region's clocks lately. At most `TIME_KEPT_NS` old; commands are stamped anew."""
        if not 0 <= now - self._time_looked_at < TIME_KEPT_NS:
            self._time = self._clock.time(self._core.membership, now)
            self._time_looked_at = now
        return self._time

    def running_ns(self, now: Instant) -> int:
        return self._clock.running_ns(now)

    @property
    def running_time(self) -> RunningTime:
        """By the newest stamp in the applied state: what callers' commands are dated by (keys/requests.py)."""
        return self._clock.stamped

    @property
    def clock_verdict(self) -> ClockVerdict:
        """This node's own clock against the region's, as of the last tick: to be reported when it changes."""
        return self._clock_verdict

    def clock_offset_ns(self, now: Instant) -> int | None:
        """How far this node's own clock is ahead of the median."""
        return self._clock.offset_ns(self._core.membership, now)

    def holders(self, now: Instant) -> list[NodeId]:
        """As leader: the members counted as holding a lease, for status."""
        return self._leadership.book.holders(now) if self._leadership is not None else []

    @property
    def membership_change_waits(self) -> bool:
        """As leader: a change waits for leases to run out before its first entry is appended."""
        return self._leadership is not None and self._leadership.change_waits

    def known_of(self, peer: NodeId) -> Acknowledged | None:
        """What this node knows that the peer acknowledged: told to it first thing on a new link."""
        return self._acknowledgements.known_of(peer)

    def next_wakeup(self, now: Instant) -> Instant:
        """When `tick` must be called at the latest, as of now: each input may change it. Earlier calls do no harm."""
        wakeup = Instant(now + self._config.tick_ns)
        due = self._core.deadline
        if due is not None and due < wakeup:
            wakeup = due
        if self._leadership is not None:
            due = self._leadership.due(self._applied, now)
        else:
            due = self._followership.due(applied=self._applied, settled=self._settled)
        if due is not None and due < wakeup:
            wakeup = due
        return wakeup if wakeup > now else now

    # After every input

    def _after_input(self, now: Instant) -> None:
        self._follow_core(now)
        if self._leadership is None:
            message = self._followership.message(applied=self._applied, settled=self._settled, now=now)
            if message is not None:
                self._outbox.append(message)
            return
        for member, ask in self._leadership.granted(now):
            self._outbox.append((member, self._answer(ask, now)))
        self._leadership.keep_up(self._applied, now)
        self._settle(now)

    def _follow_core(self, now: Instant) -> None:
        """Keeps leadership here in step with the core's."""
        core = self._core
        leads = core.is_leader
        if self._leadership is not None and not (leads and self._leadership.term == core.term):
            self._leadership = None
            self._clock.follow(now)
        if leads and self._leadership is None:
            self._become_leader(now)

    def _become_leader(self, now: Instant) -> None:
        """L4, L6."""
        self._holder.drop()
        self._followership.reset()
        self._leadership = Leadership(self._core, lease_ns=self._config.lease_ns, now=now)
        self._clock.lead(now)
        self._acknowledgements.lead()

    def _settle(self, now: Instant) -> None:
        """L5. The settled index only rises; see `leases/__init__.py` for why it stays true for ever."""
        if self._leadership is not None:
            self._learn_settled(self._leadership.book.settled(self._applied, now))

    def _learn_settled(self, settled: LogIndex) -> None:
        self._settled = max(self._settled, settled)

    def _state_reached(self, index: LogIndex, digest: bytes) -> None:
        if index >= self._applied:
            self._applied, self._digest = index, digest
        self._holder.applied_to(self._applied)
        self._compare_digest()

    def _glance_at_own_clock(self, wall: WallTime, now: Instant) -> None:
        """With each input that comes with a clock, though not more often than is of any interest."""
        if not 0 <= now - self._clock_checked_at < CLOCK_CHECKED_NS:
            self._observe_own_clock(wall, now)

    def _observe_own_clock(self, wall: WallTime, now: Instant) -> None:
        self._clock_checked_at = now
        self._clock.observe(self._node, wall, now)
        self._clock_verdict = self._clock.verdict(self._core.membership, now)

    def _stop(self, reason: Exception) -> None:
        self._stopped = reason
        raise reason

    # Leases, as a follower

    def _take_answer(self, sender: NodeId, answer: LeaseAnswer, now: Instant) -> None:
        term = self._core.term
        taken = self._holder.take(
            answer.nonce, sender=sender, term=answer.term, current_term=term, commit=answer.commit
        )
        if not taken:
            _LATE_ANSWER.hit()
            return
        self._holder.applied_to(self._applied)
        self._learn_settled(answer.settled)
        if answer.time is not None and answer.median is not None:
            self._clock.told(ClockReading(answer.time, answer.median, answer.running_ns), now)
            self._clock_verdict = self._clock.verdict(self._core.membership, now)
        self._leader_digest = (answer.digest_index, answer.digest)
        self._compare_digest()

    def _compare_digest(self) -> None:
        """Compares with the leader's state once this node has applied as far as the leader had."""
        if self._leader_digest is None or self._leader_digest[0] > self._applied:
            return
        (index, digest), self._leader_digest = self._leader_digest, None
        own = self._digest_at(index)
        if own is not None and own != digest:
            self._stop(StateDiverged(f"node {self._node}: the applied state at index {index} is not the leader's"))

    # Leases, as leader

    def _take_ask(self, sender: NodeId, ask: LeaseAsk, now: Instant) -> None:
        """L2's conditions are looked at after each input (`Leadership.granted`)."""
        if self._leads_in(ask.term) and self._leadership is not None and self._core.membership.is_member(sender):
            self._clock.observe(sender, ask.wall, now)
            self._leadership.ask(sender, ask, now)

    def _leads_in(self, term: Term) -> bool:
        return self._leadership is not None and self._core.term == term

    def _answer(self, ask: LeaseAsk, now: Instant) -> LeaseAnswer:
        reading = self._clock.reading(self._core.membership, now)
        return LeaseAnswer(
            term=ask.term,
            nonce=ask.nonce,
            commit=self._core.commit_index,
            settled=self._settled,
            time=None if reading is None else reading.time,
            median=None if reading is None else reading.median,
            running_ns=self._clock.running_ns(now),
            digest_index=self._applied,
            digest=self._digest,
        )

    def _take_report(self, sender: NodeId, report: AppliedReport) -> None:
        if self._leadership is None or not self._core.membership.is_member(sender):
            return
        is_repetition = report.applied <= self._leadership.book.applied_at(sender)
        self._leadership.book.reported(sender, report.applied)
        if is_repetition and report.settled < self._settled_told:
            _NOTICE_AGAIN.hit()
            # The notice was lost. (Of a first report it may just be on its way.)
            self._outbox.append((sender, SettledNotice(self._core.term, self._settled)))

    def _settled_messages(self) -> list[tuple[NodeId, ReplicaMessage]]:
        """L10: one notice to each member for all that was settled since the last."""
        if self._leadership is None or self._settled <= self._settled_told:
            return []
        self._settled_told = self._settled
        notice = SettledNotice(self._core.term, self._settled)
        return [(member, notice) for member in self._core.membership.members if member != self._node]

    def _with_witness(self, persist: Persist) -> ReplicaPersist:
        return ReplicaPersist(
            ticket=persist.ticket,
            hard_state=persist.hard_state,
            truncate_from=persist.truncate_from,
            entries=persist.entries,
            witness=self._acknowledgements.to_store(),
        )
