"""What members know of each other's acknowledgements, so that a rolled-back disk is noticed (security.md, 5).

A member that acknowledged (term, index) to the leader of that term has it on disk. The leader sends everyone's newest
such pair along with its appends, and each member stores the table with its next commit. One that comes back with less
than its peers know has lost what a majority counts on, by a restored copy or a disk that lied about a sync: it must
neither vote nor serve.

Pairs compare by term, then index. Within a term the part of a member's log that matched the leader's never shrinks,
and a member stores a term before it acknowledges anything in it: so a whole disk is never below its own pair. A disk
that comes back with a later term was written after the pair's acknowledgement and has it.

Only peers can know: a region of one node has nobody to tell it, nor one whose every member was rolled back.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Annotated, Final

import msgspec

from keycluster.cluster.leases.messages import IndexField, TermField
from keycluster.cluster.types import LogIndex, NodeId, Term

MEMBERS_MAX = 256  # A region's members, far above what Raft is used with: bounds the table on the wire.
NODE_ID_CHARACTERS_MAX = 128

Acknowledged = tuple[Term, LogIndex]
NOTHING_KNOWN: Final[Acknowledged] = (Term(0), LogIndex(0))
WitnessRow = tuple[
    Annotated[NodeId, msgspec.Meta(min_length=1, max_length=NODE_ID_CHARACTERS_MAX)], TermField, IndexField
]


class Witness(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=20):
    """The leader's table of what each member acknowledged, itself included."""

    term: TermField
    table: Annotated[tuple[WitnessRow, ...], msgspec.Meta(max_length=MEMBERS_MAX)]


class RolledBack(Exception):
    """This node's disk holds less than it once acknowledged: it stops, and comes back only as a new learner."""


class WitnessTable:
    """The newest pair known of each member."""

    def __init__(self, stored: Mapping[NodeId, Acknowledged]) -> None:
        self._known = dict(stored)

    def known_of(self, member: NodeId) -> Acknowledged | None:
        return self._known.get(member)

    def learn(self, rows: Iterable[tuple[NodeId, Term, LogIndex]]) -> bool:
        """Takes what is newer; True if anything was."""
        known = self._known
        has_learnt = False
        for member, term, index in rows:
            pair = (term, index)
            if pair > known.get(member, NOTHING_KNOWN):
                known[member] = pair
                has_learnt = True
        return has_learnt

    def keep_only(self, members: Set[NodeId]) -> None:
        """Forgets who left the configuration: node ids are never used again."""
        if not self._known.keys() <= members:
            self._known = {member: pair for member, pair in self._known.items() if member in members}

    def rows(self) -> tuple[tuple[NodeId, Term, LogIndex], ...]:
        """Sorted by node."""
        return tuple((member, term, index) for member, (term, index) in sorted(self._known.items()))

    def as_dict(self) -> dict[NodeId, Acknowledged]:
        return dict(self._known)


class OwnRecord:
    """What this node's disk held at its start, against what peers say it had acknowledged before."""

    def __init__(self, *, node: NodeId, term: Term, last_index: LogIndex) -> None:
        self._node = node
        self._at_start: Acknowledged = (term, last_index)
        self._first_acknowledged: Term | None = None  # The first term in which this process acknowledged anything.

    @property
    def has_acknowledged(self) -> bool:
        """Anything, in this process."""
        return self._first_acknowledged is not None

    def acknowledges_in(self, term: Term) -> None:
        """This process is about to acknowledge entries in `term`."""
        if self._first_acknowledged is None:
            self._first_acknowledged = term

    def check(self, told: Acknowledged, *, holds: Acknowledged) -> None:
        """A peer told what it knows; `holds` is this node's term and last index now. Raises `RolledBack`.

        A pair of a term before this process' first acknowledgement is from an earlier life, so the disk as found at
        the start must have had it, however far a leader has filled the log up since.
        """
        earlier_life = self._first_acknowledged is None or told[0] < self._first_acknowledged
        had = self._at_start if earlier_life else holds
        if told > had:
            raise RolledBack(
                f"node {self._node} had acknowledged term {told[0]} index {told[1]}, "
                f"but its disk holds only term {had[0]} index {had[1]}: "
                "it was rolled back and may neither vote nor serve; remove it and let it join as a new learner"
            )
