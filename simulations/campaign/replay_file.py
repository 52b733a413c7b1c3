"""The file by which a failed run is run again: what decides it, what came of it, and of which code and versions."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from keycluster.simulations.campaign.origin import Origin, origin
from keycluster.simulations.runs import NO_REPLAY_FILE, Failure, RunSpec, SeedReport, SpecMalformed, json_object


@dataclass(frozen=True, slots=True)
class ReplayFile:
    spec: RunSpec
    trace_sha256: str = ""
    """Empty where the run had no end of its own."""
    origin: Origin = field(default_factory=Origin)
    failures: list[Failure] = field(default_factory=list)

    @classmethod
    def of(cls, report: SeedReport) -> Self:
        return cls(report.drawn or report.spec, report.trace_sha256, origin(), report.failures)

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        value = {
            "run": json.loads(self.spec.to_json()),
            "trace_sha256": self.trace_sha256,
            "code_sha256": self.origin.code_sha256,
            "commit": self.origin.commit,
            "versions": self.origin.versions,
            "failures": [failure.to_json() for failure in self.failures],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(json.dumps(value, indent=1) + "\n")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A bare `RunSpec` will do too. Raises `SpecMalformed`, `OSError`."""
        value = json_object(path.read_text(errors="replace"))
        if "run" not in value:
            return cls(RunSpec.from_json(json.dumps(value)))
        spec = RunSpec.from_json(json.dumps(value["run"]))
        try:
            versions = {str(name): str(version) for name, version in value.get("versions", {}).items()}
            return cls(
                spec,
                str(value["trace_sha256"]),
                Origin(str(value["code_sha256"]), str(value.get("commit", "")), versions),
                [Failure.from_json(failure) for failure in value["failures"]],
            )
        except KeyError as missing:
            raise SpecMalformed(f"{NO_REPLAY_FILE}: it has no {missing.args[0]}") from None
        except (TypeError, AttributeError):
            raise SpecMalformed(f"{NO_REPLAY_FILE}: its versions or failures aren't any") from None
