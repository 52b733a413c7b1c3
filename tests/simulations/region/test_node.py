"""A simulated node: what it ends by is judged, what a dead one still does reaches nothing."""

import random

import pytest
import trio

from keycluster.cluster.seams import DialError
from keycluster.cluster.types import SECOND, NodeId
from keycluster.simulations.disk import DiskGone
from keycluster.simulations.region.node import Excuse, NodeState, SimNode
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.trace import Trace, What
from tests.simulations.region.quiet_region import in_region

N0, N2 = NodeId("n0"), NodeId("n2")


async def write(region: SimRegion) -> None:
    await region.operate("CreateAccessKey", account="123456789012")


def test_node_that_crashed_comes_back_with_what_it_had() -> None:
    """Its disk has all that was acknowledged; the others went on without it."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N0]
        await write(region)
        node.crash()
        assert (node.state, node.running) == (NodeState.DOWN, None)
        await write(region)
        node.start()
        await region.until(lambda: node.serves)
        assert node.lives == 2
        assert region.checks.failures == []

    in_region(body)


def test_node_that_is_killed_keeps_unsynced_writes() -> None:
    """The process is gone, the system goes on."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N0]
        node.disk.write_at(node.config.data / "note", 0, b"not synced")
        node.kill()
        assert node.disk.read(node.config.data / "note") == b"not synced"
        node.start()
        await region.until(lambda: node.serves)

    in_region(body)


def test_dead_node_reaches_neither_disk_nor_network() -> None:
    """What a killed process still does while it unwinds is nobody's."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N0]
        world = node.world("of the dead")
        node.crash()
        for reach in (
            lambda: world.disk.replace(node.config.data / "note", b"late"),
            lambda: world.disk.remove(node.config.data / "node.sealed"),
            lambda: world.disk.size(node.config.data / "node.sealed"),
        ):
            with pytest.raises(DiskGone):
                reach()
        with pytest.raises(DialError):
            await region.network.of("c").dial_native(node.config.native.advertised, client_ca=None)
        await node.is_gone()

    in_region(body)


async def until_it_serves(region: SimRegion, node: SimNode) -> None:
    await region.until(lambda: node.serves)


def test_node_crashes_in_the_midst_of_a_write() -> None:
    """At any operation of its disk; it comes back, and nobody calls that a finding."""

    async def body(region: SimRegion) -> None:
        for operations in range(0, 12, 3):
            node = region.leader() or region.nodes[N0]
            crashed = trio.Event()
            node.crash_at_write(operations, crashed.set)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, region)
                await crashed.wait()
            assert node.disk.counts.crashes
            node.start()
            await until_it_serves(region, node)
        assert region.checks.failures == []

    in_region(body)


def test_node_told_to_stop_hands_over_and_is_started_again() -> None:
    """As under systemd."""

    async def body(region: SimRegion) -> None:
        node = region.leader()
        assert node is not None
        node.stop()
        await region.until(lambda: node.state is NodeState.DOWN)
        await region.until(lambda: region.leader() not in (None, node))
        await region.until(lambda: node.serves)

    in_region(body)


def test_paused_node_takes_no_step_and_goes_on() -> None:
    """Past the end of its leases: it doesn't serve then, until it hears again."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N2]
        node.pause()
        applied = node.running.replica.applied_index if node.running else None
        await write(region)
        await trio.sleep(2)
        assert node.running is not None
        assert (node.running.replica.applied_index, node.serves) == (applied, False)
        node.resume()
        await region.until(lambda: node.serves)
        assert region.checks.failures == []

    in_region(body)


def flip_some(node: SimNode, name: str) -> None:
    """Bytes all over a file of the node."""
    rng = random.Random(1)
    path = next(path for path in node.disk.files() if path.name == name)
    for _ in range(200):
        node.disk.flip(path, rng.randrange(node.disk.size(path)))


@pytest.mark.parametrize("excused", [True, False])
def test_node_with_changed_bytes_refuses_to_go_on(excused: bool) -> None:
    """Where nobody has changed any, that is a finding; either way it isn't started from that disk again."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N2]
        node.crash()
        flip_some(node, "state.db")
        if excused:
            node.rotten.add(next(path for path in node.disk.files() if path.name == "state.db"))
        node.start()
        await region.until(lambda: node.state is NodeState.BROKEN)
        assert [failure.checker for failure in region.checks.failures] == ([] if excused else ["endings"])
        node.start()
        assert node.state is NodeState.BROKEN
        await write(region)

    in_region(body)


def test_node_without_its_seal_stays_down_until_it_is_back() -> None:
    """It is tried again and again."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N2]
        path = node.config.seal.path
        assert path is not None
        seal = node.disk.files()[path]
        node.crash()
        node.disk.remove(path)
        node.excuses.add(Excuse.NO_SEAL)
        node.start()
        await region.until(lambda: node.lives >= 3)
        assert not node.serves
        node.disk.put(path, seal)
        await region.until(lambda: node.serves)
        assert region.checks.failures == []

    in_region(body)


def test_node_whose_disk_is_full_ends_and_comes_back() -> None:
    """A full disk is no damage."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N2]
        node.excuses.add(Excuse.DISK_FAILS)
        node.disk.bytes_max = node.disk.bytes_used()
        while node.state is NodeState.UP:
            await write(region)
        node.disk.bytes_max = None
        await region.until(lambda: node.serves)
        assert region.checks.failures == []

    in_region(body)


def test_what_nodes_do_is_in_the_trace() -> None:
    """Their lives, who leads, who serves, what is applied, and what they log."""
    trace = Trace(keep=True)

    async def body(region: SimRegion) -> None:
        await write(region)
        region.nodes[N0].crash()
        await trio.sleep(3)

    in_region(body, trace=trace)
    seen = {record.what for record in trace.records()}
    assert {What.STARTS, What.LEADS, What.SERVES, What.APPLIES, What.SETTLED, What.CRASHES, "info"} <= seen
    assert all(record.at_ns < 60 * SECOND for record in trace.records())


@pytest.mark.parametrize("rotten", ["log.db", "state.db-wal", "seal.key"])
def test_changed_bytes_excuse_what_they_can_lead_to_only(rotten: str) -> None:
    """A node whose seal doesn't open is a finding where bytes of another file changed."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N2]
        node.crash()
        flip_some(node, "seal.key")
        node.rotten.update(path for path in node.disk.files() if path.name == rotten)
        node.start()
        with trio.fail_after(20):
            await region.until(lambda: node.lives > 1 and node.state is not NodeState.UP)
        assert [failure.checker for failure in region.checks.failures] == ([] if rotten == "seal.key" else ["endings"])

    in_region(body)


def test_node_whose_disk_failed_is_excused_until_it_has_ended() -> None:
    """It may serve for a moment after that, from what it has in memory."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N2]
        node.excuses.add(Excuse.DISK_FAILS)
        node.disk.syncs_fail_next = 1
        node.on_disk_failure = node.has_served
        await write(region)
        await region.until(lambda: node.state is NodeState.DOWN)
        assert not region.checks.failures
        node.start()
        await region.until(lambda: node.serves)
        assert node.excuses == set()

    in_region(body)


def test_excuses_end_when_a_node_serves_again() -> None:
    """But for pages of databases that nobody may have read yet, until a snapshot takes their place."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N2]
        data = node.config.data
        node.crash()
        node.excuses |= {Excuse.OLD_DISK, Excuse.DISK_FAILS}
        node.rotten |= {data / "node.sealed", data / "log" / "log.db-wal", data / "state" / "state.db"}
        node.start()
        await region.until(lambda: node.serves)
        await write(region)
        assert node.excuses == set()
        assert node.rotten == {data / "state" / "state.db"}
        node.has_new_state()
        assert node.rotten == set()

    in_region(body)
