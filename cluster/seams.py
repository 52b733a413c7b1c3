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

    def lock(self, path: Path) -> Callable[[], None]:
        """Takes the lock file for this process alone and returns what gives it back. Raises `FolderInUse`.

        The lock ends with the process, however that ends, so nothing is left that stops a restart.
        """
        ...


class FolderInUse(Exception):
    """Another process holds the lock of this folder."""


class ByteStream(Protocol):
    """An authenticated, encrypted stream of bytes; TLS is below it."""

    @property
    def peer_public_key(self) -> bytes | None:
        """The other side's public key (SubjectPublicKeyInfo, DER); None where clients show no certificate."""
        ...

    @property
    def peer_certificate(self) -> bytes | None:
        """The other side's certificate (DER); None where clients show none."""
        ...

    @property
    def peer_address(self) -> str:
        """Where the other side's packets come from, `host:port`: for counting refusals, never for trust."""
        ...

    async def send_all(self, content: bytes | bytearray | memoryview) -> None:
        """Returns once the system has taken all; waits (and lets others run) only while its buffer is full.

        One sender at a time. Cancelled midway it leaves the stream broken. Raises `trio.BrokenResourceError`.
        """
        ...

    async def receive_some(self, count_max: int) -> bytes:
        """At least a byte; empty at the end of the stream. Raises `trio.BrokenResourceError` when it broke.

        May bring several TLS records at once: all that one read of the socket brought, up to `count_max`.
        """
        ...

    async def aclose(self) -> None:
        """Closes at once; never waits for the other side. What was sent before still arrives."""
        ...


StreamHandler = Callable[[ByteStream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What one end of a TLS connection shows and proves: a certificate, those above it, and its private key."""

    certificate: bytes
    """X.509, DER."""
    private_key: bytes
    """PKCS #8, DER, in the clear: lives in memory only."""
    chain: tuple[bytes, ...] = ()
    """Certificates above it that are sent along, DER. The CA of the native port is: who joins knows its fingerprint."""

    def __repr__(self) -> str:
        return f"TlsIdentity(certificate of {len(self.certificate)} bytes)"


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """What strangers may take of a port before anybody knows who they are."""

    half_open_max: int = 64
    """Connections in a TLS handshake at once. One more ends the oldest of them: the quick are served under a flood."""
    connections_max: int = 4096
    """Connections at once, half-open ones included. One more is closed at accept."""
    handshake_seconds: float = 5.0


DEFAULT_LIMITS = ServeLimits()


class DialError(Exception):
    """No connection: nobody answers, or not who should. The text says which and carries no secret."""


class AddressReport(Protocol):
    """Told the address a server listens at once it does; trio's task status is one."""

    def started(self, value: str) -> None: ...


class _AddressNotReported:
    def started(self, value: str) -> None:
        pass


ADDRESS_NOT_REPORTED: AddressReport = _AddressNotReported()


class Network(Protocol):
    """Streams between processes. Addresses are `host:port` (`[host]:port` for IPv6).

    The `serve_…` functions run until cancelled. They report the address they listen at through `task_status` (port 0
    is replaced by the one taken) and call the handler in a task of its own for each connection, TLS handshake done.
    The stream is closed when the handler returns. A handler's `trio.BrokenResourceError` and `ClosedResourceError` end
    its connection; any other exception ends the server, since it can only be a fault of ours.
    """

    async def dial_peer(
        self, address: str, *, identity: TlsIdentity, peer_ca: bytes, expected_public_key: bytes
    ) -> ByteStream:
        """Connects to a node's peer port. Raises `DialError` if the other side isn't the holder of that very key.

        With TLS 1.3 the other side judges our certificate after this returned: a refusal shows at the first receive.
        """
        ...

    async def dial_native(self, address: str, *, client_ca: bytes | None) -> ByteStream:
        """Connects to a node's native port, showing no certificate. Raises `DialError`.

        With `client_ca` the server's certificate must be of that CA and name the address's host. With None nothing is
        checked: the caller judges `peer_certificate` before it trusts a byte (joining, by the CA's fingerprint).
        """
        ...

    async def serve_peers(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity,
        peer_ca: bytes,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        """TLS 1.3; a certificate of the peer CA is required. Whose key it is, the handler checks."""
        ...

    async def serve_native(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        """TLS 1.3; clients show no certificate and log in by themselves."""
        ...

    async def serve_plain(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity | None = None,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        """Without an identity no TLS, and then only at a loopback address: raises `ValueError` elsewhere."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """All seams of one node, handed down together from the function that wires it."""

    clock: Clock
    entropy: Entropy
    disk: Disk
    network: Network
