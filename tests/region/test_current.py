"""Contract 2 on real processes: when a change has returned, every node acts on it, or refuses."""

import signal
from collections import Counter
from pathlib import Path

import pytest
import trio

from keycluster import KeyClient, errors
from tests.region.dev_region import DevRegion, dev_region, rounds

LEASE_S = 1.0
KEYS_PER_PAUSE = 10  # A pause takes longer than a lease: each is used for several rounds.
PAUSED_S = LEASE_S * 1.3  # Past the end of any lease the paused node held.


async def try_encrypt(client: KeyClient, node: str, key: str, seen: Counter[str]) -> None:
    """One Encrypt at one node, not retried elsewhere; what it came to is counted."""
    try:
        await client.at(node).encrypt(key_id=key, plaintext=b"x", timeout=5)
    except errors.KmsError as refusal:
        seen[refusal.code] += 1
    except errors.KeyClientError as failure:
        seen[type(failure).__name__] += 1
    else:
        seen["success"] += 1


async def disable_and_encrypt_everywhere(region: DevRegion, count: int) -> tuple[Counter[str], Counter[str]]:
    """`count` rounds of: disabled, so it works nowhere; enabled, so it works everywhere."""
    disabled, enabled = Counter[str](), Counter[str]()
    names = [node.id for node in region.nodes()]
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        key = (await client.create_key()).key_metadata.key_id
        for _ in range(count):
            await client.disable_key(key_id=key)
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(try_encrypt, client, name, key, disabled)
            await client.enable_key(key_id=key)
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(try_encrypt, client, name, key, enabled)
    return disabled, enabled


@pytest.mark.timeout(600)
async def test_a_disabled_key_works_nowhere(region: DevRegion) -> None:
    """DisableKey has returned: no node encrypts. EnableKey has returned: every node does."""
    count = rounds(1000, 50)
    disabled, enabled = await disable_and_encrypt_everywhere(region, count)
    print(f"\n{count} rounds at 3 nodes: disabled {dict(disabled)}, enabled {dict(enabled)}")
    assert disabled == {"DisabledException": 3 * count}
    assert enabled == {"success": 3 * count}


@pytest.mark.timeout(600)
async def test_a_disabled_key_works_nowhere_with_learners(tmp_path: Path) -> None:
    """Learners serve under the same leases as voters."""
    count = rounds(1000, 30)
    with dev_region(tmp_path / "region", "--nodes", "4", "--learners", "1") as region:
        assert [node.role for node in region.nodes()] == ["voter", "voter", "voter", "learner"]
        disabled, enabled = await disable_and_encrypt_everywhere(region, count)
    print(f"\n{count} rounds at 3 voters and a learner: disabled {dict(disabled)}, enabled {dict(enabled)}")
    assert disabled == {"DisabledException": 4 * count}
    assert enabled == {"success": 4 * count}


@pytest.mark.timeout(3000)
async def test_a_node_paused_past_its_lease_serves_nothing_stale(region: DevRegion) -> None:
    """A follower is stopped, keys are disabled; it goes on after its lease has ended, with a call on each waiting."""
    pauses = rounds(100, 4)
    woken, settled = Counter[str](), Counter[str]()
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        keys = [(await client.create_key()).key_metadata.key_id for _ in range(KEYS_PER_PAUSE)]
        for number in range(pauses):
            leader = (await client.node_status()).leader
            followers = [node for node in region.nodes() if node.id != leader]
            paused = followers[number % len(followers)]
            paused.signal(signal.SIGSTOP)
            try:
                for key in keys:
                    await client.at(str(leader)).disable_key(key_id=key)
                async with trio.open_nursery() as nursery:
                    for key in keys:
                        nursery.start_soon(try_encrypt, client, paused.id, key, woken)
                    await trio.sleep(PAUSED_S)  # The calls wait in the paused node's socket meanwhile.
                    paused.signal(signal.SIGCONT)
            finally:
                paused.signal(signal.SIGCONT)
            for node in region.nodes():
                for key in keys:
                    await try_encrypt(client, node.id, key, settled)
            for key in keys:
                await client.enable_key(key_id=key)
    print(
        f"\n{pauses} pauses of a follower, {KEYS_PER_PAUSE} keys each: on waking {dict(woken)}, later {dict(settled)}"
    )
    assert woken["success"] == settled["success"] == 0
    assert sum(woken.values()) == pauses * KEYS_PER_PAUSE
