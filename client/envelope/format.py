"""The header of an AWS Encryption SDK message, format version 2.

`version 2 ‖ suite 2 ‖ message id 32 ‖ context ‖ encrypted data keys ‖ content type 1 ‖ frame length 4 ‖ commitment 32`
is the header's body, all numbers big-endian; the authentication tag (16 bytes) over it follows.

Whoever sends a message chooses all of its lengths, and nothing of the header is authenticated before a data key is
unwrapped: so each length has a limit here, checked before anything of that length is awaited.
Source: https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/message-format.html
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from keycluster.client.errors import EnvelopeError

VERSION = 2
MESSAGE_ID_BYTES = 32
COMMITMENT_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
PROVIDER = b"aws-kms"
PUBLIC_KEY_NAME = "aws-crypto-public-key"  # In the context of a signed message: Base64 of the compressed point.
RESERVED_PREFIX = "aws-crypto-"

CONTEXT_BYTES_MAX = 0xFFFF  # Its length is a u16.
KEYS_MAX = 32  # Each costs whoever decrypts up to one call; AWS's SDK has no limit unless told one.
KEY_PART_BYTES_MAX = 8192  # Provider, provider info and encrypted key each; KMS ciphertexts have 6,144 at most.
FRAME_BYTES_DEFAULT = 64 * 1024  # AWS's 4 KiB would end at 2^32 frames = 16 TiB; this ends at 256 TiB, and is quicker.
FRAME_BYTES_MAX = 0x7FFF_FFFF  # AWS's limit.
FRAMES_MAX = 0xFFFF_FFFE  # 0xFFFFFFFF in place of a sequence number marks the last frame.
SINGLE_BYTES_MAX = 2**36 - 32  # What AES-GCM can do under one nonce: for messages without frames.


class Suite(IntEnum):
    """What protects a message. Both are AES-256-GCM, HKDF-SHA-512 and a commitment to the key.

    `SIGNED` adds an ECDSA P-384 signature under a key made for the message: whoever may only decrypt can't make one
    up. (AWS: AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384 and AES_256_GCM_HKDF_SHA512_COMMIT_KEY.)
    """

    UNSIGNED = 0x0478
    SIGNED = 0x0578


class ContentType(IntEnum):
    SINGLE = 1  # One block without frames: AWS's SDKs can still make it, we only read it.
    FRAMED = 2


@dataclass(frozen=True, slots=True)
class EncryptedDataKey:
    provider: bytes
    provider_info: bytes  # For aws-kms the ARN of the key.
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Header:
    suite: Suite
    message_id: bytes
    context: Mapping[str, str]  # With the reserved public key.
    keys: tuple[EncryptedDataKey, ...]
    content_type: ContentType
    frame_bytes: int  # 0 where there are no frames.
    commitment: bytes

    def encode(self) -> bytes:
        """The header's body, which the tag authenticates. Raises `EnvelopeError` where a limit is passed."""
        context = encode_context(self.context)
        if not 0 < len(self.keys) <= KEYS_MAX:
            raise EnvelopeError(f"a message has 1 to {KEYS_MAX} encrypted data keys, not {len(self.keys)}")
        return b"".join(
            [
                struct.pack(">BH", VERSION, self.suite),
                self.message_id,
                _prefixed(context, CONTEXT_BYTES_MAX, "encryption context"),
                struct.pack(">H", len(self.keys)),
                *(
                    _prefixed(part, KEY_PART_BYTES_MAX, "encrypted data key")
                    for key in self.keys
                    for part in (key.provider, key.provider_info, key.ciphertext)
                ),
                struct.pack(">BI", self.content_type, self.frame_bytes),
                self.commitment,
            ]
        )


def _prefixed(part: bytes, bytes_max: int, what: str) -> bytes:
    if len(part) > bytes_max:
        raise EnvelopeError(f"the {what} has {len(part)} bytes; {bytes_max} is the limit")
    return struct.pack(">H", len(part)) + part


def encode_context(context: Mapping[str, str]) -> bytes:
    """Sorted by the UTF-8 bytes of the names, each part with its u16 length, the count in front; nothing if empty."""
    if not context:
        return b""
    try:
        pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    except UnicodeEncodeError:
        raise EnvelopeError("the encryption context has a lone surrogate, which UTF-8 can't say") from None
    parts = [struct.pack(">H", min(len(pairs), 0xFFFF))]
    for pair in pairs:
        parts += [_prefixed(part, CONTEXT_BYTES_MAX, "encryption context") for part in pair]
    encoded = b"".join(parts)
    if len(encoded) > CONTEXT_BYTES_MAX:
        raise EnvelopeError(f"the encryption context has {len(encoded)} bytes; {CONTEXT_BYTES_MAX} is the limit")
    return encoded


class Incomplete(Exception):
    """The header isn't whole yet. `needed` is how many bytes it has at least, in all."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class _Cursor:
    """Reads fields one after the other. Running out of bytes is `Incomplete`: what a field can't be is its reader's."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.content):
            raise Incomplete(end)
        taken = self.content[self.at : end]
        self.at = end
        return taken

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def part(self, bytes_max: int, what: str) -> bytes:
        count = self.number(2)
        if count > bytes_max:
            raise EnvelopeError(f"the {what} has {count} bytes; {bytes_max} is the limit")
        return self.take(count)


def decode_header(content: bytes) -> tuple[Header, int]:
    """The header at the start of a message and how many bytes its body has.

    Raises `Incomplete` if more bytes are needed, `EnvelopeError` as soon as what is there can't be a header.
    """
    cursor = _Cursor(content)
    suite = _read_suite(cursor)
    message_id = cursor.take(MESSAGE_ID_BYTES)
    context = decode_context(cursor.part(CONTEXT_BYTES_MAX, "encryption context"))
    keys = _read_keys(cursor)
    content_type, frame_bytes = _read_framing(cursor)
    header = Header(suite, message_id, context, keys, content_type, frame_bytes, cursor.take(COMMITMENT_BYTES))
    return header, cursor.at


def _read_suite(cursor: _Cursor) -> Suite:
    version = cursor.number(1)
    if version == 1:
        raise EnvelopeError("this message is of format version 1, which doesn't commit to its key: not read here")
    if version != VERSION:
        raise EnvelopeError("this is not an AWS Encryption SDK message of format version 2")
    suite = cursor.number(2)
    try:
        return Suite(suite)
    except ValueError:
        raise EnvelopeError(f"the message names algorithm suite 0x{suite:04x}, which is not one of version 2") from None


def _read_keys(cursor: _Cursor) -> tuple[EncryptedDataKey, ...]:
    count = cursor.number(2)
    if not 0 < count <= KEYS_MAX:
        raise EnvelopeError(f"the message has {count} encrypted data keys; 1 to {KEYS_MAX} are read")
    what = "encrypted data key"
    return tuple(
        EncryptedDataKey(*(cursor.part(KEY_PART_BYTES_MAX, what) for _ in ("provider", "info", "ciphertext")))
        for _ in range(count)
    )


def _read_framing(cursor: _Cursor) -> tuple[ContentType, int]:
    code = cursor.number(1)
    frame_bytes = cursor.number(4)
    if code == ContentType.FRAMED and 0 < frame_bytes <= FRAME_BYTES_MAX:
        return ContentType.FRAMED, frame_bytes
    if code == ContentType.SINGLE and frame_bytes == 0:
        return ContentType.SINGLE, 0
    raise EnvelopeError(f"the message has content type {code} with a frame length of {frame_bytes}")


def decode_context(encoded: bytes) -> dict[str, str]:
    """The pairs, in the order they came in: AWS's SDKs don't all sort alike. A name twice is refused."""
    if not encoded:
        return {}
    cursor = _Cursor(encoded)
    context: dict[str, str] = {}
    try:
        count = cursor.number(2)
        for _ in range(count):
            name, value = (cursor.part(CONTEXT_BYTES_MAX, "encryption context").decode() for _ in ("name", "value"))
            if name in context:
                _refuse_context()
            context[name] = value
    except (Incomplete, UnicodeDecodeError):
        _refuse_context()
    if count == 0 or cursor.at != len(encoded):
        _refuse_context()
    return context


def _refuse_context() -> NoReturn:
    raise EnvelopeError("the message's encryption context is malformed") from None


_FRAME_LABEL = b"AWSKMSEncryptionClient Frame"
_LAST_FRAME_LABEL = b"AWSKMSEncryptionClient Final Frame"
_SINGLE_LABEL = b"AWSKMSEncryptionClient Single Block"
LAST_FRAME = b"\xff\xff\xff\xff"


def frame_aad(message_id: bytes, sequence: int, count: int) -> bytes:
    """What a frame's tag covers beside the frame: which message, that it isn't the last one, its place, its length."""
    return message_id + _FRAME_LABEL + struct.pack(">IQ", sequence, count)


def last_frame_aad(message_id: bytes, sequence: int, count: int) -> bytes:
    return message_id + _LAST_FRAME_LABEL + struct.pack(">IQ", sequence, count)


def single_aad(message_id: bytes, count: int) -> bytes:
    return message_id + _SINGLE_LABEL + struct.pack(">IQ", 1, count)


def frame_nonce(sequence: int) -> bytes:
    """The sequence number, padded: unique, since a message key serves one message. 0 is the header's tag."""
    return sequence.to_bytes(NONCE_BYTES, "big")
