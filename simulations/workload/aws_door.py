"""The AWS door as a program with one of AWS's SDKs uses it: keep-alive, a few attempts, an id that they share.

After botocore's "standard" retry mode: three attempts; another one after a lost connection, HTTP 500 to 504 and
throttling, after a random pause that doubles; all of one call name it in `amz-sdk-invocation-id`, by which the door
makes a change once. AWS's SDKs for other languages also set their clock by a refusal's Date: this one does.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import trio

from keycluster.client.endpoints import Credentials
from keycluster.client.errors import DeadlineExceeded, NodesUnreachable
from keycluster.cluster.seams import ByteStream, DialError
from keycluster.cluster.wire.errors import InvalidSignatureException, KmsError, ThrottlingException, error_of
from keycluster.cluster.wire.operations import Shape
from keycluster.simulations.workload.aws_http import Response, Signer, encode_request, exchange
from keycluster.simulations.workload.doors import CHANGES, Answered, operation_of

ATTEMPTS_MAX: Final = 3
PAUSE_SECONDS_MAX: Final = 20.0
SKEW_TEXTS: Final = ("Signature expired", "Signature not yet current")

BEFORE_THE_LOG: Final = frozenset(
    (
        "IncompleteSignatureException",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    )
)
"""Refusals by what a node knows of an access key now: they don't say what became of an earlier attempt."""

Dial = Callable[[str], Awaitable[ByteStream]]
"""To a node's AWS door, by its address. Raises `DialError`."""


class _Lost(Exception):
    """An attempt without an answer."""

    def __init__(self, *, was_sent: bool) -> None:
        super().__init__("no answer")
        self.was_sent = was_sent


class AwsDoor:
    """One program's. `addresses` says where each node's AWS door is; `wall` is this machine's clock, in nanoseconds."""

    kind = "aws"

    def __init__(
        self,
        dial: Dial,
        addresses: Mapping[str, str],
        credentials: Credentials,
        *,
        region: str,
        wall: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._dial = dial
        self._addresses = dict(addresses)
        self._signer = Signer(credentials, region)
        self._wall = wall
        self._rng = rng
        self._ahead_ns = 0  # Of the node's clock, as a refusal's Date had it.
        self._idle: dict[str, list[ByteStream]] = {}
        self._node = rng.choice(self.nodes)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(sorted(self._addresses))

    async def ask(self, request: Shape, *, at: str | None, seconds: float, request_id: bytes | None = None) -> Answered:
        invocation = (request_id or self._rng.randbytes(16)).hex()
        call = _AwsCall(self, request, invocation, at)
        with trio.move_on_after(seconds):
            return await call.until_answered()
        raise call.given_up()

    async def aclose(self) -> None:
        """Closes the connections that nobody uses."""
        idle, self._idle = self._idle, {}
        for streams in idle.values():
            for stream in streams:
                await stream.aclose()

    def choose(self) -> str:
        """The same node as long as it answers: a name that resolves to several addresses is used like that."""
        return self._node

    def leave(self, node: str) -> None:
        """It didn't answer: another one is asked next."""
        others = [other for other in self.nodes if other != node]
        if self._node == node and others:
            self._node = self._rng.choice(others)

    async def pause(self, attempt: int) -> None:
        await trio.sleep(self._rng.random() * min(2.0**attempt, PAUSE_SECONDS_MAX))

    def set_clock(self, response: Response) -> None:
        there = response.wall_ns()
        if there is not None:
            self._ahead_ns = there - self._wall()

    async def post(self, node: str, request: Shape, invocation: str, attempt: int) -> Response:
        """One attempt. Raises `_Lost`."""
        address, operation = self._addresses[node], operation_of(request)
        body = msgspec.json.encode(request)
        wall_ns = self._wall() + self._ahead_ns
        headers = self._signer.headers(host=address, operation=operation, body=body, wall_ns=wall_ns)
        headers["amz-sdk-invocation-id"] = invocation
        headers["amz-sdk-request"] = f"attempt={attempt + 1}; max={ATTEMPTS_MAX}"
        stream = await self._stream(node)
        try:
            response = await exchange(stream, encode_request(headers, body))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            response = None
        except BaseException:
            await stream.aclose()
            raise
        if response is None:
            await stream.aclose()
            raise _Lost(was_sent=True)
        if response.keeps_alive:
            self._idle.setdefault(node, []).append(stream)
        else:
            await stream.aclose()
        return response

    async def _stream(self, node: str) -> ByteStream:
        idle = self._idle.get(node)
        if idle:
            return idle.pop()
        try:
            return await self._dial(self._addresses[node])
        except DialError:
            raise _Lost(was_sent=False) from None


class _AwsCall:
    """One call's attempts, and what is known after each."""

    def __init__(self, door: AwsDoor, request: Shape, invocation: str, at: str | None) -> None:
        self._door = door
        self._request = request
        self._invocation = invocation
        self._at = at
        self._is_change = operation_of(request) in CHANGES
        self._is_under_way = False
        self._in_doubt = False  # An attempt may have been carried out, or may be yet.
        self._refusal: KmsError | None = None

    async def until_answered(self) -> Answered:
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await self._door.pause(attempt)
            node = self._at or self._door.choose()
            try:
                self._is_under_way = True
                response = await self._door.post(node, self._request, self._invocation, attempt)
            except _Lost as lost:
                self._in_doubt |= lost.was_sent
                self._door.leave(node)
            else:
                if response.status == 200:
                    return response.shape(self._request), node
                self._take_refusal(response, node)
            self._is_under_way = False
        raise self.given_up()

    def _take_refusal(self, response: Response, node: str) -> None:
        """Raises it unless another attempt is worth while."""
        code, text = response.error()
        refusal = error_of(code, text)
        if isinstance(refusal, InvalidSignatureException) and text.startswith(SKEW_TEXTS):
            self._door.set_clock(response)
        elif response.status >= 500:
            self._refusal = refusal
            self._in_doubt |= refusal.may_be_made
            self._door.leave(node)
        elif isinstance(refusal, ThrottlingException):
            self._refusal = refusal
        elif self._is_change and self._in_doubt and code in BEFORE_THE_LOG:
            raise self.given_up()
        else:
            raise refusal

    def given_up(self) -> Exception:
        """What is known of a call without an answer."""
        if self._is_change and (self._in_doubt or self._is_under_way):
            return DeadlineExceeded(f"no answer to {operation_of(self._request)}; it may have been made")
        if self._refusal is not None:
            return self._refusal
        if self._in_doubt or self._is_under_way:
            return DeadlineExceeded(f"no answer to {operation_of(self._request)}")
        return NodesUnreachable("no node could be reached, or none at whose time a signature counts")
