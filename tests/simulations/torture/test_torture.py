"""`keycluster torture` on real processes: it hurts them, finds what is wrong, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from keycluster.cluster.types import SECOND
from keycluster.node.sealing import SEAL_BYTES
from keycluster.simulations.checkers.history import History, Outcome, ok, unknown
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.planted.bugs import FOLDER, read_bug
from keycluster.simulations.planted.copies import patched_copy
from keycluster.simulations.runs import RunSpec, Simulator
from keycluster.simulations.torture.run import SUPPORTED, demand_something_shown, draw_faults, judge

ENDS_S_MAX = 100.0
FULL = os.environ.get("KEYCLUSTER_TESTS") == "full"


@contextmanager
def _torture(folder: Path, *options: str, path: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    """The command, running; ended in the end."""
    with _keycluster("torture", "--dir", str(folder), *options, path=path, cwd=folder.parent) as process:
        yield process


@contextmanager
def _keycluster(*words: str, path: Path | None = None, cwd: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "keycluster", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ) if path is None else {**os.environ, "PYTHONPATH": str(path)},
        cwd=cwd,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _running_in(folder: Path) -> list[str]:
    """Command lines of processes that have to do with the folder."""
    return [words for _, words in _processes_of(folder)]


def _processes_of(folder: Path) -> list[tuple[int, str]]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and f"/{os.getpid()}/" not in str(file):
            found.append((int(file.parent.name), words))
    return found


def _has_paused(folder: Path) -> bool:
    return any(_state(pid) == "T" for pid, _ in _processes_of(folder))


def _state(pid: int) -> str:
    """As in proc_pid_stat(5); nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _wait_until(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    """While the process runs."""
    deadline = time.monotonic() + ENDS_S_MAX
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_schedule_is_the_seed_s_and_brings_all_kinds_in_time() -> None:
    """In order, each fault with a number of its own, within the time; other kinds in each part of a long run."""
    spec = RunSpec(Simulator.TORTURE, seed=1, time_ns=600 * SECOND)
    faults = draw_faults(spec)
    assert faults == draw_faults(spec) != draw_faults(replace(spec, seed=2))
    assert [fault.number for fault in faults] == list(range(len(faults)))
    assert [fault.at_ns for fault in faults] == sorted(fault.at_ns for fault in faults)
    assert faults[-1].at_ns < spec.time_ns
    assert {fault.kind for fault in faults} == set(SUPPORTED)
    assert draw_faults(replace(spec, kinds=())) == ()


@pytest.mark.parametrize("kind", SUPPORTED)
def test_shortest_run_has_a_fault(kind: FaultKind) -> None:
    """Whatever the seed, and if only one kind is asked for: a run without would show nothing."""
    for seed in range(20):
        assert draw_faults(RunSpec(Simulator.TORTURE, seed=seed, time_ns=SECOND, kinds=(kind,)))


def _history(*operations: str, outcome: Outcome) -> History:
    history = History()
    for operation in operations:
        history.end(history.begin(0, "c0", operation, None, {}), 0, outcome)
    return history


def test_run_that_shows_nothing_is_a_finding() -> None:
    """A change and a use of a key must have succeeded, and a fault must have had an effect where some were wanted."""

    def found(history: History, faults: dict[str, int], *, wanted: bool = True) -> list[str]:
        demanded = demand_something_shown(history, Counter(faults), is_asked_for_faults=wanted)
        return [failure.message.split(":")[0] for failure in demanded]

    shown, hit = _history("CreateKey", "Encrypt", outcome=ok({})), {"crash": 1}
    no_change, no_use, no_fault = (
        "no change succeeded in the whole run",
        "no use of a key succeeded in the whole run",
        "no fault had an effect",
    )
    assert found(shown, hit) == found(shown, {}, wanted=False) == []
    assert found(shown, {}) == [no_fault]
    assert found(_history("CreateKey", "Encrypt", outcome=unknown()), hit) == [no_change, no_use]
    assert found(_history("DescribeKey", "Decrypt", outcome=ok({})), hit) == [no_change]
    assert found(_history("CreateKey", "GenerateRandom", outcome=ok({})), hit) == [no_use]


def test_region_stands_it_and_nothing_is_left(tmp_path: Path) -> None:
    """Ten seconds of kills, pauses and cuts: no violation, every call in the history, no process left; and a history in
    which a ciphertext opens as something else is found by the same judgement."""
    folder = tmp_path / "region"
    kinds = "crash,restart,pause,partition,one-way,reset,sealed-restart,transfer"
    with _torture(folder, "--time", "10", "--seed", "5", "--faults", kinds, "--json") as process:
        said, told = process.communicate(timeout=ENDS_S_MAX)
    assert process.returncode == 0, said + told
    report = json.loads(said)
    assert report["failures"] == []
    assert report["faults"]
    assert _running_in(folder) == []
    history = History.from_json_lines((folder / "history.jsonl").read_text().splitlines())
    assert sum(report["operations"].values()) == len(history.calls)
    assert {"CreateKey ok", "Encrypt ok", "DescribeKey ok"} <= report["operations"].keys()
    assert judge(history) == []
    assert {failure.checker for failure in judge(_doctored(history))} == {"ciphertexts"}


def _doctored(history: History) -> History:
    """As if a node had decrypted something to something else."""
    for call in history.calls:
        if call.operation == "Decrypt" and call.is_ok:
            call.outcome = ok({**call.value, "Plaintext": b"something else"})
            return history
    raise AssertionError("nothing was decrypted")


def test_interrupted_run_ends_what_it_started(tmp_path: Path) -> None:
    """Ctrl-C in the midst of it: its processes are gone, what was done until then is kept, the faults that had an
    effect are told, and that is no failure."""
    folder = tmp_path / "region"
    with _torture(folder, "--time", "600", "--nodes", "1", "--faults", "pause", "--seed", "55") as process:
        _wait_until(process, lambda: _has_paused(folder))
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
        said, told = process.communicate(timeout=ENDS_S_MAX)
    assert process.returncode == 130, said + told
    assert "interrupted" in said
    assert re.search(r"^[1-9]\d* faults?: pause", said, re.MULTILINE)
    assert (folder / "history.jsonl").exists()
    assert _running_in(folder) == []


def test_folder_that_dev_can_t_use_is_refused_in_one_line(tmp_path: Path) -> None:
    """What `dev` says of it is told."""
    folder = tmp_path / "region"
    folder.mkdir()
    (folder / "dev.json").write_text("no settings")
    with _torture(folder, "--time", "1") as process:
        said, told = process.communicate(timeout=ENDS_S_MAX)
    assert process.returncode == 2
    assert "dev.json is not what `keycluster dev` wrote" in told
    assert "Traceback" not in told
    assert said == ""


@pytest.mark.parametrize("kind", ["sealed-restart", "pause"])
def test_killed_run_leaves_a_region_that_dev_can_start(tmp_path: Path, kind: str) -> None:
    """SIGKILL while a node is without its seal, or stopped: its key file is in its place, and its process is gone."""
    folder = tmp_path / "region"
    node = folder / "us-east-1" / "n1"

    def is_hit() -> bool:
        if kind == "pause":
            return _has_paused(folder)
        return "the seal's key file is not there" in (node / "node.log").read_text()

    options = ("--time", "600", "--nodes", "1", "--faults", kind, "--seed", "55")
    with _torture(folder, *options) as process:
        _wait_until(process, lambda: (node / "node.log").exists() and is_hit())
        process.kill()
        process.wait()
        assert (node / "seal.key").stat().st_size == SEAL_BYTES
        deadline = time.monotonic() + ENDS_S_MAX
        while _running_in(folder):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with _keycluster("dev", "--dir", str(folder)) as dev:
        _wait_until(dev, (folder / "endpoints.json").exists)


def test_region_in_use_is_refused_and_not_touched(tmp_path: Path) -> None:
    """A `dev` that runs there keeps its endpoints file, and all else."""
    folder = tmp_path / "region"
    endpoints = folder / "endpoints.json"
    with _keycluster("dev", "--dir", str(folder), "--nodes", "1") as dev:
        _wait_until(dev, endpoints.exists)
        names, before = sorted(folder.iterdir()), endpoints.stat()
        with _torture(folder, "--time", "1") as process:
            said, told = process.communicate(timeout=ENDS_S_MAX)
        assert (process.returncode, said) == (2, "")
        assert "is in use by another `keycluster dev` or `torture`" in told
        assert dev.poll() is None
        assert sorted(folder.iterdir()) == names
        after = endpoints.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.skipif(not FULL, reason="half a minute of real processes; KEYCLUSTER_TESTS=full")
def test_planted_bug_is_found(tmp_path: Path) -> None:
    """Nodes that keep what they have cached, in spite of changes: contract 2 is broken, also in fair weather."""
    bug = read_bug(FOLDER / "cache-not-invalidated.patch")
    folder = tmp_path / "region"
    options = ("--time", "10", "--faults", "none", "--json")
    with patched_copy(bug) as copy, _torture(folder, *options, path=copy) as process:
        said, told = process.communicate(timeout=ENDS_S_MAX)
    assert process.returncode == 1, said + told
    assert "currency" in {failure["checker"] for failure in json.loads(said)["failures"]}
    assert (folder / "torture.html").exists()
