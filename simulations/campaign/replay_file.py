"""The file by which a failed run is run again: what decides it, what came of it, and of which code."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import keycluster
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, SpecMalformed

FLOORS = ("client", "cluster", "node", "simulations")
"""Whose code decides what a run does."""


@cache
def code_sha256() -> str:
    """Of all modules that a run may use, with their names."""
    return tree_sha256(Path(keycluster.__file__).parent)


def tree_sha256(root: Path) -> str:
    """The same of the package in another folder."""
    total = hashlib.sha256()
    for floor in FLOORS:
        folder = (root / floor).resolve()
        for path in sorted(folder.rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{floor}/{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class ReplayFile:
    spec: RunSpec
    trace_sha256: str = ""
    """Empty where the run had no end of its own."""
    code_sha256: str = ""
    failures: list[Failure] = field(default_factory=list)

    @classmethod
    def of(cls, report: SeedReport) -> Self:
        return cls(report.drawn or report.spec, report.trace_sha256, code_sha256(), report.failures)

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        value = {
            "run": json.loads(self.spec.to_json()),
            "trace_sha256": self.trace_sha256,
            "code_sha256": self.code_sha256,
            "failures": [failure.to_json() for failure in self.failures],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(json.dumps(value, indent=1) + "\n")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A bare `RunSpec` will do too. Raises `SpecMalformed`, `OSError`."""
        try:
            value: dict[str, Any] = json.loads(path.read_text())
            if "run" not in value:
                return cls(RunSpec.from_json(json.dumps(value)))
            return cls(
                RunSpec.from_json(json.dumps(value["run"])),
                str(value["trace_sha256"]),
                str(value["code_sha256"]),
                [Failure.from_json(failure) for failure in value["failures"]],
            )
        except SpecMalformed:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpecMalformed(f"this is no replay file: {type(error).__name__}: {error}") from None
