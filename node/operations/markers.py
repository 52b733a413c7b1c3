"""Markers: where a list goes on, given to callers and taken back.

A marker is the position of the last entry shown, authenticated under a purpose key together with what was listed and by
whom. One that was changed, or given for another list, key or account, is InvalidMarkerException. It tells its holder
nothing that the page before it didn't.

    Base64 (URL alphabet, no padding) of: version 1 byte (1) ‖ generation u32 ‖ tag 16 ‖ position, UTF-8
    tag = the first 16 bytes of HMAC-SHA-256(marker key, for each of operation, account, subject, position:
          u16 length ‖ UTF-8)                                                              (big-endian)
"""

import binascii
import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.keys.hierarchy import GenerationUnknown, Keyring, Purpose
from keycluster.cluster.wire.errors import InvalidMarkerException

T = TypeVar("T")

VERSION = 1
TAG_BYTES = 16
_HEADER = struct.Struct(">BI")


@dataclass(frozen=True, slots=True)
class Listing:
    """What a marker belongs to. `subject` is the key whose things are listed, empty for an account's."""

    operation: str
    caller: Caller
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page's entries, and the marker of the next one."""

    entries: Sequence[T]
    next_marker: str | None

    @property
    def truncated(self) -> bool:
        return self.next_marker is not None


def give(keyring: Keyring, generation: int, listing: Listing, position: str) -> str:
    tag = _tag(keyring, generation, listing, position)
    return urlsafe_b64encode(_HEADER.pack(VERSION, generation) + tag + position.encode()).rstrip(b"=").decode()


def take(keyring: Keyring, listing: Listing, marker: str) -> str:
    """The position. Raises InvalidMarkerException unless `marker` is, to the letter, the one that `give` made of it."""
    try:
        content = urlsafe_b64decode(marker.encode("ascii") + b"=" * (-len(marker) % 4))
        _, generation = _HEADER.unpack_from(content)
        position = content[_HEADER.size + TAG_BYTES :].decode()
        given = give(keyring, generation, listing, position)
    except (UnicodeError, binascii.Error, struct.error, GenerationUnknown):
        raise InvalidMarkerException("Invalid marker") from None
    if not hmac.compare_digest(given.encode(), marker.encode()):
        raise InvalidMarkerException("Invalid marker")
    return position


def _tag(keyring: Keyring, generation: int, listing: Listing, position: str) -> bytes:
    key = keyring.purpose_key(generation, Purpose.MARKER)
    parts = (listing.operation, listing.caller.account, listing.subject, position)
    content = b"".join(struct.pack(">H", len(part.encode())) + part.encode() for part in parts)
    return hmac.digest(key, content, "sha256")[:TAG_BYTES]
