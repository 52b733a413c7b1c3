"""The simulated disk: loses what wasn't synced, nothing else, and the same for the same seed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.cluster.seams import Disk, FolderInUse
from keycluster.simulations.disk import CrashDisk, DiskGone
from keycluster.simulations.sqlite_vfs import SECTOR_BYTES

FILE = Path("/d/file")


@pytest.fixture
def disk() -> Iterator[CrashDisk]:
    disk = CrashDisk(seed=1)
    yield disk
    disk.close()


def connect(disk: CrashDisk, name: str = "/d/x.db") -> apsw.Connection:
    connection = apsw.Connection(name, vfs=disk.vfs)
    assert connection.pragma("journal_mode", "wal") == "wal"
    connection.pragma("synchronous", "FULL")
    return connection


def test_disk_is_the_seam(disk: CrashDisk) -> None:
    """What production code gets handed down; mypy checks the rest."""
    seam: Disk = disk
    seam.make_folder(Path("/d/e"))
    seam.replace(FILE, b"whole")
    seam.write_at(Path("/d/part"), 3, b"x")
    assert (seam.read(FILE), seam.read(Path("/d/none")), seam.size(Path("/d/none"))) == (b"whole", None, 0)
    assert (seam.read_at(FILE, 1, 2), seam.read(Path("/d/part"))) == (b"ho", b"\0\0\0x")
    assert seam.list(Path("/d")) == ["e", "file", "part"]
    assert seam.list(Path("/none")) == []
    seam.write_at(FILE, 0, b"cut")
    assert seam.read(FILE) == b"cut"
    seam.rename(FILE, Path("/d/part"))
    seam.remove(Path("/d/none"))
    assert seam.list(Path("/d")) == ["e", "part"]


def test_disk_keeps_what_was_replaced_or_renamed(disk: CrashDisk) -> None:
    """Both are durable when they return."""
    for seed in range(30):
        disk.replace(FILE, b"%d" % seed)
        disk.write_at(Path("/d/new"), 0, b"new %d" % seed)
        disk.rename(Path("/d/new"), Path("/d/named"))
        disk.crash()
        assert disk.files() == {FILE: b"%d" % seed, Path("/d/named"): b"new %d" % seed}


@settings(max_examples=100, deadline=None)
@given(
    synced=st.binary(max_size=3_000),
    writes=st.lists(st.tuples(st.integers(0, 3_000), st.binary(min_size=1, max_size=1_500)), max_size=5),
    seed=st.integers(0, 2**32),
)
def test_disk_after_a_crash_has_old_or_new_in_each_sector(
    synced: bytes, writes: list[tuple[int, bytes]], seed: int
) -> None:
    """Each sector shows the synced bytes with some of the later writes over them, byte ranges exactly."""
    disk = CrashDisk(seed)
    disk.replace(FILE, synced)
    for offset, content in writes:
        if offset:  # At 0 it would cut the file.
            disk.write_at(FILE, offset, content)
    disk.crash()
    found = disk.files()[FILE]
    disk.close()
    size_max = max([len(synced), *(offset + len(content) for offset, content in writes if offset)])
    assert len(synced) <= len(found) <= size_max
    for position, byte in enumerate(found):
        allowed = {synced[position] if position < len(synced) else 0}
        allowed |= {content[position - at] for at, content in writes if at and 0 <= position - at < len(content)}
        assert byte in allowed


def test_disk_crashes_tear_and_lose_over_many_seeds() -> None:
    """All kinds of remains occur: nothing, all, part of a write, a file that is missing, one that is back."""
    seen: set[tuple[str, object]] = set()
    for seed in range(60):
        disk = CrashDisk(seed)
        disk.replace(FILE, b"old" * 1_000)
        disk.write_at(FILE, SECTOR_BYTES, b"N" * 3 * SECTOR_BYTES)
        disk.replace(Path("/d/removed"), b"r")
        disk.write_at(Path("/d/new"), 0, b"new")
        disk.remove_file(Path("/d/removed"), synced=False)
        disk.crash()
        files = disk.files()
        seen.add(("sectors", files[FILE].count(b"N" * SECTOR_BYTES)))
        seen.add(("new", files.get(Path("/d/new"))))
        seen.add(("removed", files.get(Path("/d/removed"))))
        disk.close()
    assert {("sectors", count) for count in range(4)} <= seen
    assert {("new", None), ("new", b"new"), ("removed", None), ("removed", b"r")} <= seen


def test_disk_syncs_that_lie_lose_what_was_replaced() -> None:
    """The switch that shows that a test of durability can fail."""
    lost = 0
    for seed in range(20):
        disk = CrashDisk(seed)
        disk.replace(FILE, b"old")
        disk.syncs_lie = True
        disk.replace(FILE, b"new")
        disk.crash()
        lost += disk.files().get(FILE) != b"new"
        disk.close()
    assert lost


def trace(seed: int) -> list[object]:
    disk = CrashDisk(seed)
    found: list[object] = []
    for start in range(0, 60, 20):
        connection = connect(disk)
        connection.execute("CREATE TABLE IF NOT EXISTS t(a)")
        for number in range(start, start + 20):
            connection.execute("INSERT INTO t VALUES (?)", (b"x" * 1_000 + b"%d" % number,))
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (random()), (randomblob(9)), (julianday('now'))")
        connection.execute("COMMIT")
        disk.crash()
        found.append(disk.files())
    found += [disk.counts, disk.operations]
    disk.close()
    return found


def test_disk_same_seed_gives_the_same_bytes() -> None:
    """SQLite's salts, random() and time included; another seed gives others."""
    assert trace(5) == trace(5)
    assert trace(5) != trace(6)


def test_disk_sqlite_keeps_every_synced_commit(disk: CrashDisk) -> None:
    """40 crashes in a row, WAL and recovery the real ones."""
    written = 0
    for _ in range(40):
        connection = connect(disk)
        connection.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, v)")
        assert connection.execute("SELECT count(*) FROM t").get == written
        assert connection.pragma("integrity_check") == "ok"
        for _ in range(5):
            connection.execute("INSERT INTO t VALUES (?, ?)", (written, b"v" * 700))
            written += 1
        disk.crash()
    assert disk.counts.crashes == 40


def test_disk_two_connections_see_synced_commits_only(disk: CrashDisk) -> None:
    """Shared memory works: the reader isn't blocked by, and doesn't see, what isn't committed."""
    writer = connect(disk)
    writer.execute("CREATE TABLE t(a)")
    reader = connect(disk)
    writer.execute("BEGIN; INSERT INTO t VALUES (1)")
    assert reader.execute("SELECT count(*) FROM t").get == 0
    writer.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM t").get == 1


def test_disk_connections_from_before_a_crash_touch_nothing(disk: CrashDisk) -> None:
    """A dead node's leftovers may write, checkpoint and close as they like."""
    dead = connect(disk)
    dead.execute("CREATE TABLE t(a)")
    disk.crash()
    alive = connect(disk)
    alive.execute("INSERT INTO t VALUES (1)")
    before, operations = disk.files(), disk.operations
    dead.execute("INSERT INTO t VALUES (2)")
    dead.close()
    assert (disk.files(), disk.operations) == (before, operations)
    alive.execute("INSERT INTO t VALUES (3)")
    assert alive.execute("SELECT a FROM t").fetchall() == [(1,), (3,)]


def test_disk_crash_in_the_midst_of_an_operation(disk: CrashDisk) -> None:
    """After so many operations all fail until the machine is started again."""
    disk.replace(FILE, b"old")
    disk.crash_after(1)
    with pytest.raises(DiskGone):
        disk.replace(FILE, b"new")
    assert disk.is_gone
    with pytest.raises(DiskGone):
        disk.read(FILE)
    disk.crash()
    assert disk.read(FILE) == b"old"


def test_disk_full_is_sqlites_full_error(disk: CrashDisk) -> None:
    """A full disk fails writes that need room, as such, and others go on."""
    connection = connect(disk)
    connection.execute("CREATE TABLE t(a)")
    disk.bytes_max = sum(len(content) for content in disk.files().values())
    with pytest.raises(apsw.FullError):
        connection.execute("INSERT INTO t VALUES (?)", (b"x" * 10_000,))
    with pytest.raises(OSError, match="No space"):
        disk.write_at(FILE, 0, b"x")
    disk.write_at(Path("/d/x.db"), 50, b"\0")
    assert disk.counts.full >= 2
    disk.bytes_max = None


def test_disk_flip_changes_what_is_read_and_what_survives(disk: CrashDisk) -> None:
    """Bit rot is on the disk, not in a cache."""
    disk.replace(FILE, b"abc")
    disk.flip(FILE, 1, 0x01)
    assert disk.read(FILE) == b"acc"
    disk.crash()
    assert disk.read(FILE) == b"acc"


def test_disk_lock_ends_with_the_machine(disk: CrashDisk) -> None:
    """One holder; given back by hand or by a crash; a dead holder's giving back later is nothing."""
    unlock = disk.lock(Path("/d/lock"))
    with pytest.raises(FolderInUse):
        disk.lock(Path("/d/lock"))
    unlock()
    dead_unlock = disk.lock(Path("/d/lock"))
    disk.crash()
    disk.lock(Path("/d/lock"))
    dead_unlock()
    with pytest.raises(FolderInUse):
        disk.lock(Path("/d/lock"))


async def test_disk_run_waits_out_its_delay_and_a_stall(
    disk: CrashDisk, autojump_clock: trio.testing.MockClock
) -> None:
    """Work takes the time it is told, and a stalled disk does nothing until it resumes."""
    disk.delay_s = 2.0
    assert await disk.run(lambda: 7) == 7
    assert trio.current_time() == pytest.approx(2.0)
    disk.stall()
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: disk.run(lambda: done.append(1)))
        await trio.sleep(60)
        assert done == []
        disk.resume()
    assert done == [1]
    assert disk.counts.stalls == 1


def test_failing_disk_refuses_each_write_and_sync(disk: CrashDisk) -> None:
    """With an error, until it is well again; what was there is there."""
    failed: list[Path | None] = []
    disk.replace(FILE, b"whole")
    disk.on_failure = failed.append
    disk.fails = True
    file = disk.open_file(FILE)
    operations: tuple[Callable[[], object], ...] = (
        lambda: disk.write_at(FILE, 0, b"new"),
        lambda: disk.rename(FILE, Path("/d/other")),
        lambda: disk.remove(FILE),
        lambda: disk.truncate_file(file, 0),
        lambda: disk.sync_file(file),
    )
    for operation in operations:
        with pytest.raises(OSError, match="Input/output error"):
            operation()
    assert (failed, disk.counts.failed, disk.is_well) == ([FILE] * 5, 5, False)
    assert disk.read(FILE) == b"whole"
    disk.fails = False
    disk.replace(FILE, b"new")
    assert disk.read(FILE) == b"new"


def test_failed_sync_leaves_what_nobody_knows() -> None:
    """It reached the disk or not, readers see it or not; the next sync says yes, and writes none of it."""
    seen = set()
    for seed in range(40):
        disk = CrashDisk(seed)
        disk.replace(FILE, b"old")
        file = disk.open_file(FILE)
        disk.write_file(file, 0, b"new")
        disk.syncs_fail_next = 1
        with pytest.raises(OSError, match="Input/output error"):
            disk.sync_file(file)
        disk.sync_file(file)
        seen_before = disk.read(FILE)
        disk.crash()
        seen.add((seen_before, disk.read(FILE)))
        disk.close()
    assert seen == {(b"old", b"old"), (b"new", b"old"), (b"new", b"new")}


def test_sqlite_is_told_of_a_failed_sync(disk: CrashDisk) -> None:
    """Whoever commits gets an error."""
    connection = connect(disk)
    connection.execute("create table t (x)")
    disk.syncs_fail_next = 1
    with pytest.raises(apsw.IOError):
        connection.execute("insert into t values (1)")
    connection.close()
