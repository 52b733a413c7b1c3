"""Where the world comes in: clock, entropy, disk and network, each through one seam (design.md, "Seams").

Code in `cluster/` and `node/` gets these handed down from the one function that wires a node and reads time, random
bytes, files and sockets nowhere else, so that a simulation can run the very same code. `node/world.py` holds the real
ones.

Pure modules (`raft/`, `keys/`, leases) don't even see the seams: they get values.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from keycluster.cluster.types import Instant, WallTime

T = TypeVar("T")


class Clock(Protocol):
    """Time as one node sees it. Waiting is trio's own (`trio.sleep`, deadlines): a simulation replaces trio's clock."""

    def now(self) -> Instant:
        """Nanoseconds on CLOCK_BOOTTIME. Counts suspend; leases and time-outs of consensus use it."""
        ...

    def wall(self) -> WallTime:
        """Nanoseconds since 1970 by this machine's clock: input to cluster time, never compared with another node's."""
        ...


@dataclass(frozen=True, slots=True)
class WrapKeyPair:
    """A key pair for receiving wrapped domain keys, encoded as the entropy seam's owner likes."""

    private: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"WrapKeyPair(public={self.public.hex()[:16]}…)"


class Entropy(Protocol):
    """Random bytes, and what `cryptography` draws by itself."""

    def random_bytes(self, count: int) -> bytes:
        """`count` bytes fit for keys, nonces and salts: from the system each time, never from a pool."""
        ...

    def jitter(self) -> random.Random:
        """A generator for election time-outs and back-off: never for anything secret."""
        ...

    def new_wrap_key_pair(self) -> WrapKeyPair:
        """A fresh key pair for `wrap`."""
        ...

    def wrap(self, plaintext: bytes, *, to: bytes, info: bytes) -> bytes:
        """HPKE base mode (RFC 9180) to the public key `to`. It proves no sender."""
        ...

    def unwrap(self, wrapped: bytes, *, key_pair: WrapKeyPair, info: bytes) -> bytes:
        """The plaintext. Raises `WrapError` whatever failed."""
        ...


class WrapError(Exception):
    """A wrap that doesn't open: another key, another info, or changed bytes. Which one is not told."""


class Disk(Protocol):
    """The node's folder. Blocking methods are called inside `run`, or inline where they are known to be quick."""

    @property
    def vfs(self) -> str | None:
        """The SQLite VFS to open databases with; None is SQLite's default."""
        ...

    async def run(self, work: Callable[[], T]) -> T:
        """Runs blocking `work` off the event loop, in order of no other call. Never abandoned."""
        ...

    def read(self, path: Path) -> bytes | None:
        """The whole file, None if there is none."""
        ...

    def replace(self, path: Path, content: bytes) -> None:
        """Writes, syncs, renames and syncs the folder: afterwards the file is whole and durable. Mode 0600."""
        ...

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        """Writes a part of a file (made if absent, 0600), unsynced. Cut off what stood behind it with offset 0."""
        ...

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        """Up to `count` bytes."""
        ...

    def size(self, path: Path) -> int:
        """In bytes; 0 if there is no such file."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Syncs the file, renames it over `new` and syncs the folder."""
        ...

    def remove(self, path: Path) -> None:
        """Removes the file if it is there."""
        ...

    def make_folder(self, path: Path) -> None:
        """With its parents, mode 0700."""
        ...

    def list(self, path: Path) -> list[str]:
        """Names in a folder, sorted; empty if there is none."""
        ...


class ByteStream(Protocol):
    """An authenticated, encrypted stream of bytes; TLS is below it."""

    @property
    def peer_public_key(self) -> bytes | None:
        """The other side's public key (SubjectPublicKeyInfo, DER); None where clients show no certificate."""
        ...

    async def send_all(self, content: bytes | bytearray | memoryview) -> None: ...

    async def receive_some(self, count_max: int) -> bytes:
        """At least a byte; empty at the end of the stream. Raises `trio.BrokenResourceError` when it broke."""
        ...

    async def aclose(self) -> None: ...


StreamHandler = Callable[[ByteStream], Awaitable[None]]
