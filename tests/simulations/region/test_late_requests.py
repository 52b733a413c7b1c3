"""Requests that come late, or a second time: a node that was suspended for ten minutes, and wall clocks that leap.

What a client was told is done, and undone since by its word, must not come back to life: here a key that was enabled,
and then disabled with an acknowledged call.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from keycluster.client.errors import KeyclusterError
from keycluster.cluster.keys import requests
from keycluster.cluster.peer_messages import Forward
from keycluster.cluster.types import SECOND, NodeId
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import DisabledException
from keycluster.simulations.region.clients import SimClient
from keycluster.simulations.region.node import SimNode
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.workload.turns import Caller
from tests.simulations.region.quiet_region import in_region
from tests.simulations.region.test_clients import used, world_of

ID = b"e" * 16
Wait = Callable[[SimRegion, SimNode, Caller, str], Awaitable[None]]


async def left_unread(region: SimRegion, late: SimNode, caller: Caller, key: str) -> None:
    """The node is suspended before the request comes. Its client's machine dies, so that the end doesn't come too."""
    late.pause()
    await ask_in_vain(caller, late, key, seconds=1.0)
    region.network.links.cut("c0", late.name)


async def left_on_its_way(region: SimRegion, late: SimNode, caller: Caller, key: str) -> None:
    """As `left_unread`, and when the node wakes it hears of all that happened before it comes to the request."""
    region.network.links.clog("c0", late.name)
    late.pause()
    await ask_in_vain(caller, late, key, seconds=1.0)


async def left_in_a_queue(region: SimRegion, late: SimNode, caller: Caller, key: str) -> None:
    """The node is suspended when it has put the command before the task that sends to the leader."""
    running = late.running
    assert running is not None
    send = running.proposals._send

    def send_and_stop(peer: NodeId, message: Any) -> bool:
        if isinstance(message, Forward):
            late.pause()
        return send(peer, message)

    running.proposals._send = send_and_stop
    await ask_in_vain(caller, late, key, seconds=1.0)
    running.proposals._send = send
    assert late.is_paused


async def left_without_a_leader(region: SimRegion, late: SimNode, caller: Caller, key: str) -> None:
    """The node is cut off and holds the command; it is suspended, and finds a leader when it wakes."""
    running = late.running
    assert running is not None
    others = [name for name in region.nodes if name != late.name]
    for other in others:
        region.network.links.cut(other, late.name)
        region.network.links.cut(late.name, other)
    await region.until(lambda: running.replica.core.leader is None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_in_vain, caller, late, key, 2.0)
        await trio.sleep(0.5)
        late.pause()
    for other in others:
        region.network.links.heal(other, late.name)
        region.network.links.heal(late.name, other)


async def ask_in_vain(caller: Caller, late: SimNode, key: str, seconds: float) -> None:
    with suppress(KeyclusterError):
        await caller.door.ask(wire.EnableKeyRequest(key_id=key), at=late.name, seconds=seconds, request_id=ID)
        raise AssertionError("the suspended node answered")


@pytest.mark.parametrize(
    ("leave", "remembered_s"),
    [
        (left_unread, 600),
        (left_in_a_queue, 600),
        (left_unread, 60),
        (left_on_its_way, 60),
        (left_in_a_queue, 60),
        (left_without_a_leader, 60),
    ],
)
def test_suspended_node_does_not_undo_what_was_done_since(
    leave: Wait, remembered_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client had its request made elsewhere, and took it back, and the region forgot it, before the node goes on
    with it. After ten minutes a door ends idle connections too, so some of these regions forget sooner."""
    monkeypatch.setattr(requests, "REMEMBERED_NS", remembered_s * SECOND)
    monkeypatch.setattr(requests, "REMEMBERED_LEAST_NS", min(requests.REMEMBERED_LEAST_NS, remembered_s * SECOND))

    async def body(region: SimRegion) -> None:
        leader = region.leader()
        late = next(node for node in region.nodes.values() if node is not leader)

        async def use(caller: Caller) -> bool:
            ask = caller.door.ask
            created, _ = await ask(wire.CreateKeyRequest(), at=None, seconds=5, request_id=b"c" * 16)
            assert isinstance(created, wire.CreateKeyResponse)
            key = created.key_metadata.key_id
            sealed, _ = await ask(wire.EncryptRequest(key_id=key, plaintext=b"x"), at=late.name, seconds=5)
            assert isinstance(sealed, wire.EncryptResponse)
            await ask(wire.DisableKeyRequest(key_id=key), at=None, seconds=5, request_id=b"d" * 16)
            await leave(region, late, caller, key)
            await ask(wire.EnableKeyRequest(key_id=key), at=None, seconds=10, request_id=ID)
            await ask(wire.DisableKeyRequest(key_id=key), at=None, seconds=5, request_id=b"f" * 16)
            await trio.sleep(remembered_s + 10)
            late.resume()
            await trio.sleep(1)
            region.network.links.heal_all()
            await trio.sleep(1)
            with pytest.raises(DisabledException):
                await ask(wire.DecryptRequest(ciphertext_blob=sealed.ciphertext_blob), at=None, seconds=5)
            await region.until(lambda: late.serves)
            with pytest.raises(DisabledException):
                await ask(wire.DecryptRequest(ciphertext_blob=sealed.ciphertext_blob), at=late.name, seconds=5)
            await ask(wire.EnableKeyRequest(key_id=key), at=late.name, seconds=5, request_id=b"g" * 16)
            return True

        assert await used(SimClient("c0", world_of(region), az="a"), use)

    in_region(body)


async def leap(region: SimRegion) -> None:
    """Half an hour passes by everybody's wall clock, and a few seconds by nobody's."""
    region.wire.leapt_ns += 1800 * SECOND
    await trio.sleep(3)


async def suspend(region: SimRegion) -> None:
    """All nodes; their monotonic clocks go on. Who led, and may have counted its absence, leads again."""
    led = region.leader()
    assert led is not None
    for node in region.nodes.values():
        node.pause()
    await trio.sleep(1800)
    for node in region.nodes.values():
        node.resume()
    await region.until(lambda: len(region.serving()) == len(region.nodes))
    leader = region.leader()
    assert leader is not None
    if leader is not led:
        await region.ask(leader, "TransferLeadership", node_id=led.name)
    await region.until(lambda: region.leader() is led and led.serves)


@pytest.mark.parametrize("aws", [False, True])
@pytest.mark.parametrize("pass_over", [leap, suspend])
def test_retry_after_half_an_hour_that_was_none_is_the_same_request(
    pass_over: Callable[[SimRegion], Awaitable[None]], aws: bool
) -> None:
    """The answer was lost, and the region hasn't run since."""

    async def body(region: SimRegion) -> None:
        async def use(caller: Caller) -> bool:
            async def create() -> str:
                created, _ = await caller.door.ask(wire.CreateKeyRequest(), at=None, seconds=5, request_id=ID)
                assert isinstance(created, wire.CreateKeyResponse)
                return created.key_metadata.key_id

            first = await create()
            await pass_over(region)
            assert await create() == first
            keys, _ = await caller.door.ask(wire.ListKeysRequest(), at=None, seconds=5)
            assert isinstance(keys, wire.ListKeysResponse)
            assert [key.key_id for key in keys.keys] == [first]
            return True

        assert await used(SimClient("c0", world_of(region), aws=aws), use)

    in_region(body)
