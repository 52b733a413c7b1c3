"""The canonical encryption context: one form a map, one map a form."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.context import CONTEXT_BYTES_MAX, EMPTY_CONTEXT, ContextInvalid, canonical_context

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
contexts = st.dictionaries(text, text, max_size=8)


def decode_context(canonical: bytes) -> dict[str, str]:
    """The map back, read as docs/formats.md says and nothing else: refuses what is not canonical."""
    (count,) = struct.unpack_from(">H", canonical)
    at, keys, context = 2, [], {}
    for _ in range(count):
        parts = []
        for _ in range(2):
            (length,) = struct.unpack_from(">H", canonical, at)
            part = canonical[at + 2 : at + 2 + length]
            assert len(part) == length, "cut short"
            at += 2 + length
            parts.append(part)
        keys.append(parts[0])
        context[parts[0].decode()] = parts[1].decode()
    assert at == len(canonical), "trailing bytes"
    assert all(a < b for a, b in pairwise(keys)), "unsorted, or a key twice"
    return context


@given(contexts)
def test_context_decodes_to_itself(context: dict[str, str]) -> None:
    """Nothing is lost, folded or normalised."""
    assert decode_context(canonical_context(context)) == context


@given(contexts, contexts)
def test_contexts_have_one_form_exactly_if_they_are_equal(one: dict[str, str], other: dict[str, str]) -> None:
    """Two maps share their form if and only if they are the same."""
    assert (canonical_context(one) == canonical_context(other)) == (one == other)


@given(contexts)
def test_context_does_not_depend_on_insertion_order(context: dict[str, str]) -> None:
    """A client may send its pairs in any order."""
    backwards = dict(reversed(list(context.items())))
    assert canonical_context(backwards) == canonical_context(context)


def test_context_example_byte_by_byte() -> None:
    """Sorted by bytes, not by letters: "Z" before "a", "ÿ" (C3 BF) before "€" (E2 82 AC)."""
    assert canonical_context({"a": "1", "€": "", "Z": "zz", "ÿ": "2"}) == (
        b"\x00\x04\x00\x01Z\x00\x02zz\x00\x01a\x00\x011\x00\x02\xc3\xbf\x00\x012\x00\x03\xe2\x82\xac\x00\x00"
    )


def test_context_is_sorted_by_utf8_bytes_beyond_the_basic_plane() -> None:
    """U+FF61 (EF …) comes before U+10000 (F0 …), which UTF-16 would turn round."""
    assert canonical_context({"\U00010000": "", "\uff61": ""})[4:7] == "\uff61".encode()


def test_empty_context_equals_none() -> None:
    """Absent and empty are the same, and a pair of empty strings is not."""
    assert canonical_context(None) == canonical_context({}) == EMPTY_CONTEXT
    assert canonical_context({"": ""}) == b"\x00\x01\x00\x00\x00\x00"


def test_context_is_not_normalised() -> None:
    """Composed and decomposed text stay two contexts."""
    assert canonical_context({"e\u0301": ""}) != canonical_context({"\u00e9": ""})


@pytest.mark.parametrize("context", [{"\ud800": "a"}, {"a": "\udfff"}])
def test_lone_surrogate_is_refused(context: dict[str, str]) -> None:
    """JSON can spell half a character; no form stands for it."""
    with pytest.raises(ContextInvalid, match="Unicode"):
        canonical_context(context)


def test_context_at_its_largest_and_one_byte_beyond() -> None:
    """The cap is on the canonical form, in bytes."""
    assert len(canonical_context({"k": "é" * 4092 + "x"})) == CONTEXT_BYTES_MAX
    for beyond in ({"k": "é" * 4093}, {"k": "v" * 70_000}, {str(n): "" for n in range(3_000)}):
        with pytest.raises(ContextInvalid, match="8192"):
            canonical_context(beyond)
