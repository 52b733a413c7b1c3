"""Programs that use a region of real processes: the product's own client over TLS, and an AWS SDK's way over HTTP.

A program opens its client, works for a while, closes it and begins anew, so that log-ins happen in bad weather too.
"""

import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import trio

from keycluster.client.endpoints import Credentials
from keycluster.client.errors import KeyclusterError, KmsError
from keycluster.client.key_client import KeyClient
from keycluster.client.surroundings import REAL, Surroundings
from keycluster.cluster.seams import ByteStream, DialError
from keycluster.cluster.wire.frames import REQUEST_ID_BYTES
from keycluster.node.addresses import split_address
from keycluster.node.streams import PlainStream
from keycluster.simulations.torture.region import HOST, NodePorts, TortureRegion
from keycluster.simulations.workload.aws_door import AwsDoor
from keycluster.simulations.workload.doors import Door, NativeDoor, OpenDoor, request_ids
from keycluster.simulations.workload.turns import Caller
from keycluster.simulations.workload.workload import Workload

LIFE_SECONDS: Final = (4.0, 30.0)
OPENING_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = (0.05, 1.0)

SURROUNDINGS: Final[Surroundings] = replace(REAL, new_request_id=request_ids(partial(os.urandom, REQUEST_ID_BYTES)))
"""The real ones; a step may choose a call's request id."""


async def dial(address: str) -> ByteStream:
    """Raises `DialError`."""
    try:
        connected = await trio.open_tcp_stream(*split_address(address))
    except OSError as error:
        raise DialError(f"{address} does not answer") from error
    return PlainStream(socket.socket(fileno=connected.socket.detach()))


@dataclass(slots=True, eq=False)
class TortureClient:
    """One program. `ports` are its own ways to the nodes; `aws`: an SDK of AWS."""

    name: str
    region: TortureRegion
    ports: dict[str, NodePorts]
    seed: str
    aws: bool = False
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}/program/{self.name}")

    async def work(self, workload: Workload) -> None:
        """Life after life, until the workload stops."""
        while not workload.is_over:
            seconds = self.rng.uniform(*LIFE_SECONDS)
            await self.live(partial(workload.run_client, seconds=seconds))
            if not workload.is_over:
                await trio.sleep(self.rng.uniform(*PAUSE_SECONDS))

    async def live(self, main: Callable[[Caller], Awaitable[object]]) -> None:
        """One life: opens the client, calls `main`, closes. Ends early where no node can be reached."""
        operator_credentials = self.region.credentials
        try:
            async with self._native(operator_credentials) as native:
                operator = Caller(self.name, native, SURROUNDINGS, self._native)
                if not self.aws:
                    await main(operator)
                    return
                async with self._aws(operator_credentials) as door:
                    await main(Caller(self.name, door, SURROUNDINGS, self._open_aws, operator))
        except KeyclusterError as error:
            if isinstance(error, KmsError) and not error.retryable:
                self.region.found("currency", f"{self.name}: the operator is refused: {error.code}")

    @property
    def _open_aws(self) -> OpenDoor:
        return self._aws

    @asynccontextmanager
    async def _native(self, credentials: Credentials) -> AsyncIterator[Door]:
        endpoints = self.region.endpoints(self.ports, credentials)
        az = self.rng.choice(endpoints.nodes).az
        async with KeyClient(endpoints, az=az, timeout=OPENING_SECONDS, surroundings=SURROUNDINGS) as client:
            yield NativeDoor(client)

    @asynccontextmanager
    async def _aws(self, credentials: Credentials) -> AsyncIterator[Door]:
        addresses = {name: f"{HOST}:{own.aws}" for name, own in self.ports.items()}
        door = AwsDoor(dial, addresses, credentials, region=self.region.name, wall=time.time_ns, rng=self.rng)
        try:
            yield door
        finally:
            with trio.CancelScope(shield=True):
                await door.aclose()
