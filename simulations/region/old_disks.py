"""Nodes that run on an old copy of their disk: whoever is told what it had acknowledged must neither vote nor serve.

Only peers know, and they say so first thing on each link (`cluster/witness.py`). So, when such a node starts, it is
noted which of the running ones know of more than its disk has. If it then serves by leases of one of those, votes for
it, or leads, nothing has held it back. By leases of others it may serve: nobody told it. That is why a disk is rolled
back only where nothing committed is lost with it (`loss_faults.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keycluster.cluster.types import NodeId
from keycluster.cluster.witness import Acknowledged
from keycluster.simulations.region.node import Excuse, SimNode


@dataclass(frozen=True, slots=True)
class _Old:
    """A node as it started."""

    life: int
    has: Acknowledged
    knowers: Mapping[NodeId, Acknowledged]
    unheard: bool
    """Somebody is down who may know, and will say so when it is back."""


class OldDisks:
    """A region's."""

    def __init__(self, found: Callable[[str, str], None]) -> None:
        self._found = found
        self._old: dict[NodeId, _Old] = {}

    def started(self, node: SimNode, nodes: Mapping[NodeId, SimNode]) -> None:
        """Its process has opened its disk, and hasn't heard of anybody yet."""
        self._old.pop(node.name, None)
        running = node.running
        if running is None or Excuse.OLD_DISK not in node.excuses:
            return
        core = running.replica.core
        has = (core.term, core.last_index)
        knowers = {}
        others = [other for other in nodes.values() if other is not node]
        for other in others:
            known = other.running.replica.known_of(node.name) if other.running is not None else None
            if known is not None and known > has:
                knowers[other.name] = known
        unheard = any(other.running is None for other in others)
        self._old[node.name] = _Old(node.lives, has, knowers, unheard)

    def may_be_told(self, node: SimNode) -> bool:
        """Whether any peer knows, or may know, of more than its disk had."""
        old = self._old.get(node.name)
        return old is not None and (old.unheard or bool(old.knowers))

    def stepped(self, node: SimNode) -> None:
        old, running = self._old.get(node.name), node.running
        if old is None or running is None or old.life != node.lives:
            return
        core, hard_state = running.replica.core, running.stores.log.hard_state
        for peer, known in old.knowers.items():
            if node.serves and core.leader == peer:
                self._complain(node, old, f"serves by leases of {peer}, which knows of {known}")
            elif hard_state.term > old.has[0] and hard_state.vote == peer:
                self._complain(node, old, f"voted for {peer}, which knows of {known}")
            elif core.is_leader:
                self._complain(node, old, f"leads, and {peer} knows of {known}")

    def _complain(self, node: SimNode, old: _Old, what: str) -> None:
        self._old.pop(node.name, None)
        self._found("witness", f"{node.name} started on a disk that ends at {old.has}: it {what}")
