"""The table of operations against AWS's own model, as botocore carries it."""

from typing import Any

import botocore.session
import msgspec
import pytest

from keycluster.node.operations.data import DATA
from keycluster.node.operations.reads import READS
from keycluster.node.operations.table import OPERATIONS, Cost, Operation, Plane
from keycluster.node.operations.writes import WRITES

MODEL: Any = botocore.session.get_session().get_service_model("kms")
EVERY = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def test_table_has_the_operations_of_the_issue() -> None:
    """29 of AWS's, no other, each under its own name."""
    assert set(OPERATIONS) <= set(MODEL.operation_names)
    assert len(OPERATIONS) == 29
    assert all(name == operation.name for name, operation in OPERATIONS.items())


@EVERY
def test_unavailable_error_is_the_first_that_the_model_lists(operation: Operation) -> None:
    """KeyUnavailable, else DependencyTimeout, else KMSInternal; 500 and retryable."""
    listed = {shape.name for shape in MODEL.operation_model(operation.name).error_shapes}
    order = ("KeyUnavailableException", "DependencyTimeoutException", "KMSInternalException")
    assert operation.unavailable.code == next((code for code in order if code in listed), order[-1])
    assert operation.unavailable.status == 500
    assert operation.unavailable.retryable


@EVERY
def test_types_have_the_members_of_the_model(operation: Operation) -> None:
    """By AWS's names, none left out and none of our own."""
    model = MODEL.operation_model(operation.name)
    for ours, theirs in ((operation.request_type, model.input_shape), (operation.response_type, model.output_shape)):
        names = {field.encode_name for field in msgspec.structs.fields(ours)}
        assert names == (set(theirs.members) if theirs is not None else set())


@EVERY
def test_action_is_the_one_that_policies_name(operation: Operation) -> None:
    """kms: and the operation's name, save for ReEncrypt, whose source has an action of its own."""
    expected = "ReEncryptFrom" if operation.name == "ReEncrypt" else operation.name
    assert operation.action == f"kms:{expected}"


def test_planes_are_those_of_the_handlers() -> None:
    """What uses keys, what reads and what writes, each from its module; all quick for now."""
    for plane, handlers in ((Plane.DATA, DATA), (Plane.READ, READS), (Plane.WRITE, WRITES)):
        assert {name for name, operation in OPERATIONS.items() if operation.plane is plane} == set(handlers)
        assert all(OPERATIONS[name].handler is handler for name, handler in handlers.items())
    assert {operation.cost for operation in OPERATIONS.values()} == {Cost.QUICK}
