"""The leader's book of leases."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keycluster.cluster.leases.grantor import LeaseGrantor
from keycluster.cluster.types import MILLISECOND, SECOND, Instant, LogIndex, NodeId

A, B, C, SELF = (NodeId(name) for name in ("a", "b", "c", "self"))


def book(*members: NodeId, last: NodeId | None = None) -> LeaseGrantor:
    return LeaseGrantor(
        lease_ns=SECOND, members=members, excluded=(SELF, last), elected_at=Instant(0), applied=LogIndex(0)
    )


def test_new_leader_counts_all_but_itself_and_the_last_leader() -> None:
    """L6: until its election + L, each with what it has reported."""
    leases = book(A, B, SELF, last=B)
    assert leases.holders(Instant(SECOND - 1)) == [A]
    assert leases.settled(LogIndex(9), Instant(0)) == 0
    leases.reported(A, LogIndex(7))
    assert leases.settled(LogIndex(9), Instant(0)) == 7
    assert leases.next_end(LogIndex(9), Instant(0)) == SECOND
    assert leases.settled(LogIndex(9), Instant(SECOND)) == 9


def test_lease_is_counted_until_receipt_and_l() -> None:
    """L2: a member that is noted holds what it lacks back until its lease has run out."""
    leases = book()
    leases.note(A, commit=LogIndex(3), now=Instant(10))
    leases.reported(A, LogIndex(3))
    assert leases.settled(LogIndex(4), Instant(SECOND + 9)) == 3
    assert leases.settled(LogIndex(4), Instant(SECOND + 10)) == 4


def test_first_commit_index_is_a_floor_without_a_break() -> None:
    """A member that lags serves nothing below its first grant's commit index; a renewal doesn't lift that."""
    leases = book()
    leases.reported(A, LogIndex(1))
    leases.note(A, commit=LogIndex(5), now=Instant(0))
    assert leases.settled(LogIndex(9), Instant(0)) == 5
    leases.note(A, commit=LogIndex(9), now=Instant(1))
    assert leases.settled(LogIndex(9), Instant(1)) == 5
    leases.note(A, commit=LogIndex(9), now=Instant(2 * SECOND))
    assert leases.settled(LogIndex(9), Instant(2 * SECOND)) == 9


def test_late_report_takes_nothing_back() -> None:
    """Reports may be reordered: the highest counts."""
    leases = book(A)
    leases.reported(A, LogIndex(5))
    leases.reported(A, LogIndex(4))
    assert leases.applied_at(A) == 5


def test_member_that_lags_for_l_is_refused_until_it_has_caught_up() -> None:
    """L2(c): while counted a lag of up to L is borne; to come back it must be less than L/2."""
    leases = book(A)
    leases.reported(A, LogIndex(1))
    leases.note(A, commit=LogIndex(1), now=Instant(0))
    leases.advanced(LogIndex(2), Instant(100 * MILLISECOND))
    leases.note(A, commit=LogIndex(1), now=Instant(SECOND))
    assert not leases.lags_too_far(A, Instant(1_099 * MILLISECOND))
    assert leases.lags_too_far(A, Instant(1_100 * MILLISECOND))
    leases.advanced(LogIndex(3), Instant(1_900 * MILLISECOND))
    assert leases.lags_too_far(A, Instant(2_100 * MILLISECOND))  # No longer counted.
    leases.reported(A, LogIndex(2))
    assert not leases.lags_too_far(A, Instant(2_399 * MILLISECOND))
    assert leases.lags_too_far(A, Instant(2_400 * MILLISECOND))


def test_member_not_counted_must_have_what_the_leader_had_at_its_election() -> None:
    """The last leader, whose apply hung, gets no lease from its successor before it has caught up."""
    leases = LeaseGrantor(
        lease_ns=SECOND, members=[A, B], excluded=[SELF, A], elected_at=Instant(0), applied=LogIndex(5)
    )
    for member in (A, B):
        leases.reported(member, LogIndex(4))
    assert leases.lags_too_far(A, Instant(1))
    assert not leases.lags_too_far(B, Instant(1))
    leases.reported(A, LogIndex(5))
    assert not leases.lags_too_far(A, Instant(1))


def test_progress_is_remembered_in_bounded_memory() -> None:
    """Thousands of advances in one L keep some dozens of samples, and the last isn't lost."""
    leases = book()
    for step in range(10_000):
        leases.advanced(LogIndex(step), Instant(step * SECOND // 5_000))
    leases.advanced(LogIndex(9_999), Instant(3 * SECOND))
    assert len(leases._progress) < 100
    assert leases.lags_too_far(A, Instant(4 * SECOND))
    leases.reported(A, LogIndex(9_999))
    assert not leases.lags_too_far(A, Instant(4 * SECOND))


class BookMachine(RuleBasedStateMachine):
    """The book against a plain model: settled never falls and never passes what a counted member has applied."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = book(A, B, C, last=C)
        self.now = 0
        self.own = 0
        self.reported = {A: 0, B: 0, C: 0}
        self.until = {A: SECOND, B: SECOND}
        self.floor = {A: 0, B: 0}
        self.settled = 0

    @rule(ns=st.integers(1, SECOND))
    def time_passes(self, ns: int) -> None:
        self.now += ns

    @rule(count=st.integers(1, 5))
    def leader_applies(self, count: int) -> None:
        self.own += count

    @rule(member=st.sampled_from([A, B, C]), share=st.floats(0, 1))
    def member_reports(self, member: NodeId, share: float) -> None:
        applied = int(self.own * share)
        self.leases.reported(member, LogIndex(applied))
        self.reported[member] = max(self.reported[member], applied)

    @rule(member=st.sampled_from([A, B, C]))
    def grant(self, member: NodeId) -> None:
        if self.until.get(member, 0) <= self.now:
            self.floor[member] = self.own
        self.until[member] = self.now + SECOND
        self.leases.note(member, commit=LogIndex(self.own), now=Instant(self.now))

    @invariant()
    def settled_is_what_all_counted_have(self) -> None:
        counted = [member for member, until in self.until.items() if until > self.now]
        expected = min([self.own, *(max(self.reported[m], self.floor[m]) for m in counted)])
        settled = self.leases.settled(LogIndex(self.own), Instant(self.now))
        assert settled == expected
        assert settled >= self.settled
        self.settled = settled


TestBook = BookMachine.TestCase
