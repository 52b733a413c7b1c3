"""The file by which a run is run again."""

from pathlib import Path

import pytest

from keycluster.simulations.campaign.replay_file import ReplayFile, code_sha256
from keycluster.simulations.faults import FaultKind, draw_schedule
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, SpecMalformed


def test_a_file_has_all_that_decides_the_run(spec: RunSpec, tmp_path: Path) -> None:
    """The run as it was drawn, its trace, and of which code both are."""
    drawn = spec.with_faults(draw_schedule(1, time_ns=spec.time_ns, kinds=[FaultKind.PAUSE, FaultKind.CRASH]))
    report = SeedReport(spec, trace_sha256="ab", drawn=drawn, failures=[Failure("toy", "found", 7)])
    ReplayFile.of(report).write(tmp_path / "deep" / "run.json")
    again = ReplayFile.read(tmp_path / "deep" / "run.json")
    assert again == ReplayFile(drawn, "ab", code_sha256(), report.failures)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run.json"]


def test_a_bare_spec_will_do(spec: RunSpec, tmp_path: Path) -> None:
    """One that was written by hand, or came from a line of a log."""
    path = tmp_path / "spec.json"
    path.write_text(spec.to_json())
    assert ReplayFile.read(path) == ReplayFile(spec)


@pytest.mark.parametrize("text", ["", "3", "[]", '{"run": 3}', '{"run": {}}', '{"run": {"format": 1}}', "{}", "\udcff"])
def test_what_is_no_replay_file_is_refused(text: str, tmp_path: Path) -> None:
    """By one kind of error, which the command line shows in one line."""
    path = tmp_path / "run.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SpecMalformed):
        ReplayFile.read(path)
