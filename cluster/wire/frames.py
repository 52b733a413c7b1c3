"""Frames and messages of the native door, for node and client alike (docs/formats.md, "Wire frames").

A frame is a u32 big-endian length and that many bytes of msgpack. Before log-in a frame holds one tagged message; the
conversation is one of two (security.md, 8 and 9):

    client: Hello      server: Challenge     client: Join → server: JoinAnswer | Refused
    client: Proof      server: Welcome | Refused

Afterwards a frame of the client holds an array of `Request`, a frame of the server an array of `Reply`, in any order
and grouped as each side likes. A reply with id 0 speaks of the connection: it says why the server closes it.

Both proofs are HMACs over everything the two sides said and the certificate that TLS was made with, so neither can be
used on another connection, for another node or in the other direction.
"""

import hashlib
import hmac
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from keycluster.cluster.types import NodeId

PROTOCOL_VERSION = 1
NONCE_BYTES = 32
PROOF_BYTES = 32
REQUEST_ID_BYTES = 16

LENGTH_BYTES = 4
FRAME_BYTES_MAX = 1_048_576
"""After log-in: 64 of the largest requests (6,144 bytes of ciphertext, 8 KiB of context and grant tokens) fit."""
GREETING_BYTES_MAX = 16_384
"""Before log-in: the longest is a `Join` with its keys and proofs; a stranger gets no more of our memory."""

DEADLINE_MS_MAX = 300_000
REQUESTS_PER_BATCH = 64
"""What our client puts into one frame at most; a server takes more, up to its limit of requests in flight."""

SESSION_LABEL = b"keycluster-native-1"
PROOF_LABEL = b"keycluster/native/log-in/1"

T = TypeVar("T")

Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
ProofBytes = Annotated[bytes, Meta(min_length=PROOF_BYTES, max_length=PROOF_BYTES)]
RequestNumber = Annotated[int, Meta(ge=1, le=2**32 - 1)]


class FrameMalformed(Exception):
    """What came isn't a frame of this protocol: the connection can't go on. The text is fit for the other side."""


class Side(IntEnum):
    """Who proves, so that no side's proof can be sent back to it as the other's."""

    CLIENT = 1
    SERVER = 2


# Before log-in: one message per frame, [tag, fields…].


class Hello(Struct, frozen=True, array_like=True, tag=1):
    """The client's first message."""

    version: int
    access_key_id: Annotated[str, Meta(min_length=1, max_length=128)]
    nonce: Nonce


class Challenge(Struct, frozen=True, array_like=True, tag=2):
    """The server's answer to `Hello`, the same whether the access key exists or not."""

    nonce: Nonce
    region: str
    node: NodeId


class Proof(Struct, frozen=True, array_like=True, tag=3):
    """The client's proof that it has the secret."""

    proof: ProofBytes


class Welcome(Struct, frozen=True, array_like=True, tag=4):
    """The log-in is done. A client checks `proof` before it sends anything, and keeps to the limits."""

    proof: ProofBytes
    frame_bytes_max: int
    requests_in_flight_max: int


class Refused(Struct, frozen=True, array_like=True, tag=5):
    """Why the server closes the connection; `code` is an error's of wire/errors.py."""

    code: str
    message: str
    retryable: bool


class Join(Struct, frozen=True, array_like=True, tag=6):
    """A new node's question; `payload` belongs to node/joining.py."""

    payload: bytes


class JoinAnswer(Struct, frozen=True, array_like=True, tag=7):
    """The answer to `Join`."""

    payload: bytes


ClientGreeting = Hello | Proof | Join
ServerGreeting = Challenge | Welcome | Refused | JoinAnswer


# After log-in: arrays of these.


class Request(Struct, Generic[T], frozen=True, array_like=True, gc=False):
    """One call. `Request[Raw]` is what a server decodes: the operation decides what the input's type is."""

    id: RequestNumber
    """Chosen by the client, given back with the reply. Not used again before that reply."""
    operation: str
    deadline_ms: Annotated[int, Meta(ge=1, le=DEADLINE_MS_MAX)]
    """How much longer the client waits, counted from the request's arrival."""
    request_id: Annotated[bytes, Meta(min_length=REQUEST_ID_BYTES, max_length=REQUEST_ID_BYTES)] | None
    """The same for each retry of one change, so that it is made once; None lets the node choose."""
    input: T


class Reply(Struct, Generic[T], frozen=True, array_like=True, gc=False):
    """One answer. `body` is the operation's response, or a `Failure` if `failed`."""

    id: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    failed: bool
    body: T


class Failure(Struct, frozen=True, array_like=True):
    """An error's code (wire/errors.py), its text, and whether the same request may be tried at another node at once."""

    code: str
    message: str
    retryable: bool


_encoder = msgspec.msgpack.Encoder()
_client_greetings: msgspec.msgpack.Decoder[ClientGreeting] = msgspec.msgpack.Decoder(ClientGreeting)
_server_greetings: msgspec.msgpack.Decoder[ServerGreeting] = msgspec.msgpack.Decoder(ServerGreeting)
_requests: msgspec.msgpack.Decoder[list[Request[Raw]]] = msgspec.msgpack.Decoder(list[Request[Raw]])
_replies: msgspec.msgpack.Decoder[list[Reply[Raw]]] = msgspec.msgpack.Decoder(list[Reply[Raw]])
_failure: msgspec.msgpack.Decoder[Failure] = msgspec.msgpack.Decoder(Failure)


def frame(body: bytes) -> bytes:
    """`body` with its length before it."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def encode_greeting(message: ClientGreeting | ServerGreeting) -> bytes:
    """A whole frame."""
    return frame(_encoder.encode(message))


def decode_client_greeting(body: bytes) -> ClientGreeting:
    """A frame's body as a server reads it before log-in. Raises `FrameMalformed`."""
    return _decode_greeting(_client_greetings, body)


def decode_server_greeting(body: bytes) -> ServerGreeting:
    """A frame's body as a client reads it before log-in. Raises `FrameMalformed`."""
    return _decode_greeting(_server_greetings, body)


def _decode_greeting(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        message = decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise FrameMalformed("not a message of the log-in") from None
    if _encoder.encode(message) != body:  # One encoding per value: nothing rides along unseen.
        raise FrameMalformed("not the message's shortest encoding, or more than the message")
    return message


def encode_requests(requests: Sequence[Request[T]]) -> bytes:
    """A whole frame. The caller keeps it within the server's `frame_bytes_max`."""
    return frame(_encoder.encode(requests))


def decode_requests(body: bytes) -> list[Request[Raw]]:
    """A frame's body as a server reads it after log-in; each input is still undecoded. Raises `FrameMalformed`."""
    try:
        return _requests.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise FrameMalformed("not an array of requests") from None


def encode_replies(replies: Sequence[Reply[T]]) -> bytes:
    """A whole frame."""
    return frame(_encoder.encode(replies))


def decode_replies(body: bytes) -> list[Reply[Raw]]:
    """A frame's body as a client reads it after log-in; each body is still undecoded. Raises `FrameMalformed`."""
    try:
        return _replies.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise FrameMalformed("not an array of replies") from None


def decode_failure(body: bytes | Raw) -> Failure:
    """The body of a reply that failed. Raises `FrameMalformed`."""
    try:
        return _failure.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise FrameMalformed("not a failure") from None


def session_key(secret: str | bytes) -> bytes:
    """K: what both sides of a log-in know of the access key's secret."""
    return hmac.digest(secret.encode() if isinstance(secret, str) else secret, SESSION_LABEL, "sha256")


def prove(key: bytes, side: Side, *, hello: Hello, challenge: Challenge, certificate_sha256: bytes) -> bytes:
    """One side's proof. `certificate_sha256` is the SHA-256 of the server's certificate (DER) on this connection.

    What has no fixed length has its length before it, so that no two conversations give the same input.
    """
    key_id, region, node = hello.access_key_id.encode(), challenge.region.encode(), challenge.node.encode()
    said = (
        PROOF_LABEL,
        bytes([side]),
        _prefixed(key_id),
        hello.nonce,
        challenge.nonce,
        _prefixed(region),
        _prefixed(node),
        certificate_sha256,
    )
    return hmac.digest(key, b"".join(said), "sha256")


def verify_proof(given: bytes, expected: bytes) -> bool:
    """In constant time."""
    return hmac.compare_digest(given, expected)


def certificate_fingerprint(certificate_der: bytes) -> bytes:
    """What `prove` takes for a certificate."""
    return hashlib.sha256(certificate_der).digest()


def _prefixed(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


class FrameSplitter:
    """Cuts a stream of bytes into frames' bodies. Holds less than one frame, and none longer than its limit."""

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        """May be raised later: once logged in."""
        self._rest = bytearray()
        self._needed = LENGTH_BYTES
        """How long `_rest` has to get before it is looked at again: a long frame in many pieces costs no more."""

    @property
    def pending(self) -> int:
        """Bytes held of a frame that isn't whole yet."""
        return len(self._rest)

    def feed(self, content: bytes) -> list[bytes]:
        """The bodies of all frames that are whole now. Raises `FrameMalformed` for one that is empty or too long."""
        if self._rest:
            self._rest += content
            if len(self._rest) < self._needed:
                return []
            content = bytes(self._rest)
            self._rest.clear()
        bodies = []
        start, end = 0, len(content)
        self._needed = LENGTH_BYTES
        while end - start >= LENGTH_BYTES:
            length = int.from_bytes(content[start : start + LENGTH_BYTES], "big")
            if not 0 < length <= self.frame_bytes_max:
                raise FrameMalformed(f"a frame of {length} bytes; 1 to {self.frame_bytes_max} are allowed")
            stop = start + LENGTH_BYTES + length
            if stop > end:
                self._needed = LENGTH_BYTES + length
                break
            bodies.append(content[start + LENGTH_BYTES : stop])
            start = stop
        if start < end:
            self._rest += content[start:] if start else content
        return bodies
