"""The data plane: what uses keys. Any node answers alone, at once.

Members and limits: cluster/wire/operations.py. `timeout` is in seconds, the client's own if not given.
"""

from collections.abc import Sequence

from keycluster.client.calls import Calls, members, reading
from keycluster.cluster.wire.operations import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
    GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse,
    GenerateRandomRequest,
    GenerateRandomResponse,
    RecipientInfo,
    ReEncryptRequest,
    ReEncryptResponse,
)

_ENCRYPT = reading("Encrypt", EncryptResponse)
_DECRYPT = reading("Decrypt", DecryptResponse)
_RE_ENCRYPT = reading("ReEncrypt", ReEncryptResponse)
_GENERATE_DATA_KEY = reading("GenerateDataKey", GenerateDataKeyResponse)
_GENERATE_DATA_KEY_WITHOUT_PLAINTEXT = reading(
    "GenerateDataKeyWithoutPlaintext", GenerateDataKeyWithoutPlaintextResponse
)
_GENERATE_RANDOM = reading("GenerateRandom", GenerateRandomResponse)


class DataOperations(Calls):
    """See the module. Each method raises the `KmsError` that the region answers with, or a `KeyClientError`."""

    async def encrypt(
        self,
        *,
        key_id: str,
        plaintext: bytes,
        encryption_context: dict[str, str] | None = None,
        grant_tokens: Sequence[str] | None = None,
        encryption_algorithm: str | None = None,
        dry_run: bool | None = None,
        timeout: float | None = None,
    ) -> EncryptResponse:
        """Encrypts up to 4,096 bytes under a KMS key. The blob names its key, so `decrypt` needs only the blob."""
        request = EncryptRequest(
            key_id=key_id,
            plaintext=plaintext,
            encryption_context=encryption_context,
            grant_tokens=members(grant_tokens),
            encryption_algorithm=encryption_algorithm,
            dry_run=dry_run,
        )
        return await self._call(_ENCRYPT, request, timeout)

    async def decrypt(
        self,
        *,
        ciphertext_blob: bytes | None = None,
        encryption_context: dict[str, str] | None = None,
        grant_tokens: Sequence[str] | None = None,
        key_id: str | None = None,
        encryption_algorithm: str | None = None,
        recipient: RecipientInfo | None = None,
        dry_run: bool | None = None,
        dry_run_modifiers: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> DecryptResponse:
        """The plaintext of a blob. With `key_id` a blob under another key is an IncorrectKeyException."""
        request = DecryptRequest(
            ciphertext_blob=ciphertext_blob,
            encryption_context=encryption_context,
            grant_tokens=members(grant_tokens),
            key_id=key_id,
            encryption_algorithm=encryption_algorithm,
            recipient=recipient,
            dry_run=dry_run,
            dry_run_modifiers=members(dry_run_modifiers),
        )
        return await self._call(_DECRYPT, request, timeout)

    async def re_encrypt(
        self,
        *,
        destination_key_id: str,
        ciphertext_blob: bytes | None = None,
        source_encryption_context: dict[str, str] | None = None,
        source_key_id: str | None = None,
        destination_encryption_context: dict[str, str] | None = None,
        source_encryption_algorithm: str | None = None,
        destination_encryption_algorithm: str | None = None,
        grant_tokens: Sequence[str] | None = None,
        dry_run: bool | None = None,
        dry_run_modifiers: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> ReEncryptResponse:
        """Moves a blob under another key or context; the plaintext never leaves the node."""
        request = ReEncryptRequest(
            destination_key_id=destination_key_id,
            ciphertext_blob=ciphertext_blob,
            source_encryption_context=source_encryption_context,
            source_key_id=source_key_id,
            destination_encryption_context=destination_encryption_context,
            source_encryption_algorithm=source_encryption_algorithm,
            destination_encryption_algorithm=destination_encryption_algorithm,
            grant_tokens=members(grant_tokens),
            dry_run=dry_run,
            dry_run_modifiers=members(dry_run_modifiers),
        )
        return await self._call(_RE_ENCRYPT, request, timeout)

    async def generate_data_key(
        self,
        *,
        key_id: str,
        encryption_context: dict[str, str] | None = None,
        number_of_bytes: int | None = None,
        key_spec: str | None = None,
        grant_tokens: Sequence[str] | None = None,
        recipient: RecipientInfo | None = None,
        dry_run: bool | None = None,
        timeout: float | None = None,
    ) -> GenerateDataKeyResponse:
        """A fresh data key, in the clear and encrypted. Give `key_spec` or `number_of_bytes`."""
        request = GenerateDataKeyRequest(
            key_id=key_id,
            encryption_context=encryption_context,
            number_of_bytes=number_of_bytes,
            key_spec=key_spec,
            grant_tokens=members(grant_tokens),
            recipient=recipient,
            dry_run=dry_run,
        )
        return await self._call(_GENERATE_DATA_KEY, request, timeout)

    async def generate_data_key_without_plaintext(
        self,
        *,
        key_id: str,
        encryption_context: dict[str, str] | None = None,
        key_spec: str | None = None,
        number_of_bytes: int | None = None,
        grant_tokens: Sequence[str] | None = None,
        dry_run: bool | None = None,
        timeout: float | None = None,
    ) -> GenerateDataKeyWithoutPlaintextResponse:
        """A fresh data key, encrypted only: for whoever will decrypt it later."""
        request = GenerateDataKeyWithoutPlaintextRequest(
            key_id=key_id,
            encryption_context=encryption_context,
            key_spec=key_spec,
            number_of_bytes=number_of_bytes,
            grant_tokens=members(grant_tokens),
            dry_run=dry_run,
        )
        return await self._call(_GENERATE_DATA_KEY_WITHOUT_PLAINTEXT, request, timeout)

    async def generate_random(
        self,
        *,
        number_of_bytes: int | None = None,
        custom_key_store_id: str | None = None,
        recipient: RecipientInfo | None = None,
        timeout: float | None = None,
    ) -> GenerateRandomResponse:
        """Up to 1,024 random bytes from a node."""
        request = GenerateRandomRequest(
            number_of_bytes=number_of_bytes, custom_key_store_id=custom_key_store_id, recipient=recipient
        )
        return await self._call(_GENERATE_RANDOM, request, timeout)
