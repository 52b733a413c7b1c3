"""Whole nodes against each other: what users are promised while nodes come, go, die and come back."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from keycluster.cli.node_process import failure_of
from keycluster.cluster.keys.records import MemberRole, load_member
from keycluster.cluster.seams import DEFAULT_LIMITS, ServeLimits, World
from keycluster.cluster.store.errors import StoreFailed
from keycluster.cluster.types import KeyId
from keycluster.node.doors.limits import NEWCOMERS
from keycluster.node.network import RealNetwork
from keycluster.node.raft_driver import LogRetention
from keycluster.node.world import RealDisk, real_world
from tests.node.region_in_process import RegionInProcess, region_in_process

T = TypeVar("T")


async def three_voters(region: RegionInProcess) -> None:
    """n0 leads."""
    await region.found("n0", az="a")
    await region.join("n1", az="b")
    await region.join("n2", az="c")
    await region.all_serve(voters=3)


async def test_a_write_is_seen_everywhere_when_it_returns(tmp_path: Path) -> None:
    """Contract 1 and 2: any node takes it, and whoever may serve acts on it at once."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        for name in ("n0", "n1", "n2"):
            key = await region.create_key(name)
            serving = [other for other in region.running if region.node(other).proposals.may_serve()]
            assert name in serving
            assert all(region.has(other, key) for other in serving)


async def test_a_killed_leader_loses_nothing(tmp_path: Path) -> None:
    """Contract 4: what was acknowledged stays, a write under way is carried out once, and the dead one catches up."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        before = await region.create_key("n1")
        leader = await region.leader()
        alive = next(name for name in region.running if name != leader)
        under_way: list[KeyId] = []

        async def create() -> None:
            under_way.append(await region.create_key(alive))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(create)
            await region.kill(leader)
        assert len(under_way) == 8
        assert await region.leader() != leader
        await region.start(leader)
        after = await region.create_key(leader)
        await region.all_serve()
        keys = [before, after, *under_way]
        assert all(region.stored(name, key) for name in region.running for key in keys)
        index = min(region.node(name).room.view.applied_index for name in region.running)
        digests = {region.node(name).stores.state.digest_at(index) for name in region.running}
        assert len(digests) == 1
        assert None not in digests


async def test_a_node_far_behind_gets_a_snapshot(tmp_path: Path) -> None:
    """Where the log is compacted the state is sent whole; afterwards no old copy of it lies around."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        for running in region.running.values():
            running.node.driver.retention = LogRetention(kept=8, slack=4)
        killed = region.node("n2")
        await region.kill("n2")
        stopped_at = killed.stores.log.last_index
        keys = [await region.create_key("n1")]  # Its place in the log is kept until it counts as dead.
        while region.node("n0").stores.log.first_index <= stopped_at + 1:
            keys.append(await region.create_key("n0"))
        await region.start("n2")
        await region.all_serve(voters=3)
        assert region.node("n2").stores.state.installed_index > stopped_at
        assert all(region.has("n2", key) for key in keys)
        assert region.has("n2", await region.create_key("n2"))
        stores = [region.node(name).stores for name in region.running]
        await region.until(lambda: not any(path.exists() for each in stores for path in each.leftovers))


async def test_a_learner_serves_without_a_vote(tmp_path: Path) -> None:
    """It gets every entry and a lease, and counts for no majority."""
    async with region_in_process(tmp_path) as region:
        await region.found("n0")
        await region.join("n1", az="b", role=MemberRole.LEARNER)
        await region.all_serve(voters=1)
        key = await region.create_key("n1")
        assert region.has("n1", key)
        assert region.node("n0").replica.core.membership.learners == ("n1",)


async def test_a_removed_voter_ends(tmp_path: Path) -> None:
    """The region goes on without it; it is told, and must not run on."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        await region.remove("n2", at="n1")
        failure = await region.failure_of("n2")
        assert isinstance(failure, ExceptionGroup)
        assert "was removed" in str(failure_of_node(failure))
        await region.all_serve(voters=2)
        assert region.has("n0", await region.create_key("n1"))


async def test_a_removed_leader_hands_over_first(tmp_path: Path) -> None:
    """Nobody waits for a time-out, and nobody takes itself out."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        await region.remove("n0", at="n0")
        await region.failure_of("n0")
        await region.all_serve(voters=2)
        assert await region.leader() != "n0"


async def test_a_stopping_leader_hands_over_and_answers(tmp_path: Path) -> None:
    """By the next term and not by a time-out; writes under way there and elsewhere come to their end."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        term = region.node("n0").replica.core.term
        done: list[object] = []

        async def create(name: str) -> None:
            done.append(await region.create_key(name))

        async with trio.open_nursery() as nursery:
            for name in ("n0", "n0", "n1", "n2"):
                nursery.start_soon(create, name)
            stopping = region.node("n0")
            await region.until(lambda: stopping.proposals.statistics().under_way == 2)
            await region.stop("n0")
            assert not stopping.proposals.may_serve()
            assert any(region.node(name).replica.core.is_leader for name in ("n1", "n2"))
        assert len(done) == 4
        assert region.node("n1").replica.core.term == term + 1


@pytest.mark.parametrize("name", ["n0", "n2"])
async def test_a_node_that_moved_is_found_at_its_new_addresses(tmp_path: Path, name: str) -> None:
    """It is dialled at the old ones until its row says otherwise, and it says so though nobody can answer it."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        await region.stop(name)
        config = region.move(name)
        key = await region.create_key("n1")
        await region.start(name)
        await region.all_serve(voters=3)
        assert region.has(name, key)
        new = (config.peer.advertised, config.native.advertised, config.aws.advertised)

        def known_at(other: str) -> tuple[str, str, str] | None:
            row = load_member(region.node(other).stores.state.view, config.node)
            return None if row is None else (row.peer_address, row.native_address, row.aws_address)

        await region.until(lambda: all(known_at(other) == new for other in region.running))


async def test_a_lone_node_that_moved_says_so_too(tmp_path: Path) -> None:
    """It leads, and joiners are told where it is."""
    async with region_in_process(tmp_path) as region:
        await region.found("n0")
        await region.stop("n0")
        config = region.move("n0")
        await region.start("n0")
        view = region.node("n0").stores.state.view

        def is_there() -> bool:
            row = load_member(view, config.node)
            return row is not None and row.peer_address == config.peer.advertised

        await region.until(is_there)
        await region.join("n1", az="b")
        await region.all_serve(voters=2)


async def test_who_stops_holds_up_no_write(tmp_path: Path) -> None:
    """A node that ended with a lease would be waited for, up to L: neither leader nor follower leaves one behind."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        await region.stop("n1")
        leader = region.node("n0")
        assert leader.replica.holders(leader.world.clock.now()) == ["n2"]
        await region.start("n1")
        await region.all_serve(voters=3)
        await region.stop("n0")
        new_leader = region.node(await region.leader())
        assert "n0" not in new_leader.replica.holders(new_leader.world.clock.now())


async def test_a_full_disk_stops_the_node_with_one_line(tmp_path: Path) -> None:
    """At once, by the disk's own words; the others go on."""
    async with region_in_process(tmp_path) as region:
        disk, world = FullDisk(), real_world()
        region.worlds["n2"] = World(world.clock, world.entropy, disk, world.network)
        await three_voters(region)
        disk.is_full = True
        await region.create_key("n0")
        line = str(failure_of_node(await region.failure_of("n2")))
        assert "the disk failed: FullError" in line
        assert "\n" not in line
        assert region.has("n1", await region.create_key("n1"))


class NotedNetwork(RealNetwork):
    """Notes what its ports take."""

    def __init__(self) -> None:
        super().__init__()
        self.connections_max: dict[str, int] = {}

    async def serve_peers(self, *arguments: Any, limits: ServeLimits = DEFAULT_LIMITS, **named: Any) -> None:
        self.connections_max["peer"] = limits.connections_max
        await super().serve_peers(*arguments, limits=limits, **named)

    async def serve_native(self, *arguments: Any, limits: ServeLimits = DEFAULT_LIMITS, **named: Any) -> None:
        self.connections_max["native"] = limits.connections_max
        await super().serve_native(*arguments, limits=limits, **named)

    async def serve_plain(self, *arguments: Any, limits: ServeLimits = DEFAULT_LIMITS, **named: Any) -> None:
        self.connections_max["aws"] = limits.connections_max
        await super().serve_plain(*arguments, limits=limits, **named)


async def test_each_port_takes_as_many_connections_as_configured(tmp_path: Path) -> None:
    """`connections_max` of each section; doors turn the last ones away themselves."""
    async with region_in_process(tmp_path) as region:
        network, world = NotedNetwork(), real_world()
        region.worlds["n0"] = World(world.clock, world.entropy, world.disk, network)
        await region.found("n0")
        config = region.node("n0").config
    assert network.connections_max == {
        "peer": config.peer.connections_max,
        "native": config.native.connections_max + NEWCOMERS,
        "aws": config.aws.connections_max + NEWCOMERS,
    }


async def test_a_rolled_back_node_ends(tmp_path: Path) -> None:
    """It acknowledged more than its disk holds: it may neither vote nor serve (security.md, 5)."""
    async with region_in_process(tmp_path) as region:
        await three_voters(region)
        await region.create_key("n0")
        await region.kill("n2")
        shutil.copytree(region.data("n2"), tmp_path / "copy")
        await region.start("n2")
        await region.all_serve(voters=3)
        for _ in range(3):  # What it acknowledged of one goes along with the next.
            await region.create_key("n0")
        await region.kill("n2")
        shutil.rmtree(region.data("n2"))
        shutil.copytree(tmp_path / "copy", region.data("n2"))
        await region.start("n2")
        assert "rolled back" in str(failure_of_node(await region.failure_of("n2")))


def failure_of_node(failure: BaseException) -> BaseException:
    """What the command line would end with."""
    assert isinstance(failure, BaseExceptionGroup)
    return failure_of(_Named(), failure)  # type: ignore[arg-type]  # All that is asked of a node.


class _Named:
    class config:  # noqa: N801
        node = "n2"


class FullDisk(RealDisk):
    """Every write fails from some moment on."""

    is_full = False

    async def run(self, work: Callable[[], T]) -> T:
        if self.is_full:
            raise StoreFailed(Path("log.db"), "FullError: database or disk is full")
        return await super().run(work)
