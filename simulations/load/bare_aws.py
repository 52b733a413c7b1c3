"""The yardstick of the AWS door: a server on the same streams and parser that does an Encrypt's bare work.

It parses HTTP, verifies the signature under a signing key made once, decodes the JSON, derives a key and encrypts,
encodes and answers. No lookup, no time check, no limits, no gate.
"""

import hmac
from hashlib import sha256

import httptools
import msgspec

from keycluster.cluster.seams import ByteStream
from keycluster.cluster.wire.operations import EncryptRequest, EncryptResponse
from keycluster.simulations.load.bare_native import READ_BYTES, encrypt

_decode = msgspec.json.Decoder(EncryptRequest).decode
_encode = msgspec.json.Encoder().encode


class BareAwsServer:
    """Knows one signing key: a day's."""

    def __init__(self, signing_key: bytes) -> None:
        self.signing_key = signing_key

    async def serve(self, stream: ByteStream) -> None:
        """One connection."""
        requests = _Requests()
        parser = httptools.HttpRequestParser(requests)
        while content := await stream.receive_some(READ_BYTES):
            parser.feed_data(content)
            if requests.whole:
                answers = [self._answer(headers, body) for headers, body in requests.whole]
                requests.whole.clear()
                await stream.send_all(b"".join(answers))

    def _answer(self, headers: dict[bytes, bytes], body: bytes) -> bytes:
        scheme, _, claim = headers[b"authorization"].partition(b" ")
        credential, signed, signature = (part.strip().partition(b"=")[2] for part in claim.split(b","))
        lines = [b"POST", b"/", b"", *(name + b":" + headers[name] for name in signed.split(b";")), b"", signed]
        hashed = sha256(b"\n".join((*lines, sha256(body).hexdigest().encode()))).hexdigest().encode()
        scope = credential.partition(b"/")[2]
        to_sign = b"\n".join((scheme, headers[b"x-amz-date"], scope, hashed))
        expected = hmac.digest(self.signing_key, to_sign, "sha256").hex().encode()
        if not hmac.compare_digest(expected, signature):
            return b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        request = _decode(body)
        response = EncryptResponse(
            ciphertext_blob=encrypt(request.plaintext),
            key_id=request.key_id,
            encryption_algorithm="SYMMETRIC_DEFAULT",
        )
        content = _encode(response)
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n%b" % (
            len(content),
            content,
        )


class _Requests:
    """httptools' callbacks."""

    def __init__(self) -> None:
        self.whole: list[tuple[dict[bytes, bytes], bytes]] = []
        self._headers: dict[bytes, bytes] = {}
        self._body = b""

    def on_message_begin(self) -> None:
        self._headers = {}
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        self.whole.append((self._headers, self._body))
