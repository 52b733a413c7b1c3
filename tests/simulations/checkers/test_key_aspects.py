"""A key seen in part: long searches end, and what is wrong in a part is found."""

from collections.abc import Sequence
from typing import Any

import pytest

from keycluster.simulations.checkers.check import check_all
from keycluster.simulations.checkers.history import Members, ok, refused
from keycluster.simulations.checkers.key_aspects import KeyAspectAlone
from keycluster.simulations.checkers.linearizability import Verdict, check_linearizable
from tests.simulations.checkers.histories import Script, described

KEY = "00000000-0000-4000-8000-00000000000a"
TAG = {"TagKey": "a", "TagValue": "0"}

ROUNDS = 6
"""Of unknown changes of four different things: as a whole, far more keys might be than are ever searched."""


def muddled() -> Script:
    """A key of which nobody knows what has become of many changes, each of which is read later but one."""
    script = Script()
    script.do("CreateKey", {}, ok({"KeyMetadata": described(KEY)}), request_id="r")
    script.do("PutKeyPolicy", {"KeyId": KEY, "Policy": "p"}, key=KEY)
    for number in range(ROUNDS):
        tags = [{"TagKey": f"t{number}", "TagValue": "1"}, {"TagKey": "all", "TagValue": f"{number}"}]
        for operation, arguments in (
            ("TagResource", {"Tags": tags}),
            ("UpdateKeyDescription", {"Description": f"d{number}"}),
            ("PutKeyPolicy", {"Policy": f"p{number}"}),
            ("EnableKeyRotation", {"RotationPeriodInDays": 90 + number}),
        ):
            script.lose(script.begin(operation, {"KeyId": KEY, **arguments}, key=KEY))
    return script


def read(script: Script, operation: str, answer: Members) -> None:
    script.do(operation, {"KeyId": KEY}, ok(answer), key=KEY)


SOME = (("t3", "1"), ("all", "3"))


def finish(
    script: Script,
    *,
    tags: Sequence[tuple[str, str]] = SOME,
    policy: str = "p0",
    description: str = "d4",
    days: int = 91,
) -> None:
    read(
        script,
        "ListResourceTags",
        {"Tags": [{"TagKey": tag, "TagValue": value} for tag, value in tags], "Truncated": False},
    )
    read(script, "GetKeyPolicy", {"Policy": policy})
    read(script, "DescribeKey", {"KeyMetadata": described(KEY, Description=description)})
    read(script, "GetKeyRotationStatus", {"KeyRotationEnabled": True, "RotationPeriodInDays": days})


def test_what_is_too_much_as_a_whole_is_decided_in_parts() -> None:
    """Each part has few keys that might be."""
    script = muddled()
    finish(script)
    assert check_all(script.history) == []


@pytest.mark.parametrize(
    "wrong",
    [{"tags": [*SOME, ("t9", "1")]}, {"tags": [("t3", "2")]}, {"policy": "p9"}, {"description": "d9"}, {"days": 365}],
)
def test_what_is_wrong_in_a_part_is_found(wrong: dict[str, Any]) -> None:
    """An answer that nothing explains, among many changes that may or may not have been made."""
    script = muddled()
    finish(script, **wrong)
    assert "linearizability" in {failure.checker for failure in check_all(script.history)}


@pytest.mark.parametrize(("value", "is_found"), [("1", False), ("2", True)])
def test_part_is_seen_without_the_state_at_last(value: str, is_found: bool) -> None:
    """Its changes one after another, whatever the state was; the state is a part of its own."""
    script = Script()
    script.do("CreateKey", {}, ok({"KeyMetadata": described(KEY)}), key=KEY)
    for operation in ("DisableKey", "ScheduleKeyDeletion"):
        script.lose(script.begin(operation, {"KeyId": KEY}, key=KEY))
    script.do("TagResource", {"KeyId": KEY, "Tags": [{"TagKey": "a", "TagValue": "1"}]}, key=KEY)
    script.do("TagResource", {"KeyId": KEY, "Tags": [TAG]}, refused("KMSInvalidStateException"), key=KEY)
    read(script, "ListResourceTags", {"Tags": [{"TagKey": "a", "TagValue": value}], "Truncated": False})
    alone = KeyAspectAlone("tags")
    seen = alone.seen_in(script.history.calls)
    assert [call.operation for call in seen] == ["CreateKey", "TagResource", "ListResourceTags"]
    assert (check_linearizable(seen, alone).verdict is Verdict.VIOLATED) is is_found


def test_refusal_that_the_state_explains_is_none_of_another_part() -> None:
    """What a change of something else tells is in which state it was allowed."""
    script = muddled()
    script.do("DisableKey", {"KeyId": KEY}, key=KEY)
    script.do("EnableKeyRotation", {"KeyId": KEY}, refused("DisabledException"), key=KEY)
    script.do("TagResource", {"KeyId": KEY, "Tags": [TAG]}, key=KEY)
    assert check_all(script.history) == []
    script.do("TagResource", {"KeyId": KEY, "Tags": [TAG]}, refused("KMSInvalidStateException"), key=KEY)
    assert "linearizability" in {failure.checker for failure in check_all(script.history)}
