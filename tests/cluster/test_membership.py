"""Where voters may stand."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.membership import is_spread, placement_allows
from keycluster.cluster.types import NodeId


@pytest.mark.parametrize(
    ("azs", "spread"),
    [
        ("a", True),
        ("aaa", True),
        ("ab", True),
        ("aab", True),
        ("abc", True),
        ("aabc", True),
        ("aaabc", False),
        ("aabbc", True),
        ("aaabbc", True),
        ("aaaabbc", False),
        ("aabcd", True),
        ("aaabbcd", True),
        ("aaaabcd", False),
    ],
)
def test_voters_of_three_azs_are_spread_when_none_holds_a_majority(azs: str, spread: bool) -> None:
    """Of one or two AZs nothing is asked."""
    assert is_spread(azs) is spread


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9))
def test_spread_region_with_an_odd_number_of_voters_outlives_any_one_az(azs: list[str]) -> None:
    """That is what the rule is for: with three or more AZs, whichever is lost, a majority of voters is left."""
    survives = all(2 * sum(az != lost for az in azs) > len(azs) for lost in set(azs))
    if len(set(azs)) >= 3 and len(azs) % 2:
        assert is_spread(azs) is survives


def voters(azs: str) -> dict[NodeId, str]:
    return {NodeId(f"n{number}"): az for number, az in enumerate(azs)}


def test_change_is_allowed_by_what_it_leads_to() -> None:
    """Adding to the fullest AZ and removing from an empty one are the two ways to break the rule."""
    assert placement_allows(voters("abc"), {NodeId("n9"): "a"})
    assert not placement_allows(voters("aabc"), {NodeId("n9"): "a"})
    assert placement_allows(voters("aabc"), {NodeId("n9"): "b"})
    assert not placement_allows(voters("aabbc"), {NodeId("n2"): None, NodeId("n9"): "a"})
    assert placement_allows(voters("aabc"), {NodeId("n0"): None})
    assert not placement_allows(voters("aaabbc"), {NodeId("n3"): None})
    assert placement_allows(voters("aabbc"))


def test_last_voter_cannot_go() -> None:
    """A region without voters agrees on nothing any more."""
    assert not placement_allows(voters("a"), {NodeId("n0"): None})
    assert placement_allows(voters("ab"), {NodeId("n0"): None})


def test_six_voters_in_three_azs_can_be_reached_from_one_by_one() -> None:
    """No spread placement is out of reach: from any smaller spread one some voter can be added."""
    for counts in product(range(1, 4), repeat=3):
        azs = "".join(az * count for az, count in zip("abc", counts, strict=True))
        if is_spread(azs):
            assert any(placement_allows(voters(azs), {NodeId("n99"): az}) for az in "abc")
