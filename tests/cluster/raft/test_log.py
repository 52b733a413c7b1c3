"""The log in memory and on disk: what counts as durable while writes are under way, and truncation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.raft.log import RaftLog
from keycluster.cluster.raft.messages import Entry, EntryKind
from keycluster.cluster.raft.ready import Persist
from keycluster.cluster.types import LogIndex, Term
from tests.cluster.raft.harness import AppliedState, MemoryDisk, membership


def new_disk() -> MemoryDisk:
    return MemoryDisk(AppliedState(LogIndex(0), Term(0), 0, membership("a"), None))


def new_log(disk: MemoryDisk, *, tail_bytes_max: int = 1 << 20) -> RaftLog:
    return RaftLog(disk, applied=LogIndex(0), tail_bytes_max=tail_bytes_max)


def entry(index: int, term: int) -> Entry:
    return Entry(Term(term), LogIndex(index), EntryKind.COMMAND, b"x")


def test_stable_index_follows_writes() -> None:
    """Durable is what a completed write covers; entries appended later wait for theirs."""
    log = new_log(new_disk())
    log.append([entry(1, 1), entry(2, 1)])
    log.hand_out(1)
    log.append([entry(3, 1)])
    log.persisted(1)
    assert log.stable_index == 2
    assert log.hand_out(2) == (None, (entry(3, 1),))


def test_stable_index_entry_overwritten_while_being_written() -> None:
    """The write of an entry that was replaced makes nothing durable."""
    log = new_log(new_disk())
    log.append([entry(1, 1), entry(2, 1), entry(3, 1)])
    log.hand_out(1)
    log.truncate(LogIndex(2))
    log.append([entry(2, 2), entry(3, 2), entry(4, 2)])
    log.persisted(1)
    assert log.stable_index == 1
    log.hand_out(2)
    log.persisted(2)
    assert log.stable_index == 4


def test_stable_index_equal_entry_came_back() -> None:
    """A-B-A: the first write had an entry equal to the present one, but the second write is yet to take it away."""
    disk = new_disk()
    log = new_log(disk)
    writes = []
    for ticket, (cut, new) in enumerate([(None, entry(1, 1)), (1, entry(1, 2)), (1, entry(1, 1))], 1):
        if cut is not None:
            log.truncate(LogIndex(cut))
            log.last_term = Term(0)  # No leader writes terms backwards; other members' logs may still come to this.
        log.append([new])
        truncate_from, entries = log.hand_out(ticket)
        writes.append(Persist(ticket, None, truncate_from, entries))
    disk.write(writes[0])
    log.persisted(1)
    assert log.stable_index == 0
    disk.write(writes[1])
    log.persisted(2)
    assert log.stable_index == 0
    disk.write(writes[2])
    log.persisted(3)
    assert log.stable_index == 1


def test_two_truncations_before_a_write() -> None:
    """The write cuts off at the lower of them: what lies between was replaced as well."""
    log = new_log(new_disk())
    log.append([entry(i, 1) for i in range(1, 5)])
    log.hand_out(1)
    log.truncate(LogIndex(4))
    log.append([entry(4, 2)])
    log.truncate(LogIndex(2))
    log.append([entry(2, 3)])
    assert log.hand_out(2) == (2, (entry(2, 3),))


def test_truncation_of_committed_entries_refused() -> None:
    """It would break State Machine Safety: the node stops."""
    log = new_log(new_disk())
    log.append([entry(1, 1), entry(2, 1)])
    log.commit_to(LogIndex(1))
    with pytest.raises(InvariantBroken, match="truncation"):
        log.truncate(LogIndex(1))


def test_commit_beyond_the_end_refused() -> None:
    """A commit index that the log doesn't reach means lost entries: the node stops."""
    with pytest.raises(InvariantBroken, match="beyond the end"):
        new_log(new_disk()).commit_to(LogIndex(1))


@pytest.mark.parametrize("wrong", [entry(3, 1), entry(1, 1), entry(2, 0)])
def test_append_out_of_order_refused(wrong: Entry) -> None:
    """Indices without gaps, terms that don't fall."""
    log = new_log(new_disk())
    log.append([entry(1, 1)])
    with pytest.raises(InvariantBroken, match="cannot follow"):
        log.append([wrong])


@pytest.mark.parametrize(
    ("at", "term", "found"), [(9, 9, (6, 4)), (6, 3, (3, 1)), (5, 2, (3, 1)), (2, 0, (0, 0)), (4, 4, (4, 4))]
)
def test_last_with_term_up_to(at: int, term: int, found: tuple[int, int]) -> None:
    """Entries of higher terms than asked for are skipped; indices beyond the end count as the end."""
    log = new_log(new_disk())
    log.append([entry(1, 1), entry(2, 1), entry(3, 1), entry(4, 4), entry(5, 4), entry(6, 4)])
    assert log.last_with_term_up_to(LogIndex(at), Term(term)) == found


def test_last_with_term_up_to_ends_where_the_log_is_compacted() -> None:
    """Below the base no term is known, and 0 says so: another would be a claim about an unread entry."""
    disk = MemoryDisk(AppliedState(LogIndex(5), Term(3), 0, membership("a"), None))
    disk.reset_to(disk.state.meta)
    log = RaftLog(disk, applied=LogIndex(5), tail_bytes_max=1 << 20)
    log.append([entry(6, 4)])
    assert log.last_with_term_up_to(LogIndex(6), Term(2)) == (4, 0)


@given(st.lists(st.tuples(st.sampled_from(["append", "cut", "write", "done", "commit", "apply"]), st.integers(1, 4))))
def test_log_against_a_list(steps: list[tuple[str, int]]) -> None:
    """Whatever was written, replaced, forgotten and read again: the log is a plain list, and what it calls durable is
    on the disk and stays there."""
    disk = new_disk()
    log = new_log(disk, tail_bytes_max=100)
    model: list[Entry] = []
    writes: list[Persist] = []
    term = ticket = 0
    for action, count in steps:
        if action == "append":
            term += 1
            new = [entry(len(model) + 1 + i, term) for i in range(count)]
            log.append(new)
            model += new
        elif action == "cut" and len(model) - count >= log.commit_index:
            log.truncate(LogIndex(len(model) - count + 1))
            del model[-count:]
        elif action == "write" and log.has_unsaved:
            ticket += 1
            cut_from, entries = log.hand_out(ticket)
            writes.append(Persist(ticket, None, cut_from, entries))
        elif action == "done" and writes:
            persist = writes.pop(0)
            disk.write(persist)
            log.persisted(persist.ticket)
        elif action == "commit":
            log.commit_to(LogIndex(min(len(model), log.commit_index + count)))
        elif action == "apply":
            log.applied_to(LogIndex(min(log.commit_index, log.stable_index, log.applied_index + count)))
        assert [log.term(LogIndex(i)) for i in range(1, len(model) + 1)] == [one.term for one in model]
        assert log.last_index == len(model)
        assert disk.log[: log.stable_index] == model[: log.stable_index]
        cuts = [write.truncate_from for write in writes if write.truncate_from is not None]
        assert all(cut > log.stable_index for cut in cuts)
        found: list[Entry] = []
        while len(found) < len(model):
            found += log.entries(LogIndex(len(found) + 1), LogIndex(len(model) + 1), 70)
        assert found == model
        assert log.uncommitted_bytes == 33 * (len(model) - log.commit_index)
