"""KeyClient against nodes on real sockets: log-in, answers, refusals, retries, time, and how it opens and closes."""

import ssl
from dataclasses import replace
from typing import NoReturn

import anyio
import msgspec
import pytest

from keycluster import KeyClient, errors
from keycluster.client import region as region_module
from keycluster.client.surroundings import REAL
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire import frames
from keycluster.cluster.wire.operations import EncryptResponse
from tests.client.fake_region import AnyRequest, Authority, RegionOf, drop, hold, until
from tests.client.loops import Run


def test_call_gives_the_typed_answer(run: Run, region_of: RegionOf) -> None:
    """A call returns the operation's response type; times, lists and nested members are typed too."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            answer = await client.encrypt(key_id="k", plaintext=b"text", encryption_context={"a": "b"})
            assert answer.ciphertext_blob == b"sealed:text"
            assert len((await client.create_key(description="d")).key_metadata.key_id) == 32
        sent = region.nodes[0].requests
        assert msgspec.msgpack.decode(sent[0].input) == {
            "KeyId": "k",
            "Plaintext": b"text",
            "EncryptionContext": {"a": "b"},
        }
        assert [request.request_id is None for request in sent] == [True, False]

    run(body)


def test_refusal_is_raised_as_it_is_and_not_retried(run: Run, region_of: RegionOf) -> None:
    """An error that isn't retryable reaches the caller at once, with its text, from the first node."""

    async def body() -> None:
        async with region_of(3) as region, region.client() as client:
            for node in region.nodes:
                node.handler = lambda request: errors.DisabledException("key is disabled")
            with pytest.raises(errors.DisabledException, match="key is disabled"):
                await client.encrypt(key_id="k", plaintext=b"x")
        assert [len(node.requests) for node in region.nodes] == [1, 0, 0]

    run(body)


def test_error_inside_the_context_comes_out_as_itself(run: Run, region_of: RegionOf) -> None:
    """What is raised inside `async with` isn't wrapped into a group by the client's own tasks."""

    async def body() -> None:
        async with region_of(1) as region:
            with pytest.raises(ZeroDivisionError):
                async with region.client():
                    raise ZeroDivisionError
            with pytest.raises(errors.UnknownOperationException):
                async with region.client() as client:
                    await client.list_keys()

    run(body)


# Log-in.


def test_wrong_secret_is_told_on_entry(run: Run, region_of: RegionOf) -> None:
    """The region's refusal of the log-in is raised where the client is opened, by its own name."""

    async def body() -> None:
        async with region_of(3) as region:
            credentials = type(region.endpoints().credentials)("TESTACCESSKEY0000001", "another secret")
            with pytest.raises(errors.InvalidSignatureException, match="wrong secret"):
                async with region.client(credentials=credentials):
                    pytest.fail("opened")

    run(body)


@pytest.mark.parametrize("claim", [("us-east-1", "node-9"), ("eu-west-1", "node-1")], ids=["node", "region"])
def test_another_node_at_the_address_is_not_trusted(run: Run, region_of: RegionOf, claim: tuple[str, str]) -> None:
    """Who says to be another node, or of another region, gets no proof and no request."""

    async def body() -> None:
        async with region_of(1) as region:
            region.nodes[0].claims = claim
            with pytest.raises(errors.NodeNotTrusted, match="answers where"):
                async with region.client(timeout=0.5):
                    pytest.fail("opened")
            assert region.nodes[0].log_ins == 0

    run(body)


def test_node_without_the_secret_is_not_trusted(run: Run, region_of: RegionOf) -> None:
    """A server whose own proof is wrong is left before anything is asked of it, even if it takes our proof."""

    async def body() -> None:
        async with region_of(2) as region:
            region.nodes[0].secret = "not the secret"
            async with region.client() as client:
                await client.encrypt(key_id="k", plaintext=b"x")
            assert region.nodes[0].batches == []
            assert len(region.nodes[1].requests) == 1

    run(body)


def test_proof_is_bound_to_the_certificate(run: Run, region_of: RegionOf) -> None:
    """A proof made on a connection with another certificate, as a man in the middle would have it, is worth nothing."""

    async def body() -> None:
        async with region_of(1) as region:
            region.nodes[0].fingerprint = bytes(32)
            with pytest.raises(errors.InvalidSignatureException):
                async with region.client(timeout=0.5):
                    pytest.fail("opened")

    run(body)


def test_certificate_of_another_authority_is_not_trusted(
    run: Run, region_of: RegionOf, other_authority: Authority
) -> None:
    """Only certificates of the region's client CA are taken, and only for the host that is called."""

    async def body() -> None:
        async with region_of(1) as region:
            with pytest.raises(errors.NodeNotTrusted, match="certificate"):
                async with region.client(timeout=100, ca_file=other_authority.file):  # Told at once, not at the end.
                    pytest.fail("opened")
            region.nodes[0].context, _ = region.authority.server_context("127.0.0.2")
            with pytest.raises(errors.NodeNotTrusted, match="certificate"):
                async with region.client(timeout=100):
                    pytest.fail("opened")

    run(body)


def test_older_tls_is_refused(run: Run, region_of: RegionOf) -> None:
    """A server that can't do TLS 1.3 isn't talked to."""

    async def body() -> None:
        async with region_of(1) as region:
            region.nodes[0].context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(errors.NodesUnreachable, match="TLS"):
                async with region.client(timeout=0.5):
                    pytest.fail("opened")

    run(body)


def test_log_in_that_another_node_may_grant_is_tried_there(run: Run, region_of: RegionOf) -> None:
    """A node that can't tell whether the key is good doesn't stop the client from opening."""

    async def body() -> None:
        async with region_of(2) as region:
            region.nodes[0].refusal = frames.Refused("KeyUnavailableException", "no lease", True)
            async with region.client() as client:
                await client.encrypt(key_id="k", plaintext=b"x")
            assert len(region.nodes[1].requests) == 1

    run(body)


def test_no_node_at_all_is_told_on_entry(run: Run, region_of: RegionOf) -> None:
    """Where nobody listens the client says so, node by node, within its time."""

    async def body() -> None:
        async with region_of(2) as region:
            client = region.client(timeout=0.5)
        with pytest.raises(errors.NodesUnreachable, match=r"node-1: connecting failed.*node-2: connecting failed"):
            async with client:
                pytest.fail("opened")

    run(body)


# Which node.


def test_own_zone_is_preferred(run: Run, region_of: RegionOf) -> None:
    """All calls go to the node of the caller's AZ while it answers, on one connection."""

    async def body() -> None:
        async with region_of(3) as region, region.client(az="az-2") as client:
            for _ in range(5):
                await client.encrypt(key_id="k", plaintext=b"x")
        assert [(len(node.requests), node.log_ins) for node in region.nodes] == [(0, 0), (5, 1), (0, 0)]

    run(body)


def test_pinned_calls_go_to_that_node_only(run: Run, region_of: RegionOf) -> None:
    """`at` asks one node and nobody else, also when that node refuses for want of a lease."""

    async def body() -> None:
        async with region_of(3) as region, region.client() as client:
            await client.at("node-3").encrypt(key_id="k", plaintext=b"x")
            region.nodes[2].handler = lambda request: errors.KeyUnavailableException("no lease")
            with pytest.raises(errors.KeyUnavailableException):
                await client.at("node-3").encrypt(key_id="k", plaintext=b"x", timeout=0.1)
            assert [len(node.requests) for node in region.nodes[:2]] == [0, 0]
            with pytest.raises(ValueError, match="no node node-9"):
                client.at("node-9")

    run(body)


def test_node_without_a_lease_is_left_alone_for_a_while(run: Run, region_of: RegionOf) -> None:
    """A retryable refusal is answered by the next node at once; later calls spare the refusing one for a while."""

    async def body() -> None:
        async with region_of(2) as region, region.client() as client:
            first, second = region.nodes
            first.handler = lambda request: errors.KeyUnavailableException("no lease")
            for _ in range(20):
                await client.encrypt(key_id="k", plaintext=b"x")
            assert len(second.requests) == 20
            assert 1 <= len(first.requests) < 5
            first.handler = region.nodes[1].handler
            before = len(first.requests)
            while len(first.requests) < before + 5:
                await client.encrypt(key_id="k", plaintext=b"x")

    run(body)


def test_lost_connection_is_retried_elsewhere(run: Run, region_of: RegionOf) -> None:
    """When a connection breaks under many calls, all of them are answered by another node."""

    async def body() -> None:
        async with region_of(3) as region, region.client() as client:
            region.nodes[0].handler = drop
            answers: list[EncryptResponse] = []

            async def one(number: int) -> None:
                answers.append(await client.encrypt(key_id="k", plaintext=str(number).encode()))

            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(one, number)
            assert {answer.ciphertext_blob for answer in answers} == {b"sealed:%d" % number for number in range(20)}

    run(body)


def test_change_is_retried_under_the_same_request_id(run: Run, region_of: RegionOf) -> None:
    """A change whose answer was lost is sent again with its request id, so that the region makes it once."""

    async def body() -> None:
        async with region_of(2) as region, region.client() as client:
            region.nodes[0].handler = drop
            made = await client.create_key()
            lost, answered = region.nodes[0].requests[0], region.nodes[1].requests[0]
            assert lost.request_id == answered.request_id
            assert lost.request_id is not None
            assert made.key_metadata.key_id == lost.request_id.hex()
            again = await client.create_key()
            assert again.key_metadata.key_id != made.key_metadata.key_id

    run(body)


def test_dead_node_comes_back_and_is_preferred_again(run: Run, region_of: RegionOf) -> None:
    """Calls go on while the preferred node is gone; once it listens again they return to it, without being asked to."""

    async def body() -> None:
        async with region_of(2) as region, region.client() as client:
            first, second = region.nodes
            await client.encrypt(key_id="k", plaintext=b"x")
            first.stop()
            await client.encrypt(key_id="k", plaintext=b"x")
            assert len(second.requests) == 1
            await region.group.start(first.serve)
            await until(lambda: first.log_ins == 2)
            await until(lambda: client._region.find(NodeId("node-1"))[0].connection is not None)
            await client.encrypt(key_id="k", plaintext=b"x")
            assert len(first.requests) == 2

    run(body)


def test_connection_closed_while_idle_is_made_anew(run: Run, region_of: RegionOf) -> None:
    """A node that closes an idle connection isn't held for dead, nor called back: the next call connects again."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            known = client._region.find(NodeId("node-1"))[0]
            for _ in range(3):
                await client.encrypt(key_id="k", plaintext=b"x", timeout=2)
                await region.nodes[0].hang_up()
                await until(lambda: not known.is_kept)
                assert known.is_well
        assert region.nodes[0].log_ins == 3

    run(body)


def test_throttled_call_is_tried_later(run: Run, region_of: RegionOf) -> None:
    """Throttling is waited out within the call's time; the last refusal is raised when that is over."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            answers = [errors.ThrottlingException("slow down")] * 3
            honest = region.nodes[0].handler
            region.nodes[0].handler = lambda request: answers.pop() if answers else honest(request)
            await client.encrypt(key_id="k", plaintext=b"x")
            assert len(region.nodes[0].requests) == 4
            region.nodes[0].handler = lambda request: errors.ThrottlingException("slow down")
            with pytest.raises(errors.ThrottlingException):
                await client.encrypt(key_id="k", plaintext=b"x", timeout=0.2)

    run(body)


def test_change_whose_fate_a_node_does_not_know_is_not_called_throttled(run: Run, region_of: RegionOf) -> None:
    """A node says "not in time: it may be made yet", the next one is full: the caller learns that nobody knows."""

    async def body() -> None:
        async with region_of(2) as region, region.client() as client:
            region.nodes[0].handler = lambda request: errors.DependencyTimeoutException("not in time")
            region.nodes[1].handler = lambda request: errors.ThrottlingException("slow down")
            with pytest.raises(errors.DeadlineExceeded, match="may have been made"):
                await client.create_key(timeout=0.2)
            with pytest.raises(errors.KmsError):
                await client.describe_key(key_id="k", timeout=0.2)

    run(body)


def test_change_is_not_repeated_after_its_machine_slept(run: Run, region_of: RegionOf) -> None:
    """The loop's clock may not count that, but the region may have forgotten the first attempt since."""

    async def body() -> None:
        async with region_of(2) as region:
            slept = 0.0

            def sleep(request: AnyRequest) -> NoReturn:
                nonlocal slept
                slept = 3600.0
                drop(request)

            surroundings = replace(REAL, machine_seconds=lambda: slept)
            async with KeyClient(region.endpoints(), az="az-1", surroundings=surroundings) as client:
                region.nodes[0].handler = drop
                await client.create_key()
                assert [len(node.requests) for node in region.nodes] == [1, 1]
                for node in region.nodes:
                    node.handler = sleep
                with pytest.raises(errors.DeadlineExceeded, match="may have been made"):
                    await client.create_key()
                assert sum(len(node.requests) for node in region.nodes) == 3

    run(body)


def test_throttled_call_pauses_before_it_goes_elsewhere(
    run: Run, region_of: RegionOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overload is no reason to hurry to the next node: that one gets the call after a pause."""

    async def body() -> None:
        monkeypatch.setattr(region_module, "PAUSE_SECONDS_MIN", 0.2)
        async with region_of(2) as region, region.client() as client:
            region.nodes[0].handler = lambda request: errors.ThrottlingException("slow down")
            start = anyio.current_time()
            await client.encrypt(key_id="k", plaintext=b"x")
            assert anyio.current_time() - start >= 0.2
            assert [len(node.requests) for node in region.nodes] == [1, 1]

    run(body)


def test_node_that_takes_the_connection_and_says_nothing_delays_no_call(
    run: Run, region_of: RegionOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process still accepts: whoever waits for its log-in goes to the next node after a short while."""

    async def body() -> None:
        monkeypatch.setattr(region_module, "CONNECT_SECONDS_MAX", 100)
        async with region_of(2) as region:
            region.nodes[0].is_mute = True
            async with region.client() as client:
                await client.encrypt(key_id="k", plaintext=b"x")
            assert len(region.nodes[1].requests) == 1

    run(body)


def test_whole_region_without_leases_is_asked_again(run: Run, region_of: RegionOf) -> None:
    """While no node may serve, calls are repeated with pauses until one may: an election shows as delay only."""

    async def body() -> None:
        async with region_of(3) as region, region.client() as client:
            honest = region.nodes[0].handler
            count = 0

            def refuse_for_a_while(request: AnyRequest) -> object:
                nonlocal count
                count += 1
                return errors.KeyUnavailableException("no lease") if count <= 12 else honest(request)

            for node in region.nodes:
                node.handler = refuse_for_a_while
            await client.encrypt(key_id="k", plaintext=b"x")
            assert sorted(len(node.requests) for node in region.nodes) == [4, 4, 5]

    run(body)


def test_garbage_from_a_node_ends_that_connection_only(run: Run, region_of: RegionOf) -> None:
    """Bytes that are no frame of replies are no way into or around the client: the call is answered elsewhere."""

    async def body() -> None:
        async with region_of(2) as region, region.client() as client:
            first = region.nodes[0]
            first.handler = hold
            for garbage in (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\1\xc1", frames.frame(b"\x91\x01")):
                await until(lambda: client._region.find(NodeId("node-1"))[0].connection is not None)
                async with anyio.create_task_group() as group:
                    group.start_soon(lambda: client.encrypt(key_id="k", plaintext=b"x"))
                    await until(lambda: first.held)
                    stream, _ = first.held.pop()
                    await stream.send(garbage)
            assert len(region.nodes[1].requests) == 4

    run(body)


def test_answer_of_another_shape_is_an_error(run: Run, region_of: RegionOf) -> None:
    """A reply that isn't the operation's response is told, not passed on."""

    async def body() -> None:
        async with region_of(1) as region, region.client() as client:
            region.nodes[0].handler = lambda request: {"CiphertextBlob": 5}
            with pytest.raises(errors.KeyClientError, match="isn't understood"):
                await client.encrypt(key_id="k", plaintext=b"x")

    run(body)


# Opening and closing.


def test_client_outside_of_its_context_says_so(run: Run, region_of: RegionOf) -> None:
    """Before entry and after exit calls raise ClientClosed; a client can be opened again, but not twice at once."""

    async def body() -> None:
        async with region_of(1) as region:
            client = region.client()
            with pytest.raises(errors.ClientClosed):
                await client.encrypt(key_id="k", plaintext=b"x")
            for _ in range(2):
                async with client:
                    await client.encrypt(key_id="k", plaintext=b"x")
                    with pytest.raises(errors.ClientClosed, match="already"):
                        await client.__aenter__()
                    await client.encrypt(key_id="k", plaintext=b"x")
                with pytest.raises(errors.ClientClosed):
                    await client.encrypt(key_id="k", plaintext=b"x")

    run(body)


def test_exit_ends_calls_that_wait(run: Run, region_of: RegionOf) -> None:
    """Calls of other tasks that wait when the client is closed get ClientClosed; nothing of the client lives on."""

    async def body() -> None:
        async with region_of(2) as region:
            for node in region.nodes:
                node.handler = hold
            ended = []

            async def call(client: KeyClient) -> None:
                with pytest.raises(errors.ClientClosed):
                    await client.encrypt(key_id="k", plaintext=b"x")
                ended.append(True)

            async with anyio.create_task_group() as group, region.client() as client:
                group.start_soon(call, client)
                await until(lambda: region.nodes[0].held)
            assert ended == [True]

    run(body)


def test_cancelled_body_closes_the_client(run: Run, region_of: RegionOf) -> None:
    """A cancellation passes through `async with` and closes the connections on its way."""

    async def body() -> None:
        async with region_of(1) as region:
            with anyio.move_on_after(0.05) as scope:
                async with region.client() as client:
                    await client.encrypt(key_id="k", plaintext=b"x")
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            with pytest.raises(errors.ClientClosed):
                await client.encrypt(key_id="k", plaintext=b"x")

    run(body)


def test_client_without_nodes_is_refused(region_of: RegionOf) -> None:
    """A region without a node is a mistake of whoever made the client."""
    endpoints = region_of(1).endpoints(nodes=())
    with pytest.raises(ValueError, match="no nodes of us-east-1"):
        KeyClient(endpoints)
