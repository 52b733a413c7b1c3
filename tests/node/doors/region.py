"""A one-node region whose commands are applied at once, both doors before it, and light clients for tests.

    region = Region()
    async with region.native() as stream: …          # a raw connection, logged in or not
    reply = await region.ask(stream, "Encrypt", …)

Streams are trio's own in-memory ones, so time can be virtual; `serve_http` opens a real socket for boto3.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import msgspec
import trio
from trio.testing import memory_stream_pair

from keycluster.cluster.keys.apply import apply_entry
from keycluster.cluster.keys.commands import Outcome, stamp
from keycluster.cluster.keys.records import Table, access_key_row
from keycluster.cluster.raft.messages import Entry, EntryKind
from keycluster.cluster.types import SECOND, Instant, LogIndex, NodeId, Term, WallTime
from keycluster.cluster.wire.frames import (
    Challenge,
    Failure,
    FrameSplitter,
    Hello,
    Proof,
    Reply,
    Request,
    ServerGreeting,
    Side,
    Welcome,
    decode_failure,
    decode_replies,
    decode_server_greeting,
    encode_greeting,
    encode_requests,
    frame,
    prove,
    session_key,
)
from keycluster.cluster.wire.operations import Shape
from keycluster.node.dispatch import Dispatch
from keycluster.node.doors.aws import AwsDoor
from keycluster.node.doors.limits import DEFAULT_LIMITS, DoorLimits
from keycluster.node.doors.native import NativeDoor
from keycluster.node.gate import Gate
from keycluster.node.suspension import WatchedClock
from tests.room_on_memory import NOW, REGION, MemoryState, RoomOnMemory, StillConsensus

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CERTIFICATE = b"\x11" * 32
PATIENCE_SECONDS = 20.0


class ClockByHand:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = Instant(SECOND)

    def now(self) -> Instant:
        return self.at

    def wall(self) -> WallTime:
        return WallTime(NOW)

    def move(self, by_ns: int) -> None:
        self.at = Instant(self.at + by_ns)


class AppliedAtOnce(StillConsensus):
    """Proposals are applied as a log of one node would. `before_apply` and `settling` let a test hold them."""

    def __init__(self, state: MemoryState, region: "Region") -> None:
        super().__init__(state)
        self.index = 1
        self.proposed: list[bytes] = []
        self.hold: trio.Event | None = None
        self.settle: trio.Event | None = None
        self._region = region

    def may_serve(self) -> bool:
        """Reads the clock as a node does."""
        self._region.watched.now()
        return super().may_serve()

    async def propose(self, command: bytes) -> Outcome:
        self.proposed.append(command)
        await trio.lowlevel.checkpoint()
        if self.hold is not None:
            await self.hold.wait()
        self.index += 1
        payload = stamp(command, NOW, self.index * 1_000)
        self.state.touched.clear()
        outcome = apply_entry(self.state, Entry(Term(1), LogIndex(self.index), EntryKind.COMMAND, payload))
        self._region.room.invalidate(self.state.touched)
        return outcome

    async def settled(self, index: LogIndex) -> None:
        await trio.lowlevel.checkpoint()
        if self.settle is not None:
            await self.settle.wait()


class Region(RoomOnMemory):
    """The room, with doors."""

    def __init__(self, *, limits: DoorLimits = DEFAULT_LIMITS, **door: Any) -> None:
        super().__init__()
        self.applied = AppliedAtOnce(self.state, self)
        self.consensus = self.applied
        self.room.consensus = self.applied
        self.state.applied_index = LogIndex(1)
        self.clock = ClockByHand()
        self.watched = WatchedClock(self.clock)
        admin = door.pop("admin", None)
        self.dispatch = Dispatch(self.room, admin=admin)
        self.gate = Gate()
        self.native_door = NativeDoor(
            room=self.room,
            dispatch=self.dispatch,
            gate=self.gate,
            clock=self.watched,
            certificate_sha256=lambda: CERTIFICATE,
            limits=limits,
            **door,
        )
        self.aws_door = AwsDoor(
            room=self.room, dispatch=self.dispatch, gate=self.gate, clock=self.watched, limits=limits
        )
        self.add_access_key(ACCESS_KEY, SECRET.encode())

    def change_access_key(self, **fields: Any) -> None:
        credential = self.room.credential(ACCESS_KEY)
        assert credential is not None
        changed = msgspec.structs.replace(credential.record, **fields)
        self.put(Table.ACCESS_KEYS, access_key_row(ACCESS_KEY), changed)

    @asynccontextmanager
    async def connect(self, door: NativeDoor | AwsDoor) -> AsyncIterator["Client"]:
        """A client's end, the door at the other. Afterwards the door must have let go by itself."""
        here, there = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, door, MemoryStream(there))
            client = Client(here)
            yield client
            await here.aclose()

    @asynccontextmanager
    async def native(self, *, secret: str = SECRET) -> AsyncIterator["Client"]:
        """A connection that is logged in."""
        async with self.connect(self.native_door) as client:
            welcome = await client.log_in(secret=secret)
            assert isinstance(welcome, Welcome), welcome
            yield client


async def _serve(door: NativeDoor | AwsDoor, stream: "MemoryStream") -> None:
    try:
        await door.serve(stream)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await stream.aclose()


class MemoryStream:
    """A trio stream as the network seam's."""

    peer_public_key: bytes | None = None
    peer_certificate: bytes | None = None
    peer_address = "192.0.2.1:40000"

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, content: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(content)

    async def receive_some(self, count_max: int) -> bytes:
        return bytes(await self._stream.receive_some(count_max))

    async def aclose(self) -> None:
        await self._stream.aclose()


class Client:
    """The other end of a connection, as dumb as can be."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._splitter = FrameSplitter(1 << 24)
        self._bodies: list[bytes] = []
        self._numbers = count(1)

    async def send(self, content: bytes) -> None:
        await self.stream.send_all(content)

    async def trickle(self, content: bytes, *, pause: float) -> None:
        """Byte by byte."""
        for byte in content:
            await self.send(bytes([byte]))
            await trio.sleep(pause)

    async def send_frame(self, body: bytes) -> None:
        await self.send(frame(body))

    async def next_frame(self) -> bytes | None:
        """None once the other side has closed."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not self._bodies:
                content = await self.stream.receive_some(65_536)
                if not content:
                    return None
                self._bodies += self._splitter.feed(bytes(content))
            return self._bodies.pop(0)

    async def is_closed(self) -> bool:
        return await self.next_frame() is None

    async def greeting(self) -> ServerGreeting:
        body = await self.next_frame()
        assert body is not None, "closed"
        return decode_server_greeting(body)

    async def log_in(self, *, access_key_id: str = ACCESS_KEY, secret: str = SECRET) -> ServerGreeting:
        hello = Hello(1, access_key_id, b"n" * 32)
        await self.send(encode_greeting(hello))
        challenge = await self.greeting()
        assert isinstance(challenge, Challenge), challenge
        key = session_key(secret)

        def proof(side: Side) -> bytes:
            return prove(key, side, hello=hello, challenge=challenge, certificate_sha256=CERTIFICATE)

        await self.send(encode_greeting(Proof(proof(Side.CLIENT))))
        answer = await self.greeting()
        if isinstance(answer, Welcome):
            assert (challenge.region, challenge.node) == (REGION, NodeId("node-a"))
            assert answer.proof == proof(Side.SERVER)
        return answer

    def request(
        self, operation: str, request: object, *, deadline_ms: int = 5_000, request_id: bytes | None = None
    ) -> Request[object]:
        return Request(next(self._numbers), operation, deadline_ms, request_id, request)

    async def replies(self, expected: int) -> dict[int, Reply[msgspec.Raw]]:
        """The next `expected` replies, by id."""
        found: dict[int, Reply[msgspec.Raw]] = {}
        while len(found) < expected:
            body = await self.next_frame()
            assert body is not None, f"closed after {len(found)} of {expected} replies"
            found |= {reply.id: reply for reply in decode_replies(body)}
        return found

    async def ask(self, operation: str, request: object, **request_fields: Any) -> Reply[msgspec.Raw]:
        sent = self.request(operation, request, **request_fields)
        await self.send(encode_requests([sent]))
        return (await self.replies(1))[sent.id]

    async def ask_for(self, operation: str, request: object, kind: type[Shape], **request_fields: Any) -> Any:
        """The response, which must be one."""
        reply = await self.ask(operation, request, **request_fields)
        assert not reply.failed, decode_failure(reply.body)
        return msgspec.msgpack.decode(reply.body, type=kind)

    async def fail(self, operation: str, request: object, **request_fields: Any) -> Failure:
        """The failure, which must be one."""
        reply = await self.ask(operation, request, **request_fields)
        assert reply.failed
        return decode_failure(reply.body)
