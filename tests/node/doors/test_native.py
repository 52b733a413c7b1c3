"""The native door: who gets in, what is answered, and what nobody can do to others."""

from collections.abc import Callable

import msgspec
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from keycluster.cluster.keys.commands import decode_command
from keycluster.cluster.keys.records import KeyState, Table
from keycluster.cluster.types import KeyId, LogIndex
from keycluster.cluster.wire.errors import ValidationException
from keycluster.cluster.wire.frames import (
    Challenge,
    Failure,
    Hello,
    Join,
    JoinAnswer,
    Proof,
    Refused,
    Request,
    Welcome,
    decode_failure,
    encode_greeting,
    encode_requests,
    frame,
)
from keycluster.cluster.wire.operations import (
    CreateKeyRequest,
    CreateKeyResponse,
    DecryptRequest,
    DecryptResponse,
    DescribeKeyRequest,
    DescribeKeyResponse,
    EncryptRequest,
    EncryptResponse,
    GenerateRandomRequest,
    ListKeysRequest,
    ListKeysResponse,
    Shape,
)
from keycluster.node.dispatch import NOT_SERVING_TEXT, AdminCall, AdminOperation
from keycluster.node.doors.limits import DoorLimits
from tests.node.doors.region import ACCESS_KEY, Client, MemoryStream, Region
from tests.room_on_memory import ACCOUNT

# Getting in.


async def test_log_in_with_the_secret_opens_the_connection() -> None:
    """Both sides prove that they have the secret, and the client learns its limits."""
    region = Region()
    async with region.connect(region.native_door) as client:
        welcome = await client.log_in()
    assert isinstance(welcome, Welcome)
    assert welcome.requests_in_flight_max == region.native_door.limits.connection_requests_max


@pytest.mark.parametrize(
    ("access_key_id", "secret", "code"),
    [
        (ACCESS_KEY, "another secret", "InvalidSignatureException"),
        ("AKIANOBODY", "wJalrXUtnFEMI", "UnrecognizedClientException"),
    ],
)
async def test_log_in_without_the_secret_is_refused_and_closed(access_key_id: str, secret: str, code: str) -> None:
    """The refusal says which, is final, and ends the connection."""
    region = Region()
    async with region.connect(region.native_door) as client:
        refused = await client.log_in(access_key_id=access_key_id, secret=secret)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.retryable) == (code, False)
        assert await client.is_closed()


async def test_log_in_with_a_deactivated_access_key_is_refused() -> None:
    """A key that is no longer active is as good as none."""
    region = Region()
    region.change_access_key(active=False)
    async with region.connect(region.native_door) as client:
        refused = await client.log_in()
    assert isinstance(refused, Refused)
    assert refused.code == "UnrecognizedClientException"


async def test_log_in_at_a_node_that_may_be_behind_is_refused_retryably() -> None:
    """A node without a lease can't say that an access key doesn't exist: another node may know it."""
    region = Region()
    region.applied.serving = False
    async with region.connect(region.native_door) as client:
        refused = await client.log_in(access_key_id="AKIANEW")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.retryable) == ("KeyUnavailableException", True)


async def test_log_in_at_a_node_without_a_lease_works_for_a_known_key() -> None:
    """So that an operator can ask it how it is."""
    region = Region()
    region.applied.serving = False
    async with region.native():
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frame(b"\xc1"),
        frame(b"\x93\x01\x01\xa1A"),
        (20_000).to_bytes(4, "big"),
        b"\0\0\0\0",
        encode_greeting(Proof(b"p" * 32)),
        encode_greeting(Hello(1, ACCESS_KEY, b"n" * 32)) * 2,
        encode_greeting(Hello(1, ACCESS_KEY, b"n" * 32)) + b"\0",
        frame(b"\x91" * 10_000),
    ],
)
async def test_garbage_before_log_in_closes_without_a_word(content: bytes) -> None:
    """A stranger who doesn't speak the protocol learns nothing."""
    region = Region()
    async with region.connect(region.native_door) as client:
        await client.send(content)
        assert await client.is_closed()


async def test_hello_twice_closes() -> None:
    """A second nonce would let a stranger try again on one challenge."""
    region = Region()
    async with region.connect(region.native_door) as client:
        await client.send(encode_greeting(Hello(1, ACCESS_KEY, b"n" * 32)))
        assert isinstance(await client.greeting(), Challenge)
        await client.send(encode_greeting(Hello(1, ACCESS_KEY, b"n" * 32)))
        assert await client.is_closed()


async def test_hello_of_another_version_is_told_which_one_is_spoken() -> None:
    """So that a newer client can say it to its user."""
    region = Region()
    async with region.connect(region.native_door) as client:
        await client.send(encode_greeting(Hello(2, ACCESS_KEY, b"n" * 32)))
        refused = await client.greeting()
    assert isinstance(refused, Refused)
    assert "version 1" in refused.message


async def test_proof_of_another_certificate_is_refused() -> None:
    """Whoever sits between with a certificate of their own can't pass a proof on."""
    region = Region()
    region.native_door.certificate_sha256 = lambda: b"\x22" * 32
    async with region.connect(region.native_door) as client:
        refused = await client.log_in()
    assert isinstance(refused, Refused)
    assert refused.code == "InvalidSignatureException"


async def test_log_in_that_takes_too_long_is_cut_off(autojump_clock: MockClock) -> None:
    """Ten seconds, however many bytes trickle in."""
    region = Region()
    async with region.connect(region.native_door) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.trickle(encode_greeting(Hello(1, ACCESS_KEY, b"n" * 32)) * 2, pause=0.5)
        assert 9 < trio.current_time() < 15


async def test_stranger_over_the_limit_ends_the_oldest_stranger() -> None:
    """Who holds connections without logging in keeps nobody out, and who is logged in stays."""
    region = Region(limits=DoorLimits(strangers_max=2))
    door = region.native_door
    async with region.native() as known, region.connect(door) as first:
        await wait_all_tasks_blocked()
        async with region.connect(door) as second:
            await wait_all_tasks_blocked()
            async with region.native() as late:
                assert await first.is_closed()
                assert door.connections.evicted == 1
                assert not (await late.ask("GenerateRandom", GenerateRandomRequest(number_of_bytes=1))).failed
                assert not (await known.ask("GenerateRandom", GenerateRandomRequest(number_of_bytes=1))).failed
            assert isinstance(await second.log_in(), Welcome)
    assert door.connections.count == 0


async def test_connection_over_the_limit_is_closed_when_all_are_known() -> None:
    """A full house of clients that proved who they are lets nobody else in."""
    region = Region(limits=DoorLimits(connections_max=1))
    async with region.native(), region.connect(region.native_door) as late:
        assert await late.is_closed()
    assert region.native_door.connections.refused == 1


# Joining.


async def test_join_is_answered_before_log_in_and_the_connection_closed() -> None:
    """A new node has no access key: its token proves it, inside the payload."""

    async def join(payload: bytes, /, *, source: str) -> bytes:
        return payload + source.encode()

    region = Region(join=join)
    async with region.connect(region.native_door) as client:
        await client.send(encode_greeting(Join(b"question")))
        assert await client.greeting() == JoinAnswer(b"question192.0.2.1")
        assert await client.is_closed()


async def test_join_that_is_refused_says_why() -> None:
    """An operator at the new machine reads it."""

    async def join(payload: bytes, /, *, source: str) -> bytes:
        raise ValidationException("The token has expired")

    region = Region(join=join)
    async with region.connect(region.native_door) as client:
        await client.send(encode_greeting(Join(b"question")))
        assert await client.greeting() == Refused("ValidationException", "The token has expired", False)


async def test_joins_over_the_limit_are_throttled() -> None:
    """Strangers can't make a node admit many at once."""
    let_go = trio.Event()

    async def join(payload: bytes, /, *, source: str) -> bytes:
        await let_go.wait()
        return b""

    region = Region(join=join, limits=DoorLimits(joins_max=1))
    async with region.connect(region.native_door) as first, region.connect(region.native_door) as second:
        await first.send(encode_greeting(Join(b"")))
        await wait_all_tasks_blocked()
        await second.send(encode_greeting(Join(b"")))
        refused = await second.greeting()
        assert isinstance(refused, Refused)
        assert (refused.code, refused.retryable) == ("ThrottlingException", True)
        let_go.set()
        assert isinstance(await first.greeting(), JoinAnswer)


# Being answered.


async def test_encrypt_and_decrypt_go_round() -> None:
    """The everyday way."""
    region = Region()
    key = region.add_key()
    async with region.native() as client:
        encrypted = await client.ask_for("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"), EncryptResponse)
        decrypted = await client.ask_for(
            "Decrypt", DecryptRequest(ciphertext_blob=encrypted.ciphertext_blob), DecryptResponse
        )
    assert decrypted.plaintext == b"x"
    assert region.gate.passed == 2


async def test_answers_of_one_receive_leave_in_one_frame() -> None:
    """One send, and later one sync of the audit spool, for all."""
    region = Region()
    key = region.add_key()
    async with region.native() as client:
        requests = [client.request("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x")) for _ in range(64)]
        content = b"".join(encode_requests(requests[start : start + 16]) for start in range(0, 64, 16))
        await client.send(content)
        body = await client.next_frame()
        assert body is not None
        assert {reply.id for reply in msgspec.msgpack.decode(body, type=list[Reply])} == {one.id for one in requests}


class Reply(msgspec.Struct, array_like=True):
    id: int


async def test_create_key_goes_through_the_log() -> None:
    """The key is there when the answer is, and the command says who asked."""
    region = Region()
    async with region.native() as client:
        created = await client.ask_for("CreateKey", CreateKeyRequest(description="d"), CreateKeyResponse)
        described = await client.ask_for(
            "DescribeKey", DescribeKeyRequest(key_id=created.key_metadata.key_id), DescribeKeyResponse
        )
    assert described.key_metadata.description == "d"
    caller = decode_command(region.applied.proposed[0]).caller
    assert (caller.access_key_id, caller.account, caller.source) == (ACCESS_KEY, ACCOUNT, "192.0.2.1")


async def test_create_key_repeated_under_its_request_id_makes_one_key() -> None:
    """However often a client asks again."""
    region = Region()
    async with region.native() as client:
        first, second = [
            await client.ask_for("CreateKey", CreateKeyRequest(), CreateKeyResponse, request_id=b"r" * 16)
            for _ in range(2)
        ]
        listed = await client.ask_for("ListKeys", ListKeysRequest(), ListKeysResponse)
        failure = await client.fail("CreateKey", CreateKeyRequest(description="another"), request_id=b"r" * 16)
    assert first == second
    assert len(listed.keys) == 1
    assert failure.code == "IdempotentParameterMismatchException"


async def test_read_is_answered_only_once_it_is_settled() -> None:
    """Rule L10: what one read showed no later read at another node denies."""
    region = Region()
    key = region.add_key()
    region.applied.settle = trio.Event()
    async with region.native() as client:
        sent = client.request("DescribeKey", DescribeKeyRequest(key_id=key.key_id))
        await client.send(encode_requests([sent]))
        await wait_all_tasks_blocked()
        assert region.gate.passed == 0
        assert (await client.ask("GenerateRandom", GenerateRandomRequest(number_of_bytes=1))).failed is False
        region.applied.settle.set()
        assert sent.id in await client.replies(1)


@pytest.mark.parametrize(
    ("operation", "request_of", "code"),
    [
        ("Encrypt", lambda key_id: EncryptRequest(key_id=key_id, plaintext=b"x"), "KeyUnavailableException"),
        ("GenerateRandom", lambda _: GenerateRandomRequest(number_of_bytes=1), "DependencyTimeoutException"),
        ("DescribeKey", lambda key_id: DescribeKeyRequest(key_id=key_id), "DependencyTimeoutException"),
    ],
)
async def test_node_without_a_lease_refuses_retryably(
    operation: str, request_of: Callable[[KeyId], Shape], code: str
) -> None:
    """Rule L3, with the error that AWS's model lists for the operation."""
    region = Region()
    key = region.add_key()
    async with region.native() as client:
        region.applied.serving = False
        failure = await client.fail(operation, request_of(key.key_id))
    assert failure == Failure(code, NOT_SERVING_TEXT, True)


async def test_write_past_its_deadline_is_refused_retryably(autojump_clock: MockClock) -> None:
    """While nobody leads a write is held, but not longer than its caller waits."""
    region = Region()
    region.applied.hold = trio.Event()
    async with region.native() as client:
        before = trio.current_time()
        failure = await client.fail("CreateKey", CreateKeyRequest(), deadline_ms=3_000)
        assert trio.current_time() - before == pytest.approx(3, abs=0.1)
    assert (failure.code, failure.retryable) == ("DependencyTimeoutException", True)


async def test_revoked_access_key_stops_working_on_open_connections() -> None:
    """Contract 2: a connection keeps a name, not a verdict."""
    region = Region()
    key = region.add_key()
    async with region.native() as client:
        assert not (await client.ask("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"))).failed
        region.change_access_key(active=False)
        for operation in ("Encrypt", "CreateKey"):
            failure = await client.fail(operation, EncryptRequest(key_id=key.key_id, plaintext=b"x"))
            assert (failure.code, failure.retryable) == ("UnrecognizedClientException", False)
        region.change_access_key(active=True, version=2)
        assert (await client.ask("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"))).failed
    assert region.applied.proposed == []


async def test_access_key_read_again_goes_on_working() -> None:
    """A cache that forgot the row isn't a revocation."""
    region = Region()
    key = region.add_key()
    async with region.native() as client:
        region.room.clear()
        assert not (await client.ask("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"))).failed


async def test_disabled_key_refuses_at_once() -> None:
    """The cache is dropped with the row."""
    region = Region()
    key = region.add_key()
    async with region.native() as client:
        assert not (await client.ask("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"))).failed
        region.change_key(key.key_id, state=KeyState.DISABLED)
        failure = await client.fail("Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"))
    assert failure.code == "DisabledException"


async def test_unknown_operation_is_refused_and_the_connection_goes_on() -> None:
    """One bad request of a batch costs the others nothing."""
    region = Region()
    async with region.native() as client:
        bad = client.request("Frobnicate", {})
        good = client.request("GenerateRandom", GenerateRandomRequest(number_of_bytes=1))
        await client.send(encode_requests([bad, good]))
        replies = await client.replies(2)
    assert decode_failure(replies[bad.id].body).code == "UnknownOperationException"
    assert not replies[good.id].failed


# Operators.


async def test_operators_operation_needs_an_operators_access_key() -> None:
    """And nothing of it is there at the AWS door (test_aws.py)."""

    async def answer(call: AdminCall) -> msgspec.Struct:
        assert len(call.request_id) == 16
        return GenerateRandomRequest(number_of_bytes=7)

    region = Region(admin={"Frob": AdminOperation("Frob", GenerateRandomRequest, answer)})
    async with region.native() as client:
        assert (await client.fail("Frob", {})).code == "AccessDeniedException"
        region.change_access_key(operator=True)
        assert not (await client.ask("Frob", {})).failed
    assert "Frob" not in region.dispatch.calls


# What nobody can do to others.


async def test_requests_over_the_limit_are_throttled() -> None:
    """Retryably, and the others of the batch are carried out."""
    region = Region(limits=DoorLimits(connection_requests_max=4))
    async with region.native() as client:
        sent = [client.request("GenerateRandom", GenerateRandomRequest(number_of_bytes=1)) for _ in range(6)]
        await client.send(encode_requests(sent))
        replies = await client.replies(6)
    refused = [decode_failure(reply.body) for reply in replies.values() if reply.failed]
    assert [(failure.code, failure.retryable) for failure in refused] == [("ThrottlingException", True)] * 2


async def test_writes_in_flight_over_the_limit_are_throttled_and_come_free_again() -> None:
    """Of one connection, and of all of its account: a quarter of the door's."""
    region = Region(limits=DoorLimits(connection_requests_max=3, requests_in_flight_max=16))
    region.applied.hold = trio.Event()
    async with region.native() as one, region.native() as other:
        for _ in range(3):
            await one.send(encode_requests([one.request("CreateKey", CreateKeyRequest())]))
        await wait_all_tasks_blocked()
        assert (await one.fail("CreateKey", CreateKeyRequest())).code == "ThrottlingException"
        await other.send(encode_requests([other.request("CreateKey", CreateKeyRequest())]))
        await wait_all_tasks_blocked()
        assert (await other.fail("CreateKey", CreateKeyRequest())).code == "ThrottlingException"
        region.applied.hold.set()
        await one.replies(3)
        await other.replies(1)
        assert region.native_door.busy.count == 0
        assert not (await one.ask("CreateKey", CreateKeyRequest())).failed


async def test_answer_that_comes_in_the_step_of_the_connections_end_is_counted_once() -> None:
    """The connection leaves with all that it had asked for; its task may have been woken before it is cancelled.

    Which of the two comes first is trio's chance: so it is tried a few times.
    """
    region = Region()
    for _ in range(20):
        region.applied.hold = trio.Event()
        async with region.native() as client:
            await client.send(encode_requests([client.request("CreateKey", CreateKeyRequest())]))
            await wait_all_tasks_blocked()
            assert region.native_door.busy.count == 1
            region.applied.hold.set()
            await client.stream.aclose()
        assert region.native_door.busy.count == 0


@pytest.mark.parametrize(
    "content",
    [
        (1 << 21).to_bytes(4, "big"),
        frame(b"\xc1"),
        frame(b"\x90\x90"),
        frame(b"\x91\x95\x00\xa1E\x01\xc0\x80"),
        frame(b"\x91\x95\x01\xa1E\x00\xc0\x80"),
        frame(b"\x91\x95\x01\xa1E\x01\xc0" + b"\x91" * 5_000 + b"\xc0"),
        frame(b"\x91\x95\x01\xa1\xff\x01\xc0\x80"),
        frame(b"\xdd\xff\xff\xff\xff"),
    ],
)
async def test_frame_that_is_none_ends_the_connection_with_a_reason(content: bytes) -> None:
    """After log-in the reason is told, under the number of the connection; others go on."""
    region = Region()
    async with region.native() as client, region.native() as honest:
        await client.send(content)
        replies = await client.replies(1)
        assert decode_failure(replies[0].body).code == "SerializationException"
        assert await client.is_closed()
        assert not (await honest.ask("GenerateRandom", GenerateRandomRequest(number_of_bytes=1))).failed


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\xa5KeyId\xa1a\xa5KeyId\xa1a",
        b"\x82\xa5KeyId\xa1a\xa3Foo\x82\xa1x\x01\xa1x\x01",
        b"\x81\xa5KeyId\x01",
        b"\x81\xa5KeyId\xa1\xff",
        b"\x81\xc4\x05KeyId\xa1a",
        b"\x90",
        b"\x82\xa5KeyId\xa1a\xa3Foo\xa1\xff",
    ],
)
async def test_input_that_is_none_is_refused_alone(body: bytes) -> None:
    """Duplicate names, wrong types, bytes that aren't UTF-8 or msgpack: one request's affair."""
    region = Region()
    async with region.native() as client:
        failure = await client.fail("DescribeKey", msgspec.Raw(body))
        assert failure.code == "SerializationException"
        assert not (await client.ask("GenerateRandom", GenerateRandomRequest(number_of_bytes=1))).failed


async def test_frame_that_trickles_in_is_cut_off(autojump_clock: MockClock) -> None:
    """Slowloris: from its first byte on, a frame has a time limit that no further byte moves."""
    region = Region()
    async with region.native() as client:
        began = trio.current_time()
        whole = encode_requests([client.request("GenerateRandom", {"NumberOfBytes": 1, "Padding": b"x" * 500})])
        with pytest.raises(trio.BrokenResourceError):
            await client.trickle(whole, pause=0.4)
        assert 19 < trio.current_time() - began < 25


async def test_unfinished_frames_of_all_connections_are_bounded() -> None:
    """Whoever goes over loses theirs, and what comes whole needs no room."""
    region = Region(limits=DoorLimits(unfinished_bytes_max=400_000))
    door = region.native_door
    half = (500_000).to_bytes(4, "big") + bytes(60_000)
    async with region.native() as client:
        async with region.native() as first:
            await first.send(half)
            await wait_all_tasks_blocked()
            async with region.native() as second:
                await second.send(half)
                failure = decode_failure((await second.replies(1))[0].body)
                assert (failure.code, failure.retryable) == ("ThrottlingException", True)
                assert await second.is_closed()
            assert door.unfinished.count == len(half)
            assert not (await client.ask("GenerateRandom", GenerateRandomRequest(number_of_bytes=1))).failed
        await wait_all_tasks_blocked()
        assert door.unfinished.count == 0


async def test_connection_without_requests_is_closed_in_the_end(autojump_clock: MockClock) -> None:
    """Idle ones cost memory; clients connect again."""
    region = Region()
    async with region.native() as client:
        with trio.fail_after(700):
            assert await client.stream.receive_some(1) == b""


async def test_client_that_does_not_read_is_cut_off(autojump_clock: MockClock) -> None:
    """Its answers don't pile up here, and its requests aren't read meanwhile."""
    region = Region()
    stalled = Stalled(region)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalled.serve)
        await stalled.client.log_in()
        stalled.stop()
        for _ in range(100):
            await stalled.client.send(encode_requests([stalled.client.request("GenerateRandom", {"NumberOfBytes": 1})]))
        with trio.fail_after(60):
            await stalled.ended.wait()
    assert region.gate.passed == 1


async def test_client_that_does_not_read_is_not_read_from_while_another_task_sends() -> None:
    """The answer of a write is stuck on its way out: data-plane requests are carried out for one receive, no more."""
    region = Region()
    stalled = Stalled(region)
    client = stalled.client
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalled.serve)
        await client.log_in()
        stalled.stop()
        await client.send(encode_requests([client.request("CreateKey", {})]))
        await wait_all_tasks_blocked()
        asked = len(region.entropy.asked)
        for _ in range(10):
            await client.send(encode_requests([client.request("GenerateRandom", {"NumberOfBytes": 1})]))
            await wait_all_tasks_blocked()
        assert len(region.entropy.asked) == asked + 1
        nursery.cancel_scope.cancel()


async def test_client_that_does_not_read_is_not_read_from_for_reads_either() -> None:
    """Answers of tasks alone are stuck: they don't pile up here while more is asked for."""
    region = Region()
    key = region.add_key()
    stalled = Stalled(region)
    client = stalled.client
    asked = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalled.serve)
        await client.log_in()
        stalled.stop()
        settled = region.applied.settled

        async def counted(index: LogIndex) -> None:
            nonlocal asked
            asked += 1
            await settled(index)

        region.applied.settled = counted  # type: ignore[method-assign]  # Of this one only.
        for _ in range(10):
            await client.send(encode_requests([client.request("DescribeKey", {"KeyId": key.key_id})]))
            await wait_all_tasks_blocked()
        assert asked <= 2
        nursery.cancel_scope.cancel()


class Stalled:
    """A connection whose client stops reading at some time."""

    def __init__(self, region: Region) -> None:
        here, there = memory_stream_pair()
        self.client = Client(here)
        self.ended = trio.Event()
        self._door = region.native_door
        self._stream = MemoryStream(there)

    def stop(self) -> None:
        async def never(content: bytes | bytearray | memoryview) -> None:
            await trio.sleep_forever()

        self._stream.send_all = never  # type: ignore[method-assign]  # Of this one only.

    async def serve(self) -> None:
        await self._door.serve(self._stream)
        self.ended.set()


async def test_failed_handler_is_an_internal_error_and_the_node_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours that a request finds takes nothing else with it, and its text doesn't leave."""
    region = Region()

    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(region.dispatch.calls["GenerateRandom"], "handler", broken)
    async with region.native() as client:
        failure = await client.fail("GenerateRandom", {"NumberOfBytes": 1})
        assert failure.code == "KMSInternalException"
        assert "secret" not in failure.message


async def test_large_answers_are_split_into_frames_within_the_limit() -> None:
    """A client's limit of a frame is the door's."""
    region = Region(limits=DoorLimits(frame_bytes_max=4_096))
    async with region.native() as client:
        sent = [client.request("GenerateRandom", {"NumberOfBytes": 1_024}) for _ in range(16)]
        await client.send(encode_requests(sent))
        seen = 0
        while seen < 16:
            body = await client.next_frame()
            assert body is not None
            assert len(body) <= 4_096
            seen += len(msgspec.msgpack.decode(body))


async def test_deadline_out_of_range_is_refused() -> None:
    """A client can't make the door keep a request for a day."""
    region = Region()
    async with region.native() as client:
        await client.send(encode_requests([Request(1, "CreateKey", 86_400_000, None, {})]))
        assert decode_failure((await client.replies(1))[0].body).code == "SerializationException"
    assert Table.KEYS not in region.state.tables
