"""What a run demands of a region at its end."""

from functools import partial

import pytest
import trio

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import SECOND, NodeId
from keycluster.node import proposals
from keycluster.simulations.region import finish
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.node import NodeState
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.run import run
from keycluster.simulations.runs import RunSpec, SeedReport, Simulator
from keycluster.simulations.trace import Trace
from tests.simulations.region.quiet_region import in_region


def _report(seed: int) -> SeedReport:
    """Of a run in fair weather, up to its end."""
    return run(RunSpec(Simulator.REGION, seed, SECOND, kinds=(), nodes=3))


def test_node_that_knows_no_leader_must_not_hold_clients_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was lost to the others only is still found by clients, and they must get on all the same."""
    monkeypatch.setattr(finish, "WAYS_TO_LOSE", ("strand",))
    seeds = range(1, 4)
    assert [_report(seed).failures for seed in seeds] == [[]] * len(seeds)
    monkeypatch.setattr(proposals, "HELD_S_MAX", 1_000.0)
    failures = [failure for seed in seeds for failure in _report(seed).failures]
    assert {failure.checker for failure in failures} == {"liveness"}
    assert all("no write returns" in failure.message for failure in failures)


def _is_gone(region: SimRegion, name: NodeId) -> bool:
    return name not in region.rows()


def test_node_whose_every_acquaintance_was_replaced_is_replaced_too() -> None:
    """Nobody whom it believes is left to tell it who the members are now; so an operator has to see it."""

    async def prove() -> bool:
        return True

    async def body(region: SimRegion) -> list[str]:
        away = region.nodes[NodeId("n2")]
        away.crash()
        for name, old in ((NodeId("n8"), NodeId("n0")), (NodeId("n9"), NodeId("n1"))):
            with trio.fail_after(30):
                await region.operate("RemoveNode", node_id=old)
                await trio.sleep(1)
                assert not _is_gone(region, old)  # Voters whose majority is down would be all that is left.
                await region.join(name, az=region.nodes[old].config.az, role=MemberRole.VOTER)
                await region.until(partial(_is_gone, region, old))
        away.start()
        with trio.fail_after(60):
            await finish.make_peace(Nemesis(region, strikes={}, trace=Trace()), prove=prove)
        assert away.state is NodeState.BROKEN
        return sorted(region.rows())

    assert in_region(body) == ["n8", "n9"]
