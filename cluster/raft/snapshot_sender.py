"""The leader's side of snapshots: for members whose next entry is compacted.

    want --offer--> read chunk --> send --stored--> read the next ... --installed--> back to entries

One chunk is on its way to a member at a time. A lost one is sent again from where the member says it is, so a transfer
goes on after a pause or a broken link; only a new leader, or a new file, begins at the start.
"""

from dataclasses import dataclass

from keycluster.cluster.raft.member import Member
from keycluster.cluster.raft.messages import InstallSnapshot, SnapshotMeta, SnapshotOutcome, SnapshotReply
from keycluster.cluster.raft.progress import SNAPSHOT, Progress
from keycluster.cluster.raft.ready import SnapshotRead
from keycluster.cluster.types import Instant, LogIndex, NodeId


@dataclass(slots=True)
class _Transfer:
    offer: int
    meta: SnapshotMeta
    size: int
    sent_at: Instant
    offset: int = 0  # Stored at the member up to here.
    is_reading: bool = True  # Our driver has the chunk to read.


class SnapshotSender:
    def __init__(self, member: Member) -> None:
        self._member = member
        self._offers = 0
        self._transfers: dict[NodeId, _Transfer] = {}
        self._wanted_at: dict[NodeId, Instant] = {}

    def reset(self) -> None:
        """A new leadership."""
        self._transfers.clear()
        self._wanted_at.clear()

    def forget(self, peer: NodeId) -> None:
        self._transfers.pop(peer, None)
        self._wanted_at.pop(peer, None)

    def index_for(self, peer: NodeId) -> LogIndex | None:
        """Of the snapshot under way to it."""
        transfer = self._transfers.get(peer)
        return None if transfer is None else transfer.meta.index

    def poll(self, progress: Progress) -> None:
        """Asks for a snapshot, or repeats a chunk, if it is time to. For a member that answers: see `Progress`."""
        m = self._member
        if progress.heard_at is None or m.now - progress.heard_at > m.config.patience_ns:
            return
        retry_ns = m.config.snapshot_retry_ns
        transfer = self._transfers.get(progress.peer)
        if transfer is None:
            wanted_at = self._wanted_at.get(progress.peer)
            if wanted_at is None or m.now - wanted_at >= retry_ns:
                self._wanted_at[progress.peer] = m.now
                m.outbox.snapshots_wanted.append(progress.peer)
        elif not transfer.is_reading and m.now - transfer.sent_at >= retry_ns:
            self._continue(progress.peer, transfer)

    def offer(self, progress: Progress, meta: SnapshotMeta, *, size: int) -> None:
        m = self._member
        is_useful = meta.index > progress.match and meta.index >= m.log.first_index - 1 and size > 0
        if progress.state is not SNAPSHOT or progress.peer in self._transfers or not is_useful:
            return
        self._offers += 1
        transfer = self._transfers[progress.peer] = _Transfer(self._offers, meta, size, m.now)
        self._continue(progress.peer, transfer)

    def chunk_read(self, peer: NodeId, meta: SnapshotMeta, *, offset: int, data: bytes) -> None:
        transfer = self._transfers.get(peer)
        if transfer is None or not transfer.is_reading or (transfer.meta, transfer.offset) != (meta, offset):
            return  # Of a transfer that was given up meanwhile.
        self._send(peer, transfer, data)

    def read_failed(self, peer: NodeId) -> None:
        self._start_over(peer)

    def on_reply(self, progress: Progress, message: SnapshotReply) -> None:
        transfer = self._transfers.get(progress.peer)
        if transfer is None or transfer.offer != message.offer:
            return
        if message.outcome is SnapshotOutcome.INSTALLED:
            self.forget(progress.peer)
            progress.matched(transfer.meta.index)
            progress.become_probe(LogIndex(progress.match + 1))
        elif message.outcome is SnapshotOutcome.REFUSED:
            self._start_over(progress.peer)
        elif not transfer.is_reading and message.offset <= transfer.size:
            transfer.offset = message.offset
            if transfer.offset < transfer.size:
                self._continue(progress.peer, transfer)
            else:
                transfer.sent_at = self._member.now  # It is installing. Ask again only after a while.

    def _start_over(self, peer: NodeId) -> None:
        """After a while: a snapshot that failed at once would otherwise be made again and again."""
        if self._transfers.pop(peer, None) is not None:
            self._wanted_at[peer] = self._member.now

    def _continue(self, peer: NodeId, transfer: _Transfer) -> None:
        m = self._member
        count = min(m.config.snapshot_chunk_bytes, transfer.size - transfer.offset)
        if count:
            transfer.is_reading = True
            m.outbox.snapshot_reads.append(SnapshotRead(peer, transfer.meta, transfer.offset, count))
        else:
            self._send(peer, transfer, b"")

    def _send(self, peer: NodeId, transfer: _Transfer, data: bytes) -> None:
        m = self._member
        transfer.is_reading = False
        transfer.sent_at = m.now
        chunk = InstallSnapshot(m.term, transfer.offer, transfer.meta, transfer.size, transfer.offset, data)
        m.outbox.send(peer, chunk)
