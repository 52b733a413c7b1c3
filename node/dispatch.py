"""From a request that a door has read to its answer: the same for both doors.

- Data plane: `answer_now`, plain synchronous code. Between a request and its answer is no task, no lock and no await.
- The rest: `perform`, in a task of the connection, under the caller's deadline. A read waits until what it saw is
  applied everywhere (rule L10), a write is proposed and waits until it may be acknowledged (rule L5).
- Both share the event loop with heartbeats and leases, so both wait for a turn when much is asked for (`turns.py`).

Rule L3 in a door's terms: a door reads what one receive brought, has its turn, asks `may_serve` once, and answers all
of it from one view, which moves only between two steps of the event loop. The clock is read after every one of those
requests came and before any state is.

Who calls is looked up for each request in applied state (security.md, 7): a connection remembers a credential's id
and version, not a verdict.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import msgspec
import trio

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.keys.authorise import authorise_operator
from keycluster.cluster.keys.commands import Caller, encode_command, hash_parameters
from keycluster.cluster.store.errors import StoreError
from keycluster.cluster.types import LogIndex, RunningTime
from keycluster.cluster.wire.errors import KmsError, KMSInternalException, UnrecognizedClientException
from keycluster.cluster.wire.strict import StrictDecoder
from keycluster.node.consensus import NobodyLeads, NotSettledYet
from keycluster.node.gate import Answer, without_trace
from keycluster.node.operations.table import OPERATIONS, Operation, Plane
from keycluster.node.refusal_log import RefusalLog
from keycluster.node.room import Credential, Room
from keycluster.node.turns import Turns

REQUEST_ID_BYTES: Final = 16
NOT_SERVING_TEXT: Final = "This node can't serve at the moment. Try another node of the region."
DEADLINE_TEXT: Final = "The request could not be completed in time. It may be repeated under the same request id."
EMPTY_RESPONSE: Final = b"\x80"  # msgpack's empty map.
NOT_ACTIVE_TEXT: Final = "The access key is not known, or no longer active."
NOT_OFFERED_TEXT: Final = "This operation is not known, or not offered here."
FAULT_TEXT: Final = "An internal failure occurred."

NODE_STOPS_ON = (StoreError, InvariantBroken, OSError, MemoryError)
"""Of a damaged store, a broken invariant or a failing disk nobody makes an answer: they end the node."""


@dataclass(frozen=True, slots=True)
class AdminCall:
    """What the handler of an operator's operation gets. The last three are for the command it makes."""

    request: Any
    caller: Caller
    request_id: bytes
    params_hash: bytes
    asked: RunningTime


@dataclass(frozen=True, slots=True)
class AdminOperation:
    """One operation of wire/admin.py: at the native door only, for operators' access keys only."""

    name: str
    request_type: type[msgspec.Struct]
    handler: Callable[[AdminCall], Awaitable[msgspec.Struct]]


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A request that can't be answered at once. It holds nothing of the frame it came in."""

    call: "Call"
    caller: Caller
    request: Any
    number: int
    deadline: float
    """On trio's clock."""
    request_id: bytes | None
    """None: the node makes one."""
    asked: RunningTime
    """`Dispatch.running_time` when the request was read: how old a command that comes of it is."""


class Call:
    """One operation, made ready for its requests: what is decoded how, and who does the work."""

    __slots__ = ("admin", "decoder", "handler", "is_inline", "name", "operation", "response_decoder", "unavailable")

    def __init__(self, operation: Operation | AdminOperation) -> None:
        self.name = operation.name
        self.decoder: StrictDecoder[Any] = StrictDecoder(operation.request_type)
        self.admin = operation if isinstance(operation, AdminOperation) else None
        self.operation = operation if isinstance(operation, Operation) else None
        self.handler: Callable[..., Any] = operation.handler
        self.unavailable: type[KmsError] = KMSInternalException
        self.is_inline = False
        if isinstance(operation, Operation):
            self.unavailable = operation.unavailable
            self.is_inline = operation.plane is Plane.DATA
            self.response_decoder = msgspec.msgpack.Decoder(operation.response_type)


class Dispatch:
    """One node's, shared by its doors."""

    def __init__(
        self,
        room: Room,
        *,
        operations: Mapping[str, Operation] = OPERATIONS,
        admin: Mapping[str, AdminOperation] | None = None,
    ) -> None:
        self._room = room
        self._refusals = RefusalLog()
        self.may_serve = room.consensus.may_serve
        self.turns = Turns()
        """Of all that callers ask for: what the doors answer at once, and the handlers of `perform`."""
        self.calls: Mapping[str, Call] = {name: Call(operation) for name, operation in operations.items()}
        """What both doors offer."""
        self.native_calls = {**self.calls, **{name: Call(operation) for name, operation in (admin or {}).items()}}

    @property
    def running_time(self) -> RunningTime:
        """What a door dates a request by."""
        return self._room.consensus.running_time

    def credential(self, access_key_id: str) -> Credential | None:
        """The access key as it is now, None if there is no such key or it is no longer active. Raises KmsError."""
        try:
            credential = self._room.credential(access_key_id)
        except KmsError as error:
            self._refusals.note("log-in", error)
            raise
        return credential if credential is not None and credential.record.active else None

    def answer_now(self, call: Call, caller: Caller, request: Any, *, number: int, serving: bool) -> Answer | None:
        """A data-plane answer; None where it must wait for what it rests on to be settled: `perform` gives it then.

        `serving`: `may_serve` said so after this request came, and the view hasn't moved.
        """
        if not serving:
            return Answer(number, call.name, caller, None, call.unavailable(NOT_SERVING_TEXT))
        try:
            response = call.handler(self._room, caller, request)
        except NotSettledYet:
            return None
        except Exception as error:  # noqa: BLE001  # Whatever it is becomes an answer, or ends the node.
            return Answer(number, call.name, caller, None, self._refusal(call, error))
        return Answer(number, call.name, caller, response, None)

    async def perform(self, waiting: Waiting) -> Answer:
        """Any other answer. Always returns one by the request's deadline, unless cancelled from outside."""
        call = waiting.call
        response: msgspec.Struct | None = None
        error: KmsError | None = call.unavailable(DEADLINE_TEXT)
        with trio.move_on_at(waiting.deadline):
            try:
                response, error = await self._work(waiting), None
            except Exception as refusal:  # noqa: BLE001  # As above.
                error = self._refusal(call, refusal)
        return Answer(waiting.number, call.name, waiting.caller, response, error)

    async def _work(self, waiting: Waiting) -> msgspec.Struct:
        call, caller = waiting.call, waiting.caller
        if call.is_inline:
            return await self._use(waiting)
        if call.operation is not None and call.operation.plane is Plane.READ:
            return await self._read(waiting)
        if call.admin is not None:
            return await self._administer(call.admin, waiting)
        command = await self.turns.run(caller.account, partial(self._command, waiting))
        try:
            outcome = await self._room.consensus.propose(command)
        except NobodyLeads as unled:
            raise call.unavailable(unled.message) from None
        refusal = outcome.error()
        if refusal is not None:
            raise refusal
        response: msgspec.Struct = call.response_decoder.decode(outcome.ok or EMPTY_RESPONSE)
        return response

    def _current(self, caller: Caller) -> Credential:
        """The caller's access key as it is now: it may have been withdrawn since the request came."""
        credential = self.credential(caller.access_key_id)
        if credential is None or credential.record.version != caller.credential_version:
            raise UnrecognizedClientException(NOT_ACTIVE_TEXT)
        return credential

    async def _administer(self, admin: AdminOperation, waiting: Waiting) -> msgspec.Struct:
        """Operators don't wait in line: they must get through when everybody else asks too much."""
        authorise_operator(self._current(waiting.caller).record, f"keycluster:{admin.name}")
        params_hash = hash_parameters(admin.name, waiting.request)
        call = AdminCall(waiting.request, waiting.caller, self._request_id(waiting), params_hash, waiting.asked)
        return await admin.handler(call)

    def _command(self, waiting: Waiting) -> bytes:
        """What is proposed for a write."""
        call, caller, request = waiting.call, waiting.caller, waiting.request
        body = call.handler(self._room, caller, request)
        params_hash = hash_parameters(call.name, request)
        return encode_command(
            body, caller, request_id=self._request_id(waiting), params_hash=params_hash, asked=waiting.asked
        )

    def _request_id(self, waiting: Waiting) -> bytes:
        return waiting.request_id or self._room.entropy.random_bytes(REQUEST_ID_BYTES)

    async def _read(self, waiting: Waiting) -> msgspec.Struct:
        seen, response, refusal = await self.turns.run(waiting.caller.account, partial(self._look, waiting))
        await self._room.consensus.settled(seen)
        if refusal is not None:
            raise refusal
        return cast(msgspec.Struct, response)

    async def _use(self, waiting: Waiting) -> msgspec.Struct:
        """A data-plane answer that was not to be had at once."""
        while True:
            try:
                return await self.turns.run(waiting.caller.account, partial(self._use_now, waiting))
            except NotSettledYet as early:
                await self._room.consensus.settled(early.index)

    def _use_now(self, waiting: Waiting) -> msgspec.Struct:
        if not self._room.consensus.may_serve():
            raise waiting.call.unavailable(NOT_SERVING_TEXT)
        self._current(waiting.caller)
        response: msgspec.Struct = waiting.call.handler(self._room, waiting.caller, waiting.request)
        return response

    def _look(self, waiting: Waiting) -> tuple[LogIndex, msgspec.Struct | None, KmsError | None]:
        """What a read finds, or why it is refused, and in which state: rule L3 from the check to the last row read."""
        consensus, call, caller = self._room.consensus, waiting.call, waiting.caller
        if not consensus.may_serve():
            raise call.unavailable(NOT_SERVING_TEXT)
        seen = consensus.view.applied_index
        try:
            self._current(caller)
            return seen, call.handler(self._room, caller, waiting.request), None
        except KmsError as refusal:  # "There is no such key" says something about the state as well.
            return seen, None, refusal

    def _refusal(self, call: Call, error: Exception) -> KmsError:
        """What the caller is told. A fault of ours must not take the node down with it, so it is answered too."""
        if isinstance(error, NODE_STOPS_ON):
            raise error
        refusal = error if isinstance(error, KmsError) else _fault(error)
        self._refusals.note(call.name, refusal)
        return without_trace(refusal)


def _fault(error: Exception) -> KMSInternalException:
    """A fault by its type and place alone: its text may hold what was being worked on."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else "?"
    return KMSInternalException(FAULT_TEXT, detail=f"{type(error).__name__} at {where}")
