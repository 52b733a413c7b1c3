"""Key policies: the default one, what says the same, and what doesn't."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.policy import check_policy, default_policy
from keycluster.cluster.wire.errors import (
    KmsError,
    LimitExceededException,
    MalformedPolicyDocumentException,
    UnsupportedOperationException,
)
from tests.room_on_memory import ACCOUNT, OTHER_ACCOUNT

ROOT = f"arn:aws:iam::{ACCOUNT}:root"


def document(**changes: Any) -> dict[str, Any]:
    """The default policy with other members in its statement; None takes one out."""
    statement = {"Sid": "s", "Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*"}
    statement.update(changes)
    kept = {name: value for name, value in statement.items() if value is not None}
    return {"Version": "2012-10-17", "Id": "i", "Statement": [kept]}


def check(policy: str) -> None:
    check_policy(policy, ACCOUNT, "aws")


def test_default_policy_is_as_aws_returns_it() -> None:
    """Same members, same values, same Id."""
    policy = json.loads(default_policy(ACCOUNT, "aws"))
    assert policy == {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": {"AWS": ROOT},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    check(default_policy(ACCOUNT, "aws"))


@pytest.mark.parametrize(
    "policy",
    [
        document(),
        document(Sid=None),
        document(Principal={"AWS": [ROOT]}),
        document(Principal={"AWS": ACCOUNT}),
        document(Action=["kms:*"]),
        document(Action="KMS:*"),
        document(Resource=["*"]),
        {**document(), "Statement": document()["Statement"][0]},
        {"Version": "2008-10-17", "Statement": document()["Statement"]},
    ],
)
def test_policy_that_says_the_same_is_taken(policy: dict[str, Any]) -> None:
    """Names, lists of one and the account for its root change nothing in what is allowed."""
    check(json.dumps(policy, indent=3))


@pytest.mark.parametrize(
    "policy",
    [
        document(Effect="Deny"),
        document(Principal="*"),
        document(Principal={"AWS": "*"}),
        document(Principal={"AWS": f"arn:aws:iam::{OTHER_ACCOUNT}:root"}),
        document(Principal={"AWS": [ROOT, f"arn:aws:iam::{OTHER_ACCOUNT}:root"]}),
        document(Principal={"AWS": ROOT, "Service": "s3.amazonaws.com"}),
        document(Principal=None),
        document(Action="kms:Encrypt"),
        document(Action=["kms:*", "s3:*"]),
        document(Action=None, NotAction="kms:*"),
        document(Resource="arn:aws:kms:us-east-1:123456789012:key/x"),
        document(Condition={"Bool": {"aws:SecureTransport": "true"}}),
        {**document(), "Statement": document()["Statement"] * 2},
        {**document(), "Statement": []},
        {**document(), "Statement": "Allow"},
        {**document(), "Version": "2020-01-01"},
        {**document(), "Extra": 1},
    ],
)
def test_policy_that_says_something_else_is_unsupported(policy: dict[str, Any]) -> None:
    """What would be stored and not enforced is refused."""
    with pytest.raises(UnsupportedOperationException):
        check(json.dumps(policy))


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "my policy",
        "[]",
        "null",
        "{}",
        '{"Statement": NaN}',
        '{"Statement": [], "Statement": []}',
        '{"Statement": ' + "9" * 5000 + "}",
        '{"Statement": ' + "[" * 10_000,
        '{"Statement": ' + "[" * 17 + "]" * 17 + "}",
        json.dumps(document()) + "x",
    ],
)
def test_policy_that_is_no_document_is_malformed(policy: str) -> None:
    """Not JSON, not an object, doubly named, or nested beyond reason: one error, at any depth of the caller's stack."""
    with pytest.raises(MalformedPolicyDocumentException):
        check(policy)


def test_policy_beyond_32_kib_exceeds_the_limit() -> None:
    """AWS's quota, counted in bytes."""
    padded = json.dumps(document(Sid="é" * 16_384), ensure_ascii=False)
    with pytest.raises(LimitExceededException):
        check(padded)


def test_policy_with_brackets_in_strings_is_not_deep() -> None:
    """Brackets in a Sid nest nothing, an escaped quote ends nothing."""
    check(json.dumps(document(Sid='"' + "[{" * 100)))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_policy_of_any_json_is_refused_with_an_aws_error(value: Any) -> None:
    """No document is more than malformed or unsupported."""
    for policy in (json.dumps(value), json.dumps({"Version": "2012-10-17", "Statement": value})):
        with pytest.raises(KmsError) as refused:
            check(policy)
        assert refused.value.code in {"MalformedPolicyDocumentException", "UnsupportedOperationException"}
