"""Regions that are ready to start: founded and joined once for each shape, then copied.

Making a region takes an election, a join and a promotion for each node: seconds of simulated time, and the half of a
wall second. So that is done once in a process, on the simulator itself with a seed of its own, and every run of that
shape starts from copies of the files. Always the same ones: what a run does is decided by its seed alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import trio

from keycluster.cluster.types import SECOND, NodeId
from keycluster.simulations.region.deterministic import run_deterministically
from keycluster.simulations.region.region import RegionShape, open_region
from keycluster.simulations.trace import Trace

SEED = 0
MADE_S_MAX = 120.0  # Of simulated time.
MADE_BEFORE_NS = 24 * 3_600 * SECOND
"""Runs begin so long after the region was made, by the region's own clocks."""


@dataclass(frozen=True, slots=True)
class Template:
    """All of a region that stands still."""

    shape: RegionShape
    files: Mapping[NodeId, Mapping[Path, bytes]]
    client_ca: bytes  # DER.


@cache
def template_of(shape: RegionShape) -> Template:
    """Takes a wall second or two for each new shape."""
    return run_deterministically(lambda: _make(shape), seed=SEED)


async def _make(shape: RegionShape) -> Template:
    async with open_region(seed="template", trace=Trace(), wall_ns=-MADE_BEFORE_NS) as region:
        with trio.fail_after(MADE_S_MAX):
            first, *others = shape.members()
            await region.found(first.name, az=first.az)
            for member in others:
                await region.join(member.name, az=member.az, role=member.role)
            await region.all_serve(shape)
            region.frozen.update(region.nodes)
            for node in region.nodes.values():
                node.stop()
            await region.until(lambda: not region.up())
        files = {name: MappingProxyType(node.disk.files()) for name, node in region.nodes.items()}
        return Template(shape, MappingProxyType(files), region.client_ca)
