"""Markers: they lead on where they were given, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.hierarchy import Keyring
from keycluster.cluster.wire.errors import InvalidMarkerException
from keycluster.node.operations.markers import Listing, give, take
from tests.key_machine import caller_of
from tests.room_on_memory import OTHER_ACCOUNT

KEYRING = Keyring("us-east-1", {1: bytes(32), 2: bytes(31) + b"\x01"}, 2)
LISTING = Listing("ListAliases", caller_of(), "key")


@given(st.text(max_size=256), st.sampled_from([1, 2]))
def test_marker_leads_back_to_its_position(position: str, generation: int) -> None:
    """Under the generation that it was made under, as long as that is held; and it fits AWS's 1,024 characters."""
    marker = give(KEYRING, generation, LISTING, position)
    assert take(KEYRING, LISTING, marker) == position
    assert marker.isascii()


def test_marker_of_the_longest_alias_fits_aws_limit() -> None:
    """1,024 characters."""
    assert len(give(KEYRING, 1, LISTING, "alias/" + "x" * 250)) <= 1024


@pytest.mark.parametrize(
    "other",
    [
        Listing("ListKeys", caller_of(), "key"),
        Listing("ListAliases", caller_of(OTHER_ACCOUNT), "key"),
        Listing("ListAliases", caller_of(), "another key"),
        Listing("ListAliaseskey", caller_of(), ""),
    ],
)
def test_marker_of_another_list_is_invalid(other: Listing) -> None:
    """Operation, account and subject are bound in, each by itself."""
    with pytest.raises(InvalidMarkerException):
        take(KEYRING, LISTING, give(KEYRING, 1, other, "position"))


@given(st.data())
def test_marker_with_any_letter_changed_is_invalid(data: st.DataObject) -> None:
    """Whatever is changed, added or left out."""
    marker = give(KEYRING, 1, LISTING, "position")
    place = data.draw(st.integers(0, len(marker)))
    piece = data.draw(st.text(max_size=2))
    altered = marker[:place] + piece + marker[place + data.draw(st.integers(0, 2)) :]
    if altered != marker:
        with pytest.raises(InvalidMarkerException):
            take(KEYRING, LISTING, altered)


@given(st.text(max_size=100))
def test_marker_of_any_text_is_invalid(text: str) -> None:
    """A stranger's text is never more than that."""
    with pytest.raises(InvalidMarkerException):
        take(KEYRING, LISTING, text)


def test_marker_of_another_regions_key_or_a_generation_not_held_is_invalid() -> None:
    """Same list, another keyring."""
    marker = give(KEYRING, 1, LISTING, "position")
    for keyring in (Keyring("eu-west-1", {1: bytes(32)}, 1), Keyring("us-east-1", {3: bytes(32)}, 3)):
        with pytest.raises(InvalidMarkerException):
            take(keyring, LISTING, marker)
