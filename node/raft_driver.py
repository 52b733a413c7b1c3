"""Drives one `Replica` on trio: its disk writes, its applied entries, its snapshots and its clock.

The replica decides, this module waits: every input is followed by `pump`, which hands the replica's outputs to whom
they belong. Four loops wait for the disk, so that none holds up another: the *log* loop writes what must be durable
before messages may leave, the *apply* loop carries committed entries into the key state and installs snapshots, the
*snapshot* loop makes snapshots and reads and writes their pieces, the *tidy* loop compacts. What they report is taken
up on the event loop, between two steps of everything else.

Order within an applied batch (rule L5): commit on disk, then in one step of the loop: move the pinned view, invalidate
caches, tell the replica. So *applied* means visible to every reader.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog
import trio

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.keys.records import load_clock
from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.messages import Entry, HardState, SnapshotMeta
from keycluster.cluster.raft.progress import ProgressState
from keycluster.cluster.raft.ready import IncomingChunk, SnapshotRead
from keycluster.cluster.replica import NO_STAMP, Replica, ReplicaPersist, ReplicaReady
from keycluster.cluster.seams import Clock, Disk
from keycluster.cluster.store.errors import SnapshotRefused
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore, StateTx, StateView
from keycluster.cluster.types import SECOND, ClusterTime, LogIndex, NodeId, Term
from keycluster.node.actors import Mailbox

TICK_S_MAX = 0.25  # The replica names the instant; should it ever be wrong, this is how long a region stands still.
TICK_S_MIN = 0.0005  # However many instants there are. Late ticks only delay, they never make anything unsafe.
APPLY_ENTRIES_MAX = 256  # Of one transaction: bounds how long readers of new state wait for it.
SNAPSHOT_KEPT_S = 60.0  # For a member that wants it and hasn't been heard of lately. Old copies hold what was deleted.

# These queues are bounded by the core, by bytes (raft/config.py): one that fills up shows a fault of ours.
WRITES_WAITING_MAX = 100_000
APPLIES_WAITING_MAX = 1_000_000
SNAPSHOT_JOBS_WAITING_MAX = 10_000

log = structlog.get_logger(__name__)


Touched = Collection[tuple[int, bytes]]
"""Rows by table and key."""


@dataclass(frozen=True, slots=True)
class LogRetention:
    """How much of the log is kept, in entries."""

    kept: int = 4096
    """Behind the applied index, for members that lag: beyond it they get a snapshot."""
    kept_longest: int = 16 * 4096
    """For members that answer and are still further behind."""
    slack: int = 256
    """Compacted in steps of this many, not entry by entry: each step holds up the log's writes."""


DEFAULT_RETENTION = LogRetention()


class StateListener(Protocol):
    """Who must know, in the same step of the event loop, that the visible state moved."""

    def state_moved(self, entries: Sequence[Entry], outcomes: Sequence[Outcome | None], touched: Touched) -> None:
        """The view shows these entries' effects now; `touched` rows were written."""
        ...

    def state_replaced(self) -> None:
        """A snapshot was installed: nothing that was cached holds."""
        ...

    def stepped(self) -> None:
        """The replica took in something: leader, term or settled index may have changed."""
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """A node's two databases and where its snapshots lie."""

    log: LogStore
    state: StateStore
    folder: Path

    @property
    def outgoing(self) -> Path:
        return self.folder / "snapshot.out"

    @property
    def leftovers(self) -> list[Path]:
        """What a former process may have left of snapshots: to be erased before the node runs (security.md, 3)."""
        return [self.outgoing, self.incoming, self.outgoing.with_name(self.outgoing.name + ".unfinished")]

    @property
    def incoming(self) -> Path:
        return self.folder / "snapshot.in"


@dataclass(frozen=True, slots=True)
class _Install:
    """A snapshot to install once all entries before it are applied and all writes up to `after_ticket` are done."""

    meta: SnapshotMeta
    after_ticket: int


class _DropSnapshot:
    """Erase the file that nobody wants any more."""


class RaftDriver:
    """One member's consensus, running."""

    def __init__(  # Keyword-only; wired in one place.
        self,
        *,
        replica: Replica,
        stores: Stores,
        clock: Clock,
        disk: Disk,
        apply_entry: Callable[[StateTx, Entry], Outcome],
        send: Callable[[NodeId, ReplicaMessage], object],
        listener: StateListener,
        retention: LogRetention = DEFAULT_RETENTION,
    ) -> None:
        self.replica = replica
        self.retention = retention
        """May be set anew while this runs; it counts from the next batch that is applied."""
        self._stores = stores
        self._clock = clock
        self._disk = disk
        self._apply_entry = apply_entry
        self._send = send
        self._listener = listener
        self._writes: Mailbox[ReplicaPersist] = Mailbox(capacity=WRITES_WAITING_MAX)
        self._applies: Mailbox[Entry | _Install] = Mailbox(capacity=APPLIES_WAITING_MAX)
        self._snapshots: Mailbox[NodeId | SnapshotRead | IncomingChunk | _DropSnapshot] = Mailbox(
            capacity=SNAPSHOT_JOBS_WAITING_MAX
        )
        self._log_lock = trio.Lock()  # One writer of the log: the log loop, the tidy loop, or an installed snapshot.
        self._ticket_out = 0  # The newest write handed to the log loop, and the newest done.
        self._ticket_done = 0
        self._writes_moved = trio.Event()
        self._applied_some = trio.Event()
        self._until_tick = trio.CancelScope()
        self._snapshot: SnapshotMeta | None = None  # What `outgoing` holds.
        self._wanted: set[NodeId] = set()  # Who waits for an offer: asked for again while one is being made.
        self._offered: dict[NodeId, SnapshotMeta] = {}
        self._is_receiving = False  # `incoming` is being written, or is to be installed.

    def receive(self, sender: NodeId, messages: Sequence[ReplicaMessage]) -> None:
        """Takes one frame of a peer. The clock is read after it came."""
        for message in messages:
            self.replica.receive(sender, message, self._clock.now(), self._clock.wall())
        self.pump()

    def pump(self) -> None:
        """Hands out all that the replica has to say since the last call."""
        ready = self.replica.ready()
        for peer, message in ready.messages:
            self._send(peer, message)
        if ready.persist is not None:
            self._writes.tell(ready.persist)
            self._ticket_out = ready.persist.ticket
        for entry in ready.committed:
            self._applies.tell(entry)
        self._tell_snapshots(ready)
        self._listener.stepped()
        # Later than the loop waits for is left to it: it finds out when it wakes up, and an early tick does no harm.
        self._until_tick.deadline = min(self._until_tick.deadline, self._next_tick_at())

    def _tell_snapshots(self, ready: ReplicaReady) -> None:
        for peer in ready.snapshots_wanted:
            if peer not in self._wanted:
                self._wanted.add(peer)
                self._snapshots.tell(peer)
        for read in ready.snapshot_reads:
            self._snapshots.tell(read)
        if ready.snapshot_chunk is not None:
            self._snapshots.tell(ready.snapshot_chunk)
        if ready.snapshot_install is not None:
            self._applies.tell(_Install(ready.snapshot_install, self._ticket_out))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled. Any failure of a store, or a broken invariant, propagates: it stops the node."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick_loop)
            nursery.start_soon(self._log_loop)
            nursery.start_soon(self._apply_loop)
            nursery.start_soon(self._snapshot_loop)
            nursery.start_soon(self._tidy_loop)
            self.pump()
            task_status.started()

    async def _tick_loop(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._next_tick_at()) as self._until_tick:
                await trio.sleep_forever()
            self.replica.tick(self._clock.now(), self._clock.wall())
            self.pump()

    def _next_tick_at(self) -> float:
        """On trio's clock."""
        now = self._clock.now()
        wait_s = (self.replica.next_wakeup(now) - now) / SECOND
        return trio.current_time() + min(max(wait_s, TICK_S_MIN), TICK_S_MAX)

    async def _log_loop(self) -> None:
        while True:
            jobs = await self._writes.take_all()
            write = merge_writes(jobs)
            async with self._log_lock:
                await self._disk.run(lambda write=write: write.to(self._stores.log))  # type: ignore[misc]
            self._ticket_done = jobs[-1].ticket
            self._writes_moved.set()
            self._writes_moved = trio.Event()
            self.replica.persisted(self._ticket_done, self._clock.now())
            self.pump()

    async def _apply_loop(self) -> None:
        while True:
            entries: list[Entry] = []
            for job in await self._applies.take_all():
                if isinstance(job, Entry):
                    entries.append(job)
                if entries and (isinstance(job, _Install) or len(entries) == APPLY_ENTRIES_MAX):
                    await self._apply(entries)
                    entries = []
                if isinstance(job, _Install):
                    await self._install(job)
            if entries:
                await self._apply(entries)

    async def _apply(self, entries: list[Entry]) -> None:
        state = self._stores.state
        applied = await self._disk.run(lambda: state.apply(entries, self._apply_entry))
        state.refresh()
        self._listener.state_moved(entries, applied.results, applied.touched)
        self._report_applied()
        self._applied_some.set()

    def _report_applied(self) -> None:
        view = self._stores.state.view
        time_floor, running_floor = newest_stamp(view)
        self.replica.applied(
            view.applied_index,
            self._clock.now(),
            digest=view.digest,
            time_floor=time_floor,
            running_floor=running_floor,
        )
        self.pump()

    async def _install(self, job: _Install) -> None:
        """The state first, then the log: a crash in between leaves a log that ends before the state does, and
        `join_up` resets it when both are opened.
        """
        stores, meta = self._stores, job.meta
        while self._ticket_done < job.after_ticket:
            await self._writes_moved.wait()  # Entries written after the reset would not follow it.
        try:
            await self._disk.run(lambda: stores.state.install_snapshot(stores.incoming, meta))
        except SnapshotRefused as error:
            log.warning("a snapshot was refused", index=meta.index, reason=str(error))
            self._is_receiving = False
            self._snapshots.tell(_DropSnapshot())
            self.replica.snapshot_refused(meta, self._clock.now())
            self.pump()
            return
        async with self._log_lock:
            await self._disk.run(lambda: stores.log.reset_to(meta))
        stores.state.refresh()
        log.info("snapshot installed", index=meta.index)
        self._listener.state_replaced()
        time_floor, running_floor = newest_stamp(stores.state.view)
        self.replica.snapshot_installed(
            meta,
            self._clock.now(),
            digest=stores.state.view.digest,
            time_floor=time_floor,
            running_floor=running_floor,
        )
        self._is_receiving = False
        self._snapshots.tell(_DropSnapshot())
        self.pump()

    async def _tidy_loop(self) -> None:
        while True:
            await self._applied_some.wait()
            self._applied_some = trio.Event()
            upto = self._compactable()
            if upto is not None:
                async with self._log_lock:
                    await self._disk.run(lambda upto=upto: self._stores.log.compact(upto))  # type: ignore[misc]
            if self._snapshot is not None and not self._is_snapshot_wanted():
                self._snapshots.tell(_DropSnapshot())

    def _compactable(self) -> LogIndex | None:
        """Up to where the log can go: far behind what is applied, and behind what members that answer still need."""
        applied, first = self._stores.state.view.applied_index, self._stores.log.first_index
        upto = applied - self.retention.kept
        if applied - first < self.retention.kept_longest:
            upto = min(upto, self.replica.core.retain_above)
        return LogIndex(upto) if upto - first + 1 >= self.retention.slack else None

    async def _snapshot_loop(self) -> None:
        while True:
            for job in await self._snapshots.take_all():
                match job:
                    case IncomingChunk():
                        await self._store_chunk(job)
                    case SnapshotRead():
                        await self._read_chunk(job)
                    case _DropSnapshot():
                        await self._drop_snapshots()
                    case peer:
                        await self._offer_snapshot(peer)
                self.pump()

    async def _offer_snapshot(self, peer: NodeId) -> None:
        """Makes a snapshot of what is applied, unless the last one still joins up with the log.

        A peer that wants one again after it was offered this very one could not use it: it gets another.
        """
        stores, snapshot = self._stores, self._snapshot
        if snapshot is None or snapshot.index + 1 < stores.log.first_index or self._offered.get(peer) == snapshot:
            self._snapshot = None
            snapshot = await self._disk.run(lambda: stores.state.write_snapshot(stores.outgoing))
            self._snapshot = snapshot
            log.info("snapshot made", index=snapshot.index)
        self._offered[peer] = snapshot
        self._wanted.discard(peer)
        size = self._disk.size(stores.outgoing)
        self.replica.offer_snapshot(peer, snapshot, size=size, now=self._clock.now())

    def _is_snapshot_wanted(self) -> bool:
        since = self._clock.now() - SNAPSHOT_KEPT_S * SECOND
        return any(
            progress.state is ProgressState.SNAPSHOT and progress.heard_at is not None and progress.heard_at >= since
            for progress in self.replica.core.progress.values()
        )

    async def _drop_snapshots(self) -> None:
        """Erases the files that have done their work: old copies hold what was deleted since (security.md, 3)."""
        if self._snapshot is not None and not self._is_snapshot_wanted():
            self._snapshot = None
            self._offered.clear()
            await self._disk.run(lambda: self._disk.remove(self._stores.outgoing))
        if not self._is_receiving:
            await self._disk.run(lambda: self._disk.remove(self._stores.incoming))

    async def _store_chunk(self, chunk: IncomingChunk) -> None:
        path = self._stores.incoming
        self._is_receiving = True
        await self._disk.run(lambda: self._disk.write_at(path, chunk.offset, chunk.data))
        self.replica.snapshot_chunk_stored(
            chunk.meta, offset_next=chunk.offset + len(chunk.data), now=self._clock.now()
        )

    async def _read_chunk(self, read: SnapshotRead) -> None:
        if read.meta != self._snapshot:  # Another one took its place in the file: the peer starts over with that.
            self.replica.snapshot_read_failed(read.peer, self._clock.now())
            return
        path = self._stores.outgoing
        data = await self._disk.run(lambda: self._disk.read_at(path, read.offset, read.count))
        self.replica.snapshot_chunk_read(read.peer, read.meta, offset=read.offset, data=data, now=self._clock.now())


def newest_stamp(view: StateView) -> tuple[ClusterTime, int]:
    """Cluster time and running time of the newest applied command; zeros before the first."""
    clock = load_clock(view)
    return (clock.time, clock.running_ns) if clock is not None else (NO_STAMP, 0)


@dataclass(slots=True)
class LogWrite:
    """Several writes of the replica as one transaction of the log."""

    hard_state: HardState | None = None
    truncate_from: LogIndex | None = None
    entries: list[Entry] = field(default_factory=list)
    witness: Mapping[NodeId, tuple[Term, LogIndex]] | None = None

    def to(self, store: LogStore) -> None:
        """Blocking; synced when it returns."""
        store.write(
            hard_state=self.hard_state,
            truncate_from=self.truncate_from,
            entries=self.entries,
            witness=self.witness,
        )


def merge_writes(jobs: Sequence[ReplicaPersist]) -> LogWrite:
    """What `jobs` come to, one after the other: group commit. A later truncation drops earlier entries of the batch."""
    merged = LogWrite()
    for job in jobs:
        if job.hard_state is not None:
            merged.hard_state = job.hard_state
        if job.truncate_from is not None:
            start = job.truncate_from
            merged.entries = [entry for entry in merged.entries if entry.index < start]
            merged.truncate_from = start if merged.truncate_from is None else min(start, merged.truncate_from)
        merged.entries.extend(job.entries)
        if job.witness is not None:
            merged.witness = job.witness
    return merged
