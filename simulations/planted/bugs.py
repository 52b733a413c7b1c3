"""The patches, and what the head of each says.

A patch begins with lines `Name: value`, as in a letter, up to an empty line; the difference follows. `git apply` skips
the head.

    What:       the mistake, in a sentence
    Rule:       what it breaks: a rule of docs/design.md, a section of the Raft dissertation, a document of ours
    In:         a file and a definition that the patch changes; once for each
    Simulator:  core or region
    Checkers:   who should find it, any of these
    Seeds:      it must be found within so many, from seed 1 on
    Kinds:      draw only these kinds of faults; without it the bug is found by the simulator's usual runs
    Nodes, Time, Operations: as `RunSpec` has them, where they aren't the usual ones
    Note:       what else is to be known
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import RunSpec, Simulator

FOLDER = Path(__file__).parent

_ONCE = ("What", "Rule", "Simulator", "Checkers", "Seeds", "Kinds", "Nodes", "Time", "Operations", "Note")
_NEEDED = ("What", "Rule", "Simulator", "Checkers", "Seeds")


class PatchMalformed(ValueError):
    """A patch's head says too little, or something unknown."""


@dataclass(frozen=True, slots=True)
class Place:
    """A definition that a patch changes: a function, or the statements of a class or module around its functions."""

    path: str
    definition: str


@dataclass(frozen=True, slots=True)
class PlantedBug:
    name: str
    what: str
    rule: str
    places: tuple[Place, ...]
    simulator: Simulator
    checkers: tuple[str, ...]
    seeds_max: int
    kinds: tuple[FaultKind, ...] | None
    nodes: int | None
    time_ns: int
    operations_per_s: float | None
    note: str
    patch: str = field(repr=False)
    """The whole file."""

    @property
    def is_focused(self) -> bool:
        """Whether it takes other runs than the usual ones."""
        return self.settings != ""

    @property
    def settings(self) -> str:
        """In what its runs differ from the usual ones."""
        settings = []
        if self.kinds is not None:
            settings.append("only " + ", ".join(self.kinds))
        if self.nodes is not None:
            settings.append(f"{self.nodes} nodes")
        if self.time_ns != self.simulator.time_ns:
            settings.append(f"{self.time_ns / SECOND:g} s")
        if self.operations_per_s is not None:
            settings.append(f"{self.operations_per_s:g} operations/s")
        return "; ".join(settings)

    def spec(self, seed: int) -> RunSpec:
        return RunSpec(
            self.simulator,
            seed,
            self.time_ns,
            kinds=self.kinds,
            nodes=self.nodes,
            operations_per_s=self.operations_per_s,
        )


def all_bugs() -> tuple[PlantedBug, ...]:
    """By name."""
    return tuple(read_bug(path) for path in sorted(FOLDER.glob("*.patch")))


def read_bug(path: Path) -> PlantedBug:
    """Raises `PatchMalformed`."""
    text = path.read_text()
    head, places = _parse_head(path.stem, text)
    try:
        simulator = Simulator(head["Simulator"])
        kinds = tuple(FaultKind(kind) for kind in head["Kinds"].split()) if "Kinds" in head else None
        return PlantedBug(
            name=path.stem,
            what=head["What"],
            rule=head["Rule"],
            places=tuple(places),
            simulator=simulator,
            checkers=tuple(head["Checkers"].split(", ")),
            seeds_max=int(head["Seeds"]),
            kinds=kinds,
            nodes=int(head["Nodes"]) if "Nodes" in head else None,
            time_ns=int(float(head["Time"]) * SECOND) if "Time" in head else simulator.time_ns,
            operations_per_s=float(head["Operations"]) if "Operations" in head else None,
            note=head.get("Note", ""),
            patch=text,
        )
    except ValueError as error:
        raise PatchMalformed(f"{path.name}: {error}") from None


def _parse_head(name: str, text: str) -> tuple[dict[str, str], Sequence[Place]]:
    head: dict[str, str] = {}
    places: list[Place] = []
    for line in text.partition("\n\n")[0].splitlines():
        field_name, colon, value = line.partition(": ")
        if field_name == "In":
            path, _, definition = value.partition(" ")
            places.append(Place(path, definition))
        elif not colon or field_name not in _ONCE or field_name in head:
            raise PatchMalformed(f"{name}: {line!r} doesn't belong into a head")
        else:
            head[field_name] = value
    missing = [field_name for field_name in _NEEDED if field_name not in head]
    if missing or not places:
        raise PatchMalformed(f"{name}: its head lacks {', '.join(missing) or 'In'}")
    return head, places
