"""One connection: shared frames, replies in any order, bounds, deadlines, cancellation and silence."""

import math
import random
import time
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import msgspec
import pytest

from keycluster import KeyClient, errors
from keycluster.client import connection as connection_module
from keycluster.client.runtime import current_runtime
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire import frames
from tests.client.fake_region import AnyRequest, Hold, RegionOf, echo, hold, until
from tests.client.loops import Run

EMPTY = msgspec.Raw(b"\x80")


async def encrypt_many(client: KeyClient, count: int, answers: list[int] | None = None) -> None:
    """`count` calls at the same time, each with a plaintext of its own; its answer has to be its own too."""

    async def one(number: int) -> None:
        plaintext = b"%d" % number
        answer = await client.encrypt(key_id="k", plaintext=plaintext)
        assert answer.ciphertext_blob == b"sealed:" + plaintext
        if answers is not None:
            answers.append(number)

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)


def test_concurrent_calls_share_frames(run: Run, region_of: RegionOf) -> None:
    """64 calls made together arrive in one frame, and so do those that their answers set off."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            node = region.nodes[0]
            await encrypt_many(client, 64)
            assert [len(batch) for batch in node.batches] == [64]
            node.batches.clear()

            async def ten_in_a_row() -> None:
                for _ in range(10):
                    await client.encrypt(key_id="k", plaintext=b"x")

            async with anyio.create_task_group() as group:
                for _ in range(64):
                    group.start_soon(ten_in_a_row)
            assert len(node.requests) == 640
            assert len(node.batches) <= 40

    run(body)


@pytest.mark.parametrize("seed", range(5))
def test_replies_in_any_order_reach_their_callers(run: Run, region_of: RegionOf, seed: int) -> None:
    """Whatever the order of replies, and with unknown numbers among them, each caller gets its own."""

    async def body() -> None:
        shuffle = random.Random(seed)
        async with region_of(1) as region, region.client() as client:
            node = region.nodes[0]
            node.handler = hold
            answers: list[int] = []
            async with anyio.create_task_group() as group:
                group.start_soon(encrypt_many, client, 30, answers)
                await until(lambda: len(node.held) == 30)
                stream, _ = node.held[0]
                strays: list[frames.Reply[dict[str, str]]] = [
                    frames.Reply(2**31, False, {}),
                    frames.Reply(77_777, True, {}),
                ]
                await stream.send(frames.encode_replies(strays))
                await node.release(lambda held: shuffle.sample(held, len(held)))
            assert sorted(answers) == list(range(30))

    run(body)


@pytest.mark.parametrize(("ours", "theirs"), [(4, 1024), (1024, 4)])
def test_calls_in_flight_are_bounded(run: Run, region_of: RegionOf, ours: int, theirs: int) -> None:
    """No more requests are out than the client's limit or the node's allows; the rest waits and goes out in turn."""

    async def body() -> None:
        async with region_of(1) as region:
            node = region.nodes[0]
            node.welcome["requests_in_flight_max"] = theirs
            node.handler = hold
            async with region.client(in_flight_max=ours) as client, anyio.create_task_group() as group:
                group.start_soon(encrypt_many, client, 20)
                for _ in range(5):
                    await until(lambda: len(node.held) >= 4)
                    assert len(node.held) == 4
                    assert client.statistics()[0].in_flight == 4
                    await node.release()

    run(body)


def test_frames_stay_within_the_nodes_limit(run: Run, region_of: RegionOf) -> None:
    """Large requests are spread over frames that the node takes; one that fits in none is refused here."""

    async def body() -> None:
        async with region_of(1) as region:
            node = region.nodes[0]
            node.welcome["frame_bytes_max"] = 20_000
            async with region.client() as client:
                async with anyio.create_task_group() as group:
                    for _ in range(20):
                        group.start_soon(lambda: client.encrypt(key_id="k", plaintext=bytes(4000)))
                assert len(node.requests) == 20
                assert max(len(batch) for batch in node.batches) == 4
                with pytest.raises(errors.RequestTooLarge, match="is the limit"):
                    await client.encrypt(key_id="k", plaintext=bytes(20_000))
                await client.encrypt(key_id="k", plaintext=bytes(19_500))

    run(body)


def test_arguments_that_cannot_be_said_fail_at_their_caller(run: Run, region_of: RegionOf) -> None:
    """A value of a type that has no encoding is an error of that call; others on the connection don't notice."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            with pytest.raises(TypeError):
                await client.encrypt(key_id="k", plaintext=object())  # type: ignore[arg-type]  # That is the point.
            with pytest.raises(TypeError, match="a list is needed"):
                await client.untag_resource(key_id="k", tag_keys="Name")
            with pytest.raises(UnicodeEncodeError):
                await client.encrypt(key_id="\ud800", plaintext=b"x")
            await encrypt_many(client, 3)

    run(body)


# Time.


def test_call_ends_at_its_deadline(run: Run, region_of: RegionOf) -> None:
    """A call without an answer ends when its time is over, and a change says that it may have been made."""

    async def body() -> None:
        async with region_of(1) as region, region.client(timeout=0.3) as client:
            region.nodes[0].handler = hold
            start = anyio.current_time()
            with pytest.raises(errors.DeadlineExceeded, match=r"Encrypt within its time$"):
                await client.encrypt(key_id="k", plaintext=b"x")
            with pytest.raises(errors.DeadlineExceeded, match="may have been made"):
                await client.create_key(timeout=0.1)
            assert 0.4 <= anyio.current_time() - start < 1.0
            first, second = region.nodes[0].requests
            assert 250 <= first.deadline_ms <= 300
            assert 50 <= second.deadline_ms <= 100

    run(body)


def test_call_is_not_sent_after_its_deadline(run: Run, region_of: RegionOf) -> None:
    """The process was stopped, or its loop busy, and the writer's turn comes before the watch's: what the call asks for
    may have been done at another node meanwhile, and undone. Those behind it are sent."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            await client.encrypt(key_id="k", plaintext=b"x")
            connection = client._region._nodes[0].connection
            assert connection is not None

            def queue(seconds: float) -> connection_module._Call:
                deadline = connection._now() + seconds
                call = connection_module._Call("Encrypt", msgspec.Raw(b"\x80"), None, deadline, anyio.Event())
                connection._queue.append(call)
                return call

            late, just_in_time, early = queue(-0.05), queue(0.0009), queue(10)
            requests = connection._next_batch()
            assert isinstance(late.failure, errors.DeadlineExceeded)
            assert late.ended
            assert [request.id for request in requests] == [just_in_time.number, early.number]
            assert requests[0].deadline_ms == 1
            assert len(frames.decode_requests(frames.encode_requests(requests)[frames.LENGTH_BYTES :])) == 2

    run(body)


def test_sooner_deadline_among_later_ones_is_kept(run: Run, region_of: RegionOf) -> None:
    """A short call behind long ones ends in its own time, and the long ones go on."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client, anyio.create_task_group() as group:
            node = region.nodes[0]
            node.handler = hold
            group.start_soon(encrypt_many, client, 5)
            await until(lambda: len(node.held) == 5)
            with pytest.raises(errors.DeadlineExceeded):
                await client.encrypt(key_id="k", plaintext=b"x", timeout=0.05)
            assert len(node.held) == 6
            await node.release()

    run(body)


@pytest.mark.parametrize("seconds", [1e9, math.inf])
def test_very_long_timeout_is_told_as_the_longest_there_is(run: Run, region_of: RegionOf, seconds: float) -> None:
    """The node's bound on deadlines is kept, however long the caller would wait: for ever too."""

    async def body() -> None:
        async with region_of(1) as region, region.client(timeout=seconds) as client:
            await client.encrypt(key_id="k", plaintext=b"x", timeout=seconds)
            await client.encrypt(key_id="k", plaintext=b"x")
            assert [request.deadline_ms for request in region.nodes[0].requests] == [frames.DEADLINE_MS_MAX] * 2

    run(body)


def test_timeout_that_is_no_number_is_refused_and_harms_nobody(run: Run, region_of: RegionOf) -> None:
    """Not a time: said to whoever gave it, and the client goes on."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            with pytest.raises(ValueError, match="seconds"):
                await client.encrypt(key_id="k", plaintext=b"x", timeout=math.nan)
            await client.encrypt(key_id="k", plaintext=b"x")

    run(body)


def test_cancelled_call_is_given_up_and_its_late_answer_dropped(run: Run, region_of: RegionOf) -> None:
    """A cancel scope ends a call at once; the answer that comes later disturbs nobody."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            node = region.nodes[0]
            node.handler = hold
            with anyio.move_on_after(0.05) as scope:
                await client.encrypt(key_id="k", plaintext=b"x")
            assert scope.cancelled_caught
            node.handler = echo
            await node.release()
            await encrypt_many(client, 3)
            assert node.log_ins == 1

    run(body)


def test_call_cancelled_before_it_was_sent_is_not_sent(run: Run, region_of: RegionOf) -> None:
    """What waits for a place in flight and is cancelled meanwhile never reaches the node."""

    async def body() -> None:
        async with region_of(1) as region, region.client(in_flight_max=1) as client:
            node = region.nodes[0]
            node.handler = hold
            async with anyio.create_task_group() as group:
                group.start_soon(encrypt_many, client, 1)
                await until(lambda: node.held)
                with anyio.move_on_after(0.05):
                    await client.create_key()
                node.handler = echo
                await node.release()
            await encrypt_many(client, 1)
            assert [request.operation for request in node.requests] == ["Encrypt", "Encrypt"]

    run(body)


def test_given_up_calls_count_as_in_flight_until_answered(run: Run, region_of: RegionOf) -> None:
    """Calls that timed out still burden the node: no more than the limit are out in all."""

    async def body() -> None:
        async with region_of(1) as region, region.client(in_flight_max=3) as client:
            node = region.nodes[0]
            node.handler = hold
            for _ in range(5):
                with pytest.raises(errors.DeadlineExceeded):
                    await client.encrypt(key_id="k", plaintext=b"x", timeout=0.03)
            assert len(node.requests) == 3
            node.handler = echo
            await node.release()
            await encrypt_many(client, 3)

    run(body)


def test_refusal_is_not_hidden_by_the_deadline(run: Run, region_of: RegionOf) -> None:
    """A read that was refused and then not answered raises the refusal; a change says that nobody knows."""

    async def body() -> None:
        async with region_of(2) as region, region.client() as client:
            first, second = region.nodes
            first.handler = lambda request: errors.KeyUnavailableException("no lease")
            second.handler = hold
            with pytest.raises(errors.KeyUnavailableException, match="no lease"):
                await client.describe_key(key_id="k", timeout=0.1)
            first.handler = lambda request: errors.KMSInternalException("no leader")
            await until(lambda: client._region.find(NodeId("node-1"))[0].is_usable(anyio.current_time()))
            client._region.find(NodeId("node-1"))[0].mark_answered()
            with pytest.raises(errors.DeadlineExceeded, match="may have been made") as caught:
                await client.create_key(timeout=0.1)
            assert isinstance(caught.value.__cause__, errors.KMSInternalException)

    run(body)


def test_change_that_was_never_sent_is_not_said_to_be_perhaps_made(run: Run, region_of: RegionOf) -> None:
    """A change that waited for its place when the connection was lost leaves nothing unknown: the refusal is raised."""

    async def body() -> None:
        async with region_of(2) as region, region.client(in_flight_max=1) as client:
            first, second = region.nodes
            first.handler = hold
            second.handler = lambda request: errors.KeyUnavailableException("no lease")
            async with anyio.create_task_group() as group:

                async def refused(call: Awaitable[object]) -> None:
                    with pytest.raises(errors.KeyUnavailableException):
                        await call

                group.start_soon(refused, client.encrypt(key_id="k", plaintext=b"x", timeout=0.5))
                await until(lambda: first.held)
                group.start_soon(refused, client.create_key(timeout=0.5))
                await anyio.wait_all_tasks_blocked()
                first.handler = second.handler
                await first.hang_up()
            assert "CreateKey" in {request.operation for request in second.requests}

    run(body)


def test_silent_node_is_left_for_another(run: Run, region_of: RegionOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that says nothing while calls wait is asked for a sign of life and then given up: others answer."""

    async def body() -> None:
        monkeypatch.setattr(connection_module, "WATCH_SECONDS", 0.05)
        monkeypatch.setattr(connection_module, "SILENCE_SECONDS_MAX", 0.1)
        async with region_of(2) as region, region.client() as client:
            region.nodes[0].handler = hold  # Holds the question for a sign of life too.
            start = anyio.current_time()
            await encrypt_many(client, 5)
            assert anyio.current_time() - start < 2
            signs = [request for batch in region.nodes[0].batches for request in batch][5:]
            assert [request.operation for request in signs] == ["NodeStatus"]

    run(body)


class StreamUnderAHeldUpLoop:
    """A node that answers once it is asked for a sign of life. Reading takes a few turns of the loop, and just then the
    application holds up the loop."""

    certificate = b""
    has_output = False

    def __init__(self, hold_up: Callable[[], None]) -> None:
        self._hold_up = hold_up
        self._splitter = frames.FrameSplitter(frames.FRAME_BYTES_MAX)
        self._requests: list[AnyRequest] = []
        self._asked = anyio.Event()

    def write_nowait(self, content: bytes) -> None:
        for body in self._splitter.feed(content):
            self._requests += frames.decode_requests(body)
        if self._requests[-1].operation == connection_module.SIGN_OF_LIFE:
            self._asked.set()

    async def flush(self) -> None:
        raise AssertionError("there is nothing to flush")

    async def receive(self) -> bytes:
        await self._asked.wait()
        self._asked = anyio.Event()
        self._hold_up()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return frames.encode_replies([frames.Reply(request.id, False, EMPTY) for request in self._requests])

    async def aclose(self) -> None:
        return


def test_node_is_not_called_silent_for_a_held_up_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that computes for seconds keeps the reader from its turn: the node's answer lies in the socket."""

    async def body() -> None:
        monkeypatch.setattr(connection_module, "WATCH_SECONDS", 0.05)
        monkeypatch.setattr(connection_module, "SILENCE_SECONDS_MAX", 0.1)
        stream = StreamUnderAHeldUpLoop(lambda: time.sleep(0.2))
        welcome = frames.Welcome(bytes(32), frames.FRAME_BYTES_MAX, 10)
        connection = connection_module.Connection(stream, welcome, current_runtime(), in_flight_max=10)
        async with anyio.create_task_group() as group:
            group.start_soon(connection.run)
            deadline = anyio.current_time() + 5
            reply = await connection.ask("Encrypt", EMPTY, request_id=None, deadline=deadline)
            assert not reply.failed
            connection.close()

    run(body)


def test_node_that_gives_signs_of_life_may_take_its_time(
    run: Run, region_of: RegionOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow answer is waited for as long as the node answers the question for a sign of life, with a refusal even."""

    async def body() -> None:
        monkeypatch.setattr(connection_module, "WATCH_SECONDS", 0.02)
        monkeypatch.setattr(connection_module, "SILENCE_SECONDS_MAX", 0.04)
        async with region_of(2) as region, region.client() as client:
            node = region.nodes[0]

            def slow(request: AnyRequest) -> object:
                if request.operation == "NodeStatus":
                    return errors.AccessDeniedException("not an operator")
                raise Hold

            node.handler = slow
            async with anyio.create_task_group() as group:
                group.start_soon(encrypt_many, client, 1)
                await until(lambda: sum(len(batch) for batch in node.batches) >= 6)
                await node.release()
            assert region.nodes[1].requests == []

    run(body)


def test_reply_about_the_connection_ends_it(run: Run, region_of: RegionOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply with number 0 says why the node closes: calls that wait are made elsewhere, at once."""

    async def body() -> None:
        monkeypatch.setattr(connection_module, "WATCH_SECONDS", 100)
        async with region_of(2) as region, region.client() as client:
            first = region.nodes[0]
            first.handler = hold
            async with anyio.create_task_group() as group:
                group.start_soon(encrypt_many, client, 2)
                await until(lambda: len(first.held) == 2)
                stream, _ = first.held[0]
                await stream.send(frames.encode_replies([first.reply(0, errors.ThrottlingException("full"))]))
            assert len(region.nodes[1].requests) == 2

    run(body)


def test_numbers_start_again_past_the_last_and_skip_those_in_flight(run: Run, region_of: RegionOf) -> None:
    """Request numbers stay within 32 bits and no two calls in flight share one."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            node = region.nodes[0]
            node.handler = hold
            connection = client._region.find(NodeId("node-1"))[0].connection
            assert connection is not None
            async with anyio.create_task_group() as group:
                group.start_soon(encrypt_many, client, 2)
                await until(lambda: len(node.held) == 2)
                connection._last_number = 2**32 - 2
                group.start_soon(encrypt_many, client, 2)
                await until(lambda: len(node.held) == 4)
                await node.release()
            assert [request.id for request in node.requests] == [1, 2, 2**32 - 1, 3]

    run(body)


def test_inputs_are_encoded_once_and_as_the_wire_says(run: Run, region_of: RegionOf) -> None:
    """What goes out is a map with AWS's names, members that weren't given left out."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            await client.describe_key(key_id="alias/a")
            request = region.nodes[0].requests[0]
            assert request.operation == "DescribeKey"
            assert msgspec.msgpack.decode(request.input) == {"KeyId": "alias/a"}

    run(body)
