"""No account takes all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.wire.errors import ThrottlingException
from keycluster.node.shares import ACCOUNT_PART, Shares


def test_account_alone_has_its_share_and_no_more() -> None:
    """Whether others are there or not: what one has needn't be taken back."""
    shares = Shares(8)
    shares.enter("a")
    shares.enter("a")
    with pytest.raises(ThrottlingException):
        shares.enter("a")
    shares.enter("b")
    shares.leave("a")
    shares.enter("a")
    assert (shares.held_by("a"), shares.held_by("b"), shares.count) == (2, 1, 3)


def test_the_smallest_share_is_one() -> None:
    """Or nobody could do anything."""
    shares = Shares(1)
    shares.enter("a")
    with pytest.raises(ThrottlingException):
        shares.enter("b")


@given(st.integers(1, 100), st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 30), st.booleans())))
def test_shares_against_plain_sums(limit: int, steps: list[tuple[str, int, bool]]) -> None:
    """Never more than the limit, never more than a share, and what all have left is forgotten."""
    shares, held = Shares(limit), dict.fromkeys("abcdef", 0)
    for account, amount, enters in steps:
        if enters:
            fits = held[account] + amount <= max(1, limit // ACCOUNT_PART) and sum(held.values()) + amount <= limit
            if fits:
                shares.enter(account, amount)
                held[account] += amount
            else:
                with pytest.raises(ThrottlingException):
                    shares.enter(account, amount)
        elif held[account] >= amount:
            shares.leave(account, amount)
            held[account] -= amount
        assert shares.count == sum(held.values())
        assert {account: shares.held_by(account) for account in held} == held
