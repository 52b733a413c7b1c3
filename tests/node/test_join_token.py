"""Join tokens as text: one text for each, and a damaged one is told at once."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.node.join_token import (
    PREFIX,
    JoinToken,
    JoinTokenMalformed,
    format_join_token,
    parse_join_token,
)

addresses = st.builds(
    "{}:{}".format,
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,40}", fullmatch=True) | st.just("[::1]"),
    st.integers(0, 65_535),
)
tokens = st.builds(
    JoinToken,
    token_id=st.binary(min_size=16, max_size=16),
    secret=st.binary(min_size=32, max_size=32),
    client_ca_fingerprint=st.binary(min_size=32, max_size=32),
    addresses=st.lists(addresses, min_size=1, max_size=8).map(tuple),
)
TOKEN = JoinToken(b"i" * 16, b"s" * 32, b"f" * 32, ("10.0.0.1:7720", "kms.example:7720"))


@given(tokens)
def test_token_survives_both_ways(token: JoinToken) -> None:
    """What an operator copies is the token that the region made."""
    text = format_join_token(token)
    assert parse_join_token(text) == token
    assert not set(text) & set(" \n\t\"'$\\&|<>")  # Fit for any shell and terminal.


@given(tokens, st.data())
def test_damaged_text_is_refused(token: JoinToken, data: st.DataObject) -> None:
    """A letter changed, left out or added anywhere: never another token, always an error."""
    text = format_join_token(token)
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters(codec="utf-8").filter(lambda letter: letter != text[at]))
    for damaged in (text[:at] + letter + text[at + 1 :], text[:at] + text[at + 1 :], text + letter, text[:at]):
        with pytest.raises(JoinTokenMalformed):
            parse_join_token(damaged)


def test_unused_bits_at_the_end_are_zero() -> None:
    """Base64's last letter has spare bits: only one of the letters that decode alike is taken."""
    text = format_join_token(TOKEN)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    alike = text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]
    assert len(text.removeprefix(PREFIX)) % 4 != 0
    assert base64.urlsafe_b64decode(alike[len(PREFIX) :] + "==") == base64.urlsafe_b64decode(text[len(PREFIX) :] + "==")
    with pytest.raises(JoinTokenMalformed):
        parse_join_token(alike)


@settings(max_examples=300)
@given(st.text(max_size=300) | st.text("ABCDwxyz0189-_", max_size=300).map(lambda rest: PREFIX + rest))
def test_any_other_text_is_refused(text: str) -> None:
    """Nothing but a token is a token, and the error shows nothing of what was given."""
    with pytest.raises(JoinTokenMalformed, match="not a whole join token"):
        parse_join_token(text)


@pytest.mark.parametrize(
    "token",
    [
        JoinToken(b"i" * 15, b"s" * 32, b"f" * 32, ("h:1",)),
        JoinToken(b"i" * 16, b"s" * 31, b"f" * 32, ("h:1",)),
        JoinToken(b"i" * 16, b"s" * 32, b"f" * 33, ("h:1",)),
        JoinToken(b"i" * 16, b"s" * 32, b"f" * 32, ()),
        JoinToken(b"i" * 16, b"s" * 32, b"f" * 32, ("h:1",) * 9),
        JoinToken(b"i" * 16, b"s" * 32, b"f" * 32, ("no port",)),
    ],
)
def test_token_of_the_wrong_form_has_no_text(token: JoinToken) -> None:
    """What could not be parsed again isn't written."""
    with pytest.raises(ValueError, match=r"join token|not an address"):
        format_join_token(token)


def test_token_hides_its_secret() -> None:
    """A `repr` in a log lets nobody join."""
    assert "ssss" not in repr(TOKEN)
    assert b"s".hex() * 4 not in repr(TOKEN)
