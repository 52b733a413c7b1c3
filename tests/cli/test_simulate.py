"""`keycluster simulate`, on the toy simulator of tests/simulations/campaign/."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keycluster.cli.main import main
from keycluster.simulations.campaign import worker
from keycluster.simulations.runs import Simulator

TOY = Path(__file__).parents[1] / "simulations" / "campaign"
KEYS = {"seed", "trace_sha256", "simulated_s", "wall_s", "events", "faults", "failures"}
"""By which machines read a seed's line."""


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In place of both simulators, and a folder of its own to work in."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.chdir(tmp_path)
    for simulator in Simulator:
        monkeypatch.setitem(worker.MODULES, simulator, "toy_simulator")


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """With the promised keys, all seeds, and nothing else on standard output; 0 if nothing was found."""
    assert main(["simulate", "--region", "--seeds", "5..9", "--time", "2", "--json"]) == 0
    lines = lines_of(capsys)
    assert {line["seed"] for line in lines} == {5, 6, 7, 8, 9}
    assert all(line.keys() >= KEYS for line in lines)
    assert all(line["simulator"] == "region" and line["failures"] == [] for line in lines)
    assert all(isinstance(line["faults"], dict) for line in lines)


def test_the_same_seed_is_the_same_line_again(capsys: pytest.CaptureFixture[str]) -> None:
    """But for how long it took; whatever ran beside it."""
    main(["simulate", "--seeds", "3..6", "--json"])
    first = {line["seed"]: line["trace_sha256"] for line in lines_of(capsys)}
    main(["simulate", "--seed", "5", "--json", "--jobs", "1"])
    [alone] = lines_of(capsys)
    assert first[5] == alone["trace_sha256"]


def test_a_failure_is_shrunk_and_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    """1 if something was found; the command that it names finds it again, with the same trace."""
    assert main(["simulate", "--seeds", "1..4"]) == 1
    told, _ = capsys.readouterr()
    assert re.search(r"✗ seed [24], toy: a pause after a partition", told)
    assert "2 of 4 seeds failed" in told
    [shrunk] = [path for path in re.findall(r"--replay (\S+)", told) if "shrunk" in path]
    assert main(["simulate", "--replay", shrunk]) == 1
    again, _ = capsys.readouterr()
    assert "the same trace as in the file\n" in again
    assert "✗ toy: a pause after a partition" in again
    assert "‖ paused" in again
    assert main(["simulate", "--replay", shrunk, "--json"]) == 1
    [line] = lines_of(capsys)
    assert (line["same_trace"], line["same_code"]) == (True, True)


def test_a_replay_of_another_trace_says_whose_doing_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The code's, if it has changed; otherwise the run isn't deterministic, which is a failure of its own."""
    main(["simulate", "--seed", "2", "--no-shrink"])
    path = Path("simulation-failures/core-2.json")
    file = json.loads(path.read_text())
    file["trace_sha256"], file["run"]["seed"] = "another", 5
    path.write_text(json.dumps(file))
    capsys.readouterr()
    assert main(["simulate", "--replay", str(path)]) == 1
    assert "isn't deterministic" in capsys.readouterr().out
    file["code_sha256"] = "another"
    path.write_text(json.dumps(file))
    main(["simulate", "--replay", str(path)])
    assert "the code has changed since" in capsys.readouterr().out


def test_coverage_fails_what_has_seen_too_little(capsys: pytest.CaptureFixture[str]) -> None:
    """A mark that was never hit is told in any case, and fails with --coverage."""
    arguments = ["simulate", "--seeds", "5..6", "--faults", "loss,crash"]
    assert main(arguments) == 0
    assert "marks never hit: toy: a node was paused, toy: this never happens" in capsys.readouterr().out
    assert main([*arguments, "--coverage"]) == 1
    assert "✗ a mark was never hit: toy: this never happens" in capsys.readouterr().out


def test_a_time_line_of_a_run_that_found_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """For whoever wants to see what a run is like."""
    assert main(["simulate", "--seed", "5", "--time", "3", "--timeline", "--out", "drawn"]) == 0
    assert "█ leads and serves" in capsys.readouterr().out
    assert {path.name for path in Path("drawn").iterdir()} == {"core-5.txt", "core-5.html"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "x"],
        ["--seed", "-1"],
        ["--seeds", "5"],
        ["--seeds", "9..5"],
        ["--seeds", "1..2", "--seed", "3"],
        ["--core", "--region"],
        ["--time", "0"],
        ["--time", "nan"],
        ["--jobs", "0"],
        ["--nodes", "none"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In a line that names the option."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])
    assert ended.value.code == 2
    assert f"argument {arguments[-2]}" in capsys.readouterr().err or len(arguments) != 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--faults", "loss,earthquake"], "no faults of kind earthquake"),
        (["--faults", ""], "no faults of kind ''"),
        (["--replay", "missing.json"], "missing.json: [Errno 2]"),
        (["--replay", "/dev/null"], "/dev/null: this is no replay file"),
        (["--replay", "."], ".: [Errno 21]"),
        (["--timeline"], "--timeline is for one run"),
        (["--region", "--compiled"], "--compiled is for --core"),
        (["--on", "nonsense://", "--seed", "1"], "no scheduler answers at nonsense://"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And status 2: 1 says that something was found."""
    assert main(["simulate", *arguments]) == 2
    complaints = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("core:", "  hint:"))]
    assert len(complaints) == 1
    assert error in complaints[0]


def test_ctrl_c_ends_it_with_what_is_done(tmp_path: Path) -> None:
    """On a terminal, with a bar; no process stays behind."""
    bar, terminal = pty.openpty()
    program = (
        "import sys; from keycluster.cli.main import main; from keycluster.simulations.campaign import worker\n"
        "from keycluster.simulations.runs import Simulator; worker.MODULES[Simulator.CORE] = 'toy_simulator'\n"
        "sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "simulate", "--no-compiled", "--seeds", "2000..9000", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={
            **os.environ,
            "PYTHONPATH": str(TOY),
            "TOY_DONE": str(tmp_path / "told"),
            "TERM": "xterm",
            "COLUMNS": "100",
        },
        cwd=tmp_path,
        text=True,
    )
    os.close(terminal)
    shown = read_until(bar, "simulated s/s")
    workers = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    os.close(bar)
    assert process.returncode == 130
    assert "7001" in shown
    assert "interrupted: this is what was done until then" in output
    assert re.search(r"core: \d+ seeds? \(2000", output)
    assert len(workers) == 2
    assert select.select(workers, [], [], 0)[0] == workers
    for one in workers:
        os.close(one)


def children_of(pid: int) -> list[int]:
    """As descriptors, which can be read once the process has ended, whatever becomes of its number."""
    return [os.pidfd_open(int(child)) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read_until(terminal: int, text: str) -> str:
    shown = ""
    while text not in shown:
        assert select.select([terminal], [], [], 30)[0], shown
        shown += os.read(terminal, 4_096).decode(errors="replace")
    return shown
