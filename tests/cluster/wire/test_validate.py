"""AWS's constraints and AWS's words for them."""

import time
from typing import Annotated, Any

import msgspec
import pytest

from keycluster.cluster.wire import admin, operations
from keycluster.cluster.wire.constraints import Length, Pattern
from keycluster.cluster.wire.errors import ValidationException
from keycluster.cluster.wire.operations import (
    CreateAliasRequest,
    CreateKeyRequest,
    EncryptRequest,
    GenerateRandomRequest,
    ListKeysRequest,
    Tag,
    UntagResourceRequest,
)
from keycluster.cluster.wire.validate import Member, Rule, Validator, members_of

DETECTED = "1 validation error detected: "


def check(request: msgspec.Struct) -> str:
    """The error's text; empty if there is none."""
    try:
        Validator(type(request)).check(request)
    except ValidationException as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            EncryptRequest(key_id="k" * 2_049, plaintext=b"p"),
            f"Value '{'k' * 2_049}' at 'keyId' failed to satisfy constraint: "
            "Member must have length less than or equal to 2048",
        ),
        (
            EncryptRequest(key_id="", plaintext=b"p"),
            "Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
        (
            EncryptRequest(key_id="k", plaintext=b""),
            "Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
        (
            EncryptRequest(key_id="k", plaintext=bytes(4_097)),
            "Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096",
        ),
        (
            EncryptRequest(key_id="k", plaintext=b"p", encryption_algorithm="ROT13"),
            "Value 'ROT13' at 'encryptionAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: "
            "[SYMMETRIC_DEFAULT, RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, SM2PKE]",
        ),
        (
            CreateAliasRequest(alias_name="alias/a b", target_key_id="k"),
            "Value 'alias/a b' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression "
            "pattern: ^[a-zA-Z0-9:/_-]+$",
        ),
        (
            CreateAliasRequest(alias_name="alias/a\n", target_key_id="k"),
            "Value 'alias/a\n' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression "
            "pattern: ^[a-zA-Z0-9:/_-]+$",
        ),
        (
            ListKeysRequest(limit=1_001),
            "Value '1001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 1000",
        ),
        (
            GenerateRandomRequest(number_of_bytes=0),
            "Value '0' at 'numberOfBytes' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1",
        ),
        (
            CreateKeyRequest(tags=(Tag(tag_key="a", tag_value="b"), Tag(tag_key="", tag_value="b"))),
            "Value '' at 'tags.2.member.tagKey' failed to satisfy constraint: "
            "Member must have length greater than or equal to 1",
        ),
        (
            UntagResourceRequest(key_id="k", tag_keys=("a", "")),
            "Value '[a, ]' at 'tagKeys' failed to satisfy constraint: Member must satisfy constraint: "
            "[Member must have length less than or equal to 128, Member must have length greater than or equal to 1]",
        ),
        (
            EncryptRequest(key_id="k", plaintext=b"p", grant_tokens=("t",) * 11),
            "Value '[t, t, t, t, t, t, t, t, t, t, t]' at 'grantTokens' failed to satisfy constraint: "
            "Member must have length less than or equal to 10",
        ),
    ],
)
def test_broken_constraint_is_told_in_awss_words(request_: msgspec.Struct, text: str) -> None:
    """The value, where it is, and what it should be."""
    assert check(request_) == DETECTED + text


@pytest.mark.parametrize(
    "request_",
    [
        EncryptRequest(key_id="k" * 2_048, plaintext=bytes(4_096), grant_tokens=("t",) * 10),
        EncryptRequest(key_id="k", plaintext=b"p", encryption_context={}),
        CreateAliasRequest(alias_name="alias/aws:_-9", target_key_id="k"),
        ListKeysRequest(limit=1_000, marker="ÿ"),
        CreateKeyRequest(description="", tags=(), key_spec="ML_KEM_1024"),
    ],
)
def test_request_within_its_constraints_passes(request_: msgspec.Struct) -> None:
    """Bounds are inclusive, absent members are nobody's business."""
    assert check(request_) == ""


def test_all_violations_are_told_at_once() -> None:
    """As AWS does."""
    text = check(CreateAliasRequest(alias_name=" " * 257, target_key_id=""))
    assert text.startswith("3 validation errors detected: ")
    assert text.count(";") == 2


def test_text_is_bounded_and_has_no_plaintext() -> None:
    """Whatever is sent back was cut, and bytes never are."""
    text = check(CreateKeyRequest(policy="\0" * 131_072, tags=(Tag(tag_key="", tag_value=""),) * 50))
    assert len(text) < 30_000
    assert "secret" not in check(EncryptRequest(key_id="k", plaintext=b"secret" * 1_000))


def patterns() -> list[Pattern]:
    found: dict[str, Pattern] = {}

    def walk(rule: Rule) -> None:
        found.update({one.expression: one for one in rule.constraints if isinstance(one, Pattern)})
        if rule.each is not None:
            walk(rule.each)
        for member in rule.structure or ():
            walk(member.rule)

    for module in (operations, admin):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                for member in members_of(kind):
                    walk(member.rule)
    return list(found.values())


@pytest.mark.parametrize("pattern", patterns(), ids=lambda pattern: pattern.expression)
@pytest.mark.parametrize("piece", ["a", "0", "\t", " ", "ÿ", "-", "a-", "Ā", "\n"])
def test_pattern_is_quick_on_hostile_input(pattern: Pattern, piece: str) -> None:
    """Linear: ten times the input takes about ten times as long, never a hundred times."""
    shape = msgspec.defstruct("Shape", [("value", Annotated[str, pattern])])
    validator = Validator(shape)

    def cost(length: int) -> float:
        value = shape(value=(piece * length)[:length] + "\0")
        costs = []
        for _ in range(3):
            began = time.thread_time()
            with pytest.raises(ValidationException):
                validator.check(value)
            costs.append(time.thread_time() - began)
        return min(costs)

    assert cost(130_000) < 0.002 + 40 * cost(13_000)


def test_members_have_the_model_s_names_and_rules() -> None:
    """Optional, nested and list members are found by their annotations."""
    by_name = {member.attribute: member for member in members_of(CreateKeyRequest)}
    assert by_name["policy"].told == "policy"
    assert by_name["custom_key_store_id"].told == "customKeyStoreId"
    assert by_name["description"].rule.constraints == (Length(0, 8192),)
    tag = by_name["tags"].rule.each
    assert tag is not None
    assert tag.structure is not None
    assert [(member.attribute, member.required) for member in tag.structure] == [("tag_key", True), ("tag_value", True)]
    assert isinstance(tag.structure[0], Member)


def test_missing_required_member_of_a_twin_is_told() -> None:
    """What strict.py decodes loosely has None where a member is missing."""
    names = ("key_id", "plaintext", "encryption_context", "grant_tokens", "encryption_algorithm", "dry_run")
    twin: Any = msgspec.defstruct("Twin", [(name, Any, None) for name in names])
    with pytest.raises(ValidationException, match="Value null at 'keyId'"):
        Validator(EncryptRequest).check(twin(plaintext=b"p"))
