"""All wall clocks leap together: the region serves on, and whoever asks across a leap is told what became of it."""

from dataclasses import replace

import pytest
import trio

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.checkers.history import Call, History
from keycluster.simulations.faults import MINUTE, Fault, FaultKind, Leap
from keycluster.simulations.region import leap_faults
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.run import STRIKES
from keycluster.simulations.region.workload import SimWorkload
from keycluster.simulations.trace import Trace
from keycluster.simulations.workload.plan import draw_plan
from tests.simulations.region.quiet_region import in_region

PLAN = replace(draw_plan(1, clients=2, rate_per_s=20.0), aws_clients=1)
LEAPS = 12
APART_NS = 1 * SECOND
UNAVAILABLE_NS_MAX = 300 * MILLISECOND
"""A node asks for its lease four times a second, and tells its clock with that."""


class Leapt:
    """Some leaps, and a client's calls before and after each."""

    def __init__(self) -> None:
        self.history = History()
        self.counted = 0
        in_region(self._body)

    async def _body(self, region: SimRegion) -> None:
        nemesis = Nemesis(region, strikes=STRIKES, trace=Trace())
        work = SimWorkload(region, PLAN, seed="7", history=self.history, trace=Trace())
        nemesis.one_off = work.one_off
        faults = [
            Fault(number, 2 * SECOND + number * APART_NS, FaultKind.WALL_LEAP, SECOND // 2, 0.5, number)
            for number in range(LEAPS)
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.run)
            await nemesis.run(faults, time_ns=3 * SECOND + LEAPS * APART_NS)
            await work.stop()
        self.counted = nemesis.counts["wall-leap"]

    def lives(self) -> list[list[Call]]:
        """The calls of each client that came with a leap."""
        names = sorted({call.client for call in self.history.calls if call.client.startswith("l")})
        return [[call for call in self.history.calls if call.client == name] for name in names]


@pytest.fixture(scope="module")
def leapt() -> Leapt:
    return Leapt()


def test_leap_with_a_client_has_one_change_asked_for_again(leapt: Leapt) -> None:
    """Under its id, at chosen nodes; some of them were answered before the leap."""
    assert leapt.counted == LEAPS
    lives = leapt.lives()
    assert len(lives) > LEAPS // 4
    for calls in lives:
        first = calls[0]
        assert sum(call.request_id == first.request_id for call in calls) == 3


def test_leap_moves_all_wall_clocks_and_no_other() -> None:
    """Also those of clients, and of machines that come later; a right one stays right."""

    async def body(region: SimRegion) -> None:
        nemesis = Nemesis(region, strikes=STRIKES, trace=Trace())
        work = SimWorkload(region, PLAN, seed="7", history=History(), trace=Trace())
        clocks = [*(node.clock for node in region.nodes.values()), *(client.clock for client in work.clients)]
        walls, shown, errors = zip(*((c.wall(), c.now(), c.wall_error_ns) for c in clocks), strict=True)
        leap_faults._leap(nemesis, fault(), Leap(20 * MINUTE, is_taken_back=False))
        assert [clock.wall() for clock in clocks] == [wall + 20 * MINUTE for wall in walls]
        assert [clock.now() for clock in clocks] == list(shown)
        assert [clock.wall_error_ns for clock in clocks] == list(errors)
        nemesis.peace()
        assert region.wire.leapt_ns == 20 * MINUTE

    in_region(body)


def test_leap_that_is_taken_back_ends_with_the_fault() -> None:
    """A time server that was wrong for a while; with the peace at the latest."""

    async def body(region: SimRegion) -> None:
        nemesis = Nemesis(region, strikes=STRIKES, trace=Trace())
        leap_faults._leap(nemesis, fault(), Leap(20 * MINUTE, is_taken_back=True))
        await trio.sleep(0.6)
        assert region.wire.leapt_ns == 0
        leap_faults._leap(nemesis, replace(fault(), number=1), Leap(-20 * MINUTE, is_taken_back=True))
        assert region.wire.leapt_ns == -20 * MINUTE
        nemesis.peace()
        assert region.wire.leapt_ns == 0

    in_region(body)


@pytest.mark.parametrize("minutes", [11, 59, 65, -11, -59])
def test_nodes_serve_again_within_a_question_for_a_lease(minutes: int) -> None:
    """Until the median is of clocks after the leap, each node takes its own for wrong, and serves nothing."""

    async def body(region: SimRegion) -> None:
        await trio.sleep(0.1)
        region.wire.leapt_ns += minutes * MINUTE
        leapt_at = region.wire.now_ns
        while region.wire.now_ns < leapt_at + 2 * SECOND:
            await trio.sleep(0.01)
            if len(region.serving()) < len(region.nodes):
                last_out = region.wire.now_ns
        assert last_out - leapt_at < UNAVAILABLE_NS_MAX

    in_region(body)


def fault() -> Fault:
    return Fault(0, 0, FaultKind.WALL_LEAP, SECOND // 2, 0.5, 5)
