"""Group commit of the log: several writes of the replica as one."""

from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.raft.messages import Entry, EntryKind, HardState
from keycluster.cluster.replica import ReplicaPersist
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.node.raft_driver import merge_writes


def entry(index: int, term: int) -> Entry:
    return Entry(Term(term), LogIndex(index), EntryKind.COMMAND, f"{term}.{index}".encode())


def persist(
    ticket: int, *, truncate_from: int | None = None, entries: list[Entry] | None = None, term: int | None = None
) -> ReplicaPersist:
    return ReplicaPersist(
        ticket=ticket,
        hard_state=None if term is None else HardState(Term(term), None),
        truncate_from=None if truncate_from is None else LogIndex(truncate_from),
        entries=tuple(entries or ()),
        witness={NodeId("n1"): (Term(ticket), LogIndex(ticket))},
    )


def apply_to(log: list[Entry], truncate_from: LogIndex | None, entries: list[Entry]) -> list[Entry]:
    kept = log if truncate_from is None else [e for e in log if e.index < truncate_from]
    return [*kept, *entries]


@given(st.data())
def test_merged_writes_leave_what_single_ones_would(data: st.DataObject) -> None:
    """However appends and truncations follow each other, one transaction ends with the same log."""
    start = [entry(index, 1) for index in range(1, 6)]
    log, jobs = list(start), []
    for ticket in range(data.draw(st.integers(1, 6))):
        last = log[-1].index if log else 0
        cut = data.draw(st.none() | st.integers(1, last + 1))
        first = last + 1 if cut is None else cut
        added = [entry(first + offset, ticket + 2) for offset in range(data.draw(st.integers(0, 3)))]
        jobs.append(persist(ticket, truncate_from=cut, entries=added, term=ticket))
        log = apply_to(log, None if cut is None else LogIndex(cut), added)
    merged = merge_writes(jobs)
    assert apply_to(start, merged.truncate_from, merged.entries) == log
    assert merged.hard_state == jobs[-1].hard_state
    assert merged.witness == jobs[-1].witness


def test_what_a_write_leaves_alone_stays() -> None:
    """No term, no truncation and no witness in any of them: nothing of it is written."""
    merged = merge_writes([ReplicaPersist(1, None, None, (entry(1, 1),), None)])
    assert (merged.hard_state, merged.truncate_from, merged.witness) == (None, None, None)
