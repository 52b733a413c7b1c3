"""Control-plane writes: what their handlers put into commands, and what they refuse before the log."""

import uuid
from typing import Any

import pytest

from keycluster.cluster.keys import commands
from keycluster.cluster.keys.policy import default_policy
from keycluster.cluster.keys.records import load_key
from keycluster.cluster.keys.token import TokenMeta, open_backing_key
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import KmsError, KMSInternalException
from keycluster.node.operations.writes import WRITES
from tests.key_room import KeyRoom
from tests.room_on_memory import ACCOUNT, OTHER_ACCOUNT


def test_create_key_makes_a_random_id_and_a_token_that_opens_for_that_key_alone() -> None:
    """A UUID of version 4; the backing key itself is nowhere in the command."""
    region = KeyRoom()
    first, second = (region.body("CreateKey", wire.CreateKeyRequest()) for _ in range(2))
    for body in (first, second):
        assert uuid.UUID(body.key_id).version == 4
        meta = TokenMeta(
            account=ACCOUNT,
            key_id=body.key_id,
            backing_key_id=body.backing.id,
            spec="SYMMETRIC_DEFAULT",
            usage="ENCRYPT_DECRYPT",
            origin="AWS_KMS",
        )
        backing = open_backing_key(region.keyring, body.backing.token, meta)
        assert len(backing) == 32
        assert backing not in commands.encode_command(body, region.machine.caller)
    assert first.key_id != second.key_id
    assert first.backing != second.backing


@pytest.mark.parametrize(
    ("members", "code", "text"),
    [
        ({"multi_region": True}, "UnsupportedOperationException", "Multi-Region"),
        ({"key_spec": "RSA_2048", "key_usage": "SIGN_VERIFY"}, "UnsupportedOperationException", "RSA_2048"),
        ({"key_spec": "RSA_2048"}, "ValidationException", "You must specify a KeyUsage value"),
        (
            {"customer_master_key_spec": "HMAC_256", "key_usage": "GENERATE_VERIFY_MAC"},
            "UnsupportedOperationException",
            "HMAC_256",
        ),
        ({"key_usage": "SIGN_VERIFY"}, "ValidationException", "KeyUsage SIGN_VERIFY is not compatible"),
        (
            {"key_spec": "SYMMETRIC_DEFAULT", "customer_master_key_spec": "SYMMETRIC_DEFAULT"},
            "ValidationException",
            "KeySpec and CustomerMasterKeySpec",
        ),
        ({"origin": "EXTERNAL"}, "UnsupportedOperationException", "EXTERNAL"),
        ({"origin": "AWS_CLOUDHSM"}, "ValidationException", "CustomKeyStoreId"),
        ({"origin": "EXTERNAL_KEY_STORE", "custom_key_store_id": "cks-1"}, "ValidationException", "XksKeyId"),
        ({"xks_key_id": "x"}, "ValidationException", "XksKeyId"),
        ({"custom_key_store_id": "cks-1"}, "ValidationException", "CustomKeyStoreId"),
        (
            {"origin": "AWS_CLOUDHSM", "custom_key_store_id": "cks-1"},
            "CustomKeyStoreNotFoundException",
            "cks-1",
        ),
        ({"policy": "my policy"}, "MalformedPolicyDocumentException", "JSON"),
        ({"policy": default_policy(OTHER_ACCOUNT, "aws")}, "UnsupportedOperationException", "default key policy"),
        ({"tags": (wire.Tag(tag_key="aws:x", tag_value=""),)}, "TagException", "reserved"),
        ({"tags": (wire.Tag(tag_key="x", tag_value=""),) * 2}, "TagException", "Duplicate"),
        (
            {"tags": tuple(wire.Tag(tag_key=str(number), tag_value="") for number in range(51))},
            "LimitExceededException",
            "50",
        ),
    ],
)
def test_create_key_of_what_cannot_be_made_here_is_refused(members: dict[str, Any], code: str, text: str) -> None:
    """With AWS's code, before anything is proposed."""
    region = KeyRoom()
    with pytest.raises(KmsError, match=text) as refused:
        region.body("CreateKey", wire.CreateKeyRequest(**members))
    assert refused.value.code == code


def test_create_key_with_everything_that_is_the_default_is_made() -> None:
    """Saying what would be so anyway changes nothing."""
    region = KeyRoom()
    key_id = region.create_key(
        policy=default_policy(ACCOUNT, "aws"),
        description="d",
        key_usage="ENCRYPT_DECRYPT",
        key_spec="SYMMETRIC_DEFAULT",
        origin="AWS_KMS",
        multi_region=False,
        tags=(wire.Tag(tag_key="a", tag_value="b"),),
        bypass_policy_lockout_safety_check=True,
    )
    assert region.read("DescribeKey", wire.DescribeKeyRequest(key_id=key_id)).key_metadata.description == "d"


@pytest.mark.parametrize(
    ("operation", "request_", "code"),
    [
        ("ScheduleKeyDeletion", wire.ScheduleKeyDeletionRequest(key_id="k", pending_window_in_days=6), "Validation"),
        ("ScheduleKeyDeletion", wire.ScheduleKeyDeletionRequest(key_id="k", pending_window_in_days=31), "Validation"),
        ("CreateAlias", wire.CreateAliasRequest(alias_name="x", target_key_id="k"), "Validation"),
        ("CreateAlias", wire.CreateAliasRequest(alias_name="alias/aws/x", target_key_id="k"), "InvalidAliasName"),
        ("UpdateAlias", wire.UpdateAliasRequest(alias_name="x", target_key_id="k"), "Validation"),
        ("DeleteAlias", wire.DeleteAliasRequest(alias_name="x"), "Validation"),
        ("UntagResource", wire.UntagResourceRequest(key_id="k", tag_keys=("aws:x",)), "Tag"),
        ("PutKeyPolicy", wire.PutKeyPolicyRequest(key_id="k", policy="{}"), "MalformedPolicyDocument"),
        ("PutKeyPolicy", wire.PutKeyPolicyRequest(key_id="k", policy="{}", policy_name="p"), "NotFound"),
        ("EnableKeyRotation", wire.EnableKeyRotationRequest(key_id="k", rotation_period_in_days=89), "Validation"),
    ],
)
def test_write_that_the_request_alone_decides_is_refused_before_the_log(
    operation: str, request_: wire.Shape, code: str
) -> None:
    """No entry for what can't succeed."""
    with pytest.raises(KmsError) as refused:
        KeyRoom().body(operation, request_)
    assert refused.value.code == f"{code}Exception"


def test_write_on_an_unknown_key_is_left_to_apply() -> None:
    """Its refusal stands in the order of the log; a rotation goes without a token."""
    region = KeyRoom()
    assert region.body("EnableKey", wire.EnableKeyRequest(key_id="fake")) == commands.EnableKey("fake")
    body = region.body("RotateKeyOnDemand", wire.RotateKeyOnDemandRequest(key_id="fake"))
    assert body == commands.RotateKeyOnDemand("fake", None)
    with pytest.raises(KmsError, match="Invalid keyId 'fake'"):
        region.write("RotateKeyOnDemand", wire.RotateKeyOnDemandRequest(key_id="fake"))


def test_defaults_are_aws_defaults() -> None:
    """30 days to deletion, 365 between rotations."""
    region = KeyRoom()
    schedule = region.body("ScheduleKeyDeletion", wire.ScheduleKeyDeletionRequest(key_id="k"))
    assert schedule == commands.ScheduleKeyDeletion("k", 30)
    rotate = region.body("EnableKeyRotation", wire.EnableKeyRotationRequest(key_id="k"))
    assert rotate == commands.EnableKeyRotation("k", 365)


def test_rotated_key_has_a_token_of_its_own_that_opens() -> None:
    """The second backing key is sealed for the same key, and is another one."""
    region = KeyRoom()
    key_id = region.create_key()
    region.write("RotateKeyOnDemand", wire.RotateKeyOnDemandRequest(key_id=key_id))
    hot = region.room.resolve(key_id, region.machine.caller, action="kms:Encrypt")
    assert len(hot.record.backing_keys) == 2
    opened = [hot.blob_key(backing.id) for backing in hot.record.backing_keys]
    assert all(opened)
    assert load_key(region.machine.state, hot.record.key_id) == hot.record


def test_node_without_the_active_generation_makes_no_backing_key() -> None:
    """It says so, retryably: another node can."""
    region = KeyRoom()
    region.room.keyring = type(region.keyring)("us-east-1", {2: bytes(32)}, 2)
    with pytest.raises(KMSInternalException) as refused:
        region.body("CreateKey", wire.CreateKeyRequest())
    assert refused.value.retryable


def test_every_write_answers_with_its_type() -> None:
    """One key through all of them, from request to response."""
    region = KeyRoom()
    key = region.create_key()
    calls: list[tuple[str, wire.Shape]] = [
        ("DisableKey", wire.DisableKeyRequest(key_id=key)),
        ("EnableKey", wire.EnableKeyRequest(key_id=key)),
        ("UpdateKeyDescription", wire.UpdateKeyDescriptionRequest(key_id=key, description="d")),
        ("TagResource", wire.TagResourceRequest(key_id=key, tags=(wire.Tag(tag_key="a", tag_value="b"),))),
        ("UntagResource", wire.UntagResourceRequest(key_id=key, tag_keys=("a",))),
        ("PutKeyPolicy", wire.PutKeyPolicyRequest(key_id=key, policy=default_policy(ACCOUNT, "aws"))),
        ("CreateAlias", wire.CreateAliasRequest(alias_name="alias/a", target_key_id=key)),
        ("UpdateAlias", wire.UpdateAliasRequest(alias_name="alias/a", target_key_id=key)),
        ("DeleteAlias", wire.DeleteAliasRequest(alias_name="alias/a")),
        ("EnableKeyRotation", wire.EnableKeyRotationRequest(key_id=key)),
        ("RotateKeyOnDemand", wire.RotateKeyOnDemandRequest(key_id=key)),
        ("DisableKeyRotation", wire.DisableKeyRotationRequest(key_id=key)),
        ("ScheduleKeyDeletion", wire.ScheduleKeyDeletionRequest(key_id=key)),
        ("CancelKeyDeletion", wire.CancelKeyDeletionRequest(key_id=key)),
    ]
    for operation, request in calls:
        assert type(region.write(operation, request)).__name__ == f"{operation}Response"
    assert {operation for operation, _ in calls} | {"CreateKey"} == WRITES.keys()
