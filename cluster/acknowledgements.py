"""How one member keeps the table of `witness.py`: filled from replication, sent along, stored, and told to peers."""

from collections.abc import Iterable, Mapping, Sequence

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
        self._rows: _Rows | None = None  # The table's, once somebody needs them.
        self._is_stored = True
        self._members_of = core.membership
        self._members = frozenset(core.membership.members)
        self._sent: dict[NodeId, _Rows] = {}  # As leader: what each member was sent last.
        self._own = OwnRecord(node=core.node, term=core.term, last_index=core.last_index)

    def lead(self) -> None:
        """This member became leader: its own log counts towards commitment from here on.

        Whatever it acknowledged in earlier terms has gone out, with the vote requests of this one or before them.
        """
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
        if witness.term == self._core.term and sender == self._core.leader:
            self._learn(witness.table)

    def go_out(self, messages: Sequence[tuple[NodeId, Message]]) -> list[tuple[NodeId, Witness]]:
        """`messages` are about to leave: notes what they acknowledge; the table goes along with entries, if changed."""
        if not self._own.has_acknowledged:
            terms = [message.term for _, message in messages if _acknowledges(message)]
            if terms:  # Not the core's: it may be in a later one, if these had to wait for the disk.
                self._own.acknowledges_in(min(terms))
        if not self._core.is_leader:
            return []
        receivers = dict.fromkeys(peer for peer, m in messages if isinstance(m, AppendEntries) and m.entries)
        if not receivers:
            return []
        self._learn_progress()
        if self._rows is None:
            self._rows = self._table.rows()
        rows = self._rows
        behind = [peer for peer in receivers if self._sent.get(peer) != rows]
        self._sent.update((peer, rows) for peer in behind)
        witness = Witness(self._core.term, rows)
        return [(peer, witness) for peer in behind]

    def to_store(self) -> dict[NodeId, Acknowledged] | None:
        """For a write that happens anyway: the whole table, or None if the last write had it."""
        self._learn_progress()
        if self._is_stored:
            return None
        self._is_stored = True
        return self._table.as_dict()

    def _learn_progress(self) -> None:
        """As leader: what replication has heard."""
        core = self._core
        if core.is_leader:
            term, matches = core.term, [*core.matches(), (core.node, core.stable_index)]
            self._learn([(member, term, match) for member, match in matches if match > 0])

    def _learn(self, rows: Iterable[tuple[NodeId, Term, LogIndex]]) -> None:
        if self._members_of is not self._core.membership:
            self._members_of = self._core.membership
            self._members = frozenset(self._members_of.members)
            self._table.keep_only(self._members)
            self._rows, self._is_stored = None, False
        if self._table.learn(rows):
            self._table.keep_only(self._members)
            self._rows, self._is_stored = None, False


def _acknowledges(message: Message) -> bool:
    """Whether the leader that gets this counts a part of our log as durable."""
    if isinstance(message, AppendReply):
        return message.rejected is None and message.match > 0
    return isinstance(message, SnapshotReply) and message.outcome is SnapshotOutcome.INSTALLED
