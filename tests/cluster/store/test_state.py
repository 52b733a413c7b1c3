"""The key state's store: one index in view, all or nothing, nothing changed by hand is served."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.raft.messages import Entry, EntryKind, Membership, SnapshotMeta, encode_membership_entry
from keycluster.cluster.store.authentication import StateKeys
from keycluster.cluster.store.errors import StoreDamaged, StoreFailed, StoreLocked
from keycluster.cluster.store.state import StateStore, StateTx
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.simulations.disk import CrashDisk

FOLDER = Path("/node/state")
DATABASE = FOLDER / "state.db"
KEYS = StateKeys(1, b"r" * 32, b"h" * 32, b"s" * 32, b"l" * 32)
MEMBERS = Membership((NodeId("a"), NodeId("b")))
TABLE = 3

Change = Callable[[StateTx], object]


class Applier:
    """Applies Python functions as if they were commands, one entry each."""

    def __init__(self, store: StateStore) -> None:
        self.store = store

    def __call__(self, *changes: Change, refresh: bool = True) -> list[object]:
        first = self.store._meta.applied_index + 1
        entries = [Entry(Term(1), LogIndex(first + n), EntryKind.COMMAND, b"") for n in range(len(changes))]
        applied = self.store.apply(entries, lambda tx, entry: changes[entry.index - first](tx))
        if refresh:
            self.store.refresh()
        return list(applied.results)


def put(key: bytes, value: bytes, table: int = TABLE) -> Change:
    return lambda tx: tx.put(table, key, value)


def delete(key: bytes, table: int = TABLE) -> Change:
    return lambda tx: tx.delete(table, key)


@pytest.fixture
def store(disk: CrashDisk, keys: StateKeys) -> StateStore:
    return StateStore.create(disk, FOLDER, keys, membership=MEMBERS)


@pytest.fixture
def apply(store: StateStore) -> Applier:
    return Applier(store)


def change_file(disk: CrashDisk, change: Callable[[apsw.Connection], object]) -> None:
    """What somebody with the disk and SQLite, but without keys, can do."""
    connection = apsw.Connection(str(DATABASE), vfs=disk.vfs)
    change(connection)
    connection.close()


def test_state_new_is_empty_with_its_membership(store: StateStore) -> None:
    """Index 0, nobody led yet, no rows."""
    view = store.view
    assert (view.applied_index, view.applied_term, view.membership, view.last_leader) == (0, 0, MEMBERS, None)
    assert (view.get(TABLE, b"k"), view.scan(TABLE, limit=10), view.count(TABLE)) == (None, [], 0)
    assert store.installed_index == 0


def test_state_view_stays_until_it_is_refreshed(store: StateStore, apply: Applier) -> None:
    """All reads show one index, whatever is committed meanwhile: values, scans, counts, index and digest."""
    apply(put(b"k", b"old"))
    digest = store.view.digest
    apply(put(b"k", b"new"), put(b"l", b"x"), refresh=False)
    view = store.view
    assert (view.applied_index, view.get(TABLE, b"k"), view.scan(TABLE, limit=9)) == (1, b"old", [(b"k", b"old")])
    assert (view.count(TABLE), view.digest) == (1, digest)
    store.refresh()
    assert (view.applied_index, view.get(TABLE, b"k"), view.count(TABLE)) == (3, b"new", 2)
    assert view.digest != digest


def test_state_keeps_everything_over_a_restart(disk: CrashDisk, keys: StateKeys, store: StateStore) -> None:
    """Rows, index, term, membership and who led."""
    joint = Membership((NodeId("b"), NodeId("c")), outgoing=(NodeId("a"), NodeId("b")))
    entries = [
        Entry(Term(2), LogIndex(1), EntryKind.LEADER, b"b"),
        Entry(Term(2), LogIndex(2), EntryKind.COMMAND, b"value"),
        Entry(Term(3), LogIndex(3), EntryKind.MEMBERSHIP, encode_membership_entry(joint, b"context")),
    ]
    called: list[Entry] = []

    def apply_one(tx: StateTx, entry: Entry) -> str:
        called.append(entry)
        tx.put(TABLE, b"k%d" % entry.index, entry.payload)
        return "done"

    applied = store.apply(entries, apply_one)
    assert called == entries[1:]
    assert (applied.index, applied.results) == (3, (None, "done", "done"))
    assert applied.touched == {(TABLE, b"k2"), (TABLE, b"k3")}
    digest = store.digest_at(LogIndex(3))
    store.close()
    store = StateStore.open(disk, FOLDER, keys)
    view = store.view
    assert (view.applied_index, view.applied_term, view.membership, view.last_leader) == (3, 3, joint, "b")
    assert view.snapshot_meta == SnapshotMeta(LogIndex(3), Term(3), joint, NodeId("b"))
    assert view.get(TABLE, b"k2") == b"value"
    assert view.digest == digest == store.digest_at(LogIndex(3))


def test_state_results_stand_beside_their_entries(apply: Applier) -> None:
    """What `apply_one` returned, in order."""
    assert apply(lambda tx: 1, lambda tx: "two") == [1, "two"]


def test_state_refuses_gaps_repeats_and_terms_that_go_back(store: StateStore, apply: Applier) -> None:
    """Each entry once, in order."""
    apply(put(b"k", b"v"))
    for term, index in ((1, 1), (1, 3), (0, 2)):
        with pytest.raises(InvariantBroken):
            store.apply([Entry(Term(term), LogIndex(index), EntryKind.COMMAND, b"")], lambda tx, e: None)
    store.refresh()
    assert store.view.applied_index == 1


def test_state_batch_with_an_exception_leaves_nothing(store: StateStore, apply: Applier) -> None:
    """An exception of `apply_one` takes the whole batch back and comes out as it is; the store goes on."""
    apply(put(b"k", b"v"))
    digest = store.view.digest

    def fail(tx: StateTx) -> None:
        tx.put(TABLE, b"k", b"half")
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        apply(put(b"l", b"x"), fail)
    store.refresh()
    assert (store.view.applied_index, store.view.get(TABLE, b"k"), store.view.digest) == (1, b"v", digest)
    apply(put(b"l", b"y"))
    assert store.view.get(TABLE, b"l") == b"y"


def test_state_savepoint_undoes_rows_hash_and_touched(store: StateStore, apply: Applier) -> None:
    """A command that fails leaves no trace: not in rows, set hash or the rows to invalidate. Also when nested."""
    apply(put(b"a", b"1"))

    def partly(tx: StateTx) -> None:
        with tx.savepoint():
            tx.put(TABLE, b"b", b"2")
            with pytest.raises(ValueError, match="inner"), tx.savepoint():  # noqa: PT012
                tx.put(TABLE, b"c", b"3")
                tx.delete(TABLE, b"a")
                assert tx.get(TABLE, b"a") is None
                raise ValueError("inner")
            assert (tx.get(TABLE, b"a"), tx.get(TABLE, b"c")) == (b"1", None)
        with pytest.raises(KeyError), tx.savepoint():  # noqa: PT012
            tx.put(TABLE, b"b", b"other")
            raise KeyError
        assert tx.touched == {(TABLE, b"b")}

    apply(partly)
    assert store.view.scan(TABLE, limit=9) == [(b"a", b"1"), (b"b", b"2")]
    same = StateStore.create(CrashDisk(seed=2), FOLDER, KEYS_OF_FIXTURE, membership=MEMBERS)
    Applier(same)(put(b"a", b"1"), put(b"b", b"2"))
    assert same.view.digest == store.view.digest


KEYS_OF_FIXTURE = StateKeys(
    1, b"row".ljust(32, b"."), b"set".ljust(32, b"."), b"sum".ljust(32, b"."), b"log".ljust(32, b".")
)


def test_state_scan_is_in_order_and_bounded(store: StateStore, apply: Applier) -> None:
    """By the keys' bytes; prefix, start and limit together; 0xff and empty keys are no exception; tables are apart."""
    names = [b"", b"a", b"a\x00", b"aa", b"ab", b"b", b"\xff", b"\xff\xff", b"\xff\xff\x01"]
    apply(*(put(name, name + b"!") for name in names), put(b"a", b"other", table=TABLE + 1))

    def keys(*, limit: int, prefix: bytes = b"", after: bytes | None = None) -> list[bytes]:
        return [key for key, _ in store.view.scan(TABLE, prefix=prefix, after=after, limit=limit)]

    ordered = sorted(names)
    assert keys(limit=100) == ordered
    assert keys(limit=2) == ordered[:2]
    assert keys(after=b"aa", limit=3) == [b"ab", b"b", b"\xff"]
    assert keys(prefix=b"a", limit=100) == [b"a", b"a\x00", b"aa", b"ab"]
    assert keys(prefix=b"a", after=b"a", limit=2) == [b"a\x00", b"aa"]
    assert keys(prefix=b"b", after=b"a", limit=9) == [b"b"]
    assert keys(prefix=b"\xff\xff", limit=9) == [b"\xff\xff", b"\xff\xff\x01"]
    assert keys(prefix=b"a", after=b"b", limit=9) == []
    assert store.view.count(TABLE) == len(names)


def test_state_digest_depends_on_rows_and_index_alone(keys: StateKeys) -> None:
    """Replicas that took other batches, and rows that came and went, agree at each index; another value doesn't."""
    changes = [put(b"a", b"1"), put(b"b", b"2"), put(b"a", b"3"), delete(b"b"), put(b"b", b"4"), delete(b"absent")]
    stores = []
    for batches in ((6,), (1, 2, 3), (1, 1, 1, 1, 1, 1)):
        store = StateStore.create(CrashDisk(seed=1), FOLDER, keys, membership=MEMBERS)
        rest = list(changes)
        for size in batches:
            Applier(store)(*rest[:size])
            del rest[:size]
        stores.append(store)
    for index in range(1, 7):
        assert len({store.digest_at(LogIndex(index)) for store in stores}) == 1
    assert len({stores[0].digest_at(LogIndex(index)) for index in range(1, 7)}) == 6
    assert stores[0].digest_at(LogIndex(7)) is None
    Applier(stores[0])(put(b"a", b"x"))
    Applier(stores[1])(put(b"a", b"y"))
    assert stores[0].view.digest != stores[1].view.digest


def test_state_neither_terms_nor_sum_stand_on_the_disk(disk: CrashDisk, store: StateStore, apply: Applier) -> None:
    """Who has them could solve for other rows with the same sum."""
    apply(put(b"a", b"1"), put(b"b", b"2"))
    secrets = [store._authentication.set_term(TABLE, b"a", b"1"), store._total]
    store.close()
    for content in disk.files().values():
        assert not any(secret.to_bytes(32, order) in content for secret in secrets for order in ("big", "little"))


def test_state_deleted_values_are_erased_from_the_files(disk: CrashDisk, apply: Applier) -> None:
    """A deleted or replaced value is not in the database once the WAL is gone (secure_delete)."""
    apply(put(b"k", b"ERASE-ME-1" * 30), put(b"l", b"ERASE-ME-2" * 700), put(b"m", b"stay"))
    apply(delete(b"k"), put(b"l", b""))
    apply.store.close()
    assert not any(b"ERASE-ME" in content for content in disk.files().values())


def test_state_wal_stays_bounded_though_the_view_reads(disk: CrashDisk, store: StateStore, apply: Applier) -> None:
    """10,000 commits with the view pinned in between all the time."""
    largest = 0
    for number in range(10_000):
        apply(put(b"%d" % (number % 500), b"x" * 100))
        if number % 100 == 0:
            largest = max(largest, disk.size(FOLDER / "state.db-wal"))
    assert largest < 1_100 * 4_120
    assert store.view.get(TABLE, b"499") == b"x" * 100


def test_state_checkpoint_leaves_a_view_that_lags_where_it_is(
    disk: CrashDisk, store: StateStore, apply: Applier
) -> None:
    """A view nobody refreshes keeps its index, for as many commits as it likes; afterwards the WAL is freed again."""
    apply(put(b"k", b"pinned"))
    for number in range(1_500):
        apply(put(b"k", b"%d" % number), refresh=False)
    assert (store.view.applied_index, store.view.get(TABLE, b"k")) == (1, b"pinned")
    size = disk.size(FOLDER / "state.db-wal")
    for number in range(1_500):
        apply(put(b"k", b"%d" % number))
    assert disk.size(FOLDER / "state.db-wal") <= size + 10 * 4_120
    assert store.view.get(TABLE, b"k") == b"1499"


def test_state_idle_checkpoint_moves_the_wal_into_the_database(store: StateStore, apply: Applier) -> None:
    """For a node that has nothing to apply any more; only when it is worth it."""
    assert not store.checkpoint_if_large()
    apply(*(put(b"%d" % n, b"x" * 3_000) for n in range(1_200)))
    assert store.checkpoint_if_large()
    assert not store.checkpoint_if_large()
    assert store.view.count(TABLE) == 1_200


def test_state_reads_go_on_while_a_batch_is_written(store: StateStore, apply: Applier) -> None:
    """The view never sees uncommitted rows, nor waits for the transaction to end."""
    apply(put(b"k", b"old"))
    inside, go_on = threading.Event(), threading.Event()

    def wait(tx: StateTx) -> None:
        tx.put(TABLE, b"k", b"new")
        inside.set()
        assert go_on.wait(10)

    writer = threading.Thread(target=lambda: apply(wait, refresh=False))
    writer.start()
    assert inside.wait(10)
    assert store.view.get(TABLE, b"k") == b"old"
    store.refresh()
    assert store.view.get(TABLE, b"k") == b"old"
    go_on.set()
    writer.join(10)
    store.refresh()
    assert store.view.get(TABLE, b"k") == b"new"


def test_state_open_twice_is_refused(disk: CrashDisk, keys: StateKeys, store: StateStore) -> None:
    """The folder's lock goes with the store; creating over a state is refused too."""
    with pytest.raises(StoreLocked):
        StateStore.open(disk, FOLDER, keys)
    store.close()
    with pytest.raises(StoreFailed, match="there already"):
        StateStore.create(disk, FOLDER, keys, membership=MEMBERS)
    assert StateStore.exists(disk, FOLDER)


def test_state_disk_full_stops_the_store(disk: CrashDisk, keys: StateKeys, store: StateStore, apply: Applier) -> None:
    """A full disk is no damage; nothing is written afterwards; a restart with room goes on from the last batch."""
    apply(put(b"k", b"v"))
    disk.bytes_max = sum(len(content) for content in disk.files().values())
    with pytest.raises(StoreFailed):
        apply(put(b"l", b"x" * 100_000))
    disk.bytes_max = None
    with pytest.raises(StoreFailed):
        apply(put(b"m", b""))
    assert store.view.get(TABLE, b"k") == b"v"
    store.close()
    assert StateStore.open(disk, FOLDER, keys).view.scan(TABLE, limit=9) == [(b"k", b"v")]


RECORD = "(SELECT record FROM rows WHERE key = x'6B31')"  # Of row "k1".
ATTACKS = {
    "row altered": "UPDATE rows SET record = cast(record || x'00' AS BLOB) WHERE key = x'6B32'",
    "row as text": "UPDATE rows SET record = record || x'00' WHERE key = x'6B32'",
    "row cut": "UPDATE rows SET record = substr(record, 1, 10) WHERE key = x'6B32'",
    "row emptied": "UPDATE rows SET record = x'' WHERE key = x'6B32'",
    "row a number": "UPDATE rows SET record = 7 WHERE key = x'6B32'",
    "rows swapped": (
        "UPDATE rows SET record = CASE key WHEN x'6B31' THEN (SELECT record FROM rows WHERE key = x'6B32')"
        f" ELSE {RECORD} END WHERE key IN (x'6B31', x'6B32')"
    ),
    "row copied over another": f"UPDATE rows SET record = {RECORD} WHERE key = x'6B32'",
    "row copied to a new key": f"INSERT INTO rows VALUES (3, x'FF', {RECORD})",
    "row moved to another table": "UPDATE rows SET tab = 4 WHERE key = x'6B32'",
    "row's table made huge": "UPDATE rows SET tab = -1 WHERE key = x'6B32'",
    "row deleted": "DELETE FROM rows WHERE key = x'6B32'",
    "all rows deleted": "DELETE FROM rows",
    "meta altered": "UPDATE meta SET record = cast(substr(record, 1, 50) || x'01' AS BLOB)",
    "meta deleted": "DELETE FROM meta",
    "meta doubled": "INSERT INTO meta SELECT 2, record FROM meta",
    "trigger planted": "CREATE TRIGGER t AFTER UPDATE ON meta BEGIN DELETE FROM rows; END",
    "view planted": "CREATE VIEW v AS SELECT 1",
    "table dropped": "DROP TABLE rows",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_state_changed_by_hand_is_damaged(disk: CrashDisk, keys: StateKeys, apply: Applier, attack: str) -> None:
    """Whatever is done to the rows without keys is found when the state is opened, in one line that says what to do."""
    apply(*(put(b"k%d" % n, b"value %d" % n) for n in range(9)))
    apply.store.close()
    change_file(disk, lambda connection: connection.execute(ATTACKS[attack]))
    with pytest.raises(StoreDamaged) as caught:
        StateStore.open(disk, FOLDER, keys)
    assert "state.db is damaged" in str(caught.value)
    assert "join again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "value" not in str(caught.value).replace("a value has another type", "")


@pytest.mark.parametrize(("table", "later"), [("rows", 1), ("meta", 1), ("rows", 2)])
def test_state_row_put_back_to_an_older_value_is_damaged(
    disk: CrashDisk, keys: StateKeys, apply: Applier, table: str, later: int
) -> None:
    """An enabled key where it was disabled since: the row had a good MAC once, the sum tells."""
    apply(put(b"k", b"enabled"))
    apply.store.close()
    old: list[Any] = []
    change_file(disk, lambda c: old.append(c.execute(f"SELECT * FROM {table}").fetchall()))
    store = StateStore.open(disk, FOLDER, keys)
    for number in range(later):
        Applier(store)(put(b"k", b"disabled %d" % number))
    store.close()
    marks = ",".join("?" * len(old[0][0]))
    change_file(disk, lambda c: c.execute(f"REPLACE INTO {table} VALUES ({marks})", old[0][0]))
    with pytest.raises(StoreDamaged):
        StateStore.open(disk, FOLDER, keys)


@pytest.mark.parametrize("attack", ["row altered", "row as text", "row cut", "row emptied", "row copied over another"])
def test_state_row_changed_while_open_is_not_served(
    disk: CrashDisk, store: StateStore, apply: Applier, attack: str
) -> None:
    """Not by a read, not by a scan, and a batch that needs it doesn't commit."""
    apply(*(put(b"k%d" % n, b"value %d" % n) for n in range(9)))
    change_file(disk, lambda connection: connection.execute(ATTACKS[attack]))
    store.refresh()
    with pytest.raises(StoreDamaged):
        store.view.get(TABLE, b"k2")
    with pytest.raises(StoreDamaged):
        store.view.scan(TABLE, limit=9)
    with pytest.raises(StoreDamaged):
        apply(put(b"k2", b"new"))
    assert store.view.get(TABLE, b"k3") == b"value 3"


def test_state_of_other_keys_is_not_opened(disk: CrashDisk, store: StateStore) -> None:
    """Another region's keys, or another generation's."""
    store.close()
    for other in (StateKeys(1, *(b"x" * 32,) * 4), StateKeys(2, b"r" * 32, b"h" * 32, b"s" * 32, b"l" * 32)):
        with pytest.raises(StoreDamaged):
            StateStore.open(disk, FOLDER, other)


small_keys = st.binary(max_size=2)


class StateAgainstModel(RuleBasedStateMachine):
    """The store and a dict do the same, through failing commands, restarts, crashes and snapshots."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = CrashDisk(seed=11)
        self.committed: dict[tuple[int, bytes], bytes] = {}
        self.viewed: dict[tuple[int, bytes], bytes] = {}
        self.index = self.viewed_index = 0
        self.store: StateStore

    @initialize()
    def create(self) -> None:
        self.store = StateStore.create(self.disk, FOLDER, KEYS, membership=MEMBERS)

    @rule(
        commands=st.lists(
            st.tuples(
                st.lists(st.tuples(st.integers(0, 1), small_keys, st.none() | st.binary(max_size=9)), max_size=4),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        ),
        refresh=st.booleans(),
    )
    def apply(self, commands: list[tuple[list[tuple[int, bytes, bytes | None]], bool]], refresh: bool) -> None:
        touched: set[tuple[int, bytes]] = set()

        def run(tx: StateTx, entry: Entry) -> None:
            rows, fails = commands[entry.index - first]
            try:
                with tx.savepoint():
                    for table, key, value in rows:
                        if value is None:
                            tx.delete(table, key)
                        else:
                            tx.put(table, key, value)
                    if fails:
                        raise ValueError  # noqa: TRY301
            except ValueError:
                return
            for table, key, value in rows:
                if value is None:
                    if self.committed.pop((table, key), None) is not None:
                        touched.add((table, key))
                else:
                    self.committed[table, key] = value
                    touched.add((table, key))

        first = self.index + 1
        entries = [Entry(Term(1), LogIndex(first + n), EntryKind.COMMAND, b"") for n in range(len(commands))]
        assert self.store.apply(entries, run).touched == touched
        self.index += len(commands)
        if refresh:
            self.refresh()

    @rule()
    def refresh(self) -> None:
        self.store.refresh()
        self.viewed, self.viewed_index = dict(self.committed), self.index

    @rule(how=st.sampled_from(["close", "crash", "snapshot"]))
    def restart(self, how: str) -> None:
        if how == "snapshot" and self.index:
            path = Path("/node/snapshot")
            meta = self.store.write_snapshot(path)
            content = self.disk.files()[path]
            self.store.close()
            self.disk.close()
            self.disk = CrashDisk(seed=12)
            self.disk.put(path, content)
            fresh = StateStore.create(self.disk, FOLDER, KEYS, membership=MEMBERS)
            fresh.install_snapshot(path, meta)
            fresh.close()
        elif how == "crash":
            self.disk.crash()
        else:
            self.store.close()
        self.store = StateStore.open(self.disk, FOLDER, KEYS)
        self.viewed, self.viewed_index = dict(self.committed), self.index

    @rule(table=st.integers(0, 2), prefix=small_keys, after=st.none() | small_keys, limit=st.integers(0, 5))
    def scan(self, table: int, prefix: bytes, after: bytes | None, limit: int) -> None:
        fitting = sorted(
            (key, value)
            for (of, key), value in self.viewed.items()
            if of == table and key.startswith(prefix) and (after is None or key > after)
        )
        assert self.store.view.scan(table, prefix=prefix, after=after, limit=limit) == fitting[:limit]

    @invariant()
    def same(self) -> None:
        view = self.store.view
        assert view.applied_index == self.viewed_index
        for table in (0, 1):
            rows = {key: value for (of, key), value in self.viewed.items() if of == table}
            assert dict(view.scan(table, limit=10_000)) == rows
            assert view.count(table) == len(rows)
            assert all(view.get(table, key) == value for key, value in rows.items())
        assert view.get(0, b"never written") is None

    def teardown(self) -> None:
        self.store.close()
        self.disk.close()


TestStateAgainstModel = StateAgainstModel.TestCase
TestStateAgainstModel.settings = settings(max_examples=70, stateful_step_count=25, deadline=None)
