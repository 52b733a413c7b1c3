"""The file by which a run is run again."""

import json
from pathlib import Path

import pytest

from keycluster.simulations.campaign.origin import Origin, origin
from keycluster.simulations.campaign.replay_file import ReplayFile
from keycluster.simulations.faults import FaultKind, draw_schedule
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, SpecMalformed


def test_a_file_has_all_that_decides_the_run(spec: RunSpec, tmp_path: Path) -> None:
    """The run as it was drawn, its trace, and of which code and versions both are."""
    drawn = spec.with_faults(draw_schedule(1, time_ns=spec.time_ns, kinds=[FaultKind.PAUSE, FaultKind.CRASH]))
    report = SeedReport(spec, trace_sha256="ab", drawn=drawn, failures=[Failure("toy", "found", 7)])
    ReplayFile.of(report).write(tmp_path / "deep" / "run.json")
    again = ReplayFile.read(tmp_path / "deep" / "run.json")
    assert again == ReplayFile(drawn, "ab", origin(), report.failures)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run.json"]


def test_a_bare_spec_will_do(spec: RunSpec, tmp_path: Path) -> None:
    """One that was written by hand, or came from a line of a log."""
    path = tmp_path / "spec.json"
    path.write_text(spec.to_json())
    assert ReplayFile.read(path) == ReplayFile(spec)


def test_a_file_of_before_it_named_a_commit_will_do(spec: RunSpec, tmp_path: Path) -> None:
    """What isn't known is no difference."""
    path = tmp_path / "run.json"
    value = {"run": json.loads(spec.to_json()), "trace_sha256": "ab", "code_sha256": "cd", "failures": []}
    path.write_text(json.dumps(value))
    assert ReplayFile.read(path) == ReplayFile(spec, "ab", Origin("cd"))


@pytest.mark.parametrize("damage", [{"versions": 3}, {"failures": [3]}, {"failures": 3}])
def test_a_file_with_a_wrong_part_is_refused(damage: dict[str, object], spec: RunSpec, tmp_path: Path) -> None:
    """As one error too."""
    path = tmp_path / "run.json"
    ReplayFile(spec, "ab").write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(SpecMalformed):
        ReplayFile.read(path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """In words, not by a Python exception."""
    path = tmp_path / "run.json"
    for text, complaint in (("{}", "it has no format"), ("x", "it isn't JSON"), ("3", "it isn't a JSON object")):
        path.write_text(text)
        with pytest.raises(SpecMalformed, match=f"^this is no replay file: {complaint}$"):
            ReplayFile.read(path)


@pytest.mark.parametrize("text", ["", "3", "[]", '{"run": 3}', '{"run": {}}', '{"run": {"format": 1}}', "{}", "\udcff"])
def test_what_is_no_replay_file_is_refused(text: str, tmp_path: Path) -> None:
    """By one kind of error, which the command line shows in one line."""
    path = tmp_path / "run.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SpecMalformed):
        ReplayFile.read(path)
