"""One logged-in, pipelined connection to a node.

Callers put their calls into a queue and wait; one task puts whatever is queued into shared frames, one hands out the
replies by number, one keeps watch over time. There is no lock and no task per call: 64 callers that wake together
make one frame.

- A call ends exactly once: with its reply, at its deadline, or when the connection is lost.
- What a caller gave up on keeps its number and its place among the calls in flight until its reply comes or the
  connection ends: the node still works on it.
- A node that is silent while calls wait is asked for a sign of life; without one the connection counts as lost, so
  that a stopped process or a dropped route costs a second and a half, not a deadline.
"""

import contextlib
import math
from collections import deque

import anyio
from msgspec import Raw

from keycluster.client.errors import DeadlineExceeded
from keycluster.client.runtime import Event, Runtime
from keycluster.client.surroundings import Stream
from keycluster.client.transport import StreamBroken
from keycluster.cluster.wire.frames import (
    DEADLINE_MS_MAX,
    FRAME_BYTES_MAX,
    REQUESTS_PER_BATCH,
    FrameMalformed,
    FrameSplitter,
    Reply,
    Request,
    Welcome,
    decode_failure,
    decode_replies,
    encode_requests,
)

REQUEST_OVERHEAD_BYTES = 128  # Number, operation, deadline and request id, and the frame's own few bytes.
WATCH_SECONDS = 0.5  # How long a node may be silent before it is asked for a sign of life.
SILENCE_SECONDS_MAX = 1.0  # How long that sign may take. Below it a busy node's garbage collection is no death.
SECOND_LOOK_SECONDS = 0.05  # Then the node is silent for good: what had come while the loop was held up is read by now.
SIGN_OF_LIFE = "NodeStatus"  # Any answer will do, a refusal as well; every node has one at once.
_NUMBER_MAX = 2**32 - 1
_EMPTY = Raw(b"\x80")  # An empty map.


class ConnectionLost(Exception):
    """The connection ended before the reply. If `was_sent`, the request may have been carried out."""

    def __init__(self, reason: str, *, was_sent: bool) -> None:
        super().__init__(reason)
        self.was_sent = was_sent


class _Call:
    __slots__ = ("body", "deadline", "done", "ended", "failure", "number", "operation", "reply", "request_id")

    def __init__(self, operation: str, body: Raw, request_id: bytes | None, deadline: float, done: Event) -> None:
        self.operation = operation
        self.body = body
        self.request_id = request_id
        self.deadline = deadline
        self.done = done
        self.number = 0  # None yet: it waits in the queue.
        self.ended = False
        self.reply: Reply[Raw] | None = None
        self.failure: Exception | None = None

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self.ended = True
        self.done.set()


class Connection:
    """`run` does the work until the connection ends, `ask` may be called by any number of tasks meanwhile."""

    def __init__(self, stream: Stream, welcome: Welcome, runtime: Runtime, *, in_flight_max: int) -> None:
        self.request_bytes_max = min(welcome.frame_bytes_max, FRAME_BYTES_MAX) - REQUEST_OVERHEAD_BYTES
        self.ended_while_idle = False
        """The node closed a connection that nobody waited on: no sign of trouble."""
        self._in_flight_max = max(1, min(in_flight_max, welcome.requests_in_flight_max))
        self._stream = stream
        self._now = runtime.now
        self._new_event = runtime.new_event
        self._queue: deque[_Call] = deque()
        self._in_flight: dict[int, _Call | None] = {}  # None: its caller has given up, the reply is still to come.
        self._last_number = 0
        self._wake = runtime.new_event()
        self._writer_waits = False  # For `_wake`, until somebody sets it.
        self._watch_at = math.inf
        self._watch_scope = anyio.CancelScope()
        self._heard_at = runtime.now()
        self._sign_asked_at: float | None = None
        self._suspected_at = math.inf  # When no sign was found to have come in time.
        self.is_open = True
        self._lost = ""  # Why, once it isn't open any more.
        self._scope = anyio.CancelScope()

    @property
    def in_flight(self) -> int:
        """Requests without a reply, those that their callers have given up included."""
        return len(self._in_flight)

    @property
    def queued(self) -> int:
        """Calls that wait to be sent."""
        return len(self._queue)

    async def ask(self, operation: str, body: Raw, *, request_id: bytes | None, deadline: float) -> Reply[Raw]:
        """The reply to one call. `deadline` is on the loop's clock.

        Raises `ConnectionLost` or `DeadlineExceeded`. May be cancelled: a reply that comes later is dropped.
        """
        if not self.is_open:
            raise ConnectionLost(self._lost, was_sent=False)
        call = _Call(operation, body, request_id, deadline, self._new_event())
        self._queue.append(call)
        if self._writer_waits:
            self._wake_writer()
        if deadline < self._watch_at:
            self._watch_until(deadline)
        try:
            await call.done.wait()
        finally:
            if not call.ended:
                self._give_up(call)
        if call.reply is None:
            raise call.failure or ConnectionLost("the connection ended", was_sent=True)
        return call.reply

    async def run(self) -> None:
        """Until the connection ends by itself, by `close` or by cancellation; ends all calls and closes the stream."""
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._write)
                    group.start_soon(self._watch)
                    await self._read()
        finally:
            self._lose("the client closed the connection")
            for call in [*self._in_flight.values(), *self._queue]:
                if call is not None and not call.ended:
                    call.fail(ConnectionLost(self._lost, was_sent=call.number > 0))
            self._in_flight.clear()
            self._queue.clear()
            await self._stream.aclose()

    def close(self) -> None:
        """Makes `run` end."""
        self._lose("the client closed the connection")

    def _lose(self, reason: str) -> None:
        if self.is_open:
            self.is_open = False
            self._lost = reason
            self._scope.cancel()

    # Writing.

    def _wake_writer(self) -> None:
        self._writer_waits = False
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                requests = self._next_batch()
                if requests:
                    self._stream.write_nowait(encode_requests(requests))
                if self._stream.has_output:
                    await self._stream.flush()
                else:
                    self._wake = self._new_event()
                    self._writer_waits = True
                    await self._wake.wait()
        except StreamBroken as error:
            self._lose(str(error))

    def _next_batch(self) -> list[Request[Raw]]:
        """What goes into the next frame: bounded in number, in bytes, and by the calls that may be in flight."""
        requests: list[Request[Raw]] = []
        queue, in_flight, now = self._queue, self._in_flight, self._now()
        bytes_left = self.request_bytes_max + REQUEST_OVERHEAD_BYTES
        room = min(REQUESTS_PER_BATCH, self._in_flight_max - len(in_flight))
        while queue and len(requests) < room:
            call = queue[0]
            if call.ended:
                queue.popleft()
                continue
            bytes_left -= len(call.body) + REQUEST_OVERHEAD_BYTES
            if bytes_left < 0:
                break
            queue.popleft()
            if call.deadline <= now:  # Whoever was stopped meanwhile mustn't ask for what is late: it may be undone.
                call.fail(DeadlineExceeded(f"{call.operation} could not be sent within its time"))
                continue
            call.number = number = self._next_number()
            in_flight[number] = call
            # Below one where no millisecond is left: the node would take 0 for garbage.
            deadline_ms = min(max(int((call.deadline - now) * 1000), 1), DEADLINE_MS_MAX)
            requests.append(Request(number, call.operation, deadline_ms, call.request_id, call.body))
        return requests

    def _next_number(self) -> int:
        number = self._last_number + 1
        while number > _NUMBER_MAX or number in self._in_flight:
            number = number % _NUMBER_MAX + 1
        self._last_number = number
        return number

    def _give_up(self, call: _Call) -> None:
        call.ended = True
        if call.number in self._in_flight:
            self._in_flight[call.number] = None
        elif call.number == 0:  # It still waits for room that may never come: what it would send needn't.
            with contextlib.suppress(ValueError):
                self._queue.remove(call)

    # Reading.

    async def _read(self) -> None:
        splitter = FrameSplitter(FRAME_BYTES_MAX)
        try:
            while content := await self._stream.receive():
                self._heard_at = self._now()
                self._sign_asked_at = None
                self._suspected_at = math.inf
                for body in splitter.feed(content):
                    self._take_replies(decode_replies(body))
                if self._writer_waits and (self._queue or self._stream.has_output):
                    self._wake_writer()
            self.ended_while_idle = not (self._queue or self._in_flight or splitter.pending)
            self._lose("the node closed the connection")
        except (StreamBroken, FrameMalformed) as error:
            self._lose(str(error))

    def _take_replies(self, replies: list[Reply[Raw]]) -> None:
        in_flight = self._in_flight
        for reply in replies:
            call = in_flight.pop(reply.id, None)
            if call is not None:
                call.reply = reply
                call.ended = True
                call.done.set()
            elif reply.id == 0:
                self._lose(f"the node closes the connection: {decode_failure(reply.body).message}")

    # Time.

    def _watch_until(self, deadline: float) -> None:
        """Sets when to look next: at this deadline, or sooner, to see whether the node is silent."""
        self._watch_at = min(deadline, self._now() + WATCH_SECONDS)
        self._watch_scope.deadline = self._watch_at

    async def _watch(self) -> None:
        while True:
            with anyio.CancelScope(deadline=self._watch_at) as self._watch_scope:
                await anyio.sleep_forever()
            now = self._now()
            waiting = [call for call in [*self._in_flight.values(), *self._queue] if call is not None]
            for call in waiting:
                if call.deadline <= now and not call.ended:
                    self._give_up(call)
                    call.fail(DeadlineExceeded(f"no answer to {call.operation} within its time"))
            self._watch_at = math.inf
            next_deadline = min((call.deadline for call in waiting if not call.ended), default=None)
            if next_deadline is not None:
                self._watch_at = min(next_deadline, now + self._check_silence(now))

    def _check_silence(self, now: float) -> float:
        """Returns in how many seconds to look again.

        An application may hold up the loop for longer than the sign may take; then this runs before the reader has had
        its turn, with the node's answer in the socket. So the first finding is a suspicion only.
        """
        if self._sign_asked_at is None:
            if now - self._heard_at >= WATCH_SECONDS:
                self._sign_asked_at = now
                self._ask_for_sign()
        elif now - self._suspected_at >= SECOND_LOOK_SECONDS:
            self._lose("the node is silent")
        elif now - self._sign_asked_at >= SILENCE_SECONDS_MAX:
            self._suspected_at = min(self._suspected_at, now)
            return SECOND_LOOK_SECONDS
        return WATCH_SECONDS

    def _ask_for_sign(self) -> None:
        """Past the queue and one more than may be in flight: a refusal for that is a sign of life too."""
        number = self._next_number()
        self._in_flight[number] = None
        try:
            self._stream.write_nowait(encode_requests([Request(number, SIGN_OF_LIFE, DEADLINE_MS_MAX, None, _EMPTY)]))
        except StreamBroken as error:
            self._lose(str(error))
        if self._writer_waits:
            self._wake_writer()
