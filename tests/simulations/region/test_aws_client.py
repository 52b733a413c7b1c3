"""An SDK of AWS on the simulated network: signed by its own machine's clock, and kept alive."""

import random

import pytest
import trio

from keycluster.client.endpoints import Credentials
from keycluster.cluster.types import SECOND
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import UnrecognizedClientException
from keycluster.simulations.region.aws_client import sim_aws_door
from keycluster.simulations.region.clock import SimClock
from keycluster.simulations.region.region import ACCESS_KEY, AWS_PORT, REGION, SimRegion
from keycluster.simulations.workload.aws_door import AwsDoor
from tests.simulations.region.quiet_region import in_region

LISTING = wire.ListKeysRequest()


def door_of(region: SimRegion, *, access_key_id: str = ACCESS_KEY.access_key_id, wall_offset_ns: int = 0) -> AwsDoor:
    clock = SimClock(region.wire, base_ns=0, wall_offset_ns=wall_offset_ns)
    return sim_aws_door(
        region.network.of("c0"),
        {str(name): node.config.aws.advertised for name, node in region.nodes.items()},
        Credentials(access_key_id, ACCESS_KEY.secret),
        region=REGION,
        wall=clock.wall,
        rng=random.Random(1),
    )


def connections(region: SimRegion) -> tuple[int, int]:
    """Open ones at all AWS doors, and how many there ever were."""
    ports = [port for address, port in region.network.statistics().items() if address.endswith(f":{AWS_PORT}")]
    return sum(port.connections for port in ports), sum(port.accepted for port in ports)


def test_calls_share_a_connection_until_it_is_closed() -> None:
    """A connection a call would be a handshake a call."""

    async def body(region: SimRegion) -> object:
        door = door_of(region)
        for _ in range(5):
            assert (await door.ask(LISTING, at="n1", seconds=5.0))[0] == wire.ListKeysResponse(keys=(), truncated=False)
        before = connections(region)
        await door.aclose()
        await trio.sleep(1.0)
        return before, connections(region)

    assert in_region(body) == ((1, 1), (0, 1))


def test_machine_with_a_wrong_clock_learns_the_time() -> None:
    """A signature a day old is refused; the refusal's Date sets the clock for the next one."""

    async def body(region: SimRegion) -> object:
        door = door_of(region, wall_offset_ns=-86_400 * SECOND)
        return (await door.ask(LISTING, at=None, seconds=5.0))[0]

    assert in_region(body) == wire.ListKeysResponse(keys=(), truncated=False)


def test_unknown_access_key_is_refused() -> None:
    """At the first request: nobody logs in here."""

    async def body(region: SimRegion) -> None:
        with pytest.raises(UnrecognizedClientException):
            await door_of(region, access_key_id="AKIANOBODYNOBODY0000").ask(LISTING, at=None, seconds=5.0)

    in_region(body)


def test_change_over_a_lost_answer_is_made_once() -> None:
    """The attempts share an id: whichever of them was carried out, one key is made."""

    async def body(region: SimRegion) -> object:
        door, links = door_of(region), region.network.links
        await door.ask(LISTING, at="n0", seconds=5.0)  # Has a connection.

        def lose_the_answer() -> None:
            links.reset("c0", "n0")

        region.wire.after(30_000_000, lose_the_answer)
        links.clog("n0", "c0")  # The request arrives, the answer is held and then lost.
        region.wire.after(31_000_000, links.unclog, "n0", "c0")
        created, _ = await door.ask(wire.CreateKeyRequest(), at="n0", seconds=20.0, request_id=bytes(16))
        listed, _ = await door.ask(LISTING, at=None, seconds=5.0)
        assert isinstance(created, wire.CreateKeyResponse)
        assert isinstance(listed, wire.ListKeysResponse)
        return [entry.key_id for entry in listed.keys] == [created.key_metadata.key_id], connections(region)[1] > 1

    assert in_region(body) == (True, True)
