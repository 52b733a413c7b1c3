"""This node's streams to and from the other members.

Who is a member, and by which key, is what the applied state says (or, on a node that just joined, what the admission
answered). It is looked at when a stream opens and again whenever members change: a stream whose pin changed is closed.

What can't be sent is dropped: the outbox of a peer that is down or slow is bounded, and everything said between
members is either repeated (Raft, leases) or asked for again (forwarded commands).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from keycluster.cluster.seams import AddressReport, ByteStream, DialError, Entropy, Network, TlsIdentity
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.node.peer_link import (
    LENGTH_BYTES,
    PEER_FRAME_BYTES_MAX,
    PEER_PROTOCOL_VERSION,
    Farewell,
    Hello,
    NodeMessage,
    PeerProtocolError,
    decode_messages,
    decode_opening,
    encode_message,
    encode_opening,
    frame_of,
)

OUTBOX_MESSAGES_MAX = 8192
FRAME_FILL_BYTES = 1024 * 1024  # A frame is closed once it holds this much: one message more always fits the maximum.
SEND_S_MAX = 5.0  # A stream that takes longer for one frame is broken off and dialled anew.
HELLO_S_MAX = 5.0
DIAL_AGAIN_FIRST_S = 0.03
DIAL_AGAIN_LONGEST_S = 1.0
READ_BYTES = 256 * 1024

log = structlog.get_logger(__name__)


class RemovedFromRegion(Exception):
    """A peer says that this node was removed: it must not run on."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another member, as pinned."""

    node: NodeId
    identity_key: bytes  # SubjectPublicKeyInfo, DER.
    address: str


class MemberDirectory(Protocol):
    """Who may speak to us."""

    def peers(self) -> Mapping[NodeId, Peer]:
        """Every other member that isn't removed."""
        ...

    def was_removed(self, certificate: bytes) -> bool:
        """Whether the certificate of an unknown key names a node that was a member once."""
        ...


class PeerReceiver(Protocol):
    """Whom the messages are for."""

    def receive(self, sender: NodeId, messages: Sequence[NodeMessage]) -> None: ...

    def known_of(self, peer: NodeId) -> tuple[Term, LogIndex] | None: ...

    def learn_known_of_me(self, peer: NodeId, known: tuple[Term, LogIndex] | None) -> None:
        """Raises RolledBack when the peer knows of more than this node has."""
        ...


@dataclass(slots=True)
class _Outbox:
    peer: Peer
    waiting: deque[NodeMessage] = field(default_factory=deque)
    filled: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    connected: bool = False
    dropped: int = 0


class Peers:
    """Sends to all other members and receives from them."""

    def __init__(
        self,
        *,
        node: NodeId,
        region: str,
        network: Network,
        entropy: Entropy,
        identity: TlsIdentity,
        peer_ca: bytes,
        listen: str,
        directory: MemberDirectory,
    ) -> None:
        self._node = node
        self._region = region
        self._network = network
        self._jitter = entropy.jitter()
        self._identity = identity
        self._peer_ca = peer_ca
        self._listen = listen
        self._directory = directory
        self._receiver: PeerReceiver | None = None
        self._outboxes: dict[NodeId, _Outbox] = {}
        self._incoming: dict[ByteStream, tuple[Peer, trio.CancelScope]] = {}
        self._nursery: trio.Nursery | None = None

    def connect_to(self, receiver: PeerReceiver) -> None:
        """Says whom messages are for; before `run`."""
        self._receiver = receiver

    def send(self, peer: NodeId, message: NodeMessage) -> None:
        """Queues a message, or drops it if there is no such peer, no stream, or no room."""
        outbox = self._outboxes.get(peer)
        if outbox is None:
            return
        if not outbox.connected or len(outbox.waiting) >= OUTBOX_MESSAGES_MAX:
            outbox.dropped += 1
            return
        outbox.waiting.append(message)
        outbox.filled.set()

    def connected(self) -> list[NodeId]:
        """Peers we have a stream to, sorted."""
        return sorted(node for node, outbox in self._outboxes.items() if outbox.connected)

    def members_changed(self) -> None:
        """Follows the directory: dials new members, closes the streams of those who left or have another key now."""
        if self._nursery is None:
            return
        wanted = self._directory.peers()
        for node, outbox in list(self._outboxes.items()):
            if wanted.get(node) != outbox.peer:
                outbox.scope.cancel()
                del self._outboxes[node]
        for stream, (peer, scope) in list(self._incoming.items()):
            known = wanted.get(peer.node)
            if known is None or known.identity_key != peer.identity_key:
                scope.cancel()
                del self._incoming[stream]
        for node in sorted(wanted):
            if node not in self._outboxes:
                outbox = self._outboxes[node] = _Outbox(wanted[node])
                self._nursery.start_soon(self._keep_dialling, outbox)

    async def run(self, task_status: AddressReport) -> None:
        """Listens and dials until cancelled. Reports the address it listens at."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                address = await nursery.start(self._serve)
                self.members_changed()
                task_status.started(address)
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._outboxes.clear()

    async def _serve(self, task_status: AddressReport) -> None:
        await self._network.serve_peers(
            self._listen, self._accept, identity=self._identity, peer_ca=self._peer_ca, task_status=task_status
        )

    async def _keep_dialling(self, outbox: _Outbox) -> None:
        pause = DIAL_AGAIN_FIRST_S
        with outbox.scope:
            while True:
                try:
                    stream = await self._network.dial_peer(
                        outbox.peer.address,
                        identity=self._identity,
                        peer_ca=self._peer_ca,
                        expected_public_key=outbox.peer.identity_key,
                    )
                    try:
                        await self._greet(stream, outbox.peer.node)
                        pause = DIAL_AGAIN_FIRST_S
                        await self._send_until_broken(stream, outbox)
                    finally:
                        outbox.connected = False
                        outbox.waiting.clear()
                        await stream.aclose()
                except (DialError, PeerProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    log.debug("no stream to peer", peer=outbox.peer.node, reason=str(error))
                await trio.sleep(pause * (0.5 + self._jitter.random()))
                pause = min(pause * 2, DIAL_AGAIN_LONGEST_S)

    async def _greet(self, stream: ByteStream, peer: NodeId) -> None:
        """Both hellos of a stream we dialled."""
        receiver = self._require_receiver()
        await self._send(stream, encode_opening(self._hello(peer)))
        with trio.move_on_after(HELLO_S_MAX):
            body = await _FrameReader(stream).read()
            answer = decode_opening(body, region=self._region) if body is not None else None
            if isinstance(answer, Farewell):
                raise RemovedFromRegion(answer.reason)
            if answer is None or answer.node != peer:
                raise PeerProtocolError("the peer did not answer the hello")
            receiver.learn_known_of_me(peer, answer.known_of_you)
            return
        raise PeerProtocolError("the peer did not answer the hello in time")

    def _hello(self, peer: NodeId) -> Hello:
        known = self._require_receiver().known_of(peer)
        return Hello(PEER_PROTOCOL_VERSION, self._region, self._node, known)

    async def _send_until_broken(self, stream: ByteStream, outbox: _Outbox) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_for_end, stream, nursery.cancel_scope)
            outbox.connected = True
            try:
                while True:
                    if not outbox.waiting:
                        outbox.filled = trio.Event()
                        await outbox.filled.wait()
                    await self._send(stream, _fill_frame(outbox.waiting))
            except (PeerProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                # Ended here, not let out: a nursery would wrap it in a group.
                log.debug("stream to peer broke", peer=outbox.peer.node, reason=str(error))
                nursery.cancel_scope.cancel()

    @staticmethod
    async def _watch_for_end(stream: ByteStream, scope: trio.CancelScope) -> None:
        """The other side says nothing here after its hello: whatever comes, or the end, closes the stream."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.receive_some(1)
        scope.cancel()

    @staticmethod
    async def _send(stream: ByteStream, frame: bytes) -> None:
        with trio.move_on_after(SEND_S_MAX) as scope:
            await stream.send_all(frame)
        if scope.cancelled_caught:
            raise PeerProtocolError("the peer does not take what is sent")

    async def _accept(self, stream: ByteStream) -> None:
        """A stream that somebody dialled: theirs to speak on, ours to listen to."""
        peer = next((p for p in self._directory.peers().values() if p.identity_key == stream.peer_public_key), None)
        if peer is None:
            await self._turn_away(stream)
            return
        with trio.CancelScope() as scope:
            self._incoming[stream] = (peer, scope)
            try:
                await self._listen_to(stream, peer.node)
            except PeerProtocolError as error:
                log.warning("peer's stream closed", peer=peer.node, reason=str(error))
            finally:
                self._incoming.pop(stream, None)

    async def _turn_away(self, stream: ByteStream) -> None:
        if stream.peer_certificate is not None and self._directory.was_removed(stream.peer_certificate):
            farewell = Farewell("this node was removed from the region")
            with trio.move_on_after(HELLO_S_MAX):
                await stream.send_all(encode_opening(farewell))

    async def _listen_to(self, stream: ByteStream, peer: NodeId) -> None:
        receiver = self._require_receiver()
        frames = _FrameReader(stream)
        with trio.move_on_after(HELLO_S_MAX) as greeting:
            body = await frames.read()
        if greeting.cancelled_caught or body is None:
            raise PeerProtocolError("no hello")
        hello = decode_opening(body, region=self._region)
        if not isinstance(hello, Hello) or hello.node != peer:
            raise PeerProtocolError("the hello names another node")
        receiver.learn_known_of_me(peer, hello.known_of_you)
        await self._send(stream, encode_opening(self._hello(peer)))
        while (body := await frames.read()) is not None:
            receiver.receive(peer, decode_messages(body))

    def _require_receiver(self) -> PeerReceiver:
        if self._receiver is None:
            raise RuntimeError("connect_to comes before run")
        return self._receiver


def _fill_frame(waiting: deque[NodeMessage]) -> bytes:
    parts: list[bytes] = []
    filled = 0
    while waiting and filled < FRAME_FILL_BYTES:
        part = encode_message(waiting.popleft())
        parts.append(part)
        filled += len(part)
    return frame_of(parts)


class _FrameReader:
    """Whole frames from a stream, in order."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def read(self) -> bytes | None:
        """A frame's body; None at the end of the stream between frames. Raises PeerProtocolError."""
        while True:
            if len(self._buffer) >= LENGTH_BYTES:
                length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
                if length > PEER_FRAME_BYTES_MAX:
                    raise PeerProtocolError(f"a frame of {length} bytes")
                end = LENGTH_BYTES + length
                if len(self._buffer) >= end:
                    body = bytes(self._buffer[LENGTH_BYTES:end])
                    del self._buffer[:end]
                    return body
            received = await self._stream.receive_some(READ_BYTES)
            if not received:
                if self._buffer:
                    raise PeerProtocolError("the stream ended within a frame")
                return None
            self._buffer += received
