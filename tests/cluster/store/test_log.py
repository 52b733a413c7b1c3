"""The log store: against a model, through restarts and crashes, and against hands in its file."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.raft.messages import Entry, EntryKind, HardState, Membership, SnapshotMeta, entry_bytes
from keycluster.cluster.store import log as log_module
from keycluster.cluster.store.authentication import StateKeys
from keycluster.cluster.store.errors import StoreDamaged, StoreFailed, StoreLocked
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.simulations.disk import CrashDisk

FOLDER = Path("/node/log")
DATABASE = FOLDER / "log.db"
KEYS = StateKeys(1, b"r" * 32, b"h" * 32, b"s" * 32, b"l" * 32)
MEMBERS = Membership((NodeId("a"),))


def entry(index: int, term: int = 1, payload: bytes = b"payload") -> Entry:
    return Entry(Term(term), LogIndex(index), EntryKind.COMMAND, payload)


def all_of(log: LogStore) -> list[Entry]:
    return log.entries(log.first_index, LogIndex(log.last_index + 1), 1 << 30)


def from_disk_only(log: LogStore) -> None:
    """Empties the memory's copy of the newest entries."""
    log._tail.clear()
    log._tail_bytes = 0


@pytest.fixture
def log(disk: CrashDisk, keys: StateKeys) -> LogStore:
    return LogStore.create(disk, FOLDER, keys)


def change_file(disk: CrashDisk, change: Callable[[apsw.Connection], object]) -> None:
    """What somebody with the disk and SQLite, but without keys, can do to a closed store."""
    connection = apsw.Connection(str(DATABASE), vfs=disk.vfs)
    change(connection)
    connection.close()


def test_log_new_is_empty(log: LogStore) -> None:
    """Term 0, no vote, nothing before and nothing after index 0."""
    assert (log.hard_state, log.witness, log.base) == (HardState(Term(0), None), {}, (0, 0))
    assert (log.first_index, log.last_index, log.term(LogIndex(0))) == (1, 0, 0)
    assert log.entries(LogIndex(1), LogIndex(1), 100) == []


def test_log_keeps_everything_over_a_restart(disk: CrashDisk, keys: StateKeys, log: LogStore) -> None:
    """Entries of each kind, term and vote, and the witness are there after a clean stop."""
    entries = [
        Entry(Term(1), LogIndex(1), EntryKind.LEADER, b"a"),
        Entry(Term(1), LogIndex(2), EntryKind.MEMBERSHIP, b"\x00\xff"),
        Entry(Term(3), LogIndex(3), EntryKind.COMMAND, b""),
    ]
    witness = {NodeId("b"): (Term(2), LogIndex(2)), NodeId("a"): (Term(3), LogIndex(3))}
    log.write(hard_state=HardState(Term(3), NodeId("b")), entries=entries, witness=witness)
    log.write()
    log.close()
    log = LogStore.open(disk, FOLDER, keys)
    assert all_of(log) == entries
    assert (log.hard_state, log.witness) == (HardState(Term(3), NodeId("b")), witness)
    assert [log.term(LogIndex(i)) for i in (0, 1, 2, 3)] == [0, 1, 1, 3]


def test_log_refuses_gaps_and_indexes_it_does_not_have(log: LogStore) -> None:
    """A caller's mistake changes nothing."""
    log.write(entries=[entry(1), entry(2)])
    log.compact(LogIndex(1))
    for mistake in (
        lambda: log.write(entries=[entry(4)]),
        lambda: log.write(entries=[entry(2)]),
        lambda: log.write(truncate_from=LogIndex(1)),
        lambda: log.term(LogIndex(3)),
        lambda: log.compact(LogIndex(3)),
        lambda: log.reset_to(SnapshotMeta(LogIndex(0), Term(0), MEMBERS, None)),
    ):
        with pytest.raises(InvariantBroken):
            mistake()
    assert all_of(log) == [entry(2)]


def test_log_compacted_in_the_midst_of_a_step_of_consensus(log: LogStore) -> None:
    """Who has just looked at `first_index` still gets terms, and no entries rather than an error."""
    log.write(entries=[entry(1, 1), entry(2, 2), entry(3, 2)])
    log.compact(LogIndex(2))
    assert [log.term(LogIndex(i)) for i in (0, 1, 2, 3)] == [0, 1, 2, 2]
    assert log.entries(LogIndex(1), LogIndex(4), 1000) == []
    assert log.entries(LogIndex(3), LogIndex(9), 1000) == [entry(3, 2)]
    assert log.entries(LogIndex(4), LogIndex(9), 1000) == []
    log.reset_to(SnapshotMeta(LogIndex(3), Term(3), MEMBERS, None))
    assert [log.term(LogIndex(i)) for i in (2, 3)] == [2, 3]
    with pytest.raises(InvariantBroken):
        log.term(LogIndex(1))


def test_log_read_of_entries_that_are_erased_meanwhile_is_no_damage(log: LogStore) -> None:
    """A compaction between the look at memory and the read of the disk."""
    log.write(entries=[entry(i) for i in range(1, 6)])
    from_disk_only(log)
    read = log._read

    def compact_then_read(*args: Any) -> list[Entry] | None:
        log._read = read  # type: ignore[method-assign]  # Of this one only.
        log.compact(LogIndex(4))
        return read(*args)

    log._read = compact_then_read  # type: ignore[method-assign, assignment]  # Of this one only.
    assert log.entries(LogIndex(2), LogIndex(4), 1000) == []
    assert log.entries(LogIndex(5), LogIndex(6), 1000) == [entry(5)]


@pytest.mark.parametrize("cached", [True, False])
def test_log_entries_are_bounded_in_bytes_but_for_the_first(log: LogStore, cached: bool) -> None:
    """As many as fit, never none: an entry above the bound would never be sent otherwise."""
    entries = [entry(i, payload=b"x" * 100) for i in range(1, 11)]
    log.write(entries=entries)
    if not cached:
        from_disk_only(log)
    one = entry_bytes(entries[0])
    assert log.entries(LogIndex(3), LogIndex(11), 3 * one) == entries[2:5]
    assert log.entries(LogIndex(3), LogIndex(11), 3 * one - 1) == entries[2:4]
    assert log.entries(LogIndex(3), LogIndex(11), 0) == entries[2:3]
    assert log.entries(LogIndex(3), LogIndex(5), 1 << 30) == entries[2:4]


def test_log_tail_in_memory_is_bounded(log: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest entries stay in memory; older ones come from the disk."""
    monkeypatch.setattr(log_module, "TAIL_BYTES_MAX", 1_000)
    entries = [entry(i, payload=bytes([i]) * 100) for i in range(1, 50)]
    log.write(entries=entries)
    assert sum(entry_bytes(kept) for kept in log._tail) <= 1_000
    assert all_of(log) == entries


def test_log_compacted_entries_are_erased_from_the_files(disk: CrashDisk, keys: StateKeys, log: LogStore) -> None:
    """Once the WAL is gone, nothing of a compacted payload is on the disk."""
    log.write(entries=[entry(1, payload=b"ERASE-ME" * 20), entry(2)])
    log.compact(LogIndex(1))
    log.close()
    assert not any(b"ERASE-ME" in content for content in disk.files().values())
    log = LogStore.open(disk, FOLDER, keys)
    assert (log.base, all_of(log)) == ((1, 1), [entry(2)])


def test_log_reset_keeps_what_joins_up_with_the_snapshot(disk: CrashDisk, keys: StateKeys, log: LogStore) -> None:
    """Same term at the snapshot's index: the log goes on behind it. Another term, or no such entry: all goes."""
    log.write(entries=[entry(i) for i in range(1, 6)])
    log.reset_to(SnapshotMeta(LogIndex(3), Term(1), MEMBERS, None))
    assert (log.base, all_of(log)) == ((3, 1), [entry(4), entry(5)])
    log.reset_to(SnapshotMeta(LogIndex(4), Term(2), MEMBERS, None))
    assert (log.base, log.last_index, log.term(LogIndex(4))) == ((4, 2), 4, 2)
    log.write(entries=[entry(5, 3)])
    log.reset_to(SnapshotMeta(LogIndex(100), Term(3), MEMBERS, None))
    log.write(entries=[entry(101, 3)])
    log.close()
    assert all_of(LogStore.open(disk, FOLDER, keys)) == [entry(101, 3)]


def test_log_made_after_a_snapshot_begins_there(disk: CrashDisk, keys: StateKeys) -> None:
    """A node that starts from a snapshot has no entries before it."""
    log = LogStore.create(disk, FOLDER, keys, base=SnapshotMeta(LogIndex(7), Term(2), MEMBERS, None))
    log.write(entries=[entry(8, 2)])
    assert (log.base, log.term(LogIndex(7)), all_of(log)) == ((7, 2), 2, [entry(8, 2)])


def test_log_open_twice_is_refused(disk: CrashDisk, keys: StateKeys, log: LogStore) -> None:
    """The folder's lock goes with the store."""
    with pytest.raises(StoreLocked):
        LogStore.open(disk, FOLDER, keys)
    log.close()
    LogStore.open(disk, FOLDER, keys).close()


def test_log_create_never_replaces_a_log(disk: CrashDisk, keys: StateKeys, log: LogStore) -> None:
    """Founding twice must not lose a vote."""
    log.close()
    with pytest.raises(StoreFailed, match="there already"):
        LogStore.create(disk, FOLDER, keys)
    assert LogStore.exists(disk, FOLDER)
    assert not LogStore.exists(disk, Path("/elsewhere"))


def test_log_wal_stays_bounded(disk: CrashDisk, log: LogStore) -> None:
    """10,000 commits, with reads in between: the WAL never grows far beyond the threshold of its checkpoint."""
    largest = 0
    for index in range(1, 10_001):
        log.write(entries=[entry(index)])
        if index % 100 == 0:
            from_disk_only(log)
            log.entries(LogIndex(index), LogIndex(index + 1), 1000)
            largest = max(largest, disk.size(FOLDER / "log.db-wal"))
    assert largest < 1_100 * 4_120


def test_log_disk_full_fails_for_good(disk: CrashDisk, keys: StateKeys, log: LogStore) -> None:
    """A write that failed is not tried again on the same handle; what had been acknowledged is there afterwards."""
    log.write(entries=[entry(1)])
    disk.bytes_max = sum(len(content) for content in disk.files().values())
    with pytest.raises(StoreFailed):
        log.write(entries=[entry(2, payload=b"x" * 100_000)])
    disk.bytes_max = None
    with pytest.raises(StoreFailed):
        log.write(entries=[entry(2)])
    assert all_of(log) == [entry(1)]
    log.close()
    assert all_of(LogStore.open(disk, FOLDER, keys)) == [entry(1)]


ATTACKS = {
    "last entry deleted": "DELETE FROM entries WHERE idx = 9",
    "last entries deleted": "DELETE FROM entries WHERE idx > 4",
    "all entries deleted": "DELETE FROM entries",
    "middle entry deleted": "DELETE FROM entries WHERE idx = 4",
    "entry appended again": "INSERT INTO entries SELECT 10, record FROM entries WHERE idx = 9",
    "index moved": "UPDATE entries SET idx = 10 WHERE idx = 9",
    "payload altered": "UPDATE entries SET record = cast(record || x'00' AS BLOB) WHERE idx = 5",
    "record cut": "UPDATE entries SET record = substr(record, 1, 20) WHERE idx = 5",
    "record as text": "UPDATE entries SET record = record || x'00' WHERE idx = 5",
    "record as a number": "UPDATE entries SET record = 5 WHERE idx = 5",
    "record copied": "UPDATE entries SET record = (SELECT record FROM entries WHERE idx = 3) WHERE idx = 4",
    "records swapped": "UPDATE entries SET record = (SELECT record FROM entries e WHERE e.idx = 9 - entries.idx)"
    " WHERE idx IN (4, 5)",
    "meta altered": "UPDATE meta SET record = cast(substr(record, 1, 60) || x'01' AS BLOB)",
    "meta deleted": "DELETE FROM meta",
    "meta doubled": "INSERT INTO meta SELECT 2, record FROM meta",
    "trigger planted": "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries WHERE idx < 3; END",
    "table dropped": "DROP TABLE entries",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_log_changed_by_hand_is_damaged(disk: CrashDisk, keys: StateKeys, log: LogStore, attack: str) -> None:
    """Whatever is done to the rows without keys is found when the log is opened, in one line that says what to do."""
    log.write(hard_state=HardState(Term(1), NodeId("a")), entries=[entry(i) for i in range(1, 10)])
    log.close()
    change_file(disk, lambda connection: connection.execute(ATTACKS[attack]))
    with pytest.raises(StoreDamaged) as caught:
        LogStore.open(disk, FOLDER, keys)
    assert "log.db is damaged" in str(caught.value)
    assert "join again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", ["meta", "entries"])
def test_log_row_put_back_to_an_older_value_is_damaged(
    disk: CrashDisk, keys: StateKeys, log: LogStore, table: str
) -> None:
    """An old vote, or an old entry where a new leader's stands: each had a good MAC once."""
    log.write(hard_state=HardState(Term(1), NodeId("a")), entries=[entry(1), entry(2, payload=b"old")])
    log.close()
    old: list[Any] = []
    change_file(disk, lambda c: old.extend(c.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()[-1]))
    log = LogStore.open(disk, FOLDER, keys)
    log.write(
        hard_state=HardState(Term(2), None), truncate_from=LogIndex(2), entries=[entry(2, 2, b"new"), entry(3, 2)]
    )
    log.close()
    change_file(disk, lambda c: c.execute(f"REPLACE INTO {table} VALUES (?, ?)", old))
    with pytest.raises(StoreDamaged):
        LogStore.open(disk, FOLDER, keys)


def test_log_row_put_back_while_open_is_not_served(disk: CrashDisk, log: LogStore) -> None:
    """What this process wrote is what it serves, or nothing."""
    log.write(entries=[entry(1), entry(2, payload=b"old")])
    change_file(disk, lambda c: c.execute("CREATE TABLE old AS SELECT * FROM entries WHERE idx = 2"))
    log.write(truncate_from=LogIndex(2), entries=[entry(2, 2, b"new")])
    from_disk_only(log)
    assert log.entries(LogIndex(2), LogIndex(3), 100) == [entry(2, 2, b"new")]
    change_file(disk, lambda c: c.execute("REPLACE INTO entries SELECT * FROM old"))
    with pytest.raises(StoreDamaged, match="not what was written"):
        log.entries(LogIndex(2), LogIndex(3), 100)


def test_log_of_other_keys_is_not_opened(disk: CrashDisk, log: LogStore) -> None:
    """Another region's keys, or another generation's."""
    log.close()
    for other in (StateKeys(1, *(b"x" * 32,) * 4), StateKeys(2, b"r" * 32, b"h" * 32, b"s" * 32, b"l" * 32)):
        with pytest.raises(StoreDamaged):
            LogStore.open(disk, FOLDER, other)


class LogAgainstModel(RuleBasedStateMachine):
    """The store and a list do the same, through clean restarts and crashes between operations."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = CrashDisk(seed=7)
        self.entries: dict[int, Entry] = {}
        self.base = (0, 0)
        self.term = 1
        self.hard_state = HardState(Term(0), None)
        self.witness: dict[NodeId, tuple[Term, LogIndex]] = {}
        self.store: LogStore

    @initialize()
    def create(self) -> None:
        self.store = LogStore.create(self.disk, FOLDER, KEYS)

    @property
    def last(self) -> int:
        return max(self.entries, default=self.base[0])

    @rule(payloads=st.lists(st.binary(max_size=30), max_size=5), cut=st.integers(0, 4), vote=st.booleans())
    def write(self, payloads: list[bytes], cut: int, vote: bool) -> None:
        keep = max(self.base[0], self.last - cut)
        if cut:
            self.term += 1
        for index in range(keep + 1, self.last + 1):
            del self.entries[index]
        new = [entry(keep + 1 + n, self.term, payload) for n, payload in enumerate(payloads)]
        self.entries.update((e.index, e) for e in new)
        if vote:
            self.hard_state = HardState(Term(self.term), NodeId("b"))
            self.witness = {NodeId("c"): (Term(self.term), LogIndex(self.last))}
        self.store.write(
            hard_state=self.hard_state if vote else None,
            truncate_from=LogIndex(keep + 1) if cut else None,
            entries=new,
            witness=self.witness if vote else None,
        )

    @rule(share=st.floats(0, 1))
    def compact(self, share: float) -> None:
        upto = self.base[0] + int(share * (self.last - self.base[0]))
        if upto > self.base[0]:
            self.base = (upto, self.entries[upto].term)
            self.entries = {i: e for i, e in self.entries.items() if i > upto}
        self.store.compact(LogIndex(upto))

    @rule(ahead=st.integers(-3, 3), same_term=st.booleans())
    def reset(self, ahead: int, same_term: bool) -> None:
        index = max(self.base[0], self.last + ahead)
        known = self.entries[index].term if index in self.entries else self.base[1] if index == self.base[0] else None
        term = known if same_term and known is not None else self.term + 1
        self.term = max(self.term, term)
        joins = known == term
        self.entries = {i: e for i, e in self.entries.items() if joins and i > index}
        self.base = (index, term)
        self.store.reset_to(SnapshotMeta(LogIndex(index), Term(term), MEMBERS, None))

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        if crash:
            self.disk.crash()
        else:
            self.store.close()
        self.store = LogStore.open(self.disk, FOLDER, KEYS)

    @rule()
    def forget_tail(self) -> None:
        from_disk_only(self.store)

    @precondition(lambda self: self.entries)
    @rule(lo=st.floats(0, 1), hi=st.floats(0, 1), bytes_max=st.integers(0, 300))
    def read_some(self, lo: float, hi: float, bytes_max: int) -> None:
        first = self.base[0] + 1
        at = first + int(lo * (self.last - first))
        end = at + 1 + int(hi * (self.last - at))
        found = self.store.entries(LogIndex(at), LogIndex(end), bytes_max)
        assert found == [self.entries[i] for i in range(at, at + len(found))]
        assert found
        assert len(found) == 1 or sum(map(entry_bytes, found)) <= bytes_max

    @invariant()
    def same(self) -> None:
        assert self.store.base == self.base
        assert self.store.last_index == self.last
        assert all_of(self.store) == [self.entries[i] for i in sorted(self.entries)]
        assert self.store.hard_state == self.hard_state
        assert self.store.witness == self.witness
        assert all(self.store.term(e.index) == e.term for e in self.entries.values())

    def teardown(self) -> None:
        self.store.close()
        self.disk.close()


TestLogAgainstModel = LogAgainstModel.TestCase
TestLogAgainstModel.settings = settings(max_examples=70, stateful_step_count=30, deadline=None)


def test_log_read_that_meets_a_write_half_noted_waits_for_it(log: LogStore) -> None:
    """Between a commit on disk and its note in memory the two differ: that is no damage, the read waits."""
    log.write(entries=[entry(i) for i in range(1, 4)])
    from_disk_only(log)
    note, read = log._note, log._read
    met, seen = threading.Event(), list[list[Entry]]()
    reader = threading.Thread(target=lambda: seen.append(log.entries(LogIndex(2), LogIndex(4), 1000)))

    def note_after_a_read(*args: Any, **options: Any) -> None:
        log._guard.release()
        reader.start()
        assert met.wait(10)
        log._guard.acquire()
        note(*args, **options)

    def read_and_tell(*args: Any) -> list[Entry] | None:
        found = read(*args)
        if found is None:
            met.set()
        return found

    log._note, log._read = note_after_a_read, read_and_tell  # type: ignore[method-assign, assignment]  # Of this one only.
    new = [entry(2, 2, b"new"), entry(3, 2, b"new")]
    log.write(truncate_from=LogIndex(2), entries=new)
    reader.join(10)
    assert seen == [new]
