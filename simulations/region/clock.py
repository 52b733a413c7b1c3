"""A machine's clocks, as one node sees them: a rate of their own, and a wall clock that may be wrong.

Only what is read here drifts. What tasks wait for (`trio.sleep`, deadlines) goes by the run's one virtual time: within
the bound on drift (0.1 %) a timer that is a little late or early shows nothing that its own jitter doesn't.
"""

from keycluster.cluster.invariant import require
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.types import SECOND, Instant, WallTime
from keycluster.simulations.region.wire import Wire

PPM = 1_000_000

DRIFT_PPM_MAX = RaftConfig().drift_ppm
"""What the product allows for, each clock against true time."""

WALL_EPOCH_NS = 1_800_000_000 * SECOND
"""What a right wall clock says when the run begins: a day in January 2027."""


class SimClock:
    """The seam's `Clock`. Belongs to a machine: it goes on when the process on it ends.

    `ppm` is how much faster than true time it runs, within the product's bound either way. `base_ns` is what `now` says
    at the beginning: machines have been up for different times.
    """

    def __init__(self, wire: Wire, *, base_ns: int, ppm: int = 0, wall_offset_ns: int = 0) -> None:
        self._wire = wire
        self._since_ns = wire.now_ns
        self._now_then_ns = base_ns
        self._ppm = 0
        self.usual_ppm = ppm
        """The rate that it has when nothing is done to it."""
        self._wall_minus_now_ns = WALL_EPOCH_NS + wire.now_ns + wall_offset_ns - base_ns  # But for leaps.
        self.set_rate(ppm)

    @property
    def ppm(self) -> int:
        return self._ppm

    @property
    def wall_error_ns(self) -> int:
        """How far the wall clock is ahead of what right ones say."""
        return self.wall() - (WALL_EPOCH_NS + self._wire.now_ns + self._wire.leapt_ns)

    def now(self) -> Instant:
        passed = self._wire.now_ns - self._since_ns
        return Instant(self._now_then_ns + passed + passed * self._ppm // PPM)

    def wall(self) -> WallTime:
        return WallTime(self.now() + self._wall_minus_now_ns + self._wire.leapt_ns)

    def set_rate(self, ppm: int) -> None:
        """From now on; what `now` says goes on from where it is."""
        require(abs(ppm) <= DRIFT_PPM_MAX, f"a clock that drifts by {ppm} ppm is outside of what the product promises")
        self._now_then_ns = self.now()
        self._since_ns = self._wire.now_ns
        self._ppm = ppm

    def jump_wall(self, by_ns: int) -> None:
        """The wall clock is set to another time; `now` isn't touched by that."""
        self._wall_minus_now_ns += by_ns
