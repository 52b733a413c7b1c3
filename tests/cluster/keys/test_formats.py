"""The vectors of docs/formats.md for keys, tokens, contexts and blobs, through every entry point."""

from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from keycluster.cluster.keys.blob import BlobKey, BlobMalformed, BlobUnverified, parse_blob
from keycluster.cluster.keys.context import canonical_context
from keycluster.cluster.keys.hierarchy import Keyring, Purpose, hkdf_info
from keycluster.cluster.keys.records import BackingKey, KeyRecord, KeyState, RotationType
from keycluster.cluster.keys.token import (
    TokenMeta,
    open_backing_key,
    open_secret,
    seal_backing_key,
    seal_secret,
)
from keycluster.cluster.types import LogIndex
from keycluster.cluster.wire.errors import InvalidCiphertextException
from keycluster.cluster.wire.operations import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyRequest,
    ReEncryptRequest,
)
from keycluster.node.operations.data import decrypt, encrypt, generate_data_key, re_encrypt
from tests.format_vectors import FORMATS, format_vectors
from tests.room_on_memory import NOW, RoomOnMemory, SeededEntropy

BLOBS = format_vectors("blob")
Vector = dict[str, Any]


def keyring(vector: Vector) -> Keyring:
    number = vector["generation"]
    return Keyring(vector["region"], {number: vector["generation key"]}, number)


class VectorEntropy(SeededEntropy):
    """Gives out the random bytes of vectors, in order."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self._pieces = list(pieces)

    def random_bytes(self, count: int) -> bytes:
        piece = self._pieces.pop(0)
        assert len(piece) == count, "asked for another number of random bytes than the format says"
        return piece


def region_with(vector: Vector) -> RoomOnMemory:
    """A region that has the vector's key, its token sealed for that region as documented."""
    region = RoomOnMemory()
    meta = TokenMeta(
        account=region.caller().account,
        key_id=vector["key id"],
        backing_key_id=vector["backing key id"],
        spec="SYMMETRIC_DEFAULT",
        usage="ENCRYPT_DECRYPT",
        origin="AWS_KMS",
    )
    token = seal_backing_key(region.keyring, 1, vector["backing key"], meta=meta, nonce=bytes(12))
    backing = BackingKey(vector["backing key id"], token, NOW, RotationType.INITIAL, LogIndex(2))
    record = KeyRecord(vector["key id"], meta.account, NOW, KeyState.ENABLED, (backing,))
    region.put_key(record)
    return region


@pytest.mark.parametrize("vector", format_vectors("purpose key"))
def test_purpose_key_vector(vector: Vector) -> None:
    """HKDF with the documented info, by our code and by `cryptography` alone."""
    purpose = Purpose(vector["purpose"])
    assert hkdf_info(vector["region"], vector["generation"], purpose) == vector["info"]
    assert keyring(vector).purpose_key(vector["generation"], purpose) == vector["purpose key"]
    by_hand = HKDF(algorithm=SHA256(), length=32, salt=b"keycluster/domain-key/1", info=vector["info"])
    assert by_hand.derive(vector["generation key"]) == vector["purpose key"]


def test_every_purpose_is_documented() -> None:
    """The table of purposes in the document is the enumeration."""
    section = FORMATS.read_text().split("## Purpose keys")[1].split("\n## ")[0]
    rows = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert rows == [purpose.value for purpose in Purpose]


@pytest.mark.parametrize("vector", format_vectors("key token"))
def test_key_token_vector(vector: Vector) -> None:
    """Sealed and opened by our code, and opened by `cryptography` alone with the documented additional data."""
    ring = keyring(vector)
    meta = TokenMeta(
        account=vector["account"],
        key_id=vector["key id"],
        backing_key_id=vector["backing key id"],
        spec=vector["spec"],
        usage=vector["usage"],
        origin=vector["origin"],
    )
    token = seal_backing_key(ring, vector["generation"], vector["backing key"], meta=meta, nonce=vector["nonce"])
    assert token == vector["token"]
    assert open_backing_key(ring, token, meta) == vector["backing key"]
    gcm = AESGCM(ring.purpose_key(vector["generation"], Purpose.TOKEN))
    assert gcm.decrypt(token[5:17], token[17:], vector["additional data"]) == vector["backing key"]


@pytest.mark.parametrize("vector", format_vectors("sealed secret"))
def test_sealed_secret_vector(vector: Vector) -> None:
    """As for key tokens."""
    ring, purpose, owner = keyring(vector), Purpose(vector["purpose"]), vector["owner"]
    sealed = seal_secret(
        ring, vector["generation"], purpose, secret=vector["secret"], owner=owner, nonce=vector["nonce"]
    )
    assert sealed == vector["sealed"]
    assert open_secret(ring, purpose, sealed, owner=owner) == vector["secret"]
    gcm = AESGCM(ring.purpose_key(vector["generation"], purpose))
    assert gcm.decrypt(sealed[5:17], sealed[17:], vector["additional data"]) == vector["secret"]


@pytest.mark.parametrize("vector", format_vectors("canonical context"))
def test_canonical_context_vector(vector: Vector) -> None:
    """Whatever order the pairs come in."""
    context = vector["context"]
    assert canonical_context(context) == vector["canonical"]
    assert canonical_context(dict(reversed(context.items()))) == vector["canonical"]


@pytest.mark.parametrize("vector", BLOBS)
def test_blob_vector_by_the_document_alone(vector: Vector) -> None:
    """Built from `cryptography` and the page, with none of our code."""
    context = sha256(canonical_context(vector["context"])).digest()
    kdf = KBKDFHMAC(
        algorithm=SHA256(),
        mode=Mode.CounterMode,
        length=64,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=b"keycluster/blob/1",
        context=vector["header"] + context,
        fixed=None,
    )
    assert kdf.derive(vector["backing key"]) == vector["derived key"] + vector["commitment"]
    assert vector["header"][35:] == vector["random"][:16]
    additional = vector["header"] + vector["random"][16:] + vector["commitment"]
    sealed = AESGCM(vector["derived key"]).encrypt(vector["random"][16:], vector["plaintext"], additional)
    assert additional + len(vector["plaintext"]).to_bytes(2, "big") + sealed == vector["blob"]


@pytest.mark.parametrize("vector", BLOBS)
def test_blob_vector(vector: Vector) -> None:
    """By the codec itself."""
    key = BlobKey(vector["key id"], vector["backing key id"], vector["backing key"])
    context = canonical_context(vector["context"])
    assert key.encrypt(vector["plaintext"], context, vector["random"]) == vector["blob"]
    blob = parse_blob(vector["blob"])
    assert (blob.key_id, blob.backing_key_id) == (vector["key id"], vector["backing key id"])
    assert key.decrypt(blob, context) == vector["plaintext"]


@pytest.mark.parametrize("vector", BLOBS)
def test_blob_vector_through_the_operations(vector: Vector) -> None:
    """Encrypt, Decrypt, both sides of ReEncrypt, and GenerateDataKey give and take the vector's bytes."""
    region = region_with(vector)
    room, caller = region.room, region.caller()
    context, blob, plaintext = vector["context"], vector["blob"], vector["plaintext"]

    room.entropy = VectorEntropy(vector["random"])
    sealed = encrypt(
        room, caller, EncryptRequest(key_id=vector["key id"], plaintext=plaintext, encryption_context=context)
    )
    assert sealed.ciphertext_blob == blob

    opened = decrypt(room, caller, DecryptRequest(ciphertext_blob=blob, encryption_context=context))
    assert opened.plaintext == plaintext

    room.entropy = VectorEntropy(vector["random"])
    again = re_encrypt(
        room,
        caller,
        ReEncryptRequest(
            ciphertext_blob=blob,
            destination_key_id=vector["key id"],
            source_encryption_context=context,
            destination_encryption_context=context,
        ),
    )
    assert again.ciphertext_blob == blob

    room.entropy = VectorEntropy(plaintext, vector["random"])
    data_key = generate_data_key(
        room,
        caller,
        GenerateDataKeyRequest(key_id=vector["key id"], number_of_bytes=len(plaintext), encryption_context=context),
    )
    assert (data_key.plaintext, data_key.ciphertext_blob) == (plaintext, blob)


@pytest.mark.parametrize("vector", format_vectors("refused blob"), ids=lambda vector: vector["why"])
def test_refused_blob_vector(vector: Vector) -> None:
    """Refused by the codec as documented, and by Decrypt as an invalid ciphertext."""
    first = BLOBS[0]
    key, context = BlobKey(first["key id"], first["backing key id"], first["backing key"]), first["context"]
    expected = {"malformed": BlobMalformed, "unverified": BlobUnverified}[vector["error"]]
    with pytest.raises(expected):
        key.decrypt(parse_blob(vector["blob"]), canonical_context(context))
    region = region_with(first)
    request = DecryptRequest(ciphertext_blob=vector["blob"], encryption_context=context)
    with pytest.raises(InvalidCiphertextException):
        decrypt(region.room, region.caller(), request)


def test_key_token_vector_opens_what_the_room_needs() -> None:
    """The token of the document, found in a key's record, gives the backing key of the first blob."""
    vector, blob = format_vectors("key token")[0], BLOBS[0]
    assert vector["backing key"] == blob["backing key"]
    region = RoomOnMemory()
    region.room.keyring = keyring(vector)
    backing = BackingKey(vector["backing key id"], vector["token"], NOW, RotationType.INITIAL, LogIndex(2))
    record = KeyRecord(vector["key id"], vector["account"], NOW, KeyState.ENABLED, (backing,))
    region.put_key(record)
    request = DecryptRequest(ciphertext_blob=blob["blob"], encryption_context=blob["context"])
    assert decrypt(region.room, region.caller(), request).plaintext == blob["plaintext"]
