"""One replica as its driver sees it: a disk, and a state that takes time to apply.

The disk keeps what a completed write wrote; a crash loses writes under way. What a member applied becomes visible,
durable and reported in one step, as one synced transaction with a refresh of the readers makes it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from keycluster.cluster.invariant import require
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.messages import Entry, HardState, SnapshotMeta, entry_bytes
from keycluster.cluster.raft.ready import IncomingChunk, SnapshotRead
from keycluster.cluster.replica import Replica, ReplicaConfig, ReplicaPersist, Stamp
from keycluster.cluster.types import Instant, LogIndex, NodeId, Term
from keycluster.cluster.witness import Acknowledged
from keycluster.simulations.core.state import AppliedState

DIGESTS_KEPT = 512  # As many as a leader's answer may be behind what is applied here, and more.


@dataclass(slots=True)
class DurableLog:
    """The core's `LogReader`: entries above the base."""

    base: LogIndex
    base_term: Term
    held: list[Entry] = field(default_factory=list)

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self.base + 1)

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self.base + len(self.held))

    def term(self, index: LogIndex) -> Term:
        return self.base_term if index == self.base else self.held[index - self.base - 1].term

    def has(self, index: LogIndex, term: Term) -> bool:
        """Whether the entry, or the base, stands here with that term; what is below the base is not known."""
        return self.base <= index <= self.last_index and self.term(index) == term

    def entries(self, lo: LogIndex, hi: LogIndex, bytes_max: int) -> list[Entry]:
        if lo <= self.base:
            return []
        found: list[Entry] = []
        size = 0
        for entry in self.held[lo - self.base - 1 : hi - self.base - 1]:
            size += entry_bytes(entry)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def write(self, truncate_from: LogIndex | None, entries: tuple[Entry, ...]) -> None:
        if truncate_from is not None:
            del self.held[truncate_from - self.base - 1 :]
        if entries:
            first = entries[0].index
            require(first == self.last_index + 1, f"entry {first} written behind {self.last_index}")
            self.held += entries

    def compact(self, upto: LogIndex) -> None:
        if upto > self.base:
            term = self.term(upto)
            del self.held[: upto - self.base]
            self.base, self.base_term = upto, term

    def reset_to(self, meta: SnapshotMeta) -> None:
        """Keeps what follows the snapshot only if the log has the snapshot's own last entry."""
        if self.has(meta.index, meta.term):
            self.compact(meta.index)
        else:
            self.held, self.base, self.base_term = [], meta.index, meta.term

    def copy(self) -> "DurableLog":
        return DurableLog(self.base, self.base_term, list(self.held))


@dataclass(slots=True)
class Disk:
    """What a crash leaves."""

    log: DurableLog
    state: AppliedState
    hard_state: HardState = field(default_factory=lambda: HardState(Term(0), None))
    witness: dict[NodeId, Acknowledged] = field(default_factory=dict)

    def write(self, persist: ReplicaPersist) -> None:
        self.log.write(persist.truncate_from, persist.entries)
        if persist.hard_state is not None:
            self.hard_state = persist.hard_state
        if persist.witness is not None:
            self.witness = dict(persist.witness)

    def copy(self) -> "Disk":
        """As somebody keeps it who will put it back one day."""
        return Disk(self.log.copy(), self.state, self.hard_state, dict(self.witness))


class Member:
    """One node's life from a start to a crash."""

    def __init__(
        self,
        node: NodeId,
        disk: Disk,
        *,
        raft: RaftConfig,
        config: ReplicaConfig,
        rng: random.Random,
        stamp: Stamp,
        now: Instant,
    ) -> None:
        self.node = node
        self.disk = disk
        self.digests: dict[LogIndex, bytes] = {disk.state.index: disk.state.digest}
        self.snapshots: dict[SnapshotMeta, AppliedState] = {}
        state = disk.state
        core = RaftCore(
            node=node,
            config=raft,
            hard_state=disk.hard_state,
            log=disk.log,
            membership=state.membership,
            last_leader=state.last_leader,
            applied=state.index,
            jitter=rng,
            now=now,
        )
        self.core = core
        self.replica = Replica(
            core=core,
            config=config,
            nonces=lambda: rng.randbytes(16),
            stamp=stamp,
            digest_at=self.digests.get,
            witness=disk.witness,
            applied=state.index,
            digest=state.digest,
            time_floor=state.time,
            running_floor=state.running_ns,
            now=now,
        )
        self.unapplied: list[Entry] = []
        self._incoming: AppliedState | None = None
        self._stored_of: SnapshotMeta | None = None
        self._stored_bytes = 0  # Of the snapshot that comes in, without a gap.
        self.is_incoming_whole = False

    # Storage's answers to what `ready` asked for

    def apply_some(self, count: int, now: Instant) -> list[Entry]:
        """Applies up to `count` of the committed entries in one transaction. Returns them."""
        if len(self.digests) > 2 * DIGESTS_KEPT:
            for index in list(self.digests)[:DIGESTS_KEPT]:
                del self.digests[index]
        batch, self.unapplied = self.unapplied[:count], self.unapplied[count:]
        state = self.disk.state
        for entry in batch:
            state = state.apply(entry)
            self.digests[entry.index] = state.digest
        self.disk.state = state
        self.replica.applied(
            state.index, now, digest=state.digest, time_floor=state.time, running_floor=state.running_ns
        )
        return batch

    def store_chunk(
        self, chunk: IncomingChunk, now: Instant, find: Callable[[SnapshotMeta], AppliedState | None]
    ) -> None:
        """A chunk's bytes stand for nothing here: the whole state is looked up by the snapshot's description."""
        self._incoming = find(chunk.meta)
        follows = chunk.offset == 0 or (chunk.meta, chunk.offset) == (self._stored_of, self._stored_bytes)
        self._stored_of, self._stored_bytes = chunk.meta, chunk.offset + len(chunk.data) if follows else 0
        self.is_incoming_whole = self._stored_bytes == chunk.size
        self.replica.snapshot_chunk_stored(chunk.meta, offset_next=chunk.offset + len(chunk.data), now=now)

    def install_snapshot(self, meta: SnapshotMeta, now: Instant) -> bool:
        """False: it isn't to be had any more, and was refused."""
        state = self._incoming
        if state is None or state.meta != meta:
            self.replica.snapshot_refused(meta, now)
            return False
        self.disk.log.reset_to(meta)
        if meta.index > self.disk.state.index:
            self.disk.state = state
        self.digests[self.disk.state.index] = self.disk.state.digest
        state = self.disk.state
        self.replica.snapshot_installed(
            meta, now, digest=state.digest, time_floor=state.time, running_floor=state.running_ns
        )
        return True

    def offer_snapshot(self, peer: NodeId, now: Instant, *, size: int) -> None:
        meta = self.disk.state.meta
        self.snapshots[meta] = self.disk.state
        self.replica.offer_snapshot(peer, meta, size=size, now=now)

    def read_snapshot(self, read: SnapshotRead, now: Instant, *, size: int) -> None:
        data = bytes(min(read.count, size - read.offset))
        self.replica.snapshot_chunk_read(read.peer, read.meta, offset=read.offset, data=data, now=now)
