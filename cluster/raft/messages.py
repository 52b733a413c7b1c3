"""Values that consensus writes to the log, to disk and to other members.

All are msgpack arrays (msgspec, `array_like`), so the order of fields is the format. Messages are tagged with a number;
the tags 1 to 15 are consensus's, other members' messages that travel on the same link take 16 and above. A message
carries the sender's term; who sent it is known from the link and passed beside it, never read from the content.
"""

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import Annotated, TypeAlias

import msgspec

from keycluster.cluster.types import LogIndex, NodeId, Term

ENTRY_BYTES_OVERHEAD = 32  # What an entry costs beside its payload: counted, so that empty entries are bounded too.

NUMBER_MAX = 2**62  # No region gets there, and one step more still fits wherever a number is stored (SQLite: 63 bits).
Index: TypeAlias = Annotated[LogIndex, msgspec.Meta(ge=0, le=NUMBER_MAX)]
TermNumber: TypeAlias = Annotated[Term, msgspec.Meta(ge=0, le=NUMBER_MAX)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class EntryKind(IntEnum):
    COMMAND = 0
    MEMBERSHIP = 1
    LEADER = 2  # The first entry of each term (dissertation 6.4); its payload is the leader's node id in UTF-8.


COMMAND = EntryKind.COMMAND  # Looking up an enumeration's member is slow; this is done for each entry.


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    term: TermNumber
    index: Index
    kind: EntryKind
    payload: bytes

    def __repr__(self) -> str:
        """Without the payload: commands carry key tokens."""
        return f"Entry(term={self.term}, index={self.index}, {self.kind.name}, {len(self.payload)} bytes)"


def entry_bytes(entry: Entry) -> int:
    """What the entry counts against limits in bytes."""
    return len(entry.payload) + ENTRY_BYTES_OVERHEAD


class HardState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What must be on disk before a member acts on it: its term and whom it voted for in that term."""

    term: TermNumber
    vote: NodeId | None


class MembershipMalformed(ValueError):
    """A membership that is not sorted, names a node twice, or has no voter."""


class Membership(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who belongs to the region's consensus. Tuples are sorted and name nobody twice.

    While `outgoing` is not empty the change is *joint* (dissertation 4.3): every decision takes a majority of `voters`
    and one of `outgoing`. A node may stand in both of these. `learners_next` are voters of `outgoing` that become
    learners when the joint phase is left.
    """

    voters: tuple[NodeId, ...]
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()

    @property
    def members(self) -> tuple[NodeId, ...]:
        """All nodes that receive the log, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    @property
    def all_voters(self) -> tuple[NodeId, ...]:
        """The nodes that vote in either half, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing})) if self.outgoing else self.voters

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    def is_voter(self, node: NodeId) -> bool:
        return node in self.voters or node in self.outgoing

    def is_learner(self, node: NodeId) -> bool:
        return node in self.learners

    def is_member(self, node: NodeId) -> bool:
        return self.is_voter(node) or self.is_learner(node)

    def has_quorum(self, nodes: Collection[NodeId]) -> bool:
        """Whether `nodes` hold a majority of each half. Learners and strangers don't count."""
        return _majority_in(self.voters, nodes) and (not self.outgoing or _majority_in(self.outgoing, nodes))

    def quorum_value(self, values: Mapping[NodeId, int]) -> int:
        """The greatest value that a majority of each half has reached; a node without a value has reached 0."""
        value = _majority_value(self.voters, values)
        return min(value, _majority_value(self.outgoing, values)) if self.outgoing else value

    def validate(self) -> None:
        """Raises `MembershipMalformed`."""
        for group in (self.voters, self.outgoing, self.learners, self.learners_next):
            if list(group) != sorted(set(group)):
                raise MembershipMalformed(f"members not sorted or named twice: {group}")
        if not self.voters:
            raise MembershipMalformed("no voters")
        if set(self.learners) & {*self.voters, *self.outgoing}:
            raise MembershipMalformed(f"voter and learner at once: {self}")
        if not set(self.learners_next) <= set(self.outgoing) or set(self.learners_next) & set(self.voters):
            raise MembershipMalformed(f"only a voter that goes out can become a learner: {self}")


def _majority_in(group: tuple[NodeId, ...], nodes: Collection[NodeId]) -> bool:
    return 2 * len([node for node in group if node in nodes]) > len(group)


def _majority_value(group: tuple[NodeId, ...], values: Mapping[NodeId, int]) -> int:
    return sorted([values.get(node, 0) for node in group])[(len(group) - 1) // 2]


class MembershipEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of a MEMBERSHIP entry. `context` belongs to the state machine; consensus doesn't look into it."""

    membership: Membership
    context: bytes = b""


def encode_membership_entry(membership: Membership, context: bytes = b"") -> bytes:
    return _encoder.encode(MembershipEntry(membership, context))


def decode_membership_entry(payload: bytes) -> MembershipEntry:
    """Raises `msgspec.DecodeError` or `MembershipMalformed`."""
    change = _membership_decoder.decode(payload)
    change.membership.validate()
    return change


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a snapshot stands for: all of the log up to and with `index`."""

    index: Index
    term: TermNumber
    membership: Membership
    last_leader: NodeId | None  # Named by the newest LEADER entry at or below `index`.


class RaftMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Values without cycles, so the garbage collector needn't look at them; it would, with each message."""

    term: TermNumber


class AppendEntries(RaftMessage, frozen=True, tag=1):
    """Entries after `prev_index`, or none: then a heartbeat. A `prev_index` of 0 matches every log."""

    round: Count  # The newest heartbeat round begun; the reply echoes it (rounds.py).
    prev_index: Index
    prev_term: TermNumber
    commit: Index
    entries: tuple[Entry, ...] = ()


class AppendReply(RaftMessage, frozen=True, tag=2):
    round: Count
    match: (
        Index  # Durable at the follower and equal to the leader's log up to here. A hint only when `rejected` is set.
    )
    rejected: Index | None = None  # The `prev_index` that didn't match.
    hint_index: Index = LogIndex(0)  # Where the two logs may meet, at most: see RaftLog.last_with_term_up_to.
    hint_term: TermNumber = Term(0)


class VoteRequest(RaftMessage, frozen=True, tag=3):
    """With `pre`, `term` is the one that the sender would enter, not the one it is in."""

    last_index: Index
    last_term: TermNumber
    pre: bool
    hand_over: bool  # The leader told the sender to campaign (dissertation 3.10): voters needn't stick to the leader.


class VoteReply(RaftMessage, frozen=True, tag=4):
    """A granted pre-vote carries the term asked for; every other reply the voter's own."""

    pre: bool
    granted: bool


class TimeoutNow(RaftMessage, frozen=True, tag=5):
    """The leader hands over: campaign now."""


class InstallSnapshot(RaftMessage, frozen=True, tag=6):
    """One piece of a snapshot. Empty at `offset` == `size`: asks how far the installation is."""

    offer: Count  # Numbers the leader's transfers within its term: two files of one index needn't be equal.
    meta: SnapshotMeta
    size: Count  # Of the whole snapshot, in bytes.
    offset: Count
    data: bytes

    def __repr__(self) -> str:
        """Without the bytes."""
        return (
            f"InstallSnapshot(term={self.term}, offer={self.offer}, index={self.meta.index}, "
            f"{self.offset}+{len(self.data)}/{self.size})"
        )


class SnapshotOutcome(IntEnum):
    CONTINUE = 0
    INSTALLED = 1
    REFUSED = 2  # It doesn't verify, or couldn't be installed: the leader offers another one.


class SnapshotReply(RaftMessage, frozen=True, tag=7):
    offer: Count
    outcome: SnapshotOutcome
    offset: Count = 0  # CONTINUE: stored up to here.


class ReadIndexRequest(RaftMessage, frozen=True, tag=8):
    """A follower asks the leader. `read` is never used twice, over restarts either."""

    read: Count


class ReadIndexReply(RaftMessage, frozen=True, tag=9):
    read: Count
    index: Index | None  # None: the asked one could not confirm that it leads.


Message: TypeAlias = (
    AppendEntries
    | AppendReply
    | VoteRequest
    | VoteReply
    | TimeoutNow
    | InstallSnapshot
    | SnapshotReply
    | ReadIndexRequest
    | ReadIndexReply
)

_encoder = msgspec.msgpack.Encoder()
_membership_decoder = msgspec.msgpack.Decoder(MembershipEntry)
