"""Programs that are killed or stopped: what they asked for is in doubt, and others take their place."""

from dataclasses import replace

import pytest
import trio

from keycluster.cluster.types import SECOND
from keycluster.simulations.checkers.check import check_all
from keycluster.simulations.checkers.history import NEVER, History
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.client_faults import CLIENT_STRIKES
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.run import STRIKES
from keycluster.simulations.region.workload import SimWorkload
from keycluster.simulations.trace import Trace
from keycluster.simulations.workload.plan import draw_plan
from tests.simulations.region.quiet_region import in_region

PLAN = replace(draw_plan(1, clients=3, rate_per_s=500.0), aws_clients=1, in_flight_max=16)
FAULTS_S = 5


def run_with(kind: FaultKind, history: History) -> tuple[Nemesis, SimWorkload]:
    ran: list[tuple[Nemesis, SimWorkload]] = []

    async def body(region: SimRegion) -> None:
        nemesis = Nemesis(region, strikes=STRIKES, trace=Trace())
        work = SimWorkload(region, PLAN, seed="7", history=history, trace=Trace())
        nemesis.programs = work.clients
        faults = [Fault(number, (number + 1) * SECOND // 4, kind, 800_000_000, 0.5, number) for number in range(12)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.run)
            await nemesis.run(faults, time_ns=FAULTS_S * SECOND)
            await trio.sleep(2)
            await work.stop()
        ran.append((nemesis, work))

    in_region(body)
    return ran[0]


def test_killed_programs_leave_calls_open_and_others_go_on() -> None:
    """What they had asked for never gets an answer, and may be done; the checkers take it so."""
    history = History()
    nemesis, work = run_with(FaultKind.CLIENT_CRASH, history)
    killed = nemesis.counts["client-crash"]
    assert killed >= 6
    assert sum(client.lives for client in work.clients) >= len(work.clients) + killed
    unanswered = [call for call in history.calls if call.ended == NEVER]
    assert unanswered
    assert any(call.is_ok and call.began > unanswered[0].began for call in history.calls)
    assert check_all(history) == []


def test_stopped_programs_go_on_and_hear_late() -> None:
    """Each call gets an end, some long after its answer was sent."""
    history = History()
    nemesis, _ = run_with(FaultKind.CLIENT_PAUSE, history)
    assert nemesis.counts["client-pause"] >= 6
    assert not [call for call in history.calls if call.ended == NEVER]
    late = [call for call in history.calls if call.returned_ns and call.returned_ns - call.invoked_ns > SECOND // 2]
    assert late
    assert check_all(history) == []


@pytest.mark.parametrize("kind", sorted(CLIENT_STRIKES))
def test_without_programs_nothing_happens(kind: FaultKind) -> None:
    """And so nothing is counted."""

    async def body(region: SimRegion) -> None:
        nemesis = Nemesis(region, strikes=STRIKES, trace=Trace())
        await nemesis.run([Fault(0, 1, kind, SECOND, 0.5, 1)], time_ns=SECOND)
        assert not nemesis.counts

    in_region(body)
