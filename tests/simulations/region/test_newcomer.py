"""A member that was away while others came."""

import trio

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import NodeId
from keycluster.simulations.region.region import SimRegion
from tests.simulations.region.quiet_region import in_region

RETURN_SECONDS = 5.0


def test_member_that_was_away_follows_a_leader_that_came_meanwhile() -> None:
    """It can't know of it from the log: only a leader sends entries."""

    async def body(region: SimRegion) -> None:
        leader = region.leader()
        assert leader is not None
        away = next(node for node in region.nodes.values() if node is not leader)
        away.crash("a test")
        newcomer = await region.join(NodeId("n3"), az="a", role=MemberRole.VOTER)
        await region.until(lambda: newcomer.name in region.known_voters() and newcomer.serves)
        await region.ask(leader, "TransferLeadership", node_id=newcomer.name)
        await region.until(lambda: region.leader() is newcomer and newcomer.serves)
        away.start()
        with trio.fail_after(RETURN_SECONDS):
            await region.until(lambda: away.serves)
        assert region.leader() is newcomer

    in_region(body)
