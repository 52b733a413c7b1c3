"""What the client's tests share: running on both event loops, keys that need no node, and nodes that speak frames."""

import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import anyio
import msgspec
import pytest
from anyio.streams.tls import TLSStream
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keycluster.client.endpoints import Credentials, Endpoints, NodeAddress
from keycluster.client.envelope.format import encode_context
from keycluster.client.key_client import KeyClient
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire import errors, frames, operations
from keycluster.cluster.wire.errors import IncorrectKeyException, InvalidCiphertextException, NotFoundException
from keycluster.cluster.wire.operations import DecryptResponse, GenerateDataKeyResponse

Run = Callable[[Callable[[], Awaitable[object]]], None]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function to its end, within 30 seconds, once on each of the two event loops."""

    def run_on_backend(body: Callable[[], Awaitable[object]]) -> None:
        async def main() -> None:
            with anyio.fail_after(30):
                await body()

        anyio.run(main, backend=request.param)

    return run_on_backend


class LocalKeys:
    """A KMS in memory: wraps data keys under one key per ARN, bound to the encryption context, as a node does."""

    def __init__(self) -> None:
        self.arn = "arn:aws:kms:us-east-1:123456789012:key/5f7a6b1c-0d7e-4a53-9f6f-2d5d7d2b9f10"
        self.other_arn = "arn:aws:kms:us-east-1:123456789012:key/b4f1b1a2-98aa-4d3b-8f57-4a3e2d1c0b9a"
        self._wrapping = {self.arn: AESGCM(os.urandom(32)), self.other_arn: AESGCM(os.urandom(32))}
        self.calls: list[str] = []

    def _find(self, key_id: str) -> str:
        for arn in self._wrapping:
            if key_id in (arn, arn.rpartition("/")[2]):
                return arn
        raise NotFoundException(f"Key '{key_id}' does not exist")

    def wrap(self, arn: str, plaintext: bytes, context: dict[str, str] | None) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._wrapping[arn].encrypt(nonce, plaintext, encode_context(context or {}))

    def unwrap(self, arn: str, blob: bytes, context: dict[str, str] | None) -> bytes:
        try:
            return self._wrapping[arn].decrypt(blob[:12], blob[12:], encode_context(context or {}))
        except (InvalidTag, ValueError):
            pass
        for other, key in self._wrapping.items():
            try:
                key.decrypt(blob[:12], blob[12:], encode_context(context or {}))
            except (InvalidTag, ValueError):
                continue
            raise IncorrectKeyException(f"The blob is under {other}")
        raise InvalidCiphertextException

    async def generate_data_key(
        self, *, key_id: str, encryption_context: dict[str, str] | None = None, number_of_bytes: int | None = None
    ) -> GenerateDataKeyResponse:
        self.calls.append("GenerateDataKey")
        arn, plaintext = self._find(key_id), os.urandom(number_of_bytes or 32)
        blob = self.wrap(arn, plaintext, encryption_context)
        return GenerateDataKeyResponse(ciphertext_blob=blob, plaintext=plaintext, key_id=arn)

    async def decrypt(
        self,
        *,
        ciphertext_blob: bytes | None = None,
        encryption_context: dict[str, str] | None = None,
        key_id: str | None = None,
    ) -> DecryptResponse:
        self.calls.append("Decrypt")
        assert key_id is not None, "the envelope always names the key"
        arn = self._find(key_id)
        plaintext = self.unwrap(arn, ciphertext_blob or b"", encryption_context)
        return DecryptResponse(plaintext=plaintext, key_id=arn, encryption_algorithm="SYMMETRIC_DEFAULT")


@pytest.fixture
def keys() -> LocalKeys:
    """Two KMS keys without a node."""
    return LocalKeys()


# A region that speaks frames, in this process, on real TLS sockets.

SECRET = "a secret that only tests use"
ACCESS_KEY_ID = "TESTACCESSKEY0000001"
REGION = "us-east-1"


@dataclass(frozen=True)
class Authority:
    """A CA and certificates for 127.0.0.1 under it."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> str:
        return str(self.folder / "ca.pem")

    def server_context(self, host: str = "127.0.0.1") -> ssl.SSLContext:
        """For a server with a fresh certificate of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certify(key, self.key, self.certificate.subject, host=host)
        file = self.folder / f"{certificate.serial_number}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.fingerprint = certificate.fingerprint(SHA256())
        return context


def certify(key, issuer_key, issuer, host=None):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node" if host else "test CA")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer or name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
    if host is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, SHA256())


def new_authority(folder: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority(folder, key, certify(key, key, None))
    (folder / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    """The CA that clients of the region trust."""
    return new_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory) -> Authority:
    """A CA that nobody trusts."""
    return new_authority(tmp_path_factory.mktemp("other-ca"))


class Drop(Exception):
    """A handler raises it to have the connection closed without an answer."""


class Hold(Exception):
    """A handler raises it to leave a request without an answer for now; `FakeNode.release` answers it."""


def metadata(key_id):
    """A key's metadata with something in each member that every key has."""
    required = {
        member.name: member.type for member in msgspec.structs.fields(operations.KeyMetadata) if member.required
    }
    made = {str: "text", bool: True, float: 1.0}
    values = {name: made.get(kind, ()) for name, kind in required.items()}
    return operations.KeyMetadata(**{**values, "key_id": key_id})


def echo(request):
    """What nodes answer unless a test says otherwise: something of the operation's own shape."""
    if request.operation == "Encrypt":
        wanted = msgspec.msgpack.decode(request.input, type=operations.EncryptRequest)
        return operations.EncryptResponse(
            ciphertext_blob=b"sealed:" + wanted.plaintext,
            key_id=wanted.key_id,
            encryption_algorithm="SYMMETRIC_DEFAULT",
        )
    if request.operation == "CreateKey":
        return operations.CreateKeyResponse(key_metadata=metadata(request.request_id.hex()))
    if request.operation == "DescribeKey":
        return operations.DescribeKeyResponse(key_metadata=metadata("k"))
    return errors.UnknownOperationException(request.operation)


class FakeNode:
    """One node's native door: logs clients in as a node does and answers with `handler`.

    `handler(request)` returns a response, returns a KmsError to refuse, or raises `Drop` or `Hold`.
    """

    def __init__(self, authority: Authority, node: str, az: str) -> None:
        self.context = authority.server_context()
        self.node = node
        self.az = az
        self.port = 0
        self.handler = echo
        self.secret = SECRET
        self.claims = (REGION, node)
        self.fingerprint = self.context.fingerprint
        self.welcome = {"frame_bytes_max": frames.FRAME_BYTES_MAX, "requests_in_flight_max": 1024}
        self.refusal = None
        self.is_mute = False
        self.batches: list[list] = []
        self.held: list[tuple] = []
        self.streams: list = []
        self.log_ins = 0
        self._scope = None

    @property
    def requests(self) -> list:
        """All requests so far, but not the client's own questions for a sign of life."""
        return [request for batch in self.batches for request in batch if request.operation != "NodeStatus"]

    async def serve(self, *, task_status=anyio.TASK_STATUS_IGNORED) -> None:
        """Listens until `stop`; then all connections are closed. May be started again: the port stays."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port, reuse_port=True)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.CancelScope() as self._scope:
            async with listener:
                task_status.started()
                await listener.serve(self._serve_connection)

    def stop(self) -> None:
        self._scope.cancel()

    async def _serve_connection(self, raw) -> None:
        gone = (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError, ssl.SSLError, Drop)
        async with raw:
            if self.is_mute:
                await anyio.sleep_forever()
            with suppress(*gone):
                stream = await TLSStream.wrap(
                    raw, server_side=True, ssl_context=self.context, standard_compatible=False
                )
                await self._converse(stream)

    async def _converse(self, stream) -> None:
        splitter = frames.FrameSplitter(frames.FRAME_BYTES_MAX)
        bodies: list[bytes] = []

        async def next_body():
            while not bodies:
                bodies.extend(splitter.feed(await stream.receive()))
            return bodies.pop(0)

        if not await self._log_in(stream, next_body):
            return
        self.log_ins += 1
        self.streams.append(stream)
        while True:
            batch = frames.decode_requests(await next_body())
            self.batches.append(batch)
            replies = [reply for request in batch if (reply := self._answer(stream, request)) is not None]
            if replies:
                await stream.send(frames.encode_replies(replies))

    async def _log_in(self, stream, next_body) -> bool:
        hello = frames.decode_client_greeting(await next_body())
        region, node = self.claims
        challenge = frames.Challenge(os.urandom(32), region, node)
        await stream.send(frames.encode_greeting(challenge))
        proof = frames.decode_client_greeting(await next_body())

        def prove(side, secret):
            key = frames.session_key(secret)
            return frames.prove(key, side, hello=hello, challenge=challenge, certificate_sha256=self.fingerprint)

        refused = self.refusal
        if refused is None and proof.proof != prove(frames.Side.CLIENT, SECRET):
            refused = frames.Refused("InvalidSignatureException", "wrong secret", False)
        if refused is not None:
            await stream.send(frames.encode_greeting(refused))
            return False
        welcome = frames.Welcome(prove(frames.Side.SERVER, self.secret), **self.welcome)
        await stream.send(frames.encode_greeting(welcome))
        return True

    def _answer(self, stream, request):
        try:
            answer = self.handler(request)
        except Hold:
            self.held.append((stream, request))
            return None
        return self.reply(request.id, answer)

    @staticmethod
    def reply(number, answer):
        if isinstance(answer, errors.KmsError):
            return frames.Reply(number, True, frames.Failure(answer.code, answer.message, answer.retryable))
        return frames.Reply(number, False, answer)

    async def release(self, order=None) -> None:
        """Answers what is held with `echo`, each in a frame of its own, in `order` if one is given."""
        held, self.held = self.held, []
        for stream, request in order(held) if order else held:
            await stream.send(frames.encode_replies([self.reply(request.id, echo(request))]))

    async def hang_up(self) -> None:
        """Closes all connections; goes on listening."""
        for stream in self.streams:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await stream.aclose()
        self.streams.clear()


class FakeRegion:
    """Nodes in zones of their own. `async with` it; `client()` makes a client of it."""

    def __init__(self, authority: Authority, count: int) -> None:
        self.authority = authority
        self.nodes = [FakeNode(authority, f"node-{number}", f"az-{number}") for number in range(1, count + 1)]

    async def __aenter__(self):
        self.group = anyio.create_task_group()
        await self.group.__aenter__()
        for node in self.nodes:
            await self.group.start(node.serve)
        return self

    async def __aexit__(self, *error):
        self.group.cancel_scope.cancel()
        if isinstance(error[1], Exception):
            await self.group.__aexit__(None, None, None)
            return False
        return await self.group.__aexit__(*error)

    def endpoints(self, **changes):
        addresses = tuple(NodeAddress(NodeId(node.node), node.az, "127.0.0.1", node.port) for node in self.nodes)
        credentials = Credentials(ACCESS_KEY_ID, SECRET)
        return replace(Endpoints(REGION, addresses, credentials, self.authority.file), **changes)

    def client(self, *, az="az-1", timeout=10.0, in_flight_max=1024, **changes) -> KeyClient:
        return KeyClient(self.endpoints(**changes), az=az, timeout=timeout, in_flight_max=in_flight_max)


@pytest.fixture
def region_of(authority) -> Callable[[int], FakeRegion]:
    """`region_of(3)`: a region of three nodes, node-1 in az-1 and so on; the client prefers az-1."""
    return lambda count: FakeRegion(authority, count)


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks run until the condition holds; the test's own time-out ends it otherwise."""
    while not condition():  # noqa: ASYNC110  # What it waits for has no event.
        await anyio.sleep(0.001)


@pytest.fixture
def fake():
    """The names that tests of the client need besides: Drop, Hold, echo, until."""
    return SimpleNamespace(Drop=Drop, Hold=Hold, echo=echo, until=until, SECRET=SECRET, REGION=REGION)
