"""What a new node and the region say to each other, once, at the native port before any log-in (security.md, 8).

    question = msgpack [body, proof]        body = msgpack of `JoinRequest`
    answer   = msgpack [body, proof]        body = msgpack of `Admission`

    K              = HMAC-SHA-256(token secret, "keycluster-join-1")
    joiner's proof = HMAC(K, label ‖ 1 ‖ SHA-256(server's certificate) ‖ body)
    region's proof = HMAC(K, label ‖ 2 ‖ SHA-256(server's certificate) ‖ SHA-256(question) ‖ body)

The token's secret is never sent. Who stands between the two shows another certificate, so neither proof verifies at
the other end; a repeated question brings an answer that only the first asker's keys open.
"""

import hashlib
import hmac
from enum import IntEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from keycluster.cluster.keys.hierarchy import GENERATION_MAX
from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.frames import GREETING_BYTES_MAX
from keycluster.node.join_token import SECRET_BYTES, TOKEN_ID_BYTES
from keycluster.node.sealing import Contact

VERSION = 1
NONCE_BYTES = 32
PROOF_BYTES = 32
WRAP_KEY_BYTES = 32

PAYLOAD_BYTES_MAX = GREETING_BYTES_MAX - 16
"""What a frame before log-in holds beside its own few bytes."""

SESSION_LABEL = b"keycluster-join-1"
PROOF_LABEL = b"keycluster/join/1"

Text = Annotated[str, Meta(min_length=1, max_length=64)]
AddressText = Annotated[str, Meta(min_length=1, max_length=300)]
PublicKey = Annotated[bytes, Meta(min_length=1, max_length=200)]  # EC P-256 has 91 bytes.
Certificate = Annotated[bytes, Meta(min_length=1, max_length=4_096)]
GenerationNumber = Annotated[int, Meta(ge=1, le=GENERATION_MAX)]


class JoinMalformed(Exception):
    """Bytes that are no question or answer of this version. The text shows nothing of what was in them."""


class Side(IntEnum):
    """Who proves."""

    JOINER = 1
    REGION = 2


class JoinRequest(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who asks, for what, and the public keys that will be pinned."""

    version: int
    token_id: Annotated[bytes, Meta(min_length=TOKEN_ID_BYTES, max_length=TOKEN_ID_BYTES)]
    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    region: Text
    node: Annotated[NodeId, Meta(min_length=1, max_length=64)]
    az: Text
    role: MemberRole
    peer_public_key: PublicKey
    native_public_key: PublicKey
    wrap_public_key: Annotated[bytes, Meta(min_length=WRAP_KEY_BYTES, max_length=WRAP_KEY_BYTES)]
    peer_address: AddressText
    native_address: AddressText
    aws_address: AddressText


class Admission(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What makes the joiner a member: certificates, authorities, the domain keys wrapped to it, and whom to expect."""

    version: int
    peer_certificate: Certificate
    native_certificate: Certificate
    peer_ca: Certificate
    client_ca: Certificate
    wraps: tuple[tuple[GenerationNumber, bytes], ...]
    contacts: tuple[Contact, ...]


class _Proven(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: bytes
    proof: Annotated[bytes, Meta(min_length=PROOF_BYTES, max_length=PROOF_BYTES)]


BodyType = TypeVar("BodyType", JoinRequest, Admission)

_encoder = msgspec.msgpack.Encoder()
_proven: msgspec.msgpack.Decoder[_Proven] = msgspec.msgpack.Decoder(_Proven)
_requests: msgspec.msgpack.Decoder[JoinRequest] = msgspec.msgpack.Decoder(JoinRequest)
_admissions: msgspec.msgpack.Decoder[Admission] = msgspec.msgpack.Decoder(Admission)


def ask(request: JoinRequest, *, secret: bytes, server_certificate: bytes) -> bytes:
    """The question. `server_certificate` (DER) is the one that TLS was made with."""
    body = _encoder.encode(request)
    return _encoder.encode(_Proven(body, _prove(secret, Side.JOINER, server_certificate, body)))


def read_question(question: bytes) -> JoinRequest:
    """Who claims to ask, proof unchecked: it says which token to check with. Raises `JoinMalformed`."""
    request = _decode(_requests, _open(question).body)
    if request.version != VERSION:
        raise JoinMalformed(f"a join of version {request.version}")
    return request


def is_question_proven(question: bytes, *, secret: bytes, server_certificate: bytes) -> bool:
    """Whether who asks has the token's secret and sees this server's certificate. In constant time."""
    proven = _open(question)
    expected = _prove(secret, Side.JOINER, server_certificate, proven.body)
    return hmac.compare_digest(proven.proof, expected)


def answer(admission: Admission, *, question: bytes, secret: bytes, server_certificate: bytes) -> bytes:
    """The answer to that very question. Raises `JoinMalformed` if it would not fit into a frame."""
    body = _encoder.encode(admission)
    proof = _prove(secret, Side.REGION, server_certificate, hashlib.sha256(question).digest() + body)
    payload = _encoder.encode(_Proven(body, proof))
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise JoinMalformed(f"an admission of {len(payload)} bytes; a frame before log-in holds {PAYLOAD_BYTES_MAX}")
    return payload


def read_answer(payload: bytes, *, question: bytes, secret: bytes, server_certificate: bytes) -> Admission:
    """The admission, its proof checked. Raises `JoinMalformed`: nothing of an unproven answer is looked at."""
    proven = _open(payload)
    expected = _prove(secret, Side.REGION, server_certificate, hashlib.sha256(question).digest() + proven.body)
    if not hmac.compare_digest(proven.proof, expected):
        raise JoinMalformed("the answer is not the region's")
    admission = _decode(_admissions, proven.body)
    if admission.version != VERSION:
        raise JoinMalformed(f"an admission of version {admission.version}")
    return admission


def _prove(secret: bytes, side: Side, server_certificate: bytes, said: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a join token's secret has {SECRET_BYTES} bytes, not {len(secret)}")
    key = hmac.digest(secret, SESSION_LABEL, "sha256")
    certificate_hash = hashlib.sha256(server_certificate).digest()
    return hmac.digest(key, PROOF_LABEL + bytes((side,)) + certificate_hash + said, "sha256")


def _open(payload: bytes) -> _Proven:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise JoinMalformed(f"{len(payload)} bytes are too many")
    try:
        proven = _proven.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise JoinMalformed("not a message of a join") from None
    if _encoder.encode(proven) != payload:  # One encoding per value: nothing rides along unseen.
        raise JoinMalformed("not a message's one encoding")
    return proven


def _decode(decoder: msgspec.msgpack.Decoder[BodyType], body: bytes) -> BodyType:
    try:
        decoded = decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise JoinMalformed("not a message of a join") from None
    if _encoder.encode(decoded) != body:
        raise JoinMalformed("not a message's one encoding")
    return decoded
