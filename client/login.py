"""The client's side of the log-in (security.md, 9): who is there, proved both ways, before anything is asked."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from keycluster.client.endpoints import Credentials
from keycluster.client.errors import NodeNotTrusted
from keycluster.client.surroundings import Stream
from keycluster.client.transport import StreamBroken
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.errors import error_of
from keycluster.cluster.wire.frames import (
    GREETING_BYTES_MAX,
    PROTOCOL_VERSION,
    Challenge,
    ClientGreeting,
    FrameMalformed,
    FrameSplitter,
    Hello,
    Proof,
    Refused,
    ServerGreeting,
    Side,
    Welcome,
    certificate_fingerprint,
    decode_server_greeting,
    encode_greeting,
    prove,
    session_key,
    verify_proof,
)

T = TypeVar("T", Challenge, Welcome)
Exchange = Callable[[ClientGreeting], Awaitable[ServerGreeting]]


class RefusedAtLogIn(Exception):
    """The node's answer to the log-in. `error` is it as a KmsError; `retryable` says that another node may agree."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.code)
        self.error = error_of(refused.code, refused.message)
        self.retryable = refused.retryable


async def log_in(stream: Stream, credentials: Credentials, *, region: str, node: NodeId, nonce: bytes) -> Welcome:
    """Raises `RefusedAtLogIn`, `NodeNotTrusted` or `StreamBroken`. `node` at `region` must be who answers.

    `nonce` is `NONCE_BYTES` fresh random bytes.
    """
    splitter = FrameSplitter(GREETING_BYTES_MAX)

    async def exchange(message: ClientGreeting) -> ServerGreeting:
        stream.write_nowait(encode_greeting(message))
        await stream.flush()
        while content := await stream.receive():
            bodies = splitter.feed(content)
            if bodies:
                if len(bodies) > 1 or splitter.pending:
                    raise FrameMalformed("more than one message at once")
                return decode_server_greeting(bodies[0])
        raise StreamBroken("the node hung up during the log-in")

    try:
        return await _converse(
            exchange,
            credentials,
            region=region,
            node=node,
            nonce=nonce,
            certificate_sha256=certificate_fingerprint(stream.certificate),
        )
    except FrameMalformed as error:
        raise StreamBroken(f"the log-in went wrong: {error}") from None


async def _converse(
    exchange: Exchange,
    credentials: Credentials,
    *,
    region: str,
    node: NodeId,
    nonce: bytes,
    certificate_sha256: bytes,
) -> Welcome:
    key = session_key(credentials.secret_access_key)
    hello = Hello(PROTOCOL_VERSION, credentials.access_key_id, nonce)
    challenge = _expect(Challenge, await exchange(hello))
    if (challenge.region, challenge.node) != (region, node):
        raise NodeNotTrusted(f"{challenge.node} of {challenge.region} answers where {node} of {region} should be")

    def proof_of(side: Side) -> bytes:
        return prove(key, side, hello=hello, challenge=challenge, certificate_sha256=certificate_sha256)

    welcome = _expect(Welcome, await exchange(Proof(proof_of(Side.CLIENT))))
    if not verify_proof(welcome.proof, proof_of(Side.SERVER)):
        raise NodeNotTrusted("it took our proof but can't prove that it knows the secret itself")
    return welcome


def _expect(kind: type[T], message: ServerGreeting) -> T:
    if isinstance(message, Refused):
        raise RefusedAtLogIn(message)
    if not isinstance(message, kind):
        raise FrameMalformed(f"{type(message).__name__} instead of {kind.__name__}")
    return message
