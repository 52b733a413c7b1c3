"""Nodes on old copies of their disks: that one is held back is looked at where it happens, not by what comes of it."""

import pytest
import trio

from keycluster.cluster.replica import Replica
from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.node import Excuse, NodeState, SimNode
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.region.run import STRIKES
from keycluster.simulations.trace import Trace
from tests.simulations.region.quiet_region import in_region


async def write(region: SimRegion) -> None:
    await region.operate("CreateAccessKey", account="123456789012")


def follower_of(region: SimRegion) -> SimNode:
    return next(node for node in region.nodes.values() if node is not region.leader())


async def put_back_old_copy(region: SimRegion, node: SimNode, *, is_older: bool) -> None:
    copy = node.disk.files()
    if is_older:
        for _ in range(3):
            await write(region)
        await trio.sleep(0.5)
    node.crash()
    node.disk.fill(copy)
    node.excuses.add(Excuse.OLD_DISK)
    node.start()


def findings_of(*, is_older: bool) -> list[str]:
    """Also of an election that the node is needed for."""

    async def body(region: SimRegion) -> list[str]:
        node = follower_of(region)
        await put_back_old_copy(region, node, is_older=is_older)
        with trio.move_on_after(3):
            await region.until(lambda: node.state is NodeState.BROKEN or node.serves)
        assert (node.state is NodeState.BROKEN, node.serves) != (False, False) or is_older
        assert (Excuse.OLD_DISK in node.excuses) == is_older
        leader = region.leader()
        if leader is not None:
            leader.crash()
        await trio.sleep(4)
        return [failure.checker for failure in region.checks.failures]

    return in_region(body)


def test_node_that_is_told_of_what_it_lost_stops() -> None:
    """It is held back before it votes or serves: no finding."""
    assert findings_of(is_older=True) == []


def test_node_whose_copy_lacks_nothing_goes_on() -> None:
    """And is excused nothing from then on."""
    assert findings_of(is_older=False) == []


def test_node_that_does_not_listen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nothing committed is lost with its disk, and no client can tell."""
    monkeypatch.setattr(Replica, "learn_known_of_me", lambda *_: None)
    assert findings_of(is_older=True) == ["witness"]


@pytest.mark.parametrize("seed", [3, 4])
def test_roll_back_puts_in_what_peers_can_tell(seed: int) -> None:
    """The nemesis' copies are old enough; the node stops and is replaced."""

    async def body(region: SimRegion) -> None:
        nemesis = Nemesis(region, strikes=STRIKES, trace=Trace())

        async def write_on() -> None:
            while True:
                await write(region)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on)
            fault = Fault(0, SECOND // 10, FaultKind.ROLLED_BACK, SECOND // 2, 0.5, seed)
            await nemesis.run([fault], time_ns=12 * SECOND)
            nursery.cancel_scope.cancel()
        assert nemesis.counts == {"rolled-back": 1}
        assert [node.state for node in region.nodes.values()].count(NodeState.BROKEN) == 1
        assert len(region.rows()) == 3
        assert region.checks.failures == []

    in_region(body)
