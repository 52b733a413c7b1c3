"""The operations' methods say exactly what the wire's request and response types say."""

import inspect
import re
import types
import typing
from collections.abc import Awaitable, Sequence

import msgspec
import pytest

import keycluster
from keycluster.client import errors as client_errors
from keycluster.client.calls import Operation
from keycluster.client.key_client import KeyClient, RegionOperations
from keycluster.client.operations import admin as admin_module
from keycluster.client.operations import data, keys, labels
from keycluster.cluster.wire import admin, operations
from keycluster.cluster.wire import errors as wire_errors

R = typing.TypeVar("R")

TYPES: dict[str, type[msgspec.Struct]] = {
    name: kind
    for module in (operations, admin)
    for name, kind in vars(module).items()
    if inspect.isclass(kind) and issubclass(kind, msgspec.Struct)
}
NAMES = sorted(name.removesuffix("Request") for name in TYPES if name.endswith("Request"))


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def plain(annotation: object) -> object:
    """An annotation as callers see it: constraints left out, tuples as any sequence."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return plain(inner[0])
    if origin in (typing.Union, types.UnionType):
        return set(map(str, map(plain, inner)))
    if origin is tuple:
        return types.GenericAlias(Sequence, (plain(inner[0]),))
    if origin is dict:
        return dict[str, str]
    return annotation


def as_declared(annotation: object) -> object:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set(map(str, typing.get_args(annotation)))
    return annotation


@pytest.mark.parametrize("name", NAMES)
def test_method_has_its_requests_members(name: str) -> None:
    """Each request type has a method of its name, with its members as keyword arguments, typed and required alike."""
    method = getattr(RegionOperations, snake(name))
    hints = typing.get_type_hints(method)
    request_hints = typing.get_type_hints(TYPES[f"{name}Request"], include_extras=True)
    parameters = dict(inspect.signature(method).parameters)
    del parameters["self"]
    assert parameters.pop("timeout").default is None
    members = {member.name: member for member in msgspec.structs.fields(TYPES[f"{name}Request"])}
    assert parameters.keys() == members.keys()
    for member in members.values():
        parameter = parameters[member.name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert (parameter.default is inspect.Parameter.empty) == member.required
        assert as_declared(hints[member.name]) == plain(request_hints[member.name])
    assert hints["return"] is TYPES[f"{name}Response"]
    assert inspect.iscoroutinefunction(method)
    assert method.__doc__


def sample(annotation: object) -> object:
    """Some value of a request member's type."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return sample(inner[0])
    if origin in (typing.Union, types.UnionType):
        return sample(inner[0])
    if origin is tuple:
        return [sample(inner[0])]
    if origin is dict:
        return {"name": "value"}
    assert isinstance(annotation, type)
    if issubclass(annotation, msgspec.Struct):
        hints = typing.get_type_hints(annotation, include_extras=True)
        return annotation(**{name: sample(hint) for name, hint in hints.items()})
    samples: dict[type, object] = {str: "text", bytes: b"bytes", int: 7, bool: True}
    return samples[annotation]


class Recorded(Exception):
    """The call got as far as it need."""


@pytest.mark.parametrize("name", NAMES)
async def test_method_sends_each_argument_as_the_member_of_its_name(name: str) -> None:
    """What is given reaches the request under its own name; the operation and the answer's type are the method's."""
    hints = typing.get_type_hints(TYPES[f"{name}Request"], include_extras=True)
    arguments = {member: sample(hint) for member, hint in hints.items()}
    seen: list[tuple[str, object, operations.Shape, float | None]] = []

    class Recorder(RegionOperations):
        def __init__(self) -> None:
            pass

        def _call(self, operation: Operation[R], request: operations.Shape, timeout: float | None) -> Awaitable[R]:
            seen.append((operation.name, operation.decoder.type, request, timeout))
            raise Recorded

    with pytest.raises(Recorded):
        await getattr(Recorder(), snake(name))(**arguments, timeout=1.5)
    [(operation, answer_type, request, timeout)] = seen
    assert (operation, timeout) == (name, 1.5)
    assert answer_type is TYPES[f"{name}Response"]
    expected = {member: tuple(value) if isinstance(value, list) else value for member, value in arguments.items()}
    assert request == TYPES[f"{name}Request"](**expected)


def test_operations_that_change_something_are_told_from_those_that_do_not() -> None:
    """Only what goes through the log carries a request id: nothing else is remembered by the region."""
    found = {
        operation.name: operation.is_change
        for module in (data, keys, labels, admin_module)
        for operation in vars(module).values()
        if isinstance(operation, Operation)
    }
    reads = re.compile(r"Describe|List|Get|Encrypt|Decrypt|ReEncrypt|Generate|NodeStatus")
    assert found == {name: reads.match(name) is None for name in NAMES}


def test_public_names_are_what_all_says() -> None:
    """`from keycluster import …` gives every public name, and an unknown one is an AttributeError."""
    for name in keycluster.__all__:
        assert getattr(keycluster, name) is not None
    assert keycluster.KeyClient is KeyClient
    assert set(keycluster.__all__) <= set(dir(keycluster))
    with pytest.raises(AttributeError, match="no_such_name"):
        keycluster.no_such_name  # noqa: B018


def test_errors_holds_every_error_of_the_wire() -> None:
    """`keycluster.errors` names all that a node can answer with, and what the client itself finds."""
    public = {name for name, kind in vars(client_errors).items() if inspect.isclass(kind)}
    assert set(client_errors.__all__) == public
    assert {kind.__name__ for kind in wire_errors.ERRORS.values()} <= public
