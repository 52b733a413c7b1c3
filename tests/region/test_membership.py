"""Nodes join and leave a region of real processes while it serves: 0 calls fail, and who was removed stays out."""

import random
from pathlib import Path

import pytest
import trio

from keycluster import KeyClient
from keycluster.node.raft_driver import DEFAULT_RETENTION
from tests.region.dev_region import DevRegion, dev_region, rounds
from tests.region.steady_load import PLAINTEXT, SteadyLoad, steady_load, until_serves, write_many

COMPACTED_AFTER = DEFAULT_RETENTION.kept + DEFAULT_RETENTION.slack + 64
"""Commands after which the log no longer has its beginning: who joins then needs a snapshot."""

ENDS_WITHIN_S = 15.0


async def until_ended(region: DevRegion, name: str) -> None:
    with trio.fail_after(ENDS_WITHIN_S):
        while region.node(name).is_running:
            await trio.sleep(0.05)


async def remove_and_watch(region: DevRegion, load: SteadyLoad, name: str) -> str:
    """Removes it, sees its process end, and that it can't come back. Returns what it said."""
    await load.until_more_writes()
    removed = await trio.to_thread.run_sync(region.operate, "remove", name)
    assert removed.returncode == 0, removed.stderr
    await until_ended(region, name)
    said = (region.node_folder(name) / "node.log").read_text().splitlines()[-1]
    assert said.startswith(f"keycluster: node {name} stops: ")
    again = region.run_node(name)
    assert await trio.to_thread.run_sync(again.process.wait, ENDS_WITHIN_S) == 1
    assert len(again.last_words) == 1, again.text
    assert "removed" in again.last_words[0]
    await load.until_more_writes()
    return again.last_words[0]


async def kill_while_it_starts(region: DevRegion, name: str, times: int) -> None:
    """At moments from before it is up until after it has caught up."""
    choice = random.Random(6)
    for _ in range(times):
        region.restart_node(name)
        await trio.sleep(choice.uniform(0.3, 1.5))
        await trio.to_thread.run_sync(region.kill_node, name)


@pytest.mark.timeout(180)
async def test_a_fourth_node_joins_by_snapshot_and_votes(tmp_path: Path) -> None:
    """It catches up by snapshot while writes go on, killed on the way; then the region needs its vote and has it."""
    with dev_region(tmp_path / "region") as region:
        async with KeyClient.from_endpoints(region.endpoints_file) as client:
            key = (await client.create_key()).key_metadata.key_id
            await write_many(client, key, COMPACTED_AFTER)
            async with steady_load(region) as load:
                await load.until_more_writes()
                admitted = await trio.to_thread.run_sync(region.admit_node, "n4", "us-east-1d")
                assert admitted.returncode == 0, admitted.stderr
                await kill_while_it_starts(region, "n4", rounds(10, 1))
                began = trio.current_time()
                region.restart_node("n4")
                await until_serves(region, "n4", role="voter")
                joined_s = trio.current_time() - began
                assert "snapshot installed" in (region.node_folder("n4") / "node.log").read_text()
                # Three of four are a majority: without n4's vote and its disk nothing can be decided now.
                leader = str((await client.node_status()).leader)
                await trio.to_thread.run_sync(region.kill_node, leader)
                await load.until_more_writes(20)
                voted_in = (await client.node_status()).leader
                region.restart_node(leader)
                await until_serves(region, leader)
                await load.until_more_writes()
    print(
        f"\na fourth node joined by snapshot and voted in {joined_s:.1f} s; {leader} killed, {voted_in} leads: {load}"
    )
    load.assert_unharmed()


@pytest.mark.timeout(180)
async def test_a_removed_voter_cannot_come_back(tmp_path: Path) -> None:
    """A follower, then the leader: each process ends with one clear line, started again too; no call fails."""
    with dev_region(tmp_path / "region", "--nodes", "4") as region:
        async with steady_load(region) as load:
            leader = str((await load.client.node_status()).leader)
            follower = next(node.id for node in region.nodes() if node.id != leader)
            said = [await remove_and_watch(region, load, name) for name in (follower, leader)]
            status = await load.client.node_status()
            assert {member.node_id for member in status.members} == {n.id for n in region.nodes()} - {follower, leader}
    print(f"\nfollower {follower} and leader {leader} removed: {load}; they say: {said}")
    load.assert_unharmed()


@pytest.mark.timeout(180)
async def test_a_learner_joins_serves_and_leaves(tmp_path: Path) -> None:
    """It serves the data plane and reads of the control plane, never votes, and can be taken out as a voter can."""
    with dev_region(tmp_path / "region") as region:
        async with steady_load(region) as load:
            await trio.to_thread.run_sync(region.join_node, "n4", "us-east-1a", "learner")
            await until_serves(region, "n4", role="learner")
            async with KeyClient.from_endpoints(region.endpoints_file) as client:
                learner = client.at("n4")
                assert (await learner.decrypt(ciphertext_blob=load.blob)).plaintext == PLAINTEXT
                made = (await learner.create_key(description="by way of a learner")).key_metadata
                assert (await learner.describe_key(key_id=made.key_id)).key_metadata == made
                assert made.key_id in [entry.key_id for entry in (await learner.list_keys()).keys]
            await load.until_more_writes(50)
            await until_serves(region, "n4", role="learner")
            await remove_and_watch(region, load, "n4")
    print(f"\na learner joined, served and was removed: {load}")
    load.assert_unharmed()


@pytest.mark.timeout(180)
async def test_a_voter_that_would_give_one_az_a_majority_is_not_promoted(tmp_path: Path) -> None:
    """By what is wanted it isn't admitted; by what votes at the moment it stays a learner until that changes."""
    with dev_region(tmp_path / "region", "--nodes", "4") as region:  # AZs a, b, c, a.
        refused = await trio.to_thread.run_sync(region.admit_node, "n5", "us-east-1a")
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
        # Admitted but not running, n6 makes room in principle only: three of five voters would be in AZ a.
        admitted = await trio.to_thread.run_sync(region.admit_node, "n6", "us-east-1b")
        assert admitted.returncode == 0, admitted.stderr
        await trio.to_thread.run_sync(region.join_node, "n7", "us-east-1a")
        await until_serves(region, "n7", role="learner")
        async with steady_load(region) as load:
            await load.until_more_writes(50)
            await until_serves(region, "n7", role="learner")
            region.restart_node("n6")
            await until_serves(region, "n6", "n7", role="voter")
            await load.until_more_writes()
    print(f"\nAZ placement: {refused.stderr.strip()}; {load}")
    load.assert_unharmed()
