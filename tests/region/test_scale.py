"""Many keys cost a node neither memory nor speed: with 10,000 of them it is as with 100.

Two regions side by side, measured in turns: what else the machine does slows both.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from keycluster import KeyClient
from tests.region.dev_region import DevRegion, dev_region, rounds
from tests.region.steady_load import until_serves

FEW_KEYS = 100
MANY_KEYS = rounds(10_000, 300)
WRITERS = 64
CALLERS = 16
TURNS = 5
TURN_S = rounds(10, 3) / 10
NODE = "n3"

KEY_BYTES_MAX = 4096
"""Resident, for each key: a node caches those in use, up to 32 MiB, and SQLite its pages."""
MEMORY_SLACK_BYTES = 16 << 20
RATE_FACTOR_MIN = 0.6
RESTART_S_MORE_MAX = 3.0
"""A start verifies each row: about 30 µs."""


@dataclass
class Measured:
    """One node of one region, and what it was seen to do."""

    region: DevRegion
    client: KeyClient
    keys: list[str] = field(default_factory=list)
    created_rate: float = 0.0
    restart_s: float = 0.0
    memory_fresh: int = 0
    memory_used: int = 0
    describes: list[float] = field(default_factory=list)
    encrypts: list[float] = field(default_factory=list)

    async def create_keys(self, count: int) -> None:
        began, left = trio.current_time(), iter(range(count))

        async def writer() -> None:
            for number in left:
                created = await self.client.create_key(description=f"key {number}", timeout=30)
                self.keys.append(created.key_metadata.key_id)

        async with trio.open_nursery() as nursery:
            for _ in range(WRITERS):
                nursery.start_soon(writer)
        self.created_rate = count / (trio.current_time() - began)

    async def restart(self) -> None:
        """A kill, and how long until it serves again."""
        self.region.kill_node(NODE)
        began = trio.current_time()
        self.region.restart_node(NODE)
        await until_serves(self.region, NODE)
        self.restart_s = trio.current_time() - began

    async def use_each_key(self) -> None:
        """First some, then all: what is in use is cached."""
        node = self.client.at(NODE)
        for key in self.keys[:FEW_KEYS]:
            await node.encrypt(key_id=key, plaintext=b"x")
        self.memory_fresh = self.region.node(NODE).memory_bytes
        for key in self.keys:
            await node.encrypt(key_id=key, plaintext=b"x")

    async def take_turn(self, choice: random.Random) -> None:
        """Calls on keys chosen by chance."""
        node = self.client.at(NODE)
        self.describes.append(await rate_of(lambda: node.describe_key(key_id=choice.choice(self.keys))))
        self.encrypts.append(await rate_of(lambda: node.encrypt(key_id=choice.choice(self.keys), plaintext=b"x" * 100)))
        self.memory_used = self.region.node(NODE).memory_bytes

    def __str__(self) -> str:
        return (
            f"{len(self.keys):6} keys (CreateKey by {WRITERS} callers: {self.created_rate:.0f}/s): "
            f"{self.memory_fresh / (1 << 20):.1f} MiB after a restart, {self.memory_used / (1 << 20):.1f} MiB with all "
            f"in use; restart to serving {self.restart_s:.2f} s; best of {TURNS} turns: "
            f"DescribeKey {max(self.describes):.0f}/s, Encrypt {max(self.encrypts):.0f}/s"
        )


async def rate_of(call: Callable[[], Awaitable[object]]) -> float:
    """Calls a second, by several callers at once."""
    done = 0

    async def caller() -> None:
        nonlocal done
        while True:
            await call()
            done += 1

    with trio.move_on_after(TURN_S):
        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(caller)
    return done / TURN_S


@pytest.mark.timeout(900)
async def test_many_keys_cost_neither_memory_nor_speed(tmp_path: Path) -> None:
    """Memory of a node, its restart, DescribeKey and Encrypt over all keys, with 100 keys and with many."""
    with dev_region(tmp_path / "few") as one, dev_region(tmp_path / "many") as other:
        clients = [KeyClient.from_endpoints(region.endpoints_file) for region in (one, other)]
        async with clients[0] as of_one, clients[1] as of_other:
            few, many = Measured(one, of_one), Measured(other, of_other)
            for measured, count in ((few, FEW_KEYS), (many, MANY_KEYS)):
                await measured.create_keys(count)
                await measured.restart()
                await measured.use_each_key()
            for turn in range(TURNS):
                for measured in (few, many):
                    await measured.take_turn(random.Random(turn))
    print(f"\n{few}\n{many}")
    assert many.memory_fresh < few.memory_fresh + MEMORY_SLACK_BYTES
    assert many.memory_used < few.memory_used + MEMORY_SLACK_BYTES + KEY_BYTES_MAX * MANY_KEYS
    assert many.restart_s < few.restart_s + RESTART_S_MORE_MAX
    assert max(many.describes) > max(few.describes) * RATE_FACTOR_MIN
    assert max(many.encrypts) > max(few.encrypts) * RATE_FACTOR_MIN
