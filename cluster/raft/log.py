"""The log as the core sees it: what is on disk, through a reader, and the newest entries in memory.

    base        stable          unsaved_from     last
     |  on disk   |   being written   |   not yet handed out   |
                 [----------------- tail, in memory -----------]

`stable_index` is the promise that acknowledgements rest on: everything up to it is on disk, and no write that is still
under way will take it back. The second half matters when a leader's entries overwrite others (dissertation 10.2.1
writes in parallel, but leaves this open): entry 7 is being written, is replaced by another 7, and this one again by an
equal of the first. When the *first* write completes, the disk is yet to lose that entry and get it back; counting the
first write would acknowledge what a crash can still lose. So a truncation takes back what outstanding writes cover.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from keycluster.cluster.invariant import InvariantBroken, require
from keycluster.cluster.marks import Mark
from keycluster.cluster.raft.messages import Entry, SnapshotMeta, entry_bytes
from keycluster.cluster.types import LogIndex, Term

_TAKEN_BACK = Mark("a write under way loses what it covered", within=("core",))


class LogReader(Protocol):
    """Durable entries. `first_index` - 1 is the base: compacted, its term still known. Indices begin with 1."""

    @property
    def first_index(self) -> LogIndex: ...

    @property
    def last_index(self) -> LogIndex:
        """The base if there are no entries; 0 in a new log."""
        ...

    def term(self, index: LogIndex) -> Term:
        """Of any durable entry or of the base; 0 for index 0."""
        ...

    def entries(self, lo: LogIndex, hi: LogIndex, bytes_max: int) -> list[Entry]:
        """Entries lo <= index < hi, as many as fit into `bytes_max`, but at least one; none if `lo` is compacted."""
        ...


@dataclass(slots=True)
class _Write:
    """An outstanding write, and up to where the log is durable once it has completed."""

    ticket: int
    covers: LogIndex


class RaftLog:
    def __init__(self, reader: LogReader, *, applied: LogIndex, tail_bytes_max: int) -> None:
        self._reader = reader
        self._tail_bytes_max = tail_bytes_max
        self._writes: deque[_Write] = deque()
        self._truncate_from: LogIndex | None = None  # To go into the next write.
        last = reader.last_index
        require(reader.first_index - 1 <= applied <= last, f"applied {applied} outside the log, which ends at {last}")
        self.commit_index = applied
        self.applied_index = applied
        self.stable_index = last
        self.last_index = last
        self.last_term = reader.term(last)
        self._unsaved_from = LogIndex(last + 1)
        self._tail: list[Entry] = list(read_all(reader, LogIndex(applied + 1), LogIndex(last + 1)))
        self._tail_first = LogIndex(applied + 1)
        self._tail_bytes = sum(map(entry_bytes, self._tail))
        self.uncommitted_bytes = self._tail_bytes

    # Questions

    @property
    def first_index(self) -> LogIndex:
        return self._reader.first_index

    def term(self, index: LogIndex) -> Term | None:
        """None where the log is compacted or has no such entry."""
        if index == self.last_index:
            return self.last_term
        if index >= self._tail_first:
            return self._tail[index - self._tail_first].term if index < self.last_index else None
        if index < self._reader.first_index - 1 or index > self.last_index:
            return None
        return self._reader.term(index)

    def entries(self, lo: LogIndex, hi: LogIndex, bytes_max: int) -> list[Entry]:
        """Entries lo <= index < hi up to `bytes_max`, at least one; none if `lo` is compacted. May be fewer."""
        if lo >= hi:
            return []
        if lo < self._tail_first:
            return self._reader.entries(lo, min(hi, self._tail_first), bytes_max) if lo >= self.first_index else []
        found = self._tail[lo - self._tail_first : hi - self._tail_first]
        if self._tail_bytes <= bytes_max:
            return found
        return found[: _count_within(found, bytes_max)]

    def unapplied(self) -> Sequence[Entry]:
        """Entries above the applied index: at construction, to look for memberships in them."""
        return self._tail

    def last_with_term_up_to(self, index: LogIndex, term: Term) -> tuple[LogIndex, Term]:
        """The last entry at or below `index` whose term is at most `term`.

        Both sides of a conflict jump over whole terms with it: an entry of a higher term than the other log has at that
        place cannot be in it. Where the log is compacted the search ends, at the base.
        """
        index = min(index, self.last_index)
        while (found := self.term(index)) is not None and found > term:
            index = LogIndex(index - 1)
        return index, found if found is not None else Term(0)

    def is_up_to_date(self, *, last_index: LogIndex, last_term: Term) -> bool:
        """Whether a log that ends so has everything that a majority may have committed with our help (3.6.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    # Changes

    def append(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.index != self.last_index + 1 or entry.term < self.last_term:
                raise InvariantBroken(f"{entry} cannot follow index {self.last_index} of term {self.last_term}")
            self._tail.append(entry)
            self.last_index, self.last_term = entry.index, entry.term
            size = entry_bytes(entry)
            self._tail_bytes += size
            self.uncommitted_bytes += size

    def truncate(self, first: LogIndex) -> None:
        """Takes the entries from `first` on out of the log."""
        require(self.commit_index < first <= self.last_index, f"truncation at {first}, committed {self.commit_index}")
        last = LogIndex(first - 1)
        last_term = self.term(last)
        require(last_term is not None, f"no entry {last} below a truncation")
        cut = sum(map(entry_bytes, self._tail[first - self._tail_first :]))
        del self._tail[first - self._tail_first :]
        self._tail_bytes -= cut
        self.uncommitted_bytes -= cut
        self.last_index, self.last_term = last, last_term or Term(0)
        if self._writes and self._writes[-1].covers > last:
            _TAKEN_BACK.hit()
        if first < self._unsaved_from:
            self._unsaved_from = first
            self._truncate_from = first if self._truncate_from is None else min(first, self._truncate_from)
        self.stable_index = min(self.stable_index, last)
        for write in self._writes:
            write.covers = min(write.covers, last)

    def commit_to(self, index: LogIndex) -> None:
        if index <= self.commit_index:
            return
        if index > self.last_index:
            raise InvariantBroken(f"commit of {index} beyond the end, {self.last_index}")
        start = self.commit_index + 1 - self._tail_first
        self.uncommitted_bytes -= sum(map(entry_bytes, self._tail[start : index + 1 - self._tail_first]))
        self.commit_index = index

    def applied_to(self, index: LogIndex) -> None:
        if index > self.commit_index:
            raise InvariantBroken(f"applied {index} beyond what is committed, {self.commit_index}")
        self.applied_index = max(self.applied_index, index)
        self._forget(min(self.applied_index, self.stable_index))

    # Writing

    @property
    def has_unsaved(self) -> bool:
        return self._unsaved_from <= self.last_index or self._truncate_from is not None

    def hand_out(self, ticket: int) -> tuple[LogIndex | None, tuple[Entry, ...]]:
        """What the write `ticket` has to do: where to cut off, and what to append."""
        truncate_from, self._truncate_from = self._truncate_from, None
        entries = tuple(self._tail[self._unsaved_from - self._tail_first :])
        self._unsaved_from = LogIndex(self.last_index + 1)
        self._writes.append(_Write(ticket, self.last_index))
        return truncate_from, entries

    def persisted(self, ticket: int) -> None:
        """All writes up to `ticket` have completed."""
        while self._writes and self._writes[0].ticket <= ticket:
            self.stable_index = max(self.stable_index, self._writes.popleft().covers)
        keep_from = self.applied_index if self._tail_bytes <= self._tail_bytes_max else self.commit_index
        self._forget(min(keep_from, self.stable_index))

    def has_entry(self, index: LogIndex, term: Term) -> bool:
        return self.term(index) == term

    def install(self, meta: SnapshotMeta, *, keeps_suffix: bool) -> None:
        """A snapshot has taken the place of the log up to `meta.index`.

        Entries behind it stay only when the log had that very entry (7 in the Raft paper): what follows another one
        belongs to a history that was given up, and keeping it would make each later append fail.
        """
        if keeps_suffix:
            self.commit_to(meta.index)
            self.stable_index = max(self.stable_index, meta.index)
            self.applied_to(meta.index)
            return
        self._tail, self._tail_bytes, self.uncommitted_bytes = [], 0, 0
        self._tail_first = self._unsaved_from = LogIndex(meta.index + 1)
        self.last_index, self.last_term = meta.index, meta.term
        self.commit_index = self.applied_index = self.stable_index = meta.index
        self._truncate_from = None
        for write in self._writes:
            write.covers = LogIndex(0)

    def _forget(self, index: LogIndex) -> None:
        """Drops the tail up to `index`: the reader has it."""
        count = index + 1 - self._tail_first
        if count > 0:
            self._tail_bytes -= sum(map(entry_bytes, self._tail[:count]))
            del self._tail[:count]
            self._tail_first = LogIndex(index + 1)


def read_all(reader: LogReader, lo: LogIndex, hi: LogIndex) -> Iterable[Entry]:
    """All entries lo <= index < hi, read in pieces."""
    while lo < hi:
        entries = reader.entries(lo, hi, 1 << 20)
        require(bool(entries) and entries[0].index == lo, f"the log has no entry {lo} below its end, {hi - 1}")
        yield from entries
        lo = LogIndex(lo + len(entries))


def _count_within(entries: Sequence[Entry], bytes_max: int) -> int:
    """How many of the first entries fit, at least one."""
    total = 0
    for count, entry in enumerate(entries):
        total += entry_bytes(entry)
        if total > bytes_max and count:
            return count
    return len(entries)
