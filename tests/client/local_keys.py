"""Keys that need no node."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keycluster.client.envelope.format import encode_context
from keycluster.cluster.wire.errors import IncorrectKeyException, InvalidCiphertextException, NotFoundException
from keycluster.cluster.wire.operations import DecryptResponse, GenerateDataKeyResponse


class LocalKeys:
    """A KMS in memory: wraps data keys under one key per ARN, bound to the encryption context, as a node does."""

    def __init__(self) -> None:
        self.arn = "arn:aws:kms:us-east-1:123456789012:key/5f7a6b1c-0d7e-4a53-9f6f-2d5d7d2b9f10"
        self.other_arn = "arn:aws:kms:us-east-1:123456789012:key/b4f1b1a2-98aa-4d3b-8f57-4a3e2d1c0b9a"
        self._wrapping = {self.arn: AESGCM(os.urandom(32)), self.other_arn: AESGCM(os.urandom(32))}
        self.calls: list[str] = []

    def _find(self, key_id: str) -> str:
        for arn in self._wrapping:
            if key_id in (arn, arn.rpartition("/")[2]):
                return arn
        raise NotFoundException(f"Key '{key_id}' does not exist")

    def wrap(self, arn: str, plaintext: bytes, context: dict[str, str] | None) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._wrapping[arn].encrypt(nonce, plaintext, encode_context(context or {}))

    def unwrap(self, arn: str, blob: bytes, context: dict[str, str] | None) -> bytes:
        try:
            return self._wrapping[arn].decrypt(blob[:12], blob[12:], encode_context(context or {}))
        except (InvalidTag, ValueError):
            pass
        for other, key in self._wrapping.items():
            try:
                key.decrypt(blob[:12], blob[12:], encode_context(context or {}))
            except (InvalidTag, ValueError):
                continue
            raise IncorrectKeyException(f"The blob is under {other}")
        raise InvalidCiphertextException

    async def generate_data_key(
        self, *, key_id: str, encryption_context: dict[str, str] | None = None, number_of_bytes: int | None = None
    ) -> GenerateDataKeyResponse:
        self.calls.append("GenerateDataKey")
        arn, plaintext = self._find(key_id), os.urandom(number_of_bytes or 32)
        blob = self.wrap(arn, plaintext, encryption_context)
        return GenerateDataKeyResponse(ciphertext_blob=blob, plaintext=plaintext, key_id=arn)

    async def decrypt(
        self,
        *,
        ciphertext_blob: bytes | None = None,
        encryption_context: dict[str, str] | None = None,
        key_id: str | None = None,
    ) -> DecryptResponse:
        self.calls.append("Decrypt")
        assert key_id is not None, "the envelope always names the key"
        arn = self._find(key_id)
        plaintext = self.unwrap(arn, ciphertext_blob or b"", encryption_context)
        return DecryptResponse(plaintext=plaintext, key_id=arn, encryption_algorithm="SYMMETRIC_DEFAULT")
