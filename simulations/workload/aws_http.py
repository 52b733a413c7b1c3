"""Requests to the AWS door as AWS's SDKs write them, and its answers: HTTP/1.1, JSON 1.1, Signature Version 4.

Source: "Create a signed AWS API request" in the AWS IAM User Guide; headers as botocore sends them: those that tell of
a call's attempts are added after signing.
"""

import hmac
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final

import httptools
import msgspec

from keycluster.client.endpoints import Credentials
from keycluster.cluster.seams import ByteStream
from keycluster.cluster.types import SECOND
from keycluster.cluster.wire.operations import Shape
from keycluster.node.operations.table import OPERATIONS
from keycluster.node.sigv4 import derive_signing_key
from keycluster.simulations.workload.doors import operation_of

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
READ_BYTES: Final = 65_536


class Signer:
    """Of one access key's requests to one region."""

    def __init__(self, credentials: Credentials, region: str) -> None:
        self._credentials = credentials
        self._region = region
        self._key: tuple[str, bytes] = ("", b"")  # Of one day.

    def headers(self, *, host: str, operation: str, body: bytes, wall_ns: int) -> dict[str, str]:
        """Those that are signed, and the signature."""
        date = datetime.fromtimestamp(wall_ns // SECOND, UTC).strftime("%Y%m%dT%H%M%SZ")
        signed = {
            "content-type": CONTENT_TYPE,
            "host": host,
            "x-amz-date": date,
            "x-amz-target": f"TrentService.{operation}",
        }
        names = ";".join(signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = f"POST\n/\n\n{lines}\n{names}\n{sha256(body).hexdigest()}"
        scope = f"{date[:8]}/{self._region}/kms/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(date[:8]), to_sign.encode(), "sha256").hex()
        credential = f"{self._credentials.access_key_id}/{scope}"
        authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
        return {**signed, "authorization": authorization}

    def _signing_key(self, day: str) -> bytes:
        if self._key[0] != day:
            secret = self._credentials.secret_access_key.encode()
            self._key = (day, derive_signing_key(secret, day.encode(), self._region.encode()))
        return self._key[1]


def encode_request(headers: dict[str, str], body: bytes) -> bytes:
    """A whole request, posted to the root."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST / HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Response(msgspec.Struct, frozen=True):
    """One answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes
    keeps_alive: bool

    def shape(self, request: Shape) -> Shape:
        """The response to `request`; raises msgspec.MsgspecError if it isn't one."""
        answer: type[Shape] = OPERATIONS[operation_of(request)].response_type
        return msgspec.json.decode(self.body or b"{}", type=answer)

    def error(self) -> tuple[str, str]:
        """Code and text."""
        members: dict[str, Any] = msgspec.json.decode(self.body)
        return members["__type"], members.get("message") or members.get("Message") or ""

    def wall_ns(self) -> int | None:
        """What the node thinks the time is, if it knows."""
        date = self.headers.get("date")
        return None if date is None else int(parsedate_to_datetime(date).timestamp()) * SECOND


class _Collector:
    """llhttp's callbacks, for one response."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.whole: Response | None = None
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        """llhttp knows whether the connection goes on only now: afterwards it has begun with the next message."""
        parser, body = self.parser, b"".join(self.body)
        self.whole = Response(parser.get_status_code(), self.headers, body, parser.should_keep_alive())


async def exchange(stream: ByteStream, content: bytes) -> Response | None:
    """Sends a request and waits for its answer; None if the stream ends instead.

    Raises trio.BrokenResourceError, and httptools.HttpParserError for what isn't HTTP.
    """
    await stream.send_all(content)
    collector = _Collector()
    while collector.whole is None:
        part = await stream.receive_some(READ_BYTES)
        if not part:
            return None
        collector.parser.feed_data(part)
    return collector.whole
