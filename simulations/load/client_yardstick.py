"""What KeyClient costs: its rate against that of a client made of a dict and events, on the same bare server.

The server (bare_native.py, after a log-in) runs in a process of its own, TLS on; both clients run on trio in this one,
in turns, with the same number of tasks that each call Encrypt with 1 KiB again and again. The plain client puts what
is queued into shared frames just as KeyClient does, on the node's own streams, and has no deadlines, retries, bounds
or typed methods: what KeyClient takes beyond it is the price of those.
"""

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import trio

from keycluster.client.endpoints import Credentials, Endpoints, NodeAddress
from keycluster.client.key_client import KeyClient
from keycluster.cluster.seams import ByteStream, TlsIdentity
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.frames import (
    FRAME_BYTES_MAX,
    GREETING_BYTES_MAX,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Challenge,
    FrameSplitter,
    Hello,
    Proof,
    Reply,
    Request,
    Side,
    Welcome,
    certificate_fingerprint,
    decode_client_greeting,
    encode_greeting,
    encode_requests,
    prove,
    session_key,
)
from keycluster.cluster.wire.operations import EncryptRequest, EncryptResponse
from keycluster.node import pki
from keycluster.node.network import RealNetwork
from keycluster.node.world import RealClock, RealEntropy
from keycluster.simulations.load import bare_native

REGION, NODE = "us-east-1", NodeId("bare")
CREDENTIALS = Credentials("YARDSTICKACCESSKEY01", "yardstick")
KEY_ID = "5f7a6b1c-0d7e-4a53-9f6f-2d5d7d2b9f10"
PLAINTEXT = bytes(1024)
READ_BYTES = 65_536

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Calls per second, one value a round, and the medians' ratio."""

    plain_client: list[float]
    key_client: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.key_client) / statistics.median(self.plain_client)


async def measure(*, tasks: int = 64, seconds: float = 2.0, rounds: int = 3) -> Yardstick:
    """Runs both in turns, on trio. The server's process ends with it."""
    result = Yardstick([], [])
    with tempfile.TemporaryDirectory() as folder:
        async with _server(folder) as endpoints:
            for _ in range(rounds):
                async with _plain_client(endpoints) as call:
                    result.plain_client.append(await _rate(call, tasks, seconds))
                async with KeyClient(endpoints) as client:

                    async def encrypt(client: KeyClient = client) -> object:
                        return await client.encrypt(key_id=KEY_ID, plaintext=PLAINTEXT)

                    result.key_client.append(await _rate(encrypt, tasks, seconds))
    return result


async def _rate(call: Call, tasks: int, seconds: float) -> float:
    count = 0

    async def again_and_again() -> None:
        nonlocal count
        while True:
            await call()
            count += 1

    with trio.move_on_after(seconds + 0.3):
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(again_and_again)
            await trio.sleep(0.3)  # Warm-up.
            count, began = 0, trio.current_time()
            await trio.sleep_forever()
    return count / (trio.current_time() - began)


# The client made of a dict and events.


@asynccontextmanager
async def _plain_client(endpoints: Endpoints) -> AsyncIterator[Call]:
    address = endpoints.nodes[0]
    stream = await RealNetwork().dial_native(f"{address.host}:{address.port}", client_ca=None)
    key = session_key(CREDENTIALS.secret_access_key)
    hello = Hello(PROTOCOL_VERSION, CREDENTIALS.access_key_id, os.urandom(NONCE_BYTES))
    await stream.send_all(encode_greeting(hello))
    challenge = msgspec.msgpack.decode(await _one_frame(stream), type=Challenge)
    fingerprint = certificate_fingerprint(stream.peer_certificate or b"")
    proof = prove(key, Side.CLIENT, hello=hello, challenge=challenge, certificate_sha256=fingerprint)
    await stream.send_all(encode_greeting(Proof(proof)))
    await _one_frame(stream)
    async with trio.open_nursery() as nursery:
        client = _PlainClient(stream)
        nursery.start_soon(client.write)
        nursery.start_soon(client.read)
        yield client.encrypt
        nursery.cancel_scope.cancel()
    await stream.aclose()


async def _one_frame(stream: ByteStream) -> bytes:
    splitter = FrameSplitter(GREETING_BYTES_MAX)
    while not (bodies := splitter.feed(await stream.receive_some(READ_BYTES))):
        pass
    return bodies[0]


class _PlainClient:
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._number = 0
        self._queue: list[Request[EncryptRequest]] = []
        self._events: dict[int, trio.Event] = {}
        self._answers: dict[int, EncryptResponse] = {}
        self._wake = trio.Event()
        self._decode = msgspec.msgpack.Decoder(list[Reply[EncryptResponse]]).decode

    async def encrypt(self) -> EncryptResponse:
        self._number += 1
        number = self._number
        event = self._events[number] = trio.Event()
        self._queue.append(Request(number, "Encrypt", 10_000, None, EncryptRequest(key_id=KEY_ID, plaintext=PLAINTEXT)))
        self._wake.set()
        await event.wait()
        return self._answers.pop(number)

    async def write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            requests, self._queue = self._queue, []
            await self._stream.send_all(encode_requests(requests))

    async def read(self) -> None:
        splitter = FrameSplitter(FRAME_BYTES_MAX)
        while content := await self._stream.receive_some(READ_BYTES):
            for body in splitter.feed(content):
                for reply in self._decode(body):
                    self._answers[reply.id] = reply.body
                    self._events.pop(reply.id).set()


# The server's process.


@asynccontextmanager
async def _server(folder: str) -> AsyncIterator[Endpoints]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, theirs), daemon=True)
    process.start()
    theirs.close()  # So that a server that dies ends the wait below.
    try:
        port = await trio.to_thread.run_sync(ours.recv)
        yield Endpoints(REGION, (NodeAddress(NODE, "az", "127.0.0.1", port),), CREDENTIALS, f"{folder}/ca.pem")
    finally:
        process.terminate()
        process.join()


def _serve(folder: str, ready: Connection) -> None:
    trio.run(_serve_forever, Path(folder), ready)


async def _serve_forever(folder: Path, ready: Connection) -> None:
    entropy, now = RealEntropy(), RealClock().wall()
    authority = pki.new_authority(pki.AuthorityName.CLIENT, REGION, entropy=entropy, now=now)
    private_key = pki.new_private_key(entropy)
    certificate = pki.issue_certificate(
        authority,
        node=NODE,
        public_key=pki.public_key_of_private(private_key),
        hosts=("127.0.0.1",),
        entropy=entropy,
        now=now,
    )
    (folder / "ca.pem").write_text(pki.to_pem(authority.certificate))
    fingerprint = certificate_fingerprint(certificate)

    async def handler(stream: ByteStream) -> None:
        await _welcome(stream, fingerprint)
        await bare_native.serve(stream)

    async with trio.open_nursery() as nursery:
        network, identity = RealNetwork(), TlsIdentity(certificate=certificate, private_key=private_key)

        async def listen(*, task_status: trio.TaskStatus[str]) -> None:
            await network.serve_native("127.0.0.1:0", handler, identity=identity, task_status=task_status)

        address = await nursery.start(listen)
        ready.send(int(address.rpartition(":")[2]))


async def _welcome(stream: ByteStream, fingerprint: bytes) -> None:
    """The log-in of one client, whose proof isn't looked at: this server protects nothing."""
    hello = decode_client_greeting(await _one_frame(stream))
    if not isinstance(hello, Hello):
        raise TypeError("the yardstick's clients say Hello first")
    challenge = Challenge(os.urandom(NONCE_BYTES), REGION, NODE)
    await stream.send_all(encode_greeting(challenge))
    await _one_frame(stream)
    key = session_key(CREDENTIALS.secret_access_key)
    proof = prove(key, Side.SERVER, hello=hello, challenge=challenge, certificate_sha256=fingerprint)
    await stream.send_all(encode_greeting(Welcome(proof, FRAME_BYTES_MAX, 1024)))


def main() -> None:
    """Prints one line a client and the ratio."""
    result = trio.run(measure)
    for name, rates in (("plain client", result.plain_client), ("KeyClient", result.key_client)):
        print(f"{name:12} {statistics.median(rates):9,.0f}/s   ({', '.join(f'{rate:,.0f}' for rate in rates)})")
    print(f"ratio        {result.ratio:9.2f}")


if __name__ == "__main__":
    main()
