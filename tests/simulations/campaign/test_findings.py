"""What failures leave: files by which they are there again, smaller and drawn."""

from dataclasses import replace
from pathlib import Path

import pytest

from keycluster.cluster.types import SECOND
from keycluster.simulations.campaign.findings import Finding, Findings, draw_run
from keycluster.simulations.campaign.pool import NO_END, Job, Pool
from keycluster.simulations.campaign.replay_file import ReplayFile
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import Failure, RunSpec, SeedReport

FAILS, STRAYS = 2, 1_023  # Seeds of the toy.


@pytest.fixture
def findings(toy: str, tmp_path: Path) -> Findings:
    return Findings(tmp_path, module=toy, workers=2, limit_s=20)


def run_toy(toy: str, spec: RunSpec) -> SeedReport:
    with Pool(toy, workers=1, limit_s=20) as pool:
        [done] = pool.completed([Job(spec)])
    return done.report


def test_a_failure_is_shrunk_drawn_and_there_again(toy: str, findings: Findings, spec: RunSpec, tmp_path: Path) -> None:
    """Two faults are left, of these kinds; the file's run gives the file's trace."""
    report = run_toy(toy, replace(spec, seed=FAILS, time_ns=60 * SECOND))
    whole = ReplayFile.read(findings.keep(report))
    assert whole.spec.faults is not None
    assert len(whole.spec.faults) > 50
    [finding] = findings.to_shrink()
    findings.shrink_and_draw(finding, seconds=20, tell=pytest.fail)
    shrunk = ReplayFile.read(finding.path)
    assert [fault.kind for fault in shrunk.spec.faults or ()] == [FaultKind.PARTITION, FaultKind.PAUSE]
    assert (shrunk.spec.nodes, shrunk.spec.clients) == (1, 1)
    assert run_toy(toy, shrunk.spec).trace_sha256 == shrunk.trace_sha256
    assert {path.name for path in tmp_path.iterdir()} == {
        "core-2.json", "core-2.shrunk.json", "core-2.txt", "core-2.html",
    }  # fmt: skip
    assert str(finding.path) in finding.command()


def test_an_earlier_campaigns_files_go(toy: str, findings: Findings, spec: RunSpec, tmp_path: Path) -> None:
    """A time line of another run under this one's name would send somebody the wrong way."""
    for ending in (
        "shrunk.json",
        "txt",
        "html",
        "replay.txt",
        "replay.html",
        "shrunk.replay.txt",
        "shrunk.replay.html",
    ):
        (tmp_path / f"core-2.{ending}").write_text("old")
    findings.keep(run_toy(toy, replace(spec, seed=FAILS, time_ns=60 * SECOND)))
    assert {path.name for path in tmp_path.iterdir()} == {"core-2.json"}


def test_a_run_that_goes_another_way_is_told(toy: str, findings: Findings, spec: RunSpec) -> None:
    """Nothing that is found can be relied on then."""
    report = run_toy(toy, replace(spec, seed=STRAYS))
    report.failures.append(Failure("toy", "found"))
    findings.keep(report)
    told: list[str] = []
    [finding] = findings.to_shrink()
    findings.shrink_and_draw(finding, seconds=5, tell=told.append)
    assert finding.strays
    assert "deterministic" in told[0]


def test_one_failure_of_each_checker_is_shrunk(findings: Findings, spec: RunSpec) -> None:
    """The one with the fewest events; a run without an end has none to be shrunk by."""
    for seed, (checker, events) in enumerate([("long", 90), ("short", 10), ("short", 5), (NO_END, 1)]):
        report = SeedReport(replace(spec, seed=seed), events=events, failures=[Failure(checker, "found")])
        findings.keep(report)
    assert [(finding.checker, finding.report.spec.seed) for finding in findings.to_shrink()] == [
        ("short", 2),
        ("long", 0),
    ]


def test_the_folder_is_tried_before_it_is_needed(toy: str, findings: Findings, spec: RunSpec, tmp_path: Path) -> None:
    """A campaign of hours mustn't end by its first failure; where there was none, no folder stays."""
    with pytest.raises(OSError, match="Not a directory"):
        Findings(Path("/dev/null/x"), module=toy, workers=1, limit_s=1).make_folder()
    findings.make_folder()
    findings.leave_folder()
    assert tmp_path.is_dir(), "it was there before"
    for is_kept in (False, True):
        inner = Findings(tmp_path / "a" / "b", module=toy, workers=1, limit_s=1)
        inner.make_folder()
        if is_kept:
            inner.keep(SeedReport(spec, failures=[Failure("toy", "found")]))
        inner.leave_folder()
        assert (tmp_path / "a" / "b").exists() == is_kept


def test_a_drawing_goes_where_it_is_told(toy: str, spec: RunSpec, tmp_path: Path) -> None:
    """Whatever dots are in its name: `core-2.shrunk.replay` isn't drawn over `core-2.shrunk`."""
    (tmp_path / "core-2.txt").write_text("mine")
    drawing = draw_run(toy, spec, tmp_path / "core-2.replay", limit_s=20)
    assert drawing.text == tmp_path / "core-2.replay.txt"
    assert {path.name for path in tmp_path.iterdir()} == {"core-2.txt", "core-2.replay.txt", "core-2.replay.html"}
    assert (tmp_path / "core-2.txt").read_text() == "mine"
    with pytest.raises(OSError, match="/proc"):
        draw_run(toy, spec, Path("/proc/drawn"), limit_s=20)


def test_a_run_without_an_end_leaves_no_time_line(toy: str, spec: RunSpec, tmp_path: Path) -> None:
    """And none of an earlier one."""
    (tmp_path / "run.txt").write_text("old")
    drawing = draw_run(toy, replace(spec, seed=1_013), tmp_path / "run", limit_s=20)
    assert isinstance(drawing, Finding)
    assert drawing.text is None
    assert not (tmp_path / "run.txt").exists()
