"""Which node is preferred, and for how long one is left alone."""

import random

from hypothesis import given
from hypothesis import strategies as st

from keycluster.client.endpoints import NodeAddress
from keycluster.client.nodes import REST_SECONDS_MAX, KnownNode, by_preference, decorrelated


def address(number, az="az-1"):
    return NodeAddress(f"node-{number}", az, "127.0.0.1", number)


def test_nodes_of_the_own_zone_come_first_and_clients_spread():
    """The own AZ's nodes lead every order; different clients begin with different ones of them."""
    addresses = tuple(address(number, f"az-{number % 3}") for number in range(1, 10))
    firsts = set()
    for seed in range(30):
        order = by_preference(addresses, "az-2", random.Random(seed))
        assert [node.address.az == "az-2" for node in order] == [True] * 3 + [False] * 6
        firsts.add(order[0].address.node)
    assert firsts == {"node-2", "node-5", "node-8"}
    unbound = {by_preference(addresses, None, random.Random(seed))[0].address.node for seed in range(200)}
    assert len(unbound) == 9


def test_resting_node_lets_one_caller_through_when_its_time_is_over():
    """After a refusal nobody is sent there for a while, then one only, until it has answered."""
    node = KnownNode(address(1))
    assert node.is_well
    node.mark_refused(100.0, random.Random(1))
    assert not node.is_well
    assert not node.is_usable(100.0)
    later = 100.0 + REST_SECONDS_MAX
    assert node.is_usable(later)
    assert not node.is_usable(later)
    node.mark_answered()
    assert node.is_well
    assert node.is_usable(later)


def test_down_node_is_not_usable_until_connected():
    """Time alone brings no dead node back: only a connection does; resting and down are two things."""
    node = KnownNode(address(1))
    node.mark_down(100.0, random.Random(1))
    assert not node.is_usable(1e9)
    node.mark_answered()
    assert not node.is_well
    node.mark_connected(None)
    assert node.is_well
    node.mark_refused(100.0, random.Random(1))
    node.mark_connected(None)
    assert not node.is_usable(100.0)


@given(st.integers(0, 2**32), st.floats(0.001, 1.0), st.floats(1.0, 10.0))
def test_pauses_stay_in_bounds_and_reach_the_longest(seed, least, most):
    """Each pause is between the least and the most, and they grow until the most is reached now and then."""
    jitter, pause, pauses = random.Random(seed), 0.0, []
    for _ in range(60):
        pause = decorrelated(pause, least, most, jitter)
        assert least <= pause <= most
        pauses.append(pause)
    assert max(pauses) > min(most, least * 3) / 2
