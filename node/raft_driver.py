"""Drives one `Replica` on trio: its disk writes, its applied entries, its snapshots and its clock.

The replica decides, this module waits: every input is followed by `pump`, which hands the replica's outputs to whom
they belong. Three loops wait for the disk, so that none holds up another: the *log* loop writes what must be durable
before messages may leave, the *apply* loop carries committed entries into the key state, the *chunk* loop reads and
writes snapshots' pieces. What they report is taken up on the event loop, between two steps of everything else.

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
from keycluster.cluster.raft.ready import IncomingChunk, SnapshotRead
from keycluster.cluster.replica import NO_STAMP, Replica, ReplicaPersist
from keycluster.cluster.seams import Clock, Disk
from keycluster.cluster.store.errors import SnapshotRefused
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore, StateTx, StateView
from keycluster.cluster.types import ClusterTime, LogIndex, NodeId, Term
from keycluster.node.actors import Mailbox

TICK_S_MAX = 0.015  # A quarter of a heartbeat: late ticks only delay, they never make anything unsafe.
APPLY_ENTRIES_MAX = 256  # Of one transaction: bounds how long readers of new state wait for it.
LOG_ENTRIES_KEPT = 4096  # Behind the applied index, for members that lag: beyond it they get a snapshot.
LOG_ENTRIES_SLACK = 1024  # Compacted in steps of this many, not entry by entry.
CHUNKS_WAITING_MAX = 256

log = structlog.get_logger(__name__)


Touched = Collection[tuple[int, bytes]]
"""Rows by table and key."""


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
    def incoming(self) -> Path:
        return self.folder / "snapshot.in"


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
        send: Callable[[NodeId, ReplicaMessage], None],
        listener: StateListener,
    ) -> None:
        self.replica = replica
        self._stores = stores
        self._clock = clock
        self._disk = disk
        self._apply_entry = apply_entry
        self._send = send
        self._listener = listener
        self._writes: Mailbox[ReplicaPersist] = Mailbox(capacity=100_000)  # Bounded by the core's windows, far below.
        self._applies: Mailbox[Entry | NodeId | SnapshotMeta] = Mailbox(capacity=1_000_000)
        self._chunks: Mailbox[IncomingChunk | SnapshotRead] = Mailbox(capacity=CHUNKS_WAITING_MAX)
        self._log_lock = trio.Lock()  # One writer of the log at a time: the log loop, or an installed snapshot.
        self._snapshot: SnapshotMeta | None = None  # What `outgoing` holds.

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
        for entry in ready.committed:
            self._applies.tell(entry)
        for peer in ready.snapshots_wanted:
            self._applies.tell(peer)
        for read in ready.snapshot_reads:
            self._chunks.tell(read)
        if ready.snapshot_chunk is not None:
            self._chunks.tell(ready.snapshot_chunk)
        if ready.snapshot_install is not None:
            self._applies.tell(ready.snapshot_install)
        self._listener.stepped()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled. Any failure of a store, or a broken invariant, propagates: it stops the node."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick_loop)
            nursery.start_soon(self._log_loop)
            nursery.start_soon(self._apply_loop)
            nursery.start_soon(self._chunk_loop)
            self.pump()
            task_status.started()

    async def _tick_loop(self) -> None:
        while True:
            now = self._clock.now()
            wait_s = min(max((self.replica.next_wakeup(now) - now) / 1e9, 0.0005), TICK_S_MAX)
            await trio.sleep(wait_s)
            self.replica.tick(self._clock.now(), self._clock.wall())
            self.pump()

    async def _log_loop(self) -> None:
        while True:
            jobs = await self._writes.take_all()
            write = merge_writes(jobs)
            async with self._log_lock:
                await self._disk.run(lambda write=write: write.to(self._stores.log))  # type: ignore[misc]
            self.replica.persisted(jobs[-1].ticket, self._clock.now())
            self.pump()

    async def _apply_loop(self) -> None:
        while True:
            jobs = await self._applies.take_all()
            entries: list[Entry] = []
            for job in jobs:
                if isinstance(job, Entry):
                    entries.append(job)
                    if len(entries) == APPLY_ENTRIES_MAX:
                        await self._apply(entries)
                        entries = []
                    continue
                if entries:
                    await self._apply(entries)
                    entries = []
                if isinstance(job, SnapshotMeta):
                    await self._install(job)
                else:
                    await self._offer_snapshot(job)
            if entries:
                await self._apply(entries)
            await self._tidy()

    async def _apply(self, entries: list[Entry]) -> None:
        state = self._stores.state
        applied = await self._disk.run(lambda: state.apply(entries, self._apply_entry))
        state.refresh()
        self._listener.state_moved(entries, applied.results, applied.touched)
        self._report_applied()

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

    async def _offer_snapshot(self, peer: NodeId) -> None:
        """Makes a snapshot of what is applied, unless the last one still joins up with the log."""
        stores = self._stores
        if self._snapshot is None or self._snapshot.index + 1 < stores.log.first_index:
            self._snapshot = await self._disk.run(lambda: stores.state.write_snapshot(stores.outgoing))
            log.info("snapshot made", index=self._snapshot.index)
        size = self._disk.size(stores.outgoing)
        self.replica.offer_snapshot(peer, self._snapshot, size=size, now=self._clock.now())
        self.pump()

    async def _install(self, meta: SnapshotMeta) -> None:
        """The state first, then the log: a crash in between leaves a log that ends before the state does, and `run.py`
        resets it when it opens them.
        """
        stores = self._stores
        try:
            await self._disk.run(lambda: stores.state.install_snapshot(stores.incoming, meta))
        except SnapshotRefused as error:
            log.warning("a snapshot was refused", index=meta.index, reason=str(error))
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
        self.pump()

    async def _tidy(self) -> None:
        """Between batches: the log far behind what is applied is compacted."""
        stores = self._stores
        applied = stores.state.view.applied_index
        if applied - stores.log.first_index > LOG_ENTRIES_KEPT + LOG_ENTRIES_SLACK:
            upto = LogIndex(applied - LOG_ENTRIES_KEPT)
            async with self._log_lock:
                await self._disk.run(lambda: stores.log.compact(upto))

    async def _chunk_loop(self) -> None:
        while True:
            for job in await self._chunks.take_all():
                if isinstance(job, IncomingChunk):
                    await self._store_chunk(job)
                else:
                    await self._read_chunk(job)
                self.pump()

    async def _store_chunk(self, chunk: IncomingChunk) -> None:
        path = self._stores.incoming
        await self._disk.run(lambda: self._disk.write_at(path, chunk.offset, chunk.data))
        self.replica.snapshot_chunk_stored(
            chunk.meta, offset_next=chunk.offset + len(chunk.data), now=self._clock.now()
        )

    async def _read_chunk(self, read: SnapshotRead) -> None:
        if read.meta != self._snapshot:  # A newer one took its place in the file: the peer starts over with that.
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
