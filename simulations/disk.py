"""A disk that loses what wasn't synced: the simulation's `Disk`, with SQLite on top of it.

Files live in memory. Each keeps what is *durable* beside what readers see, and the writes since its last sync.
`crash` decides by the seed, file by file, what of those reached the disk: nothing, all, a beginning, or any of their
sectors of 512 bytes; a new file may be missing, a removed one may be back. A sector arrives whole or not at all, and
a write harms no byte outside itself: what SQLite calls powersafe overwrite, and what it assumes of real disks too.

SQLite runs on it through a VFS (`sqlite_vfs.py`).

What else can go wrong, each a switch: syncs that do nothing (`syncs_lie`), a full disk (`bytes_max`), bit rot (`flip`),
operations that stall (`stall`, `resume`), a crash in the midst of an operation (`crash_after`), errors of the device
(`fails`, `syncs_fail_next`).

A sync that fails leaves things as Linux does: what wasn't synced reached the disk or didn't, and counts as written from
then on, so that the next sync says yes and writes none of it. Readers see it, as with ext4, or what is on the disk.

A process gets the disk by `mount`: what one that was killed by a crash still wants of it fails.
"""

import errno
import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NoReturn, TypeVar

import trio

from keycluster.cluster.seams import FolderInUse
from keycluster.simulations.memory_file import MemoryFile, Truncate, Write, cut, put, sectors
from keycluster.simulations.sqlite_vfs import CrashVfs, seed_sqlite

_JULIAN_START_MS = 213_000_000_000_000  # Some day in 2037: SQLite wants a time, nothing of ours rests on it.
ROTTEN_BYTES = 1_024  # Of which one bit is wrong: most of a small database is zeros, which nobody reads.
_numbers = count(1)

T = TypeVar("T")


class DiskGone(OSError):
    """The machine of this disk has crashed: nothing works until it is started again."""


@dataclass(slots=True)
class DiskCounts:
    """What happened to a disk so far."""

    works: int = 0  # That `run` was asked for.
    writes: int = 0
    syncs: int = 0
    crashes: int = 0
    writes_lost: int = 0  # Not one sector of the write arrived.
    writes_torn: int = 0  # Some sectors did, some did not.
    files_lost: int = 0
    files_back: int = 0
    bytes_flipped: int = 0
    full: int = 0
    failed: int = 0  # Writes and syncs, by the device.
    stalls: int = 0

    @property
    def refused(self) -> int:
        return self.full + self.failed


class CrashDisk:
    """See the module's docstring. Close it: it holds registered VFSes, and a temporary folder till the process ends."""

    def __init__(self, seed: int) -> None:
        self.counts = DiskCounts()
        self.on_gone: Callable[[], None] = _nothing
        """Called when `crash_after` comes true, from within the operation."""
        self.on_rot: Callable[[], object] = _nothing
        """Called when `rots_next` has come true."""
        self.syncs_lie = False
        self.bytes_max: int | None = None
        self.fails = False  # Each write and sync.
        self.syncs_fail_next = 0
        self.on_failure: Callable[[Path | None], None] = _no_matter
        """Called with the file when a write or sync fails by the device, from within the operation."""
        self.rots_next: str | None = None  # A file's name: what is written to it next lies wrong, a bit here and there.
        self.delay_s = 0.0  # How long `run` takes on the simulation's clock, beside stalls.
        self.operations = 0  # Writes, syncs, truncations, removals and renames so far.
        self.epoch = 0
        self._random = random.Random(seed)
        self._files: dict[Path, MemoryFile] = {}
        self._durable_names: dict[Path, MemoryFile] = {}
        self._folders: set[Path] = set()
        self._locks: set[Path] = set()
        self._crash_at: int | None = None
        self._gone = False
        self._resumed: trio.Event | None = None
        memory = Path("/dev/shm")  # noqa: S108 (holds empty files and SQLite's shared memory, in a folder of our own)
        self._scratch = Path(tempfile.mkdtemp(prefix="keycluster-disk-", dir=memory if memory.is_dir() else None))
        self._remove_scratch = weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._anchors: dict[Path, Path] = {}
        self._vfses: list[CrashVfs] = []
        self._start()
        seed_sqlite(self._random)

    # The seam.

    @property
    def vfs(self) -> str | None:
        return self._vfses[-1].name

    async def run(self, work: Callable[[], T]) -> T:
        """Inline, so that the order of things is the scheduler's alone. Once begun it isn't abandoned, as a thread
        isn't: a caller that is cancelled while the disk is slow waits for it. Raises `DiskGone` if a crash comes first.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        epoch = self.epoch
        self.counts.works += 1
        with trio.CancelScope(shield=True):
            await trio.sleep(self.delay_s)
            while self._resumed is not None and self.epoch == epoch:
                self.counts.stalls += 1
                await self._resumed.wait()
        if self.epoch != epoch:
            raise DiskGone("the machine crashed meanwhile")
        return work()

    def read(self, path: Path) -> bytes | None:
        file = self._existing(path)
        return None if file is None else bytes(file.content)

    def replace(self, path: Path, content: bytes) -> None:
        unfinished = path.with_name(path.name + ".new")
        self.write_at(unfinished, 0, content)
        self.rename(unfinished, path)

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        file = self.open_file(path)
        if offset == 0 and file.content:
            self.truncate_file(file, 0)
        self.write_file(file, offset, content)
        if path.name == self.rots_next and content:
            self.rots_next = None
            self.on_rot()
            for start in range(0, len(content), ROTTEN_BYTES):
                place = start + self._random.randrange(min(ROTTEN_BYTES, len(content) - start))
                self.flip(path, offset + place, 1 << self._random.randrange(8))

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        file = self._existing(path)
        if file is None:
            raise FileNotFoundError(path)
        return bytes(file.content[offset : offset + count])

    def size(self, path: Path) -> int:
        file = self._existing(path)
        return 0 if file is None else len(file.content)

    def rename(self, old: Path, new: Path) -> None:
        file = self._existing(old)
        if file is None:
            raise FileNotFoundError(old)
        self.sync_file(file)
        self._step()
        self._files[new] = self._files.pop(old)
        if not self.syncs_lie:
            self._sync_folder(new.parent)
            self._sync_folder(old.parent)

    def remove(self, path: Path) -> None:
        self.remove_file(path, synced=True)

    def make_folder(self, path: Path) -> None:
        self._folders.update((path, *path.parents))

    def list(self, path: Path) -> list[str]:
        inside = [*self._files, *self._folders]
        return sorted({name.name for name in inside if name.parent == path and name != path})

    def lock(self, path: Path) -> Callable[[], None]:
        if path in self._locks:
            raise FolderInUse(f"{path.parent} is in use")
        self._locks.add(path)
        epoch = self.epoch

        def unlock() -> None:
            if epoch == self.epoch:
                self._locks.discard(path)

        return unlock

    def mount(self) -> "MountedDisk":
        """The disk for one process, until the next crash or `unmount`."""
        return MountedDisk(self)

    def unmount(self) -> None:
        """The process was killed: its open files are dead, what it wrote is still there."""
        self._locks.clear()
        self._crash_at = None
        self._gone = False
        self.epoch += 1
        self.resume()
        self._start()

    # Faults.

    def crash(self) -> None:
        """The machine stops and starts: what wasn't synced is kept, torn or lost by the seed; open files are dead."""
        self.counts.crashes += 1
        names = set(self._durable_names) | set(self._files)
        survivors = {path: file for path in sorted(names) if (file := self._survivor(path)) is not None}
        self._files = survivors
        self._durable_names = dict(survivors)
        self.unmount()

    @property
    def is_well(self) -> bool:
        """Whether it refuses nothing."""
        return self.bytes_max is None and not self.fails and not self.syncs_fail_next

    def crash_after(self, operations: int) -> None:
        """The next `operations` go well, then all fail, until `crash` is called. The last one may or may not count."""
        self._crash_at = self.operations + operations

    def spare(self) -> None:
        """Takes back `crash_after`, if it hasn't come true."""
        self._crash_at = None

    @property
    def is_gone(self) -> bool:
        """Whether `crash_after` has come true."""
        return self._gone

    def flip(self, path: Path, offset: int, mask: int = 0xFF) -> None:
        """Bit rot: changes one byte where it lies."""
        self.counts.bytes_flipped += 1
        file = self._files[path]
        file.content[offset] ^= mask
        if offset < len(file.durable):
            file.durable[offset] ^= mask

    def stall(self) -> None:
        """From now on `run` waits until `resume`."""
        if self._resumed is None:
            self._resumed = trio.Event()

    @property
    def is_stalled(self) -> bool:
        return self._resumed is not None

    def resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def bytes_used(self) -> int:
        """Of all files."""
        return sum(len(file.content) for file in self._files.values())

    def files(self) -> dict[Path, bytes]:
        """What readers would see now, by path."""
        return {path: bytes(file.content) for path, file in sorted(self._files.items())}

    def put(self, path: Path, content: bytes) -> None:
        """Puts a file there as if it had always been: a copy from elsewhere, or from an hour ago."""
        file = MemoryFile(bytearray(content), bytearray(content))
        self._files[path] = file
        self._durable_names[path] = file

    def fill(self, files: Mapping[Path, bytes]) -> None:
        """Puts these files there and no others; nobody may have the disk mounted."""
        self._files.clear()
        self._durable_names.clear()
        for path, content in files.items():
            self.put(path, content)

    def close(self) -> None:
        for vfs in self._vfses:
            vfs.unregister()
        self._remove_scratch()

    # What the VFS and the seam share.

    def open_file(self, path: Path) -> MemoryFile:
        """Made if it isn't there."""
        self._check()
        return self._files.setdefault(path, MemoryFile())

    def nameless_file(self) -> MemoryFile:
        """A temporary one: nobody finds it after a crash."""
        return MemoryFile()

    def exists(self, path: Path) -> bool:
        return path in self._files

    def write_file(self, file: MemoryFile, offset: int, content: bytes) -> None:
        self._step()
        self._fail_if_broken(file)
        self.counts.writes += 1
        grows = offset + len(content) - len(file.content)
        if self.bytes_max is not None and grows > 0 and self.bytes_used() + grows > self.bytes_max:
            self.counts.full += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(offset, bytes(content))

    def truncate_file(self, file: MemoryFile, size: int) -> None:
        self._step()
        self._fail_if_broken(file)
        file.truncate(size)

    def sync_file(self, file: MemoryFile) -> None:
        """A new file's folder is synced too, as SQLite and the seam do it."""
        try:
            self._step()
        except DiskGone:
            if self._random.random() < 0.5:  # It was done; only the answer never came.
                self._sync(file)
            raise
        if self.fails or self.syncs_fail_next:
            self.syncs_fail_next = max(0, self.syncs_fail_next - 1)
            self._lose_unsynced(file)
            self._fail(file)
        self.counts.syncs += 1
        if not self.syncs_lie:
            self._sync(file)

    def remove_file(self, path: Path, *, synced: bool) -> None:
        self._check()
        if path in self._files:
            self._step()
            self._fail_if_broken(self._files[path])
            del self._files[path]
        if synced and not self.syncs_lie:
            self._sync_folder(path.parent)

    def anchor(self, path: Path) -> Path:
        """The empty real file that stands for a database where SQLite's own VFS keeps locks and shared memory."""
        return self._anchors.setdefault(path, self._folder / f"{len(self._anchors)}.db")

    def random_bytes(self, number: int) -> bytes:
        return self._random.randbytes(number)

    def time_ms(self) -> int:
        return _JULIAN_START_MS + self.operations

    def _fail_if_broken(self, file: MemoryFile) -> None:
        if self.fails:
            self._fail(file)

    def _fail(self, file: MemoryFile) -> NoReturn:
        self.counts.failed += 1
        self.on_failure(next((path for path, present in self._files.items() if present is file), None))
        raise OSError(errno.EIO, "Input/output error")

    def _lose_unsynced(self, file: MemoryFile) -> None:
        """See the module's docstring."""
        file.durable = self._torn(file)
        file.unsynced.clear()
        if self._random.random() < 0.5:
            file.content[:] = file.durable

    def _sync(self, file: MemoryFile) -> None:
        file.sync()
        for path, present in list(self._files.items()):
            if present is file and self._durable_names.get(path) is not file:
                self._sync_folder(path.parent)

    def _sync_folder(self, folder: Path) -> None:
        """Names in it are durable, those of removed files gone for good; contents are as durable as they were."""
        for path in {path for path in (*self._durable_names, *self._files) if path.parent == folder}:
            if path in self._files:
                self._durable_names[path] = self._files[path]
            else:
                del self._durable_names[path]

    def _existing(self, path: Path) -> MemoryFile | None:
        self._check()
        return self._files.get(path)

    def _check(self) -> None:
        if self._gone:
            raise DiskGone("the disk is gone")

    def _step(self) -> None:
        self._check()
        self.operations += 1
        if self._crash_at is not None and self.operations > self._crash_at:
            self._gone = True
            self.on_gone()
            raise DiskGone("the disk is gone")

    def _start(self) -> None:
        self._anchors.clear()
        self._folder = self._scratch / str(self.epoch)
        self._folder.mkdir()
        self._vfses.append(CrashVfs(self, f"keycluster-crash-{next(_numbers)}"))

    def _survivor(self, path: Path) -> MemoryFile | None:
        """What a crash leaves under this name."""
        durable, present = self._durable_names.get(path), self._files.get(path)
        if present is None:  # Removed, and the removal not synced.
            if self._random.random() < 0.5:
                return None
            self.counts.files_back += 1
        elif durable is not present and self._random.random() < 0.5:  # New, and its name not synced.
            if durable is None:
                self.counts.files_lost += 1
            present = durable
        file = present or durable
        if file is None:
            return None
        content = self._torn(file)
        return MemoryFile(bytearray(content), content)

    def _torn(self, file: MemoryFile) -> bytearray:
        content = bytearray(file.durable)
        writes = file.unsynced
        way = self._random.choice(("nothing", "all", "beginning", "any"))
        kept = {"nothing": 0, "beginning": self._random.randint(0, len(writes))}.get(way, len(writes))
        for write in writes[:kept]:
            self._arrive(content, write, torn=way == "any")
        if kept and way == "beginning":  # The write that was under way.
            for write in writes[kept : kept + 1]:
                self._arrive(content, write, torn=True)
        self.counts.writes_lost += len(writes[kept:])
        return content

    def _arrive(self, content: bytearray, write: Write | Truncate, *, torn: bool) -> None:
        if isinstance(write, Truncate):
            if not torn or self._random.random() < 0.5:
                cut(content, write.size)
            return
        parts = list(sectors(write))
        arrived = [part for part in parts if not torn or self._random.random() < 0.5]
        self.counts.writes_lost += not arrived
        self.counts.writes_torn += 0 < len(arrived) < len(parts)
        for part in arrived:
            put(content, part.offset, part.content)


class MountedDisk:
    """The seam as one process has it. After a crash of the machine everything fails with `DiskGone`, since by then the
    files are another process's; only reads that SQLite is in the midst of go on (`sqlite_vfs.py`).
    """

    def __init__(self, disk: CrashDisk) -> None:
        self._disk = disk
        self._epoch = disk.epoch
        self.vfs = disk.vfs

    async def run(self, work: Callable[[], T]) -> T:
        return await self._live.run(work)

    def read(self, path: Path) -> bytes | None:
        return self._live.read(path)

    def replace(self, path: Path, content: bytes) -> None:
        self._live.replace(path, content)

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        self._live.write_at(path, offset, content)

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        return self._live.read_at(path, offset, count)

    def size(self, path: Path) -> int:
        return self._live.size(path)

    def rename(self, old: Path, new: Path) -> None:
        self._live.rename(old, new)

    def remove(self, path: Path) -> None:
        self._live.remove(path)

    def make_folder(self, path: Path) -> None:
        self._live.make_folder(path)

    def list(self, path: Path) -> list[str]:
        return self._live.list(path)

    def lock(self, path: Path) -> Callable[[], None]:
        return self._live.lock(path)

    @property
    def _live(self) -> CrashDisk:
        if self._disk.epoch != self._epoch:
            raise DiskGone("this machine has crashed")
        return self._disk


def _nothing() -> None:
    pass


def _no_matter(_path: Path | None) -> None:
    pass
