"""The data plane: operations that use a key (design.md, "Two doors, one room"). Plain synchronous code, the hot path.

The order of checks, everywhere: what the request alone decides; which key, and whether the caller may (one answer
where it doesn't exist or isn't theirs); whether the key is in a state and of a kind to do it; the cryptography. A dry
run goes all the way to where an answer would leave. Codes and texts are AWS's.

The door has checked that members have their types and keep AWS's constraints (1 to 4,096 bytes of plaintext, …).
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from keycluster.cluster.keys.authorise import authorise
from keycluster.cluster.keys.blob import RANDOM_BYTES, Blob, BlobKey, BlobMalformed, BlobUnverified, parse_blob
from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.keys.context import ContextInvalid, canonical_context
from keycluster.cluster.keys.describe import key_material_id
from keycluster.cluster.keys.key_states import check_state
from keycluster.cluster.keys.records import KeyState
from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    CustomKeyStoreNotFoundException,
    DryRunOperationException,
    IncorrectKeyException,
    InvalidCiphertextException,
    InvalidGrantTokenException,
    InvalidKeyUsageException,
    UnsupportedOperationException,
    ValidationException,
)
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
from keycluster.node.room import HotKey, Room

T = TypeVar("T")

SYMMETRIC_DEFAULT: Final = "SYMMETRIC_DEFAULT"
IGNORE_CIPHERTEXT: Final = "IGNORE_CIPHERTEXT"
DATA_KEY_BYTES: Final = {"AES_256": 32, "AES_128": 16}

# One text for a key that a blob names, whether it doesn't exist or isn't the caller's (security.md, 10).
NO_USABLE_KEY: Final = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not "
    "allowed to access."
)
WRONG_KEY: Final = "The key ID in the request does not identify a CMK that can perform this operation."
EITHER_SIZE: Final = "Please specify either number of bytes or key spec."
DRY_RUN_SUCCEEDED: Final = "The request would have succeeded, but the DryRun option is set."


def encrypt(room: Room, caller: Caller, request: EncryptRequest) -> EncryptResponse:
    context = _canonical(request.encryption_context)
    _check_grant_tokens(request.grant_tokens)
    key = room.resolve(request.key_id, caller, action="kms:Encrypt")
    _check_usable(key, request.encryption_algorithm, "Encrypt")
    backing = key.current
    _end_dry_run(request.dry_run)
    blob = backing.encrypt(request.plaintext, context, room.entropy.random_bytes(RANDOM_BYTES))
    return EncryptResponse(ciphertext_blob=blob, key_id=key.arn, encryption_algorithm=SYMMETRIC_DEFAULT)


def decrypt(room: Room, caller: Caller, request: DecryptRequest) -> DecryptResponse:
    context = _canonical(request.encryption_context)
    _check_recipient(request.recipient)
    _check_grant_tokens(request.grant_tokens)
    if _ignores_ciphertext(request.dry_run, request.dry_run_modifiers):
        key = room.resolve(_required(request.key_id, "keyId"), caller, action="kms:Decrypt")
        _check_usable(key, request.encryption_algorithm, "Decrypt")
        _end_dry_run(request.dry_run)
    blob = _parsed(request.ciphertext_blob)
    key = _key_of_blob(room, caller, blob, context, named=request.key_id, action="kms:Decrypt")
    _check_usable(key, request.encryption_algorithm, "Decrypt")
    plaintext = _open(key, blob, context)
    _end_dry_run(request.dry_run)
    return DecryptResponse(
        key_id=key.arn,
        plaintext=plaintext,
        encryption_algorithm=SYMMETRIC_DEFAULT,
        key_material_id=key_material_id(blob.key_id, blob.backing_key_id),
    )


def re_encrypt(room: Room, caller: Caller, request: ReEncryptRequest) -> ReEncryptResponse:
    """Decrypt and Encrypt in one, each with a context of its own. Both keys are allowed before anything is opened."""
    source_context = _canonical(request.source_encryption_context)
    destination_context = _canonical(request.destination_encryption_context)
    _check_grant_tokens(request.grant_tokens)
    if _ignores_ciphertext(request.dry_run, request.dry_run_modifiers):
        source = room.resolve(_required(request.source_key_id, "sourceKeyId"), caller, action="kms:ReEncryptFrom")
        _check_usable(source, request.source_encryption_algorithm, "ReEncrypt")
        _destination(room, caller, request)
        _end_dry_run(request.dry_run)
    blob = _parsed(request.ciphertext_blob)
    source = _key_of_blob(room, caller, blob, source_context, named=request.source_key_id, action="kms:ReEncryptFrom")
    _check_usable(source, request.source_encryption_algorithm, "ReEncrypt")
    destination, backing = _destination(room, caller, request)
    plaintext = _open(source, blob, source_context)
    _end_dry_run(request.dry_run)
    return ReEncryptResponse(
        ciphertext_blob=backing.encrypt(plaintext, destination_context, room.entropy.random_bytes(RANDOM_BYTES)),
        source_key_id=source.arn,
        key_id=destination.arn,
        source_encryption_algorithm=SYMMETRIC_DEFAULT,
        destination_encryption_algorithm=SYMMETRIC_DEFAULT,
        source_key_material_id=key_material_id(blob.key_id, blob.backing_key_id),
        destination_key_material_id=key_material_id(destination.record.key_id, backing.backing_key_id),
    )


def generate_data_key(room: Room, caller: Caller, request: GenerateDataKeyRequest) -> GenerateDataKeyResponse:
    _check_recipient(request.recipient)
    data_key, blob, key, material = _new_data_key(room, caller, request, "GenerateDataKey")
    return GenerateDataKeyResponse(ciphertext_blob=blob, plaintext=data_key, key_id=key.arn, key_material_id=material)


def generate_data_key_without_plaintext(
    room: Room, caller: Caller, request: GenerateDataKeyWithoutPlaintextRequest
) -> GenerateDataKeyWithoutPlaintextResponse:
    _, blob, key, material = _new_data_key(room, caller, request, "GenerateDataKeyWithoutPlaintext")
    return GenerateDataKeyWithoutPlaintextResponse(ciphertext_blob=blob, key_id=key.arn, key_material_id=material)


def generate_random(room: Room, caller: Caller, request: GenerateRandomRequest) -> GenerateRandomResponse:
    """Random bytes from this node's own source. There are no custom key stores yet, so none is ever found."""
    if request.number_of_bytes is None:
        raise ValidationException("NumberOfBytes is required.")
    _check_recipient(request.recipient)
    authorise(caller, "kms:GenerateRandom", None)
    if request.custom_key_store_id is not None:
        raise CustomKeyStoreNotFoundException(f"Custom key store {request.custom_key_store_id} does not exist.")
    return GenerateRandomResponse(plaintext=room.entropy.random_bytes(request.number_of_bytes))


DATA: Final[dict[str, Callable[[Room, Caller, Any], Any]]] = {
    "Encrypt": encrypt,
    "Decrypt": decrypt,
    "ReEncrypt": re_encrypt,
    "GenerateDataKey": generate_data_key,
    "GenerateDataKeyWithoutPlaintext": generate_data_key_without_plaintext,
    "GenerateRandom": generate_random,
}
"""Handlers by operation: `(room, caller, request)` gives the response or raises a KmsError."""


def _new_data_key(
    room: Room,
    caller: Caller,
    request: GenerateDataKeyRequest | GenerateDataKeyWithoutPlaintextRequest,
    operation: str,
) -> tuple[bytes, bytes, HotKey, str]:
    """A fresh data key, its blob, the key that encrypts it and the name of that key's material."""
    size = _data_key_bytes(request.key_spec, request.number_of_bytes)
    context = _canonical(request.encryption_context)
    _check_grant_tokens(request.grant_tokens)
    key = room.resolve(request.key_id, caller, action=f"kms:{operation}")
    _check_usable(key, None, operation)
    backing = key.current
    _end_dry_run(request.dry_run)
    data_key = room.entropy.random_bytes(size)
    blob = backing.encrypt(data_key, context, room.entropy.random_bytes(RANDOM_BYTES))
    return data_key, blob, key, key_material_id(key.record.key_id, backing.backing_key_id)


def _data_key_bytes(key_spec: str | None, number_of_bytes: int | None) -> int:
    """By exactly one of the two."""
    if key_spec is None and number_of_bytes is not None:
        return number_of_bytes
    if key_spec is not None and number_of_bytes is None:
        return DATA_KEY_BYTES[key_spec]
    raise ValidationException(EITHER_SIZE)


def _destination(room: Room, caller: Caller, request: ReEncryptRequest) -> tuple[HotKey, BlobKey]:
    key = room.resolve(request.destination_key_id, caller, action="kms:ReEncryptTo")
    _check_usable(key, request.destination_encryption_algorithm, "ReEncrypt")
    return key, key.current


def _key_of_blob(room: Room, caller: Caller, blob: Blob, context: bytes, *, named: str | None, action: str) -> HotKey:
    """The key that a blob claims, which must also be the one that the request names, if it names any."""
    if named is not None:
        key = room.resolve(named, caller, action=action)
        if key.record.key_id != blob.key_id:
            raise IncorrectKeyException(WRONG_KEY)
        return key
    claimed = room.claimed_key(blob.key_id, caller, action=action)
    if claimed is None:
        _decrypt_in_vain(room, blob, context)
        raise AccessDeniedException(NO_USABLE_KEY)
    return claimed


def _decrypt_in_vain(room: Room, blob: Blob, context: bytes) -> None:
    """A refusal takes a decryption's time too, whether there is such a key or not."""
    with suppress(BlobUnverified):
        room.decoy.decrypt(blob, context)


def _open(key: HotKey, blob: Blob, context: bytes) -> bytes:
    """The plaintext. A backing key that this CMK never had, another context, changed bytes: one error, no message."""
    backing = key.blob_key(blob.backing_key_id)
    if backing is None:
        raise InvalidCiphertextException
    try:
        return backing.decrypt(blob, context)
    except BlobUnverified:
        raise InvalidCiphertextException from None


def _parsed(ciphertext: bytes | None) -> Blob:
    try:
        return parse_blob(_required(ciphertext, "ciphertextBlob"))
    except BlobMalformed:
        raise InvalidCiphertextException from None


def _canonical(context: Mapping[str, str] | None) -> bytes:
    try:
        return canonical_context(context)
    except ContextInvalid as error:
        raise ValidationException(str(error)) from None


def _check_usable(key: HotKey, algorithm: str | None, operation: str) -> None:
    record = key.record
    if record.state is not KeyState.ENABLED:
        check_state(operation, record.state, key.arn)
    if record.spec != SYMMETRIC_DEFAULT or (algorithm is not None and algorithm != SYMMETRIC_DEFAULT):
        raise InvalidKeyUsageException(
            f"Algorithm {algorithm or SYMMETRIC_DEFAULT} is incompatible with key spec {record.spec}."
        )


def _check_grant_tokens(tokens: tuple[str, ...] | None) -> None:
    """There are no grants yet, so no token names one."""
    if tokens:
        raise InvalidGrantTokenException("The grant token is not valid.")


def _check_recipient(recipient: RecipientInfo | None) -> None:
    """A caller who asks for an answer that only an attested enclave can read must not get it in the clear.

    Of AWS's errors this one says "a specified parameter is not supported"; another document would change nothing.
    """
    if recipient is not None:
        raise UnsupportedOperationException("The Recipient parameter is not supported.")


def _ignores_ciphertext(dry_run: bool | None, modifiers: tuple[str, ...] | None) -> bool:
    """AWS: modifiers only apply when DryRun is set to true."""
    return bool(dry_run and modifiers and IGNORE_CIPHERTEXT in modifiers)


def _end_dry_run(dry_run: bool | None) -> None:
    """Where the answer would leave."""
    if dry_run:
        raise DryRunOperationException(DRY_RUN_SUCCEEDED)


def _required(value: T | None, member: str) -> T:
    if value is None:
        raise ValidationException(
            f"1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must not be null"
        )
    return value
