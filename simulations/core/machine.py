"""What one node runs on: a disk, a clock with a rate of its own, and a process that can stop and crash.

All instants of the world are real nanoseconds; `now` turns one into the machine's monotonic clock.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from keycluster.cluster.replica import Replica, ReplicaPersist
from keycluster.cluster.types import MILLISECOND, SECOND, ClusterTime, Instant, LogIndex, NodeId, Term, WallTime
from keycluster.simulations.core.door import Door
from keycluster.simulations.core.member import Disk, Member
from keycluster.simulations.faults import FaultKind

WALL_START = 1_800_000_000 * SECOND
PPM = 1_000_000
WRITE_NS = 1 * MILLISECOND  # What a write takes at most on a disk that is well, and so does applying.
ANY_LIFE = -1
NO_INDEX, NO_TERM, NO_TIME, NEVER = LogIndex(0), Term(0), ClusterTime(0), Instant(0)
NO_TICK = Instant(2**62)

Give = Callable[["Machine", Instant, Any, Any], None]
"""An input to a machine's process: (machine, its clock, two values that belong to the input)."""


class TrapKind(Enum):
    CRASH_AT_STEP = "crash at a step"
    CRASH_AT_WRITE = "crash at a write"
    PAUSE_BEFORE_OUTPUT = "pause before output"


@dataclass(slots=True, eq=False)
class Trap:
    """A fault that waits for a step of the machine, or for a write of its disk."""

    what: TrapKind
    steps_left: int
    rng: random.Random
    then: Callable[[], None]
    """Called when it has sprung."""

    def springs(self) -> bool:
        """Another step."""
        self.steps_left -= 1
        return self.steps_left < 0


@dataclass(slots=True, eq=False)
class Machine:
    """`member` is None while it is down."""

    node: NodeId
    disk: Disk
    clock_base: int
    clock_ppm: int
    az: str = ""
    wall_offset_ns: int = 0
    wall_offset_founded_ns: int = 0  # To which its wall clock is put right.
    member: Member | None = None
    life: int = 0  # Events of an earlier life are void.
    lease_until: Instant | None = None  # As last looked at.
    quorum_lease_until: Instant | None = None  # Likewise.
    commit_at_election: LogIndex = NO_INDEX  # What it knew to be committed when it last came to lead.
    is_rolled_back: bool = False  # `disk` is an old copy of what this machine had.
    greeted: dict[NodeId, int] = field(default_factory=dict)  # Whose hello this life has had, and of which life.

    paused: bool = False
    waiting: deque[tuple[Give, Any, Any]] = field(default_factory=deque)  # Inputs that came during a pause.
    trap: Trap | None = None
    drain_waits: bool = False  # The pause fell between an input and its outputs.
    tick_due: Instant = NO_TICK  # By its own clock, as its replica said after its newest input.
    wakes_at: Instant = NO_TICK  # By its own clock: when that is looked at.

    write_ns: int = WRITE_NS
    writing: list[ReplicaPersist] | None = None  # One synced write, perhaps of several outputs.
    to_write: list[ReplicaPersist] = field(default_factory=list)
    disk_stalls: bool = False
    write_waits: bool = False  # For the end of the stall.
    apply_ns: int = WRITE_NS
    apply_hangs: bool = False
    rots_next: Callable[[], None] | None = None  # The next snapshot that it stores is damaged; called then.
    applying: bool = False
    felt: Callable[[FaultKind], None] | None = None  # Told when its work waits because of a fault of this kind.

    door: Door | None = None  # Of this life, where callers come.

    # What checkers saw last, within this life.
    leads_in: Term | None = None
    serves: bool = False
    settled: LogIndex = NO_INDEX
    time: ClusterTime = NO_TIME
    stamped: ClusterTime = NO_TIME

    # Of leaders: over all of its lives.
    heard_at: Instant = NEVER  # When it was last started, or heard one, by its own clock.
    heard_term: Term = NO_TERM  # The newest term that this one may have had, or in which it led itself.
    gave_up_in: Term | None = None  # The newest term in which it told another one to take over.

    def now(self, t: int) -> Instant:
        if self.clock_ppm == 0:
            return Instant(self.clock_base + t)
        return Instant(self.clock_base + t * (PPM + self.clock_ppm) // PPM)

    def real(self, now: Instant) -> int:
        """The first real instant at which this machine's clock shows `now`."""
        if self.clock_ppm == 0:
            return now - self.clock_base
        return -((self.clock_base - now) * PPM // (PPM + self.clock_ppm))

    def set_rate(self, ppm: int, t: int) -> None:
        """Runs at another rate from real time `t` on; what it shows then stays."""
        shows = self.now(t)
        self.clock_ppm = ppm
        self.clock_base = shows - t * (PPM + ppm) // PPM

    def wall(self, t: int) -> WallTime:
        return WallTime(WALL_START + self.wall_offset_ns + t)

    @property
    def replica(self) -> Replica | None:
        """While its process gets to run."""
        return self.member.replica if self.member is not None and not self.paused else None

    @property
    def still_leads(self) -> bool:
        """In the same term as before its newest input."""
        core = None if self.member is None else self.member.core
        return core is not None and core.is_leader and core.term == self.leads_in

    def lose_memory(self) -> None:
        """What a crash does."""
        self.life += 1
        self.member = self.door = self.trap = None
        self.paused = self.applying = self.drain_waits = self.write_waits = False
        self.waiting.clear()
        self.greeted.clear()
        self.tick_due = self.wakes_at = NO_TICK
        self.writing = None
        self.to_write = []
        self.leads_in = None
        self.serves = False
        self.settled = NO_INDEX
        self.time = self.stamped = NO_TIME
