"""The nemesis: each fault has an effect, ends in its time, and leaves a region that recovers."""

import random

import pytest
import trio

from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region import node_faults
from keycluster.simulations.region.client_faults import CLIENT_STRIKES
from keycluster.simulations.region.finish import make_peace
from keycluster.simulations.region.lag_faults import LAG_STRIKES
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.node import Excuse
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.run import STRIKES, SUPPORTED
from keycluster.simulations.trace import Trace, What
from tests.simulations.region.quiet_region import in_region

NOT_HERE = {FaultKind.DUPLICATE, FaultKind.APPLY_HANG, FaultKind.CHANGE_ROLE}
"""TCP delivers once; apply hangs with its disk alone; the product has no such operation yet."""


def fault(
    kind: FaultKind, number: int = 0, *, at_s: float = 0.1, for_s: float = 0.8, strength: float = 0.6, seed: int = 5
) -> Fault:
    return Fault(number, int(at_s * SECOND), kind, int(for_s * SECOND), strength, seed)


def nemesis_of(region: SimRegion, trace: Trace | None = None) -> Nemesis:
    return Nemesis(region, strikes=STRIKES, trace=trace or Trace())


async def write(region: SimRegion) -> bool:
    await region.operate("CreateAccessKey", account="123456789012")
    return True


async def write_on(region: SimRegion) -> None:
    while True:
        await write(region)
        await trio.sleep(0.05)


def test_all_that_a_region_can_suffer_is_supported() -> None:
    """And what isn't has a reason."""
    assert set(FaultKind) - set(SUPPORTED) == NOT_HERE


@pytest.mark.parametrize(
    "kind", [kind for kind in SUPPORTED if kind not in {FaultKind.REMOVE, *CLIENT_STRIKES, *LAG_STRIKES}]
)
def test_fault_has_an_effect_and_the_region_recovers(kind: FaultKind) -> None:
    """Under writes; nothing of it is a finding."""
    trace = Trace(keep=True)

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region, trace)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on, region)
            await nemesis.run([fault(kind)], time_ns=6 * SECOND)
            nursery.cancel_scope.cancel()
        assert nemesis.counts == {kind.value: 1}
        await make_peace(nemesis, prove=lambda: write(region))
        assert region.checks.failures == []

    in_region(body, trace=trace)
    assert [record.detail[0] for record in trace.records() if record.what == What.FAULT] == [kind.value]


def test_removal_takes_none_that_is_needed() -> None:
    """Of three voters nobody goes; of four one."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        faults = [fault(FaultKind.REMOVE), fault(FaultKind.ADD_VOTER, 1, at_s=0.2), fault(FaultKind.REMOVE, 2, at_s=4)]
        await nemesis.run(faults, time_ns=8 * SECOND)
        assert nemesis.counts == {"add-voter": 1, "remove": 1}
        await make_peace(nemesis, prove=lambda: write(region))
        assert len(region.rows()) == 3
        assert region.checks.failures == []

    in_region(body)


def test_faults_of_a_kind_may_overlap() -> None:
    """A link is whole, a disk fast, a clock right again only when the last fault on it is over."""
    kinds = (FaultKind.PARTITION, FaultKind.CLOG, FaultKind.LOSS, FaultKind.DISK_SLOW, FaultKind.WALL_JUMP)
    faults = [
        fault(kind, number * 10 + again, at_s=0.1 + 0.2 * again, for_s=1 - 0.3 * again, strength=0.4)
        for number, kind in enumerate(kinds)
        for again in range(3)
    ]
    trace = Trace(keep=True)

    async def body(region: SimRegion) -> None:
        errors = [node.clock.wall_error_ns for node in region.nodes.values()]
        delays = [node.disk.delay_s for node in region.nodes.values()]
        nemesis = nemesis_of(region, trace)
        await nemesis.run(sorted(faults, key=lambda each: each.at_ns), time_ns=2 * SECOND)
        assert sum(record.what == What.FAULT for record in trace.records()) == len(faults)
        assert [node.clock.wall_error_ns for node in region.nodes.values()] == pytest.approx(errors, abs=SECOND // 50)
        assert [node.disk.delay_s for node in region.nodes.values()] == delays
        with trio.fail_after(5):
            await region.until(lambda: len(region.serving()) == 3)

    in_region(body, trace=trace)


@pytest.mark.parametrize("seed", range(5))
def test_disks_lose_data_one_at_a_time(seed: int) -> None:
    """While it is open what becomes of one nothing else happens, and it must not be needed."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        node = region.nodes[region.known_voters()[seed % 3]]
        nemesis.doubtful = node
        faults = [fault(kind, number, seed=seed) for number, kind in enumerate(SUPPORTED)]
        await nemesis.run(faults, time_ns=SECOND // 2)
        assert not nemesis.counts
        assert len(region.serving()) == 3

    in_region(body)


def test_left_out_fault_changes_no_other() -> None:
    """Each draws by its own numbers: so a schedule can be shrunk."""

    def struck(faults: list[Fault]) -> list[tuple[object, ...]]:
        trace = Trace(keep=True)

        async def body(region: SimRegion) -> None:
            await nemesis_of(region, trace).run(faults, time_ns=2 * SECOND)

        in_region(body, trace=trace)
        return [record.detail for record in trace.records() if record.what == What.FAULT]

    one, two = fault(FaultKind.DRIFT, 0), fault(FaultKind.DISK_SLOW, 1, at_s=1)
    assert struck([one, two]) == struck([one]) + struck([two])


def test_victim_is_often_the_leader() -> None:
    """Most bugs are about its loss."""

    async def body(region: SimRegion) -> None:
        nemesis, rng = nemesis_of(region), random.Random(1)
        victims = [nemesis.victim(rng) for _ in range(300)]
        assert 0.5 < victims.count(region.leader()) / len(victims) < 0.8
        assert len(set(victims)) == 3

    in_region(body)


def test_second_fault_of_a_disk_takes_no_excuse_back() -> None:
    """A node that is about to end by the first one is excused, though nothing came of the second."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[region.known_voters()[0]]
        first = node_faults._excuse(node)
        node.disk.counts.full += 1
        second = node_faults._excuse(node)
        node_faults._excuse_no_more(node, first)
        node_faults._excuse_no_more(node, second)
        assert Excuse.DISK_FAILS in node.excuses
        node.excuses.clear()
        node_faults._excuse_no_more(node, node_faults._excuse(node))
        assert not node.excuses

    in_region(body)


TRAPS = (FaultKind.CRASH_AT_WRITE, FaultKind.CRASH_AT_STEP, FaultKind.PAUSE_BEFORE_OUTPUT)


@pytest.mark.parametrize("kind", TRAPS)
def test_trap_that_has_not_sprung_by_the_peace_never_does(kind: FaultKind) -> None:
    """Nor while a disk has lost data: all that waits is disarmed. It has had no effect, so it isn't counted."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        for number in range(6):
            nemesis.strike(fault(kind, number, seed=number))
        nemesis.end_all()
        for _ in range(40):
            await write(region)
        assert not nemesis.counts
        assert all(node.lives == 1 and not node.is_paused for node in region.nodes.values())

    in_region(body)


@pytest.mark.parametrize("kind", TRAPS)
def test_trap_counts_when_it_springs(kind: FaultKind) -> None:
    """Once; a fault that came to nothing covers nothing."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        nemesis.strike(fault(kind))
        assert not nemesis.counts
        for _ in range(60):
            await write(region)
        assert nemesis.counts == {kind.value: 1}

    in_region(body)


@pytest.mark.parametrize(
    "kind", [FaultKind.ADD_VOTER, FaultKind.ADD_LEARNER, FaultKind.REMOVE, FaultKind.REPLACE, FaultKind.TRANSFER]
)
def test_operators_fault_that_nobody_answers_has_no_effect(kind: FaultKind) -> None:
    """Asked of a region of which a majority is gone."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        leader = region.leader()
        for node in region.nodes.values():
            if node is not leader:
                region.frozen.add(node.name)
                node.crash()
        await nemesis.run([fault(kind)], time_ns=4 * SECOND)
        assert not nemesis.counts

    in_region(body)


def test_clog_that_ended_early_stops_no_more_links() -> None:
    """Its links stop one by one: those whose turn hadn't come stay whole."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        nemesis.strike(fault(FaultKind.CLOG, for_s=8, strength=1))
        await trio.sleep(0.5)
        nemesis.end_all()
        for _ in range(20):
            with trio.fail_after(1):
                await write(region)
            await trio.sleep(0.4)

    in_region(body)


def test_clocks_drift_without_a_fault_and_go_back_to_that() -> None:
    """No two machines' clocks run alike; a fault of theirs ends where they were before it."""

    async def body(region: SimRegion) -> None:
        rates = [node.clock.ppm for node in region.nodes.values()]
        assert len(set(rates)) > 1
        nemesis = nemesis_of(region)
        nemesis.strike(fault(FaultKind.DRIFT, strength=1))
        assert [node.clock.ppm for node in region.nodes.values()] != rates
        nemesis.end_all()
        assert [node.clock.ppm for node in region.nodes.values()] == rates

    in_region(body)


FELT_LATER = (
    *(FaultKind.LOSS, FaultKind.DELAY, FaultKind.REORDER),
    *(FaultKind.PARTITION, FaultKind.ONE_WAY, FaultKind.PARTIAL, FaultKind.CLOG),
    *(FaultKind.DISK_SLOW, FaultKind.DISK_STALL, FaultKind.DISK_FULL, FaultKind.DISK_ERROR),
)


@pytest.mark.parametrize("kind", FELT_LATER)
def test_fault_that_is_over_before_anybody_feels_it_never_counts(kind: FaultKind) -> None:
    """Nor does its being set up; what happens afterwards isn't its doing."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        nemesis.strike(fault(kind, strength=0.9))
        assert not nemesis.counts
        nemesis.end_all()
        for _ in range(10):
            await write(region)
        assert not nemesis.counts

    in_region(body)


def test_log_that_nothing_was_written_to_is_not_cut() -> None:
    """Nobody asks for anything: there is nothing to cut, and so no effect."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        nemesis.strike(fault(FaultKind.COMPACT, strength=1))
        await trio.sleep(1.5)
        assert not nemesis.counts
        nemesis.strike(fault(FaultKind.COMPACT, 1, strength=1))
        for _ in range(5):
            await write(region)
        await trio.sleep(1.5)
        assert nemesis.counts == {"compact": 1}

    in_region(body)


def test_full_disk_counts_once_a_write_was_refused() -> None:
    """However many were; a disk that was never full in its time had no fault."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        nemesis.strike(fault(FaultKind.DISK_FULL, for_s=3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on, region)
            await trio.sleep(4)
            nursery.cancel_scope.cancel()
        refused = sum(node.disk.counts.full for node in region.nodes.values())
        assert nemesis.counts["disk-full"] == (refused > 0)
        assert refused

    in_region(body)


def test_fault_hidden_by_a_worse_one_has_no_effect() -> None:
    """Links have the worst of each; a cut that nobody runs into isn't felt either."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        nemesis.strike(fault(FaultKind.LOSS, 0, for_s=3, strength=0.1))
        nemesis.strike(fault(FaultKind.LOSS, 1, for_s=3, strength=1.0))
        await trio.sleep(2)
        assert nemesis.counts == {"loss": 1}
        link = (region.known_voters()[0], "nobody")
        nemesis.attack.cut(2, [link], lambda: nemesis.took_effect(fault(FaultKind.ONE_WAY, 2)))
        await trio.sleep(1)
        nemesis.attack.heal(2)
        assert nemesis.counts == {"loss": 1}

    in_region(body)


def test_restart_of_a_node_that_has_gone_does_not_count() -> None:
    """It crashed in the very instant."""

    async def body(region: SimRegion) -> None:
        nemesis = nemesis_of(region)
        victim = nemesis.victim(fault(FaultKind.RESTART).rng())
        assert victim is not None
        victim.crash()
        assert not await node_faults.stop_and_start(nemesis, victim, SECOND)

    in_region(body)
