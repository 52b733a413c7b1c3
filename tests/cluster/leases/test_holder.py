"""One member's questions and leases."""

from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.leases.holder import ASKS_MAX, LeaseHolder, serve_ns
from keycluster.cluster.types import SECOND, Instant, LogIndex, NodeId, Term

LEADER = NodeId("n1")
TERM = Term(3)


def holder() -> LeaseHolder:
    return LeaseHolder(lease_ns=SECOND, drift_ppm=1_000)


def take(holder: LeaseHolder, nonce: bytes, *, term: Term = TERM, sender: NodeId = LEADER, commit: int = 0) -> bool:
    return holder.take(nonce, sender=sender, term=term, current_term=TERM, commit=LogIndex(commit))


@given(
    lease_ns=st.integers(1, 100 * SECOND),
    drift_ppm=st.integers(0, 99_999),
    holder_ppm=st.floats(-1, 1),
    leader_ppm=st.floats(-1, 1),
)
def test_serving_time_ends_before_the_leaders_count(
    lease_ns: int, drift_ppm: int, holder_ppm: float, leader_ppm: float
) -> None:
    """Whatever both clocks' rates are within the bound, the holder's time is over first."""
    holder_rate, leader_rate = 1 + holder_ppm * drift_ppm / 1e6, 1 + leader_ppm * drift_ppm / 1e6
    real_of_holder = serve_ns(lease_ns, drift_ppm) / holder_rate
    real_of_leader = lease_ns / leader_rate
    assert real_of_holder <= real_of_leader * (1 + 1e-12)


def test_lease_counts_from_the_question() -> None:
    """It ends a shortened L after t0, however late the answer came."""
    held = holder()
    held.asks(b"a", leader=LEADER, term=TERM, now=Instant(100))
    assert take(held, b"a")
    held.applied_to(LogIndex(0))
    end = 100 + SECOND * 999_000 // 1_001_000
    assert held.serve_until == end
    assert held.may_serve(Instant(end - 1))
    assert not held.may_serve(Instant(end))


def test_answer_that_fits_no_question_is_not_taken() -> None:
    """Unknown nonce, repeated answer, another sender, another term: nothing may be served on any of them."""
    held = holder()
    held.asks(b"a", leader=LEADER, term=TERM, now=Instant(0))
    assert not take(held, b"b")
    assert not take(held, b"a", sender=NodeId("n2"))
    assert not take(held, b"a", term=Term(2))
    assert not held.take(b"a", sender=LEADER, term=TERM, current_term=Term(4), commit=LogIndex(0))
    assert take(held, b"a")
    assert not take(held, b"a")


def test_newer_lease_waits_while_the_older_serves() -> None:
    """A commit index that isn't applied yet doesn't end what may be used already."""
    held = holder()
    held.asks(b"a", leader=LEADER, term=TERM, now=Instant(0))
    held.asks(b"b", leader=LEADER, term=TERM, now=Instant(500))
    take(held, b"a", commit=5)
    held.applied_to(LogIndex(5))
    first = held.serve_until
    take(held, b"b", commit=9)
    held.applied_to(LogIndex(8))
    assert held.serve_until == first
    held.applied_to(LogIndex(9))
    assert first is not None
    assert held.serve_until == first + 500


def test_drop_forgets_leases_and_questions() -> None:
    """After it neither what was held nor a late answer serves."""
    held = holder()
    held.asks(b"a", leader=LEADER, term=TERM, now=Instant(0))
    held.asks(b"b", leader=LEADER, term=TERM, now=Instant(0))
    take(held, b"a")
    held.applied_to(LogIndex(0))
    held.drop()
    assert not held.may_serve(Instant(1))
    assert not take(held, b"b")


def test_questions_in_memory_are_bounded() -> None:
    """Unanswered questions go when they are useless, and the oldest beyond the bound."""
    held = holder()
    for number in range(3 * ASKS_MAX):
        held.asks(number.to_bytes(2, "big"), leader=LEADER, term=TERM, now=Instant(number))
    assert not take(held, (2 * ASKS_MAX - 1).to_bytes(2, "big"))
    assert take(held, (2 * ASKS_MAX).to_bytes(2, "big"))
    held.asks(b"late", leader=LEADER, term=TERM, now=Instant(2 * SECOND))
    assert not take(held, (3 * ASKS_MAX - 1).to_bytes(2, "big"))
