"""Bytes nobody should send, many of them: the doors stay up, forget them, and serve honest clients meanwhile."""

import random
from collections.abc import Callable

import pytest
import trio

from keycluster.cluster.keys.records import Table
from keycluster.cluster.wire.frames import (
    Hello,
    Join,
    Proof,
    encode_greeting,
    encode_requests,
    frame,
)
from keycluster.cluster.wire.operations import EncryptRequest, GenerateRandomRequest
from keycluster.node.doors.aws import AwsDoor
from keycluster.node.doors.native import NativeDoor
from tests.node.doors.region import ACCESS_KEY, Client, Region
from tests.node.doors.test_aws import HttpClient, http, sign

ROUNDS = 400
"""Each on a connection of its own, with several changes."""

Seeds = list[bytes]

LIKELY = b'\x00\xff\x80\x91\xdd\xdf\r\n:,{["\\'
"""Bytes that mean something to one of the parsers."""


def mutate(content: bytes, chance: random.Random) -> bytes:
    """A few changes of the kinds that break parsers."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0:
                del changed[place : place + chance.randint(1, 8)]
            case 1:
                changed[place:place] = chance.randbytes(chance.randint(1, 8))
            case 2 if changed:
                changed[min(place, len(changed) - 1)] = chance.randrange(256)
            case 3:
                changed[place:place] = changed[: chance.randint(1, 64)]
            case 4:
                changed[place:place] = bytes([chance.choice(b'\x00\xff\x80\x91\xdd\xdf\r\n:,{["\\')]) * chance.randint(
                    1, 70
                )
            case _:
                del changed[place:]
    return bytes(changed)


async def until_closed(client: Client) -> None:
    """Reads and forgets; a door that waits for more gets the end of the stream."""
    with trio.move_on_after(0.002):
        while await client.stream.receive_some(65_536):
            pass


async def send(client: Client, content: bytes) -> None:
    try:
        await client.send(content)
        await until_closed(client)
    except trio.BrokenResourceError:
        pass  # The door has closed.


def request_seeds(key_id: str) -> Seeds:
    client = Client(trio.testing.memory_stream_pair()[0])
    requests = [
        client.request("Encrypt", EncryptRequest(key_id=key_id, plaintext=b"p", encryption_context={"a": "b"})),
        client.request("GenerateRandom", GenerateRandomRequest(number_of_bytes=9)),
        client.request("CreateKey", {"Description": "d"}, request_id=b"r" * 16),
    ]
    return [encode_requests([one]) for one in requests] + [encode_requests(requests), frame(b"\x90")]


GREETINGS: Seeds = [
    encode_greeting(Hello(1, ACCESS_KEY, b"n" * 32)),
    encode_greeting(Proof(b"p" * 32)),
    encode_greeting(Join(b"payload")),
]


@pytest.mark.parametrize("seed", range(2))
async def test_native_door_before_log_in(seed: int) -> None:
    """Strangers."""
    chance = random.Random(seed)

    async def join(payload: bytes, /, *, source: str) -> bytes:
        return b""

    region = Region(join=join)
    async with region.native() as honest:
        for _ in range(ROUNDS):
            async with region.connect(region.native_door) as client:
                await send(client, mutate(b"".join(chance.choices(GREETINGS, k=chance.randint(1, 3))), chance))
            await still_honest(honest)
    assert_nothing_left(region)


@pytest.mark.parametrize("seed", range(2))
async def test_native_door_after_log_in(seed: int) -> None:
    """Clients that are known, and broken."""
    chance = random.Random(seed)
    region = Region()
    seeds = request_seeds(region.add_key().key_id)
    async with region.native() as honest:
        for _ in range(ROUNDS):
            async with region.native() as client:
                await send(client, mutate(b"".join(chance.choices(seeds, k=chance.randint(1, 3))), chance))
            await still_honest(honest)
    assert_nothing_left(region)


async def still_honest(honest: Client) -> None:
    reply = await honest.ask("GenerateRandom", GenerateRandomRequest(number_of_bytes=1))
    assert not reply.failed


@pytest.mark.parametrize("seed", range(2))
async def test_aws_door(seed: int) -> None:
    """HTTP that is nearly some, signed bodies that are nearly right."""
    chance = random.Random(seed)
    region = Region()
    key_id = region.add_key().key_id
    encrypt = {"KeyId": key_id, "Plaintext": "cA==", "EncryptionContext": {"a": "b"}}
    raw: Seeds = [http(sign("Encrypt", encrypt), encrypt), http(sign("CreateKey")), http(sign("ListKeys"))]
    async with region.connect(region.aws_door) as connection:
        honest = HttpClient(connection)
        for _ in range(ROUNDS):
            async with region.connect(region.aws_door) as client:
                if chance.random() < 0.5:
                    await send(client, mutate(b"".join(chance.choices(raw, k=chance.randint(1, 3))), chance))
                else:
                    body = mutate(b'{"KeyId":"a","Plaintext":"cA==","EncryptionContext":{"a":"b"}}', chance)
                    await send(client, http(sign("Encrypt", body), body))
            assert (await honest.post("GenerateRandom", {"NumberOfBytes": 1})).status == 200
    assert_nothing_left(region)


def assert_nothing_left(region: Region) -> None:
    """No connection, no request under way, and no change but whole requests'."""
    for door in (region.native_door, region.aws_door):
        assert (door.connections.count, door.connections.strangers) == (0, 0)
        assert (door.busy.count, door.unfinished.count) == (0, 0)
    assert region.native_door.joins.count == 0
    assert len(region.state.tables.get(Table.KEYS, {})) <= len(region.applied.proposed) + 1
    assert "KMSInternalException" not in region.gate.refusals


async def test_honest_clients_are_served_while_strangers_hold_on() -> None:
    """Slow, silent and half-said connections up to the limit cost the others nothing."""
    region = Region()
    key = region.add_key()
    holders: list[tuple[Callable[[], NativeDoor | AwsDoor], bytes]] = [
        (lambda: region.native_door, b"\x00\x00"),
        (lambda: region.native_door, GREETINGS[0][:-1]),
        (lambda: region.aws_door, b"POST / HTTP/1.1\r\nHost:"),
        (lambda: region.aws_door, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"),
    ]
    async with trio.open_nursery() as nursery:

        async def hold(door: NativeDoor | AwsDoor, content: bytes) -> None:
            async with region.connect(door) as client:
                await client.send(content)
                await client.stream.receive_some(1)

        for door_of, content in holders * 50:
            nursery.start_soon(hold, door_of(), content)
        await trio.testing.wait_all_tasks_blocked()
        assert region.native_door.connections.strangers == region.aws_door.connections.strangers == 100
        async with region.native() as client:
            for _ in range(100):
                request = EncryptRequest(key_id=key.key_id, plaintext=b"p")
                assert not (await client.ask("Encrypt", request)).failed
        nursery.cancel_scope.cancel()
