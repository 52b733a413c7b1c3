"""A member that hears of nothing for a while, and a client that asks it for just what it misses."""

from dataclasses import replace

import pytest
import trio

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.checkers.check import check_all
from keycluster.simulations.checkers.history import Call, History
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.run import STRIKES
from keycluster.simulations.region.workload import SimWorkload
from keycluster.simulations.trace import Trace
from keycluster.simulations.workload.bursts import LOOK_SECONDS
from keycluster.simulations.workload.plan import draw_plan
from tests.simulations.region.quiet_region import in_region

PLAN = replace(draw_plan(1, clients=2, rate_per_s=20.0), aws_clients=0)
FAULTS = 4
APART_S = 4
LEASE_NS = 1 * SECOND


class Lagged:
    """Some lags and what came of them."""

    def __init__(self) -> None:
        self.history = History()
        self.trace = Trace(keep=True)
        self.counted = 0
        in_region(self._body, trace=self.trace)

    async def _body(self, region: SimRegion) -> None:
        nemesis = Nemesis(region, strikes=STRIKES, trace=self.trace)
        work = SimWorkload(region, PLAN, seed="7", history=self.history, trace=self.trace)
        nemesis.one_off = work.one_off
        faults = [
            Fault(number, (1 + APART_S * number) * SECOND, FaultKind.LAG, 800 * MILLISECOND, 0.5, number)
            for number in range(FAULTS)
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.run)
            await nemesis.run(faults, time_ns=(1 + APART_S * FAULTS) * SECOND)
            await work.stop()
        self.counted = nemesis.counts["lag"]

    def lives(self) -> list[list[Call]]:
        """The calls of each client that asks."""
        names = sorted({call.client for call in self.history.calls if call.client.startswith("w")})
        return [[call for call in self.history.calls if call.client == name] for name in names]


@pytest.fixture(scope="module")
def lagged() -> Lagged:
    return Lagged()


def test_lag_has_one_change_asked_for_again_under_its_id(lagged: Lagged) -> None:
    """At the leader, while the member may not have heard of it: and once more as a change of its own."""
    assert lagged.counted == FAULTS
    for calls in lagged.lives():
        ids = [call.request_id for call in calls if call.request_id is not None and call.operation != "EnableKey"]
        assert (len(ids), len(set(ids))) == (3, 2)


def test_lag_asks_leader_and_member_in_turns_while_the_change_is_pending(lagged: Lagged) -> None:
    """The member still answers, by its lease, from before the change."""
    for calls in lagged.lives():
        change = next(call for call in calls if call.request_id is not None)
        reads = [call for call in calls if change.began < call.began < change.ended and call.request_id is None]
        assert any(call.is_ok for call in reads)
        assert len({call.node for call in reads}) == 2


def test_change_waits_for_the_member_and_is_acted_on_by_it(lagged: Lagged) -> None:
    """As the contract has it: nothing is found, though the change took as long as the member's lease at least once."""
    assert check_all(lagged.history) == []
    asked = [call for calls in lagged.lives() for call in calls if call.request_id is not None and call.is_ok]
    waited = [(call.returned_ns or 0) - call.invoked_ns for call in asked]
    assert LEASE_NS // 2 < max(waited) < LOOK_SECONDS * SECOND


def test_some_members_are_overtaken(lagged: Lagged) -> None:
    """The others' logs begin behind what they have: a snapshot brings them back."""
    assert [record for record in lagged.trace.records() if record.what == "snapshot"]
