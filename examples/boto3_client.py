"""Keycluster from boto3, AWS's own SDK: only the endpoint and the credentials are different.

keycluster dev --dir my-region &
python examples/boto3_client.py my-region/endpoints.json
"""

import json
import sys
from pathlib import Path

import boto3


def main(endpoints: str) -> None:
    region_file = json.loads(Path(endpoints).read_text())
    region, nodes = next(iter(region_file["regions"].items()))
    kms = boto3.client(
        "kms",
        region_name=region,
        endpoint_url=nodes["nodes"][0]["aws"],
        aws_access_key_id=region_file["access_key_id"],
        aws_secret_access_key=region_file["secret_access_key"],
    )
    key_id = kms.create_key(Description="boto3 example")["KeyMetadata"]["KeyId"]
    print("made key", key_id)

    sealed = kms.encrypt(KeyId=key_id, Plaintext=b"a secret", EncryptionContext={"table": "customers"})
    opened = kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext={"table": "customers"})
    print("decrypted", opened["Plaintext"].decode())

    try:
        kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"])
    except kms.exceptions.InvalidCiphertextException:
        print("refused without its context")


if __name__ == "__main__":
    main(sys.argv[1])
