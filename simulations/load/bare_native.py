"""The yardstick of the native door: a server on the same streams that does the bare work and nothing else.

It decodes the frame, derives a key and encrypts under it (security.md, 4), encodes the answer, and sends the answers of
one receive at once. No log-in, no lease, no lookup, no limits, no gate: what a node takes beyond this is its price.
"""

import hmac
import os

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Raw

from keycluster.cluster.seams import ByteStream
from keycluster.cluster.wire.frames import Reply, Request
from keycluster.cluster.wire.operations import (
    EncryptRequest,
    EncryptResponse,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
)

READ_BYTES = 65_536
BACKING_KEY = bytes(32)
HEADER = bytes(71)

_decode_requests = msgspec.msgpack.Decoder(list[Request[Raw]]).decode
_decode_encrypt = msgspec.msgpack.Decoder(EncryptRequest).decode
_decode_data_key = msgspec.msgpack.Decoder(GenerateDataKeyRequest).decode
_encode = msgspec.msgpack.Encoder().encode


def encrypt(plaintext: bytes) -> bytes:
    """Blob v1's work, without its bookkeeping."""
    random = os.urandom(28)
    message = b"\x00\x00\x00\x01keycluster/blob/1\x00" + HEADER + random[:16] + b"\x00\x00\x02\x00"
    keys = hmac.digest(BACKING_KEY, message, "sha256") + hmac.digest(BACKING_KEY, message, "sha256")
    return HEADER + random + keys[32:] + AESGCM(keys[:32]).encrypt(random[16:], plaintext, HEADER)


def answer(request: Request[Raw]) -> Reply[EncryptResponse | GenerateDataKeyResponse]:
    """One request's."""
    if request.operation == "Encrypt":
        typed = _decode_encrypt(request.input)
        blob = encrypt(typed.plaintext)
        encrypted = EncryptResponse(ciphertext_blob=blob, key_id=typed.key_id, encryption_algorithm="SYMMETRIC_DEFAULT")
        return Reply(request.id, False, encrypted)
    asked = _decode_data_key(request.input)
    data_key = os.urandom(32)
    return Reply(
        request.id,
        False,
        GenerateDataKeyResponse(ciphertext_blob=encrypt(data_key), plaintext=data_key, key_id=asked.key_id),
    )


async def serve(stream: ByteStream) -> None:
    """One connection."""
    rest = b""
    while content := await stream.receive_some(READ_BYTES):
        content = rest + content
        start, end = 0, len(content)
        replies = []
        while end - start >= 4 and end - start >= (stop := 4 + int.from_bytes(content[start : start + 4], "big")):
            replies += [answer(request) for request in _decode_requests(content[start + 4 : start + stop])]
            start += stop
        rest = content[start:]
        if replies:
            body = _encode(replies)
            await stream.send_all(len(body).to_bytes(4, "big") + body)
