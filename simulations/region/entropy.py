"""Randomness from a seed, and a stand-in for HPKE that needs none of its own.

`cryptography` draws the ephemeral key of an HPKE wrap by itself, so the real one can't repeat. The stand-in has its
sizes and its promises: what was wrapped opens with the recipient's private key and the same `info` and with no other,
any changed byte is noticed, and two wraps of the same differ. It is no cryptography: the public key alone opens it.
"""

import hashlib
import random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keycluster.cluster.seams import WrapError, WrapKeyPair

KEY_BYTES = 32  # Of X25519: private, public and encapsulated keys alike.
TAG_BYTES = 16
_NONCE = bytes(12)  # Each wrap has a key of its own.


class SimEntropy:
    """The seam's `Entropy`: what it gives follows from `seed` and from what was asked before.

    A process that starts again needs another seed: the real one never repeats.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._random = random.Random(f"entropy/{seed}")
        self._jitters = 0

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def jitter(self) -> random.Random:
        self._jitters += 1
        return random.Random(f"jitter/{self._seed}/{self._jitters}")

    def new_wrap_key_pair(self) -> WrapKeyPair:
        private = self.random_bytes(KEY_BYTES)
        return WrapKeyPair(private=private, public=_public(private))

    def wrap(self, plaintext: bytes, *, to: bytes, info: bytes) -> bytes:
        if len(to) != KEY_BYTES:
            raise WrapError("this is no public key to wrap to")
        encapsulated = self.random_bytes(KEY_BYTES)
        return encapsulated + AESGCM(_key(to, encapsulated, info)).encrypt(_NONCE, plaintext, None)

    def unwrap(self, wrapped: bytes, *, key_pair: WrapKeyPair, info: bytes) -> bytes:
        if len(wrapped) < KEY_BYTES + TAG_BYTES:
            raise WrapError("the wrapped key does not open")
        encapsulated, ciphertext = wrapped[:KEY_BYTES], wrapped[KEY_BYTES:]
        key = _key(_public(key_pair.private), encapsulated, info)
        try:
            return AESGCM(key).decrypt(_NONCE, ciphertext, None)
        except InvalidTag:
            raise WrapError("the wrapped key does not open") from None


def _public(private: bytes) -> bytes:
    return hashlib.sha256(b"public key of" + private).digest()


def _key(public: bytes, encapsulated: bytes, info: bytes) -> bytes:
    return hashlib.sha256(b"wrap" + public + encapsulated + info).digest()
