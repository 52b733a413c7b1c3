"""Simulated programs that use a region: the product's own client, each in a process of its own on a machine of its own.

A program opens its client with the nodes there are, works for a while, closes it and begins anew: so log-ins happen in
bad weather too, and nodes that came meanwhile are found. When it is killed, what it had asked for stays without an
answer, and it begins anew as well.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from keycluster.client.endpoints import Credentials, Endpoints, NodeAddress, split_address
from keycluster.client.errors import KeyclusterError
from keycluster.client.key_client import KeyClient
from keycluster.client.surroundings import Connect, Stream, Surroundings
from keycluster.client.transport import SOCKET_READ_BYTES, StreamBroken
from keycluster.cluster.seams import ByteStream, DialError
from keycluster.cluster.types import SECOND, NodeId
from keycluster.cluster.wire.errors import KmsError
from keycluster.cluster.wire.frames import REQUEST_ID_BYTES
from keycluster.node.addresses import join_address
from keycluster.node.config import NodeConfig
from keycluster.simulations.region.aws_client import sim_aws_door
from keycluster.simulations.region.clock import SimClock
from keycluster.simulations.region.network import HostNetwork, SimNetwork
from keycluster.simulations.region.process import Process
from keycluster.simulations.region.wire import Wire
from keycluster.simulations.workload.doors import Door, NativeDoor, OpenDoor, request_ids
from keycluster.simulations.workload.turns import Caller
from keycluster.simulations.workload.workload import Workload

LIFE_SECONDS: Final = (4.0, 30.0)
"""How long a program works before it begins anew, from and to."""
OPENING_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = (0.05, 1.0)
"""Before it begins anew, from and to."""
P384_SCALAR_BYTES: Final = 47  # A byte less than the curve's order has: any of them is a private key, but for zero.


class ClientStream:
    """`ByteStream` as the client wants it (client/surroundings.py)."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._output = bytearray()
        self._is_broken = False

    @property
    def certificate(self) -> bytes:
        return self._stream.peer_certificate or b""

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    def write_nowait(self, content: bytes) -> None:
        self._output += content

    async def flush(self) -> None:
        content, self._output = bytes(self._output), bytearray()
        try:
            await self._stream.send_all(content)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken("the connection broke") from error

    async def receive(self) -> bytes:
        try:
            return await self._stream.receive_some(SOCKET_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken("the connection broke") from error

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._stream.aclose()


def surroundings(network: HostNetwork, *, client_ca: bytes, seed: str) -> Surroundings:
    """A client's whole world: that machine's network, and a seed."""
    rng = random.Random(f"client/{seed}")

    async def connect(host: str, port: int) -> Stream:
        try:
            return ClientStream(await network.dial_native(join_address(host, port), client_ca=client_ca))
        except DialError as error:
            raise StreamBroken(str(error)) from error

    def connect_by(_ca_file: str) -> Connect:
        return connect

    def new_signing_key() -> ec.EllipticCurvePrivateKey:
        scalar = 1 + int.from_bytes(rng.randbytes(P384_SCALAR_BYTES), "big")
        return ec.derive_private_key(scalar, ec.SECP384R1())

    return Surroundings(
        connect_by=connect_by,
        random_bytes=rng.randbytes,
        new_request_id=request_ids(lambda: rng.randbytes(REQUEST_ID_BYTES)),
        new_jitter=lambda: random.Random(rng.getrandbits(64)),
        new_signing_key=new_signing_key,
        machine_seconds=trio.current_time,
    )


@dataclass(frozen=True, slots=True)
class ClientWorld:
    """What all programs of a run live in."""

    network: SimNetwork
    wire: Wire
    client_ca: bytes
    credentials: Credentials
    region: str
    nodes: Callable[[], Mapping[str, NodeConfig]]
    """Those there are now, running or not, by their ids."""
    seed: str


@dataclass(slots=True, eq=False)
class SimClient:
    """One program. `name` is its machine's on the network, `az` where that stands; `aws`: an SDK of AWS."""

    name: str
    world: ClientWorld
    az: str | None = None
    aws: bool = False
    process: Process | None = None
    """The running one: to be stopped, continued and killed by the nemesis."""
    lives: int = 0
    rng: random.Random = field(init=False)
    clock: SimClock = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.world.seed}/program/{self.name}")
        self.clock = SimClock(self.world.wire, base_ns=self.rng.randrange(10**6 * SECOND))
        if self.az is not None:
            self.world.network.links.place(self.name, self.az)

    async def work(self, workload: Workload) -> None:
        """Life after life, until the workload stops."""
        while not workload.is_over:
            seconds = self.rng.uniform(*LIFE_SECONDS)
            await self.live(partial(workload.run_client, seconds=seconds))
            if not workload.is_over:
                await trio.sleep(self.rng.uniform(*PAUSE_SECONDS))

    async def live(self, main: Callable[[Caller], Awaitable[object]]) -> None:
        """One life: opens the client, calls `main`, closes. Ends early where no node can be reached, or by `kill`."""
        self.lives += 1
        self.process = Process(f"{self.name}.{self.lives}")
        try:
            await self.process.run(self._main, main)
        finally:
            self.process = None

    def kill(self) -> None:
        """SIGKILL: its system closes its connections; what it has asked for may be done all the same."""
        if self.process is not None:
            self.world.network.down(self.name, machine=False)
            self.process.kill()

    async def _main(self, main: Callable[[Caller], Awaitable[object]]) -> None:
        life = f"{self.world.seed}/{self.name}/{self.lives}"
        network = self.world.network.of(self.name)
        world = surroundings(network, client_ca=self.world.client_ca, seed=life)
        open_native: OpenDoor = partial(self._native, world)
        open_aws: OpenDoor = partial(self._aws, random.Random(f"sdk/{life}"))
        try:
            async with open_native(self.world.credentials) as native:
                operator = Caller(self.name, native, world, open_native)
                if not self.aws:
                    await main(operator)
                    return
                async with open_aws(self.world.credentials) as door:
                    await main(Caller(self.name, door, world, open_aws, operator))
        except KeyclusterError as error:
            if isinstance(error, KmsError) and not error.retryable:
                raise  # The region's own operator is refused: that is nobody's bad weather.

    @asynccontextmanager
    async def _native(self, world: Surroundings, credentials: Credentials) -> AsyncIterator[Door]:
        addresses = tuple(
            NodeAddress(NodeId(name), node.az, *split_address(node.native.advertised))
            for name, node in self.world.nodes().items()
        )
        endpoints = Endpoints(self.world.region, addresses, credentials, ca_file="")
        async with KeyClient(endpoints, az=self.az, timeout=OPENING_SECONDS, surroundings=world) as client:
            yield NativeDoor(client)

    @asynccontextmanager
    async def _aws(self, rng: random.Random, credentials: Credentials) -> AsyncIterator[Door]:
        addresses = {name: node.aws.advertised for name, node in self.world.nodes().items()}
        network, wall = self.world.network.of(self.name), self.clock.wall
        door = sim_aws_door(network, addresses, credentials, region=self.world.region, wall=wall, rng=rng)
        try:
            yield door
        finally:
            with trio.CancelScope(shield=True):
                await door.aclose()
