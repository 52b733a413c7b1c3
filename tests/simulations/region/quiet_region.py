"""A simulated region in fair weather, ready to serve, with whatever clients a test brings.

def test_…():
    async def body(region: SimRegion) -> None: ...
    in_region(body, seed="1")
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from keycluster.simulations.region.deterministic import run_deterministically
from keycluster.simulations.region.logs import captured_logs
from keycluster.simulations.region.region import RegionShape, SimRegion, open_region
from keycluster.simulations.region.template import template_of
from keycluster.simulations.trace import Trace

T = TypeVar("T")

SHAPE = RegionShape(voters=3)


def in_region(body: Callable[[SimRegion], Awaitable[T]], *, seed: str = "1", trace: Trace | None = None) -> T:
    """Runs `body` once all nodes serve; what it returns."""

    async def main() -> T:
        async with open_region(seed=seed, trace=trace or Trace()) as region:
            region.put_up(SHAPE, template.files, template.client_ca)
            await region.all_serve(SHAPE)
            return await body(region)

    with captured_logs(lambda *line: None):
        template = template_of(SHAPE)
        return run_deterministically(main, seed=seed)
