"""What a message's data key becomes, and the signature of a signed message.

The data key (32 bytes) and the message id give two values by HKDF-SHA-512 with the id as salt: the message key (info:
suite ‖ "DERIVEKEY") for AES-256-GCM, and the commitment (info: "COMMITKEY"), which is in the header. GCM alone commits
to no key: without the check of the commitment one message could open as two texts under two keys.
Source: AWS Encryption SDK Developer Guide, "Algorithm suites reference", and RFC 5869.
"""

import base64
import binascii
import hmac
import struct

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keycluster.client.envelope.format import COMMITMENT_BYTES, PUBLIC_KEY_NAME, Suite, frame_nonce
from keycluster.client.errors import EnvelopeError

DATA_KEY_BYTES = 32
SIGNATURE_BYTES = 103  # AWS's SDKs sign until the DER has this length, and some expect it.
SIGNATURE_BYTES_MAX = 104  # The longest DER of two 384-bit numbers.
_P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


class MessageKeys:
    """The message key, ready for use, and the commitment."""

    __slots__ = ("aead", "commitment")

    def __init__(self, *, data_key: bytes, suite: Suite, message_id: bytes) -> None:
        if len(data_key) != DATA_KEY_BYTES:
            raise EnvelopeError(f"the data key has {len(data_key)} bytes; {DATA_KEY_BYTES} are needed")
        self.aead = AESGCM(_derive(data_key, message_id, struct.pack(">H", suite) + b"DERIVEKEY", DATA_KEY_BYTES))
        self.commitment = _derive(data_key, message_id, b"COMMITKEY", COMMITMENT_BYTES)

    def header_tag(self, body: bytes) -> bytes:
        return self.aead.encrypt(frame_nonce(0), b"", body)

    def verify(self, *, commitment: bytes, body: bytes, tag: bytes) -> None:
        """Raises `EnvelopeError` unless the header was made under this data key. Which check failed isn't told."""
        committed = hmac.compare_digest(commitment, self.commitment)
        try:
            self.aead.decrypt(frame_nonce(0), tag, body)
        except InvalidTag:
            committed = False
        if not committed:
            raise EnvelopeError("the message doesn't verify")


def _derive(data_key: bytes, salt: bytes, info: bytes, count: int) -> bytes:
    return HKDF(algorithm=hashes.SHA512(), length=count, salt=salt, info=info).derive(data_key)


class Signer:
    """Signs one message with a key made for it; the public half travels in the encryption context."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        """`key` is a fresh one on P-384, used for nothing else."""
        self._key = key
        self._hash = hashes.Hash(hashes.SHA384())

    @property
    def public_key(self) -> str:
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        return base64.b64encode(point).decode()

    def update(self, content: bytes | bytearray) -> None:
        self._hash.update(content)

    def footer(self) -> bytes:
        """The message's end: u16 length ‖ signature."""
        digest = self._hash.finalize()
        while True:
            signature = self._key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA384())))
            if len(signature) != SIGNATURE_BYTES:
                # (r, order - s) is a signature too, and mostly a byte longer or shorter.
                r, s = decode_dss_signature(signature)
                signature = encode_dss_signature(r, _P384_ORDER - s)
            if len(signature) == SIGNATURE_BYTES:
                return struct.pack(">H", SIGNATURE_BYTES) + signature


class Verifier:
    """Checks one message's signature against the public key in its context."""

    def __init__(self, context_value: str) -> None:
        try:
            point = base64.b64decode(context_value, validate=True)
            self._key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
        except (binascii.Error, ValueError):
            raise EnvelopeError(f"the message's {PUBLIC_KEY_NAME} is not a point of P-384") from None
        self._hash = hashes.Hash(hashes.SHA384())

    def update(self, content: bytes | memoryview) -> None:
        self._hash.update(content)

    def verify(self, signature: bytes) -> None:
        try:
            self._key.verify(signature, self._hash.finalize(), ec.ECDSA(Prehashed(hashes.SHA384())))
        except InvalidSignature:
            raise EnvelopeError("the message's signature doesn't verify") from None
