"""The core's parameters, times in nanoseconds. Equal on all members of a region: leases rest on `election_ns`."""

from dataclasses import dataclass
from typing import Protocol

from keycluster.cluster.types import MILLISECOND, SECOND

PPM = 1_000_000


class Jitter(Protocol):
    """Chance, handed in: a `random.Random` will do. For time-outs and numbers of reads, nothing secret."""

    def random(self) -> float: ...

    def getrandbits(self, count: int, /) -> int: ...


class RaftConfigInvalid(ValueError):
    """Parameters that don't fit each other."""


@dataclass(frozen=True, slots=True)
class RaftConfig:
    election_ns: int = 300 * MILLISECOND
    """E: how long a voter sticks to a leader it heard from, and the shortest election time-out (random up to 2E)."""
    heartbeat_ns: int = 60 * MILLISECOND
    drift_ppm: int = 1_000
    """r: how far each clock's rate may be off."""
    disk_stall_ns: int = 2 * SECOND
    """A member with a write outstanding for longer gives leadership away and doesn't campaign."""
    snapshot_retry_ns: int = 1 * SECOND
    """After this long without an answer a snapshot is asked for, or a chunk sent, again."""

    append_bytes_max: int = 1 << 20
    """Entries of one message. A single larger entry goes alone."""
    inflight_messages_max: int = 128
    inflight_bytes_max: int = 8 << 20
    """Sent to one member and not yet acknowledged."""
    uncommitted_bytes_max: int = 32 << 20
    """Above this the leader takes no proposals; inherited entries count."""
    apply_bytes_max: int = 4 << 20
    """Handed out to apply and not yet applied."""
    tail_bytes_max: int = 16 << 20
    """Entries kept in memory after they are durable and committed, until they are applied."""
    snapshot_chunk_bytes: int = 256 << 10
    reads_pending_max: int = 10_000
    """Further ones fail at once."""

    @property
    def lease_ns(self) -> int:
        """How long after a round was sent no other leader can exist: E·(1-r)/(1+r)."""
        return self.election_ns * (PPM - self.drift_ppm) // (PPM + self.drift_ppm)

    @property
    def patience_ns(self) -> int:
        """A leader without a quorum steps down, and an unconfirmed read fails, after this: the longest time-out."""
        return 2 * self.election_ns

    def validate(self) -> None:
        """Raises `RaftConfigInvalid`."""
        positive = (
            "heartbeat_ns append_bytes_max inflight_messages_max inflight_bytes_max uncommitted_bytes_max "
            "apply_bytes_max tail_bytes_max snapshot_chunk_bytes snapshot_retry_ns reads_pending_max"
        )
        for name in positive.split():
            if getattr(self, name) <= 0:
                raise RaftConfigInvalid(f"{name} must be positive")
        if not 0 <= self.drift_ppm < PPM // 10:
            raise RaftConfigInvalid("drift_ppm must be between 0 and 100,000")
        if self.election_ns < 3 * self.heartbeat_ns:
            # One lost heartbeat must not start an election.
            raise RaftConfigInvalid("election_ns must be at least three times heartbeat_ns")
        if self.disk_stall_ns <= self.election_ns:
            raise RaftConfigInvalid("disk_stall_ns must be longer than election_ns")
