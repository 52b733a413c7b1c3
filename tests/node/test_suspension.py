"""A process that was suspended notices it, and acts on nothing that it had not read before."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.commands import decode_command
from keycluster.cluster.keys.records import KeyState
from keycluster.cluster.types import MILLISECOND, SECOND, WallTime
from keycluster.cluster.wire.frames import encode_requests
from keycluster.cluster.wire.operations import EnableKeyRequest, EncryptRequest, EncryptResponse
from keycluster.node.suspension import BACKLOG_NS_MAX, SUSPENDED_NS_MAX, VOID, WatchedClock
from tests.node.doors.region import ClockByHand, Region
from tests.node.doors.test_aws import connected, http, sign

LONG = 600 * SECOND


@given(st.lists(st.integers(0, 2 * SUSPENDED_NS_MAX), max_size=30))
def test_gap_between_two_readings_is_a_suspension(gaps: list[int]) -> None:
    """Each one counts; a process that is only slow isn't suspended, however long it goes on."""
    clock = ClockByHand()
    watched = WatchedClock(clock)
    for gap in gaps:
        clock.move(gap)
        assert watched.now() == clock.now()
    assert watched.suspensions == sum(gap > SUSPENDED_NS_MAX for gap in gaps)
    assert watched.wall() == WallTime(clock.wall())


def test_session_that_may_have_waited_through_a_suspension_is_void() -> None:
    """One that comes a second later is good, until the next suspension."""
    clock = ClockByHand()
    watched = WatchedClock(clock)
    assert watched.session_without_handshake() == watched.suspensions == 0
    clock.move(LONG)
    assert watched.session_without_handshake() == VOID
    clock.move(BACKLOG_NS_MAX + 1)
    assert watched.session_without_handshake() == watched.suspensions == 1


@pytest.fixture
def region() -> Region:
    return Region()


async def test_native_session_is_void_after_a_suspension(region: Region) -> None:
    """What is read then is neither carried out nor answered; the next session is good."""
    key = region.add_key(state=KeyState.DISABLED)
    async with region.native() as client:
        region.clock.move(LONG)
        await client.send(encode_requests([client.request("EnableKey", EnableKeyRequest(key_id=key.key_id))]))
        assert await client.is_closed()
    assert region.applied.proposed == []
    async with region.native() as client:
        await client.ask("EnableKey", EnableKeyRequest(key_id=key.key_id))
    assert len(region.applied.proposed) == 1


async def test_native_session_outlives_a_busy_moment(region: Region) -> None:
    """Garbage collection, a slow disk, an overloaded machine."""
    key = region.add_key()
    async with region.native() as client:
        for _ in range(3):
            region.clock.move(SUSPENDED_NS_MAX)
            await client.ask_for("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"), EncryptResponse)


async def test_request_that_was_read_before_a_suspension_ends_with_its_session(region: Region) -> None:
    """What a task is at is dated as of then; its answer would have nobody to wait for it."""
    key = region.add_key()
    region.applied.hold = trio.Event()
    async with region.native() as client:
        await client.send(encode_requests([client.request("DisableKey", EnableKeyRequest(key_id=key.key_id))]))
        await trio.testing.wait_all_tasks_blocked()
        (command,) = region.applied.proposed
        assert decode_command(command).asked == region.applied.running_time
        region.clock.move(LONG)
        await client.send(
            encode_requests([client.request("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"))])
        )
        assert await client.is_closed()


async def test_aws_connection_is_void_after_a_suspension(region: Region) -> None:
    """A signature of five minutes ago would still be good."""
    key = region.add_key(state=KeyState.DISABLED)
    async with connected(region) as client:
        assert (await client.post("EnableKey", {"KeyId": key.key_id})).status == 200
        region.clock.move(LONG)
        await client.raw.send(enable(key.key_id))
        assert await client.is_closed()
    assert len(region.applied.proposed) == 1


async def test_aws_connection_that_waited_to_be_accepted_is_void(region: Region) -> None:
    """Without TLS its client may be long gone; one that comes later is served."""
    key = region.add_key(state=KeyState.DISABLED)
    region.clock.move(LONG)
    async with connected(region) as client:
        await client.raw.send(enable(key.key_id))
        assert await client.is_closed()
    assert region.applied.proposed == []
    region.clock.move(BACKLOG_NS_MAX + MILLISECOND)
    async with connected(region) as client:
        assert (await client.post("EnableKey", {"KeyId": key.key_id})).status == 200


def enable(key_id: str) -> bytes:
    body = {"KeyId": key_id}
    return http(sign("EnableKey", body), body)
