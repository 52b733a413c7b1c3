"""Bytes to HTTP requests and answers to bytes: HTTP/1.1 as the AWS door speaks it (RFC 9112). No socket here.

llhttp (through httptools) does the parsing and is strict: two lengths, a length beside chunks, folded headers, bare
line feeds are errors. It bounds nothing, so this file does: the head, the headers' number, the body, the requests of
one receive. Whatever can't be understood, or could be understood in two ways, ends the connection after one answer.
"""

from email.utils import formatdate
from typing import Final

import httptools
import msgspec

from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    KmsError,
    SerializationException,
    UnknownOperationException,
)
from keycluster.node.doors.limits import READ_BYTES, DoorLimits

CONTENT_TYPE: Final = b"application/x-amz-json-1.1"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    413: b"Content Too Large",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
}

_ONCE: Final = frozenset((b"host", b"authorization", b"content-type", b"expect"))
"""Headers that two of would leave open which one counts; so would any x-amz-* one."""

_CAPITAL_MESSAGE: Final = (AccessDeniedException, SerializationException)
"""AWS's common errors that spell their text's member `Message`; all others say `message`."""


class Malformed(SerializationException):
    """Not HTTP, or not HTTP that this door takes."""


class HeadTooLarge(SerializationException):
    status = 431


class BodyTooLarge(SerializationException):
    status = 413


class ExpectationFailed(SerializationException):
    status = 417


class CodingUnknown(SerializationException):
    status = 501


class NoSuchResource(UnknownOperationException):
    """Another method than POST, or another path than the root."""

    status = 404


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """One request, whole. Header names are in lower case; values of one name are joined by commas."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes
    keeps_alive: bool


class HttpParser:
    """One connection's. After `refusal` is set nothing more is taken."""

    def __init__(self, limits: DoorLimits) -> None:
        self.refusal: KmsError | None = None
        """Why the connection ends, once the requests before it are answered."""
        self.is_within_request = False
        self.wants_continue = False
        """The client waits for `CONTINUE` before it sends a body. Whoever says it, clears this."""
        self._limits = limits
        self._head_bytes_max = limits.head_bytes_max
        self._headers_max = limits.headers_max
        self._parser = httptools.HttpRequestParser(self)
        self._whole: list[HttpRequest] = []
        self._in_head = False
        self._head_received = 0
        self._begin()

    @property
    def pending(self) -> int:
        """Bytes held of a request that isn't whole yet."""
        return self._head_received + self._body_bytes if self.is_within_request else 0

    def feed(self, content: bytes) -> list[HttpRequest]:
        """The requests that are whole now, in order."""
        try:
            self._parser.feed_data(content)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # A refusal of ours that came out of a callback is set already, and reaches us wrapped.
            self.refusal = self.refusal or Malformed(f"The HTTP request can't be read: {type(error).__name__}")
        if self._in_head:
            # llhttp hands a header over when it is whole: one without an end is counted by what came for it.
            self._head_received += len(content)
            if self._head_received > self._limits.head_bytes_max + READ_BYTES:
                self.refusal = self.refusal or HeadTooLarge("The headers are too long")
        whole, self._whole = self._whole, []
        return whole

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._header_count = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    def _refuse(self, refusal: KmsError) -> None:
        self.refusal = refusal
        raise refusal  # Out of the callback, to stop llhttp.

    # llhttp's callbacks.

    def on_message_begin(self) -> None:
        self._begin()
        self._head_received = 0
        self._in_head = self.is_within_request = True
        if len(self._whole) >= self._limits.pipelined_max:
            self._refuse(Malformed("Too many requests at once"))

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._head_bytes += len(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._head_bytes_max:
            self._refuse(HeadTooLarge("The headers are too long"))
        if self._header_count > self._headers_max:
            self._refuse(HeadTooLarge("There are too many headers"))
        if not self._in_head:
            return  # A trailer: nothing here wants any.
        name = name.lower()
        value = value.strip()
        if name in self._headers:
            if name in _ONCE or name.startswith(b"x-amz-"):
                self._refuse(Malformed(f"Header {name.decode('ascii', 'replace')} occurs twice"))
            value = self._headers[name] + b"," + value
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        headers = self._headers
        if self._head_bytes > self._head_bytes_max:
            self._refuse(HeadTooLarge("The headers are too long"))
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].lower() != b"chunked":
            self._refuse(CodingUnknown("Of transfer codings only chunked is understood"))
        if int(headers.get(b"content-length", b"0")) > self._limits.body_bytes_max:
            self._refuse(BodyTooLarge("The body is too long"))
        expected = headers.get(b"expect")
        if expected is not None:
            if expected.lower() != b"100-continue":
                self._refuse(ExpectationFailed("Only 100-continue can be expected"))
            self.wants_continue = True

    def on_body(self, part: bytes) -> None:
        self.wants_continue = False
        self._body_bytes += len(part)
        if self._body_bytes > self._limits.body_bytes_max:
            self._refuse(BodyTooLarge("The body is too long"))
        self._body.append(part)

    def on_message_complete(self) -> None:
        self.is_within_request = self.wants_continue = False
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        parser = self._parser
        self._whole.append(
            HttpRequest(parser.get_method(), self._target, self._headers, body, parser.should_keep_alive())
        )


_encode_json = msgspec.json.Encoder().encode


def encode_response(response: msgspec.Struct) -> bytes:
    """A body. Operations that answer with nothing but success have an empty one, as AWS's do."""
    return _encode_json(response) if response.__struct_fields__ else b""


def encode_error(error: KmsError) -> bytes:
    """A body, in AWS's spelling."""
    if not error.message:
        return _encode_json({"__type": error.code})
    member = "Message" if isinstance(error, _CAPITAL_MESSAGE) else "message"
    return _encode_json({"__type": error.code, member: error.message})


def encode_http(status: int, body: bytes, *, request_id: str, date: bytes, keeps_alive: bool) -> bytes:
    """A whole HTTP response. `date` is a header line or empty, as `date_line` makes it."""
    return b"HTTP/1.1 %d %b\r\nx-amzn-RequestId: %b\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n%b\r\n%b" % (
        status,
        REASONS[status],
        request_id.encode(),
        CONTENT_TYPE,
        date,
        len(body),
        b"" if keeps_alive else b"Connection: close\r\n",
        body,
    )


def date_line(seconds: int) -> bytes:
    """The Date header for a time in seconds since 1970: SDKs correct their clocks by it."""
    return b"Date: " + formatdate(seconds, usegmt=True).encode() + b"\r\n"
