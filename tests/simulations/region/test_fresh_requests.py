"""Who asks now is not refused for being late, whatever the region has been through: no date is old when it is made."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from keycluster.cluster.keys import apply
from keycluster.cluster.keys.commands import Command
from keycluster.cluster.keys.requests import check_age
from keycluster.cluster.types import RunningTime
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import KmsError
from keycluster.simulations.region.clients import SimClient
from keycluster.simulations.region.node import SimNode
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.workload.turns import Caller
from tests.simulations.region.quiet_region import in_region
from tests.simulations.region.test_clients import used, world_of

LONG_S = 120.0  # Four times what a command may be under way for.


def leader_of(region: SimRegion) -> SimNode:
    leader = region.leader()
    assert leader is not None
    return leader


async def idle(region: SimRegion) -> None:
    await trio.sleep(LONG_S)


async def nobody_leads(region: SimRegion) -> None:
    for node in region.nodes:
        for other in region.nodes:
            if other != node:
                region.network.links.cut(node, other)
    await trio.sleep(LONG_S)
    region.network.links.heal_all()


async def all_suspended(region: SimRegion) -> None:
    for node in region.nodes.values():
        node.pause()
    await trio.sleep(LONG_S)
    for node in region.nodes.values():
        node.resume()


async def leader_suspended(region: SimRegion) -> None:
    leader = leader_of(region)
    leader.pause()
    await trio.sleep(LONG_S)
    leader.resume()


async def follower_cut_off(region: SimRegion) -> None:
    leader = leader_of(region)
    late = next(node for node in region.nodes.values() if node is not leader)
    for other in region.nodes:
        if other != late.name:
            region.network.links.cut(late.name, other)
            region.network.links.cut(other, late.name)
    await trio.sleep(LONG_S)
    region.network.links.heal_all()


async def all_restarted(region: SimRegion) -> None:
    await trio.sleep(LONG_S)
    for node in region.nodes.values():
        node.crash()
    for node in region.nodes.values():
        await node.is_gone()
    await trio.sleep(LONG_S)
    for node in region.nodes.values():
        node.start()


@pytest.mark.parametrize(
    "suffer", [idle, nobody_leads, all_suspended, leader_suspended, follower_cut_off, all_restarted]
)
def test_first_request_afterwards_is_carried_out_at_every_node(
    suffer: Callable[[SimRegion], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: the client's retries would hide it."""
    refused: list[RunningTime] = []

    def check(command: Command, now: RunningTime) -> None:
        try:
            check_age(command, now)
        except KmsError:
            refused.append(RunningTime(now - command.asked))
            raise

    monkeypatch.setattr(apply, "check_age", check)

    async def body(region: SimRegion) -> None:
        await suffer(region)
        await region.until(lambda: len(region.serving()) == len(region.nodes))

        async def use(caller: Caller) -> bool:
            for node in caller.door.nodes:
                await caller.door.ask(wire.CreateKeyRequest(), at=node, seconds=5)
            return True

        assert await used(SimClient("c0", world_of(region)), use)

    in_region(body)
    assert refused == []
