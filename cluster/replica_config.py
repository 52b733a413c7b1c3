"""The replica's parameters beside Raft's own (`raft/config.py`)."""

from dataclasses import dataclass

from keycluster.cluster.types import MILLISECOND, SECOND


class ReplicaConfigInvalid(ValueError):
    """Parameters that don't fit each other."""


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """Times in nanoseconds. `lease_ns` must be equal on all members of a region. r is the core's `drift_ppm`."""

    lease_ns: int = 1 * SECOND
    """L: how long a member may serve on one answer, and a dead one can hold a write back."""
    renew_ns: int = 250 * MILLISECOND
    """A new question is asked this often: L/4 survives two lost ones."""
    report_ns: int = 60 * MILLISECOND
    """An applied index that the leader hasn't settled is reported again this often, in case the report was lost."""
    tick_ns: int = 250 * MILLISECOND
    """The longest time between ticks: how soon a clock that has been set is noticed where nothing else happens."""

    def validate(self) -> None:
        """Raises `ReplicaConfigInvalid`."""
        if not 0 < self.renew_ns <= self.lease_ns // 2:
            raise ReplicaConfigInvalid("needs 0 < renew_ns <= lease_ns / 2")
        if not 0 < self.tick_ns <= self.lease_ns // 2:
            raise ReplicaConfigInvalid("needs 0 < tick_ns <= lease_ns / 2")
        if self.report_ns <= 0:
            raise ReplicaConfigInvalid("report_ns must be positive")
