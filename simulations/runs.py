"""What a run is asked for, and what comes of it: the same for both simulators, from the command line to a campaign.

A `RunSpec` says all that decides a run; with the same code it gives the same trace, byte for byte. It travels as JSON:
to worker processes, to other machines, and in the file by which a failure is replayed.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import msgspec

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.faults import Fault, FaultKind

FORMAT = 1
"""Of the JSON."""

TIME_NS_MIN, TIME_NS_MAX = MILLISECOND, 10_000_000 * SECOND
NODES_MAX = 9  # As `keycluster dev` has it; faults add some more.
CLIENTS_MAX = 100
OPERATIONS_PER_S_MIN, OPERATIONS_PER_S_MAX = 0.001, 10_000.0
NO_REPLAY_FILE = "this is no replay file"


class Simulator(StrEnum):
    CORE = "core"
    REGION = "region"
    TORTURE = "torture"
    """No simulator: real processes. The same seed gives the same faults, and never the same run."""

    @property
    def time_ns(self) -> int:
        """How long a run goes on with faults, where nothing else is asked for."""
        return 20 * SECOND if self is Simulator.REGION else 60 * SECOND


class SpecMalformed(ValueError):
    """This isn't what a run can be made from; the text says why."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that decides a run. What is None is drawn from the seed."""

    simulator: Simulator
    seed: int
    time_ns: int
    """With faults; then come peace and liveness."""
    kinds: tuple[FaultKind, ...] | None = None
    """Draw from these only; None: from all that the simulator can do. Empty: no faults."""
    nodes: int | None = None
    """Founding voters."""
    clients: int | None = None
    operations_per_s: float | None = None
    """Of all clients together, in simulated time."""
    faults: tuple[Fault, ...] | None = None
    """These and no others, instead of drawn ones: a shrunk schedule."""

    def with_faults(self, faults: Iterable[Fault]) -> "RunSpec":
        return replace(self, faults=tuple(faults))

    def require_supported(self, supported: Iterable[FaultKind]) -> None:
        """That a simulator can do all of its faults. Raises `SpecMalformed`."""
        asked = {*(self.kinds or ()), *(fault.kind for fault in self.faults or ())}
        beyond = sorted(asked.difference(supported))
        if beyond:
            raise SpecMalformed(f"the simulator {self.simulator} has no faults of kind {', '.join(beyond)}")

    def to_json(self) -> str:
        """One line."""
        return json.dumps(
            {
                "format": FORMAT,
                "simulator": self.simulator.value,
                "seed": self.seed,
                "time_ns": self.time_ns,
                "kinds": None if self.kinds is None else [kind.value for kind in self.kinds],
                "nodes": self.nodes,
                "clients": self.clients,
                "operations_per_s": self.operations_per_s,
                "faults": None if self.faults is None else [fault.to_json() for fault in self.faults],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises `SpecMalformed`."""
        value = json_object(text)
        if "format" not in value:
            raise SpecMalformed(f"{NO_REPLAY_FILE}: it has no format")
        if value.pop("format") != FORMAT:
            raise SpecMalformed("this replay file was written by another version of keycluster")
        if value.keys() != set(cls.__slots__):
            raise SpecMalformed(f"{NO_REPLAY_FILE}: it has {', '.join(sorted(value))}")
        try:
            spec = msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise SpecMalformed(f"{NO_REPLAY_FILE}: {error}") from None
        spec._require_ranges()
        return spec

    def _require_ranges(self) -> None:
        """Simulators trust what they are given: with no node, or none of the time, they'd end by anything."""
        ranges: list[tuple[str, float | None, float, float]] = [
            ("seed", self.seed, 0, math.inf),
            ("time_ns", self.time_ns, TIME_NS_MIN, TIME_NS_MAX),
            ("nodes", self.nodes, 1, NODES_MAX),
            ("clients", self.clients, 1, CLIENTS_MAX),
            ("operations_per_s", self.operations_per_s, OPERATIONS_PER_S_MIN, OPERATIONS_PER_S_MAX),
        ]
        for place, fault in enumerate(self.faults or ()):
            name = f"faults[{place}]"
            ranges += [
                (f"{name}.number", fault.number, 0, math.inf),
                (f"{name}.at_ns", fault.at_ns, 0, TIME_NS_MAX),
                (f"{name}.for_ns", fault.for_ns, 0, TIME_NS_MAX),
                (f"{name}.strength", fault.strength, 0, 1),
                (f"{name}.seed", fault.seed, 0, math.inf),
            ]
        for name, value, least, most in ranges:
            if value is not None and not least <= value <= most:
                bounds = f"{least:,} or more" if most == math.inf else f"{least:,} to {most:,}"
                raise SpecMalformed(f"no run can be made from this: {name} is {value:,}, not {bounds}")


def json_object(text: str) -> dict[str, Any]:
    """Raises `SpecMalformed` for text that isn't one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise SpecMalformed(f"{NO_REPLAY_FILE}: it isn't JSON") from None
    if not isinstance(value, dict):
        raise SpecMalformed(f"{NO_REPLAY_FILE}: it isn't a JSON object")
    return value


@dataclass(frozen=True, slots=True)
class Failure:
    """What a checker found."""

    checker: str
    """Which one: a short name, as in the table of planted bugs."""
    message: str
    at_ns: int | None = None
    """When, on the run's clock; None: at its end."""

    def to_json(self) -> dict[str, Any]:
        return {"checker": self.checker, "message": self.message, "at_ns": self.at_ns}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises `TypeError` for what isn't one."""
        return cls(**value)


@dataclass(slots=True)
class SeedReport:
    """What came of a run."""

    spec: RunSpec
    trace_sha256: str = ""
    simulated_ns: int = 0
    wall_s: float = 0.0
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """By kind: those that had an effect, not those that were asked for."""
    drawn: RunSpec | None = None
    """The same run with nothing left to draw: shrinking begins here. Its trace is the same, byte for byte."""
    operations: Counter[str] = field(default_factory=Counter)
    """What clients did, by operation and outcome: a run in which nothing succeeds has shown nothing."""
    marks: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    effects: Counter[str] = field(default_factory=Counter)
    """Of faults together, what has no kind of its own: `DiskEffect`, by write."""

    def to_json(self) -> dict[str, Any]:
        """As `keycluster simulate --json` prints it."""
        return {
            "simulator": self.spec.simulator.value,
            "seed": self.spec.seed,
            "trace_sha256": self.trace_sha256,
            "simulated_s": round(self.simulated_ns / SECOND, 3),
            "wall_s": round(self.wall_s, 3),
            "events": self.events,
            "faults": dict(sorted(self.faults.items())),
            "effects": dict(sorted(self.effects.items())),
            "operations": dict(sorted(self.operations.items())),
            "marks": dict(sorted(self.marks.items())),
            "failures": [failure.to_json() for failure in self.failures],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], spec: RunSpec) -> Self:
        """What `to_json` made of a run of `spec`, rounded as it is there. Raises `KeyError` or `TypeError`."""
        return cls(
            spec=spec,
            trace_sha256=value["trace_sha256"],
            simulated_ns=round(value["simulated_s"] * SECOND),
            wall_s=value["wall_s"],
            events=value["events"],
            faults=Counter(value["faults"]),
            effects=Counter(value["effects"]),
            operations=Counter(value["operations"]),
            marks=Counter(value["marks"]),
            failures=[Failure.from_json(failure) for failure in value["failures"]],
        )
