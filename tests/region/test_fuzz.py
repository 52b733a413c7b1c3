"""Garbage at every port of a running node: it lives, its memory stays flat, honest clients notice nothing.

An honest client uses the very node that is fuzzed: none of its calls fails, none takes a second.
"""

import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Raw

from keycluster import KeyClient, errors
from keycluster.client.endpoints import read_endpoints
from keycluster.client.login import log_in
from keycluster.client.transport import SecureStream, StreamBroken, client_context
from keycluster.cluster.keys.commands import ConfirmTime, encode_command, region_caller
from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.peer_messages import Forward, encode_peer_message
from keycluster.cluster.raft.messages import AppendEntries, AppendReply, VoteRequest
from keycluster.cluster.seams import ByteStream, DialError
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.cluster.wire.frames import (
    FRAME_BYTES_MAX,
    NONCE_BYTES,
    FrameSplitter,
    Join,
    Reply,
    Request,
    decode_failure,
    decode_replies,
    encode_greeting,
    encode_requests,
)
from keycluster.node.join_messages import JoinRequest, ask
from keycluster.node.join_token import JoinToken, parse_join_token
from keycluster.node.peer_link import (
    SPOKEN,
    Hello,
    PeerProtocolError,
    decode_messages,
    decode_opening,
    encode_opening,
    frame_of,
)
from keycluster.node.pki import new_private_key, public_key_of_private
from keycluster.node.world import real_world
from tests.region.dev_region import HOST, REGION, DevRegion, NodeEndpoint, rounds
from tests.region.garbage import Garbage
from tests.region.node_disk import NodeDisk
from tests.region.steady_load import until_serves

WORKERS = 8
SLOW_SENDERS = 40
STALL_S_MAX = 1.0
MEMORY_SLACK_BYTES = 24 << 20
"""Allocators and caches fill up once; ten thousand leaks of a few KiB would come to more."""
WARM_UP_SHARE = 5  # One in so many of all is sent before the memory is first looked at.
ANSWER_S_MAX = 10.0
MAKES = "CreateKey"
"""Makes a key of nearly anything that is a map: it gets odd members only, beside one that is refused."""

NO_KEY = "00000000-0000-4000-8000-000000000000"


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@dataclass
class Honest:
    """A client of the fuzzed node alone."""

    calls: int = 0
    slowest_s: float = 0.0
    failed: list[str] = field(default_factory=list)

    async def run(self, client: KeyClient, node: str, key: str) -> None:
        at_node = client.at(node)
        while True:
            for number in range(10):
                began = trio.current_time()
                try:
                    if number == 0:
                        await at_node.update_key_description(key_id=key, description=f"{self.calls}")
                    else:
                        sealed = await at_node.encrypt(key_id=key, plaintext=b"honest")
                        opened = await at_node.decrypt(ciphertext_blob=sealed.ciphertext_blob)
                        if opened.plaintext != b"honest":
                            self.failed.append("another plaintext")
                except (errors.KmsError, errors.KeyClientError) as error:
                    self.failed.append(repr(error))
                self.slowest_s = max(self.slowest_s, trio.current_time() - began)
                self.calls += 1
                await trio.sleep(0.01)


@dataclass
class Fuzzed:
    """One node under fuzz, and what the fuzz came to."""

    region: DevRegion
    node: NodeEndpoint
    key: str
    blob: bytes
    answers: Counter[str] = field(default_factory=Counter)

    async def send_all(self, count: int, send: Callable[[Garbage], Awaitable[None]], *, seed: int) -> None:
        left = iter(range(count))

        async def worker(number: int) -> None:
            garbage = Garbage(seed * 1000 + number)
            for _ in left:
                await send(garbage)

        async with trio.open_nursery() as nursery:
            for number in range(WORKERS):
                nursery.start_soon(worker, number)


@asynccontextmanager
async def fuzzed(region: DevRegion, name: str) -> AsyncIterator[Fuzzed]:
    """Checks afterwards that nothing was changed but by the honest client, and nothing broke."""
    node = region.node(name)
    log = region.node_folder(name) / "node.log"
    said_before = len(log.read_text())
    honest = Honest()
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        key = (await client.create_key()).key_metadata.key_id
        blob = (await client.encrypt(key_id=key, plaintext=b"honest")).ciphertext_blob
        before = await state_of(client)
        target = Fuzzed(region, node, key, blob)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(honest.run, client, name, key)
            yield target
            nursery.cancel_scope.cancel()
        assert await state_of(client) == before
    print(f"    honest client: {honest.calls} calls, {len(honest.failed)} failed, slowest {honest.slowest_s:.3f} s")
    assert node.is_running
    said = log.read_text()[said_before:]
    assert "Traceback" not in said, said[-3000:]
    assert "level=error" not in said, said[-3000:]
    assert honest.failed == []
    assert honest.slowest_s < STALL_S_MAX


async def state_of(client: KeyClient) -> list[tuple[str, str]]:
    keys = (await client.list_keys(limit=1000)).keys
    return [(e.key_id, (await client.describe_key(key_id=e.key_id)).key_metadata.key_state) for e in keys]


async def run_fuzz(target: Fuzzed, what: str, count: int, send: Callable[[Garbage], Awaitable[None]]) -> None:
    """A fifth first, for caches to fill; then the rest, over which memory must stay flat."""
    warm_up = count // WARM_UP_SHARE
    await target.send_all(warm_up, send, seed=1)
    before = target.node.memory_bytes
    await target.send_all(count - warm_up, send, seed=2)
    grown = target.node.memory_bytes - before
    print(f"\n{count} at {what}: {dict(target.answers.most_common())}")
    print(f"    memory {before >> 20} MiB, grown by {grown / (1 << 20):.1f} MiB")
    assert grown < MEMORY_SLACK_BYTES


def requests_of(key: str, blob: bytes) -> list[tuple[str, dict[str, object]]]:
    """Real requests to begin with. None of them, nor one with a member changed, may change anything."""
    return [
        ("Encrypt", {"KeyId": key, "Plaintext": b"text", "EncryptionContext": {"a": "b"}}),
        ("Decrypt", {"CiphertextBlob": blob}),
        ("ReEncrypt", {"CiphertextBlob": blob, "DestinationKeyId": key}),
        ("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"}),
        ("GenerateRandom", {"NumberOfBytes": 16}),
        ("DescribeKey", {"KeyId": key}),
        ("ListKeys", {"Limit": 10, "Marker": "none"}),
        (MAKES, {"KeySpec": "NO_SUCH_SPEC", "KeyUsage": "NO_SUCH_USAGE", "Origin": "NOWHERE"}),
        ("ScheduleKeyDeletion", {"KeyId": NO_KEY, "PendingWindowInDays": 7}),
        ("CreateAlias", {"AliasName": "alias/x", "TargetKeyId": NO_KEY}),
        ("PutKeyPolicy", {"KeyId": NO_KEY, "Policy": "{}"}),
        ("NoSuchOperation", {}),
    ]


# The native door.


def client_hello() -> bytes:
    """A real one."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def send_raw(port: int, content: bytes) -> None:
    """Bytes on a fresh connection; half the time the sender waits for what comes."""
    with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(content)
            with trio.move_on_after(0.02):
                await stream.receive_some(100)


class NativeFuzz:
    """Garbage before the handshake, before log-in, and after it."""

    def __init__(self, target: Fuzzed, token: JoinToken) -> None:
        self._target = target
        self._token = token
        self._join = proper_join(token)
        self._endpoints = read_endpoints(target.region.endpoints_file)
        self._tls = client_context(self._endpoints.ca_file)
        self._port = port_of(target.node.native)
        self._hello = client_hello()
        self._requests = requests_of(target.key, target.blob)
        self._logged_in: dict[int, tuple[SecureStream, FrameSplitter]] = {}

    async def send(self, garbage: Garbage) -> None:
        draw = garbage.choice.random()
        if draw < 0.1:
            await send_raw(self._port, garbage.tls(self._hello))
            self._target.answers["before TLS"] += 1
        elif draw < 0.2:
            await self._before_log_in(garbage)
        else:
            await self._after_log_in(garbage)

    async def _before_log_in(self, garbage: Garbage) -> None:
        self._target.answers["before log-in"] += 1
        stream = await SecureStream.connect(HOST, self._port, self._tls)
        greeting = msgspec.msgpack.encode([1, 1, "AKIDUNKNOWN", bytes(32)])
        join = encode_greeting(Join(self._join_question(garbage, stream.certificate)))[4:]
        body = garbage.choice.choice((garbage.msgpack(), garbage.mutated(greeting), greeting, join, join))
        with suppress(StreamBroken):
            stream.write_nowait(garbage.framed(body))
            await stream.flush()
            with trio.move_on_after(0.02):
                await stream.receive()
        await stream.aclose()

    def _join_question(self, garbage: Garbage, certificate: bytes) -> bytes:
        """From one who has a real token: mutated, or proven with one member that must be refused."""
        name, values = garbage.choice.choice(ODD_JOINS)
        question = msgspec.structs.replace(self._join, **{name: garbage.choice.choice(values)})
        proven = ask(question, secret=self._token.secret, server_certificate=certificate)
        return garbage.mutated(proven) if garbage.choice.random() < 0.3 else proven

    async def _after_log_in(self, garbage: Garbage) -> None:
        kept = self._logged_in.pop(id(garbage), None)
        stream, splitter = kept or await self._log_in()
        operation, real = garbage.choice.choice(self._requests)
        content = msgspec.msgpack.encode(garbage.value_for(real)) if operation == MAKES else garbage.request_input(real)
        request = encode_requests([Request(7, operation, 5_000, None, Raw(content or b"\xc0"))])
        if garbage.choice.random() < 0.15:
            request = garbage.framed(garbage.choice.choice((garbage.mutated(request[4:]), garbage.msgpack())))
        try:
            stream.write_nowait(request)
            await stream.flush()
            replies = await self._answer(stream, splitter)
        except StreamBroken:
            replies = None
        self._count(replies)
        if replies and all(reply.id == 7 for reply in replies):
            self._logged_in[id(garbage)] = stream, splitter
        else:
            await stream.aclose()

    async def _log_in(self) -> tuple[SecureStream, FrameSplitter]:
        stream = await SecureStream.connect(HOST, self._port, self._tls)
        node, nonce = self._endpoints.nodes[0].node, os.urandom(NONCE_BYTES)
        await log_in(stream, self._endpoints.credentials, region=REGION, node=node, nonce=nonce)
        return stream, FrameSplitter(FRAME_BYTES_MAX)

    @staticmethod
    async def _answer(stream: SecureStream, splitter: FrameSplitter) -> list[Reply[Raw]] | None:
        """None if the node closed, or waits for more of what it took for a longer frame."""
        with trio.move_on_after(0.3):
            while content := await stream.receive():
                if bodies := splitter.feed(content):
                    return decode_replies(bodies[0])
        return None

    def _count(self, replies: list[Reply[Raw]] | None) -> None:
        for reply in replies or ():
            self._target.answers[decode_failure(reply.body).code if reply.failed else "answered"] += 1
        if not replies:
            self._target.answers["closed or unfinished"] += 1


def proper_join(token: JoinToken) -> JoinRequest:
    """A question that would be granted. With any member of `ODD_JOINS` it must not be."""
    entropy = real_world().entropy
    return JoinRequest(
        version=1,
        token_id=token.token_id,
        nonce=bytes(32),
        region=REGION,
        node=NodeId("n9"),
        az=JOIN_AZ,
        role=MemberRole.LEARNER,
        peer_public_key=public_key_of_private(new_private_key(entropy)),
        native_public_key=public_key_of_private(new_private_key(entropy)),
        wrap_public_key=entropy.new_wrap_key_pair().public,
        peer_address="127.0.0.1:1",
        native_address="127.0.0.1:2",
        aws_address="127.0.0.1:3",
    )


JOIN_AZ = "us-east-1d"
ODD_KEYS = (b"", b"x", bytes(91), bytes(10_000), Ed25519PrivateKey.generate().public_key().public_bytes(
    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
))  # fmt: skip
ODD_ADDRESSES = ("", "x", ":1", "host:", "host:0", "host:65536", "host:-1", "a b:1", "a\n:1", "a\0:1", "x" * 400)
ODD_JOINS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("version", (0, 2, 2**63)),
    ("token_id", (b"", bytes(16))),
    ("nonce", (b"", bytes(33))),
    ("region", ("", "us-west-2", "x" * 100)),
    ("node", ("", "n1", "../n9", "n 9", "\u202en9", "x" * 65)),
    ("az", ("", "us-east-1a")),
    ("role", ("voter", "king")),
    ("peer_public_key", ODD_KEYS),
    ("native_public_key", ODD_KEYS),
    ("wrap_public_key", (b"", bytes(32), bytes(33))),  # The second is a point of small order.
    ("peer_address", ODD_ADDRESSES),
    ("native_address", ODD_ADDRESSES),
    ("aws_address", ODD_ADDRESSES),
)


@pytest.mark.timeout(900)
async def test_garbage_at_the_native_door(region: DevRegion) -> None:
    """Every request that can be told from the next gets AWS's error; everything else costs its own connection."""
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        token = parse_join_token((await client.issue_join_token(az=JOIN_AZ, role="learner")).token)
        async with fuzzed(region, "n1") as target, slow_senders(port_of(target.node.native)):
            await run_fuzz(target, "the native door", rounds(10_000, 500), NativeFuzz(target, token).send)
        assert {member.node_id for member in (await client.node_status()).members} == {"n1", "n2", "n3"}
    assert not target.answers.keys() & {"KMSInternalException", "DependencyTimeoutException"}


# The AWS door.


class AwsFuzz:
    """Garbage instead of HTTP, and behind a good signature."""

    def __init__(self, target: Fuzzed) -> None:
        content = target.region.read()
        self._target = target
        self._port = port_of(target.node.aws)
        self._credentials = Credentials(content["access_key_id"], content["secret_access_key"])
        self._requests = requests_of(target.key, target.blob)
        self._kept: dict[int, trio.SocketStream] = {}

    async def send(self, garbage: Garbage) -> None:
        operation, real = garbage.choice.choice(self._requests)
        if garbage.choice.random() < 0.2:
            await send_raw(self._port, garbage.http(self._signed(operation, msgspec.json.encode(real))))
            self._target.answers["no HTTP"] += 1
        else:
            body = msgspec.json.encode(garbage.value_for(real)) if operation == MAKES else garbage.request_body(real)
            await self._ask(garbage, self._signed(operation, body))

    def _signed(self, operation: str, body: bytes) -> bytes:
        request = AWSRequest(
            method="POST",
            url=f"http://{HOST}:{self._port}/",
            data=body,
            headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"TrentService.{operation}"},
        )
        SigV4Auth(self._credentials, "kms", REGION).add_auth(request)
        headers = {"Host": f"{HOST}:{self._port}", "Content-Length": str(len(body)), **dict(request.headers.items())}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST / HTTP/1.1\r\n{head}\r\n".encode() + body

    async def _ask(self, garbage: Garbage, request: bytes) -> None:
        stream = self._kept.pop(id(garbage), None) or await trio.open_tcp_stream(HOST, self._port)
        answer = b""
        with trio.fail_after(ANSWER_S_MAX), suppress(trio.BrokenResourceError):
            await stream.send_all(request)
            while not is_whole(answer):
                more = await stream.receive_some(65_536)
                if not more:
                    break
                answer += more
        status = answer[9:12].decode() or "closed"
        code = answer.rpartition(b'"__type":"')[2].partition(b'"')[0].decode() if b"__type" in answer else ""
        self._target.answers[f"{status} {code}".strip()] += 1
        if is_whole(answer) and b"Connection: close" not in answer:
            self._kept[id(garbage)] = stream
        else:
            await stream.aclose()


def is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = next((line[15:] for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), b"0")
    return bool(found) and len(body) >= int(length)


@pytest.mark.timeout(900)
async def test_garbage_at_the_aws_door(region: DevRegion) -> None:
    """AWS's errors, all of them the caller's fault: never a 500."""
    async with fuzzed(region, "n1") as target, slow_senders(port_of(target.node.aws)):
        await run_fuzz(target, "the AWS door", rounds(10_000, 500), AwsFuzz(target).send)
    assert not [answer for answer in target.answers if answer.startswith("5")]


# The peer port.


class PeerFuzz:
    """Garbage from strangers, and malformed frames from a member that holds its real key."""

    def __init__(self, target: Fuzzed, member: str) -> None:
        self._target = target
        self._secrets = NodeDisk.of(target.region.node_folder(member)).secrets()
        node = NodeDisk.of(target.region.node_folder(target.node.id))
        self._address = node.config.peer.advertised
        self._public_key = public_key_of_private(node.secrets().peer_key)
        self._network = real_world().network
        self._hello = client_hello()
        self._command = encode_command(ConfirmTime(), region_caller(self._secrets.node))
        self._real = [
            encode_peer_message(message)
            for message in (
                AppendEntries(Term(1), 1, LogIndex(0), Term(0), LogIndex(0)),
                AppendReply(Term(1), 1, LogIndex(1)),
                VoteRequest(Term(1), LogIndex(1), Term(1), True, False),
                Forward(1, self._command),
            )
        ]

    async def send(self, garbage: Garbage) -> None:
        draw = garbage.choice.random()
        if draw < 0.25:
            await send_raw(port_of(self._address), garbage.tls(self._hello))
            self._target.answers["before TLS"] += 1
        elif draw < 0.4:
            await self._as_a_stranger(garbage)
        else:
            await self._as_a_member(garbage)

    async def _as_a_stranger(self, garbage: Garbage) -> None:
        """Without a certificate. In TLS 1.3 the client's side is done before the server has refused it."""
        self._target.answers["no certificate"] += 1
        with suppress(DialError, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            stream = await self._network.dial_native(self._address, client_ca=None)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(garbage.framed(garbage.mutated(self._real[0])))
                with trio.move_on_after(0.5):
                    assert await stream.receive_some(100) == b""
            await stream.aclose()

    async def _as_a_member(self, garbage: Garbage) -> None:
        stream = await self._network.dial_peer(
            self._address,
            identity=self._secrets.peer_identity,
            peer_ca=self._secrets.peer_ca,
            expected_public_key=self._public_key,
        )
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if garbage.choice.random() < 0.2:
                    await self._say_malformed_hello(garbage, stream)
                else:
                    await self._say_malformed_frame(garbage, stream)
        finally:
            await stream.aclose()

    def _proper_hello(self) -> bytes:
        return encode_opening(Hello(SPOKEN, REGION, self._secrets.node, None))

    async def _say_malformed_hello(self, garbage: Garbage, stream: ByteStream) -> None:
        body = garbage.choice.choice((garbage.mutated(self._proper_hello()[4:]), garbage.msgpack()))
        with suppress(PeerProtocolError):
            if getattr(decode_opening(body, region=REGION, versions=SPOKEN), "known_of_you", None) is not None:
                return  # Well-formed, and a member is believed: it would say that the node was rolled back.
        self._target.answers["member: hello"] += 1
        await stream.send_all(garbage.framed(body))
        with trio.move_on_after(0.02):
            await stream.receive_some(100)

    async def _say_malformed_frame(self, garbage: Garbage, stream: ByteStream) -> None:
        await stream.send_all(self._proper_hello())
        await stream.receive_some(1000)
        frame = self._malformed(garbage)
        self._target.answers["member: frame"] += 1
        await stream.send_all(frame)
        with trio.move_on_after(0.05):
            while await stream.receive_some(1000):
                pass

    def _malformed(self, garbage: Garbage) -> bytes:
        """A frame that no replica sends. What decodes is left out: a member's well-formed word is believed."""
        if garbage.choice.random() < 0.3:
            command = garbage.choice.choice((garbage.mutated(self._command), garbage.msgpack()))
            return garbage.framed(frame_of([encode_peer_message(Forward(2, command))])[4:])
        while True:
            real = frame_of(garbage.choice.sample(self._real, garbage.choice.randrange(1, 4)))[4:]
            body = garbage.choice.choice((garbage.mutated(real), garbage.mutated(real), garbage.msgpack()))
            try:
                decoded = decode_messages(body)
            except PeerProtocolError:
                return garbage.framed(body)
            if decoded and all(isinstance(message, Forward) for message in decoded):
                return garbage.framed(body)  # Its command is garbage.


@pytest.mark.timeout(900)
async def test_garbage_at_the_peer_port(region: DevRegion) -> None:
    """From strangers, and from a member's stolen identity while that member is down."""
    region.kill_node("n3")
    try:
        async with KeyClient.from_endpoints(region.endpoints_file) as client:
            with trio.fail_after(10):
                while (leader := (await client.node_status()).leader) in (None, "n3"):
                    await trio.sleep(0.05)
        peer_port = port_of(NodeDisk.of(region.node_folder(str(leader))).config.peer.listen)
        async with fuzzed(region, str(leader)) as target, slow_senders(peer_port):
            await run_fuzz(target, "the peer port", rounds(10_000, 500), PeerFuzz(target, "n3").send)
    finally:
        region.restart_node("n3")
    await until_serves(region, "n1", "n2", "n3")


@asynccontextmanager
async def slow_senders(port: int) -> AsyncIterator[None]:
    """Connections that say a byte a second, of what might become a frame, a handshake or a request."""
    beginnings = (client_hello(), b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", bytes(100))

    async def dawdle(content: bytes) -> None:
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream(HOST, port) as stream:
                for byte in content:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(SLOW_SENDERS):
            nursery.start_soon(dawdle, beginnings[number % len(beginnings)])
        yield
        nursery.cancel_scope.cancel()
