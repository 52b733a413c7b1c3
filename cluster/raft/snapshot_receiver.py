"""The follower's side of snapshots: stores chunks in order, then has the whole installed.

From the last chunk until the driver says that it is installed, or refused, the log stays as it is: no entries are
taken, none handed out to apply, and the member doesn't campaign.
"""

from dataclasses import dataclass

from keycluster.cluster.marks import Mark
from keycluster.cluster.raft.member import Member
from keycluster.cluster.raft.messages import InstallSnapshot, SnapshotMeta, SnapshotOutcome, SnapshotReply
from keycluster.cluster.raft.ready import IncomingChunk
from keycluster.cluster.types import NodeId, Term

_INSTALLED = Mark("a member catches up by a snapshot")
_REFUSED = Mark("a snapshot is refused", within=("core",))


@dataclass(slots=True)
class _Incoming:
    """Only chunks of the same transfer of the same leadership fit together."""

    sender: NodeId
    term: Term
    offer: int
    meta: SnapshotMeta
    size: int
    offset: int = 0  # Stored up to here.
    is_storing: bool = False
    keeps_suffix: bool = False

    def is_of(self, sender: NodeId, message: InstallSnapshot) -> bool:
        return (self.sender, self.term, self.offer, self.meta, self.size) == (
            sender,
            message.term,
            message.offer,
            message.meta,
            message.size,
        )


class SnapshotReceiver:
    def __init__(self, member: Member) -> None:
        self._member = member
        self._incoming: _Incoming | None = None

    def on_chunk(self, sender: NodeId, message: InstallSnapshot) -> None:
        m = self._member
        incoming = self._incoming
        if self._is_needless(message.meta):
            self._reply(sender, message.offer, SnapshotOutcome.INSTALLED)
        elif incoming is not None and incoming.is_of(sender, message):
            self._take(incoming, message)
        elif not m.is_installing and (incoming is None or not incoming.is_storing):
            incoming = _Incoming(sender, message.term, message.offer, message.meta, message.size)
            self._incoming = incoming
            self._take(incoming, message)
        # Else the driver is busy with another one; the leader sends the chunk again.

    def _is_needless(self, meta: SnapshotMeta) -> bool:
        """What is committed and durable here equals the leader's log."""
        log = self._member.log
        return meta.index <= min(log.commit_index, log.stable_index)

    def _take(self, incoming: _Incoming, message: InstallSnapshot) -> None:
        if incoming.is_storing:
            return  # A repetition; the reply comes when it is stored.
        end = message.offset + len(message.data)
        if message.offset != incoming.offset or not message.data or end > incoming.size:
            self._reply(incoming.sender, incoming.offer, SnapshotOutcome.CONTINUE, incoming.offset)
            return
        incoming.is_storing = True
        self._member.outbox.snapshot_chunk = IncomingChunk(
            message.meta, message.size, message.offset, message.data, done=end == message.size
        )

    def chunk_stored(self, meta: SnapshotMeta, *, offset_next: int) -> None:
        m = self._member
        incoming = self._incoming
        if incoming is None or not incoming.is_storing or incoming.meta != meta:
            return
        incoming.is_storing = False
        incoming.offset = offset_next
        if offset_next < incoming.size:
            self._reply(incoming.sender, incoming.offer, SnapshotOutcome.CONTINUE, offset_next)
        elif self._is_needless(meta):
            self._incoming = None
            self._reply(incoming.sender, incoming.offer, SnapshotOutcome.INSTALLED)
        else:
            incoming.keeps_suffix = m.log.has_entry(meta.index, meta.term)
            m.is_installing = True
            m.outbox.snapshot_install = meta

    def installed(self, meta: SnapshotMeta) -> None:
        m = self._member
        incoming = self._end(meta)
        if incoming is None:
            return
        _INSTALLED.hit()
        m.log.install(meta, keeps_suffix=incoming.keeps_suffix)
        m.memberships.reset(meta.index, meta.membership, keeps_suffix=incoming.keeps_suffix)
        m.leaders.reset(meta.index, meta.last_leader, keeps_suffix=incoming.keeps_suffix)
        self._reply(incoming.sender, incoming.offer, SnapshotOutcome.INSTALLED)

    def refused(self, meta: SnapshotMeta) -> None:
        incoming = self._end(meta)
        if incoming is not None:
            _REFUSED.hit()
            self._reply(incoming.sender, incoming.offer, SnapshotOutcome.REFUSED)

    def _end(self, meta: SnapshotMeta) -> _Incoming | None:
        incoming = self._incoming
        if not self._member.is_installing or incoming is None or incoming.meta != meta:
            return None
        self._member.is_installing = False
        self._incoming = None
        return incoming

    def _reply(self, sender: NodeId, offer: int, outcome: SnapshotOutcome, offset: int = 0) -> None:
        """To the leader that sent the chunk; it ignores the reply if it leads no more."""
        m = self._member
        if m.leader == sender:
            m.outbox.send(sender, SnapshotReply(m.term, offer, outcome, offset))
