"""Who is kept while members change: nothing that may come is left without its majority, and somebody is lost."""

import random

import pytest
import trio

from keycluster.cluster.types import SECOND, NodeId
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.amid_change import draw_survivors
from keycluster.simulations.region.finish import demand_liveness, make_peace
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.run import STRIKES
from keycluster.simulations.trace import Trace
from tests.simulations.region.quiet_region import in_region

N0, N1, N2 = NodeId("n0"), NodeId("n1"), NodeId("n2")


def nemesis_of(region: SimRegion) -> Nemesis:
    return Nemesis(region, strikes=STRIKES, trace=Trace())


def kept_by(nemesis: Nemesis, seed: int) -> set[NodeId] | None:
    kept = draw_survivors(nemesis, random.Random(seed))
    return None if kept is None else {node.name for node in kept}


def test_majority_is_kept_where_nothing_changes() -> None:
    """Any."""

    async def body(region: SimRegion) -> None:
        drawn = [kept_by(nemesis_of(region), seed) for seed in range(20)]
        assert all(kept is not None and len(kept) == 2 for kept in drawn)
        assert {frozenset(kept or ()) for kept in drawn} == {frozenset(pair) for pair in ((N0, N1), (N0, N2), (N1, N2))}

    in_region(body)


def test_removal_that_may_be_recorded_needs_both_who_stay() -> None:
    """And of what is there now a majority, which they are."""

    async def body(region: SimRegion) -> None:
        region.asked_to_leave.add(N2)
        assert {frozenset(kept_by(nemesis_of(region), seed) or ()) for seed in range(20)} == {frozenset({N0, N1})}

    in_region(body)


def test_nobody_is_lost_where_all_who_are_whole_are_needed() -> None:
    """Nor while a disk has lost data."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        region.nodes[N2].crash()
        assert kept_by(nemesis, 1) == {N0, N1}
        region.nodes[N1].crash()
        assert kept_by(nemesis, 1) is None
        region.nodes[N1].start()
        region.nodes[N2].start()
        await region.until(lambda: len(region.serving()) == 3)
        nemesis.doubtful = region.nodes[N2]
        assert kept_by(nemesis, 1) is None

    in_region(body)


@pytest.mark.parametrize("seed", range(6))
def test_region_goes_on_amid_a_change_of_members(seed: int) -> None:
    """The change is wherever the faults' end has caught it; the survivors serve, and a write returns."""

    async def prove(region: SimRegion) -> bool:
        await region.operate("CreateAccessKey", account="123456789012")
        return True

    async def body(region: SimRegion) -> None:
        nemesis, rng = nemesis_of(region), random.Random(seed)
        faults = [
            Fault(number, number * SECOND // 2, kind, 0, 0.5, seed * 10 + number)
            for number, kind in enumerate((FaultKind.ADD_VOTER, FaultKind.ADD_VOTER, FaultKind.REMOVE))
        ]
        with trio.fail_after(60):
            await nemesis.run(faults, time_ns=int((1.3 + 0.3 * seed) * SECOND))
            kept = draw_survivors(nemesis, rng)
            assert kept is not None
            await demand_liveness(nemesis, rng, prove=lambda: prove(region), kept=kept)
            await make_peace(nemesis, prove=lambda: prove(region))
        assert region.checks.failures == []

    in_region(body)
