"""What many runs come to, and what they never got to: a campaign that tested little must not look like a good one."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from keycluster.cluster.types import SECOND
from keycluster.simulations.checkers.currency import JUDGES
from keycluster.simulations.checkers.key_model import CHANGES
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import SeedReport, Simulator

EFFECT_NS_MIN = 60 * SECOND
"""So much simulated time under faults, and not one had an effect: then rates are wrong, not luck bad."""

WRITES: Final = CHANGES | {"Write", "CompareAndSet"}
"""Of both simulators: changes that clients ask for."""
USES: Final = frozenset(JUDGES) | {"Use"}
"""And of the data plane."""


class Load(NamedTuple):
    """What succeeded, for each simulated second of all runs."""

    writes: float
    uses: float


LOAD_MIN: Final = {Simulator.CORE: Load(1.5, 1.5), Simulator.REGION: Load(1.0, 2.0)}
"""Where nothing else is asked for there is twice as much. Below, regions are down most of the time: nobody works while
faults go on, and what happens to calls is not being tested."""


@dataclass(slots=True)
class Totals:
    """Of one simulator. Each seed is added once."""

    simulator: Simulator
    kinds: tuple[FaultKind, ...]
    """Those that seeds could draw; empty: no faults were asked for."""
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    seeds: int = 0
    simulated_ns: int = 0
    wall_s: float = 0.0
    """Of all runs together: with several at once more than what passed."""
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    failed: list[SeedReport] = field(default_factory=list)

    def add(self, report: SeedReport, marks: Mapping[str, Iterable[str]]) -> None:
        """`marks`: all that are known, with the simulators that can get there."""
        self.seeds += 1
        self.simulated_ns += report.simulated_ns
        self.wall_s += report.wall_s
        self.events += report.events
        self.faults.update(report.faults)
        self.effects.update(report.effects)
        self.operations.update(report.operations)
        for mark, within in marks.items():
            if self.simulator.value in within:
                self.marks[mark] += 0
        self.marks.update(report.marks)
        if report.failures:
            self.failed.append(report)

    @property
    def elapsed_s(self) -> float:
        """Real time of all runs, without what was done about failures."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def speed(self) -> float:
        """Simulated seconds for each second of one core."""
        return self.simulated_ns / SECOND / self.wall_s if self.wall_s else 0.0

    @property
    def events_per_s(self) -> float:
        return self.events / self.wall_s if self.wall_s else 0.0

    @property
    def load(self) -> Load:
        seconds = max(self.simulated_ns, 1) / SECOND
        succeeded = {name.removesuffix(" ok"): count for name, count in self.operations.items() if name.endswith(" ok")}
        return Load(
            writes=sum(count for name, count in succeeded.items() if name in WRITES) / seconds,
            uses=sum(count for name, count in succeeded.items() if name in USES) / seconds,
        )

    def _load_gaps(self) -> Iterable[str]:
        least = LOAD_MIN.get(self.simulator)
        if least is not None:
            for name, does, must in zip(Load._fields, self.load, least, strict=True):
                if does < must:
                    yield f"too little was done: {does:.2f} {name} a simulated second, {must:.2f} at least"

    def marks_never_hit(self) -> list[str]:
        return sorted(mark for mark, count in self.marks.items() if not count)

    def kinds_without_effect(self) -> list[str]:
        return sorted(kind.value for kind in self.kinds if not self.faults[kind.value])

    def gaps(self, *, coverage: bool) -> list[str]:
        """Why these runs have shown too little; with `coverage`, everything must have been seen, under load."""
        gaps = []
        if self.kinds and not self.faults.total() and self.simulated_ns >= EFFECT_NS_MIN:
            gaps.append("no fault had an effect in any run")
        if coverage:
            gaps += [f"no fault of this kind had an effect: {kind}" for kind in self.kinds_without_effect()]
            gaps += [f"a mark was never hit: {mark}" for mark in self.marks_never_hit()]
            gaps += self._load_gaps()
        return gaps
