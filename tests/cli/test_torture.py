"""The command line of `keycluster torture`: what it refuses, and how it tells what came of a run."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from keycluster.cli.main import main
from keycluster.simulations.runs import Failure
from keycluster.simulations.torture.run import Torture


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--clients 0", "--clients: 1 to 100 clients, not '0'"),
        ("--clients 1e1", "--clients: 1 to 100 clients, not '1e1'"),
        ("--nodes 0", "--nodes: 1 to 9 nodes, not '0'"),
        ("--time 0.5", "--time: 1 to 1,000,000 seconds, not '0.5'"),
        ("--time nan", "--time: 1 to 1,000,000 seconds, not 'nan'"),
        ("--rate 0", "--rate: 1 to 10,000 operations a second, not '0'"),
        ("--seed -1", "--seed: 0 to 9,223,372,036,854,775,807 for a seed, not '-1'"),
        ("--seed seven", "--seed: 0 to 9,223,372,036,854,775,807 for a seed, not 'seven'"),
    ],
)
def test_number_out_of_range_is_refused(
    words: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the range, and before anything is made."""
    with pytest.raises(SystemExit) as ended:
        main(["torture", "--dir", str(tmp_path / "region"), *words.split()])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "region").exists()


@pytest.mark.parametrize(
    ("kinds", "named"), [("flood", "flood"), ("", "''"), ("crash,,", "'', ''"), ("bit-rot,crash", "bit-rot")]
)
def test_unknown_kind_is_refused(kinds: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one that only simulators have; by another status than a run that found something."""
    assert main(["torture", "--dir", str(tmp_path / "region"), "--faults", kinds]) == 2
    assert f"no faults of kind {named}\n" in capsys.readouterr().err


def test_folder_that_is_unfit_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is nothing that was found in the region."""
    (tmp_path / "file").touch()
    assert main(["torture", "--dir", str(tmp_path / "file")]) == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "told"),
    [(1, ("1 operation:", "1 fault:", "1 violation;")), (2, ("2 operations:", "2 faults:", "2 violations;"))],
)
def test_result_is_told_in_plain_english(
    count: int,
    told: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One of each, or several; something found is status 1."""

    def run_in(folder: Path, torture: Torture, **_: Any) -> None:
        torture.report.operations = Counter({"Encrypt ok": count})
        torture.report.faults = Counter(crash=count)
        torture.report.failures += [Failure("currency", "why")] * count

    monkeypatch.setattr("keycluster.simulations.torture.run.run_in", run_in)
    assert main(["torture", "--dir", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(start) for line, start in zip(lines, told, strict=False))
