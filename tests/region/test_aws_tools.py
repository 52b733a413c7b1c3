"""AWS's own tools, unmodified, on a real region: boto3, the AWS CLI, the AWS Encryption SDK."""

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aws_encryption_sdk
import pytest
import trio
from aws_encryption_sdk.identifiers import Algorithm
from awscli.clidriver import create_clidriver
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from botocore.httpsession import URLLib3Session

from keycluster import KeyClient, Suite
from tests.region.dev_region import REGION, DevRegion, NodeEndpoint

NODES = [0, 1, 2]
CONTEXT = {"app": "shop", "räksmörgås": "smått"}
AWS = str(Path(sys.executable).with_name("aws"))


def code_of(call: Callable[..., Any], **arguments: Any) -> tuple[str, int]:
    """What a refused call is refused with."""
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    response = refused.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("number", NODES)
def test_boto3_lives_a_keys_whole_life(region: DevRegion, number: int) -> None:
    """Made at one node; seen, used and changed at all of them at once, each of the three in turn."""
    nodes = region.nodes()
    kms, *others = (region.boto3(node) for node in nodes[number:] + nodes[:number])
    alias = f"alias/boto3-{number}"
    key = kms.create_key(Description="whole life", Tags=[{"TagKey": "a", "TagValue": "1"}])["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName=alias, TargetKeyId=key)
    blob = kms.encrypt(KeyId=alias, Plaintext=b"\0" * 4096, EncryptionContext=CONTEXT)["CiphertextBlob"]
    kms.rotate_key_on_demand(KeyId=key)
    kms.enable_key_rotation(KeyId=key, RotationPeriodInDays=90)
    kms.tag_resource(KeyId=key, Tags=[{"TagKey": "b", "TagValue": "2"}])
    kms.untag_resource(KeyId=key, TagKeys=["a"])
    for other in others:
        opened = other.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)
        assert opened["Plaintext"] == b"\0" * 4096
        assert opened["KeyId"].endswith(f":key/{key}")
        assert other.list_resource_tags(KeyId=key)["Tags"] == [{"TagKey": "b", "TagValue": "2"}]
        assert other.get_key_rotation_status(KeyId=key)["RotationPeriodInDays"] == 90
        assert [entry["AliasName"] for entry in other.list_aliases(KeyId=key)["Aliases"]] == [alias]
        assert len(other.list_key_rotations(KeyId=key)["Rotations"]) == 1
        data_key = other.generate_data_key(KeyId=alias, KeySpec="AES_256")
        assert kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"]
    assert kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)["KeyState"] == "PendingDeletion"
    assert [code_of(other.encrypt, KeyId=key, Plaintext=b"x") for other in others] == [
        ("KMSInvalidStateException", 400)
    ] * 2
    others[0].cancel_key_deletion(KeyId=key)
    others[1].enable_key(KeyId=key)
    assert kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyState"] == "Enabled"
    kms.delete_alias(AliasName=alias)
    assert [code_of(other.describe_key, KeyId=alias) for other in others] == [("NotFoundException", 400)] * 2


@pytest.mark.parametrize("number", NODES)
def test_boto3_gets_awss_errors(region: DevRegion, number: int) -> None:
    """The codes and statuses that a program written for AWS acts on."""
    kms = region.boto3(
        region.nodes()[number], config=Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    )
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    missing = "00000000-0000-4000-8000-000000000000"
    blob = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
    refusals = {
        "unknown key": code_of(kms.encrypt, KeyId=missing, Plaintext=b"x"),
        "unknown alias": code_of(kms.encrypt, KeyId="alias/nobody", Plaintext=b"x"),
        "0 bytes": code_of(kms.encrypt, KeyId=key, Plaintext=b""),
        "4,097 bytes": code_of(kms.encrypt, KeyId=key, Plaintext=b"x" * 4097),
        "wrong context": code_of(kms.decrypt, CiphertextBlob=blob, EncryptionContext={"app": "other"}),
        "cut blob": code_of(kms.decrypt, CiphertextBlob=blob[:-1], EncryptionContext=CONTEXT),
        "alias taken": (kms.create_alias(AliasName=f"alias/t{number}", TargetKeyId=key), code_of(
            kms.create_alias, AliasName=f"alias/t{number}", TargetKeyId=key))[1],
        "alias of AWS": code_of(kms.create_alias, AliasName="alias/aws/x", TargetKeyId=key),
        "too soon": code_of(kms.schedule_key_deletion, KeyId=key, PendingWindowInDays=6),
        "own policy": code_of(kms.create_key, Policy='{"Version":"2012-10-17","Statement":[]}'),
        "not built": code_of(kms.create_grant, KeyId=key, GranteePrincipal="a", Operations=["Encrypt"]),
    }  # fmt: skip
    kms.disable_key(KeyId=key)
    refusals["disabled"] = code_of(kms.encrypt, KeyId=key, Plaintext=b"x")
    assert {what: status for what, (_, status) in refusals.items() if status != 400} == {}
    assert {what: code for what, (code, _) in refusals.items()} == {
        "unknown key": "NotFoundException",
        "unknown alias": "NotFoundException",
        "0 bytes": "ValidationException",
        "4,097 bytes": "ValidationException",
        "wrong context": "InvalidCiphertextException",
        "cut blob": "InvalidCiphertextException",
        "alias taken": "AlreadyExistsException",
        "alias of AWS": "InvalidAliasNameException",
        "too soon": "ValidationException",
        "own policy": "UnsupportedOperationException",
        "not built": "UnknownOperationException",
        "disabled": "DisabledException",
    }


@pytest.mark.parametrize("number", NODES)
def test_signatures_are_verified(region: DevRegion, number: int) -> None:
    """Another secret, an unknown access key id and a session token are refused as AWS refuses them."""
    node = region.nodes()[number]
    for changes, code in (
        ({"aws_secret_access_key": "x" * 40}, "InvalidSignatureException"),
        ({"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE"}, "UnrecognizedClientException"),
        ({"aws_session_token": "x" * 100}, "UnrecognizedClientException"),
        ({"region_name": "eu-west-1"}, "InvalidSignatureException"),
    ):
        assert code_of(region.boto3(node, **changes).list_keys) == (code, 400)
    assert "Keys" in region.boto3(node).list_keys()


def test_a_retried_create_key_creates_one_key(region: DevRegion) -> None:
    """The answer to the first attempt is lost; boto3 asks again, under the same invocation id."""
    kms = region.boto3(region.nodes()[1], config=Config(retries={"mode": "standard", "total_max_attempts": 3}))
    attempts: list[tuple[bytes | str, int]] = []

    def lose_the_first_answer(request: AWSPreparedRequest, **_: Any) -> None:
        if attempts:
            attempts.append((request.headers["amz-sdk-invocation-id"], 0))
            return
        answer = URLLib3Session().send(request)
        attempts.append((request.headers["amz-sdk-invocation-id"], answer.status_code))
        raise ConnectionClosedError(endpoint_url=request.url)

    kms.meta.events.register("before-send.kms.CreateKey", lose_the_first_answer)
    before = {key["KeyId"] for key in kms.list_keys(Limit=1000)["Keys"]}
    created = kms.create_key()["KeyMetadata"]["KeyId"]
    assert attempts == [(attempts[0][0], 200), (attempts[0][0], 0)]
    assert {key["KeyId"] for key in kms.list_keys(Limit=1000)["Keys"]} - before == {created}


@pytest.fixture
def in_awss_variables(region: DevRegion, monkeypatch: pytest.MonkeyPatch) -> Callable[[NodeEndpoint], None]:
    """Points AWS's tools at a node, as their users do."""

    def point(node: NodeEndpoint) -> None:
        content = region.read()
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", node.aws)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", content["access_key_id"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", content["secret_access_key"])
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)

    return point


@pytest.mark.parametrize("number", NODES)
def test_the_aws_cli_lives_a_keys_whole_life(
    region: DevRegion,
    in_awss_variables: Callable[[NodeEndpoint], None],
    number: int,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The CLI's own driver, inside this process: starting it takes longer than its calls."""
    in_awss_variables(region.nodes()[number])
    driver = create_clidriver()

    def aws(*words: str) -> Any:
        status = driver.main(["kms", *words, "--output", "json"])
        printed, complaints = capfd.readouterr()
        assert status == 0, complaints
        return json.loads(printed) if printed else None

    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(b"by the command line")
    key = aws("create-key", "--description", "CLI", "--tags", "TagKey=a,TagValue=1")["KeyMetadata"]["KeyId"]
    alias = f"alias/cli-{number}"
    aws("create-alias", "--alias-name", alias, "--target-key-id", key)
    blob = aws("encrypt", "--key-id", alias, "--plaintext", f"fileb://{plain}", "--encryption-context", "app=shop")
    sealed.write_bytes(base64.b64decode(blob["CiphertextBlob"]))
    aws("rotate-key-on-demand", "--key-id", key)
    opened = aws("decrypt", "--ciphertext-blob", f"fileb://{sealed}", "--encryption-context", "app=shop")
    assert base64.b64decode(opened["Plaintext"]) == b"by the command line"
    aws("tag-resource", "--key-id", key, "--tags", "TagKey=b,TagValue=2")
    assert len(aws("list-resource-tags", "--key-id", key)["Tags"]) == 2
    assert (
        aws("schedule-key-deletion", "--key-id", key, "--pending-window-in-days", "7")["KeyState"] == "PendingDeletion"
    )
    aws("cancel-key-deletion", "--key-id", key)
    assert aws("describe-key", "--key-id", key)["KeyMetadata"]["KeyState"] == "Disabled"


def test_the_aws_cli_as_a_program(region: DevRegion, in_awss_variables: Callable[[NodeEndpoint], None]) -> None:
    """It signs and is answered; with a wrong secret it says so and fails."""
    in_awss_variables(region.nodes()[2])
    command = [AWS, "kms", "list-keys", "--max-items", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Keys" in json.loads(done.stdout)
    wrong = {**os.environ, "AWS_SECRET_ACCESS_KEY": "x" * 40}
    done = subprocess.run(command, env=wrong, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "InvalidSignatureException" in done.stderr


@pytest.mark.parametrize("suite", [Suite.SIGNED, Suite.UNSIGNED])
async def test_the_encryption_sdk_and_our_client_read_each_other(
    region: DevRegion, in_awss_variables: Callable[[NodeEndpoint], None], suite: Suite
) -> None:
    """Both directions, each size, with the SDK's strict key provider and nothing else told than the endpoint."""
    in_awss_variables(region.nodes()[0])
    sdk, algorithm = aws_encryption_sdk.EncryptionSDKClient(), Algorithm.get_by_id(suite)
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        arn = (await client.create_key()).key_metadata.arn
        provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[arn])
        for size in (0, 1, 4096, 1024 * 1024):
            plaintext = os.urandom(size)
            theirs, header = await trio.to_thread.run_sync(
                partial(
                    sdk.encrypt,
                    source=plaintext,
                    key_provider=provider,
                    encryption_context=CONTEXT,
                    algorithm=algorithm,
                )
            )
            assert header.algorithm is algorithm
            opened, sealed = io.BytesIO(), io.BytesIO()
            result = await client.decrypt_stream(io.BytesIO(theirs), opened, encryption_context=CONTEXT)
            assert opened.getvalue() == plaintext
            assert (result.key_id, result.suite) == (arn, suite)
            await client.encrypt_stream(
                io.BytesIO(plaintext), sealed, key_id=str(arn), encryption_context=CONTEXT, suite=suite
            )
            back, header = await trio.to_thread.run_sync(
                partial(sdk.decrypt, source=sealed.getvalue(), key_provider=provider)
            )
            assert back == plaintext
            assert CONTEXT.items() <= header.encryption_context.items()
