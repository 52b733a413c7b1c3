"""The key state's stand-in: a few registers, what each caller's newest change came to, and a digest of all before it.

States are values. What an entry makes of a state is remembered at that state, so the second member that applies the
same entry to the same state gets the very same object: five members cost as much as one, and members that differ hold
different objects for ever.
"""

import hashlib
import struct

from keycluster.cluster.invariant import require
from keycluster.cluster.raft.messages import (
    COMMAND,
    Entry,
    EntryKind,
    Membership,
    SnapshotMeta,
    decode_membership_entry,
)
from keycluster.cluster.replica import NO_STAMP
from keycluster.cluster.types import ClusterTime, LogIndex, NodeId, Term

STAMP_BYTES = 16

_CHANGE = struct.Struct(">4sHIHqq")  # Mark, client, number, register, expected, value.
_MARK = b"set:"
ANYTHING = -1  # As the expected value: a plain write. Registers begin with 0; clients write what is above.

Session = tuple[int, bool]
"""A client's newest change: its number, and whether it was made or found another value than it expected."""


def encode_change(*, client: int, number: int, register: int, expected: int, value: int) -> bytes:
    """`number` rises with each change of a client; a repeat has the same, and is made once."""
    return _CHANGE.pack(_MARK, client, number, register, expected, value)


def stamp(command: bytes, time: ClusterTime, running_ns: int) -> bytes:
    return time.to_bytes(8, "big") + running_ns.to_bytes(8, "big") + command


class AppliedState:
    __slots__ = (
        "_next",
        "digest",
        "index",
        "last_leader",
        "membership",
        "registers",
        "running_ns",
        "sessions",
        "term",
        "time",
    )

    def __init__(
        self,
        *,
        index: LogIndex,
        term: Term,
        membership: Membership,
        last_leader: NodeId | None = None,
        digest: bytes = b"",
        time: ClusterTime = NO_STAMP,
        running_ns: int = 0,
        registers: dict[int, int] | None = None,
        sessions: dict[int, Session] | None = None,
    ) -> None:
        self.index = index
        self.term = term
        self.membership = membership
        self.last_leader = last_leader
        self.digest = digest
        self.time = time
        self.running_ns = running_ns
        self.registers: dict[int, int] = {} if registers is None else registers
        self.sessions: dict[int, Session] = {} if sessions is None else sessions
        self._next: tuple[Entry, AppliedState] | None = None

    def apply(self, entry: Entry) -> "AppliedState":
        known = self._next
        if known is not None and known[0] is entry:
            return known[1]
        state = self._applied(entry)
        if known is None:
            self._next = (entry, state)
        return state

    def _applied(self, entry: Entry) -> "AppliedState":
        require(entry.index == self.index + 1, f"entry {entry.index} applied to state {self.index}")
        state = AppliedState(
            index=entry.index,
            term=entry.term,
            membership=self.membership,
            last_leader=self.last_leader,
            digest=hashlib.sha256(self.digest + entry.payload + entry.term.to_bytes(8, "big")).digest(),
            time=self.time,
            running_ns=self.running_ns,
            registers=self.registers,
            sessions=self.sessions,
        )
        if entry.kind is COMMAND:
            state._take_command(entry.payload)
        elif entry.kind is EntryKind.MEMBERSHIP:
            state.membership = decode_membership_entry(entry.payload).membership
        else:
            state.last_leader = NodeId(entry.payload.decode())
        return state

    def _take_command(self, payload: bytes) -> None:
        self.time = ClusterTime(max(self.time, int.from_bytes(payload[:8], "big")))
        self.running_ns = max(self.running_ns, int.from_bytes(payload[8:STAMP_BYTES], "big"))
        if len(payload) != STAMP_BYTES + _CHANGE.size or not payload.startswith(_MARK, STAMP_BYTES):
            return  # Scenarios write anything.
        _, client, number, register, expected, value = _CHANGE.unpack_from(payload, STAMP_BYTES)
        if number <= self.sessions.get(client, (0, False))[0]:
            return
        fits = expected in (ANYTHING, self.registers.get(register, 0))
        self.sessions = {**self.sessions, client: (number, fits)}
        if fits:
            self.registers = {**self.registers, register: value}

    @property
    def meta(self) -> SnapshotMeta:
        return SnapshotMeta(self.index, self.term, self.membership, self.last_leader)
