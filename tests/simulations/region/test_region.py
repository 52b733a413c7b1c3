"""A simulated region: made once, copied, changed by what an operator does."""

import time

import pytest
import trio

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.errors import KmsError
from keycluster.node.joining import JoinFailed
from keycluster.simulations.region.deterministic import run_deterministically
from keycluster.simulations.region.node import Excuse, NodeState
from keycluster.simulations.region.region import RegionShape, SimRegion, open_region
from keycluster.simulations.region.template import template_of
from keycluster.simulations.trace import Trace
from tests.simulations.region.quiet_region import in_region

N3 = NodeId("n3")


def test_template_is_made_once_and_copied() -> None:
    """Runs change their own copies; setting one up costs little."""
    shape = RegionShape(voters=3, learners=1)
    template = template_of(shape)
    assert template_of(shape) is template
    before = {name: dict(files) for name, files in template.files.items()}
    took_s = []

    async def main() -> None:
        began = time.process_time()
        async with open_region(seed="1", trace=Trace()) as region:
            region.put_up(shape, template.files, template.client_ca)
            took_s.append(time.process_time() - began)
            await region.all_serve(shape)
            await region.operate("CreateAccessKey", account="123456789012")

    run_deterministically(main, seed=1)
    run_deterministically(main, seed=1)
    assert {name: dict(files) for name, files in template.files.items()} == before
    assert min(took_s) < 0.1


@pytest.mark.parametrize("shape", [RegionShape(1), RegionShape(5, azs=3), RegionShape(3, learners=2, azs=1)])
def test_members_are_spread_over_the_azs(shape: RegionShape) -> None:
    """In the roles that the shape gives them."""
    members = shape.members()
    assert [member.role for member in members].count(MemberRole.VOTER) == shape.voters
    assert len({member.az for member in members}) == min(shape.azs, len(members))
    assert set(template_of(shape).files) == {member.name for member in members}


def test_node_joins_and_is_removed() -> None:
    """By a real token, through a real door; a removed one ends by itself, and that is no finding."""

    async def body(region: SimRegion) -> None:
        name = region.new_name()
        node = await region.join(name, az="a", role=MemberRole.VOTER)
        await region.until(lambda: node.serves and name in (region.membership() or Membership(())).voters)
        node.excuses.add(Excuse.REMOVED)
        await region.operate("RemoveNode", node_id=name)
        await region.until(lambda: node.state is NodeState.BROKEN)
        assert name not in region.rows()
        assert region.checks.failures == []

    in_region(body)


def test_join_that_found_nobody_is_repeated_with_the_same_token() -> None:
    """The machine keeps its folder; ids are never given twice."""

    async def body(region: SimRegion) -> None:
        links = region.network.links
        name = region.new_name()
        for other in region.nodes:
            links.cut(other, name)
        with pytest.raises(JoinFailed):
            await region.join(name, az="b", role=MemberRole.LEARNER)
        assert name not in region.nodes
        for other in region.nodes:
            links.heal(other, name)
        [(node, token)] = region.unfinished.values()
        await region.join_again(node, token)
        assert not region.unfinished
        await region.until(lambda: node.serves)
        assert region.new_name() not in region.nodes

    in_region(body)


def test_operator_asks_until_somebody_answers() -> None:
    """Refusals that are final come out; nodes that can't serve are not asked."""

    async def body(region: SimRegion) -> None:
        for node in region.nodes.values():
            node.crash()
            region.start_after(node, 500_000_000)
        issued = await region.operate("IssueJoinToken", az="a", role="learner")
        assert issued.token
        with pytest.raises(KmsError):
            await region.operate("RemoveNode", node_id="nobody")

    in_region(body)


def test_node_that_is_kept_down_starts_in_its_time() -> None:
    """Of several reasons the last to end counts."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[NodeId("n1")]
        node.crash()
        began = trio.current_time()
        region.start_after(node, 300_000_000)
        region.start_after(node, 900_000_000)
        await region.until(lambda: node.state is NodeState.UP)
        assert trio.current_time() - began == pytest.approx(0.9, abs=0.01)
        region.frozen.add(node.name)
        node.crash()
        region.start_now(node)
        assert node.state is NodeState.DOWN

    in_region(body)
