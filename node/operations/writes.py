"""Control-plane writes: each handler makes a command's body; applying it gives the answer.

What the request alone decides is refused here, before the log: wrong windows, tags, policies, and what this region
doesn't support. Everything that rests on state is left to `apply`, which judges in the order of the log. Ids, backing
keys and nonces are made here, so that `apply` is deterministic; a backing key leaves this module only as its token.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from keycluster.cluster.keys import commands, limits
from keycluster.cluster.keys.commands import Caller, CommandBody, NewBackingKey
from keycluster.cluster.keys.hierarchy import GenerationUnknown
from keycluster.cluster.keys.policy import POLICY_NAME, check_policy
from keycluster.cluster.keys.resolve import resolve
from keycluster.cluster.keys.token import (
    BACKING_KEY_BYTES,
    BACKING_KEY_ID_BYTES,
    NONCE_BYTES,
    TokenMeta,
    seal_backing_key,
)
from keycluster.cluster.types import AccountId, KeyId
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import (
    CustomKeyStoreNotFoundException,
    KmsError,
    KMSInternalException,
    NotFoundException,
    UnsupportedOperationException,
    ValidationException,
)
from keycluster.node.room import Room

SYMMETRIC_DEFAULT: Final = "SYMMETRIC_DEFAULT"
ENCRYPT_DECRYPT: Final = "ENCRYPT_DECRYPT"
AWS_KMS: Final = "AWS_KMS"


def new_backing_key(
    room: Room,
    account: AccountId,
    key_id: KeyId,
    *,
    spec: str = SYMMETRIC_DEFAULT,
    usage: str = ENCRYPT_DECRYPT,
    origin: str = AWS_KMS,
) -> NewBackingKey:
    """Fresh material for a key, sealed under the region's active generation.

    Raises KMSInternalException (retryable) on a node that doesn't hold that generation.
    """
    backing_key_id = room.entropy.random_bytes(BACKING_KEY_ID_BYTES)
    meta = TokenMeta(
        account=account, key_id=key_id, backing_key_id=backing_key_id, spec=spec, usage=usage, origin=origin
    )
    backing, nonce = room.entropy.random_bytes(BACKING_KEY_BYTES), room.entropy.random_bytes(NONCE_BYTES)
    try:
        token = seal_backing_key(room.keyring, room.region_record.generation, backing, meta=meta, nonce=nonce)
    except GenerationUnknown as unknown:
        raise KMSInternalException("", detail=f"no backing key can be made: {unknown}") from None
    return NewBackingKey(backing_key_id, token)


def create_key(room: Room, caller: Caller, request: wire.CreateKeyRequest) -> commands.CreateKey:
    _check_kind(request)
    limits.check_description(request.description or "")
    tags = _tags(request.tags or ())
    if request.policy is not None:
        check_policy(request.policy, caller.account, room.region_record.partition)
    key_id = KeyId(str(uuid.UUID(bytes=room.entropy.random_bytes(16), version=4)))
    return commands.CreateKey(
        key_id=key_id,
        backing=new_backing_key(room, caller.account, key_id),
        description=request.description or "",
        policy=request.policy,
        tags=tags,
    )


def _check_kind(request: wire.CreateKeyRequest) -> None:
    """That a key of this kind can be made here. What AWS refuses comes first, what is missing here second."""
    if request.key_spec is not None and request.customer_master_key_spec is not None:
        raise ValidationException("You cannot specify KeySpec and CustomerMasterKeySpec in the same request")
    spec = request.key_spec or request.customer_master_key_spec or SYMMETRIC_DEFAULT
    if request.key_usage is None and spec != SYMMETRIC_DEFAULT:
        raise ValidationException(
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
        )
    usage = request.key_usage or ENCRYPT_DECRYPT
    if spec == SYMMETRIC_DEFAULT and usage != ENCRYPT_DECRYPT:
        raise ValidationException(f"KeyUsage {usage} is not compatible with KeySpec {spec}")
    _check_origin(request)
    if spec != SYMMETRIC_DEFAULT:
        raise UnsupportedOperationException(f"KeySpec {spec} is not supported")
    if request.multi_region:
        raise UnsupportedOperationException("Multi-Region keys are not supported")


def _check_origin(request: wire.CreateKeyRequest) -> None:
    origin = request.origin or AWS_KMS
    in_store = origin in ("AWS_CLOUDHSM", "EXTERNAL_KEY_STORE")
    if in_store and request.custom_key_store_id is None:
        raise ValidationException(f"You must specify a CustomKeyStoreId when the Origin is {origin}")
    if (request.xks_key_id is None) == (origin == "EXTERNAL_KEY_STORE"):
        raise ValidationException("XksKeyId is required when the Origin is EXTERNAL_KEY_STORE, and not valid otherwise")
    if request.custom_key_store_id is not None:
        if not in_store:
            raise ValidationException(f"CustomKeyStoreId is not valid when the Origin is {origin}")
        raise CustomKeyStoreNotFoundException(f"There is no custom key store {request.custom_key_store_id}")
    if origin != AWS_KMS:
        raise UnsupportedOperationException(f"Origin {origin} is not supported")


def enable_key(room: Room, caller: Caller, request: wire.EnableKeyRequest) -> commands.EnableKey:
    return commands.EnableKey(request.key_id)


def disable_key(room: Room, caller: Caller, request: wire.DisableKeyRequest) -> commands.DisableKey:
    return commands.DisableKey(request.key_id)


def schedule_key_deletion(
    room: Room, caller: Caller, request: wire.ScheduleKeyDeletionRequest
) -> commands.ScheduleKeyDeletion:
    days = request.pending_window_in_days
    if days is None:
        days = limits.DELETION_WINDOW_DAYS_DEFAULT
    limits.check_deletion_window(days)
    return commands.ScheduleKeyDeletion(request.key_id, days)


def cancel_key_deletion(
    room: Room, caller: Caller, request: wire.CancelKeyDeletionRequest
) -> commands.CancelKeyDeletion:
    return commands.CancelKeyDeletion(request.key_id)


def update_key_description(
    room: Room, caller: Caller, request: wire.UpdateKeyDescriptionRequest
) -> commands.UpdateKeyDescription:
    limits.check_description(request.description)
    return commands.UpdateKeyDescription(request.key_id, request.description)


def create_alias(room: Room, caller: Caller, request: wire.CreateAliasRequest) -> commands.CreateAlias:
    limits.check_new_alias_name(request.alias_name)
    return commands.CreateAlias(request.alias_name, request.target_key_id)


def update_alias(room: Room, caller: Caller, request: wire.UpdateAliasRequest) -> commands.UpdateAlias:
    limits.check_alias_name(request.alias_name)
    return commands.UpdateAlias(request.alias_name, request.target_key_id)


def delete_alias(room: Room, caller: Caller, request: wire.DeleteAliasRequest) -> commands.DeleteAlias:
    limits.check_alias_name(request.alias_name)
    return commands.DeleteAlias(request.alias_name)


def tag_resource(room: Room, caller: Caller, request: wire.TagResourceRequest) -> commands.TagResource:
    return commands.TagResource(request.key_id, _tags(request.tags))


def untag_resource(room: Room, caller: Caller, request: wire.UntagResourceRequest) -> commands.UntagResource:
    for tag_key in request.tag_keys:
        limits.check_tag_key(tag_key)
    return commands.UntagResource(request.key_id, request.tag_keys)


def put_key_policy(room: Room, caller: Caller, request: wire.PutKeyPolicyRequest) -> commands.PutKeyPolicy:
    if request.policy_name not in (None, POLICY_NAME):
        raise NotFoundException("No such policy exists")
    check_policy(request.policy, caller.account, room.region_record.partition)
    return commands.PutKeyPolicy(request.key_id, request.policy)


def enable_key_rotation(
    room: Room, caller: Caller, request: wire.EnableKeyRotationRequest
) -> commands.EnableKeyRotation:
    days = request.rotation_period_in_days
    if days is None:
        days = limits.ROTATION_PERIOD_DAYS_DEFAULT
    limits.check_rotation_period(days)
    return commands.EnableKeyRotation(request.key_id, days)


def disable_key_rotation(
    room: Room, caller: Caller, request: wire.DisableKeyRotationRequest
) -> commands.DisableKeyRotation:
    return commands.DisableKeyRotation(request.key_id)


def rotate_key_on_demand(
    room: Room, caller: Caller, request: wire.RotateKeyOnDemandRequest
) -> commands.RotateKeyOnDemand:
    """A token is bound to its key, so the key is looked up here too. A node without a lease may not know it: then the
    command goes without a token, and `apply` refuses for the right reason, or says that it is worth another try."""
    try:
        key = resolve(
            room.view,
            request.key_id,
            caller,
            room.region_record,
            action="kms:RotateKeyOnDemand",
            aliases=False,
        )
    except KmsError:
        return commands.RotateKeyOnDemand(request.key_id, None)
    backing = new_backing_key(room, key.account, key.key_id, spec=key.spec, usage=key.usage, origin=key.origin)
    return commands.RotateKeyOnDemand(request.key_id, backing)


def _tags(tags: tuple[wire.Tag, ...]) -> tuple[tuple[str, str], ...]:
    pairs = tuple((tag.tag_key, tag.tag_value) for tag in tags)
    limits.check_tags(pairs)
    limits.merge_tags((), pairs)
    return pairs


WRITES: Final[Mapping[str, Callable[[Room, Caller, Any], CommandBody]]] = {
    "CreateKey": create_key,
    "EnableKey": enable_key,
    "DisableKey": disable_key,
    "ScheduleKeyDeletion": schedule_key_deletion,
    "CancelKeyDeletion": cancel_key_deletion,
    "UpdateKeyDescription": update_key_description,
    "CreateAlias": create_alias,
    "UpdateAlias": update_alias,
    "DeleteAlias": delete_alias,
    "TagResource": tag_resource,
    "UntagResource": untag_resource,
    "PutKeyPolicy": put_key_policy,
    "EnableKeyRotation": enable_key_rotation,
    "DisableKeyRotation": disable_key_rotation,
    "RotateKeyOnDemand": rotate_key_on_demand,
}
