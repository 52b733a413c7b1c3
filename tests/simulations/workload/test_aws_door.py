"""What the AWS door's client makes of lost connections, refusals and wrong clocks: an outcome that is never wrong."""

import random
from collections.abc import Callable

import pytest
import trio

from keycluster.client.endpoints import Credentials
from keycluster.client.errors import DeadlineExceeded, NodesUnreachable
from keycluster.cluster.seams import DialError
from keycluster.cluster.types import SECOND
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import (
    DependencyTimeoutException,
    DisabledException,
    InvalidSignatureException,
    KeyUnavailableException,
    KmsError,
    ThrottlingException,
    UnrecognizedClientException,
)
from keycluster.node.doors.http import HttpParser, HttpRequest, date_line, encode_error, encode_http, encode_response
from keycluster.node.doors.limits import DEFAULT_LIMITS
from keycluster.simulations.workload.aws_door import AwsDoor
from keycluster.simulations.workload.doors import Answered

DISABLE = wire.DisableKeyRequest(key_id="k")
DESCRIBE = wire.GetKeyPolicyRequest(key_id="k")
POLICY = wire.GetKeyPolicyResponse(policy="p", policy_name="default")
DONE = wire.DisableKeyResponse()

HANGS_UP, SILENT, NOT_THERE = "hangs up", "silent", "not there"
Says = wire.Shape | KmsError | str
THERE_SECONDS = 1_800_000_000


class Server:
    """Answers requests in the order of `script`, over as many connections as it is dialled for."""

    peer_public_key = peer_certificate = None
    peer_address = ""

    def __init__(self, *script: Says) -> None:
        self.script = list(script)
        self.requests: list[HttpRequest] = []
        self.dialled: list[str] = []

    async def dial(self, address: str) -> "Conversation":
        self.dialled.append(address)
        if self.script and self.script[0] == NOT_THERE:
            del self.script[0]
            raise DialError("nobody")
        return Conversation(self)

    def door(self, wall: Callable[[], int] = lambda: THERE_SECONDS * SECOND) -> AwsDoor:
        addresses = {"n1": "127.0.0.1:7003", "n2": "127.0.0.2:7003"}
        return AwsDoor(
            self.dial, addresses, Credentials("AKIA", "s"), region="us-east-1", wall=wall, rng=random.Random(1)
        )


class Conversation:
    peer_public_key = peer_certificate = None
    peer_address = ""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = HttpParser(DEFAULT_LIMITS)
        self.is_closed = False

    async def send_all(self, content: bytes | bytearray | memoryview) -> None:
        self._server.requests += self._parser.feed(bytes(content))

    async def receive_some(self, count_max: int) -> bytes:
        says = self._server.script.pop(0)
        if says == SILENT:
            await trio.sleep_forever()
        if isinstance(says, str):
            return b""
        status = says.status if isinstance(says, KmsError) else 200
        body = encode_error(says) if isinstance(says, KmsError) else encode_response(says)
        return encode_http(status, body, request_id="r", date=date_line(THERE_SECONDS), keeps_alive=True)

    async def aclose(self) -> None:
        self.is_closed = True


async def ask(server: Server, request: wire.Shape = DISABLE) -> Answered:
    return await server.door().ask(request, at=None, seconds=60.0, request_id=bytes(16))


async def test_attempts_of_a_call_share_its_id(autojump_clock: trio.testing.MockClock) -> None:
    """By that id the door makes a change once, whichever node is asked next."""
    server = Server(HANGS_UP, KeyUnavailableException("no lease"), DONE)
    response, node = await ask(server)
    assert response == DONE
    assert node in ("n1", "n2")
    assert [request.headers[b"amz-sdk-invocation-id"] for request in server.requests] == [bytes(16).hex().encode()] * 3
    assert [request.headers[b"amz-sdk-request"] for request in server.requests] == [
        b"attempt=%d; max=3" % number for number in (1, 2, 3)
    ]
    assert len(set(server.dialled)) == 2  # Who failed isn't asked again at once.


@pytest.mark.parametrize(
    ("script", "error"),
    [
        # Nothing was ever sent.
        ((NOT_THERE,) * 3, NodesUnreachable),
        # Refused for certain; also after an attempt in doubt, whose outcome it is: they share an id.
        ((DisabledException("d"),), DisabledException),
        ((HANGS_UP, DisabledException("d")), DisabledException),
        # Refused each time by nodes that promise that nothing was changed.
        ((KeyUnavailableException("l"),) * 3, KeyUnavailableException),
        ((ThrottlingException("t"),) * 3, ThrottlingException),
        # In doubt: an attempt without an answer, or with one that says so.
        ((HANGS_UP,) * 3, DeadlineExceeded),
        ((HANGS_UP, NOT_THERE, NOT_THERE), DeadlineExceeded),
        ((HANGS_UP, ThrottlingException("t"), ThrottlingException("t")), DeadlineExceeded),
        ((HANGS_UP, KeyUnavailableException("l"), KeyUnavailableException("l")), DeadlineExceeded),
        ((DependencyTimeoutException("s"),) * 3, DeadlineExceeded),
        ((SILENT,), DeadlineExceeded),
        # A withdrawn access key says nothing of what it did before.
        ((UnrecognizedClientException("u"),), UnrecognizedClientException),
        ((HANGS_UP, UnrecognizedClientException("u")), DeadlineExceeded),
    ],
)
async def test_change_without_a_success_is_told_honestly(
    script: tuple[Says, ...], error: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    """Refused and failed are said only where they are certain."""
    server = Server(*script)
    with pytest.raises(error):
        await ask(server)
    assert not server.script


async def test_reading_is_never_in_doubt(autojump_clock: trio.testing.MockClock) -> None:
    """What changes nothing may be asked again as it likes: the last refusal counts."""
    with pytest.raises(KeyUnavailableException):
        await ask(Server(HANGS_UP, HANGS_UP, KeyUnavailableException("l")), DESCRIBE)


async def test_connection_is_kept_and_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """Calls one after the other share one; after an attempt without an answer there is another."""
    server = Server(POLICY, POLICY, HANGS_UP, POLICY)
    door = server.door()
    for dialled in (1, 1, 2):
        await door.ask(DESCRIBE, at="n1", seconds=60.0)
        assert len(server.dialled) == dialled


async def test_clock_is_set_by_a_refusal(autojump_clock: trio.testing.MockClock) -> None:
    """A signature that came too late is made anew by the node's own time."""
    server = Server(InvalidSignatureException("Signature expired: …"), POLICY)
    door = server.door(wall=lambda: (THERE_SECONDS - 86_400) * SECOND)
    assert (await door.ask(DESCRIBE, at="n1", seconds=60.0))[0] == POLICY
    assert [request.headers[b"x-amz-date"] for request in server.requests] == [b"20270114T080000Z", b"20270115T080000Z"]


async def test_wrong_signature_is_a_refusal(autojump_clock: trio.testing.MockClock) -> None:
    """Only a wrong time is worth another attempt."""
    with pytest.raises(InvalidSignatureException):
        await ask(Server(InvalidSignatureException("The request signature we calculated does not match")), DESCRIBE)


async def test_pinned_call_goes_nowhere_else(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever wants to know what one node says isn't answered by another."""
    server = Server(KeyUnavailableException("l"), HANGS_UP, POLICY)
    _, node = await server.door().ask(DESCRIBE, at="n2", seconds=60.0)
    assert node == "n2"
    assert set(server.dialled) == {"127.0.0.2:7003"}
