"""Values that log entries set, by the index of the entry: memberships, and each term's leader.

They count from the moment their entry is *appended* (dissertation 4.1), so a truncation takes them back. Nothing at or
below the commit index can be taken back; of what is older only the newest is kept.
"""

from typing import Generic, TypeVar

from keycluster.cluster.types import LogIndex

T = TypeVar("T")


class Trail(Generic[T]):
    """`newest`, its entry's index, and `committed`, the newest at or below the commit index, are asked for with each
    message: they are plain attributes, kept up by every change."""

    def __init__(self, index: LogIndex, value: T) -> None:
        self._set: list[tuple[LogIndex, T]] = [(index, value)]
        self.newest_index = index
        self.newest = value
        self.committed = value

    def _note_ends(self) -> None:
        self.newest_index, self.newest = self._set[-1]
        self.committed = self._set[0][1]

    @property
    def standing(self) -> list[T]:
        """The committed value and all that may still take its place, oldest first."""
        return [value for _, value in self._set]

    def append(self, index: LogIndex, value: T) -> None:
        self._set.append((index, value))
        self._note_ends()

    def truncate(self, first: LogIndex) -> None:
        """Entries from `first` on are gone."""
        while len(self._set) > 1 and self._set[-1][0] >= first:
            self._set.pop()
        self._note_ends()

    def commit_to(self, index: LogIndex) -> None:
        while len(self._set) > 1 and self._set[1][0] <= index:
            del self._set[0]
            self._note_ends()

    def reset(self, index: LogIndex, value: T, *, keeps_suffix: bool) -> None:
        """The value as of a snapshot at `index`; values of entries behind it stay if these do."""
        behind = [(at, later) for at, later in self._set if at > index] if keeps_suffix else []
        self._set = [(index, value), *behind]
        self._note_ends()
