"""A load on a region that must never notice what a test does to it: writes and reads without a pause."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from keycluster import KeyClient, errors
from tests.region.dev_region import DevRegion

CALL_S_MAX = 15.0
PLAINTEXT = b"what must come back"
WRITERS_OF_MANY = 64


@dataclass
class SteadyLoad:
    """One writer, and readers of both planes. `failed` and `wrong` stay empty, whatever happens to the region."""

    client: KeyClient
    key: str
    blob: bytes
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0
    reads: int = 0
    slowest_s: float = 0.0

    async def write(self) -> None:
        """Changes one key's description, again and again."""
        while True:
            async with self._call("write"):
                await self.client.update_key_description(
                    key_id=self.key, description=str(self.writes + 1), timeout=CALL_S_MAX
                )
                self.writes += 1

    async def describe(self) -> None:
        """What a write has returned, every later read shows."""
        while True:
            async with self._call("describe"):
                acknowledged = self.writes
                described = await self.client.describe_key(key_id=self.key, timeout=CALL_S_MAX)
                if int(described.key_metadata.description or 0) < acknowledged:
                    self.wrong.append(f"write {acknowledged} is not to be seen: {described.key_metadata.description}")
                self.reads += 1
            await trio.sleep(0.005)

    async def use(self) -> None:
        """The data plane."""
        while True:
            async with self._call("use"):
                opened = await self.client.decrypt(ciphertext_blob=self.blob, timeout=CALL_S_MAX)
                if opened.plaintext != PLAINTEXT:
                    self.wrong.append("another plaintext")
                await self.client.encrypt(key_id=self.key, plaintext=PLAINTEXT, timeout=CALL_S_MAX)
                self.reads += 2
            await trio.sleep(0.005)

    @asynccontextmanager
    async def _call(self, what: str) -> AsyncIterator[None]:
        began = trio.current_time()
        try:
            yield
        except (errors.KmsError, errors.KeyClientError) as error:
            self.failed.append(f"{what}: {error!r}")
        self.slowest_s = max(self.slowest_s, trio.current_time() - began)

    async def until_more_writes(self, count: int = 5) -> None:
        enough = self.writes + count
        with trio.fail_after(30):
            while self.writes < enough:
                await trio.sleep(0.01)

    def assert_unharmed(self) -> None:
        assert self.failed == []
        assert self.wrong == []

    def __str__(self) -> str:
        return f"{self.writes} writes, {self.reads} reads, {len(self.failed)} failed, slowest {self.slowest_s:.2f} s"


@asynccontextmanager
async def steady_load(region: DevRegion) -> AsyncIterator[SteadyLoad]:
    """Running inside, through a client of its own; what it saw is for the test to judge."""
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        key = (await client.create_key(description="0")).key_metadata.key_id
        sealed = await client.encrypt(key_id=key, plaintext=PLAINTEXT)
        load = SteadyLoad(client, key, sealed.ciphertext_blob)
        async with trio.open_nursery() as nursery:
            for task in (load.write, load.describe, load.use):
                nursery.start_soon(task)
            yield load
            nursery.cancel_scope.cancel()


async def write_many(client: KeyClient, key: str, count: int) -> None:
    """Cheap commands, one log entry each."""
    left = deque(range(count))

    async def writer() -> None:
        while left:
            await client.update_key_description(key_id=key, description=f"entry {left.popleft()}", timeout=CALL_S_MAX)

    async with trio.open_nursery() as nursery:
        for _ in range(WRITERS_OF_MANY):
            nursery.start_soon(writer)


async def until_serves(region: DevRegion, *names: str, role: str | None = None, seconds: float = 30.0) -> None:
    """Until each of these nodes holds a lease, and has that role by its own applied state."""
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        with trio.fail_after(seconds):
            for name in names:
                while not await _serves(client, name, role):
                    await trio.sleep(0.05)


async def _serves(client: KeyClient, name: str, role: str | None) -> bool:
    try:
        status = await client.at(name).node_status(timeout=1)
    except (errors.KmsError, errors.KeyClientError):
        return False
    return status.serving and role in (None, status.role)
