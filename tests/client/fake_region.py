"""A region that speaks frames, in this process, on real TLS sockets."""

import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import anyio
import msgspec
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.tls import TLSStream
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keycluster.client.endpoints import Credentials, Endpoints, NodeAddress
from keycluster.client.key_client import KeyClient
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire import errors, frames, operations

SECRET = "a secret that only tests use"
ACCESS_KEY_ID = "TESTACCESSKEY0000001"
REGION = "us-east-1"

AnyRequest = frames.Request[msgspec.Raw]
Handler = Callable[[AnyRequest], object]
"""Returns a response, returns a KmsError to refuse, or raises `Drop` or `Hold`."""
Held = tuple[TLSStream, AnyRequest]
"""A request without an answer as yet, and where that goes."""


@dataclass(frozen=True)
class Authority:
    """A CA and certificates for 127.0.0.1 under it."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> str:
        return str(self.folder / "ca.pem")

    def server_context(self, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, bytes]:
        """For a server with a fresh certificate of its own, and that certificate's fingerprint."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certify(key, self.key, self.certificate.subject, host=host)
        file = self.folder / f"{certificate.serial_number}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context, certificate.fingerprint(SHA256())


def certify(
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name | None,
    host: str | None = None,
) -> x509.Certificate:
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


class Drop(Exception):
    """A handler raises it to have the connection closed without an answer."""


class Hold(Exception):
    """A handler raises it to leave a request without an answer for now; `FakeNode.release` answers it."""


def metadata(key_id: str) -> operations.KeyMetadata:
    """A key's metadata with something in each member that every key has."""
    required = [member for member in msgspec.structs.fields(operations.KeyMetadata) if member.required]
    made: dict[object, object] = {str: "text", bool: True, float: 1.0}
    values = {member.encode_name: made.get(member.type, ()) for member in required}
    return msgspec.convert({**values, "KeyId": key_id}, operations.KeyMetadata)


def hold(request: AnyRequest) -> NoReturn:
    """A handler that leaves every request without an answer."""
    raise Hold


def drop(request: AnyRequest) -> NoReturn:
    """A handler that has the connection closed at every request."""
    raise Drop


def echo(request: AnyRequest) -> object:
    """What nodes answer unless a test says otherwise: something of the operation's own shape."""
    if request.operation == "Encrypt":
        wanted = msgspec.msgpack.decode(request.input, type=operations.EncryptRequest)
        return operations.EncryptResponse(
            ciphertext_blob=b"sealed:" + wanted.plaintext,
            key_id=wanted.key_id,
            encryption_algorithm="SYMMETRIC_DEFAULT",
        )
    if request.operation == "CreateKey":
        assert request.request_id is not None, "a change has one"
        return operations.CreateKeyResponse(key_metadata=metadata(request.request_id.hex()))
    if request.operation == "DescribeKey":
        return operations.DescribeKeyResponse(key_metadata=metadata("k"))
    return errors.UnknownOperationException(request.operation)


class FakeNode:
    """One node's native door: logs clients in as a node does and answers with `handler`."""

    def __init__(self, authority: Authority, node: str, az: str) -> None:
        self.context, self.fingerprint = authority.server_context()
        self.node = node
        self.az = az
        self.port = 0
        self.handler: Handler = echo
        self.secret = SECRET
        self.claims = (REGION, node)
        self.welcome = {"frame_bytes_max": frames.FRAME_BYTES_MAX, "requests_in_flight_max": 1024}
        self.refusal: frames.Refused | None = None
        self.is_mute = False
        self.batches: list[list[AnyRequest]] = []
        self.held: list[Held] = []
        self.streams: list[TLSStream] = []
        self.log_ins = 0
        self._scope: anyio.CancelScope | None = None

    @property
    def requests(self) -> list[AnyRequest]:
        """All requests so far, but not the client's own questions for a sign of life."""
        return [request for batch in self.batches for request in batch if request.operation != "NodeStatus"]

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listens until `stop`; then all connections are closed. May be started again: the port stays."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port, reuse_port=True)
        self.port = listener.extra(SocketAttribute.local_port)
        with anyio.CancelScope() as self._scope:
            async with listener:
                task_status.started()
                await listener.serve(self._serve_connection)

    def stop(self) -> None:
        assert self._scope is not None, "it serves"
        self._scope.cancel()

    async def _serve_connection(self, raw: SocketStream) -> None:
        gone = (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError, ssl.SSLError, Drop)
        async with raw:
            if self.is_mute:
                await anyio.sleep_forever()
            with suppress(*gone):
                stream = await TLSStream.wrap(
                    raw, server_side=True, ssl_context=self.context, standard_compatible=False
                )
                await self._converse(stream)

    async def _converse(self, stream: TLSStream) -> None:
        splitter = frames.FrameSplitter(frames.FRAME_BYTES_MAX)
        bodies: list[bytes] = []

        async def next_body() -> bytes:
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

    async def _log_in(self, stream: TLSStream, next_body: Callable[[], Awaitable[bytes]]) -> bool:
        hello = frames.decode_client_greeting(await next_body())
        assert isinstance(hello, frames.Hello)
        region, node = self.claims
        challenge = frames.Challenge(os.urandom(32), region, NodeId(node))
        await stream.send(frames.encode_greeting(challenge))
        proof = frames.decode_client_greeting(await next_body())
        assert isinstance(proof, frames.Proof)

        def prove(side: frames.Side, secret: str) -> bytes:
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

    def _answer(self, stream: TLSStream, request: AnyRequest) -> frames.Reply[object] | None:
        try:
            answer = self.handler(request)
        except Hold:
            self.held.append((stream, request))
            return None
        return self.reply(request.id, answer)

    @staticmethod
    def reply(number: int, answer: object) -> frames.Reply[object]:
        if isinstance(answer, errors.KmsError):
            return frames.Reply(number, True, frames.Failure(answer.code, answer.message, answer.retryable))
        return frames.Reply(number, False, answer)

    async def release(self, order: Callable[[list[Held]], list[Held]] | None = None) -> None:
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

    async def __aenter__(self) -> Self:
        self.group = anyio.create_task_group()
        await self.group.__aenter__()
        for node in self.nodes:
            await self.group.start(node.serve)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self.group.cancel_scope.cancel()
        if isinstance(error, Exception):
            await self.group.__aexit__(None, None, None)
            return False
        return await self.group.__aexit__(kind, error, traceback)

    def endpoints(
        self,
        *,
        nodes: tuple[NodeAddress, ...] | None = None,
        credentials: Credentials | None = None,
        ca_file: str | None = None,
    ) -> Endpoints:
        """Of all nodes, with the access key that they know, unless told otherwise."""
        if nodes is None:
            nodes = tuple(NodeAddress(NodeId(node.node), node.az, "127.0.0.1", node.port) for node in self.nodes)
        credentials = credentials or Credentials(ACCESS_KEY_ID, SECRET)
        return Endpoints(REGION, nodes, credentials, ca_file or self.authority.file)

    def client(
        self,
        *,
        az: str = "az-1",
        timeout: float = 10.0,
        in_flight_max: int = 1024,
        credentials: Credentials | None = None,
        ca_file: str | None = None,
    ) -> KeyClient:
        endpoints = self.endpoints(credentials=credentials, ca_file=ca_file)
        return KeyClient(endpoints, az=az, timeout=timeout, in_flight_max=in_flight_max)


RegionOf = Callable[[int], FakeRegion]
"""`region_of(3)`: a region of three nodes, node-1 in az-1 and so on; the client prefers az-1."""


async def until(condition: Callable[[], object]) -> None:
    """Lets other tasks run until the condition holds; the test's own time-out ends it otherwise."""
    while not condition():  # noqa: ASYNC110  # What it waits for has no event.
        await anyio.sleep(0.001)
