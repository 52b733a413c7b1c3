"""A run's end: what must come back once the faults stop, as `simulations/region/finish.py` has it.

Liveness: of all voters a random majority is well, and the rest is lost for good. Peace: everybody is back.
"""

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from keycluster.simulations.torture.links import LinkName
from keycluster.simulations.torture.processes import NodeProcess
from keycluster.simulations.torture.region import TortureRegion
from keycluster.simulations.torture.watch import Watch

LIVENESS_S_MAX: Final = 60.0
"""Elections, leases and starts take seconds; the rest is for a machine that has much else to do."""

Prove = Callable[[], Awaitable[bool]]
"""Whether a write returns."""


async def demand_liveness(
    region: TortureRegion, watch: Watch, rng: random.Random, *, clients: Iterable[str], prove: Prove
) -> None:
    """Failures go to the region's."""
    voters = watch.voters()
    kept = sorted(rng.sample(voters, len(voters) // 2 + 1))
    rest = [node for node in region.nodes.values() if node.name not in kept]
    cut: list[LinkName] = []
    for node in rest:
        cut += _lose(region, node, rng, clients)
    region.note("nemesis", "detail", "liveness", f"of {' '.join(voters)} only {' '.join(kept)}")
    if not await _come_back(watch, kept, prove):
        region.found("liveness", f"only {' '.join(kept)} are left, and {watch.describe()}")
    region.links.go_on(cut)
    for node in rest:
        node.resume()
        node.start()


async def make_peace(region: TortureRegion, watch: Watch, *, prove: Prove) -> None:
    """All must serve. Failures go to the region's."""
    region.note("nemesis", "detail", "peace", "everybody returns")
    if not await _come_back(watch, list(region.nodes), prove):
        region.found("liveness", f"all is healed, and {watch.describe()}")


async def _come_back(watch: Watch, names: list[str], prove: Prove) -> bool:
    with trio.move_on_after(LIVENESS_S_MAX):
        await watch.until(lambda: all(watch.serves(name) for name in names))
        return await prove()
    return False


def _lose(region: TortureRegion, node: NodeProcess, rng: random.Random, clients: Iterable[str]) -> list[LinkName]:
    """For good: off, stopped where it stands, or out of everybody's reach. Returns the links that were cut."""
    way = rng.choice(("crash", "cut", "pause"))
    if way == "crash":
        node.kill("lost for good")
    elif way == "pause":
        node.pause()
    else:
        others = [name for name in (*region.nodes, *clients) if name != node.name]
        links = [link for other in others for link in ((node.name, other), (other, node.name))]
        region.links.stop(links)
        return links
    return []
