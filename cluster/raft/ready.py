"""What the core wants done: the one value that its driver reads after each input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from keycluster.cluster.raft.messages import Entry, HardState, Message, SnapshotMeta
from keycluster.cluster.types import LogIndex, NodeId


class Persist(msgspec.Struct, frozen=True):
    """One durable write: cut the log off from `truncate_from` on, append `entries`, replace term and vote.

    All of it or nothing. Writes complete in order of their tickets; the core hears of them by `persisted`, which may
    name the newest of several at once.
    """

    ticket: int
    hard_state: HardState | None = None
    truncate_from: LogIndex | None = None
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadState:
    """The read may be answered from any state that has `index` applied."""

    request: int
    index: LogIndex


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """Nobody confirmed the read in time, or leadership changed meanwhile. To be tried again as a new request."""

    request: int


ReadAnswer: TypeAlias = ReadState | ReadFailed


@dataclass(frozen=True, slots=True)
class SnapshotRead:
    """Read `count` bytes (at the end fewer) at `offset` of the snapshot offered to `peer`."""

    peer: NodeId
    meta: SnapshotMeta
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class IncomingChunk:
    """A piece of a snapshot to store. With `offset` 0 a new one begins: what was stored before is void."""

    meta: SnapshotMeta
    size: int
    offset: int
    data: bytes
    done: bool  # The last one.


class Ready(msgspec.Struct, frozen=True):
    """To be worked off by the driver. Within one value and from one to the next:

    1. `persist` is written in order of tickets, then `persisted` called. Nothing else here waits for it: what must, the
       core still holds.
    2. `messages` may leave at once, in this order for each receiver. Lost ones are repeated.
    3. `committed` is applied in order, then `applied_to` called. It is all durable here; more comes as it is applied.
    4. `snapshot_chunk` is stored, then `snapshot_chunk_stored` called; one at a time.
    5. `snapshot_install`, after all earlier `persist` and `committed`: verify and install, reset the log to it, then
       `snapshot_installed` or `snapshot_refused`. Meanwhile the core hands out no entries to write or to apply.
    6. `snapshots_wanted`: make a snapshot and call `offer_snapshot`. Asked again each `snapshot_retry_ns`.
    7. `snapshot_reads`: `snapshot_chunk_read` or `snapshot_read_failed` for each.

    After most inputs it is `NOTHING`. (A msgspec structure: made after each of the others, in a fifth of the time.)
    """

    persist: Persist | None = None
    messages: Sequence[tuple[NodeId, Message]] = ()
    committed: Sequence[Entry] = ()
    reads: Sequence[ReadAnswer] = ()
    snapshots_wanted: Sequence[NodeId] = ()
    snapshot_reads: Sequence[SnapshotRead] = ()
    snapshot_chunk: IncomingChunk | None = None
    snapshot_install: SnapshotMeta | None = None


NOTHING: Final = Ready()
