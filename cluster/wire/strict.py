"""Decodes what strangers send: right types, right values, one value per name, all of the bytes.

msgspec, json and msgpack keep the last of two members of one name and say nothing. Then two readers of one request
could see two requests (security.md, 4), so a name that occurs twice is refused. Unknown names are ignored, as AWS does.

Looking for duplicates costs ten times the decoding. The quick way: a value that came out of decoding, encoded again,
has exactly the members that were kept; if it is as large as what came, nothing was dropped:

- msgpack: the shortest encoding is as long as what came. What was dropped only ever made that longer, since nothing a
  request may hold can be written shorter than msgspec writes it (floats could: no request has any, see below).
- JSON: as many colons as came, where nothing is escaped (an escaped colon could stand in for a dropped one).

What doesn't pass the quick way has unknown members, nulls, escapes or duplicates, and the slow way tells which.
Nesting ends where Python's recursion limit does; sizes are bounded by the doors.
"""

import json
from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, Final, Generic, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack
import msgspec

from keycluster.cluster.invariant import require
from keycluster.cluster.wire.errors import SerializationException
from keycluster.cluster.wire.validate import Validator

T = TypeVar("T", bound=msgspec.Struct)

MALFORMED_TEXT: Final = "The input can't be read"
DUPLICATE_TEXT: Final = "A member occurs twice"
_MALFORMED = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

_encode_msgpack = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode


class StrictDecoder(Generic[T]):
    """Decodes one request type. Raises `SerializationException` (can't be read, wrong type, a member twice) or
    `ValidationException` (a required member missing or null, a constraint broken), whatever comes."""

    def __init__(self, kind: type[T]) -> None:
        loose, self._validator = _made_for(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)
        self._json = msgspec.json.Decoder(kind)
        self._loose_msgpack = msgspec.msgpack.Decoder(loose)
        self._loose_json = msgspec.json.Decoder(loose)

    def from_msgpack(self, content: bytes | msgspec.Raw) -> T:
        try:
            request = self._msgpack.decode(content)
        except _MALFORMED:
            self._explain(self._loose_msgpack.decode, _walk_msgpack, bytes(content))
        if len(_encode_msgpack(request)) != memoryview(content).nbytes:
            _refuse_duplicates(_walk_msgpack, bytes(content))
        self._validator.check(request)
        return request

    def from_json(self, content: bytes) -> T:
        """Nothing at all is an empty object, as AWS's services take it."""
        content = content or b"{}"
        try:
            request = self._json.decode(content)
        except _MALFORMED:
            self._explain(self._loose_json.decode, _walk_json, content)
        if b"\\" in content or _encode_json(request).count(b":") != content.count(b":"):
            _refuse_duplicates(_walk_json, content)
        self._validator.check(request)
        return request

    def _explain(
        self, decode: Callable[[bytes], msgspec.Struct], walk: Callable[[bytes], None], content: bytes
    ) -> NoReturn:
        """AWS tells a missing member from a wrong type: so decode again with nothing required."""
        try:
            incomplete = decode(content)
        except msgspec.ValidationError as error:  # Names the member and the types, never the value.
            raise SerializationException(str(error).replace(" | null", "")) from None
        except _MALFORMED:
            raise SerializationException(MALFORMED_TEXT) from None
        _refuse_duplicates(walk, content)
        self._validator.check(incomplete)
        raise SerializationException(MALFORMED_TEXT)


@cache
def _made_for(kind: type[msgspec.Struct]) -> tuple[type[msgspec.Struct], Validator]:
    """What takes long to make: a tenth of a node's start, and simulations start hundreds in one process."""
    require(not _has_floats(kind), f"{kind.__name__} has floats, which msgpack may write shorter than msgspec does")
    return _all_optional(kind), Validator(kind)


def _refuse_duplicates(walk: Callable[[bytes], None], content: bytes) -> None:
    """Raises `SerializationException` for a member that occurs twice, at any depth, and for what can't be walked."""
    try:
        walk(content)
    except _Duplicate:
        raise SerializationException(DUPLICATE_TEXT) from None
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        # Errors of UTF-8, json and msgpack are ValueErrors; TypeError: a map as a map's key.
        raise SerializationException(MALFORMED_TEXT) from None


class _Duplicate(Exception):
    """Two members of one name in one object."""


def _see_pairs(pairs: list[tuple[Any, Any]]) -> None:
    """Called for each object; what would be built of it isn't wanted."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise _Duplicate


def _see_number(_: str) -> None:
    """A number of 100,000 digits is passed over, not computed."""


def _walk_json(content: bytes) -> None:
    json.loads(
        content.decode("utf-8"),
        object_pairs_hook=_see_pairs,
        parse_int=_see_number,
        parse_float=_see_number,
    )


def _walk_msgpack(content: bytes) -> None:
    msgpack.unpackb(content, object_pairs_hook=_see_pairs, strict_map_key=False, use_list=False)


def _all_optional(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The type's twin in which every member of every structure may be missing or null."""
    hints = get_type_hints(kind)
    fields = [
        (field.name, _loosened(hints[field.name]) | None, msgspec.field(default=None, name=field.encode_name))
        for field in msgspec.structs.fields(kind)
    ]
    return msgspec.defstruct(kind.__name__, fields, frozen=True)


def _loosened(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _all_optional(hint)
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(map(_loosened, get_args(hint)))]  # noqa: UP007  # Built, not written.
    if get_origin(hint) is tuple:
        return tuple.__class_getitem__(
            (_loosened(get_args(hint)[0]), ...)
        )  # Written `tuple[…]`, mypy takes it for a type.
    return hint


def _has_floats(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return any(map(_has_floats, get_type_hints(hint).values()))
    return hint is float or any(map(_has_floats, get_args(hint)))
