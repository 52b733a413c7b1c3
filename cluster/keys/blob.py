"""Ciphertext blobs, version 1: what Encrypt and GenerateDataKey return (security.md, 4).

Every blob has a key of its own, derived from the backing key, a fresh salt and the encryption context; so no limit on
the number of nonces is ever reached, and the context needs no place in the additional data.

    header     = version u8 (1) ‖ suite u8 (1) ‖ key id 17 ‖ backing key id 16 ‖ salt 16
    derived    = SP 800-108 counter mode, HMAC-SHA-256, 64 bytes: key 32 ‖ commitment 32
                 Label = b"keycluster/blob/1", Context = header ‖ SHA-256(canonical encryption context)
    additional = header ‖ nonce 12 ‖ commitment 32
    blob       = additional ‖ ciphertext length u16 ‖ ciphertext ‖ tag 16            (AES-256-GCM under key, nonce)

The commitment is what GCM alone doesn't give: one blob opens under one backing key and one context. Salt and nonce are
28 fresh random bytes for each blob, never from a pool, so that a cloned or restored node can't repeat any.

Every field is fixed in length or prefixed with it, each value has one encoding, and anything behind the tag is refused.
docs/formats.md, "Blob", has the layout byte by byte and the test vectors.
"""

import struct
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from keycluster.cluster.keys.token import BACKING_KEY_BYTES, BACKING_KEY_ID_BYTES
from keycluster.cluster.types import KeyId

FORMAT_VERSION = 1
SUITE_HMAC_SHA256_AES256_GCM = 1
RANDOM_BYTES = 28  # Salt 16, nonce 12.
PLAINTEXT_BYTES_MAX = 4_096  # AWS's; its least is 1, so no blob is empty either.

_SALT_BYTES, _NONCE_BYTES, _COMMITMENT_BYTES, _TAG_BYTES = 16, 12, 32, 16
_KEY_REFERENCE_BYTES = 17
_FIXED = struct.Struct(
    f">BB{_KEY_REFERENCE_BYTES}s{BACKING_KEY_ID_BYTES}s{_SALT_BYTES}x{_NONCE_BYTES}x{_COMMITMENT_BYTES}xH"
)
_HEADER_END = 2 + _KEY_REFERENCE_BYTES + BACKING_KEY_ID_BYTES + _SALT_BYTES
_NONCE_END = _HEADER_END + _NONCE_BYTES
_ADDITIONAL_END = _NONCE_END + _COMMITMENT_BYTES
_LENGTH = struct.Struct(">H")
_CIPHERTEXT_START = _ADDITIONAL_END + _LENGTH.size
BLOB_OVERHEAD = _CIPHERTEXT_START + _TAG_BYTES
BLOB_BYTES_MAX = BLOB_OVERHEAD + PLAINTEXT_BYTES_MAX  # 4,209: below the 6,144 that Decrypt takes.

# SP 800-108, 4.1: block i is HMAC(backing key, [i] ‖ Label ‖ 0x00 ‖ Context ‖ [L]), [i] and [L] (in bits) as u32.
_BEFORE_KEY = b"\x00\x00\x00\x01keycluster/blob/1\x00"
_BEFORE_COMMITMENT = b"\x00\x00\x00\x02keycluster/blob/1\x00"
_LENGTH_IN_BITS = b"\x00\x00\x02\x00"

_KEY_ID_UUID, _KEY_ID_MULTI_REGION = 0, 1
_MULTI_REGION_PREFIX = "mrk-"
_SHA256 = SHA256()


class BlobMalformed(Exception):
    """Bytes that are no blob of this version: nothing in them is to be trusted."""

    def __init__(self) -> None:
        super().__init__("not a ciphertext blob")


class BlobUnverified(Exception):
    """A blob that doesn't open: another backing key, another context, or changed bytes. Which one is not told."""

    def __init__(self) -> None:
        super().__init__("a ciphertext blob doesn't verify")


class Blob(NamedTuple):
    """A blob's parts, as the bytes claim them: unverified until it is decrypted."""

    key_id: KeyId
    backing_key_id: bytes
    whole: bytes


class BlobKey:
    """A backing key made ready: its part of the header, and the HMAC that has taken it in.

    Copying that HMAC takes a third of the time that keying a new one does, twice for each blob.
    """

    __slots__ = ("_header", "_mac", "backing_key_id")

    def __init__(self, key_id: KeyId, backing_key_id: bytes, backing: bytes) -> None:
        """`backing` is the 32 bytes that a key token opens to."""
        if len(backing) != BACKING_KEY_BYTES or len(backing_key_id) != BACKING_KEY_ID_BYTES:
            raise ValueError("a backing key has 32 bytes and its id 16")
        self.backing_key_id = backing_key_id
        self._header = bytes((FORMAT_VERSION, SUITE_HMAC_SHA256_AES256_GCM)) + key_reference(key_id) + backing_key_id
        self._mac = HMAC(backing, _SHA256)

    def encrypt(self, plaintext: bytes, context: bytes, random28: bytes) -> bytes:
        """A blob of `plaintext`, 1 to 4,096 bytes; `context` is the canonical one, `random28` fresh for this blob."""
        if not 1 <= len(plaintext) <= PLAINTEXT_BYTES_MAX or len(random28) != RANDOM_BYTES:
            raise ValueError("a blob takes 1 to 4,096 bytes of plaintext and 28 random bytes")
        header = self._header + random28[:_SALT_BYTES]
        nonce = random28[_SALT_BYTES:]
        key, commitment = self._derive(header, context)
        additional = header + nonce + commitment
        sealed = AESGCM(key).encrypt(nonce, plaintext, additional)
        return additional + _LENGTH.pack(len(plaintext)) + sealed

    def decrypt(self, blob: Blob, context: bytes) -> bytes:
        """The plaintext. Raises `BlobUnverified`, after the same work whatever it is that doesn't verify."""
        whole = blob.whole
        key, commitment = self._derive(whole[:_HEADER_END], context)
        committed = compare_digest(commitment, whole[_NONCE_END:_ADDITIONAL_END])
        try:
            plaintext = AESGCM(key).decrypt(
                whole[_HEADER_END:_NONCE_END], whole[_CIPHERTEXT_START:], whole[:_ADDITIONAL_END]
            )
        except InvalidTag:
            raise BlobUnverified from None
        if not committed:
            raise BlobUnverified
        return plaintext

    def _derive(self, header: bytes, context: bytes) -> tuple[bytes, bytes]:
        """The blob's key and commitment."""
        fixed = header + sha256(context).digest() + _LENGTH_IN_BITS
        first, second = self._mac.copy(), self._mac.copy()
        first.update(_BEFORE_KEY + fixed)
        second.update(_BEFORE_COMMITMENT + fixed)
        return first.finalize(), second.finalize()

    def __repr__(self) -> str:
        return f"BlobKey(backing_key_id={self.backing_key_id.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a BlobKey is neither pickled nor copied")


def parse_blob(whole: bytes) -> Blob:
    """What a blob claims to be. Raises `BlobMalformed`."""
    if not BLOB_OVERHEAD < len(whole) <= BLOB_BYTES_MAX:
        raise BlobMalformed
    version, suite, reference, backing_key_id, ciphertext_bytes = _FIXED.unpack_from(whole)
    if version != FORMAT_VERSION or suite != SUITE_HMAC_SHA256_AES256_GCM:
        raise BlobMalformed
    if ciphertext_bytes != len(whole) - BLOB_OVERHEAD:
        raise BlobMalformed
    return Blob(_referenced_key_id(reference), backing_key_id, whole)


def key_reference(key_id: KeyId) -> bytes:
    """A key id in 17 bytes: its kind (0: a UUID, 1: "mrk-" and 32 hexadecimal digits), then its 128 bits.

    Each id has one reference and each reference one id. Raises `ValueError` for what is no key id.
    """
    kind = _KEY_ID_MULTI_REGION if key_id.startswith(_MULTI_REGION_PREFIX) else _KEY_ID_UUID
    digits = key_id[len(_MULTI_REGION_PREFIX) :] if kind == _KEY_ID_MULTI_REGION else key_id.replace("-", "")
    reference = bytes((kind,)) + bytes.fromhex(digits)
    if len(reference) != _KEY_REFERENCE_BYTES or _referenced_key_id(reference) != key_id:
        raise ValueError(f"{key_id!r} is not a key id")
    return reference


def _referenced_key_id(reference: bytes) -> KeyId:
    digits = reference[1:].hex()
    if reference[0] == _KEY_ID_UUID:
        return KeyId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")
    if reference[0] == _KEY_ID_MULTI_REGION:
        return KeyId(_MULTI_REGION_PREFIX + digits)
    raise BlobMalformed
