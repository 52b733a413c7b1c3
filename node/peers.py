"""This node's streams to and from the other members.

Who is a member, and by which key, is what the applied state says (or, on a node that just joined, what the admission
answered). It is looked at when a stream opens and again whenever members change: a stream whose pin changed is closed.
A node that was away, or just joined, may not know who leads by now, and would never hear of it, since only a leader
sends entries. So members introduce each other to everybody that they have a stream to.

What can't be sent is dropped: the outbox of a peer that is down or slow is bounded, and everything said between
members is either repeated (Raft, leases) or asked for again (forwarded commands, once `peer_lost` tells of the stream
that may have had them).

What comes out of here and ends the node is what it must not run on with: it was removed, was rolled back, or its state
is not the region's. Anything malformed ends the stream it came on, and no more.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from keycluster.cluster.peer_messages import Introduced, Introduction, PeerMessage, encode_peer_message
from keycluster.cluster.seams import (
    DEFAULT_LIMITS,
    AddressReport,
    ByteStream,
    DialError,
    Entropy,
    Network,
    ServeLimits,
    TlsIdentity,
)
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.node.peer_link import (
    SPOKEN,
    Farewell,
    FrameReader,
    Hello,
    PeerProtocolError,
    PeerVersions,
    decode_messages,
    decode_opening,
    encode_opening,
    frame_of,
)

OUTBOX_BYTES_MAX = 24 * 1024 * 1024  # Above what the core has under way to one member, and a burst of forwards.
MESSAGE_BYTES_OVERHEAD = 64  # What a message that waits costs beside its bytes: so small ones are bounded too.
FRAME_FILL_BYTES = 1024 * 1024  # A frame is closed once it holds this much: one message more always fits the maximum.
SEND_S_MAX = 5.0  # A stream that takes longer for one frame is broken off and dialled anew.
HELLO_S_MAX = 5.0
DIAL_AGAIN_FIRST_S = 0.03
DIAL_AGAIN_LONGEST_S = 1.0
LASTING_S = 1.0  # A stream that broke sooner doesn't start the back-off over: a handshake costs both sides.

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

    def introduction(self) -> Introduction:
        """The members by this node's own state."""
        ...

    def was_removed(self, certificate: bytes) -> bool:
        """Whether the certificate of an unknown key names a node that was a member once."""
        ...


class PeerReceiver(Protocol):
    """Whom the messages are for."""

    def receive(self, sender: NodeId, messages: Sequence[PeerMessage]) -> None: ...

    def known_of(self, peer: NodeId) -> tuple[Term, LogIndex] | None: ...

    def learn_known_of_me(self, peer: NodeId, known: tuple[Term, LogIndex] | None) -> None:
        """Raises RolledBack when the peer knows of more than this node has."""
        ...

    def peer_lost(self, peer: NodeId) -> None:
        """A stream to or from it broke: what was under way on it may be lost."""
        ...


@dataclass(slots=True)
class _Outbox:
    peer: Peer
    waiting: deque[bytes] = field(default_factory=deque)  # Encoded.
    waiting_bytes: int = 0
    filled: trio.Event = field(default_factory=trio.Event)
    dial_now: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    connected: bool = False
    introduced: tuple[Introduced, ...] = ()  # On this stream, to that peer.
    dropped: int = 0

    def put(self, message: bytes) -> bool:
        """False if there is no room."""
        if self.waiting_bytes > OUTBOX_BYTES_MAX:
            self.dropped += 1
            return False
        self.waiting.append(message)
        self.waiting_bytes += len(message) + MESSAGE_BYTES_OVERHEAD
        self.filled.set()
        return True

    def take_frame(self) -> bytes:
        """The next frame: as many messages as fill it."""
        parts: list[bytes] = []
        filled = 0
        while self.waiting and filled < FRAME_FILL_BYTES:
            part = self.waiting.popleft()
            self.waiting_bytes -= len(part) + MESSAGE_BYTES_OVERHEAD
            parts.append(part)
            filled += len(part)
        return frame_of(parts)

    def empty(self) -> None:
        self.waiting.clear()
        self.waiting_bytes = 0


@dataclass(frozen=True, slots=True)
class _Incoming:
    """A stream that a peer dialled."""

    identity_key: bytes
    scope: trio.CancelScope


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
        limits: ServeLimits = DEFAULT_LIMITS,
        versions: PeerVersions = SPOKEN,
    ) -> None:
        self._node = node
        self._region = region
        self._network = network
        self._jitter = entropy.jitter()
        self._identity = identity
        self._peer_ca = peer_ca
        self._listen = listen
        self._directory = directory
        self._limits = limits
        self._versions = versions
        self._receiver: PeerReceiver | None = None
        self._outboxes: dict[NodeId, _Outbox] = {}
        self._incoming: dict[NodeId, _Incoming] = {}
        self._nursery: trio.Nursery | None = None

    def connect_to(self, receiver: PeerReceiver) -> None:
        """Says whom messages are for; before `run`."""
        self._receiver = receiver

    def send(self, peer: NodeId, message: PeerMessage) -> bool:
        """Queues a message. False if it was dropped: there is no such peer, no stream, or no room."""
        outbox = self._outboxes.get(peer)
        if outbox is None or not outbox.connected:
            return False
        return outbox.put(encode_peer_message(message))

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
        for node, incoming in list(self._incoming.items()):
            known = wanted.get(node)
            if known is None or known.identity_key != incoming.identity_key:
                incoming.scope.cancel()
                del self._incoming[node]
        for node in sorted(wanted):
            if node not in self._outboxes:
                outbox = self._outboxes[node] = _Outbox(wanted[node])
                self._nursery.start_soon(self._keep_dialling, outbox)
            elif self._outboxes[node].connected:
                self._introduce(self._outboxes[node])

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
            self._listen,
            self._accept,
            identity=self._identity,
            peer_ca=self._peer_ca,
            limits=self._limits,
            task_status=task_status,
        )

    async def _keep_dialling(self, outbox: _Outbox) -> None:
        pause = DIAL_AGAIN_FIRST_S
        with outbox.scope:
            while True:
                outbox.dial_now = trio.Event()
                lasted = False
                try:
                    lasted = await self._dial_and_send(outbox)
                except (DialError, PeerProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    log.debug("no stream to peer", peer=outbox.peer.node, reason=str(error))
                pause = DIAL_AGAIN_FIRST_S if lasted else min(pause * 2, DIAL_AGAIN_LONGEST_S)
                with trio.move_on_after(pause * (0.5 + self._jitter.random())):
                    await outbox.dial_now.wait()

    async def _dial_and_send(self, outbox: _Outbox) -> bool:
        """One stream, until it breaks. Returns whether it had lasted."""
        stream = await self._network.dial_peer(
            outbox.peer.address,
            identity=self._identity,
            peer_ca=self._peer_ca,
            expected_public_key=outbox.peer.identity_key,
        )
        try:
            await self._greet(stream, outbox.peer.node)
            greeted_at = trio.current_time()
            outbox.connected, outbox.introduced = True, ()
            self._introduce(outbox)
            await self._send_until_broken(stream, outbox)
            return trio.current_time() - greeted_at > LASTING_S
        finally:
            if outbox.connected:
                outbox.connected = False
                outbox.empty()
                self._require_receiver().peer_lost(outbox.peer.node)
            await stream.aclose()

    def _introduce(self, outbox: _Outbox) -> None:
        """All members to that peer, unless it has heard of them on this stream."""
        introduction = self._directory.introduction()
        if introduction.members != outbox.introduced and outbox.put(encode_peer_message(introduction)):
            outbox.introduced = introduction.members

    async def _greet(self, stream: ByteStream, peer: NodeId) -> None:
        """Both hellos of a stream we dialled."""
        receiver = self._require_receiver()
        await self._send(stream, encode_opening(self._hello(peer)))
        with trio.move_on_after(HELLO_S_MAX):
            body = await FrameReader(stream).read()
            answer = decode_opening(body, region=self._region, versions=self._versions) if body is not None else None
            if isinstance(answer, Farewell):
                raise RemovedFromRegion(answer.reason)
            if answer is None or answer.node != peer:
                raise PeerProtocolError("the peer did not answer the hello")
            receiver.learn_known_of_me(peer, answer.known_of_you)
            return
        raise PeerProtocolError("the peer did not answer the hello in time")

    def _hello(self, peer: NodeId) -> Hello:
        known = self._require_receiver().known_of(peer)
        return Hello(self._versions, self._region, self._node, known)

    async def _send_until_broken(self, stream: ByteStream, outbox: _Outbox) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_for_end, stream, nursery.cancel_scope)
            try:
                while True:
                    if not outbox.waiting:
                        outbox.filled = trio.Event()
                        await outbox.filled.wait()
                    await self._send(stream, outbox.take_frame())
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
        peer = self._peer_of(stream)
        if peer is None:
            await self._turn_away(stream)
            return
        try:
            frames = await self._answer_hello(stream, peer.node)
            if self._peer_of(stream) is not None:  # It may have left, or got another key, since we looked.
                await self._listen_to(peer, frames)
        except PeerProtocolError as error:
            log.warning("peer's stream closed", peer=peer.node, reason=str(error))

    def _peer_of(self, stream: ByteStream) -> Peer | None:
        """The member whose key the other side has proved to hold."""
        return next((p for p in self._directory.peers().values() if p.identity_key == stream.peer_public_key), None)

    async def _turn_away(self, stream: ByteStream) -> None:
        """Closes. One that was removed is told so, after its hello: bytes unread at the close would cut off ours."""
        if stream.peer_certificate is None or not self._directory.was_removed(stream.peer_certificate):
            return
        with trio.move_on_after(HELLO_S_MAX), suppress(PeerProtocolError):
            await FrameReader(stream).read()
            await stream.send_all(encode_opening(Farewell("this node was removed from the region")))

    async def _answer_hello(self, stream: ByteStream, peer: NodeId) -> FrameReader:
        """Both hellos of a stream that `peer` dialled."""
        frames = FrameReader(stream)
        body = None
        with trio.move_on_after(HELLO_S_MAX):
            body = await frames.read()
        if body is None:
            raise PeerProtocolError("no hello")
        hello = decode_opening(body, region=self._region, versions=self._versions)
        if not isinstance(hello, Hello) or hello.node != peer:
            raise PeerProtocolError("the hello names another node")
        self._require_receiver().learn_known_of_me(peer, hello.known_of_you)
        await self._send(stream, encode_opening(self._hello(peer)))
        return frames

    async def _listen_to(self, peer: Peer, frames: FrameReader) -> None:
        receiver = self._require_receiver()
        with trio.CancelScope() as scope:
            incoming = _Incoming(peer.identity_key, scope)
            self._take_over_from(self._incoming.get(peer.node))
            self._incoming[peer.node] = incoming
            self._dial_back(peer.node)
            try:
                # What is read already is not taken any more once members changed: a cancelled read would notice late.
                while not scope.cancel_called and (body := await frames.read()) is not None:
                    receiver.receive(peer.node, decode_messages(body))
            finally:
                if self._incoming.get(peer.node) is incoming:
                    del self._incoming[peer.node]
                receiver.peer_lost(peer.node)

    @staticmethod
    def _take_over_from(older: _Incoming | None) -> None:
        """A member speaks on one stream at a time. An older one is dead, even if nobody has told this machine yet."""
        if older is not None:
            older.scope.cancel()

    def _dial_back(self, peer: NodeId) -> None:
        """Who reaches us is up: the back-off need not run out."""
        outbox = self._outboxes.get(peer)
        if outbox is not None and not outbox.connected:
            outbox.dial_now.set()

    def _require_receiver(self) -> PeerReceiver:
        if self._receiver is None:
            raise RuntimeError("connect_to comes before run")
        return self._receiver
