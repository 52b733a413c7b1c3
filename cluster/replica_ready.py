"""What a replica wants done: the one value that its driver reads after each input."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.messages import Entry, HardState, SnapshotMeta
from keycluster.cluster.raft.ready import IncomingChunk, ReadAnswer, SnapshotRead
from keycluster.cluster.types import LogIndex, NodeId
from keycluster.cluster.witness import Acknowledged


class ReplicaPersist(msgspec.Struct, frozen=True):
    """Raft's `Persist` with the table of what members acknowledged, which rides on writes that happen anyway."""

    ticket: int
    hard_state: HardState | None
    truncate_from: LogIndex | None
    entries: tuple[Entry, ...]
    witness: Mapping[NodeId, Acknowledged] | None  # The whole table; None: as stored before.


class ReplicaReady(msgspec.Struct, frozen=True):
    """Raft's `Ready`, worked off by the same rules; messages to send include those about leases."""

    persist: ReplicaPersist | None = None
    messages: Sequence[tuple[NodeId, ReplicaMessage]] = ()
    committed: Sequence[Entry] = ()
    reads: Sequence[ReadAnswer] = ()
    snapshots_wanted: Sequence[NodeId] = ()
    snapshot_reads: Sequence[SnapshotRead] = ()
    snapshot_chunk: IncomingChunk | None = None
    snapshot_install: SnapshotMeta | None = None


NOTHING_TO_DO: Final = ReplicaReady()
"""What most inputs lead to: a driver may leave it at that."""
