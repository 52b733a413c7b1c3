"""Hypothesis strategies for commands: any value that their types admit, sensible or not."""

from typing import Any, get_args, get_type_hints

import msgspec
from hypothesis import strategies as st

from keycluster.cluster.keys.commands import Caller, CommandBody

BODIES = get_args(CommandBody)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that occurs in a command."""
    supertype = getattr(kind, "__supertype__", None)
    if supertype is not None:
        return values_of(supertype)
    if kind is int:
        return st.integers(-(2**63), 2**64 - 1)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind)
        return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})
    arguments = get_args(kind)
    if arguments and getattr(kind, "__origin__", None) is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*(values_of(argument) for argument in arguments))
    if arguments:
        return st.one_of(*(values_of(argument) for argument in arguments))
    return st.none() if kind is type(None) else st.from_type(kind)


bodies = st.sampled_from(BODIES).flatmap(values_of)
callers = values_of(Caller)
