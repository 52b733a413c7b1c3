"""What the rest of a node needs of consensus: a narrow seam (design.md, "Consensus").

Propose a command, read the ordered stream's newest applied state, know whether this node may serve, wait until what was
read is applied everywhere. `node/proposals.py` on `node/raft_driver.py` is the first implementation.
"""

from typing import Protocol

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.store.state import StateView
from keycluster.cluster.types import ClusterTime, LogIndex, NodeId


class NotSettledYet(Exception):
    """An answer would rest on what another serving node may not have applied: look again once `index` is settled."""

    def __init__(self, index: LogIndex) -> None:
        super().__init__(f"log entry {index} is not settled yet")
        self.index = index


class Consensus(Protocol):
    """The seam. Waiting methods end by the caller's deadline (`trio.move_on_after`), never by one of their own."""

    @property
    def view(self) -> StateView:
        """The applied state, pinned: it moves only between two steps of the event loop, caches with it."""
        ...

    @property
    def leader(self) -> NodeId | None:
        """Who leads as far as this node knows."""
        ...

    def may_serve(self) -> bool:
        """Rule L3 or L4, by a clock read inside this call: ask after the request came, before the state is read."""
        ...

    def cluster_time(self) -> ClusterTime | None:
        """The region's time; None on a node that hasn't heard it lately. One whose own clock is too far off knows it
        too: it is by that time that it refuses to serve."""
        ...

    async def propose(self, command: bytes) -> Outcome:
        """The command's outcome, once it may be acknowledged (rule L5).

        While there is no leader the command is held, and after a change of leaders it is forwarded again: it carries a
        request id, so it is carried out once. Raises ThrottlingException when too many are under way.
        """
        ...

    @property
    def settled_index(self) -> LogIndex:
        """What every node that may serve has applied, as far as this node knows (rule L10). Never falls."""
        ...

    async def settled(self, index: LogIndex) -> None:
        """Returns when every node that may serve has applied up to `index` (rule L10)."""
        ...
