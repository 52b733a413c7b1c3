"""A leader's disk that lost a row: nobody takes the state from it, and the node itself doesn't go on with it."""

import random
from itertools import count

import pytest
import trio

from keycluster.cluster.keys.records import Table
from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region import lost_rows
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.node import NodeState, SimNode
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.run import STRIKES
from keycluster.simulations.trace import Trace
from tests.simulations.region.quiet_region import in_region

SEED = next(seed for seed in count() if random.Random(f"lost row/{seed}").random() < lost_rows.CHANCE)


def a_fault(seed: int) -> Fault:
    return Fault(0, SECOND, FaultKind.BIT_ROT, 50 * MILLISECOND, 0.5, seed)


async def write_on(region: SimRegion) -> None:
    while True:
        await region.operate("CreateAccessKey", account="123456789012")
        await trio.sleep(0.1)


def leader_of(region: SimRegion) -> SimNode:
    leader = region.leader()
    assert leader is not None
    return leader


def test_leader_that_lost_a_row_is_replaced_and_the_others_go_on() -> None:
    """The one that needs a snapshot gets none from it; a start shows the damage; the rest of the region has all."""

    async def body(region: SimRegion) -> None:
        nemesis, leader = Nemesis(region, strikes=STRIKES, trace=Trace()), leader_of(region)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on, region)
            await nemesis.run([a_fault(SEED)], time_ns=15 * SECOND)
            nursery.cancel_scope.cancel()
        assert nemesis.counts["bit-rot"] == 1
        assert leader.state is NodeState.BROKEN
        assert nemesis.doubtful is None
        assert [region.nodes[name].serves for name in region.rows()] == [True] * 3
        assert region.checks.failures == []

    in_region(body)


def test_lost_row_is_seen_by_nothing_but_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that lacks it runs on: what it wrote, it has the sum of. So its snapshot must be looked at."""
    monkeypatch.setattr(lost_rows, "OFFERED_S", 60.0)

    async def body(region: SimRegion) -> None:
        nemesis, leader = Nemesis(region, strikes=STRIKES, trace=Trace()), leader_of(region)
        running = leader.running
        assert running is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on, region)
            await trio.sleep(1)
            view = running.stores.state.view
            before = lost_rows._oldest_request(view)
            assert before is not None
            nursery.start_soon(lambda: nemesis.run([a_fault(SEED)], time_ns=20 * SECOND))
            with trio.fail_after(10):
                await region.until(lambda: view.get(Table.REQUESTS, before) is None)
            [away] = [node for node in region.nodes.values() if node.state is NodeState.DOWN]
            await trio.sleep(8)
            assert leader.serves
            assert away.state is NodeState.UP
            assert not away.serves
            assert region.checks.failures == []
            nursery.cancel_scope.cancel()

    in_region(body)


def test_bit_rot_is_otherwise_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a row is lost is decided by other numbers than where a bit flips, and by none where nobody leads."""
    monkeypatch.setattr(lost_rows, "bit_rot", lambda _nemesis, _fault, rng: f"{rng.random()}")
    other = next(seed for seed in count() if random.Random(f"lost row/{seed}").random() >= lost_rows.CHANCE)

    async def body(region: SimRegion) -> None:
        def is_as_ever(fault: Fault) -> bool:
            return lost_rows.rot(nemesis, fault, fault.rng()) == f"{fault.rng().random()}"

        nemesis = Nemesis(region, strikes=STRIKES, trace=Trace())
        assert is_as_ever(a_fault(other))
        assert not is_as_ever(a_fault(SEED))
        leader_of(region).crash()
        assert is_as_ever(a_fault(SEED))

    in_region(body)
