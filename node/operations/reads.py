"""Control-plane reads: what describes and lists. The answer leaves once what it rests on is settled (rule L10).

Lists read one page and one row more, never a whole table. A page's marker is the last entry shown (markers.py), so what
is created or deleted between two pages shows up or doesn't, and nothing else moves.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.keys import limits
from keycluster.cluster.keys.authorise import authorise
from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.keys.describe import key_material_id, key_metadata, unix_seconds
from keycluster.cluster.keys.key_states import check_state
from keycluster.cluster.keys.policy import POLICY_NAME, default_policy
from keycluster.cluster.keys.records import (
    AliasRecord,
    BackingKey,
    KeyRecord,
    KeyState,
    RotationType,
    Table,
    account_key_row,
    alias_row,
    decode_record,
    load,
)
from keycluster.cluster.keys.resolve import alias_arn, key_arn, resolve
from keycluster.cluster.types import KeyId
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import NotFoundException
from keycluster.node.operations.markers import Listing, Page, give, take
from keycluster.node.room import Room

T = TypeVar("T")

_ROTATION_TYPES: Final = {RotationType.AUTOMATIC: "AUTOMATIC", RotationType.ON_DEMAND: "ON_DEMAND"}


def describe_key(room: Room, caller: Caller, request: wire.DescribeKeyRequest) -> wire.DescribeKeyResponse:
    """The one control-plane operation that takes aliases."""
    key = room.resolve(request.key_id, caller, action="kms:DescribeKey")
    return wire.DescribeKeyResponse(key_metadata=key_metadata(key.record, room.region_record))


def list_keys(room: Room, caller: Caller, request: wire.ListKeysRequest) -> wire.ListKeysResponse:
    authorise(caller, "kms:ListKeys", None)
    listing = Listing("ListKeys", caller)
    after = _position(room, listing, request.marker)
    limit = _page_size(request.limit, limits.KEYS_PAGE_DEFAULT, limits.KEYS_PAGE_MAX)
    prefix = caller.account.encode()
    rows = room.view.scan(
        Table.ACCOUNT_KEYS,
        prefix=prefix,
        after=None if after is None else account_key_row(caller.account, KeyId(after)),
        limit=limit + 1,
    )
    key_ids = [row[len(prefix) :].decode() for row, _ in rows]
    page = _page(room, listing, key_ids, limit, position=str)
    region = room.region_record
    entries = (wire.KeyListEntry(key_id=id_, key_arn=key_arn(region, caller.account, id_)) for id_ in page.entries)
    return wire.ListKeysResponse(keys=tuple(entries), next_marker=page.next_marker, truncated=page.truncated)


def list_aliases(room: Room, caller: Caller, request: wire.ListAliasesRequest) -> wire.ListAliasesResponse:
    """The account's aliases, or one key's."""
    authorise(caller, "kms:ListAliases", None)
    key = None if request.key_id is None else _key(room, caller, "ListAliases", request.key_id)
    listing = Listing("ListAliases", caller, "" if key is None else key.key_id)
    after = _position(room, listing, request.marker)
    limit = _page_size(request.limit, limits.ALIASES_PAGE_DEFAULT, limits.ALIASES_PAGE_MAX)
    found = _key_aliases(room, key, after) if key is not None else _account_aliases(room, caller, after, limit + 1)
    page = _page(room, listing, found, limit, position=_alias_name)
    return wire.ListAliasesResponse(
        aliases=tuple(_alias_entry(room, caller, name, alias) for name, alias in page.entries),
        next_marker=page.next_marker,
        truncated=page.truncated,
    )


_NamedAlias = tuple[str, AliasRecord]


def _account_aliases(room: Room, caller: Caller, after: str | None, count: int) -> list[_NamedAlias]:
    prefix = caller.account.encode()
    start = None if after is None else alias_row(caller.account, after)
    rows = room.view.scan(Table.ALIASES, prefix=prefix, after=start, limit=count)
    return [(row[len(prefix) :].decode(), decode_record(alias, AliasRecord)) for row, alias in rows]


def _key_aliases(room: Room, key: KeyRecord, after: str | None) -> list[_NamedAlias]:
    return [(name, _alias(room, key, name)) for name in key.aliases if after is None or name > after]


def _alias(room: Room, key: KeyRecord, name: str) -> AliasRecord:
    alias = load(room.view, Table.ALIASES, alias_row(key.account, name), AliasRecord)
    if alias is None:
        raise InvariantBroken(f"key {key.key_id} names alias {name}, which doesn't exist")
    return alias


def _alias_name(named: _NamedAlias) -> str:
    return named[0]


def _alias_entry(room: Room, caller: Caller, name: str, alias: AliasRecord) -> wire.AliasListEntry:
    return wire.AliasListEntry(
        alias_name=name,
        alias_arn=alias_arn(room.region_record, caller.account, name),
        target_key_id=alias.key_id,
        creation_date=unix_seconds(alias.created),
        last_updated_date=unix_seconds(alias.updated),
    )


def list_resource_tags(
    room: Room, caller: Caller, request: wire.ListResourceTagsRequest
) -> wire.ListResourceTagsResponse:
    key = _key(room, caller, "ListResourceTags", request.key_id)
    listing = Listing("ListResourceTags", caller, key.key_id)
    after = _position(room, listing, request.marker)
    limit = _page_size(request.limit, limits.TAGS_PAGE_DEFAULT, limits.TAGS_PAGE_MAX)
    left = [tag for tag in key.tags if after is None or tag[0] > after]
    page = _page(room, listing, left, limit, position=lambda tag: tag[0])
    return wire.ListResourceTagsResponse(
        tags=tuple(wire.Tag(tag_key=tag_key, tag_value=value) for tag_key, value in page.entries),
        next_marker=page.next_marker,
        truncated=page.truncated,
    )


def get_key_policy(room: Room, caller: Caller, request: wire.GetKeyPolicyRequest) -> wire.GetKeyPolicyResponse:
    key = _key(room, caller, "GetKeyPolicy", request.key_id)
    if request.policy_name not in (None, POLICY_NAME):
        raise NotFoundException("No such policy exists")
    policy = key.policy
    if policy is None:
        policy = default_policy(key.account, room.region_record.partition)
    return wire.GetKeyPolicyResponse(policy=policy, policy_name=POLICY_NAME)


def list_key_policies(room: Room, caller: Caller, request: wire.ListKeyPoliciesRequest) -> wire.ListKeyPoliciesResponse:
    """A key has one policy, and so no page ever ends in a marker."""
    key = _key(room, caller, "ListKeyPolicies", request.key_id)
    after = _position(room, Listing("ListKeyPolicies", caller, key.key_id), request.marker)
    return wire.ListKeyPoliciesResponse(policy_names=() if after == POLICY_NAME else (POLICY_NAME,), truncated=False)


def get_key_rotation_status(
    room: Room, caller: Caller, request: wire.GetKeyRotationStatusRequest
) -> wire.GetKeyRotationStatusResponse:
    """A key pending deletion answers that rotation is off, and has its setting back when deletion is cancelled."""
    key = _key(room, caller, "GetKeyRotationStatus", request.key_id)
    if key.rotation_next is None or key.state is KeyState.PENDING_DELETION:
        return wire.GetKeyRotationStatusResponse(key_rotation_enabled=False, key_id=key.key_id)
    return wire.GetKeyRotationStatusResponse(
        key_rotation_enabled=True,
        key_id=key.key_id,
        rotation_period_in_days=key.rotation_period_days,
        next_rotation_date=unix_seconds(key.rotation_next),
    )


def list_key_rotations(
    room: Room, caller: Caller, request: wire.ListKeyRotationsRequest
) -> wire.ListKeyRotationsResponse:
    """Oldest first. Rotations only, unless the caller asks for the key's first material too."""
    key = _key(room, caller, "ListKeyRotations", request.key_id)
    scope = request.include_key_material or "ROTATIONS_ONLY"
    listing = Listing(f"ListKeyRotations/{scope}", caller, key.key_id)
    after = _position(room, listing, request.marker)
    limit = _page_size(request.limit, limits.ROTATIONS_PAGE_DEFAULT, limits.ROTATIONS_PAGE_MAX)
    shown = [
        backing
        for backing in key.backing_keys
        if scope == "ALL_KEY_MATERIAL" or backing.rotation is not RotationType.INITIAL
    ]
    left = shown if after is None else shown[_index_after(shown, after) :]
    page = _page(room, listing, left, limit, position=lambda backing: backing.id.hex())
    return wire.ListKeyRotationsResponse(
        rotations=tuple(_rotation_entry(key, backing) for backing in page.entries),
        next_marker=page.next_marker,
        truncated=page.truncated,
    )


def _index_after(shown: list[BackingKey], position: str) -> int:
    """Backing keys are only ever added at the end, so the one that a marker names is where it was."""
    return next((index + 1 for index, backing in enumerate(shown) if backing.id.hex() == position), len(shown))


def _rotation_entry(key: KeyRecord, backing: BackingKey) -> wire.RotationsListEntry:
    rotated = backing.rotation is not RotationType.INITIAL
    return wire.RotationsListEntry(
        key_id=key.key_id,
        key_material_id=key_material_id(key.key_id, backing.id),
        key_material_state="CURRENT" if backing is key.current else "NON_CURRENT",
        rotation_date=unix_seconds(backing.created) if rotated else None,
        rotation_type=_ROTATION_TYPES.get(backing.rotation),
    )


def _key(room: Room, caller: Caller, operation: str, reference: str) -> KeyRecord:
    """The key that a key id or key ARN names, which `caller` may carry out `operation` on."""
    region = room.region_record
    key = resolve(room.view, reference, caller, region, action=f"kms:{operation}", aliases=False)
    check_state(operation, key.state, key_arn(region, key.account, key.key_id))
    return key


def _position(room: Room, listing: Listing, marker: str | None) -> str | None:
    return None if marker is None else take(room.keyring, listing, marker)


def _page_size(asked: int | None, default: int, most: int) -> int:
    """More than the service's limit gets as much as it gives: the marker leads on."""
    return default if asked is None else min(asked, most)


def _page(room: Room, listing: Listing, found: list[T], limit: int, *, position: Callable[[T], str]) -> Page[T]:
    """The first `limit` of what was found, which is one more where there is more."""
    entries = found[:limit]
    if len(found) <= limit:
        return Page(entries, None)
    return Page(entries, give(room.keyring, room.region_record.generation, listing, position(entries[-1])))


READS: Final[Mapping[str, Callable[[Room, Caller, Any], wire.Shape]]] = {
    "DescribeKey": describe_key,
    "ListKeys": list_keys,
    "ListAliases": list_aliases,
    "ListResourceTags": list_resource_tags,
    "GetKeyPolicy": get_key_policy,
    "ListKeyPolicies": list_key_policies,
    "GetKeyRotationStatus": get_key_rotation_status,
    "ListKeyRotations": list_key_rotations,
}
