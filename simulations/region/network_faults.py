"""Faults of links: weather, cuts, clogs (`nemesis.py` says how they are carried out).

Clients are on the network too: they may find themselves on either side of a cut.
"""

import random
from dataclasses import replace
from functools import partial

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.attack import LinkName
from keycluster.simulations.region.links import FAIR, Weather
from keycluster.simulations.region.nemesis import Nemesis, Strike, names
from keycluster.simulations.region.pipes import Effect
from keycluster.simulations.sides import draw_sides, links_between

LOSS_MAX = 0.3
DELAYED_MAX = 0.3
DELAY_NS_MAX = 2 * SECOND
REORDERED_MAX = 0.5
REORDER_NS_MAX = 50 * MILLISECOND
PIECES_MAX = 0.3
CLIENTS_TOO_CHANCE = 0.3
AZ_CRASH_CHANCE = 0.5


def loss(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    return _weather(nemesis, fault, replace(FAIR, loss=fault.strength * LOSS_MAX), Effect.LOST)


def delay(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    longest = rng.randint(10 * MILLISECOND, DELAY_NS_MAX)
    weather = replace(FAIR, delay=fault.strength * DELAYED_MAX, delay_ns_max=longest)
    return _weather(nemesis, fault, weather, Effect.DELAYED)


def reorder(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    longest = rng.randint(MILLISECOND, REORDER_NS_MAX)
    weather = Weather(reorder=fault.strength * REORDERED_MAX, reorder_ns_max=longest, pieces=rng.uniform(0, PIECES_MAX))
    return _weather(nemesis, fault, weather, Effect.OVERTAKEN)


def reset(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Some connections break, of nodes and of clients."""
    everybody = _everybody(nemesis, rng)
    pairs = [(a, b) for number, a in enumerate(everybody) for b in everybody[number + 1 :]]
    hit = rng.sample(pairs, max(1, round(fault.strength * len(pairs)))) if pairs else []
    broken = sum(nemesis.attack.links.reset(*pair) for pair in hit)
    return f"{broken} connections" if broken else None


def partition(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    side, rest = _sides(nemesis, rng)
    return _cut(
        nemesis, fault, [*links_between(side, rest), *links_between(rest, side)], f"{names(side)} | {names(rest)}"
    )


def one_way(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    side, rest = _sides(nemesis, rng)
    return _cut(nemesis, fault, links_between(side, rest), f"{names(side)} -> {names(rest)}")


def partial_cut(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Any links, in any direction: some reach each other by way of others only."""
    everybody = _everybody(nemesis, rng)
    links = [link for link in links_between(everybody, everybody) if rng.random() < fault.strength]
    return _cut(nemesis, fault, links, " ".join(f"{a}->{b}" for a, b in links))


def clog(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Swizzled, as FoundationDB does it: links stop one by one and go on one by one in another order."""
    attack, wire = nemesis.attack, nemesis.wire
    everybody = _everybody(nemesis, rng)
    links = [link for link in links_between(everybody, everybody) if rng.random() < fault.strength]
    if not links:
        return None
    clogged: set[LinkName] = set()
    ended = False
    begins = sorted(rng.randint(0, fault.for_ns // 2) for _ in links)
    ends = sorted(rng.randint(fault.for_ns // 2, fault.for_ns) for _ in links)

    def stop(link: LinkName) -> None:
        if not ended:
            clogged.add(link)
            attack.clog(fault.number, link, partial(nemesis.took_effect, fault))

    def go_on(link: LinkName) -> None:
        if link in clogged:
            clogged.discard(link)
            attack.unclog(fault.number, link)

    def end() -> None:
        nonlocal ended
        ended = True
        for link in sorted(clogged):
            go_on(link)

    for at_ns, link in zip(begins, rng.sample(links, len(links)), strict=True):
        wire.after(at_ns, stop, link)
    for at_ns, link in zip(ends, rng.sample(links, len(links)), strict=True):
        wire.after(at_ns, go_on, link)
    nemesis.lasts(fault, end)
    return " ".join(f"{a}->{b}" for a, b in links)


def az_loss(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """All of its machines crash, or nobody outside reaches any of them."""
    up = nemesis.region.up()
    azs = sorted({node.config.az for node in up})
    if not azs:
        return None
    az = rng.choice(azs)
    inside = [node for node in up if node.config.az == az]
    if rng.random() < AZ_CRASH_CHANCE:
        nemesis.took_effect(fault)
        for node in inside:
            node.crash()
            nemesis.start_after(node, fault.for_ns)
        return f"{az}: {names(inside)} crash"
    there = [node.name for node in inside]
    rest = [name for name in (*_nodes(nemesis), *nemesis.clients) if name not in there]
    links = [*links_between(there, rest), *links_between(rest, there)]
    return _cut(nemesis, fault, links, f"{az}: {names(inside)} | the rest")


def _weather(nemesis: Nemesis, fault: Fault, weather: Weather, effect: Effect) -> str:
    nemesis.attack.begin_weather(fault.number, weather, effect, partial(nemesis.took_effect, fault))
    nemesis.lasts(fault, partial(nemesis.attack.end_weather, fault.number))
    return f"{fault.strength:.2f}"


def _cut(nemesis: Nemesis, fault: Fault, links: list[LinkName], what: str) -> str | None:
    if not links:
        return None
    nemesis.attack.cut(fault.number, links, partial(nemesis.took_effect, fault))
    nemesis.lasts(fault, partial(nemesis.attack.heal, fault.number))
    return what


def _nodes(nemesis: Nemesis) -> list[str]:
    return [node.name for node in nemesis.region.up()]


def _everybody(nemesis: Nemesis, rng: random.Random) -> list[str]:
    nodes = _nodes(nemesis)
    return [*nodes, *nemesis.clients] if rng.random() < CLIENTS_TOO_CHANCE else nodes


def _sides(nemesis: Nemesis, rng: random.Random) -> tuple[list[str], list[str]]:
    """The leader is often in the smaller one."""
    everybody, victim = _everybody(nemesis, rng), nemesis.victim(rng)
    return draw_sides(everybody, None if victim is None else victim.name, rng)


NETWORK_STRIKES: dict[FaultKind, Strike] = {
    FaultKind.LOSS: loss,
    FaultKind.DELAY: delay,
    FaultKind.REORDER: reorder,
    FaultKind.RESET: reset,
    FaultKind.PARTITION: partition,
    FaultKind.ONE_WAY: one_way,
    FaultKind.PARTIAL: partial_cut,
    FaultKind.CLOG: clog,
    FaultKind.AZ_LOSS: az_loss,
}
