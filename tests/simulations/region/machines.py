"""A simulated network with certificates, for tests of it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from random import Random

import trio

from keycluster.cluster.seams import ByteStream, TlsIdentity
from keycluster.cluster.types import NodeId, WallTime
from keycluster.node.pki import (
    Authority,
    AuthorityName,
    issue_certificate,
    new_authority,
    new_private_key,
    public_key_of_private,
)
from keycluster.simulations.region.clock import WALL_EPOCH_NS
from keycluster.simulations.region.deterministic import run_deterministically
from keycluster.simulations.region.entropy import SimEntropy
from keycluster.simulations.region.network import HostNetwork, SimNetwork
from keycluster.simulations.region.pipes import Connection
from keycluster.simulations.region.sim_stream import SimStream
from keycluster.simulations.region.wire import Wire


@cache
def authority(name: AuthorityName, region: str = "test") -> Authority:
    return new_authority(name, region, entropy=SimEntropy(f"{name}{region}"), now=WallTime(WALL_EPOCH_NS))


@cache
def identity(node: str, *, name: AuthorityName = AuthorityName.PEER, region: str = "test") -> TlsIdentity:
    """Of a node whose host is `<node>.test`, at that authority's ports."""
    entropy = SimEntropy(f"{node}{name}")
    private_key = new_private_key(entropy)
    certificate = issue_certificate(
        authority(name, region),
        node=NodeId(node),
        public_key=public_key_of_private(private_key),
        hosts=(f"{node}.test",),
        entropy=entropy,
        now=WallTime(WALL_EPOCH_NS),
    )
    return TlsIdentity(certificate, private_key)


def public_key(node: str) -> bytes:
    return public_key_of_private(identity(node).private_key)


class Machines:
    """A network and its wire, running."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.nursery = nursery
        self.wire = Wire()
        self.network = SimNetwork(self.wire, Random(seed))
        self.links = self.network.links

    def of(self, name: str) -> HostNetwork:
        return self.network.of(name)

    async def serve_peers(self, node: str, handler: Callable[..., Awaitable[None]]) -> str:
        """`node` serves its peer port; returns the address."""

        async def serve(task_status: trio.TaskStatus[str]) -> None:
            await self.of(node).serve_peers(
                f"{node}.test:7000",
                handler,
                identity=identity(node),
                peer_ca=authority(AuthorityName.PEER).certificate,
                task_status=task_status,
            )

        served: str = await self.nursery.start(serve)
        return served

    async def dial_peer(self, source: str, target: str) -> SimStream:
        stream = await self.of(source).dial_peer(
            f"{target}.test:7000",
            identity=identity(source),
            peer_ca=authority(AuthorityName.PEER).certificate,
            expected_public_key=public_key(target),
        )
        assert isinstance(stream, SimStream)
        return stream

    def connect(self, dialler: str, listener: str, *, between_nodes: bool = True) -> tuple[SimStream, SimStream]:
        """Both ends of a new connection, without the ado of dialling."""
        connection = Connection(
            self.links,
            dialler=(dialler, f"{dialler}:40000"),
            listener=(listener, f"{listener}:7000"),
            between_nodes=between_nodes,
        )
        return connection.dialler, connection.listener


async def read_to_end(stream: ByteStream, received: bytearray | None = None) -> bytearray:
    """All that comes; ends with the stream, in whatever way."""
    received = bytearray() if received is None else received
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while content := await stream.receive_some(65_536):
            received += content
    return received


def run(main: Callable[[Machines], Awaitable[object]], *, seed: int = 1) -> None:
    """Runs it with machines, and ends all that it left running."""

    async def with_machines() -> None:
        async with trio.open_nursery() as nursery:
            machines = Machines(nursery, seed)
            await nursery.start(machines.wire.run)
            await main(machines)
            nursery.cancel_scope.cancel()

    run_deterministically(with_machines, seed=seed)
