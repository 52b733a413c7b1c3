"""Which node is preferred, and for how long one is left alone."""

import random

from hypothesis import given
from hypothesis import strategies as st

from keycluster.client.connection import Connection
from keycluster.client.endpoints import NodeAddress
from keycluster.client.nodes import REST_SECONDS_MAX, KnownNode, by_preference, decorrelated
from keycluster.cluster.types import NodeId


class IdleConnection(Connection):
    """Open, and nobody asks anything by it: a node is told of it and looks at it, no more."""

    in_flight = queued = 0

    def __init__(self) -> None:
        self.is_open = True


def address(number: int, az: str = "az-1") -> NodeAddress:
    return NodeAddress(NodeId(f"node-{number}"), az, "127.0.0.1", number)


def is_well(node: KnownNode) -> bool:
    """Asked anew each time: a type checker takes what an attribute was found to be for what it still is."""
    return node.is_well


def test_nodes_of_the_own_zone_come_first_and_clients_spread() -> None:
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


def test_resting_node_lets_one_caller_through_when_its_time_is_over() -> None:
    """After a refusal nobody is sent there for a while, then one only, until it has answered."""
    node = KnownNode(address(1))
    assert is_well(node)
    node.mark_refused(100.0, random.Random(1))
    assert not is_well(node)
    assert not node.is_usable(100.0)
    later = 100.0 + REST_SECONDS_MAX
    assert node.is_usable(later)
    assert not node.is_usable(later)
    node.mark_answered()
    assert is_well(node)
    assert node.is_usable(later)


def test_down_node_is_not_usable_until_connected() -> None:
    """Time alone brings no dead node back: only a connection does; resting and down are two things."""
    node = KnownNode(address(1))
    node.mark_down(100.0, random.Random(1))
    assert not node.is_usable(1e9)
    node.mark_answered()
    assert not is_well(node)
    node.mark_connected(IdleConnection())
    assert is_well(node)
    node.mark_refused(100.0, random.Random(1))
    node.mark_connected(IdleConnection())
    assert not node.is_usable(100.0)


STEPS = st.lists(st.sampled_from(["down", "connected", "refused", "answered", "wait"]), max_size=30)


@given(STEPS, st.integers(0, 2**32))
def test_state_of_a_node_is_always_what_happened_last(steps: list[str], seed: int) -> None:
    """Down since the last break without a connection after it, resting since the last refusal without an answer."""
    node, jitter, now = KnownNode(address(1)), random.Random(seed), 100.0
    down, rests = False, False
    for step in steps:
        if step == "down":
            node.mark_down(now, jitter)
            down = True
        elif step == "connected":
            node.mark_connected(IdleConnection())
            down = False
        elif step == "refused":
            node.mark_refused(now, jitter)
            rests = True
        elif step == "answered":
            node.mark_answered()
            rests = False
        else:
            now += 2 * REST_SECONDS_MAX
        assert node.is_well == (not down and not rests)
        assert node.statistics().is_well == node.is_well
        if node.is_well:
            assert node.is_usable(now)
        if down:
            assert not node.is_usable(now)
        if rests and not down and node.is_usable(now):
            assert step == "wait" or not node.is_usable(now)


@given(st.integers(0, 2**32), st.floats(0.001, 1.0), st.floats(1.0, 10.0))
def test_pauses_stay_in_bounds_and_reach_the_longest(seed: int, least: float, most: float) -> None:
    """Each pause is between the least and the most, and they grow until the most is reached now and then."""
    jitter, pause, pauses = random.Random(seed), 0.0, []
    for _ in range(60):
        pause = decorrelated(pause, least, most, jitter)
        assert least <= pause <= most
        pauses.append(pause)
    assert max(pauses) > min(most, least * 3) / 2
