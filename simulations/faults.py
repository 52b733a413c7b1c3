"""One language for what goes wrong, spoken by both simulators and by the nemesis of real processes.

A *schedule* is a list of faults, drawn from a seed before the run begins: each has its time, its kind, for how long it
lasts and how strong it is. Whom it hits is decided when it happens, by the fault's own random numbers, so that leaving
out one fault changes the draws of no other: a schedule can be shrunk.

Swarm testing (Groce et al., ISSTA 2012): each seed leaves some kinds out and draws a rate of its own for each of the
others, since a fault that is always there hides what only happens without it.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import msgspec

from keycluster.cluster.types import MILLISECOND, SECOND

PPM = 1_000_000


class FaultKind(StrEnum):
    """What can happen. Which of these a simulator can do, it says itself."""

    LOSS = "loss"  # A part of the messages on every link is lost.
    DELAY = "delay"  # Some messages take far longer than others.
    DUPLICATE = "duplicate"
    REORDER = "reorder"  # Messages overtake each other.
    RESET = "reset"  # Connections break.
    PARTITION = "partition"  # The members fall into two sides.
    ONE_WAY = "one-way"  # Nothing gets from one side to the other, the way back works.
    PARTIAL = "partial"  # Some links between some members are cut, in some directions.
    CLOG = "clog"  # Swizzled: links stop one by one and go on in another order; what was sent meanwhile arrives then.
    LAG = "lag"  # One member hears of nothing, and a client asks it for what it misses.
    AZ_LOSS = "az-loss"  # All nodes of an AZ crash or are cut off together.
    CRASH = "crash"  # Memory and unsynced writes are lost; starts again later.
    CRASH_AT_STEP = "crash-at-step"  # At a chosen await of a node's tasks.
    CRASH_AT_WRITE = "crash-at-write"  # At a chosen operation of its disk, which may be done or not, or torn.
    CRASH_ALL = "crash-all"  # A power cut of the whole region.
    RESTART = "restart"  # Told to stop, as by SIGTERM, and started again.
    PAUSE = "pause"  # SIGSTOP, past the end of leases, then SIGCONT.
    PAUSE_BEFORE_OUTPUT = "pause-before-output"  # Between an input and what it leads to.
    CLIENT_CRASH = "client-crash"  # A program that uses the region is killed, with calls under way; another one begins.
    CLIENT_PAUSE = "client-pause"
    DRIFT = "drift"  # Machines' clocks run at different rates, within the bound.
    WALL_JUMP = "wall-jump"  # The wall clock of a machine jumps.
    WALL_LEAP = "wall-leap"  # The wall clocks of all machines leap together, by minutes to an hour.
    DISK_SLOW = "disk-slow"
    DISK_STALL = "disk-stall"  # It answers nothing for a while.
    APPLY_HANG = "apply-hang"  # A member's apply makes no progress, though all else of it runs.
    BIT_ROT = "bit-rot"  # A bit of a file or of a snapshot flips, or a leader's state loses a row without a trace.
    DISK_FULL = "disk-full"
    DISK_ERROR = "disk-error"  # It refuses a sync, or all writes and syncs for a while.
    ROLLED_BACK = "rolled-back"  # A node starts on an old copy of its disk.
    COMPACT = "compact"  # The log is cut so far that members that lag need a snapshot.
    ADD_VOTER = "add-voter"
    ADD_LEARNER = "add-learner"
    CHANGE_ROLE = "change-role"
    REMOVE = "remove"
    REPLACE = "replace"  # Some members or all, at once, whoever is down.
    TRANSFER = "transfer"  # Of leadership.
    SEALED_RESTART = "sealed-restart"  # The seal can't be opened for a while: the node stays down.
    UPGRADE = "upgrade"  # A rolling restart into another version of the protocol.


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. Times in nanoseconds from the run's beginning."""

    number: int
    """Names it within its schedule, also when others are left out."""
    at_ns: int
    kind: FaultKind
    for_ns: int
    """How long it lasts, where that means something."""
    strength: float
    """From 0 to 1: a chance, a part, a severity, as the kind has it."""
    seed: int
    """Of the fault's own draws: whom it hits, where."""

    def rng(self) -> random.Random:
        """The same numbers each time."""
        return random.Random(self.seed)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kind": self.kind.value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises `ValueError` for what isn't one."""
        return msgspec.convert(value, cls)


class Effective:
    """The faults of a run that had an effect: each counts once, however often it had one, and not before it had."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """By kind."""
        self._numbers: set[int] = set()

    def add(self, fault: Fault) -> None:
        if fault.number not in self._numbers:
            self._numbers.add(fault.number)
            self.counts[fault.kind.value] += 1


class DiskEffect(StrEnum):
    """What became of writes: of several faults, so they are counted beside them, by write."""

    LOST = "writes-lost"  # At a crash or by a failed sync: nothing of it is on the disk.
    TORN = "writes-torn"  # Likewise: some sectors of it are.
    REFUSED = "writes-refused"  # The disk was full, or said no.


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kind is drawn: how long it lasts, and how much rarer than others it is."""

    shortest_ns: int
    longest_ns: int
    weight: float = 1.0


_BRIEF = Shape(20 * MILLISECOND, 400 * MILLISECOND)
_LEASE_LONG = Shape(20 * MILLISECOND, 2_200 * MILLISECOND)  # Some end before a lease would, some long after.
_LONG = Shape(300 * MILLISECOND, 4 * SECOND)

SHAPES: dict[FaultKind, Shape] = {
    FaultKind.LOSS: _LONG,
    FaultKind.DELAY: _LONG,
    FaultKind.DUPLICATE: _LONG,
    FaultKind.REORDER: _LONG,
    FaultKind.RESET: _BRIEF,
    FaultKind.PARTITION: _LEASE_LONG,
    FaultKind.ONE_WAY: _LEASE_LONG,
    FaultKind.PARTIAL: _LEASE_LONG,
    FaultKind.CLOG: _LEASE_LONG,
    FaultKind.LAG: Shape(200 * MILLISECOND, 2 * SECOND),
    FaultKind.AZ_LOSS: Shape(300 * MILLISECOND, 4 * SECOND, 0.3),
    FaultKind.CRASH: Shape(5 * MILLISECOND, 1_500 * MILLISECOND),
    FaultKind.CRASH_AT_STEP: Shape(5 * MILLISECOND, 1_500 * MILLISECOND),
    FaultKind.CRASH_AT_WRITE: Shape(5 * MILLISECOND, 1_500 * MILLISECOND),
    FaultKind.CRASH_ALL: Shape(5 * MILLISECOND, 1_500 * MILLISECOND, 0.15),
    FaultKind.RESTART: Shape(5 * MILLISECOND, 600 * MILLISECOND),
    FaultKind.PAUSE: Shape(10 * MILLISECOND, 2_000 * MILLISECOND),
    FaultKind.PAUSE_BEFORE_OUTPUT: Shape(10 * MILLISECOND, 1_600 * MILLISECOND),
    FaultKind.CLIENT_CRASH: Shape(0, 0, 0.5),
    FaultKind.CLIENT_PAUSE: Shape(10 * MILLISECOND, 4 * SECOND, 0.5),
    FaultKind.DRIFT: Shape(1 * SECOND, 10 * SECOND, 0.5),
    FaultKind.WALL_JUMP: Shape(500 * MILLISECOND, 8 * SECOND, 0.5),
    FaultKind.WALL_LEAP: Shape(500 * MILLISECOND, 8 * SECOND),
    FaultKind.DISK_SLOW: _LONG,
    FaultKind.DISK_STALL: _LEASE_LONG,
    FaultKind.APPLY_HANG: Shape(50 * MILLISECOND, 3 * SECOND),
    FaultKind.BIT_ROT: Shape(5 * MILLISECOND, 1_500 * MILLISECOND, 0.2),
    FaultKind.DISK_FULL: Shape(100 * MILLISECOND, 2 * SECOND, 0.3),
    FaultKind.DISK_ERROR: Shape(20 * MILLISECOND, 2 * SECOND, 0.3),
    FaultKind.ROLLED_BACK: Shape(5 * MILLISECOND, 1_500 * MILLISECOND, 0.15),
    FaultKind.COMPACT: Shape(0, 0),
    FaultKind.ADD_VOTER: Shape(0, 0, 0.5),
    FaultKind.ADD_LEARNER: Shape(0, 0, 0.5),
    FaultKind.CHANGE_ROLE: Shape(0, 0, 0.5),
    FaultKind.REMOVE: Shape(0, 0, 0.5),
    FaultKind.REPLACE: Shape(0, 0, 0.2),
    FaultKind.TRANSFER: Shape(0, 0),
    FaultKind.SEALED_RESTART: Shape(100 * MILLISECOND, 2 * SECOND, 0.3),
    FaultKind.UPGRADE: Shape(100 * MILLISECOND, 1 * SECOND, 0.1),
}

GAP_MS_MEANS = (80, 200, 300, 400, 600, 1_200)
"""Between two faults: a seed draws one, so that a few runs are storms, and in most of them work is done meanwhile."""

DURATION_SCALES = (1, 1, 1, 6)
"""How long all faults of a seed last, against their shapes: with 6, members are gone for longer than streams, leases or
logs wait for them. Between faults there is only half of that more time, so members are gone more often too."""

CALM_CHANCE = 0.6  # That a seed has calm windows, in which no fault begins.
STORM_NS = (2 * SECOND, 8 * SECOND)
CALM_NS = (2 * SECOND, 6 * SECOND)
NODES_USUAL = 3  # With more there is more time between faults, in proportion.

MINUTE = 60 * SECOND
LEAPS_NS = (
    (1 * MINUTE, 9 * MINUTE),
    (11 * MINUTE, 59 * MINUTE),
    (11 * MINUTE, 59 * MINUTE),
    (60 * MINUTE, 65 * MINUTE),
)
"""From and to, one is drawn: less and more than request ids are remembered for (10 minutes of running time), and enough
to hold destruction (an hour)."""
LEAPT_NS_MAX = 10 * 3_600 * SECOND
"""What all leaps of a run may come to, either way: less than a day in all, so that nothing comes due that waits for
days."""
LEAP_BACK_CHANCE = 0.2
TAKEN_BACK_CHANCE = 0.25  # That a leap was a time server's error, which is put right when the fault is over.

KIND_CHANCE = 0.5  # That a seed has a kind at all.
KIND_RATES = (0.2, 1.0, 1.0, 5.0)  # How often, against the other kinds of the same seed.


def draw_schedule(
    seed: int, *, time_ns: int, kinds: Iterable[FaultKind], nodes: int = NODES_USUAL, gap_scale: float = 1.0
) -> tuple[Fault, ...]:
    """The faults of a seed within `time_ns`, in order of time, for a region of so many nodes.

    `gap_scale` stretches the time between faults: a simulator of whole nodes has fewer to each simulated second.
    """
    rng = random.Random(f"schedule/{seed}")
    supported = sorted(kinds)
    if not supported:
        return ()
    chosen = [kind for kind in supported if rng.random() < KIND_CHANCE] or [rng.choice(supported)]
    weights = [rng.choice(KIND_RATES) * SHAPES[kind].weight for kind in chosen]
    gap_ns = rng.choice(GAP_MS_MEANS) * MILLISECOND * gap_scale * max(1.0, nodes / NODES_USUAL)
    scale = rng.choice(DURATION_SCALES)
    times = _times(random.Random(f"times/{seed}"), time_ns=time_ns, gap_ns=gap_ns * max(1.0, scale / 2))
    return tuple(_draw(rng, times=times, kinds=chosen, weights=weights, duration_scale=scale))


def _times(rng: random.Random, *, time_ns: int, gap_ns: float) -> Iterable[int]:
    """When faults begin: at random, and in some seeds not in calm windows."""
    has_calm = rng.random() < CALM_CHANCE
    at, storm_ends = int(rng.expovariate(1 / gap_ns)), rng.randint(*STORM_NS)
    while True:
        if has_calm and at >= storm_ends:
            at += rng.randint(*CALM_NS)
            storm_ends = at + rng.randint(*STORM_NS)
        if at >= time_ns:
            return
        yield at
        at += 1 + int(rng.expovariate(1 / gap_ns))


def _draw(
    rng: random.Random,
    *,
    times: Iterable[int],
    kinds: Sequence[FaultKind],
    weights: Sequence[float],
    duration_scale: int,
) -> Iterable[Fault]:
    for number, at in enumerate(times):
        [kind] = rng.choices(kinds, weights)
        shape = SHAPES[kind]
        yield Fault(
            number=number,
            at_ns=at,
            kind=kind,
            for_ns=rng.randint(shape.shortest_ns, shape.longest_ns) * duration_scale,
            strength=rng.random(),
            seed=rng.getrandbits(48),
        )


@dataclass(frozen=True, slots=True)
class Leap:
    """What a `WALL_LEAP` is to do."""

    by_ns: int
    is_taken_back: bool
    """When the fault is over; else it stays, as after the suspension of a whole region."""


def draw_leap(rng: random.Random, *, leapt_ns: int) -> Leap | None:
    """`leapt_ns` is what all clocks have leapt by so far. None: with this one it would be too far from true time."""
    by_ns = rng.randint(*rng.choice(LEAPS_NS)) * (-1 if rng.random() < LEAP_BACK_CHANCE else 1)
    leap = Leap(by_ns, rng.random() < TAKEN_BACK_CHANCE)
    return leap if abs(leapt_ns + by_ns) <= LEAPT_NS_MAX else None
