"""The world comes in at one place: with the same surroundings a client says the same bytes."""

import random
from dataclasses import replace

import anyio
from cryptography.hazmat.primitives.asymmetric import ec

from keycluster.client.endpoints import Credentials, Endpoints, NodeAddress
from keycluster.client.envelope.format import Suite
from keycluster.client.key_client import KeyClient
from keycluster.client.surroundings import REAL, Surroundings
from keycluster.client.transport import StreamBroken
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire import frames, operations
from tests.client.fake_region import SECRET, AnyRequest, RegionOf
from tests.client.loops import Run


class MemoryNode:
    """A node that always answers the same way, and a stream to it; `said` is all that the client sent."""

    certificate = b"certificate"

    def __init__(self) -> None:
        self.said = b""
        self.is_broken = False
        self._output = b""
        self._answers: list[bytes] = []
        self._came = anyio.Event()
        self._hello: frames.Hello | None = None
        self._challenge = frames.Challenge(bytes(32), "us-east-1", NodeId("n1"))
        self._is_logged_in = False
        self._splitter = frames.FrameSplitter(frames.FRAME_BYTES_MAX)

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    def write_nowait(self, content: bytes) -> None:
        if self.is_broken:
            raise StreamBroken("broken")
        self._output += content

    async def flush(self) -> None:
        content, self._output = self._output, b""
        self.said += content
        for body in self._splitter.feed(content):
            self._answers.append(self._answer(body))
            self._came.set()

    async def receive(self) -> bytes:
        while not self._answers:
            self._came = anyio.Event()
            await self._came.wait()
        return self._answers.pop(0)

    async def aclose(self) -> None:
        self.is_broken = True

    def _answer(self, body: bytes) -> bytes:
        if self._hello is None:
            hello = frames.decode_client_greeting(body)
            assert isinstance(hello, frames.Hello)
            self._hello = hello
            return frames.encode_greeting(self._challenge)
        if not self._is_logged_in:
            proof = frames.prove(
                frames.session_key(SECRET),
                frames.Side.SERVER,
                hello=self._hello,
                challenge=self._challenge,
                certificate_sha256=frames.certificate_fingerprint(self.certificate),
            )
            self._is_logged_in = True
            return frames.encode_greeting(frames.Welcome(proof, frames.FRAME_BYTES_MAX, 16))
        replies = [frames.Reply(request.id, False, _response(request)) for request in frames.decode_requests(body)]
        return frames.encode_replies(replies)


def _response(request: AnyRequest) -> operations.Shape:
    if request.operation == "GenerateDataKey":
        return operations.GenerateDataKeyResponse(ciphertext_blob=b"blob", plaintext=bytes(32), key_id="arn:key/k")
    return operations.DisableKeyResponse()


def seeded(node: MemoryNode, seed: int, asked: list[tuple[str, int]]) -> Surroundings:
    rng = random.Random(seed)

    async def connect(host: str, port: int) -> MemoryNode:
        asked.append((host, port))
        return node

    return Surroundings(
        connect_by=lambda ca_file: connect,
        random_bytes=rng.randbytes,
        new_request_id=lambda: rng.randbytes(16),
        new_jitter=lambda: random.Random(rng.getrandbits(32)),
        new_signing_key=lambda: ec.derive_private_key(rng.getrandbits(300), ec.SECP384R1()),
        machine_seconds=lambda: 0.0,
    )


def client_of(surroundings: Surroundings) -> KeyClient:
    address = NodeAddress(NodeId("n1"), "a", "far.example", 7002)
    endpoints = Endpoints("us-east-1", (address,), Credentials("TESTACCESSKEY0000001", SECRET), "no such file")
    return KeyClient(endpoints, surroundings=surroundings)


def test_bytes_are_the_same_with_the_same_surroundings(run: Run) -> None:
    """Log-in, changes and a signed message: nothing that is said comes from anywhere else."""

    async def body() -> None:
        said = []
        for seed in (1, 1, 2):
            node = MemoryNode()
            asked: list[tuple[str, int]] = []
            async with client_of(seeded(node, seed, asked)) as client:
                await client.disable_key(key_id="k")
                await client.encrypt_text(b"text", key_id="k", suite=Suite.SIGNED)
            assert asked == [("far.example", 7002)]
            said.append(node.said)
        assert said[0] == said[1] != said[2]

    run(body)


def test_message_id_is_drawn_from_the_surroundings(run: Run) -> None:
    """An unsigned message has nothing else that is random: it is the same again."""

    async def body() -> None:
        texts = []
        for _ in range(2):
            async with client_of(seeded(MemoryNode(), 7, [])) as client:
                texts.append(await client.encrypt_text(b"text", key_id="k", suite=Suite.UNSIGNED))
        assert texts[0] == texts[1]

    run(body)


def test_request_id_is_asked_for_once_a_change(run: Run, region_of: RegionOf) -> None:
    """Readings have none; what is given reaches the node over a real connection."""

    async def body() -> None:
        given = [bytes([number]) * 16 for number in range(1, 3)]
        surroundings = replace(REAL, new_request_id=iter(given).__next__)
        async with region_of(1) as region, KeyClient(region.endpoints(), surroundings=surroundings) as client:
            await client.create_key()
            await client.describe_key(key_id="k")
            await client.create_key()
            assert [request.request_id for request in region.nodes[0].requests] == [given[0], None, given[1]]

    run(body)
