"""The canonical form of an encryption context: the bytes that a blob's key is derived from (security.md, 4).

    pairs u16 ‖ for each pair, ascending by its key's bytes: key length u16 ‖ key ‖ value length u16 ‖ value

Text is UTF-8 as it came: no normalisation, no folding of case, so a context matches itself alone. One map has one
form and one form one map; an empty map is the same as none at all.
"""

import struct
from collections.abc import Mapping

# Of the canonical form: a bound on what is hashed, matched by policies and recorded. AWS's
# reference states none.
CONTEXT_BYTES_MAX = 8_192
EMPTY_CONTEXT = b"\x00\x00"

_LENGTH = struct.Struct(">H")
_PAIR_OVERHEAD = 2 * _LENGTH.size
_PAIRS_MAX = (CONTEXT_BYTES_MAX - _LENGTH.size) // _PAIR_OVERHEAD  # More can't fit, however short they are.


class ContextInvalid(Exception):
    """A context without a canonical form: too large, or text that isn't Unicode. The message is for the caller."""


def canonical_context(context: Mapping[str, str] | None) -> bytes:
    """At least 2 and at most 8,192 bytes. Raises `ContextInvalid`."""
    if not context:
        return EMPTY_CONTEXT
    if len(context) > _PAIRS_MAX:
        raise _too_large()
    try:
        pairs = sorted((key.encode(), value.encode()) for key, value in context.items())
    except UnicodeEncodeError:  # A lone surrogate: JSON can spell one, UTF-8 has no bytes for it.
        raise ContextInvalid("The encryption context has text that is not valid Unicode.") from None
    parts = [_LENGTH.pack(len(pairs))]
    size = _LENGTH.size
    for key, value in pairs:
        size += _PAIR_OVERHEAD + len(key) + len(value)
        if size > CONTEXT_BYTES_MAX:
            raise _too_large()
        parts += (_LENGTH.pack(len(key)), key, _LENGTH.pack(len(value)), value)
    return b"".join(parts)


def _too_large() -> ContextInvalid:
    return ContextInvalid(f"The encryption context is larger than {CONTEXT_BYTES_MAX} bytes.")
