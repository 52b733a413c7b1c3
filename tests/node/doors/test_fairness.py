"""What one client can do to others, and to the heartbeats of the node: nothing that counts."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from keycluster.cluster.types import AccountId
from keycluster.cluster.wire.errors import DependencyTimeoutException, ThrottlingException
from keycluster.cluster.wire.frames import Refused, Welcome, decode_failure, encode_requests
from keycluster.cluster.wire.operations import CreateKeyRequest, DescribeKeyRequest, GenerateRandomRequest
from keycluster.node.dispatch import Call
from keycluster.node.doors.limits import DEFAULT_LIMITS, DoorLimits
from keycluster.node.doors.native import SENT_AT_ONCE
from keycluster.node.gate import Answer, Released
from keycluster.node.turns import TURN_SECONDS, Turns
from tests.node.doors.region import ACCESS_KEY, SECRET, Client, Region
from tests.node.test_dispatch import waiting
from tests.node.turn_meter import TurnMeter

OTHER_ACCESS_KEY = "AKIAOTHEREXAMPLE0001"
LIST_SECONDS = 0.0028  # A page of 1,000 keys, measured.
RANDOM_SECONDS = 0.00002
RANDOM = GenerateRandomRequest(number_of_bytes=1)


class Metered:
    """A region whose handlers take time by a meter's clock."""

    def __init__(self, limits: DoorLimits = DEFAULT_LIMITS) -> None:
        self.region = Region(limits=limits)
        self.region.add_access_key(OTHER_ACCESS_KEY, SECRET.encode(), account=AccountId("999988887777"))
        self.meter = TurnMeter()
        self.region.dispatch.turns = Turns(now=self.meter.now)
        self.takes("ListKeys", LIST_SECONDS)
        self.takes("PutKeyPolicy", LIST_SECONDS)
        self.takes("GenerateRandom", RANDOM_SECONDS)

    def takes(self, operation: str, seconds: float) -> None:
        call: Call = self.region.dispatch.native_calls[operation]
        handler = call.handler

        def timed(*arguments: Any) -> Any:
            self.meter.spend(seconds)
            return handler(*arguments)

        call.handler = timed


@asynccontextmanager
async def logged_in(region: Region, access_key_id: str) -> AsyncIterator[Client]:
    async with region.connect(region.native_door) as client:
        welcome = await client.log_in(access_key_id=access_key_id)
        assert isinstance(welcome, Welcome), welcome
        yield client


@pytest.mark.parametrize(
    ("operation", "request_of"), [("ListKeys", {"Limit": 1_000}), ("PutKeyPolicy", {"KeyId": "k", "Policy": "{}"})]
)
async def test_costly_requests_of_one_receive_are_spread_over_turns(operation: str, request_of: object) -> None:
    """As many as a connection may send at once: heartbeats come in between."""
    metered = Metered()
    async with logged_in(metered.region, ACCESS_KEY) as client:
        with metered.meter.running():
            await client.send(encode_requests([client.request(operation, request_of) for _ in range(256)]))
            await client.replies(256)
    assert sum(metered.meter.by_turn) >= 256 * LIST_SECONDS
    assert metered.meter.longest <= TURN_SECONDS + LIST_SECONDS


async def test_many_busy_connections_are_spread_over_turns() -> None:
    """Each brings as much at once as it may, all of them ready in the same turn."""
    metered = Metered()
    receive_seconds = 256 * RANDOM_SECONDS
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(logged_in(metered.region, ACCESS_KEY)) for _ in range(40)]
        with metered.meter.running():
            async with trio.open_nursery() as nursery:
                for client in clients:
                    requests = [client.request("GenerateRandom", RANDOM) for _ in range(256)]
                    nursery.start_soon(client.send, encode_requests(requests))
            for client in clients:
                await client.replies(256)
    assert metered.meter.longest <= TURN_SECONDS + receive_seconds + 1e-9


async def test_other_account_is_served_while_one_floods() -> None:
    """Its request isn't behind the 256 that came before it."""
    metered = Metered()
    async with logged_in(metered.region, ACCESS_KEY) as flood, logged_in(metered.region, OTHER_ACCESS_KEY) as other:
        with metered.meter.running():
            await flood.send(encode_requests([flood.request("ListKeys", {}) for _ in range(256)]))
            began = metered.meter.now()
            assert not (await other.ask("GenerateRandom", RANDOM)).failed
            assert not (await other.ask("ListKeys", {})).failed
            assert metered.meter.now() - began < 50 * LIST_SECONDS  # One a turn: streams take some turns as well.
            await flood.replies(256)


async def test_answers_that_piled_up_are_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the client read nothing, or before a lease of another node ran out: then all lists leave at once."""
    region = Region()
    sent: list[int] = []

    async def counted(answers: Sequence[Answer]) -> Released:
        sent.append(len(answers))
        await trio.testing.wait_all_tasks_blocked()  # Meanwhile all others are ready.
        return Released(answers)

    monkeypatch.setattr(region.gate, "pass_out", counted)
    async with logged_in(region, ACCESS_KEY) as client:
        await client.send(encode_requests([client.request("ListKeys", {}) for _ in range(100)]))
        await client.replies(100)
    assert sum(sent) == 100
    assert max(sent) <= SENT_AT_ONCE


async def test_answers_that_nobody_reads_count_as_in_flight() -> None:
    """Over all connections: what an account has waiting here is bounded, however many answers it asks for."""
    region = Region(limits=DoorLimits(requests_in_flight_max=200, connection_requests_max=100))
    let_go = trio.Event()

    async def stuck(answers: Sequence[Answer]) -> Released:
        await let_go.wait()
        return Released(answers)

    region.gate.pass_out = stuck  # type: ignore[method-assign]  # Of this one only.
    async with logged_in(region, ACCESS_KEY) as client, logged_in(region, ACCESS_KEY) as other:
        for asking in (client, other):
            await asking.send(encode_requests([asking.request("ListKeys", {}) for _ in range(40)]))
            await trio.testing.wait_all_tasks_blocked()
        assert region.native_door.busy.count == 50
        let_go.set()
    assert region.native_door.busy.count == 0


async def test_read_whose_turn_comes_after_the_lease_ended_reads_nothing() -> None:
    """Rule L3: the check is made when the turn has come, not when the request did."""
    metered = Metered()
    region = metered.region
    key = region.add_key()
    asked = waiting(region, "DescribeKey", DescribeKeyRequest(key_id=key.key_id))
    answers = []

    async def ask() -> None:
        answers.append(await region.dispatch.perform(asked))

    def spend() -> None:
        metered.meter.spend(1.0)

    await region.dispatch.turns.run("a", spend)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.lowlevel.checkpoint()
        region.applied.serving = False
        region.state.reads.clear()
    assert isinstance(answers[0].error, DependencyTimeoutException)
    assert region.state.reads == []


async def test_account_cannot_fill_the_native_door() -> None:
    """Beyond its share it is refused, retryably, and others get in as before."""
    region = Metered(DoorLimits(connections_max=8)).region
    async with logged_in(region, ACCESS_KEY), logged_in(region, ACCESS_KEY) as second:
        async with region.connect(region.native_door) as third:
            refused = await third.log_in()
            assert isinstance(refused, Refused)
            assert (refused.code, refused.retryable) == ("ThrottlingException", True)
            assert await third.is_closed()
        async with logged_in(region, OTHER_ACCESS_KEY) as other:
            assert not (await other.ask("GenerateRandom", RANDOM)).failed
        assert not (await second.ask("GenerateRandom", RANDOM)).failed
    async with logged_in(region, ACCESS_KEY), logged_in(region, ACCESS_KEY):
        assert region.native_door.connections.count == 2


async def test_account_cannot_fill_what_may_be_in_flight() -> None:
    """Its writes that wait are bounded over all of its connections; another account's are carried out."""
    region = Metered(DoorLimits(requests_in_flight_max=12, connection_requests_max=2)).region
    region.applied.hold = trio.Event()
    async with AsyncExitStack() as stack:
        greedy = [await stack.enter_async_context(logged_in(region, ACCESS_KEY)) for _ in range(3)]
        modest = await stack.enter_async_context(logged_in(region, OTHER_ACCESS_KEY))
        failures = []
        for client in greedy:
            await client.send(encode_requests([client.request("CreateKey", CreateKeyRequest()) for _ in range(2)]))
            await trio.testing.wait_all_tasks_blocked()
        assert region.native_door.busy.count == 3
        await modest.send(encode_requests([modest.request("CreateKey", CreateKeyRequest())]))
        await trio.testing.wait_all_tasks_blocked()
        region.applied.hold.set()
        [reply] = (await modest.replies(1)).values()
        assert not reply.failed
        for client in greedy:
            replies = (await client.replies(2)).values()
            failures += [decode_failure(reply.body).code for reply in replies if reply.failed]
        assert failures == ["ThrottlingException"] * 3
    assert region.native_door.busy.count == 0


def test_one_account_may_hold_what_a_large_client_needs() -> None:
    """A region with one account: a thousand connections, and as many requests in flight."""
    assert _how_many(lambda region: region.native_door.connections.recognise(trio.CancelScope(), "a")) >= 1_000
    assert _how_many(lambda region: region.native_door.busy.enter("a")) >= 1_024


def _how_many(enter: Callable[[Region], None]) -> int:
    region = Region()
    for count in range(5_000):
        try:
            enter(region)
        except ThrottlingException:
            return count
    return 5_000
