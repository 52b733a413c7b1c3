"""The real clock, entropy and disk keep the promises of their seams."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from keycluster.cluster.seams import FolderInUse, WrapError, WrapKeyPair
from keycluster.node.world import RealClock, RealDisk, RealEntropy, real_world

INFO = b"region and node"


@pytest.fixture
def entropy() -> RealEntropy:
    return RealEntropy()


@pytest.fixture
def disk() -> RealDisk:
    return RealDisk()


def test_clock_counts_suspend() -> None:
    """The monotonic clock is CLOCK_BOOTTIME, in nanoseconds."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    now = RealClock().now()
    assert before <= now <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert abs(RealClock().wall() - time.time_ns()) < 1_000_000_000


def test_random_bytes_are_fresh_each_time(entropy: RealEntropy) -> None:
    """No two calls give the same, and jitter generators don't share a seed."""
    assert len({entropy.random_bytes(16) for _ in range(100)}) == 100
    assert entropy.jitter().random() != entropy.jitter().random()


def test_wrap_opens_for_its_key_and_info_alone(entropy: RealEntropy) -> None:
    """HPKE binds the wrap to one key pair and one info; every failure is the same error."""
    pair, other = entropy.new_wrap_key_pair(), entropy.new_wrap_key_pair()
    wrapped = entropy.wrap(b"domain key", to=pair.public, info=INFO)
    assert entropy.unwrap(wrapped, key_pair=pair, info=INFO) == b"domain key"
    altered = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    for attempt, key_pair, info in (
        (wrapped, other, INFO),
        (wrapped, pair, b"another info"),
        (altered, pair, INFO),
        (wrapped[:-1], pair, INFO),
        (b"", pair, INFO),
    ):
        with pytest.raises(WrapError, match="does not open"):
            entropy.unwrap(attempt, key_pair=key_pair, info=info)


@pytest.mark.parametrize("public", [b"", bytes(32), b"x" * 31, b"x" * 33])
def test_wrap_to_what_is_no_key_is_refused(entropy: RealEntropy, public: bytes) -> None:
    """A joiner's key of the wrong length, or of small order, is refused and not used."""
    with pytest.raises(WrapError):
        entropy.wrap(b"domain key", to=public, info=INFO)


def test_wrap_key_pair_hides_its_private_half(entropy: RealEntropy) -> None:
    """A `repr` in a log shows no key."""
    pair = entropy.new_wrap_key_pair()
    assert pair.private.hex() not in repr(pair)
    assert repr(pair.private) not in repr(pair)
    assert isinstance(pair, WrapKeyPair)


def test_replaced_file_is_whole_and_private(disk: RealDisk, tmp_path: Path) -> None:
    """The new content stands under the name, 0600, and nothing else is left in the folder."""
    path = tmp_path / "file"
    for content in (b"first", b"", b"third" * 10_000):
        disk.replace(path, content)
        assert disk.read(path) == content
        assert disk.size(path) == len(content)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert disk.list(tmp_path) == ["file"]


def test_replace_survives_the_remains_of_a_crash(disk: RealDisk, tmp_path: Path) -> None:
    """An unfinished file that a crash left behind doesn't stop the next one."""
    (tmp_path / "file.new").write_bytes(b"half")
    disk.replace(tmp_path / "file", b"whole")
    assert disk.read(tmp_path / "file") == b"whole"
    assert disk.list(tmp_path) == ["file"]


def test_replace_that_fails_keeps_the_old_file(disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the new content can't be synced the old one is still there, untouched."""
    path = tmp_path / "file"
    disk.replace(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        disk.replace(path, b"new")
    assert disk.read(path) == b"old"


def test_replace_syncs_file_before_name_and_folder_after(
    disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the name leads to the old content or to all of the new one."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    disk.replace(tmp_path / "file", b"content")
    assert steps == ["file", "rename", "folder"]


def test_parts_of_a_file(disk: RealDisk, tmp_path: Path) -> None:
    """Parts are written where they belong, offset 0 begins anew, and reads stop at the end."""
    path = tmp_path / "snapshot"
    disk.write_at(path, 0, b"0123456789")
    disk.write_at(path, 4, b"abcdefgh")
    assert disk.read_at(path, 2, 100) == b"23abcdefgh"
    assert disk.read_at(path, 3, 2) == b"3a"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    disk.write_at(path, 0, b"new")
    assert disk.read(path) == b"new"
    disk.rename(path, tmp_path / "other")
    assert disk.list(tmp_path) == ["other"]


def test_what_is_missing(disk: RealDisk, tmp_path: Path) -> None:
    """Absent files and folders are told as the seam says, and removing one is no error."""
    absent = tmp_path / "absent"
    assert disk.read(absent) is None
    assert disk.size(absent) == 0
    assert disk.list(absent) == []
    disk.remove(absent)


def test_folders_are_private(disk: RealDisk, tmp_path: Path) -> None:
    """Each folder that is made is 0700, parents too."""
    disk.make_folder(tmp_path / "a" / "b")
    disk.make_folder(tmp_path / "a" / "b")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_lock_is_for_one_at_a_time(disk: RealDisk, tmp_path: Path) -> None:
    """A second holder is refused until the first gives the lock back."""
    path = tmp_path / "lock"
    unlock = disk.lock(path)
    with pytest.raises(FolderInUse, match="in use by another"):
        disk.lock(path)
    unlock()
    disk.lock(path)()


def test_lock_given_back_is_free_whoever_was_forked_meanwhile(disk: RealDisk, tmp_path: Path) -> None:
    """A child between fork and exec holds all descriptors; the lock must not be its any more."""
    path = tmp_path / "lock"
    unlock = disk.lock(path)
    wait, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(release)
        os.read(wait, 1)
        os._exit(0)
    try:
        unlock()
        disk.lock(path)()
    finally:
        os.close(release)
        os.close(wait)
        os.waitpid(child, 0)


def test_lock_ends_with_its_process(disk: RealDisk, tmp_path: Path) -> None:
    """A process that is killed leaves nothing that stops the next one."""
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from keycluster.node.world import RealDisk\n"
        "unlock = RealDisk().lock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(FolderInUse):
            disk.lock(path)
    finally:
        child.kill()
        child.communicate()
    disk.lock(path)()


async def test_disk_work_is_never_abandoned(disk: RealDisk) -> None:
    """A cancelled caller waits for its blocking work: nothing writes behind the node's back."""
    finished = False

    def work() -> None:
        nonlocal finished
        time.sleep(0.05)
        finished = True

    with trio.move_on_after(0.001):
        await disk.run(work)
    assert finished
    assert disk.statistics().borrowed_tokens == 0


async def test_real_world_has_all_seams() -> None:
    """One call gives everything that a node is wired with."""
    world = real_world()
    assert world.disk.vfs is None
    assert len(world.entropy.random_bytes(3)) == 3
