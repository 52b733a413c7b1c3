"""Control-plane reads, over a state that real commands made."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.cluster.keys.policy import default_policy
from keycluster.cluster.types import KeyId
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    InvalidMarkerException,
    NotFoundException,
)
from keycluster.node.operations.reads import READS
from tests.key_room import KeyRoom
from tests.room_on_memory import ACCOUNT

DAY_S = 24 * 3600


def pages(region: KeyRoom, operation: str, request: type[Any], **members: Any) -> Iterator[Any]:
    """Every page of a list, following its markers."""
    marker = None
    while True:
        page = region.read(operation, request(marker=marker, **members))
        assert page.truncated is (page.next_marker is not None)
        yield page
        if not page.truncated:
            return
        marker = page.next_marker


def test_described_key_is_the_created_one() -> None:
    """By id, ARN, alias and alias ARN alike."""
    region = KeyRoom()
    created = region.write("CreateKey", wire.CreateKeyRequest(description="mine")).key_metadata
    region.write("CreateAlias", wire.CreateAliasRequest(alias_name="alias/a", target_key_id=created.key_id))
    alias_arn = created.arn.replace(f"key/{created.key_id}", "alias/a")
    for reference in (created.key_id, created.arn, "alias/a", alias_arn):
        assert region.read("DescribeKey", wire.DescribeKeyRequest(key_id=reference)).key_metadata == created


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 7), st.integers(1, 8))
def test_keys_are_listed_once_each_whatever_the_page(count: int, limit: int) -> None:
    """Only the account's own, with their ARNs, and no page longer than asked."""
    region = KeyRoom()
    region.create_key(caller=region.machine.other)
    made = sorted(region.create_key() for _ in range(count))
    listed = []
    for page in pages(region, "ListKeys", wire.ListKeysRequest, limit=limit):
        assert len(page.keys) <= limit
        listed += page.keys
    assert [key.key_id for key in listed] == made
    assert [key.key_arn for key in listed] == [region.machine.arn(KeyId(key_id)) for key_id in made]


def test_list_goes_on_after_a_key_that_was_deleted_in_between() -> None:
    """A marker is a position, not a row."""
    region = KeyRoom()
    made = sorted(region.create_key() for _ in range(4))
    first = region.read("ListKeys", wire.ListKeysRequest(limit=2))
    del region.machine.state.tables[4][ACCOUNT.encode() + made[1].encode()]
    second = region.read("ListKeys", wire.ListKeysRequest(limit=2, marker=first.next_marker))
    assert [key.key_id for key in second.keys] == made[2:]


@settings(deadline=None, max_examples=20)
@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("uvwxyz")), st.integers(1, 7))
def test_aliases_are_listed_for_the_account_or_for_one_key(mine: set[str], others: set[str], limit: int) -> None:
    """In order of name, each once."""
    region = KeyRoom()
    key, another, foreign = region.create_key(), region.create_key(), region.create_key(caller=region.machine.other)
    for name, target in [(name, key) for name in mine] + [(name, another) for name in others]:
        region.write("CreateAlias", wire.CreateAliasRequest(alias_name=f"alias/{name}", target_key_id=target))
    foreign_alias = wire.CreateAliasRequest(alias_name="alias/g", target_key_id=foreign)
    region.write("CreateAlias", foreign_alias, caller=region.machine.other)

    def listed(**members: Any) -> list[tuple[str, str | None]]:
        found = pages(region, "ListAliases", wire.ListAliasesRequest, limit=limit, **members)
        return [(alias.alias_name, alias.target_key_id) for page in found for alias in page.aliases]

    assert listed(key_id=key) == [(f"alias/{name}", key) for name in sorted(mine)]
    everything = [(f"alias/{name}", key) for name in mine] + [(f"alias/{name}", another) for name in others]
    assert listed() == sorted(everything)


def test_alias_entry_has_arn_and_dates() -> None:
    """As AWS answers; a marker of the account's list isn't one of a key's."""
    region = KeyRoom()
    key = region.create_key()
    for name in ("alias/a", "alias/b"):
        region.write("CreateAlias", wire.CreateAliasRequest(alias_name=name, target_key_id=key))
    created = region.machine.time / 1e9
    region.machine.pass_time(60)
    region.write("UpdateAlias", wire.UpdateAliasRequest(alias_name="alias/a", target_key_id=key))
    page = region.read("ListAliases", wire.ListAliasesRequest(limit=1))
    assert page.aliases == (
        wire.AliasListEntry(
            alias_name="alias/a",
            alias_arn=f"arn:aws:kms:us-east-1:{ACCOUNT}:alias/a",
            target_key_id=key,
            creation_date=created,
            last_updated_date=created + 60,
        ),
    )
    with pytest.raises(InvalidMarkerException):
        region.read("ListAliases", wire.ListAliasesRequest(key_id=key, marker=page.next_marker))


def test_tags_are_listed_in_pages_of_at_most_fifty() -> None:
    """Asking for more gets fifty and a marker."""
    region = KeyRoom()
    tags = tuple(wire.Tag(tag_key=f"t{number:02}", tag_value=str(number)) for number in range(50))
    key = region.create_key(tags=tags)
    found = list(pages(region, "ListResourceTags", wire.ListResourceTagsRequest, key_id=key, limit=20))
    assert [len(page.tags) for page in found] == [20, 20, 10]
    assert tuple(tag for page in found for tag in page.tags) == tags
    whole = region.read("ListResourceTags", wire.ListResourceTagsRequest(key_id=key, limit=1000))
    assert (whole.tags, whole.truncated) == (tags, False)


def test_policy_is_the_default_one_or_what_was_put() -> None:
    """Named default, and no other exists."""
    region = KeyRoom()
    key = region.create_key()
    answer = region.read("GetKeyPolicy", wire.GetKeyPolicyRequest(key_id=key))
    assert answer == wire.GetKeyPolicyResponse(policy=default_policy(ACCOUNT, "aws"), policy_name="default")
    text = json.dumps(json.loads(answer.policy))
    region.write("PutKeyPolicy", wire.PutKeyPolicyRequest(key_id=key, policy=text))
    assert region.read("GetKeyPolicy", wire.GetKeyPolicyRequest(key_id=key, policy_name="default")).policy == text
    with pytest.raises(NotFoundException, match="No such policy exists"):
        region.read("GetKeyPolicy", wire.GetKeyPolicyRequest(key_id=key, policy_name="other"))
    names = region.read("ListKeyPolicies", wire.ListKeyPoliciesRequest(key_id=key))
    assert names == wire.ListKeyPoliciesResponse(policy_names=("default",), truncated=False)


def test_rotation_status_follows_the_keys_life() -> None:
    """Off, on with period and date, off while deletion is pending, and back."""
    region = KeyRoom()
    key = region.create_key()

    def status() -> wire.GetKeyRotationStatusResponse:
        answer = region.read("GetKeyRotationStatus", wire.GetKeyRotationStatusRequest(key_id=key))
        assert isinstance(answer, wire.GetKeyRotationStatusResponse)
        return answer

    off = wire.GetKeyRotationStatusResponse(key_rotation_enabled=False, key_id=key)
    assert status() == off
    region.write("EnableKeyRotation", wire.EnableKeyRotationRequest(key_id=key))
    on = wire.GetKeyRotationStatusResponse(
        key_rotation_enabled=True,
        key_id=key,
        rotation_period_in_days=365,
        next_rotation_date=region.machine.time / 1e9 + 365 * DAY_S,
    )
    assert status() == on
    region.write("ScheduleKeyDeletion", wire.ScheduleKeyDeletionRequest(key_id=key))
    assert status() == off
    region.write("CancelKeyDeletion", wire.CancelKeyDeletionRequest(key_id=key))
    assert status() == on


def test_rotations_are_listed_oldest_first_the_first_material_on_request() -> None:
    """One is current; the initial material has no rotation date. Pages of one lead through them all."""
    region = KeyRoom()
    key = region.create_key()
    for _ in range(3):
        region.machine.pass_time(1)
        region.write("RotateKeyOnDemand", wire.RotateKeyOnDemandRequest(key_id=key))
    found = pages(region, "ListKeyRotations", wire.ListKeyRotationsRequest, key_id=key, limit=1)
    rotations = [rotation for page in found for rotation in page.rotations]
    now = region.machine.time / 1e9
    assert [rotation.rotation_date for rotation in rotations] == [now - 2, now - 1, now]
    assert {rotation.rotation_type for rotation in rotations} == {"ON_DEMAND"}
    assert [rotation.key_material_state for rotation in rotations] == ["NON_CURRENT", "NON_CURRENT", "CURRENT"]
    described = region.read("DescribeKey", wire.DescribeKeyRequest(key_id=key)).key_metadata
    assert rotations[-1].key_material_id == described.current_key_material_id
    whole = region.read(
        "ListKeyRotations", wire.ListKeyRotationsRequest(key_id=key, include_key_material="ALL_KEY_MATERIAL")
    ).rotations
    assert list(whole[1:]) == rotations
    assert (whole[0].rotation_date, whole[0].rotation_type) == (None, None)


ON_A_KEY = {
    "DescribeKey": wire.DescribeKeyRequest,
    "GetKeyPolicy": wire.GetKeyPolicyRequest,
    "ListKeyPolicies": wire.ListKeyPoliciesRequest,
    "ListResourceTags": wire.ListResourceTagsRequest,
    "GetKeyRotationStatus": wire.GetKeyRotationStatusRequest,
    "ListKeyRotations": wire.ListKeyRotationsRequest,
    "ListAliases": wire.ListAliasesRequest,
}


@pytest.mark.parametrize("operation", ON_A_KEY)
def test_read_of_another_accounts_key_is_denied(operation: str) -> None:
    """In one text for keys that exist and that don't; an unknown key of one's own is not found."""
    region = KeyRoom()
    foreign = region.machine.arn(KeyId(region.create_key()), ACCOUNT)
    nowhere = foreign[:-4] + "0000"
    messages = set()
    for reference in (foreign, nowhere):
        with pytest.raises(AccessDeniedException) as denied:
            region.read(operation, ON_A_KEY[operation](key_id=reference), caller=region.machine.other)
        messages.add(denied.value.message)
    assert len(messages) == 1
    with pytest.raises(NotFoundException):
        region.read(operation, ON_A_KEY[operation](key_id=nowhere))


def test_reads_but_describe_take_no_aliases() -> None:
    """As AWS: aliases name keys to DescribeKey and to the data plane."""
    region = KeyRoom()
    region.write("CreateAlias", wire.CreateAliasRequest(alias_name="alias/a", target_key_id=region.create_key()))
    for operation in ON_A_KEY.keys() - {"DescribeKey"}:
        with pytest.raises(NotFoundException, match="Invalid keyId 'alias/a'"):
            region.read(operation, ON_A_KEY[operation](key_id="alias/a"))
    assert set(READS) == ON_A_KEY.keys() | {"ListKeys"}
