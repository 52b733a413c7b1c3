"""Keys and their lives. When a change has returned, every node of the region acts on it.

Members and limits: cluster/wire/operations.py. `timeout` is in seconds, the client's own if not given.
"""

from collections.abc import Sequence

from keycluster.client.calls import Calls, changing, members, reading
from keycluster.cluster.wire.operations import (
    CancelKeyDeletionRequest,
    CancelKeyDeletionResponse,
    CreateKeyRequest,
    CreateKeyResponse,
    DescribeKeyRequest,
    DescribeKeyResponse,
    DisableKeyRequest,
    DisableKeyResponse,
    DisableKeyRotationRequest,
    DisableKeyRotationResponse,
    EnableKeyRequest,
    EnableKeyResponse,
    EnableKeyRotationRequest,
    EnableKeyRotationResponse,
    GetKeyRotationStatusRequest,
    GetKeyRotationStatusResponse,
    ListKeyRotationsRequest,
    ListKeyRotationsResponse,
    ListKeysRequest,
    ListKeysResponse,
    RotateKeyOnDemandRequest,
    RotateKeyOnDemandResponse,
    ScheduleKeyDeletionRequest,
    ScheduleKeyDeletionResponse,
    Tag,
    UpdateKeyDescriptionRequest,
    UpdateKeyDescriptionResponse,
)

_CREATE_KEY = changing("CreateKey", CreateKeyResponse)
_DESCRIBE_KEY = reading("DescribeKey", DescribeKeyResponse)
_LIST_KEYS = reading("ListKeys", ListKeysResponse)
_ENABLE_KEY = changing("EnableKey", EnableKeyResponse)
_DISABLE_KEY = changing("DisableKey", DisableKeyResponse)
_SCHEDULE_KEY_DELETION = changing("ScheduleKeyDeletion", ScheduleKeyDeletionResponse)
_CANCEL_KEY_DELETION = changing("CancelKeyDeletion", CancelKeyDeletionResponse)
_UPDATE_KEY_DESCRIPTION = changing("UpdateKeyDescription", UpdateKeyDescriptionResponse)
_ENABLE_KEY_ROTATION = changing("EnableKeyRotation", EnableKeyRotationResponse)
_DISABLE_KEY_ROTATION = changing("DisableKeyRotation", DisableKeyRotationResponse)
_GET_KEY_ROTATION_STATUS = reading("GetKeyRotationStatus", GetKeyRotationStatusResponse)
_ROTATE_KEY_ON_DEMAND = changing("RotateKeyOnDemand", RotateKeyOnDemandResponse)
_LIST_KEY_ROTATIONS = reading("ListKeyRotations", ListKeyRotationsResponse)


class KeyOperations(Calls):
    """See the module. Each method raises the `KmsError` that the region answers with, or a `KeyClientError`."""

    async def create_key(
        self,
        *,
        policy: str | None = None,
        description: str | None = None,
        key_usage: str | None = None,
        customer_master_key_spec: str | None = None,
        key_spec: str | None = None,
        origin: str | None = None,
        custom_key_store_id: str | None = None,
        bypass_policy_lockout_safety_check: bool | None = None,
        tags: Sequence[Tag] | None = None,
        multi_region: bool | None = None,
        xks_key_id: str | None = None,
        timeout: float | None = None,
    ) -> CreateKeyResponse:
        """Makes a KMS key. When this has returned, every node of the region can use it."""
        request = CreateKeyRequest(
            policy=policy,
            description=description,
            key_usage=key_usage,
            customer_master_key_spec=customer_master_key_spec,
            key_spec=key_spec,
            origin=origin,
            custom_key_store_id=custom_key_store_id,
            bypass_policy_lockout_safety_check=bypass_policy_lockout_safety_check,
            tags=members(tags),
            multi_region=multi_region,
            xks_key_id=xks_key_id,
        )
        return await self._call(_CREATE_KEY, request, timeout)

    async def describe_key(
        self, *, key_id: str, grant_tokens: Sequence[str] | None = None, timeout: float | None = None
    ) -> DescribeKeyResponse:
        """What is known of a key, named by id, ARN, alias or alias ARN."""
        request = DescribeKeyRequest(key_id=key_id, grant_tokens=members(grant_tokens))
        return await self._call(_DESCRIBE_KEY, request, timeout)

    async def list_keys(
        self,
        *,
        limit: int | None = None,
        marker: str | None = None,
        resource_owners: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> ListKeysResponse:
        """The account's keys, a page at a time: give `next_marker` as `marker` while `truncated`."""
        request = ListKeysRequest(limit=limit, marker=marker, resource_owners=members(resource_owners))
        return await self._call(_LIST_KEYS, request, timeout)

    async def enable_key(self, *, key_id: str, timeout: float | None = None) -> EnableKeyResponse:
        """Lets a disabled key be used again."""
        request = EnableKeyRequest(key_id=key_id)
        return await self._call(_ENABLE_KEY, request, timeout)

    async def disable_key(self, *, key_id: str, timeout: float | None = None) -> DisableKeyResponse:
        """When this has returned, no node of the region uses the key any more."""
        request = DisableKeyRequest(key_id=key_id)
        return await self._call(_DISABLE_KEY, request, timeout)

    async def schedule_key_deletion(
        self, *, key_id: str, pending_window_in_days: int | None = None, timeout: float | None = None
    ) -> ScheduleKeyDeletionResponse:
        """Makes a key unusable now and destroys it after 7 to 30 days (30 if not given)."""
        request = ScheduleKeyDeletionRequest(key_id=key_id, pending_window_in_days=pending_window_in_days)
        return await self._call(_SCHEDULE_KEY_DELETION, request, timeout)

    async def cancel_key_deletion(self, *, key_id: str, timeout: float | None = None) -> CancelKeyDeletionResponse:
        """Takes a key back from deletion; it is disabled afterwards."""
        request = CancelKeyDeletionRequest(key_id=key_id)
        return await self._call(_CANCEL_KEY_DELETION, request, timeout)

    async def update_key_description(
        self, *, key_id: str, description: str, timeout: float | None = None
    ) -> UpdateKeyDescriptionResponse:
        """Changes a key's description; an empty one takes it away."""
        request = UpdateKeyDescriptionRequest(key_id=key_id, description=description)
        return await self._call(_UPDATE_KEY_DESCRIPTION, request, timeout)

    async def enable_key_rotation(
        self, *, key_id: str, rotation_period_in_days: int | None = None, timeout: float | None = None
    ) -> EnableKeyRotationResponse:
        """Has the key's backing key replaced every `rotation_period_in_days` (365 if not given)."""
        request = EnableKeyRotationRequest(key_id=key_id, rotation_period_in_days=rotation_period_in_days)
        return await self._call(_ENABLE_KEY_ROTATION, request, timeout)

    async def disable_key_rotation(self, *, key_id: str, timeout: float | None = None) -> DisableKeyRotationResponse:
        """Ends automatic rotation; what there is goes on decrypting."""
        request = DisableKeyRotationRequest(key_id=key_id)
        return await self._call(_DISABLE_KEY_ROTATION, request, timeout)

    async def get_key_rotation_status(
        self, *, key_id: str, timeout: float | None = None
    ) -> GetKeyRotationStatusResponse:
        """Whether and when a key is rotated."""
        request = GetKeyRotationStatusRequest(key_id=key_id)
        return await self._call(_GET_KEY_ROTATION_STATUS, request, timeout)

    async def rotate_key_on_demand(self, *, key_id: str, timeout: float | None = None) -> RotateKeyOnDemandResponse:
        """Replaces the backing key now. Blobs under the old one go on decrypting."""
        request = RotateKeyOnDemandRequest(key_id=key_id)
        return await self._call(_ROTATE_KEY_ON_DEMAND, request, timeout)

    async def list_key_rotations(
        self,
        *,
        key_id: str,
        include_key_material: str | None = None,
        limit: int | None = None,
        marker: str | None = None,
        timeout: float | None = None,
    ) -> ListKeyRotationsResponse:
        """The rotations a key has been through, a page at a time."""
        request = ListKeyRotationsRequest(
            key_id=key_id, include_key_material=include_key_material, limit=limit, marker=marker
        )
        return await self._call(_LIST_KEY_ROTATIONS, request, timeout)
