"""Reads a message: its bytes in, in any portions; plaintext out, each frame only once its tag has verified.

First a `HeaderReader`, which asks for nothing but bytes; with the data key it opens, it becomes a `BodyReader`.
"""

from enum import Enum, auto

from cryptography.exceptions import InvalidTag

from keycluster.client.envelope.format import (
    FRAMES_MAX,
    LAST_FRAME,
    NONCE_BYTES,
    PUBLIC_KEY_NAME,
    TAG_BYTES,
    ContentType,
    Header,
    Incomplete,
    Suite,
    decode_header,
    frame_aad,
    last_frame_aad,
    single_aad,
)
from keycluster.client.envelope.keys import SIGNATURE_BYTES_MAX, MessageKeys, Verifier
from keycluster.client.errors import EnvelopeError

FRAME_BYTES_MAX_DEFAULT = 32 * 1024 * 1024  # A whole frame is held in memory until its tag has verified.


class HeaderReader:
    """`feed` until it returns the header, unwrap one of its data keys, `unlock`. Raises `EnvelopeError`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 1  # Bytes to have in the buffer before it is worth parsing again.
        self._body_bytes = 0
        self._header: Header | None = None

    def feed(self, content: bytes) -> Header | None:
        """The header once it is whole. Nothing of it is authenticated before `unlock`."""
        self._buffer += content
        if self._header is None and len(self._buffer) >= self._needed:
            self._header = self._parse()
        return self._header

    def _parse(self) -> Header | None:
        try:
            header, self._body_bytes = decode_header(bytes(self._buffer))
        except Incomplete as incomplete:
            self._needed = incomplete.needed
            return None
        self._needed = self._body_bytes + TAG_BYTES
        if len(self._buffer) < self._needed:
            return None
        if (PUBLIC_KEY_NAME in header.context) != (header.suite is Suite.SIGNED):
            raise EnvelopeError(f"{PUBLIC_KEY_NAME} belongs into the context of signed messages, and only there")
        return header

    def finish(self) -> None:
        """The source has ended. Raises `EnvelopeError` if it did so within the header."""
        if self._header is None:
            raise EnvelopeError("the message ends too early")

    def unlock(self, data_key: bytes, *, frame_bytes_max: int = FRAME_BYTES_MAX_DEFAULT) -> "BodyReader":
        """Checks commitment and header under the data key. What was fed beyond the header is the reader's first part.

        `frame_bytes_max`: the longest frame (or message without frames) that is read; bounds the memory taken.
        """
        header = self._header
        if header is None:
            raise EnvelopeError("the message's header is not whole yet")
        body, tag = bytes(self._buffer[: self._body_bytes]), bytes(self._buffer[self._body_bytes : self._needed])
        keys = MessageKeys(data_key=data_key, suite=header.suite, message_id=header.message_id)
        keys.verify(commitment=header.commitment, body=body, tag=tag)
        if header.frame_bytes > frame_bytes_max:
            raise EnvelopeError(f"the message has frames of {header.frame_bytes} bytes; {frame_bytes_max} are allowed")
        verifier = None
        if header.suite is Suite.SIGNED:
            verifier = Verifier(header.context[PUBLIC_KEY_NAME])
            verifier.update(body + tag)
        return BodyReader(
            header, keys, verifier, first=bytes(self._buffer[self._needed :]), frame_bytes_max=frame_bytes_max
        )


class _State(Enum):
    BODY = auto()
    FOOTER = auto()
    DONE = auto()


class BodyReader:
    """`feed` returns authenticated plaintext. Only after `finish` is a signed message known to be its writer's.

    Raises `EnvelopeError`, after which it must not be used again. Not for use by two threads at once.
    """

    def __init__(
        self, header: Header, keys: MessageKeys, verifier: Verifier | None, *, first: bytes, frame_bytes_max: int
    ) -> None:
        self._header = header
        self._aead = keys.aead
        self._verifier = verifier
        self._single_bytes_max = frame_bytes_max
        self._buffer = bytearray(first)
        self._at = 0  # What stands before it in the buffer is read.
        self._needed = 0  # Bytes to have in the buffer before it is worth looking again.
        self._state = _State.BODY
        self._sequence = 0
        self._read_part = self._read_frame if header.content_type is ContentType.FRAMED else self._read_single

    def feed(self, content: bytes) -> bytes:
        """Takes more of the message (perhaps nothing: the first part is there) and returns what that completes."""
        self._buffer += content
        if len(self._buffer) < self._needed:
            return b""
        plaintext: list[bytes] = []
        with memoryview(self._buffer) as view:
            while self._state is _State.BODY and (part := self._read_part(view)) is not None:
                plaintext.append(part)
            if self._verifier is not None:
                self._verifier.update(view[: self._at])
            if self._state is _State.FOOTER:
                self._read_footer(view)
        del self._buffer[: self._at]
        self._needed = max(self._needed - self._at, 0)
        self._at = 0
        if self._state is _State.DONE and self._buffer:
            raise EnvelopeError("bytes follow after the end of the message")
        return b"".join(plaintext)

    def finish(self) -> None:
        """The source has ended. Raises `EnvelopeError` unless the message has too, signature and all."""
        if self._state is not _State.DONE:
            raise EnvelopeError("the message ends too early")

    def _has(self, view: memoryview, count: int) -> bool:
        """Whether `count` bytes from here on are there; if not, remembers how many to wait for."""
        self._needed = self._at + count
        return len(view) >= self._needed

    def _read_frame(self, view: memoryview) -> bytes | None:
        if not self._has(view, 4):
            return None
        if view[self._at : self._at + 4] == LAST_FRAME:
            return self._read_last_frame(view)
        count = self._header.frame_bytes
        if not self._has(view, 4 + NONCE_BYTES + count + TAG_BYTES):
            return None
        sequence = self._next_sequence(view, self._at)
        aad = frame_aad(self._header.message_id, sequence, count)
        plaintext = self._open(view, self._at + 4, self._at + 4 + NONCE_BYTES, aad)
        self._at = self._needed
        return plaintext

    def _read_last_frame(self, view: memoryview) -> bytes | None:
        fixed = 4 + 4 + NONCE_BYTES + 4  # Marker ‖ sequence number ‖ nonce ‖ length.
        if not self._has(view, fixed):
            return None
        content = self._at + fixed
        count = int.from_bytes(view[content - 4 : content], "big")
        if count > self._header.frame_bytes:
            raise EnvelopeError(f"the last frame has {count} bytes, the others {self._header.frame_bytes}")
        if not self._has(view, fixed + count + TAG_BYTES):
            return None
        sequence = self._next_sequence(view, self._at + 4)
        aad = last_frame_aad(self._header.message_id, sequence, count)
        plaintext = self._open(view, self._at + 8, content, aad)
        self._end_body()
        return plaintext

    def _read_single(self, view: memoryview) -> bytes | None:
        fixed = NONCE_BYTES + 8  # Nonce ‖ length.
        if not self._has(view, fixed):
            return None
        content = self._at + fixed
        count = int.from_bytes(view[content - 8 : content], "big")
        if count > self._single_bytes_max:
            raise EnvelopeError(f"the message is one block of {count} bytes; {self._single_bytes_max} are allowed")
        if not self._has(view, fixed + count + TAG_BYTES):
            return None
        plaintext = self._open(view, self._at, content, single_aad(self._header.message_id, count))
        self._end_body()
        return plaintext

    def _end_body(self) -> None:
        self._at = self._needed
        self._state = _State.DONE if self._verifier is None else _State.FOOTER

    def _next_sequence(self, view: memoryview, at: int) -> int:
        """Frames come in order, none missing: else they could be swapped or dropped under valid tags."""
        self._sequence += 1
        if int.from_bytes(view[at : at + 4], "big") != self._sequence or self._sequence > FRAMES_MAX:
            raise EnvelopeError("the message's frames are out of order")
        return self._sequence

    def _open(self, view: memoryview, nonce: int, content: int, aad: bytes) -> bytes:
        """Decrypts from `content` to the end of what `_has` asked for, which is the end of the tag."""
        try:
            return self._aead.decrypt(view[nonce : nonce + NONCE_BYTES], view[content : self._needed], aad)
        except InvalidTag:
            raise EnvelopeError("the message doesn't verify") from None

    def _read_footer(self, view: memoryview) -> None:
        if self._verifier is None or not self._has(view, 2):
            return
        count = int.from_bytes(view[self._at : self._at + 2], "big")
        if count > SIGNATURE_BYTES_MAX:
            raise EnvelopeError(f"the signature has {count} bytes; {SIGNATURE_BYTES_MAX} is the limit")
        if not self._has(view, 2 + count):
            return
        self._verifier.verify(bytes(view[self._at + 2 : self._needed]))
        self._at = self._needed
        self._state = _State.DONE
