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
from keycluster.cluster.types import SECOND
from keycluster.simulations.campaign import worker
from keycluster.simulations.campaign.origin import origin
from keycluster.simulations.campaign.replay_file import ReplayFile
from keycluster.simulations.runs import RunSpec, Simulator

TOY = Path(__file__).parents[1] / "simulations" / "campaign"
KEYS = {"seed", "trace_sha256", "simulated_s", "wall_s", "events", "faults", "failures"}
"""By which machines read a seed's line."""


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In place of both simulators, and folders of its own to work in: nothing is compiled there yet."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
    file["commit"], file["run"]["faults"] = "a1b2c3-dirty", []
    path.write_text(json.dumps(file))
    assert main(["simulate", "--replay", str(path)]) == 0
    told, warned = capsys.readouterr()
    change = f"the code has changed since (then a1b2c3-dirty, now {origin().commit})"
    assert told.endswith(f"\nnothing found, but not as in the file: {change}\n")
    assert warned == f"keycluster: not as in {path}: {change}\n"


def test_a_replay_by_other_versions_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Another SQLite or Python may go another way: that isn't the simulator's fault."""
    main(["simulate", "--seed", "2", "--no-shrink"])
    path = Path("simulation-failures/core-2.json")
    file = json.loads(path.read_text())
    assert file["commit"] == origin().commit
    assert file["versions"].keys() == {"Python", "SQLite", "apsw", "msgpack", "msgspec", "trio", "cryptography"}
    file["trace_sha256"], file["run"]["faults"], file["versions"]["SQLite"] = "another", [], "3.1"
    path.write_text(json.dumps(file))
    capsys.readouterr()
    assert main(["simulate", "--replay", str(path)]) == 0
    told, warned = capsys.readouterr()
    assert f"another trace than in the file: SQLite was 3.1, is {origin().versions['SQLite']}\n" in told
    assert f"SQLite was 3.1, is {origin().versions['SQLite']}" in warned
    assert main(["simulate", "--replay", str(path), "--json"]) == 0
    [line] = lines_of(capsys)
    assert (line["same_code"], line["same_versions"], line["same_trace"]) == (True, False, False)


def test_a_replay_is_drawn_beside_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The time line of the shrunk run stays, and so does a file of the user's own."""
    main(["simulate", "--seed", "2"])
    folder = Path("simulation-failures")
    shrunk = (folder / "core-2.txt").read_text()
    (folder / "core-2.json").rename("notes.json")
    Path("notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(["simulate", "--replay", "notes.json"]) == 1
    assert "time line: notes.replay.txt, notes.replay.html" in capsys.readouterr().out
    assert Path("notes.txt").read_text() == "mine"
    assert main(["simulate", "--replay", str(folder / "core-2.shrunk.json")]) == 1
    assert (folder / "core-2.txt").read_text() == shrunk
    assert (folder / "core-2.shrunk.replay.html").exists()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--seed 1", "--seed"),
        ("--for 1", "--for"),
        ("--faults none", "--faults"),
        ("--on tcp://x:1", "--on"),
        ("--nodes 3", "--nodes"),
        ("--coverage", "--coverage"),
        ("--out x", "--out"),
        ("--no-shrink", "--shrink-time"),
    ],
)
def test_a_replay_refuses_what_it_would_ignore(option: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its file says how the run is."""
    assert main(["simulate", "--replay", "x.json", *option.split()]) == 2
    assert capsys.readouterr().err == f"keycluster: --replay runs what its file says: leave out {named}\n"


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ({"nodes": 0}, "nodes is 0, not 1 to 9"),
        ({"time_ns": -5}, "time_ns is -5"),
        ({"kinds": ["lag"]}, "no faults of kind lag"),
        ({"simulator": "torture"}, "what real processes did can't be done again"),
    ],
)
def test_a_replay_of_a_run_that_cannot_be_is_refused(
    damage: dict[str, object], error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no finding."""
    monkeypatch.delitem(worker.MODULES, Simulator.TORTURE)
    spec = json.loads(RunSpec(Simulator.CORE, 1, SECOND).to_json())
    Path("run.json").write_text(json.dumps(spec | damage))
    assert main(["simulate", "--replay", "run.json"]) == 2
    assert error in capsys.readouterr().err


def test_coverage_fails_what_has_seen_too_little(capsys: pytest.CaptureFixture[str]) -> None:
    """A mark that was never hit is told in any case, and fails with --coverage."""
    arguments = ["simulate", "--seeds", "5..6", "--faults", "loss,crash"]
    assert main(arguments) == 0
    assert "marks never hit: toy: a node was paused, toy: this never happens" in capsys.readouterr().out
    assert main([*arguments, "--coverage"]) == 1
    told, warned = capsys.readouterr()
    assert "✗ a mark was never hit: toy: this never happens" in told
    assert "--coverage is for 1,000 seeds and more" in warned


def test_one_run_is_not_asked_what_it_never_saw(capsys: pytest.CaptureFixture[str]) -> None:
    """That would be a dozen lines above the one that matters."""
    assert main(["simulate", "--seed", "5"]) == 0
    told = capsys.readouterr().out
    assert "never hit" not in told
    assert "without effect" not in told
    assert told.endswith("nothing found\n")


def test_a_time_line_of_a_run_that_found_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """For whoever wants to see what a run is like."""
    assert main(["simulate", "--seed", "5", "--time", "3", "--timeline", "--out", "drawn"]) == 0
    assert "█ leads and serves" in capsys.readouterr().out
    assert {path.name for path in Path("drawn").iterdir()} == {"core-5.txt", "core-5.html"}


def test_a_time_line_that_cannot_be_drawn_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """No path is printed to a file that isn't there. One that fails, and isn't shrunk, is drawn too."""
    assert main(["simulate", "--seed", "5", "--timeline", "--out", "/proc/drawn"]) == 2
    assert "time line" not in capsys.readouterr().out
    Path("drawn/core-5.txt").mkdir(parents=True)
    assert main(["simulate", "--seed", "5", "--timeline", "--out", "drawn"]) == 2
    assert main(["simulate", "--seed", "1013", "--timeline", "--no-shrink", "--out", "drawn"]) == 1
    assert "no time line was drawn: the worker died" in capsys.readouterr().err
    assert main(["simulate", "--seed", "2", "--timeline", "--no-shrink", "--out", "drawn"]) == 1
    assert Path("drawn/core-2.txt").exists()


def test_a_failure_that_cannot_be_written_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its seed: a full disk doesn't hide what was found."""

    def write(self: ReplayFile, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(ReplayFile, "write", write)
    assert main(["simulate", "--seeds", "1..4"]) == 1
    warned = capsys.readouterr().err
    assert re.search("seed [24] failed: toy", warned)
    assert "No space left on device" in warned


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
        ["--nodes", "0"],
        ["--nodes", "1000"],
        ["--clients", "1000"],
        ["--rate", "0"],
        ["--limit", "-1"],
        ["--shrink-time", "-1"],
        ["--seeds", "1..x"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In a line that names the option and says what it takes."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    if arguments != ["--core", "--region"] and len(arguments) == 2:
        assert re.search(
            rf"argument {arguments[0]}: (a whole number from|a number from|two seeds, ).*, not '{arguments[1]}'", said
        )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--faults", "loss,earthquake"], "no faults of kind earthquake"),
        (["--faults", ""], "no faults of kind ''"),
        (["--replay", "missing.json"], "missing.json: No such file or directory"),
        (["--replay", "/dev/null"], "/dev/null: this is no replay file"),
        (["--replay", "."], ".: Is a directory"),
        (["--seed", "2", "--out", "/dev/null/x"], "/dev/null/x"),
        (["--timeline"], "--timeline is for one run"),
        (["--region", "--compiled"], "--compiled is for --core"),
        (["--on", "nonsense://", "--seed", "1"], "no scheduler answers at nonsense://"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And status 2: 1 says that something was found."""
    assert main(["simulate", *arguments]) == 2
    complaints = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith(("core:", "  hint:", "…"))
    ]
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
