"""The real world behind the seams: this machine's clocks, random bytes, files and sockets.

Invariant: nothing else that runs in a simulation reads any of them (cluster/seams.py says what each seam promises).
Three modules of what comes before a node do: `config.py` reads its configuration, `seal_source.py` a passphrase's pipe
or terminal, `hardening.py` what the kernel says about the process. The network has a module of its own: `network.py`.
"""

import fcntl
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from keycluster.cluster.seams import FolderInUse, World, WrapError, WrapKeyPair
from keycluster.cluster.types import Instant, WallTime
from keycluster.node.network import RealNetwork

T = TypeVar("T")

DISK_THREADS_MAX = 8
"""Blocking disk work at once: log writer, state writer, snapshot, and room for small files. Never shared with
cryptography, so that a hanging disk takes no thread from anybody else."""

FILE_MODE = 0o600
FOLDER_MODE = 0o700

WRAP_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
"""RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 0x0001, AES-256-GCM 0x0002. A wrap is the
encapsulated key (32 bytes) ‖ ciphertext ‖ tag (16 bytes); the key schedule binds `info`, the AAD is empty."""


class RealClock:
    """CLOCK_BOOTTIME, which goes on while the machine sleeps (CLOCK_MONOTONIC doesn't), and the wall clock."""

    def now(self) -> Instant:
        return Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def wall(self) -> WallTime:
        return WallTime(time.time_ns())


class RealEntropy:
    """The kernel's generator, asked each time, so that a cloned or forked process can't repeat; HPKE."""

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def jitter(self) -> random.Random:
        return random.Random(os.urandom(16))  # noqa: S311 (by contract never for anything secret)

    def new_wrap_key_pair(self) -> WrapKeyPair:
        key = X25519PrivateKey.generate()
        return WrapKeyPair(private=key.private_bytes_raw(), public=key.public_key().public_bytes_raw())

    def wrap(self, plaintext: bytes, *, to: bytes, info: bytes) -> bytes:
        try:
            public_key = X25519PublicKey.from_public_bytes(to)
            return WRAP_SUITE.encrypt(plaintext, public_key, info)
        except ValueError:  # Wrong length, or a point of small order.
            raise WrapError("this is no public key to wrap to") from None

    def unwrap(self, wrapped: bytes, *, key_pair: WrapKeyPair, info: bytes) -> bytes:
        private_key = X25519PrivateKey.from_private_bytes(key_pair.private)
        try:
            return WRAP_SUITE.decrypt(wrapped, private_key, info)
        except (InvalidTag, ValueError):
            raise WrapError("the wrapped key does not open") from None


class RealDisk:
    """Files under the node's folders, 0600 in folders of 0700, each change durable when the call returns."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(DISK_THREADS_MAX)

    @property
    def vfs(self) -> str | None:
        return None

    async def run(self, work: Callable[[], T]) -> T:
        # Not abandoned on cancel: a write that goes on behind our back could meet the next one.
        return await trio.to_thread.run_sync(work, abandon_on_cancel=False, limiter=self._limiter)

    def statistics(self) -> trio.CapacityLimiterStatistics:
        """How many threads are busy and how many calls wait for one."""
        return self._limiter.statistics()

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, path: Path, content: bytes) -> None:
        unfinished = path.with_name(path.name + ".new")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        unfinished.rename(path)
        _sync_folder(path.parent)

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        truncate = os.O_TRUNC if offset == 0 else 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | truncate, FILE_MODE)
        try:
            os.lseek(descriptor, offset, os.SEEK_SET)
            _write_all(descriptor, content)
        finally:
            os.close(descriptor)

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(count)

    def size(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def rename(self, old: Path, new: Path) -> None:
        descriptor = os.open(old, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        old.rename(new)
        _sync_folder(new.parent)
        if old.parent != new.parent:
            _sync_folder(old.parent)

    def remove(self, path: Path) -> None:
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync_folder(path.parent)

    def make_folder(self, path: Path) -> None:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            _sync_folder(folder.parent)

    def list(self, path: Path) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def lock(self, path: Path) -> Callable[[], None]:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FolderInUse(f"{path.parent} is in use by another keycluster process") from None

        def unlock() -> None:
            # Closing is not enough: a child that another thread has just forked holds the descriptor, and with it the
            # lock, until its exec.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

        return unlock


def real_world() -> World:
    """All real seams. Called once, by the function that wires a node or a command."""
    return World(clock=RealClock(), entropy=RealEntropy(), disk=RealDisk(), network=RealNetwork())


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    """A rename or a new name is durable only once its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
