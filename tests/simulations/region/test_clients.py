"""Simulated programs: the product's own client on the simulated network, and what happens when its machine suffers."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
import trio.lowlevel

from keycluster.client.endpoints import Credentials
from keycluster.client.errors import NodesUnreachable
from keycluster.client.transport import StreamBroken
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import InvalidSignatureException
from keycluster.node.config import NodeConfig
from keycluster.node.network import PortStatistics
from keycluster.simulations.region.clients import ClientStream, ClientWorld, SimClient, surroundings
from keycluster.simulations.region.region import ACCESS_KEY, NATIVE_PORT, REGION, SimRegion
from keycluster.simulations.workload.doors import NativeDoor
from keycluster.simulations.workload.turns import Caller
from tests.simulations.region.quiet_region import in_region

CREATE = wire.CreateKeyRequest()


def nodes_of(region: SimRegion) -> dict[str, NodeConfig]:
    return {str(name): node.config for name, node in region.nodes.items()}


def world_of(region: SimRegion, seed: str = "s") -> ClientWorld:
    return ClientWorld(
        network=region.network,
        wire=region.wire,
        client_ca=region.client_ca,
        credentials=Credentials(ACCESS_KEY.access_key_id, ACCESS_KEY.secret),
        region=REGION,
        nodes=lambda: nodes_of(region),
        seed=seed,
    )


async def used(client: SimClient, use: Callable[[Caller], Awaitable[object]]) -> object:
    """What `use` gave in one life of the client."""
    given: list[object] = []

    async def main(caller: Caller) -> None:
        given.append(await use(caller))

    await client.live(main)
    return given[0] if given else None


@pytest.mark.parametrize("aws", [False, True])
def test_program_makes_a_key_and_uses_it_at_every_node(aws: bool) -> None:
    """Through either door, in virtual time."""

    async def use(caller: Caller) -> list[bytes]:
        created, _ = await caller.door.ask(CREATE, at=None, seconds=5.0, request_id=bytes(16))
        assert isinstance(created, wire.CreateKeyResponse)
        opened = []
        for node in caller.door.nodes:
            encrypting = wire.EncryptRequest(key_id=created.key_metadata.key_id, plaintext=node.encode())
            sealed, at = await caller.door.ask(encrypting, at=node, seconds=5.0)
            assert at == node
            assert isinstance(sealed, wire.EncryptResponse)
            opening = wire.DecryptRequest(ciphertext_blob=sealed.ciphertext_blob)
            answer, _ = await caller.door.ask(opening, at=None, seconds=5.0)
            assert isinstance(answer, wire.DecryptResponse)
            opened.append(answer.plaintext)
        return opened

    async def body(region: SimRegion) -> object:
        return await used(SimClient("c0", world_of(region), az="a", aws=aws), use)

    assert in_region(body) == [b"n0", b"n1", b"n2"]


def test_envelope_of_a_program_is_the_seeds() -> None:
    """A signed message draws a key of its own: the same one again."""

    async def use(caller: Caller) -> object:
        return caller.surroundings.new_signing_key().private_numbers().private_value

    async def body(region: SimRegion) -> object:
        world = world_of(region)
        drawn = [await used(SimClient("c0", world), use), await used(SimClient("c0", world), use)]
        other = await used(SimClient("c0", replace(world, seed="other")), use)
        assert drawn[0] == drawn[1] != other
        return drawn

    assert in_region(body)


def test_program_that_is_cut_off_is_told_so() -> None:
    """It finds no node, and its life ends; another one finds them again."""

    async def use(caller: Caller) -> bool:
        return True

    async def body(region: SimRegion) -> object:
        client = SimClient("c0", world_of(region))
        links = region.network.links
        for node in region.nodes:
            links.cut(node, "c0")
        before = await used(client, use)
        links.heal_all()
        return before, await used(client, use), client.lives

    assert in_region(body) == (None, True, 2)


def test_refused_credentials_end_the_run() -> None:
    """The region's own operator is never refused: were it so, that would be a finding and no bad weather."""

    async def never(caller: Caller) -> None:
        raise AssertionError("it was let in")

    async def body(region: SimRegion) -> None:
        world = replace(world_of(region), credentials=Credentials(ACCESS_KEY.access_key_id, "another secret"))
        await used(SimClient("c0", world), never)

    with pytest.raises(ExceptionGroup) as raised:
        in_region(body)
    assert raised.value.subgroup(InvalidSignatureException) is not None


def test_killed_program_leaves_its_connections_and_nothing_runs_on() -> None:
    """What it was doing ends where it stands; its machine's next program is another process."""

    async def body(region: SimRegion) -> object:
        client = SimClient("c0", world_of(region))
        came_back: list[Caller] = []

        async def use(caller: Caller) -> None:
            assert isinstance(caller.door, NativeDoor)
            await trio.Event().wait()  # For ever.
            came_back.append(caller)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(used, client, use)
            await trio.sleep(1.0)
            before = [port.connections for address, port in statistics(region).items()]
            killed = client.process
            assert killed is not None
            client.kill()
            await trio.sleep(1.0)
            after = [port.connections for address, port in statistics(region).items()]
        assert client.process is None
        return sum(before), sum(after), came_back

    assert in_region(body) == (1, 0, [])


def statistics(region: SimRegion) -> dict[str, PortStatistics]:
    ports = region.network.statistics()
    return {address: port for address, port in ports.items() if address.endswith(f":{NATIVE_PORT}")}


def test_paused_program_goes_on_where_it_stood() -> None:
    """Time passes it by: a call that was under way is found answered, or late."""

    async def body(region: SimRegion) -> object:
        client = SimClient("c0", world_of(region))

        async def use(caller: Caller) -> float:
            begun = trio.current_time()
            await trio.sleep(0.5)
            await caller.door.ask(CREATE, at=None, seconds=20.0, request_id=bytes(16))
            return trio.current_time() - begun

        took: list[object] = []

        async def run() -> None:
            took.append(await used(client, use))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(0.3)
            assert client.process is not None
            client.process.pause()
            await trio.sleep(4.0)
            client.process.resume()
        return took[0]

    took = in_region(body)
    assert isinstance(took, float)
    assert 4.0 < took < 6.0


class Streamed:
    """A byte stream that remembers what it was given, and breaks when told."""

    peer_public_key = None
    peer_certificate = b"certificate"
    peer_address = ""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.breaks = False
        self.is_closed = False

    async def send_all(self, content: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self.breaks:
            raise trio.BrokenResourceError
        self.sent.append(bytes(content))

    async def receive_some(self, count_max: int) -> bytes:
        if self.breaks:
            raise trio.BrokenResourceError
        return b"said"

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.is_closed = True


async def test_stream_of_a_client_sends_in_one_what_was_written() -> None:
    """As the real one, whose records leave together."""
    raw = Streamed()
    stream = ClientStream(raw)
    assert (stream.certificate, stream.has_output, await stream.receive()) == (b"certificate", False, b"said")
    stream.write_nowait(b"a")
    stream.write_nowait(b"b")
    assert stream.has_output
    await stream.flush()
    assert (raw.sent, stream.has_output) == ([b"ab"], False)


async def test_stream_of_a_client_breaks_as_the_real_one_does() -> None:
    """By the client's own error; and it is closed even when its closer is cancelled."""
    raw = Streamed()
    stream = ClientStream(raw)
    raw.breaks = True
    stream.write_nowait(b"a")
    with pytest.raises(StreamBroken):
        await stream.flush()
    with pytest.raises(StreamBroken):
        await stream.receive()
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert raw.is_closed


def test_nobody_answers_where_no_node_is() -> None:
    """As the real client says it, with the reason."""

    async def body(region: SimRegion) -> None:
        world = surroundings(region.network.of("c0"), client_ca=region.client_ca, seed="s")
        with pytest.raises(StreamBroken, match="does not answer"):
            await world.connect_by("")("nowhere.test", 7002)

    in_region(body)


def test_aws_call_with_no_node_there_certainly_failed() -> None:
    """Nothing was sent: the outcome isn't in doubt."""

    async def body(region: SimRegion) -> object:
        async def use(caller: Caller) -> object:
            for node in region.nodes.values():
                node.crash("a test")
            with pytest.raises(NodesUnreachable):
                await caller.door.ask(CREATE, at=None, seconds=30.0, request_id=bytes(16))
            return True

        return await used(SimClient("c0", world_of(region), aws=True), use)

    assert in_region(body)
