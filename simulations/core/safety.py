"""Raft's five safety properties (dissertation, figure 3.2), each looked at when something it speaks of changes.

Election Safety       when a member becomes leader: one leader is remembered for each term.
Leader Append-Only    when a leader writes: what it takes back goes into a write.
Log Matching          when an entry is written: an index and a term name one entry *and the term before it*, so by
                      induction all before it are equal too.
Leader Completeness   when a member becomes leader: its log has the newest entry that was committed before its term and
                      so, by Log Matching, all; and when an entry shows to be committed, in the logs of those who lead.
State Machine Safety  when entries are handed out to apply: one entry is remembered for each index.

Beside them: a leader begins with an entry that names it. Without that it commits nothing, and so serves nothing, before
somebody wants a change; and the next leader doesn't know whose lease it needn't wait for (L6).
"""

from bisect import bisect_left
from collections.abc import Sequence

from keycluster.cluster.raft.messages import Entry, EntryKind, SnapshotMeta
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.simulations.core.findings import Found, demand
from keycluster.simulations.core.member import DurableLog

ELECTION_SAFETY = "election-safety"
APPEND_ONLY = "leader-append-only"
LOG_MATCHING = "log-matching"
LEADER_ENTRY = "leader-entry"
LEADER_COMPLETENESS = "leader-completeness"
STATE_MACHINE_SAFETY = "state-machine-safety"


class RaftSafety:
    def __init__(self) -> None:
        self.leaders: dict[Term, NodeId] = {}
        self.committed: list[Entry] = []  # From index 1 on, as first handed out by anybody.
        self._committed_by: list[Term] = []  # The term, or a later one, in which each was committed; never falling.
        self._written: dict[tuple[LogIndex, Term], tuple[Entry, Term]] = {}  # With the term of the one before.

    def led(self, node: NodeId, term: Term, log: DurableLog) -> None:
        """The member has become leader; `log` is all that it had before its own first entry, on disk by then."""
        other = self.leaders.setdefault(term, node)
        demand(other == node, ELECTION_SAFETY, f"{node} and {other} lead in term {term}")
        count = bisect_left(self._committed_by, term)  # Votes may come late: what later terms committed isn't its own.
        if count:
            self._require_has(node, term, log, self.committed[count - 1])

    def _require_has(self, node: NodeId, term: Term, log: DurableLog, entry: Entry) -> None:
        demand(
            log.base > entry.index or log.has(entry.index, entry.term),
            LEADER_COMPLETENESS,
            f"{node} leads in term {term} without the committed {entry}",
        )

    def leader_takes_back(self, node: NodeId, truncate_from: LogIndex) -> None:
        """A member that leads, and led before its newest input, wants its log cut off."""
        raise Found(APPEND_ONLY, f"{node} leads, and takes back its own entries from {truncate_from} on")

    def written(self, node: NodeId, before: Term, entries: Sequence[Entry]) -> None:
        """`entries` are on `node`'s disk, behind one of term `before`."""
        for entry in entries:
            known, known_before = self._written.setdefault((entry.index, entry.term), (entry, before))
            if known_before != before or (known is not entry and known != entry):
                raise Found(
                    LOG_MATCHING,
                    f"{node} wrote {entry} behind term {before}, another member {known} behind {known_before}",
                )
            if before != entry.term and entry.kind is not EntryKind.LEADER:
                raise Found(LEADER_ENTRY, f"{node} wrote {entry} behind term {before}: its leader didn't begin")
            before = entry.term

    def handed_out(
        self,
        node: NodeId,
        term: Term,
        entries: Sequence[Entry],
        leading: Sequence[tuple[NodeId, Term, DurableLog]],
    ) -> None:
        """`node`, in `term`, takes `entries` for committed. `leading`: who leads now, in which term, with which log on
        disk."""
        for entry in entries:
            if entry.index <= len(self.committed):
                known = self.committed[entry.index - 1]
                if known is not entry and known != entry:
                    raise Found(STATE_MACHINE_SAFETY, f"{node} applies {entry}, another member {known}")
                continue
            demand(
                entry.index == len(self.committed) + 1,
                STATE_MACHINE_SAFETY,
                f"{node} applies {entry}, and nobody has what comes before",
            )
            self.committed.append(entry)
            committed_by = max(term, self._committed_by[-1] if self._committed_by else term)
            self._committed_by.append(committed_by)
            for other, leads_in, log in leading:
                if committed_by < leads_in:
                    self._require_has(other, leads_in, log, entry)

    def installed(self, node: NodeId, meta: SnapshotMeta) -> None:
        known = self.committed[meta.index - 1] if 0 < meta.index <= len(self.committed) else None
        demand(
            known is not None and known.term == meta.term,
            STATE_MACHINE_SAFETY,
            f"{node} installed a snapshot at {meta.index}, term {meta.term}; committed there is {known}",
        )
