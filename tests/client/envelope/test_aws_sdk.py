"""The AWS Encryption SDK for Python and this client read each other's messages."""

import base64
import io
import json
import os
from pathlib import Path
from typing import TypedDict

import aws_encryption_sdk
import boto3
import pytest
from aws_encryption_sdk.identifiers import Algorithm
from aws_encryption_sdk.key_providers.kms import KMSMasterKey

from keycluster.client.envelope import streams
from keycluster.client.envelope.format import ContentType, Suite, decode_header
from keycluster.cluster.wire.operations import DecryptResponse, GenerateDataKeyResponse
from tests.client.local_keys import LocalKeys
from tests.client.loops import Run


class Vector(TypedDict):
    """One message of vectors.json."""

    name: str
    suite: int
    frame_bytes: int
    context: dict[str, str]
    key_arn: str
    data_key: str
    plaintext: str
    message: str


FRAME = 4096
SIZES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 3_000_001]
SUITES = {
    Suite.SIGNED: Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384,
    Suite.UNSIGNED: Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
}
CONTEXT = {"purpose": "interop", "名": "värde", "empty": ""}
VECTORS: list[Vector] = json.loads((Path(__file__).parent / "vectors.json").read_text())


@pytest.fixture
def master_key(keys: LocalKeys) -> KMSMasterKey:
    """The SDK's own KMS key provider; its boto3 client asks the keys in memory instead of a server."""
    client = boto3.client(
        "kms", region_name="us-east-1", aws_access_key_id="unused", aws_secret_access_key="unused", use_ssl=False
    )

    # As AWS names its members.
    def generate_data_key(
        *,
        KeyId: str,  # noqa: N803
        NumberOfBytes: int,  # noqa: N803
        EncryptionContext: dict[str, str] | None = None,  # noqa: N803
    ) -> dict[str, object]:
        plaintext = os.urandom(NumberOfBytes)
        blob = keys.wrap(KeyId, plaintext, EncryptionContext)
        return {"Plaintext": plaintext, "CiphertextBlob": blob, "KeyId": KeyId}

    def decrypt(
        *,
        KeyId: str,  # noqa: N803
        CiphertextBlob: bytes,  # noqa: N803
        EncryptionContext: dict[str, str] | None = None,  # noqa: N803
    ) -> dict[str, object]:
        return {"Plaintext": keys.unwrap(KeyId, CiphertextBlob, EncryptionContext), "KeyId": KeyId}

    client.generate_data_key, client.decrypt = generate_data_key, decrypt
    return KMSMasterKey(key_id=keys.arn, client=client)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", SIZES)
def test_sdk_reads_our_message(run: Run, keys: LocalKeys, master_key: KMSMasterKey, size: int, suite: Suite) -> None:
    """AWS's SDK decrypts what encrypt_stream wrote, context and suite included."""

    async def body() -> None:
        plaintext, sink = os.urandom(size), io.BytesIO()
        await streams.encrypt_stream(
            keys,
            io.BytesIO(plaintext),
            sink,
            key_id=keys.arn,
            encryption_context=CONTEXT,
            suite=suite,
            frame_bytes=FRAME,
        )
        got, header = aws_encryption_sdk.EncryptionSDKClient().decrypt(source=sink.getvalue(), key_provider=master_key)
        assert got == plaintext
        assert CONTEXT.items() <= header.encryption_context.items()
        assert header.algorithm is SUITES[suite]

    run(body)


@pytest.mark.parametrize("frame_bytes", [FRAME, 0], ids=["framed", "single"])
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", SIZES)
def test_we_read_the_sdks_message(
    run: Run, keys: LocalKeys, master_key: KMSMasterKey, size: int, suite: Suite, frame_bytes: int
) -> None:
    """decrypt_stream reads what AWS's SDK wrote, in frames or as one block."""

    async def body() -> None:
        plaintext, sink = os.urandom(size), io.BytesIO()
        message, _ = aws_encryption_sdk.EncryptionSDKClient().encrypt(
            source=plaintext,
            key_provider=master_key,
            algorithm=SUITES[suite],
            encryption_context=CONTEXT,
            frame_length=frame_bytes,
        )
        result = await streams.decrypt_stream(keys, io.BytesIO(message), sink, encryption_context=CONTEXT)
        assert sink.getvalue() == plaintext
        assert result == streams.EnvelopeResult(keys.arn, CONTEXT, suite, size, len(message))

    run(body)


def test_default_frames_of_ours_are_read_by_the_sdk(run: Run, keys: LocalKeys, master_key: KMSMasterKey) -> None:
    """Our longer default frames are no obstacle to AWS's SDK."""

    async def body() -> None:
        plaintext, sink = os.urandom(1_000_000), io.BytesIO()
        await streams.encrypt_stream(keys, io.BytesIO(plaintext), sink, key_id=keys.arn)
        got, header = aws_encryption_sdk.EncryptionSDKClient().decrypt(source=sink.getvalue(), key_provider=master_key)
        assert got == plaintext
        assert header.frame_length == 64 * 1024

    run(body)


class VectorKeys:
    """Unwraps exactly one vector's encrypted data key."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector

    async def generate_data_key(
        self, *, key_id: str, encryption_context: dict[str, str] | None = None, number_of_bytes: int | None = None
    ) -> GenerateDataKeyResponse:
        raise AssertionError("a vector is only opened")

    async def decrypt(
        self,
        *,
        ciphertext_blob: bytes | None = None,
        encryption_context: dict[str, str] | None = None,
        key_id: str | None = None,
    ) -> DecryptResponse:
        header, _ = decode_header(base64.b64decode(self.vector["message"]))
        assert (ciphertext_blob, key_id) == (header.keys[0].ciphertext, self.vector["key_arn"])
        assert encryption_context == dict(header.context) or not header.context
        data_key = bytes.fromhex(self.vector["data_key"])
        return DecryptResponse(
            plaintext=data_key, key_id=self.vector["key_arn"], encryption_algorithm="SYMMETRIC_DEFAULT"
        )


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector_opens(run: Run, vector: Vector) -> None:
    """Messages written once by AWS's SDK and by us (make_vectors.py) go on opening, with every detail as it was."""

    async def body() -> None:
        keys = VectorKeys(vector)
        message, sink = base64.b64decode(vector["message"]), io.BytesIO()
        result = await streams.decrypt_stream(keys, io.BytesIO(message), sink)
        assert sink.getvalue() == base64.b64decode(vector["plaintext"])
        assert await streams.decrypt_text(keys, vector["message"]) == sink.getvalue()
        assert (result.key_id, result.suite) == (vector["key_arn"], vector["suite"])
        assert result.encryption_context == vector["context"]
        header, _ = decode_header(message)
        assert header.frame_bytes == vector["frame_bytes"]
        assert (header.content_type is ContentType.SINGLE) == (vector["frame_bytes"] == 0)

    run(body)
