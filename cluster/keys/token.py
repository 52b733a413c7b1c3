"""Secrets as they enter the log, the disk and the network: key tokens and other sealed secrets (security.md, 2).

Both are AES-256-GCM under a purpose key (`hierarchy.py`) and look the same:

    version 1 byte (1) ‖ generation u32 ‖ nonce 12 ‖ ciphertext ‖ tag 16              (big-endian)

What they belong to isn't in them. It is the additional data, given again by whoever opens, out of the record that the
secret was found in: a token moved to another record, region, purpose or generation doesn't open.

Nonces are random, handed in by the proposer. NIST SP 800-38D, 8.3 allows 2^32 seals under one key; a purpose key lives
no longer than its generation (90 days), and a region with a million keys, each re-wrapped and rotated daily, stays
below a fortieth of that.

docs/formats.md, "Key token", has the layouts byte by byte and the test vectors.
"""

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keycluster.cluster.keys.hierarchy import Keyring, Purpose
from keycluster.cluster.types import AccountId, KeyId

FORMAT_VERSION = 1
NONCE_BYTES = 12
TAG_BYTES = 16
BACKING_KEY_BYTES = 32
BACKING_KEY_ID_BYTES = 16
SECRET_BYTES_MAX = 16_384  # A CA's private key has 150 bytes, an access key's secret 40: nothing sealed is large.

_HEADER = struct.Struct(">BI")  # Format version, generation.
_OVERHEAD = _HEADER.size + NONCE_BYTES + TAG_BYTES
TOKEN_BYTES = _OVERHEAD + BACKING_KEY_BYTES


class TokenInvalid(Exception):
    """A token or sealed secret that doesn't parse, or doesn't belong where it was found. Which one is not told."""

    def __init__(self) -> None:
        super().__init__("a sealed secret doesn't open where it was found")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMeta:
    """What a key token is bound to, beside region and generation: all of it comes from the key's record."""

    account: AccountId
    key_id: KeyId
    backing_key_id: bytes
    spec: str
    usage: str
    origin: str


def seal_backing_key(keyring: Keyring, generation: int, backing: bytes, *, meta: TokenMeta, nonce: bytes) -> bytes:
    """The key token of `backing`, 32 bytes. `nonce` is 12 fresh random bytes, never used for anything else."""
    if len(backing) != BACKING_KEY_BYTES:
        raise ValueError(f"a backing key has {BACKING_KEY_BYTES} bytes, not {len(backing)}")
    header = _HEADER.pack(FORMAT_VERSION, generation)
    key = keyring.purpose_key(generation, Purpose.TOKEN)
    return _seal(key, header, backing, _token_bound_to(keyring.region, generation, meta), nonce)


def open_backing_key(keyring: Keyring, token: bytes, meta: TokenMeta) -> bytes:
    """The 32 bytes of a backing key.

    Raises `TokenInvalid`, and `GenerationUnknown` where this node lacks the generation that the token names.
    """
    if len(token) != TOKEN_BYTES:
        raise TokenInvalid
    generation = generation_of(token)
    key = keyring.purpose_key(generation, Purpose.TOKEN)
    return _open(key, token, _token_bound_to(keyring.region, generation, meta))


def seal_secret(
    keyring: Keyring, generation: int, purpose: Purpose, *, secret: bytes, owner: bytes, nonce: bytes
) -> bytes:
    """`secret` (at most 16 KiB) for `purpose`, bound to `owner`: the id of the record that it is stored in.

    Its length shows. `nonce` is 12 fresh random bytes, never used for anything else.
    """
    if len(secret) > SECRET_BYTES_MAX:
        raise ValueError(f"a secret has at most {SECRET_BYTES_MAX} bytes, not {len(secret)}")
    header = _HEADER.pack(FORMAT_VERSION, generation)
    key = keyring.purpose_key(generation, purpose)
    return _seal(key, header, secret, _secret_bound_to(keyring.region, generation, purpose, owner), nonce)


def open_secret(keyring: Keyring, purpose: Purpose, sealed: bytes, *, owner: bytes) -> bytes:
    """The secret. Raises `TokenInvalid`, and `GenerationUnknown` where this node lacks the generation it names."""
    if not _OVERHEAD <= len(sealed) <= _OVERHEAD + SECRET_BYTES_MAX:
        raise TokenInvalid
    generation = generation_of(sealed)
    key = keyring.purpose_key(generation, purpose)
    return _open(key, sealed, _secret_bound_to(keyring.region, generation, purpose, owner))


def generation_of(sealed: bytes) -> int:
    """The generation that a token or sealed secret names, unverified: opening verifies it. Raises `TokenInvalid`."""
    if len(sealed) < _OVERHEAD:
        raise TokenInvalid
    version, generation = _HEADER.unpack_from(sealed)
    if version != FORMAT_VERSION:
        raise TokenInvalid
    return int(generation)


def _seal(key: bytes, header: bytes, secret: bytes, bound_to: bytes, nonce: bytes) -> bytes:
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    return header + nonce + AESGCM(key).encrypt(nonce, secret, bound_to)


def _open(key: bytes, sealed: bytes, bound_to: bytes) -> bytes:
    nonce_end = _HEADER.size + NONCE_BYTES
    try:
        return AESGCM(key).decrypt(sealed[_HEADER.size : nonce_end], sealed[nonce_end:], bound_to)
    except InvalidTag:
        raise TokenInvalid from None


def _token_bound_to(region: str, generation: int, meta: TokenMeta) -> bytes:
    """Format version, purpose, region, account, key id, backing key id, spec, usage, origin, generation."""
    if len(meta.backing_key_id) != BACKING_KEY_ID_BYTES:
        raise ValueError(f"a backing key's id has {BACKING_KEY_ID_BYTES} bytes, not {len(meta.backing_key_id)}")
    return b"".join(
        (
            bytes((FORMAT_VERSION,)),
            _prefixed(Purpose.TOKEN.value.encode()),
            _prefixed(region.encode()),
            _prefixed(meta.account.encode()),
            _prefixed(meta.key_id.encode()),
            meta.backing_key_id,
            _prefixed(meta.spec.encode()),
            _prefixed(meta.usage.encode()),
            _prefixed(meta.origin.encode()),
            struct.pack(">I", generation),
        )
    )


def _secret_bound_to(region: str, generation: int, purpose: Purpose, owner: bytes) -> bytes:
    """Format version, purpose, region, owner, generation."""
    return b"".join(
        (
            bytes((FORMAT_VERSION,)),
            _prefixed(purpose.value.encode()),
            _prefixed(region.encode()),
            _prefixed(owner),
            struct.pack(">I", generation),
        )
    )


def _prefixed(part: bytes) -> bytes:
    return struct.pack(">H", len(part)) + part
