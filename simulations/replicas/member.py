"""One replica as its driver sees it: a disk, a state that takes time to apply, and the clock of its machine.

The disk keeps what a completed write wrote; a crash loses writes under way. The state is a hash chain over the entries
applied, so two members that applied different entries differ for ever. What a member applied becomes visible, durable
and reported in one step, as one synced transaction with a refresh of the readers makes it.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from keycluster.cluster.invariant import require
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Membership,
    SnapshotMeta,
    decode_membership_entry,
    entry_bytes,
)
from keycluster.cluster.raft.ready import IncomingChunk, SnapshotRead
from keycluster.cluster.replica import NO_STAMP, Replica, ReplicaConfig, ReplicaPersist, ReplicaReady
from keycluster.cluster.types import ClusterTime, Instant, LogIndex, NodeId, Term
from keycluster.cluster.witness import Acknowledged

STAMP_BYTES = 16


@dataclass(frozen=True, slots=True)
class AppliedState:
    """The key state's stand-in."""

    index: LogIndex
    term: Term
    membership: Membership
    last_leader: NodeId | None
    digest: bytes
    time: ClusterTime = NO_STAMP
    running_ns: int = 0

    def apply(self, entry: Entry) -> "AppliedState":
        require(entry.index == self.index + 1, f"entry {entry.index} applied to state {self.index}")
        digest = hashlib.sha256(self.digest + entry.payload + entry.term.to_bytes(8, "big")).digest()
        membership, last_leader, time, running_ns = self.membership, self.last_leader, self.time, self.running_ns
        if entry.kind is EntryKind.MEMBERSHIP:
            membership = decode_membership_entry(entry.payload).membership
        elif entry.kind is EntryKind.LEADER:
            last_leader = NodeId(entry.payload.decode())
        else:
            stamped = int.from_bytes(entry.payload[:8], "big"), int.from_bytes(entry.payload[8:STAMP_BYTES], "big")
            time, running_ns = ClusterTime(max(time, stamped[0])), max(running_ns, stamped[1])
        return AppliedState(entry.index, entry.term, membership, last_leader, digest, time, running_ns)

    @property
    def meta(self) -> SnapshotMeta:
        return SnapshotMeta(self.index, self.term, self.membership, self.last_leader)


def stamp(command: bytes, time: ClusterTime, running_ns: int) -> bytes:
    return time.to_bytes(8, "big") + running_ns.to_bytes(8, "big") + command


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
        for entry in entries:
            require(entry.index == self.last_index + 1, f"entry {entry.index} written behind {self.last_index}")
            self.held.append(entry)

    def compact(self, upto: LogIndex) -> None:
        if upto > self.base:
            term = self.term(upto)
            del self.held[: upto - self.base]
            self.base, self.base_term = upto, term

    def reset_to(self, meta: SnapshotMeta) -> None:
        """Keeps what follows the snapshot only if the log has the snapshot's own last entry."""
        keeps = self.base <= meta.index <= self.last_index and self.term(meta.index) == meta.term
        if keeps:
            self.compact(meta.index)
        else:
            self.held, self.base, self.base_term = [], meta.index, meta.term


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

    # Storage's answers to what `ready` asked for

    def apply_some(self, count: int, now: Instant) -> None:
        """Applies up to `count` of the committed entries in one transaction."""
        batch, self.unapplied = self.unapplied[:count], self.unapplied[count:]
        for entry in batch:
            self.disk.state = self.disk.state.apply(entry)
            self.digests[entry.index] = self.disk.state.digest
        state = self.disk.state
        self.replica.applied(
            state.index, now, digest=state.digest, time_floor=state.time, running_floor=state.running_ns
        )

    def store_chunk(
        self, chunk: IncomingChunk, now: Instant, find: Callable[[SnapshotMeta], AppliedState | None]
    ) -> None:
        """A chunk's bytes stand for nothing here: the whole state is looked up by the snapshot's description."""
        self._incoming = find(chunk.meta)
        self.replica.snapshot_chunk_stored(chunk.meta, offset_next=chunk.offset + len(chunk.data), now=now)

    def install_snapshot(self, meta: SnapshotMeta, now: Instant) -> None:
        state = self._incoming
        if state is None or state.meta != meta:
            self.replica.snapshot_refused(meta, now)
            return
        self.disk.log.reset_to(meta)
        if meta.index > self.disk.state.index:
            self.disk.state = state
        self.digests[self.disk.state.index] = self.disk.state.digest
        state = self.disk.state
        self.replica.snapshot_installed(
            meta, now, digest=state.digest, time_floor=state.time, running_floor=state.running_ns
        )

    def offer_snapshot(self, peer: NodeId, now: Instant, *, size: int) -> SnapshotMeta:
        meta = self.disk.state.meta
        self.snapshots[meta] = self.disk.state
        self.replica.offer_snapshot(peer, meta, size=size, now=now)
        return meta

    def read_snapshot(self, read: SnapshotRead, now: Instant, *, size: int) -> None:
        data = bytes(min(read.count, size - read.offset))
        self.replica.snapshot_chunk_read(read.peer, read.meta, offset=read.offset, data=data, now=now)

    def ready(self) -> ReplicaReady:
        return self.replica.ready()
