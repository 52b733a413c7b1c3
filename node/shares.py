"""No account takes all: what a node's tenants use together, and how much of it one of them may hold.

The rule is the simplest one that is right: a quarter, whether others are there or not. A share that shrinks when
somebody else arrives would have to take back what was given, at the worst moment.
"""

from typing import Final

from keycluster.cluster.wire.errors import ThrottlingException

ACCOUNT_PART: Final = 4
"""An account may hold one part of this many. Three quarters are left, however many credentials it has."""

THROTTLED_TEXT: Final = "Rate exceeded"


class Shares:
    """So much of something for all accounts together, and at most a share of it for each."""

    __slots__ = ("_held", "_limit", "_share", "count")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = max(1, limit // ACCOUNT_PART)
        self._held: dict[str, int] = {}  # Of those who hold anything.
        self.count = 0

    def held_by(self, account: str) -> int:
        return self._held.get(account, 0)

    def enter(self, account: str, amount: int = 1) -> None:
        """Raises ThrottlingException beyond the limit or the share; `leave` must follow otherwise."""
        held = self._held.get(account, 0) + amount
        if held > self._share or self.count + amount > self._limit:
            raise ThrottlingException(THROTTLED_TEXT)
        self._held[account] = held
        self.count += amount

    def leave(self, account: str, amount: int = 1) -> None:
        left = self._held[account] - amount
        if left:
            self._held[account] = left
        else:
            del self._held[account]
        self.count -= amount
