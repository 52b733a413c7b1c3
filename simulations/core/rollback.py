"""Nodes that come back on an old copy of their disk, and what becomes of them.

Only peers can notice (`cluster/witness.py`). So a copy is put in only where a peer that runs knows of an
acknowledgement which the copy lacks; then the node must notice before it does anything else. It stays out until it gets
its newest disk back, or is removed and replaced.
"""

import random
from collections.abc import Callable
from functools import partial

from keycluster.cluster.types import MILLISECOND, NodeId
from keycluster.cluster.witness import RolledBack
from keycluster.simulations.core import changes
from keycluster.simulations.core.findings import demand
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.member import Disk
from keycluster.simulations.core.served import ServedWorld
from keycluster.simulations.trace import What

WITNESS = "witness"
OUT_NS_MIN = 100 * MILLISECOND
OUT_NS_MAX = 1_500 * MILLISECOND
TRY_AGAIN_NS = 200 * MILLISECOND


class RollBacks:
    def __init__(self, world: ServedWorld, restart_later: Callable[[NodeId, int], None]) -> None:
        self._world = world
        self._restart_later = restart_later
        self._newest: dict[NodeId, Disk] = {}  # Of those that run, or ran, on an old copy.
        self._removed: set[NodeId] = set()  # To be taken out of the configuration; they never start again.
        self._ended = False
        world.on_rolled_back = self._noticed

    def keeps_out(self, node: NodeId) -> bool:
        return node in self._newest

    def put_in(self, machine: Machine, copy: Disk, rng: random.Random) -> bool:
        """Crashes the machine and starts it on the copy. False: nobody could notice, or it lost nothing."""
        node = machine.node
        if machine.replica is None or self.keeps_out(node) or not self._would_be_noticed(machine, copy):
            return False
        self._world.crash(node)
        self._newest[node], machine.disk = machine.disk, copy
        machine.is_rolled_back = True
        self._world.trace.note(self._world.t, node, "starts on an old disk")
        self._world.start(node)
        demand(machine.member is None, WITNESS, f"{node} runs on an old copy of its disk")
        self._plan(machine, rng)
        return True

    def _would_be_noticed(self, machine: Machine, copy: Disk) -> bool:
        has = (copy.hard_state.term, copy.log.last_index)
        for other in self._world.machines.values():
            if other is machine or other.replica is None or (other.node, machine.node) in self._world.network.cut:
                continue
            known = other.replica.known_of(machine.node)
            if known is not None and known > has:
                return True
        return False

    def _noticed(self, machine: Machine, noticed: RolledBack) -> None:
        if not self.keeps_out(machine.node):
            raise noticed
        self._world.crash(machine.node)
        self._world.trace.note(self._world.t, machine.node, What.STOPS, str(noticed))

    def _plan(self, machine: Machine, rng: random.Random) -> None:
        after = rng.randint(OUT_NS_MIN, OUT_NS_MAX)
        if rng.random() < 0.5:
            self._world.after(after, partial(self._give_back, machine))
        else:
            self._removed.add(machine.node)
            self._world.after(after, partial(self._remove, machine))

    def _give_back(self, machine: Machine) -> None:
        newest = self._newest.pop(machine.node, None)
        if newest is not None:
            machine.disk = newest
            machine.is_rolled_back = False
            self._restart_later(machine.node, 0)

    def _remove(self, machine: Machine) -> None:
        """Until it has worked: nobody may lead just now, or another change may be under way."""
        if not self._ended and not changes.remove(self._world, machine.node) and self._is_member(machine.node):
            self._world.after(TRY_AGAIN_NS, partial(self._remove, machine))

    def _is_member(self, node: NodeId) -> bool:
        return any(machine.disk.state.membership.is_member(node) for machine in self._world.machines.values())

    def end(self) -> None:
        """All get their newest disks back; whoever was removed meanwhile is nobody's member any more."""
        self._ended = True
        for node, newest in self._newest.items():
            self._world.machines[node].disk = newest
            self._world.machines[node].is_rolled_back = False
        self._newest.clear()
