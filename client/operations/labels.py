"""What keys are called, tagged and allowed: aliases, tags, policies.

Members and limits: cluster/wire/operations.py. `timeout` is in seconds, the client's own if not given.
"""

from collections.abc import Sequence

from keycluster.client.calls import Calls, changing, listed, reading
from keycluster.cluster.wire.operations import (
    CreateAliasRequest,
    CreateAliasResponse,
    DeleteAliasRequest,
    DeleteAliasResponse,
    GetKeyPolicyRequest,
    GetKeyPolicyResponse,
    ListAliasesRequest,
    ListAliasesResponse,
    ListKeyPoliciesRequest,
    ListKeyPoliciesResponse,
    ListResourceTagsRequest,
    ListResourceTagsResponse,
    PutKeyPolicyRequest,
    PutKeyPolicyResponse,
    Tag,
    TagResourceRequest,
    TagResourceResponse,
    UntagResourceRequest,
    UntagResourceResponse,
    UpdateAliasRequest,
    UpdateAliasResponse,
)

_CREATE_ALIAS = changing("CreateAlias", CreateAliasResponse)
_UPDATE_ALIAS = changing("UpdateAlias", UpdateAliasResponse)
_DELETE_ALIAS = changing("DeleteAlias", DeleteAliasResponse)
_LIST_ALIASES = reading("ListAliases", ListAliasesResponse)
_TAG_RESOURCE = changing("TagResource", TagResourceResponse)
_UNTAG_RESOURCE = changing("UntagResource", UntagResourceResponse)
_LIST_RESOURCE_TAGS = reading("ListResourceTags", ListResourceTagsResponse)
_GET_KEY_POLICY = reading("GetKeyPolicy", GetKeyPolicyResponse)
_PUT_KEY_POLICY = changing("PutKeyPolicy", PutKeyPolicyResponse)
_LIST_KEY_POLICIES = reading("ListKeyPolicies", ListKeyPoliciesResponse)


class LabelOperations(Calls):
    """See the module. Each method raises the `KmsError` that the region answers with, or a `KeyClientError`."""

    async def create_alias(
        self, *, alias_name: str, target_key_id: str, timeout: float | None = None
    ) -> CreateAliasResponse:
        """Gives a key a name, `alias/…`, unique in account and region."""
        request = CreateAliasRequest(alias_name=alias_name, target_key_id=target_key_id)
        return await self._call(_CREATE_ALIAS, request, timeout)

    async def update_alias(
        self, *, alias_name: str, target_key_id: str, timeout: float | None = None
    ) -> UpdateAliasResponse:
        """Points an alias at another key."""
        request = UpdateAliasRequest(alias_name=alias_name, target_key_id=target_key_id)
        return await self._call(_UPDATE_ALIAS, request, timeout)

    async def delete_alias(self, *, alias_name: str, timeout: float | None = None) -> DeleteAliasResponse:
        """Takes an alias away; the key stays."""
        request = DeleteAliasRequest(alias_name=alias_name)
        return await self._call(_DELETE_ALIAS, request, timeout)

    async def list_aliases(
        self,
        *,
        key_id: str | None = None,
        limit: int | None = None,
        marker: str | None = None,
        timeout: float | None = None,
    ) -> ListAliasesResponse:
        """The account's aliases, or one key's, a page at a time."""
        request = ListAliasesRequest(key_id=key_id, limit=limit, marker=marker)
        return await self._call(_LIST_ALIASES, request, timeout)

    async def tag_resource(
        self, *, key_id: str, tags: Sequence[Tag], timeout: float | None = None
    ) -> TagResourceResponse:
        """Sets tags; a tag with a key that is there already is replaced."""
        request = TagResourceRequest(key_id=key_id, tags=listed(tags))
        return await self._call(_TAG_RESOURCE, request, timeout)

    async def untag_resource(
        self, *, key_id: str, tag_keys: Sequence[str], timeout: float | None = None
    ) -> UntagResourceResponse:
        """Takes tags away, named by their keys."""
        request = UntagResourceRequest(key_id=key_id, tag_keys=listed(tag_keys))
        return await self._call(_UNTAG_RESOURCE, request, timeout)

    async def list_resource_tags(
        self, *, key_id: str, limit: int | None = None, marker: str | None = None, timeout: float | None = None
    ) -> ListResourceTagsResponse:
        """A key's tags, a page at a time."""
        request = ListResourceTagsRequest(key_id=key_id, limit=limit, marker=marker)
        return await self._call(_LIST_RESOURCE_TAGS, request, timeout)

    async def get_key_policy(
        self, *, key_id: str, policy_name: str | None = None, timeout: float | None = None
    ) -> GetKeyPolicyResponse:
        """A key's policy, JSON text."""
        request = GetKeyPolicyRequest(key_id=key_id, policy_name=policy_name)
        return await self._call(_GET_KEY_POLICY, request, timeout)

    async def put_key_policy(
        self,
        *,
        key_id: str,
        policy: str,
        policy_name: str | None = None,
        bypass_policy_lockout_safety_check: bool | None = None,
        timeout: float | None = None,
    ) -> PutKeyPolicyResponse:
        """Replaces a key's policy."""
        request = PutKeyPolicyRequest(
            key_id=key_id,
            policy=policy,
            policy_name=policy_name,
            bypass_policy_lockout_safety_check=bypass_policy_lockout_safety_check,
        )
        return await self._call(_PUT_KEY_POLICY, request, timeout)

    async def list_key_policies(
        self, *, key_id: str, limit: int | None = None, marker: str | None = None, timeout: float | None = None
    ) -> ListKeyPoliciesResponse:
        """The names of a key's policies: only ever `default`."""
        request = ListKeyPoliciesRequest(key_id=key_id, limit=limit, marker=marker)
        return await self._call(_LIST_KEY_POLICIES, request, timeout)
