"""The operations' types against the model that AWS's own SDK carries."""

from typing import Any

import msgspec
import pytest
from botocore.loaders import Loader

from keycluster.cluster.wire import operations
from keycluster.cluster.wire.constraints import Length, OneOf, Pattern, Range
from keycluster.cluster.wire.operations import Shape
from keycluster.cluster.wire.validate import Rule, members_of

MODEL = Loader().load_service_model("kms", "service-2")
SHAPES = MODEL["shapes"]
KINDS = {
    name: kind
    for name, kind in vars(operations).items()
    if isinstance(kind, type) and issubclass(kind, Shape) and kind is not Shape
}
REQUESTS = {name: kind for name, kind in KINDS.items() if name.endswith("Request")}


def operation_names() -> list[str]:
    return [name.removesuffix("Request") for name in REQUESTS]


@pytest.mark.parametrize("name", operation_names())
def test_operation_exists_with_the_types_that_the_model_gives_it(name: str) -> None:
    """Input and output are found by the operation's name; no output in the model is a type without members."""
    operation = MODEL["operations"][name]
    assert operation["input"]["shape"] == f"{name}Request"
    response = KINDS[f"{name}Response"]
    if "output" in operation:
        assert operation["output"]["shape"] == f"{name}Response"
    else:
        assert response.__struct_fields__ == ()


@pytest.mark.parametrize("name", [name for name in KINDS if name in SHAPES])
def test_members_are_the_model_s(name: str) -> None:
    """Names in AWS's spelling, and on requests what is required."""
    fields = msgspec.structs.fields(KINDS[name])
    assert {field.encode_name for field in fields} == set(SHAPES[name]["members"])
    required = {field.encode_name for field in fields if field.required}
    if name in REQUESTS or name == "Tag":
        assert required == set(SHAPES[name].get("required", ()))
    else:
        assert required >= set(SHAPES[name].get("required", ()))


def constraints_of(shape: dict[str, Any]) -> list[Any]:
    """What our annotations should say, in their order."""
    found: list[Any] = []
    if "min" in shape or "max" in shape:
        bounds = Range if shape["type"] == "integer" else Length
        found.append(bounds(shape.get("min", 0), shape["max"]))
    if "pattern" in shape:
        found.append(Pattern(shape["pattern"]))
    if "enum" in shape:
        found.append(tuple(shape["enum"]))
    return found


def check_rule(rule: Rule, shape: dict[str, Any], where: str) -> None:
    ours = [one.values if isinstance(one, OneOf) else one for one in rule.constraints]
    assert ours == constraints_of(shape), where
    if shape["type"] == "list":
        assert rule.each is not None, where
        if rule.each.structure is None:
            check_rule(rule.each, SHAPES[shape["member"]["shape"]], where)


@pytest.mark.parametrize("name", [*REQUESTS, "Tag", "RecipientInfo"])
def test_constraints_are_the_model_s(name: str) -> None:
    """Lengths, ranges, patterns and enumerations, of list members too."""
    for member in members_of(KINDS[name]):
        wire_name = next(
            field.encode_name for field in msgspec.structs.fields(KINDS[name]) if field.name == member.attribute
        )
        shape = SHAPES[SHAPES[name]["members"][wire_name]["shape"]]
        check_rule(member.rule, shape, f"{name}.{wire_name}")


def test_absent_members_are_left_out() -> None:
    """As AWS leaves them out: SDKs tell null from absent."""
    assert msgspec.json.encode(operations.ListKeysRequest()) == b"{}"
