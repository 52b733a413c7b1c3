"""The native door: pipelined frames on TLS (cluster/wire/frames.py has the formats, docs/formats.md every byte).

The shape decides the speed (docs/decisions): one task reads, carries out everything on the data plane that one receive
brought, and sends all of its answers at once. Only what has to wait gets a task. There is no lock around the stream:
whoever has answers while another task is sending leaves them to it, and they go out together.

What a connection can do to others is bounded by `limits.py`. Garbage closes the connection, before log-in without a
word; so does a suspension of this process (`node/suspension.py`).
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import trio
from msgspec import Raw

from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.seams import ByteStream
from keycluster.cluster.types import RunningTime
from keycluster.cluster.wire.errors import (
    KmsError,
    SerializationException,
    ThrottlingException,
    UnknownOperationException,
    UnrecognizedClientException,
)
from keycluster.cluster.wire.frames import (
    Failure,
    FrameMalformed,
    FrameSplitter,
    Hello,
    Join,
    JoinAnswer,
    Refused,
    Reply,
    Request,
    ServerGreeting,
    decode_client_greeting,
    decode_requests,
    encode_greeting,
    encode_replies,
)
from keycluster.node.dispatch import NOT_ACTIVE_TEXT, NOT_OFFERED_TEXT, Call, Dispatch, Waiting
from keycluster.node.doors.limits import (
    DEFAULT_LIMITS,
    READ_BYTES,
    Busy,
    Connections,
    DoorLimits,
    Holding,
    Patience,
    SessionVoid,
    Unfinished,
    host_of,
    serve_connection,
)
from keycluster.node.doors.login import LogIn
from keycluster.node.gate import Answer, Gate, Released, without_trace
from keycluster.node.room import Credential, Room
from keycluster.node.shares import THROTTLED_TEXT, Shares
from keycluster.node.suspension import WatchedClock

CONNECTION = 0
"""The number of a reply that speaks of the connection itself."""

SENT_AT_ONCE = 16
"""Of what waits to be sent: all that one receive brought counts as one, as does each answer of a task. Encoding is done
in one step of the event loop, and 256 lists of 1,000 keys take 40 ms."""


class JoinHandler(Protocol):
    """node/joining.py: the answer to a new node's question. Raises KmsError."""

    def __call__(self, payload: bytes, /, *, source: str) -> Awaitable[bytes]: ...


class NativeDoor:
    """One node's. `serve` is the network's handler of each connection.

    `certificate_sha256` is asked at each connection: the SHA-256 of the certificate (DER) that TLS shows there.
    """

    def __init__(
        self,
        *,
        room: Room,
        dispatch: Dispatch,
        gate: Gate,
        clock: WatchedClock,
        certificate_sha256: Callable[[], bytes],
        join: JoinHandler | None = None,
        limits: DoorLimits = DEFAULT_LIMITS,
    ) -> None:
        self.room = room
        self.dispatch = dispatch
        self.gate = gate
        self.clock = clock
        self.certificate_sha256 = certificate_sha256
        self.join = join
        self.limits = limits
        self.connections = Connections(limits)
        self.busy = Shares(limits.requests_in_flight_max)
        self.joins = Busy(limits.joins_max)
        self.unfinished = Unfinished(limits)

    async def serve(self, stream: ByteStream) -> None:
        """One connection, until the other side ends it, breaks a rule or takes too long."""
        await serve_connection(self.connections, partial(_Connection, self, stream))


class _Connection:
    """One client, from its first byte."""

    def __init__(self, door: NativeDoor, stream: ByteStream, nursery: trio.Nursery) -> None:
        self.patience = Patience()
        self._door = door
        self._limits = door.limits
        self._clock = door.clock
        self._suspensions = door.clock.suspensions  # TLS is done: whoever opened this was there a moment ago.
        self._calls = door.dispatch.native_calls
        self._turns = door.dispatch.turns
        self._stream = stream
        self._nursery = nursery
        self._source = host_of(stream.peer_address)
        self._splitter = FrameSplitter(self._limits.greeting_bytes_max)
        self._credential: Credential | None = None
        self._caller: Caller | None = None
        self._account = ""
        self._busy = Busy(self._limits.connection_requests_max)
        self._holding = Holding(door.unfinished, nursery.cancel_scope.cancel)
        self._outbox: list[tuple[list[Answer], bool]] = []
        """With each whether it counts as a request in flight until it leaves."""
        self._is_sending = False
        self._sent = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        self.patience.read_within(self._limits.log_in_seconds)
        try:
            logged_in = await self._log_in()
        except FrameMalformed:
            return
        if not logged_in:
            return
        self._splitter.frame_bytes_max = self._limits.frame_bytes_max
        try:
            await self._converse()
        except SessionVoid:
            return
        except FrameMalformed as reason:
            await self._send([Answer(CONNECTION, "", self._caller, None, SerializationException(str(reason)))])
        except ThrottlingException as refusal:
            await self._send([Answer(CONNECTION, "", self._caller, None, refusal)])
        finally:
            self._holding.hold(0)
            self._busy.end()

    # Before log-in.

    async def _log_in(self) -> bool:
        log_in = LogIn(
            region=self._door.room.region,
            node=self._door.room.node,
            certificate_sha256=self._door.certificate_sha256(),
            random_bytes=self._door.room.entropy.random_bytes,
        )
        while (body := await self._one_frame()) is not None:
            message = decode_client_greeting(body)
            try:
                if isinstance(message, Join):
                    await self._join(message)
                    return False
                if isinstance(message, Hello):
                    await self._say(log_in.greet(message))
                    continue
                self._credential, welcome = log_in.conclude(
                    message,
                    is_current=self._door.dispatch.may_serve(),
                    find=self._door.dispatch.credential,
                    frame_bytes_max=self._limits.frame_bytes_max,
                    requests_in_flight_max=self._limits.connection_requests_max,
                )
                self._recognise(self._credential)
            except KmsError as refusal:
                await self._say(Refused(refusal.code, refusal.message, refusal.retryable))
                return False
            await self._say(welcome)
            return True
        return False

    def _recognise(self, credential: Credential) -> None:
        """Raises ThrottlingException if the account has too many connections."""
        self._account = credential.record.account
        self._caller = credential.caller(self._source)
        self._door.connections.recognise(self._nursery.cancel_scope, self._account)
        self._busy = Busy(self._limits.connection_requests_max, self._door.busy, self._account)
        self._holding.recognise(self._account)

    async def _one_frame(self) -> bytes | None:
        """The next frame; None at the end. Who hasn't logged in waits for the answer before saying more."""
        while content := await self._stream.receive_some(READ_BYTES):
            bodies = self._splitter.feed(content)
            if not bodies:
                continue
            if len(bodies) > 1 or self._splitter.pending:
                raise FrameMalformed("more than one message before the answer")
            return bodies[0]
        return None

    async def _say(self, message: ServerGreeting) -> None:
        self.patience.write_within(self._limits.write_seconds)
        await self._stream.send_all(encode_greeting(message))
        self.patience.written()

    async def _join(self, message: Join) -> None:
        if self._door.join is None:
            raise UnknownOperationException("Nobody can join here at the moment.")
        self._door.joins.enter()
        try:
            self.patience.read_within(self._limits.join_seconds)
            payload = await self._door.join(message.payload, source=self._source)
        finally:
            self._door.joins.leave()
        await self._say(JoinAnswer(payload))

    # After log-in.

    async def _converse(self) -> None:
        splitter, limits = self._splitter, self._limits
        while True:
            if not splitter.pending:
                self.patience.read_within(limits.idle_seconds)
            content = await self._stream.receive_some(READ_BYTES)
            if not content:
                return
            was_pending = splitter.pending
            bodies = splitter.feed(content)
            if splitter.pending or was_pending:
                if bodies or not was_pending:
                    self.patience.read_within(limits.message_seconds)  # From the first byte of what isn't whole yet.
                self._holding.hold(splitter.pending)
            if bodies:
                asked = self._door.dispatch.running_time
                answers = await self._turns.run(self._account, partial(self._carry_out, bodies, asked))
                if answers:
                    await self._send(answers)
                while self._is_sending:  # A task's answer too: what isn't read here is no work, and no answer to hold.
                    await self._sent.park()

    def _carry_out(self, bodies: list[bytes], asked: RunningTime) -> list[Answer]:
        """All that one receive brought, at `asked`. Returns the answers that are there at once; others come in tasks.

        Raises `SessionVoid`, `FrameMalformed`.
        """
        dispatch = self._door.dispatch
        serving = dispatch.may_serve()  # Before any state is read, the credential's included.
        if self._clock.suspensions != self._suspensions:
            raise SessionVoid
        caller, stranger = self._identify()
        left = self._limits.connection_requests_max
        answers: list[Answer] = []
        for body in bodies:
            for request in decode_requests(body):
                left -= 1
                if caller is None:
                    answers.append(Answer(request.id, request.operation, None, None, stranger))
                    continue
                try:
                    call = self._call(request.operation, left)
                    typed = call.decoder.from_msgpack(request.input)
                    answer = None
                    if call.is_inline:
                        answer = dispatch.answer_now(call, caller, typed, number=request.id, serving=serving)
                    if answer is None:
                        self._start(call, caller, typed, request, asked)
                    else:
                        answers.append(answer)
                except KmsError as error:
                    answers.append(Answer(request.id, request.operation, caller, None, without_trace(error)))
        return answers

    def _call(self, operation: str, left: int) -> Call:
        if left < 0:
            raise ThrottlingException(THROTTLED_TEXT)
        call = self._calls.get(operation)
        if call is None:
            raise UnknownOperationException(NOT_OFFERED_TEXT)
        return call

    def _identify(self) -> tuple[Caller | None, KmsError]:
        """Who logged in, as long as their access key is what it was then; else why their requests are refused."""
        known = self._credential
        refusal: KmsError = UnrecognizedClientException(NOT_ACTIVE_TEXT)
        if known is None:
            return None, refusal
        try:
            current = self._door.dispatch.credential(known.record.access_key_id)
        except KmsError as error:
            return None, error
        if current is known:
            return self._caller, refusal
        if current is None or current.record.version != known.record.version:
            return None, refusal
        self._credential = current  # The same row, read again.
        return self._caller, refusal

    def _start(self, call: Call, caller: Caller, typed: object, request: Request[Raw], asked: RunningTime) -> None:
        self._busy.enter()
        deadline = trio.current_time() + request.deadline_ms / 1_000
        waiting = Waiting(call, caller, typed, request.id, deadline, request.request_id, asked)
        self._nursery.start_soon(self._perform, waiting)

    async def _perform(self, waiting: Waiting) -> None:
        await self._send([await self._door.dispatch.perform(waiting)], in_flight=True)

    async def _send(self, answers: list[Answer], *, in_flight: bool = False) -> None:
        """Sends, or leaves it to the task that is sending: then `_is_sending` is still set on return.

        Requests are in flight until their answers leave: a client that doesn't read them can't have more made.
        """
        self._outbox.append((answers, in_flight))
        if self._is_sending:
            return
        self._is_sending = True
        try:
            while self._outbox:
                leaving, self._outbox = self._outbox[:SENT_AT_ONCE], self._outbox[SENT_AT_ONCE:]
                released = await self._door.gate.pass_out([answer for answers, _ in leaving for answer in answers])
                content = _encode(released, self._limits.frame_bytes_max)
                self._busy.leave(sum(in_flight for _, in_flight in leaving))
                del leaving, released
                self.patience.write_within(self._limits.write_seconds)
                await self._stream.send_all(content)
                self.patience.written()
        finally:
            self._is_sending = False
            self._sent.unpark_all()


def _encode(released: Released, frame_bytes_max: int) -> bytes:
    """The answers as frames, most of the time one."""
    return _encode_within([_reply(answer) for answer in released], frame_bytes_max)


def _reply(answer: Answer) -> Reply[object]:
    error = answer.error
    if error is None:
        return Reply(answer.number, False, answer.response)
    return Reply(answer.number, True, Failure(error.code, error.message, error.retryable))


def _encode_within(replies: list[Reply[object]], frame_bytes_max: int) -> bytes:
    content = encode_replies(replies)
    if len(content) <= frame_bytes_max or len(replies) == 1:
        return content
    middle = len(replies) // 2
    return _encode_within(replies[:middle], frame_bytes_max) + _encode_within(replies[middle:], frame_bytes_max)
