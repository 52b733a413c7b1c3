"""Writes vectors.json: messages of the AWS Encryption SDK and of this client, with the data keys that open them.

The data keys were made for this and protect nothing. Run it by hand when a vector is added; the others then change too,
since every message has fresh keys. Made with aws-encryption-sdk 4.0.7.
"""

import base64
import json
import os
from pathlib import Path

import aws_encryption_sdk
import boto3
from aws_encryption_sdk.identifiers import Algorithm
from aws_encryption_sdk.key_providers.kms import KMSMasterKey

from keycluster.client.envelope.encryptor import MessageEncryptor
from keycluster.client.envelope.format import PUBLIC_KEY_NAME, EncryptedDataKey, Suite
from keycluster.client.envelope.keys import Signer
from keycluster.client.surroundings import REAL

ARN = "arn:aws:kms:us-east-1:123456789012:key/5f7a6b1c-0d7e-4a53-9f6f-2d5d7d2b9f10"
CONTEXT = {"purpose": "vector", "名": "värde"}
ALGORITHMS = {
    Suite.SIGNED: Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384,
    Suite.UNSIGNED: Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
}


def by_sdk(plaintext: bytes, suite: Suite, context: dict[str, str], frame_bytes: int) -> tuple[bytes, bytes]:
    """The message and its data key."""
    data_key = os.urandom(32)
    client = boto3.client("kms", region_name="us-east-1", aws_access_key_id="-", aws_secret_access_key="-")
    client.generate_data_key = lambda **_: {"Plaintext": data_key, "CiphertextBlob": os.urandom(60), "KeyId": ARN}
    message, _ = aws_encryption_sdk.EncryptionSDKClient().encrypt(
        source=plaintext,
        key_provider=KMSMasterKey(key_id=ARN, client=client),
        algorithm=ALGORITHMS[suite],
        encryption_context=context,
        frame_length=frame_bytes,
    )
    return message, data_key


def by_us(plaintext: bytes, suite: Suite, context: dict[str, str], frame_bytes: int) -> tuple[bytes, bytes]:
    """The message and its data key."""
    data_key = os.urandom(32)
    signer = Signer(REAL.new_signing_key()) if suite is Suite.SIGNED else None
    encryptor = MessageEncryptor(
        suite=suite,
        data_key=data_key,
        encrypted_data_keys=(EncryptedDataKey(b"aws-kms", ARN.encode(), os.urandom(60)),),
        context=context if signer is None else {**context, PUBLIC_KEY_NAME: signer.public_key},
        signer=signer,
        message_id=os.urandom(32),
        frame_bytes=frame_bytes,
    )
    return encryptor.header + encryptor.update(plaintext) + encryptor.finish(), data_key


def main() -> None:
    cases = [
        ("sdk", by_sdk, Suite.SIGNED, CONTEXT, 128, 300),
        ("sdk", by_sdk, Suite.SIGNED, {}, 128, 0),
        ("sdk", by_sdk, Suite.SIGNED, CONTEXT, 0, 300),
        ("sdk", by_sdk, Suite.UNSIGNED, CONTEXT, 128, 256),
        ("sdk", by_sdk, Suite.UNSIGNED, {}, 4096, 1),
        ("sdk", by_sdk, Suite.UNSIGNED, {}, 0, 0),
        ("us", by_us, Suite.SIGNED, CONTEXT, 128, 300),
        ("us", by_us, Suite.UNSIGNED, {}, 65536, 0),
    ]
    vectors = []
    for maker, make, suite, context, frame_bytes, size in cases:
        plaintext = os.urandom(size)
        message, data_key = make(plaintext, suite, context, frame_bytes)
        vectors.append(
            {
                "name": f"{maker}-{suite:04x}-frame{frame_bytes}-size{size}",
                "suite": int(suite),
                "key_arn": ARN,
                "context": context,
                "frame_bytes": frame_bytes,
                "data_key": data_key.hex(),
                "plaintext": base64.b64encode(plaintext).decode(),
                "message": base64.b64encode(message).decode(),
            }
        )
    (Path(__file__).parent / "vectors.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
