"""SQLite on the simulated disk: an apsw VFS over `CrashDisk`.

Randomness and time come from the disk's seed. SQLite's generator, which also draws a WAL's salts, is one for the
whole process, so each new disk seeds it anew. Only shared memory and locks of a database come from SQLite's own VFS,
on an empty file in a memory-backed folder, one folder between two crashes: so the connections of a node that crashed
can't touch what the restarted one sees. What they still do goes nowhere.
"""

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

if TYPE_CHECKING:  # They know each other: a disk has a VFS at each start of its machine.
    from keycluster.simulations.disk import CrashDisk
    from keycluster.simulations.memory_file import MemoryFile

SECTOR_BYTES = 512


class CrashVfs(apsw.VFS):
    """Gives SQLite the disk's files; inherits only what shared memory needs. Each start of the machine has its own."""

    def __init__(self, disk: "CrashDisk", name: str) -> None:
        self._disk = disk
        self._epoch = disk.epoch
        self.name = name
        super().__init__(name, base="")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = None if name is None else Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        if self._epoch != self._disk.epoch:
            raise apsw.CantOpenError("this machine has crashed")
        try:
            if path is not None and not flags[0] & apsw.SQLITE_OPEN_CREATE and not self._disk.exists(path):
                raise apsw.CantOpenError(f"no file {path}")
            file = self._disk.nameless_file() if path is None else self._disk.open_file(path)
        except OSError as error:
            raise _sqlite_error(error) from error
        flags[1] = flags[0]
        if path is not None and flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return _DatabaseFile(self._disk, file, path, flags)
        return _PlainFile(self._disk, file)  # type: ignore[return-value]  # Has all methods that SQLite asks for.

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        if self._epoch != self._disk.epoch or self._disk.is_gone:
            return  # A dead node's connection tidies up: its WAL is another one's now.
        try:
            self._disk.remove_file(Path(filename), synced=syncdir)
        except OSError as error:
            raise _sqlite_error(error) from error

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return self._disk.exists(Path(pathname))

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802
        return self._disk.random_bytes(numbytes)

    def xCurrentTimeInt64(self) -> int:  # noqa: N802
        return self._disk.time_ms()

    def xSleep(self, microseconds: int) -> int:  # noqa: N802
        return microseconds


class _Seed(apsw.VFS):
    """SQLite's own VFS, but for the bytes that its random generator starts from: it asks the default VFS for them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        super().__init__("keycluster-seed", base="", makedefault=True)

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802
        return self._chance.randbytes(numbytes)


def seed_sqlite(chance: random.Random) -> None:
    apsw.Connection(":memory:").close()  # A process's first connection draws some bytes of its own.
    vfs = _Seed(chance)
    apsw.randomness(0)  # Forgets its state …
    apsw.randomness(1)  # … and starts from new bytes.
    vfs.unregister()


class _Operations:
    """Reads and writes of one open file. After a crash they go nowhere: the handle's machine is no more.

    They don't fail either, since nobody is left to take an error: connections of a dead node are closed by the garbage
    collector, at any time, so what they do must not even draw a random number. Between `crash_after` coming true and
    `crash`, writes and syncs fail and reads go on: they acknowledge nothing, and apsw can't take an error in each place
    where SQLite reads (a copy's end).
    """

    def __init__(self, disk: "CrashDisk", file: "MemoryFile") -> None:
        self._disk = disk
        self._file = file
        self._epoch = disk.epoch

    def read(self, amount: int, offset: int) -> bytes:
        return bytes(self._file.content[offset : offset + amount])

    def write(self, content: bytes, offset: int) -> None:
        if self._epoch == self._disk.epoch:
            self._try(lambda: self._disk.write_file(self._file, offset, content))

    def truncate(self, size: int) -> None:
        if self._epoch == self._disk.epoch:
            self._try(lambda: self._disk.truncate_file(self._file, size))

    def sync(self) -> None:
        if self._epoch == self._disk.epoch:
            self._try(lambda: self._disk.sync_file(self._file))

    def size(self) -> int:
        return len(self._file.content)

    def _try(self, operation: Callable[[], None]) -> None:
        try:
            operation()
        except OSError as error:
            raise _sqlite_error(error) from error


class _PlainFile:
    """A WAL, a journal or a temporary file."""

    def __init__(self, disk: "CrashDisk", file: "MemoryFile") -> None:
        self._operations = _Operations(disk, file)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return self._operations.read(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._operations.write(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._operations.truncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._operations.sync()

    def xFileSize(self) -> int:  # noqa: N802
        return self._operations.size()

    def xClose(self) -> None:  # noqa: N802
        """Temporary files have no name, so nothing is left of them."""

    def xLock(self, level: int) -> None:  # noqa: N802
        """Nobody else has it."""

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """See `xLock`."""

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


class _DatabaseFile(apsw.VFSFile):
    """A database: its content is the disk's, its locks and shared memory are SQLite's own on the empty anchor file."""

    def __init__(self, disk: "CrashDisk", file: "MemoryFile", path: Path, flags: list[int]) -> None:
        self._operations = _Operations(disk, file)
        anchored = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, 0]
        super().__init__("", str(disk.anchor(path)), anchored)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return self._operations.read(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._operations.write(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._operations.truncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._operations.sync()

    def xFileSize(self) -> int:  # noqa: N802
        return self._operations.size()

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


def _sqlite_error(error: OSError) -> apsw.Error:
    return apsw.FullError(str(error)) if error.errno == errno.ENOSPC else apsw.IOError(str(error))
