"""A workload's clients at a region of real nodes in this process: real sockets, TLS and disks."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from keycluster.client.endpoints import Credentials, Endpoints, NodeAddress, split_address
from keycluster.client.key_client import KeyClient
from keycluster.client.surroundings import REAL, Surroundings
from keycluster.cluster.keys.records import AuthorityRecord, Table, authority_row, load
from keycluster.cluster.seams import DialError
from keycluster.node.pki import AuthorityName
from keycluster.simulations.workload.aws_door import AwsDoor
from keycluster.simulations.workload.doors import Door, NativeDoor, request_ids
from keycluster.simulations.workload.turns import Caller
from tests.node.region_in_process import ACCESS_KEY, RegionInProcess

OPERATOR = Credentials(ACCESS_KEY.access_key_id, ACCESS_KEY.secret)
SURROUNDINGS = Surroundings(
    connect_by=REAL.connect_by,
    random_bytes=REAL.random_bytes,
    new_request_id=request_ids(REAL.new_request_id),
    new_jitter=REAL.new_jitter,
    new_signing_key=REAL.new_signing_key,
    machine_seconds=REAL.machine_seconds,
)


class PlainStream:
    """What an AWS door's client needs of a byte stream, over TCP."""

    peer_public_key = peer_certificate = None
    peer_address = ""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.send_all = stream.send_all
        self.receive_some = stream.receive_some
        self.aclose = stream.aclose


async def dial_plain(address: str) -> PlainStream:
    try:
        return PlainStream(await trio.open_tcp_stream(*split_address(address)))
    except OSError as error:
        raise DialError(str(error)) from None


class RealClients:
    """Makes callers for the nodes of `region`."""

    def __init__(self, region: RegionInProcess, folder: Path) -> None:
        self._nodes = [running.node for running in region.running.values()]
        self._ca_file = folder / "client-ca.pem"
        authority = load(
            self._nodes[0].room.view, Table.AUTHORITIES, authority_row(AuthorityName.CLIENT), AuthorityRecord
        )
        assert authority is not None
        ca = load_der_x509_certificate(authority.certificate)
        self._ca_file.write_bytes(ca.public_bytes(Encoding.PEM))

    def endpoints(self, credentials: Credentials) -> Endpoints:
        addresses = tuple(
            NodeAddress(node.config.node, node.config.az, *split_address(node.config.native.advertised))
            for node in self._nodes
        )
        return Endpoints("us-east-1", addresses, credentials, str(self._ca_file))

    @asynccontextmanager
    async def native(self, credentials: Credentials) -> AsyncIterator[Door]:
        async with KeyClient(self.endpoints(credentials), surroundings=SURROUNDINGS) as client:
            yield NativeDoor(client)

    @asynccontextmanager
    async def aws(self, credentials: Credentials) -> AsyncIterator[Door]:
        addresses: dict[str, str] = {node.config.node: node.config.aws.advertised for node in self._nodes}
        door = AwsDoor(dial_plain, addresses, credentials, region="us-east-1", wall=time.time_ns, rng=random.Random(1))
        try:
            yield door
        finally:
            await door.aclose()

    @asynccontextmanager
    async def caller(self, name: str, *, aws: bool = False) -> AsyncIterator[Caller]:
        async with self.native(OPERATOR) as native:
            operator = Caller(name, native, SURROUNDINGS, self.native)
            if not aws:
                yield operator
                return
            async with self.aws(OPERATOR) as door:
                yield Caller(name, door, SURROUNDINGS, self.aws, operator)
