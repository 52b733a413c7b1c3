"""How one member keeps the table of `witness.py`: filled from replication, sent along, stored, and told to peers."""

from collections.abc import Mapping

from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.messages import AppendEntries, AppendReply, Message, SnapshotOutcome, SnapshotReply
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.cluster.witness import Acknowledged, OwnRecord, Witness, WitnessTable

_Rows = tuple[tuple[NodeId, Term, LogIndex], ...]


class Acknowledgements:
    def __init__(self, core: RaftCore, stored: Mapping[NodeId, Acknowledged]) -> None:
        """At a start, before the core has had any input."""
        self._core = core
        self._table = WitnessTable(stored)
        self._rows: _Rows = self._table.rows()
        self._stored = self._rows
        self._sent: dict[NodeId, _Rows] = {}  # As leader: what each member was sent last.
        self._own = OwnRecord(node=core.node, term=core.term, last_index=core.last_index)

    def lead(self) -> None:
        """This member became leader: its own log counts towards commitment from here on."""
        self._own.acknowledges_in(self._core.term)
        self._sent.clear()

    def known_of(self, peer: NodeId) -> Acknowledged | None:
        self._learn_progress()
        return self._table.known_of(peer)

    def check_own(self, told: Acknowledged) -> None:
        """Raises `RolledBack`."""
        self._own.check(told, holds=(self._core.term, self._core.last_index))

    def take(self, sender: NodeId, witness: Witness) -> None:
        """The current leader's word only."""
        if witness.term == self._core.term and sender == self._core.leader and self._table.learn(witness.table):
            self._table.keep_only(self._core.membership.members)
            self._rows = self._table.rows()

    def go_out(self, messages: list[tuple[NodeId, Message]]) -> list[tuple[NodeId, Witness]]:
        """`messages` are about to leave: notes what they acknowledge; the table goes along with entries, if changed."""
        receivers: dict[NodeId, None] = {}
        for peer, message in messages:
            if isinstance(message, AppendEntries) and message.entries:
                receivers[peer] = None
            elif _acknowledges(message):
                self._own.acknowledges_in(self._core.term)
        if not receivers or not self._core.is_leader:
            return []
        self._learn_progress()
        behind = [peer for peer in receivers if self._sent.get(peer) != self._rows]
        self._sent.update((peer, self._rows) for peer in behind)
        return [(peer, Witness(self._core.term, self._rows)) for peer in behind]

    def to_store(self) -> dict[NodeId, Acknowledged] | None:
        """For a write that happens anyway: the whole table, or None if the last write had it."""
        self._learn_progress()
        if self._rows == self._stored:
            return None
        self._stored = self._rows
        return self._table.as_dict()

    def _learn_progress(self) -> None:
        """As leader: what replication has heard."""
        core = self._core
        if not core.is_leader:
            return
        matches = {member: view.match for member, view in core.progress.items()}
        matches[core.node] = core.stable_index
        self._table.keep_only(core.membership.members)
        self._table.learn((member, core.term, match) for member, match in matches.items() if match > 0)
        self._rows = self._table.rows()


def _acknowledges(message: Message) -> bool:
    """Whether the leader that gets this counts a part of our log as durable."""
    if isinstance(message, AppendReply):
        return message.rejected is None and message.match > 0
    return isinstance(message, SnapshotReply) and message.outcome is SnapshotOutcome.INSTALLED
