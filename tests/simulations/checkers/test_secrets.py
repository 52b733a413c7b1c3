"""A secret is found in every form, wherever a stream is cut, and nothing else is."""

import base64
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.simulations.checkers.secrets import HALF_BYTES, Found, SecretSearch, forms

SECRET = random.Random(1).randbytes(32)


def _written(form: str, before: bytes) -> bytes:
    """The secret in a text, in one of its forms."""
    match form:
        case "raw":
            return before + SECRET + b"after"
        case "hex":
            return before + SECRET.hex().encode() + b"after"
        case "HEX":
            return before + SECRET.hex().upper().encode() + b"after"
        case "repr":
            return before + repr(SECRET).encode()
        case "base64url":
            return base64.urlsafe_b64encode(before + SECRET + b"after")
        case _:
            return base64.b64encode(before + SECRET + b"after")


@given(
    st.sampled_from(["raw", "hex", "HEX", "repr", "base64", "base64url"]),
    st.binary(max_size=40),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_secret_is_found_in_every_form_wherever_the_stream_is_cut(form: str, before: bytes, cuts: list[int]) -> None:
    """At any place, over any chunks, once."""
    search, written = SecretSearch({"a key": SECRET}), _written(form, before)
    found, start = list[Found](), 0
    for end in [*sorted(cuts), len(written)]:
        found += search.feed("wire", written[start:end])
        start = max(start, end)
    assert found == search.found == [Found("a key", "wire")]


@pytest.mark.parametrize("half", [SECRET[:HALF_BYTES], SECRET[HALF_BYTES:]])
def test_half_a_secret_is_a_secret(half: bytes) -> None:
    """Either half alone."""
    assert SecretSearch({"a key": SECRET}).look_in("file", b"..." + half + b"...") == [Found("a key", "file")]


@given(st.binary(max_size=300))
def test_nothing_else_is_found(content: bytes) -> None:
    """Not in other bytes, and not across two streams."""
    search = SecretSearch({"a key": SECRET})
    assert search.look_in("file", content) == []
    assert search.feed("one", SECRET[:10]) == []
    assert search.feed("other", SECRET[10:20]) == []


def test_ended_stream_is_forgotten() -> None:
    """A new connection under an old name doesn't go on where that one was cut."""
    search = SecretSearch({"a key": SECRET})
    search.feed("wire", SECRET[:12])
    search.end("wire")
    assert search.feed("wire", SECRET[12:20]) == []


def test_secret_without_enough_bytes_is_refused() -> None:
    """Chance would find it."""
    with pytest.raises(ValueError, match="15 bytes"):
        SecretSearch({"a key": SECRET[:15]})


def test_findings_name_the_secret_and_do_not_show_it() -> None:
    """A report of a leak is no leak."""
    [found] = SecretSearch({"a key": SECRET}).look_in("file", SECRET)
    shown = found.failure().message
    assert "a key" in shown
    assert not any(form.decode("latin-1") in shown for form in forms(SECRET))


def test_many_secrets_are_looked_for_at_megabytes_a_second() -> None:
    """1,000 secrets in 4 MiB: well under a second, whatever chunks it comes in."""
    rng = random.Random(2)
    search = SecretSearch({f"key {number}": rng.randbytes(32) for number in range(1_000)})
    content = rng.randbytes(4 * 1024 * 1024)
    started = time.process_time()
    for start in range(0, len(content), 1_448):
        search.feed("wire", content[start : start + 1_448])
    assert search.found == []
    assert time.process_time() - started < 1.0
