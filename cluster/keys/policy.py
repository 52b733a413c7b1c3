"""Key policies, as far as they are known now: the default policy, and documents that say the same.

A policy stored but not enforced would be a false promise, so any other is refused until the authorisation issue.
A document says the same when it allows exactly the account's root all of KMS on the key it is attached to: `Id` and
`Sid` are names and free, and where IAM's grammar has a value or a list of one, both are taken.

No decoder here depends on the depth of the stack: `apply` must judge a document alike at every node.
Source: AWS KMS developer guide, "Default key policy"; IAM User Guide, "Grammar of the IAM JSON policy language".
"""

import json
from typing import Any

from keycluster.cluster.keys.limits import check_policy_size
from keycluster.cluster.types import AccountId
from keycluster.cluster.wire.errors import MalformedPolicyDocumentException, UnsupportedOperationException

POLICY_NAME = "default"  # The only name a key policy can have.
DEPTH_MAX = 16  # IAM's grammar needs seven levels.
VERSIONS = ("2012-10-17", "2008-10-17")


def default_policy(account: AccountId, partition: str) -> str:
    """The policy of a key whose creator gave none, laid out as AWS lays it out."""
    return (
        "{\n"
        '  "Version" : "2012-10-17",\n'
        '  "Id" : "key-default-1",\n'
        '  "Statement" : [ {\n'
        '    "Sid" : "Enable IAM User Permissions",\n'
        '    "Effect" : "Allow",\n'
        '    "Principal" : {\n'
        f'      "AWS" : "{_root(account, partition)}"\n'
        "    },\n"
        '    "Action" : "kms:*",\n'
        '    "Resource" : "*"\n'
        "  } ]\n"
        "}"
    )


def check_policy(policy: str, account: AccountId, partition: str) -> None:
    """That `policy` says what the default policy says.

    Raises LimitExceededException, MalformedPolicyDocumentException, or UnsupportedOperationException for a policy that
    is well-formed and says something else.
    """
    check_policy_size(policy)
    document = _parse(policy)
    if not _says_default(document, account, partition):
        raise UnsupportedOperationException(
            "Only the default key policy is supported: it gives the account's root full access to the key"
        )


def _root(account: AccountId, partition: str) -> str:
    return f"arn:{partition}:iam::{account}:root"


def _parse(policy: str) -> dict[str, Any]:
    if _depth(policy) > DEPTH_MAX:
        raise MalformedPolicyDocumentException("The policy document is nested too deeply")
    try:
        document = json.loads(policy, object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError:
        raise MalformedPolicyDocumentException("The policy document is not valid JSON") from None
    if not isinstance(document, dict):
        raise MalformedPolicyDocumentException("The policy document is not a JSON object")
    if "Statement" not in document:
        raise MalformedPolicyDocumentException("The policy document has no Statement")
    return document


def _depth(text: str) -> int:
    """Levels of brackets outside strings, found without recursion."""
    depth = deepest = 0
    in_string = escaped = False
    for letter in text:
        if in_string:
            in_string = escaped or letter != '"'
            escaped = letter == "\\" and not escaped
        elif letter == '"':
            in_string = True
        elif letter in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "}]":
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two members of one name: one reader would follow the first, another the last."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _no_constant(_: str) -> Any:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError


def _says_default(document: dict[str, Any], account: AccountId, partition: str) -> bool:
    if not document.keys() <= {"Version", "Id", "Statement"}:
        return False
    if document.get("Version") not in VERSIONS or not isinstance(document.get("Id", ""), str):
        return False
    statement = _only(document["Statement"])
    if not isinstance(statement, dict) or not statement.keys() <= {"Sid", "Effect", "Principal", "Action", "Resource"}:
        return False
    action = _only(statement.get("Action"))
    return (
        isinstance(statement.get("Sid", ""), str)
        and statement.get("Effect") == "Allow"
        and _names_root(statement.get("Principal"), account, partition)
        and isinstance(action, str)
        and action.lower() == "kms:*"
        and _only(statement.get("Resource")) == "*"
    )


def _names_root(principal: Any, account: AccountId, partition: str) -> bool:
    if not isinstance(principal, dict) or principal.keys() != {"AWS"}:
        return False
    return _only(principal["AWS"]) in (_root(account, partition), account)


def _only(value: Any) -> Any:
    """The grammar's "value or list of one"."""
    if isinstance(value, list):
        return value[0] if len(value) == 1 else None
    return value
