"""What the rest of a node needs of consensus: a narrow seam (design.md, "Consensus").

Propose a command, read the ordered stream's newest applied state, know whether this node may serve, wait until what was
read is applied everywhere. `node/proposals.py` on `node/raft_driver.py` is the first implementation.
"""

from typing import Protocol

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.store.state import StateView
from keycluster.cluster.types import ClusterTime, LogIndex, NodeId, RunningTime
from keycluster.cluster.wire.errors import DependencyTimeoutException


class NotSettledYet(Exception):
    """An answer would rest on what another serving node may not have applied: look again once `index` is settled."""

    def __init__(self, index: LogIndex) -> None:
        super().__init__(f"log entry {index} is not settled yet")
        self.index = index


class NobodyLeads(DependencyTimeoutException):
    """This node has known no leader for longer than an election takes. Another node may know one."""

    def __init__(self) -> None:
        super().__init__("This node knows no leader. Try another node of the region.")


class Consensus(Protocol):
    """The seam. Waiting methods end by the caller's deadline (`trio.move_on_after`)."""

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

    @property
    def running_time(self) -> RunningTime:
        """The region's running time by the newest stamp in the applied state: what callers' commands are dated by."""
        ...

    async def propose(self, command: bytes) -> Outcome:
        """The command's outcome, once it may be acknowledged (rule L5).

        While there is no leader the command is held for a few seconds, and after a change of leaders it is forwarded
        again: it carries a request id, so it is carried out once. Raises ThrottlingException when too many are under
        way, and `NobodyLeads`: then it may have been made all the same, by a leader that was lost.
        """
        ...

    @property
    def settled_index(self) -> LogIndex:
        """What every node that may serve has applied, as far as this node knows (rule L10). Never falls."""
        ...

    async def settled(self, index: LogIndex) -> None:
        """Returns when every node that may serve has applied up to `index` (rule L10)."""
        ...
