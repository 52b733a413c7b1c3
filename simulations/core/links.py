"""Which links a fault of the network takes."""

import random
from collections.abc import Iterable

from keycluster.cluster.types import NodeId
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.network import Link
from keycluster.simulations.core.world import World


def between(side: Iterable[NodeId], others: Iterable[NodeId]) -> set[Link]:
    """Both ways."""
    others = list(others)
    out = {(a, b) for a in side for b in others}
    return out | {(b, a) for a, b in out}


def partition(world: World, victim: Machine | None, strength: float, rng: random.Random) -> set[Link]:
    """The victim with some others against the rest; a leader often with as many as make no majority."""
    side = _side(world, victim, strength, rng)
    return between(side, [node for node in world.machines if node not in side])


def one_way(world: World, victim: Machine | None, strength: float, rng: random.Random) -> set[Link]:
    side = _side(world, victim, strength, rng)
    out = {(a, b) for a in side for b in world.machines if b not in side}
    return out if rng.random() < 0.5 else {(b, a) for a, b in out}


def partial_cut(world: World, victim: Machine | None, strength: float, rng: random.Random) -> set[Link]:
    """Some links in some directions."""
    return set(some_of_all(world, 0.15 + 0.6 * strength, rng))


def some_of_all(world: World, part: float, rng: random.Random) -> list[Link]:
    nodes = list(world.machines)
    return [(a, b) for a in nodes for b in nodes if a != b and rng.random() < part]


def _side(world: World, victim: Machine | None, strength: float, rng: random.Random) -> list[NodeId]:
    nodes = list(world.machines)
    if victim is None or victim.replica is None:
        return rng.sample(nodes, rng.randint(1, max(1, len(nodes) - 1)))
    side = [victim.node]
    if rng.random() < 0.4:
        return side
    membership = victim.replica.core.membership
    others = [node for node in nodes if node != victim.node]
    rng.shuffle(others)
    for node in others:
        if rng.random() < 0.3 + 0.5 * strength and not membership.has_quorum([*side, node]):
            side.append(node)
    return side


def describe(cut: Iterable[Link]) -> str:
    """`n1>n2 n2>n1`."""
    return " ".join(f"{a}>{b}" for a, b in sorted(cut))
