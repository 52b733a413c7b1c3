"""A WAL's torn tail is accepted, damage is not (SQLite accepts both)."""

import random
from pathlib import Path
from struct import pack_into, unpack_from

import apsw
import pytest

from keycluster.cluster.store.errors import StoreDamaged
from keycluster.cluster.store.wal import FRAME_HEAD_BYTES, HEADER_BYTES, WalScan, scan_wal
from keycluster.simulations.disk import CrashDisk

DATABASE, WAL = Path("/d/x.db"), Path("/d/x.db-wal")
FRAME_BYTES = FRAME_HEAD_BYTES + 4096


def connect(disk: CrashDisk) -> apsw.Connection:
    connection = apsw.Connection(str(DATABASE), vfs=disk.vfs)
    assert connection.pragma("journal_mode", "wal") == "wal"
    connection.pragma("synchronous", "FULL")
    connection.pragma("wal_autocheckpoint", 0)
    return connection


def insert(connection: apsw.Connection, numbers: range, *, size: int = 500) -> None:
    for number in numbers:
        connection.execute("INSERT INTO t VALUES (?, ?)", (number, random.Random(number).randbytes(size)))


def crashed_with(disk: CrashDisk, commits: int, *, size: int = 500) -> bytes:
    """The WAL of a database that made a table (in its database file) and one commit a row, then lost power."""
    connection = connect(disk)
    connection.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, v BLOB)")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    insert(connection, range(commits), size=size)
    disk.crash()
    return disk.files()[WAL]


def rows_after_recovery(disk: CrashDisk) -> int:
    connection = connect(disk)
    assert connection.pragma("integrity_check") == "ok"
    rows = connection.execute("SELECT count(*) FROM t").get
    connection.close()
    assert isinstance(rows, int)
    return rows


def commit_ends(wal: bytes | bytearray) -> list[int]:
    """How many frames there are up to and with each commit."""
    starts = range(HEADER_BYTES, len(wal) - FRAME_BYTES + 1, FRAME_BYTES)
    return [number for number, at in enumerate(starts, 1) if unpack_from(">I", wal, at + 4)[0]]


def test_wal_whole_is_counted_as_sqlite_does(disk: CrashDisk) -> None:
    """Every frame of an undamaged WAL verifies: our checksum is SQLite's."""
    wal = crashed_with(disk, 20)
    assert scan_wal(disk, WAL) == WalScan(frames=(len(wal) - HEADER_BYTES) // FRAME_BYTES, commits=20, torn=False)
    assert rows_after_recovery(disk) == 20


def test_wal_absent_or_without_frames_is_fine(disk: CrashDisk) -> None:
    """Nothing was ever committed: nothing to lose. A torn header of a first commit is no damage either."""
    assert scan_wal(disk, WAL) == WalScan()
    disk.put(WAL, b"")
    assert scan_wal(disk, WAL) == WalScan()
    disk.put(WAL, b"\0" * HEADER_BYTES)
    assert scan_wal(disk, WAL) == WalScan()


def test_wal_byte_flipped_in_the_middle_drops_commits_silently_but_not_from_us(disk: CrashDisk) -> None:
    """security.md 5: SQLite drops the rest and finds itself in order; the scan says damage."""
    wal = crashed_with(disk, 20)
    disk.flip(WAL, HEADER_BYTES + (commit_ends(wal)[8] - 1) * FRAME_BYTES + 2_000)
    with pytest.raises(StoreDamaged, match="later commits follow"):
        scan_wal(disk, WAL)
    assert rows_after_recovery(disk) == 8


def test_wal_tail_torn_anywhere_is_accepted(disk: CrashDisk) -> None:
    """The file may end at any byte inside the last commit; the commits before it are whole."""
    wal = crashed_with(disk, 5, size=9_000)
    start = HEADER_BYTES + commit_ends(wal)[3] * FRAME_BYTES
    chance = random.Random(2)
    for end in [start, start + 1, len(wal) - 1, *(chance.randrange(start, len(wal)) for _ in range(40))]:
        disk.put(WAL, wal[:end])
        assert scan_wal(disk, WAL).commits == 4


def test_wal_tail_with_any_sectors_missing_is_accepted(disk: CrashDisk) -> None:
    """Sectors of the last commit reach the disk in any order: whatever is missing, it is a torn tail."""
    wal = crashed_with(disk, 5, size=9_000)
    start = HEADER_BYTES + commit_ends(wal)[3] * FRAME_BYTES
    chance = random.Random(3)
    for _ in range(60):
        torn = bytearray(wal)
        for sector in range(start // 512, len(wal) // 512 + 1):
            if chance.random() < 0.3:
                lo, hi = max(start, sector * 512), min(len(wal), (sector + 1) * 512)
                torn[lo:hi] = bytes(hi - lo)
        disk.put(WAL, bytes(torn))
        assert scan_wal(disk, WAL).commits in (4, 5)


def test_wal_started_anew_over_old_frames_is_accepted(disk: CrashDisk) -> None:
    """Frames of an earlier use of the file have other salts; they may stand behind a whole or a torn commit."""
    connection = connect(disk)
    connection.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, v BLOB)")
    insert(connection, range(30))
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    insert(connection, range(30, 33))
    disk.crash()
    wal = disk.files()[WAL]
    scan = scan_wal(disk, WAL)
    assert (scan.commits, scan.torn) == (3, False)
    assert len(wal) > HEADER_BYTES + (scan.frames + 20) * FRAME_BYTES, "no old frames behind the new ones"
    disk.flip(WAL, HEADER_BYTES + scan.frames * FRAME_BYTES - 5)
    torn = scan_wal(disk, WAL)
    assert (torn.commits, torn.torn) == (2, True)
    assert rows_after_recovery(disk) == 32


def test_wal_header_damaged_before_frames_is_damage(disk: CrashDisk) -> None:
    """The header is synced before any frame: one that doesn't verify means that all commits would be dropped."""
    wal = crashed_with(disk, 3)
    for at in range(HEADER_BYTES):
        disk.put(WAL, wal)
        disk.flip(WAL, at, 0x10)
        with pytest.raises(StoreDamaged):
            scan_wal(disk, WAL)


@pytest.mark.parametrize("field", ["page number", "commit size", "salt", "checksum", "page"])
def test_wal_field_damaged_in_the_last_but_one_commit_is_damage(disk: CrashDisk, field: str) -> None:
    """Whichever part of a frame is hit, also the mark that says that it ends a commit, what follows gives it away."""
    wal = bytearray(crashed_with(disk, 4))
    at = HEADER_BYTES + (commit_ends(wal)[2] - 1) * FRAME_BYTES
    if field == "commit size":
        pack_into(">I", wal, at + 4, 0)
    else:
        wal[at + {"page number": 3, "salt": 9, "checksum": 20, "page": 999}[field]] ^= 1
    disk.put(WAL, bytes(wal))
    with pytest.raises(StoreDamaged):
        scan_wal(disk, WAL)


def test_wal_any_byte_flipped_loses_the_last_commit_at_most(disk: CrashDisk) -> None:
    """Whatever the scan lets pass, SQLite finds all commits, or all but the last one."""
    wal = crashed_with(disk, 6)
    files = disk.files()
    chance = random.Random(4)
    lost = 0
    for _ in range(150):
        for path, content in files.items():
            disk.put(path, content)
        frame = chance.randrange((len(wal) - HEADER_BYTES) // FRAME_BYTES)
        inside = chance.choice([chance.randrange(FRAME_HEAD_BYTES), chance.randrange(FRAME_BYTES)])
        disk.flip(WAL, HEADER_BYTES + frame * FRAME_BYTES + inside, chance.randrange(1, 256))
        try:
            scan_wal(disk, WAL)
        except StoreDamaged:
            continue
        rows = rows_after_recovery(disk)
        assert rows >= 5
        lost += rows == 5
    assert lost, "no flip hit the last commit"
