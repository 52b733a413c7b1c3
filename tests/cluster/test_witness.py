"""Roll-back detection by what peers know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.cluster.witness import Acknowledged, OwnRecord, RolledBack, WitnessTable

N1, N2 = NodeId("n1"), NodeId("n2")


def pair(term: int, index: int) -> Acknowledged:
    return Term(term), LogIndex(index)


def row(node: NodeId, term: int, index: int) -> tuple[NodeId, Term, LogIndex]:
    return node, Term(term), LogIndex(index)


def test_table_keeps_the_newest_of_each_member() -> None:
    """Terms come first; what is older or equal changes nothing."""
    table = WitnessTable({N1: pair(2, 9)})
    assert not table.learn([row(N1, 1, 20), row(N1, 2, 9)])
    assert table.learn([row(N1, 3, 4), row(N2, 1, 1)])
    assert table.rows() == (row(N1, 3, 4), row(N2, 1, 1))
    assert table.as_dict() == {N1: pair(3, 4), N2: pair(1, 1)}


def test_table_forgets_who_left() -> None:
    """It stays as small as the configuration."""
    table = WitnessTable({N1: pair(2, 9), N2: pair(1, 1)})
    table.keep_only({N2})
    assert table.known_of(N1) is None
    assert table.known_of(N2) == pair(1, 1)


def own(term: int, index: int) -> OwnRecord:
    return OwnRecord(node=N1, term=Term(term), last_index=LogIndex(index))


@pytest.mark.parametrize("told", [(5, 101), (6, 1)])
def test_disk_below_what_peers_know_is_rolled_back(told: tuple[int, int]) -> None:
    """An index or a term that this node acknowledged is missing."""
    with pytest.raises(RolledBack, match="node n1 had acknowledged"):
        own(5, 100).check(pair(*told), holds=pair(5, 100))


@pytest.mark.parametrize("told", [(5, 100), (4, 900), (1, 1)])
def test_whole_disk_passes(told: tuple[int, int]) -> None:
    """Equal, or of an older term whose entries a later leader may have replaced."""
    own(5, 100).check(pair(*told), holds=pair(5, 100))


def test_acknowledgement_of_this_life_passes() -> None:
    """What a peer learnt since the start is compared with what is held now."""
    record = own(5, 100)
    record.acknowledges_in(Term(7))
    record.check(pair(7, 300), holds=pair(7, 300))
    with pytest.raises(RolledBack):
        record.check(pair(7, 301), holds=pair(7, 300))


def test_log_that_was_filled_up_since_hides_nothing() -> None:
    """A new leader, which didn't know, has filled the log up; a peer that knows still finds out."""
    record = own(5, 100)
    record.acknowledges_in(Term(7))
    with pytest.raises(RolledBack):
        record.check(pair(5, 500), holds=pair(7, 900))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=30),
    st.integers(0, 30),
)
def test_rolled_back_exactly_when_an_acknowledgement_is_lost(steps: list[tuple[bool, int]], back: int) -> None:
    """A disk's history of terms and appends, acknowledged as it goes; any earlier copy that lacks one is caught."""
    history = [pair(0, 0)]
    for new_term, appended in steps:
        term, index = history[-1]
        history.append(pair(term + new_term, index + appended))
    copy = history[max(0, len(history) - 1 - back)]
    record = OwnRecord(node=N1, term=copy[0], last_index=copy[1])
    if copy == history[-1]:
        record.check(history[-1], holds=copy)
    else:
        with pytest.raises(RolledBack):
            record.check(history[-1], holds=copy)
