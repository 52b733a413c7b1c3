"""Replacing several members, one of them down or all of them at once: the region gets to where its rows point."""

from collections.abc import Sequence
from functools import partial

import pytest
import trio

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import NodeId
from keycluster.node import membership
from keycluster.simulations.region.region import SimRegion
from tests.simulations.region.quiet_region import in_region

ENOUGH_S = 30  # Of virtual time.


def members(names: str) -> list[NodeId]:
    return [NodeId(name) for name in names.split()]


def is_made_of(region: SimRegion, names: Sequence[NodeId]) -> bool:
    membership = region.membership()
    return membership is not None and list(membership.voters) == list(names) == sorted(region.rows())


async def replace(region: SimRegion, old: Sequence[NodeId], new: Sequence[NodeId], *, joins_first: bool) -> None:
    async def join() -> None:
        for name, other in zip(new, old, strict=True):
            await region.join(name, az=region.nodes[other].config.az, role=MemberRole.VOTER)

    if joins_first:
        await join()
    for name in old:
        await region.operate("RemoveNode", node_id=name)
    if not joins_first:
        await join()


@pytest.mark.parametrize(
    ("old", "new", "down", "joins_first"),
    [("n0 n1 n2", "n7 n8 n9", "", True), ("n0 n1", "n8 n9", "n2", True), ("n0 n1", "n8 n9", "n2", False)],
)
def test_members_that_are_all_to_leave_hand_the_region_on(old: str, new: str, down: str, *, joins_first: bool) -> None:
    """Whoever leads among them has nobody to hand over to at first; and the join token is of use while it lasts.

    It names whoever serves, and that may be those who leave.
    """

    async def body(region: SimRegion) -> list[NodeId]:
        for name in members(down):
            region.nodes[name].crash()
        with trio.fail_after(ENOUGH_S):
            await region.until(lambda: region.leader() is not None)
            await replace(region, members(old), members(new), joins_first=joins_first)
            goal = sorted(members(f"{new} {down}"))
            await region.until(partial(is_made_of, region, goal))
        return goal

    assert in_region(body)


def test_voter_whose_disk_hangs_is_not_counted_on() -> None:
    """It answers, and lacks little of an idle region; but it stores nothing, and would be needed without the leaver."""

    async def body(region: SimRegion) -> None:
        with trio.fail_after(ENOUGH_S):
            await region.until(lambda: region.leader() is not None)
            leader = region.leader()
            assert leader is not None
            running = leader.running
            assert running is not None
            lame, leaving = (name for name in members("n0 n1 n2") if name != leader.name)
            region.nodes[lame].slow_down(1, 1_000.0)  # Seconds, for each operation of its disk.
            await trio.sleep(5)  # Of leases that it can't renew.
            await region.operate("RemoveNode", node_id=leaving)
            await region.until(lambda: running.membership.warning() is not None)
            await region.operate("CreateAccessKey", account="123456789012")
        assert leaving in region.rows()
        assert f"until {lame} answers and has caught up" in str(running.membership.warning())

    in_region(body)


def test_leader_says_which_removals_wait() -> None:
    """It was told that a removal was accepted: an operator must hear that the node still votes, why, and what to do."""

    async def body(region: SimRegion) -> tuple[str, str]:
        region.nodes[NodeId("n2")].crash()
        with trio.fail_after(ENOUGH_S):
            await region.until(lambda: region.leader() is not None)
            leader = region.leader()
            assert leader is not None
            leaving = next(name for name in members("n0 n1") if name != leader.name)
            await region.operate("RemoveNode", node_id=leaving)
            running = leader.running
            assert running is not None
            await region.until(lambda: running.membership.warning() is not None)
            waiting = running.membership.warning()
            region.nodes[NodeId("n2")].start()
            await region.until(lambda: leaving not in region.rows() and running.membership.warning() is None)
        assert waiting is not None
        return leaving, waiting

    leaving, warning = in_region(body)
    assert warning.startswith(
        f"to be removed and members still: {leaving}. They stay until n2 answers and has caught up"
    )


def test_step_to_voters_who_do_not_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the leader takes everybody for alive."""
    step = membership.next_membership
    everybody = frozenset(members("n0 n1 n2"))
    monkeypatch.setattr(
        membership,
        "next_membership",
        lambda current, rows, *, leader, **_: step(current, rows, leader=leader, caught_up=everybody, heard=everybody),
    )

    async def body(region: SimRegion) -> list[str]:
        with trio.fail_after(ENOUGH_S):
            await region.until(lambda: region.leader() is not None)
            leader = region.leader()
            assert leader is not None
            away, leaving = (name for name in members("n0 n1 n2") if name != leader.name)
            region.nodes[away].crash()
            await trio.sleep(1)  # Until it has been silent for long.
            await region.operate("RemoveNode", node_id=leaving)
            await region.until(lambda: bool(region.checks.failures))
        return [failure.message for failure in region.checks.failures]

    (message,) = in_region(body)
    assert "goes over to voters" in message
