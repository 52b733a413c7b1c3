"""The AWS door: what AWS's own SDKs and tools speak to (AWS JSON 1.1 on HTTP/1.1, Signature Version 4).

One task a connection. It carries out all that one receive brought, in order, since HTTP/1.1 answers in order, and sends
all answers at once. The order of refusals: what isn't HTTP; what isn't signed by a known key; what names no operation;
what the operation doesn't take. Nothing of an unsigned request is looked at but its size. A suspension of this process
ends the connection without a word (`node/suspension.py`): a signature alone is good for minutes.
"""

from functools import partial
from hashlib import sha256
from typing import Final

import trio

from keycluster.cluster.keys.commands import REQUEST_ID_BYTES
from keycluster.cluster.seams import ByteStream
from keycluster.cluster.types import SECOND, ClusterTime, RunningTime
from keycluster.cluster.wire.errors import (
    InvalidSignatureException,
    KmsError,
    KMSInternalException,
    UnknownOperationException,
    UnrecognizedClientException,
)
from keycluster.node.dispatch import NOT_OFFERED_TEXT, NOT_SERVING_TEXT, Call, Dispatch, Waiting
from keycluster.node.doors.http import (
    CONTINUE,
    HttpParser,
    HttpRequest,
    NoSuchResource,
    date_line,
    encode_error,
    encode_http,
    encode_response,
)
from keycluster.node.doors.limits import (
    DEFAULT_LIMITS,
    READ_BYTES,
    Connections,
    DoorLimits,
    Holding,
    Patience,
    SessionVoid,
    Unfinished,
    host_of,
    serve_connection,
)
from keycluster.node.gate import Answer, Gate, Released, without_trace
from keycluster.node.room import Credential, Room
from keycluster.node.shares import Shares
from keycluster.node.sigv4 import SignedRequest, Verifier
from keycluster.node.suspension import WatchedClock

TARGET_PREFIX: Final = b"TrentService."
INVOCATION_HEADER: Final = b"amz-sdk-invocation-id"
_INVOCATION_LABEL: Final = b"keycluster/aws/request-id/1"


class AwsDoor:
    """One node's. `serve` is the network's handler of each connection."""

    def __init__(
        self, *, room: Room, dispatch: Dispatch, gate: Gate, clock: WatchedClock, limits: DoorLimits = DEFAULT_LIMITS
    ) -> None:
        self.room = room
        self.dispatch = dispatch
        self.gate = gate
        self.clock = clock
        self.limits = limits
        self.connections = Connections(limits)
        self.busy = Shares(limits.requests_in_flight_max)
        self.unfinished = Unfinished(limits)
        self.verifier: Verifier[Credential] = Verifier(room.region, decoy=room.entropy.random_bytes(32))
        self._date: tuple[int, bytes] = (0, b"")
        self._answered = 0
        self._id_prefix = _uuid_prefix(room.entropy.random_bytes(10))

    async def serve(self, stream: ByteStream) -> None:
        """One connection, until the other side ends it, breaks a rule or takes too long."""
        await serve_connection(self.connections, partial(_Connection, self, stream))

    def next_request_id(self) -> str:
        """For people and logs, unique for this process: never a secret, so a counter will do."""
        self._answered += 1
        return f"{self._id_prefix}{self._answered:012x}"

    def date_line(self) -> bytes:
        """By cluster time, made once a second; nothing on a node that doesn't know it."""
        now = self.room.consensus.cluster_time()
        if now is None:
            return b""
        seconds = now // SECOND
        if self._date[0] != seconds:
            self._date = (seconds, date_line(seconds))
        return self._date[1]


class _Connection:
    """One client, from its first byte."""

    def __init__(self, door: AwsDoor, stream: ByteStream, nursery: trio.Nursery) -> None:
        self.patience = Patience()
        self._door = door
        self._limits = door.limits
        self._clock = door.clock
        self._suspensions = door.clock.session_without_handshake()
        self._stream = stream
        self._scope = nursery.cancel_scope
        self._parser = HttpParser(door.limits)
        self._source = host_of(stream.peer_address)
        self._holding = Holding(door.unfinished, self._scope.cancel)
        self._number = 0
        self._account = ""
        """Whose the connection is: whoever signed its first request. Empty for a stranger."""

    async def run(self) -> None:
        """Until the connection ends."""
        try:
            await self._converse()
        except SessionVoid:
            return
        finally:
            self._holding.hold(0)

    async def _converse(self) -> None:
        parser, patience, limits = self._parser, self.patience, self._limits
        patience.read_within(self._idle_seconds)
        while True:
            content = await self._stream.receive_some(READ_BYTES)
            if not content:
                return
            was_within = parser.is_within_request
            requests = parser.feed(content)
            if was_within or parser.is_within_request:
                self._hold()
            if requests or parser.refusal is not None:
                if not await self._answer(requests):
                    return
                patience.read_within(self._idle_seconds)
            if parser.is_within_request and (requests or not was_within):
                patience.read_within(limits.message_seconds)  # From its first byte; later ones don't move it.
            if parser.wants_continue:
                parser.wants_continue = False
                await self._send(CONTINUE)

    @property
    def _idle_seconds(self) -> float:
        """SDKs connect when they have something to ask: a stranger who asks nothing doesn't need long."""
        return self._limits.idle_seconds if self._account else self._limits.log_in_seconds

    def _hold(self) -> None:
        try:
            self._holding.hold(self._parser.pending)
        except KmsError as refusal:
            self._parser.refusal = self._parser.refusal or refusal

    async def _answer(self, requests: list[HttpRequest]) -> bool:
        """Carries out and answers all; False if the connection ends with that.

        All are of the moment in which they were read, however long those before them take. One deadline for all bounds
        how long the connection's next ones lie unread, and so how much too late those are dated.
        """
        asked = self._door.dispatch.running_time
        deadline = trio.current_time() + self._limits.http_deadline_seconds
        answers: list[Answer] = []
        keeps_alive = [request.keeps_alive for request in requests]
        for request in requests:
            self._number += 1
            answers.append(await self._carry_out(request, self._number, asked=asked, deadline=deadline))
        if self._parser.refusal is not None:
            self._number += 1
            keeps_alive.append(False)
            answers.append(Answer(self._number, "", None, None, self._parser.refusal))
        released = await self._door.gate.pass_out(answers)
        await self._send(self._encode(released, keeps_alive))
        return all(keeps_alive)

    async def _carry_out(self, request: HttpRequest, number: int, *, asked: RunningTime, deadline: float) -> Answer:
        turns = self._door.dispatch.turns
        begin = partial(self._begin, request, number, asked=asked, deadline=deadline)
        begun = await turns.run(self._account, begin)
        return begun if isinstance(begun, Answer) else await self._wait(begun)

    def _begin(self, request: HttpRequest, number: int, *, asked: RunningTime, deadline: float) -> Answer | Waiting:
        """The answer, or what has to wait for it. Raises `SessionVoid`."""
        dispatch = self._door.dispatch
        serving = dispatch.may_serve()  # Before any state is read, the credential's included.
        if self._clock.suspensions != self._suspensions:
            raise SessionVoid
        operation, caller = "", None
        try:
            signed = _signed_request(request)
            credential = self._authenticate(signed, serving=serving)
            caller = credential.caller(self._source)
            operation = _operation_of(request)
            call = dispatch.calls.get(operation)
            if call is None:
                raise UnknownOperationException(NOT_OFFERED_TEXT)
            typed = call.decoder.from_json(request.body)
            answer = None
            if call.is_inline:
                answer = dispatch.answer_now(call, caller, typed, number=number, serving=serving)
            if answer is not None:
                return answer
            return Waiting(call, caller, typed, number, deadline, _request_id_of(signed, call), asked)
        except KmsError as error:
            return Answer(number, operation, caller, None, without_trace(error))

    def _authenticate(self, signed: SignedRequest, *, serving: bool) -> Credential:
        now = self._door.room.consensus.cluster_time()
        if now is None:
            raise self._unavailable(signed)
        try:
            credential = self._door.verifier.verify(signed, now=ClusterTime(now), find=self._door.dispatch.credential)
        except (UnrecognizedClientException, InvalidSignatureException):
            if not serving:  # What this node knows of access keys may be old.
                raise self._unavailable(signed) from None
            raise
        if not self._account:
            self._recognise(credential.record.account)
        return credential

    def _recognise(self, account: str) -> None:
        """Raises ThrottlingException if the account has too many connections, or holds too much already."""
        self._door.connections.recognise(self._scope, account)
        self._account = account
        self._holding.recognise(account)

    def _unavailable(self, signed: SignedRequest) -> KmsError:
        target = signed.headers.get(b"x-amz-target", b"").removeprefix(TARGET_PREFIX)
        call = self._door.dispatch.calls.get(target.decode("ascii", "replace"))
        return KMSInternalException(NOT_SERVING_TEXT) if call is None else call.unavailable(NOT_SERVING_TEXT)

    async def _wait(self, waiting: Waiting) -> Answer:
        account = waiting.caller.account
        try:
            self._door.busy.enter(account)
        except KmsError as error:
            return Answer(waiting.number, waiting.call.name, waiting.caller, None, without_trace(error))
        try:
            self.patience.read_within(self._limits.http_deadline_seconds + self._limits.message_seconds)
            return await self._door.dispatch.perform(waiting)
        finally:
            self._door.busy.leave(account)

    async def _send(self, content: bytes) -> None:
        self.patience.write_within(self._limits.write_seconds)
        await self._stream.send_all(content)
        self.patience.written()

    def _encode(self, released: Released, keeps_alive: list[bool]) -> bytes:
        door, date = self._door, self._door.date_line()
        return b"".join(
            encode_http(
                200 if answer.error is None else answer.error.status,
                _body_of(answer),
                request_id=door.next_request_id(),
                date=date,
                keeps_alive=keeps,
            )
            for answer, keeps in zip(released, keeps_alive, strict=True)
        )


def _body_of(answer: Answer) -> bytes:
    if answer.response is not None:
        return encode_response(answer.response)
    return encode_error(answer.error or KMSInternalException(""))


def _signed_request(request: HttpRequest) -> SignedRequest:
    path, _, query = request.target.partition(b"?")
    if request.method != b"POST" or path != b"/":
        raise NoSuchResource("Requests are posted to /.")
    return SignedRequest(request.method, path, query, request.headers, request.body)


def _operation_of(request: HttpRequest) -> str:
    target = request.headers.get(b"x-amz-target", b"")
    if not target.startswith(TARGET_PREFIX):
        raise UnknownOperationException(NOT_OFFERED_TEXT)
    return target[len(TARGET_PREFIX) :].decode("ascii", "replace")


def _request_id_of(signed: SignedRequest, call: Call) -> bytes | None:
    """The same for all attempts of one call, so that a retried CreateKey creates one key.

    AWS's SDKs name the call in a header that they keep over retries. botocore adds it after signing, so its signature
    doesn't cover it: who could change it on the way (the door is TLS, or loopback) could make one call of two with the
    same body, or two of one, and nothing else. Without the header each attempt is a request of its own.
    """
    invocation = signed.headers.get(INVOCATION_HEADER)
    return None if invocation is None else request_id_of(call.name, signed.body, invocation)


def request_id_of(operation: str, body: bytes, invocation: bytes) -> bytes:
    """By which the region makes what was asked for at this door once."""
    parts = (_INVOCATION_LABEL, operation.encode(), sha256(body).digest(), invocation)
    return sha256(b"\0".join(parts)).digest()[:REQUEST_ID_BYTES]


def _uuid_prefix(random_bytes: bytes) -> str:
    """Ten random bytes as the first 24 characters of a UUID, version 4."""
    digits = random_bytes.hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-"
