"""Snapshots: the same state elsewhere, or nothing."""

import random
from pathlib import Path

import pytest

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.raft.messages import Entry, EntryKind, Membership, SnapshotMeta
from keycluster.cluster.store.authentication import StateKeys
from keycluster.cluster.store.errors import SnapshotRefused, StoreDamaged, StoreFailed
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.recovery import join_up
from keycluster.cluster.store.state import StateStore, StateTx
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.simulations.disk import CrashDisk

SENDER, RECEIVER, LOG = Path("/sender/state"), Path("/receiver/state"), Path("/receiver/log")
OUT, IN = Path("/sender/snapshot.out"), Path("/receiver/snapshot.in")
MEMBERS = Membership((NodeId("a"), NodeId("b")))


def entry(index: int, payload: bytes) -> Entry:
    return Entry(Term(1), LogIndex(index), EntryKind.COMMAND, payload)


def put(tx: StateTx, entry: Entry) -> None:
    tx.put(1, b"%d" % (entry.index % 50), entry.payload)


def fill(store: StateStore, entries: range) -> None:
    store.apply([entry(index, b"%d" % index * 50) for index in entries], put)
    store.refresh()


def content(store: StateStore) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    store.refresh()
    return store.view.applied_index, store.view.digest, store.view.scan(1, limit=10_000)


@pytest.fixture
def sender(disk: CrashDisk, keys: StateKeys) -> StateStore:
    store = StateStore.create(disk, SENDER, keys, membership=MEMBERS)
    fill(store, range(1, 200))
    return store


@pytest.fixture
def receiver(disk: CrashDisk, keys: StateKeys) -> StateStore:
    store = StateStore.create(disk, RECEIVER, keys, membership=MEMBERS)
    fill(store, range(1, 20))
    return store


def send(disk: CrashDisk, chunk_bytes: int = 10_000) -> None:
    """As consensus does: piece by piece."""
    for offset in range(0, disk.size(OUT), chunk_bytes):
        disk.write_at(IN, offset, disk.read_at(OUT, offset, chunk_bytes))


def test_snapshot_carries_the_state_over(
    disk: CrashDisk, keys: StateKeys, sender: StateStore, receiver: StateStore
) -> None:
    """Rows, index, membership and set hash are the sender's; the receiver goes on from there, also after a restart."""
    meta = sender.write_snapshot(OUT)
    assert meta == sender.view.snapshot_meta
    send(disk)
    receiver.install_snapshot(IN, meta)
    assert receiver.view.applied_index == 19, "the view moved before it was refreshed"
    assert content(receiver) == content(sender)
    assert receiver.digest_at(meta.index) == sender.view.digest
    assert receiver.digest_at(LogIndex(19)) is None
    fill(receiver, range(200, 230))
    fill(sender, range(200, 230))
    receiver.close()
    receiver = StateStore.open(disk, RECEIVER, keys)
    assert content(receiver) == content(sender)
    assert receiver.installed_index == 199


def test_snapshot_is_one_file_and_leaves_nothing_beside_it(disk: CrashDisk, sender: StateStore) -> None:
    """No WAL, journal or unfinished copy stays; a second one replaces the first."""
    sender.write_snapshot(OUT)
    sender.write_snapshot(OUT)
    assert disk.list(OUT.parent) == ["snapshot.out", "state"]


def test_snapshot_replaces_its_file_only_when_it_is_whole(disk: CrashDisk, sender: StateStore) -> None:
    """A failure half-way leaves the older snapshot as it was."""
    sender.write_snapshot(OUT)
    before = disk.files()[OUT]
    disk.bytes_max = sum(len(file) for file in disk.files().values()) + 10_000
    with pytest.raises(StoreFailed):
        sender.write_snapshot(OUT)
    disk.bytes_max = None
    assert disk.files()[OUT] == before


def test_snapshot_is_of_one_commit_though_batches_go_on(
    disk: CrashDisk, sender: StateStore, receiver: StateStore
) -> None:
    """It shows the newest commit when it was begun, not what the view shows, and verifies as a whole."""
    sender.apply([entry(200, b"new")], put)
    meta = sender.write_snapshot(OUT)
    assert (meta.index, sender.view.applied_index) == (200, 199)
    send(disk)
    receiver.install_snapshot(IN, meta)
    assert content(receiver) == content(sender)


def test_snapshot_changed_anywhere_is_refused(disk: CrashDisk, sender: StateStore, receiver: StateStore) -> None:
    """One byte anywhere, a cut, something appended: the state stays, and goes on."""
    meta = sender.write_snapshot(OUT)
    before = content(receiver)
    good = disk.files()[OUT]
    chance = random.Random(1)
    spots = [0, 18, 24, 100, 4095, 4096, len(good) - 4096, len(good) - 4085, len(good) - 40, len(good) - 1]
    for spot in [*spots, *(chance.randrange(len(good)) for _ in range(60))]:
        disk.put(IN, good)
        disk.flip(IN, spot, chance.randrange(1, 256))
        with pytest.raises(SnapshotRefused):
            receiver.install_snapshot(IN, meta)
    for other in (b"", good[:-1], good[:-4096], good[4096:], good + good[:4096], good + b"\0"):
        disk.put(IN, other)
        with pytest.raises(SnapshotRefused):
            receiver.install_snapshot(IN, meta)
    assert content(receiver) == before
    fill(receiver, range(20, 30))


def test_snapshot_other_than_announced_is_refused(disk: CrashDisk, sender: StateStore, receiver: StateStore) -> None:
    """Another index, term, membership or leader than the leader's word for it; one that isn't there; old news."""
    meta = sender.write_snapshot(OUT)
    for other in (
        SnapshotMeta(LogIndex(meta.index + 1), meta.term, meta.membership, meta.last_leader),
        SnapshotMeta(meta.index, Term(2), meta.membership, meta.last_leader),
        SnapshotMeta(meta.index, meta.term, Membership((NodeId("b"),)), meta.last_leader),
        SnapshotMeta(meta.index, meta.term, meta.membership, NodeId("b")),
    ):
        with pytest.raises(SnapshotRefused):
            receiver.install_snapshot(OUT, other)
    with pytest.raises(SnapshotRefused):
        receiver.install_snapshot(Path("/nowhere"), meta)
    receiver.install_snapshot(OUT, meta)
    with pytest.raises(InvariantBroken, match="no news"):
        receiver.install_snapshot(OUT, meta)


def test_snapshot_of_other_keys_is_refused(disk: CrashDisk, sender: StateStore) -> None:
    """A region takes its own snapshots only."""
    meta = sender.write_snapshot(OUT)
    stranger = StateStore.create(disk, RECEIVER, StateKeys(1, *(b"x" * 32,) * 4), membership=MEMBERS)
    with pytest.raises(SnapshotRefused, match="MAC"):
        stranger.install_snapshot(OUT, meta)


def test_snapshot_of_a_damaged_state_is_refused(disk: CrashDisk, sender: StateStore, receiver: StateStore) -> None:
    """A row rotten at the sender doesn't spread, though the file's own MAC is good."""
    with sender._database.transaction() as connection:
        connection.execute("DELETE FROM rows WHERE key = x'37'")
    meta = sender.write_snapshot(OUT)
    with pytest.raises(SnapshotRefused, match="rows are not those"):
        receiver.install_snapshot(OUT, meta)


def test_snapshot_install_frees_the_wal_afterwards(disk: CrashDisk, sender: StateStore, receiver: StateStore) -> None:
    """The copy goes through the WAL once; the WAL shrinks again with the writes that follow."""
    sender.apply(
        [entry(n, b"x" * 50_000) for n in range(200, 700)], lambda tx, e: tx.put(2, b"%d" % e.index, e.payload)
    )
    meta = sender.write_snapshot(OUT)
    receiver.install_snapshot(OUT, meta)
    assert disk.size(RECEIVER / "state.db-wal") > 20_000_000
    assert not receiver.checkpoint_if_large(), "the view stands on the old state still"
    receiver.refresh()
    assert receiver.checkpoint_if_large()
    fill(receiver, range(700, 701))
    assert disk.size(RECEIVER / "state.db-wal") < 17_000_000


@pytest.mark.parametrize("seed", range(8))
def test_snapshot_install_crashed_at_each_write_leaves_old_or_new(keys: StateKeys, seed: int) -> None:
    """Whenever the power goes, the state is the old or the new one, whole, and joins up with its log."""
    outcomes = set()
    operations = 0
    while True:
        disk = CrashDisk(seed=1000 * seed + operations)
        sender = StateStore.create(disk, SENDER, keys, membership=MEMBERS)
        fill(sender, range(1, 60))
        meta = sender.write_snapshot(OUT)
        receiver = StateStore.create(disk, RECEIVER, keys, membership=MEMBERS)
        fill(receiver, range(1, 20))
        log = LogStore.create(disk, LOG, keys)
        log.write(entries=[entry(index, b"") for index in range(1, 20)])
        old, new = content(receiver), content(sender)
        disk.crash_after(operations)
        try:
            receiver.install_snapshot(OUT, meta)
            log.reset_to(meta)
        except StoreFailed:
            finished = False
        else:
            finished = True
        disk.crash()
        receiver = StateStore.open(disk, RECEIVER, keys)
        log = LogStore.open(disk, LOG, keys)
        join_up(log, receiver, folder=Path("/receiver"))
        found = content(receiver)
        assert found in (old, new)
        assert log.last_index == found[0]
        outcomes.add((found == new, finished))
        disk.close()
        if finished:
            assert found == new
            break
        operations += 1
    assert {(False, False), (True, False), (True, True)} <= outcomes


def test_log_and_state_that_belong_together_join_up(disk: CrashDisk, keys: StateKeys, receiver: StateStore) -> None:
    """The state may lag behind the log, and the log be compacted up to the state."""
    log = LogStore.create(disk, LOG, keys)
    log.write(entries=[entry(index, b"") for index in range(1, 30)])
    join_up(log, receiver, folder=Path("/receiver"))
    log.compact(LogIndex(19))
    join_up(log, receiver, folder=Path("/receiver"))
    assert (log.base[0], log.last_index) == (19, 29)


@pytest.mark.parametrize("case", ["log lost its end", "log of another term", "log compacted past the state"])
def test_log_and_state_that_do_not_belong_together_are_damaged(
    disk: CrashDisk, keys: StateKeys, receiver: StateStore, case: str
) -> None:
    """One of the two was rolled back: the node says so instead of going on."""
    log = LogStore.create(disk, LOG, keys)
    if case == "log lost its end":
        log.write(entries=[entry(index, b"") for index in range(1, 19)])
    elif case == "log of another term":
        log.write(entries=[Entry(Term(2), LogIndex(index), EntryKind.COMMAND, b"") for index in range(1, 30)])
    else:
        log.write(entries=[entry(index, b"") for index in range(1, 30)])
        log.compact(LogIndex(20))
    with pytest.raises(StoreDamaged):
        join_up(log, receiver, folder=Path("/receiver"))
