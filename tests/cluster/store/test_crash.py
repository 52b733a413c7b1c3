"""Power cuts: acknowledged commits survive, others are there whole or not at all."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keycluster.cluster.raft.messages import Entry, EntryKind, HardState, Membership
from keycluster.cluster.store import database
from keycluster.cluster.store.authentication import StateKeys
from keycluster.cluster.store.errors import StoreDamaged, StoreError, StoreFailed
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore, StateTx
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.simulations.disk import CrashDisk

LOG, STATE = Path("/node/log"), Path("/node/state")
MEMBERS = Membership((NodeId("a"),))


class Lost(AssertionError):
    """What had been acknowledged is not there."""


@contextmanager
def crashing(disk: CrashDisk) -> Iterator[None]:
    """Goes on where the disk dies, then starts the machine again."""
    try:
        yield
    except StoreFailed:
        assert disk.is_gone
    disk.crash()


class LogWorkload:
    """Writes entries and votes, truncates, compacts; knows what may be found after a crash at any moment."""

    def __init__(self, disk: CrashDisk, keys: StateKeys, seed: int) -> None:
        self.disk, self.keys = disk, keys
        self.chance = random.Random(seed)
        self.entries: list[Entry] = []
        self.base = 0
        self.term = 1
        self.allowed = [self.picture()]
        self.log = LogStore.create(disk, LOG, keys)

    def picture(self) -> tuple[int, int, tuple[Entry, ...]]:
        return self.term if self.entries or self.base else 0, self.base, tuple(self.entries)

    def step(self) -> None:
        last = self.base + len(self.entries)
        if self.chance.random() < 0.15 and len(self.entries) > 3:
            self.base += 2
            self.entries = self.entries[2:]
            self.allowed.append(self.picture())
            self.log.compact(LogIndex(self.base))
        else:
            cut = self.chance.randrange(3) if len(self.entries) > 3 else 0
            self.term += cut > 0
            count = self.chance.choice([1, 1, 3, 20])
            size = self.chance.choice([10, 600, 5_000])
            new = [
                Entry(
                    Term(self.term),
                    LogIndex(last - cut + n),
                    EntryKind.COMMAND,
                    self.chance.randbytes(size),
                )
                for n in range(1, count + 1)
            ]
            self.entries = [*self.entries[: len(self.entries) - cut], *new]
            self.allowed.append(self.picture())
            self.log.write(
                hard_state=HardState(Term(self.term), NodeId("a")),
                truncate_from=LogIndex(last - cut + 1) if cut else None,
                entries=new,
            )
        self.allowed = [self.allowed[-1]]  # Acknowledged.

    def recover(self) -> None:
        self.log = LogStore.open(self.disk, LOG, self.keys)
        found = self.log.entries(self.log.first_index, LogIndex(self.log.last_index + 1), 1 << 30)
        picture = (self.log.hard_state.term, self.log.base[0], tuple(found))
        if picture not in self.allowed:
            raise Lost
        self.allowed = [picture]
        self.term, self.base, self.entries = max(1, picture[0]), picture[1], list(picture[2])


class StateWorkload:
    """Batches over few rows; knows what may be found after a crash at any moment."""

    def __init__(self, disk: CrashDisk, keys: StateKeys, seed: int) -> None:
        self.disk, self.keys = disk, keys
        self.chance = random.Random(seed)
        self.rows: dict[bytes, bytes] = {}
        self.index = 0
        self.allowed = [self.picture()]
        self.store = StateStore.create(disk, STATE, keys, membership=MEMBERS)

    def picture(self) -> tuple[int, dict[bytes, bytes]]:
        return self.index, dict(self.rows)

    def step(self) -> None:
        entries = []
        for _ in range(self.chance.choice([1, 2, 30])):
            self.index += 1
            key = b"%d" % self.chance.randrange(60)
            value = self.chance.randbytes(self.chance.choice([0, 10, 600, 5_000]))
            entries.append(Entry(Term(1), LogIndex(self.index), EntryKind.COMMAND, key + b"=" + value))
            if value:
                self.rows[key] = value
            else:
                self.rows.pop(key, None)
        self.allowed.append(self.picture())

        def apply_one(tx: StateTx, entry: Entry) -> None:
            key, _, value = entry.payload.partition(b"=")
            if value:
                tx.put(1, key, value)
            else:
                tx.delete(1, key)

        self.store.apply(entries, apply_one)
        self.allowed = [self.allowed[-1]]  # Acknowledged.
        self.store.refresh()

    def recover(self) -> None:
        self.store = StateStore.open(self.disk, STATE, self.keys)
        picture = (self.store.view.applied_index, dict(self.store.view.scan(1, limit=10_000)))
        if picture not in self.allowed:
            raise Lost
        self.allowed = [picture]
        self.index, self.rows = picture[0], dict(picture[1])


WORKLOADS = [LogWorkload, StateWorkload]


@pytest.fixture(params=WORKLOADS)
def workload_type(request: pytest.FixtureRequest) -> type[LogWorkload] | type[StateWorkload]:
    kind: type[LogWorkload] | type[StateWorkload] = request.param
    return kind


@pytest.fixture
def early_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that crashes meet checkpoints and WALs that start anew."""
    monkeypatch.setattr(database, "WAL_PAGES_LARGE", 25)


@pytest.mark.usefixtures("early_checkpoints")
def test_store_crashed_at_each_operation_keeps_what_it_acknowledged(
    keys: StateKeys, workload_type: type[LogWorkload] | type[StateWorkload]
) -> None:
    """One crash at every single write, sync and truncation of a run with checkpoints, another run for each."""
    operation = 0
    while True:
        disk = CrashDisk(seed=operation)
        workload = workload_type(disk, keys, seed=5)
        disk.crash_after(operation)
        with crashing(disk):
            for _ in range(14):
                workload.step()
            operation = -1
        workload.recover()
        workload.step()
        disk.close()
        if operation < 0:
            break
        operation += 1


@pytest.mark.usefixtures("early_checkpoints")
@pytest.mark.parametrize("seed", range(12))
def test_store_crashed_again_and_again_keeps_what_it_acknowledged(
    keys: StateKeys, workload_type: type[LogWorkload] | type[StateWorkload], seed: int
) -> None:
    """Crashes at random moments, also while recovering from the last one, on one disk: torn remains meet new writes."""
    chance = random.Random(seed)
    disk = CrashDisk(seed=seed)
    workload = workload_type(disk, keys, seed)
    for _ in range(25):
        disk.crash_after(chance.randrange(60))
        with crashing(disk):
            while not disk.is_gone:
                workload.step()
        while True:
            if chance.random() < 0.5:
                disk.crash_after(chance.randrange(12))
            try:
                workload.recover()
            except StoreFailed:
                disk.crash()
            else:
                break
    assert disk.counts.writes_torn > 5
    assert disk.counts.writes_lost > 5
    disk.close()


@pytest.mark.usefixtures("early_checkpoints")
def test_store_on_a_disk_whose_syncs_lie_loses_commits(
    keys: StateKeys, workload_type: type[LogWorkload] | type[StateWorkload]
) -> None:
    """The tests above can fail: without syncs, nearly every crash loses something or leaves a damaged file."""
    kept = 0
    for seed in range(20):
        disk = CrashDisk(seed)
        workload = workload_type(disk, keys, seed)
        workload.step()
        disk.syncs_lie = True
        for _ in range(8):
            workload.step()
        disk.crash()
        try:
            workload.recover()
        except (Lost, StoreError):
            pass
        else:
            kept += 1
        disk.close()
    assert kept <= 5


def test_store_creation_crashed_at_each_operation_can_be_repeated(keys: StateKeys) -> None:
    """Either there is no store yet, or it is whole."""
    for operation in range(60):
        disk = CrashDisk(seed=operation)
        disk.crash_after(operation)
        with crashing(disk):
            state = StateStore.create(disk, STATE, keys, membership=MEMBERS)
            LogStore.create(disk, LOG, keys).close()
            state.close()
        if StateStore.exists(disk, STATE):
            StateStore.open(disk, STATE, keys)
        else:
            StateStore.create(disk, STATE, keys, membership=MEMBERS)
        log = (LogStore.open if LogStore.exists(disk, LOG) else LogStore.create)(disk, LOG, keys)
        assert log.last_index == 0
        disk.close()


def test_store_creation_on_a_disk_that_gets_full_can_be_repeated(keys: StateKeys) -> None:
    """Wherever it gets full: the disk is blamed, and no half of a store is left under its name."""
    failed = 0
    for room in range(0, 60_000, 1_500):
        disk = CrashDisk(seed=1)
        disk.bytes_max = room
        try:
            StateStore.create(disk, STATE, keys, membership=MEMBERS).close()
        except StoreFailed:
            failed += 1
        disk.bytes_max = None
        if not StateStore.exists(disk, STATE):
            StateStore.create(disk, STATE, keys, membership=MEMBERS).close()
        StateStore.open(disk, STATE, keys).close()
        disk.close()
    assert failed > 5


FLIPS = 150


@pytest.mark.usefixtures("early_checkpoints")
@pytest.mark.parametrize("stopped", ["cleanly", "by a crash"])
def test_store_with_any_byte_flipped_serves_nothing_wrong(
    keys: StateKeys, workload_type: type[LogWorkload] | type[StateWorkload], stopped: str
) -> None:
    """Each region of each file: it is reported, or harmless; at most a last commit that looks torn is missing."""
    disk = CrashDisk(seed=3)
    workload = workload_type(disk, keys, seed=3)
    pictures = [workload.picture()]
    for _ in range(30):
        workload.step()
        pictures.append(workload.picture())
    store = workload.log if isinstance(workload, LogWorkload) else workload.store
    if stopped == "cleanly":
        store.close()
    else:
        disk.crash()
    files = {path: content for path, content in disk.files().items() if content}
    disk.close()
    chance = random.Random(9)
    reported = 0
    for path, content in files.items():
        spots = [*range(0, 100, 3), *(chance.randrange(len(content)) for _ in range(FLIPS))]
        for spot in spots:
            if spot >= len(content):
                continue
            workload.disk = CrashDisk(seed=4)
            for name, whole in files.items():
                workload.disk.put(name, whole)
            workload.disk.flip(path, spot, 1 << chance.randrange(8))
            workload.allowed = pictures[-2:]  # type: ignore[assignment]  # Its own pictures.
            try:
                workload.recover()
            except StoreDamaged:
                reported += 1
            workload.disk.close()
    assert reported > FLIPS / 4
