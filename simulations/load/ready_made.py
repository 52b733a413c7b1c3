"""Ready-made requests and logged-in sockets for the light client (light.py): what it sends costs it nothing."""

import hmac
import json
import os
import socket
import ssl
import time
from hashlib import sha256

import msgspec

from keycluster.cluster.wire.frames import (
    GREETING_BYTES_MAX,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Challenge,
    FrameSplitter,
    Hello,
    Proof,
    Request,
    Side,
    Welcome,
    certificate_fingerprint,
    decode_server_greeting,
    encode_greeting,
    encode_requests,
    prove,
    session_key,
)
from keycluster.cluster.wire.operations import EncryptRequest, GenerateDataKeyRequest
from keycluster.node.sigv4 import derive_signing_key
from keycluster.simulations.load.light import connect
from keycluster.simulations.load.processes import REGION

PLAINTEXT = bytes(range(256)) * 4  # 1 KiB
DEADLINE_MS = 10_000


class LogInRefused(Exception):
    """The node did not let the light client in."""


def logged_in(address: str, access_key_id: str, secret: str) -> ssl.SSLSocket:
    """A connection to a node's native door, blocking, past the log-in. The server's own proof isn't looked at."""
    connected = connect(address, tls=True)
    if not isinstance(connected, ssl.SSLSocket):
        raise TypeError("the native door is TLS")
    hello = Hello(PROTOCOL_VERSION, access_key_id, os.urandom(NONCE_BYTES))
    challenge = _exchange(connected, encode_greeting(hello))
    if not isinstance(challenge, Challenge):
        raise LogInRefused(repr(challenge))
    fingerprint = certificate_fingerprint(connected.getpeercert(binary_form=True) or b"")
    key = session_key(secret)
    proof = prove(key, Side.CLIENT, hello=hello, challenge=challenge, certificate_sha256=fingerprint)
    welcome = _exchange(connected, encode_greeting(Proof(proof)))
    if not isinstance(welcome, Welcome):
        raise LogInRefused(repr(welcome))
    return connected


def _exchange(connected: socket.socket, greeting: bytes) -> object:
    connected.sendall(greeting)
    splitter = FrameSplitter(GREETING_BYTES_MAX)
    while True:
        received = connected.recv(16_384)
        if not received:
            raise LogInRefused("the connection was closed")
        if bodies := splitter.feed(received):
            return decode_server_greeting(bodies[0])


def native_unit(operation: str, key_id: str, *, requests: int = 1) -> bytes:
    """A frame of so many requests."""
    request: msgspec.Struct = (
        EncryptRequest(key_id=key_id, plaintext=PLAINTEXT)
        if operation == "Encrypt"
        else GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256")
    )
    return encode_requests(
        [Request(number, operation, DEADLINE_MS, None, request) for number in range(1, requests + 1)]
    )


def signing_key(secret: str, day: str) -> bytes:
    """Of one day (`YYYYMMDD`), for this region."""
    return derive_signing_key(secret.encode(), day.encode(), REGION.encode())


def today() -> str:
    return time.strftime("%Y%m%d", time.gmtime())


def aws_unit(address: str, key_id: str, access_key_id: str, secret: str) -> bytes:
    """A signed Encrypt as boto3 sends one, its time stamp now: good for five minutes."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    body = json.dumps({"KeyId": key_id, "Plaintext": msgspec.to_builtins(PLAINTEXT)}).encode()
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": address,
        "x-amz-date": moment,
        "x-amz-target": "TrentService.Encrypt",
    }
    names = ";".join(headers)
    lines = ["POST", "/", "", *(f"{name}:{value}" for name, value in headers.items()), "", names]
    canonical = "\n".join([*lines, sha256(body).hexdigest()])
    scope = f"{moment[:8]}/{REGION}/kms/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", moment, scope, sha256(canonical.encode()).hexdigest()])
    signature = hmac.digest(signing_key(secret, moment[:8]), to_sign.encode(), "sha256").hex()
    claim = f"AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST / HTTP/1.1\r\n{head}authorization: {claim}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
