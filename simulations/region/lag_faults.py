"""One member hears of nothing for a while, and a client of its own asks it for just that (`workload/behind.py`).

Cuts and clogs do this too, but those who are at work then seldom ask the one member for the one key within the second
that counts. Either what is meant for the member only waits, or its connections break and the others' logs go on
without it, so that it comes back by a snapshot.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import trio

from keycluster.cluster.types import MILLISECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.nemesis import Nemesis, Strike
from keycluster.simulations.region.node import SimNode
from keycluster.simulations.region.node_faults import NO_LOG_KEPT
from keycluster.simulations.workload.behind import Behind, miss_a_change

OVERTAKEN_CHANCE = 0.4
OVERTAKEN_NS_MIN = 1_300 * MILLISECOND  # Longer than its lease, so that the others go on meanwhile.
WHOLE_S_MAX = 12.0  # Of the client's life.


def lag(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    leader = nemesis.region.leader()
    others = [node for node in nemesis.region.serving() if node is not leader]
    if leader is None or not leader.serves or not others or nemesis.one_off is None:
        return None
    node, is_overtaken = rng.choice(others), rng.random() < OVERTAKEN_CHANCE
    lives = leader.lives, node.lives

    def begin() -> bool:
        if not nemesis.may_strike or (leader.lives, node.lives) != lives or not (leader.serves and node.serves):
            return False
        (_overtake if is_overtaken else _clog)(nemesis, fault, node)
        return True

    step = partial(miss_a_change, behind=Behind(node.name, leader.name, begin))
    nemesis.in_background(partial(_watch, partial(nemesis.one_off, f"w{fault.number}", step)))
    return f"{node.name} behind {leader.name}{', overtaken' if is_overtaken else ''}"


async def _watch(client: Callable[[], Awaitable[object]]) -> None:
    with trio.move_on_after(WHOLE_S_MAX):
        await client()


def _clog(nemesis: Nemesis, fault: Fault, node: SimNode) -> None:
    links = [(other, node.name) for other in _others(nemesis, node)]
    for link in links:
        nemesis.attack.clog(fault.number, link, partial(nemesis.took_effect, fault))

    def end() -> None:
        for link in links:
            nemesis.attack.unclog(fault.number, link)

    nemesis.lasts(fault, end)


def _overtake(nemesis: Nemesis, fault: Fault, node: SimNode) -> None:
    names = _others(nemesis, node)
    links = [link for other in names for link in ((other, node.name), (node.name, other))]
    nemesis.attack.cut(fault.number, links, partial(nemesis.took_effect, fault))
    for other in names:
        nemesis.attack.links.reset(node.name, other)
    running = [other.running for other in nemesis.region.up() if other is not node and other.running is not None]
    for one in running:
        one.driver.retention = NO_LOG_KEPT

    def end() -> None:
        nemesis.attack.heal(fault.number)
        for one in running:
            one.driver.retention = nemesis.region.retention

    nemesis.lasts(replace(fault, for_ns=max(fault.for_ns, OVERTAKEN_NS_MIN)), end)


def _others(nemesis: Nemesis, node: SimNode) -> Sequence[str]:
    return [other for other in nemesis.region.nodes if other != node.name]


LAG_STRIKES: dict[FaultKind, Strike] = {FaultKind.LAG: lag}
