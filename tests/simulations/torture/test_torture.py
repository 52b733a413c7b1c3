"""`keycluster torture` on real processes: it hurts them, finds what is wrong, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from keycluster.cluster.types import SECOND
from keycluster.simulations.checkers.history import History, ok
from keycluster.simulations.planted.bugs import FOLDER, read_bug
from keycluster.simulations.planted.copies import patched_copy
from keycluster.simulations.runs import RunSpec, Simulator
from keycluster.simulations.torture.run import SUPPORTED, draw_faults, judge

ENDS_S_MAX = 100.0
FULL = os.environ.get("KEYCLUSTER_TESTS") == "full"


@contextmanager
def _torture(folder: Path, *options: str, path: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    """The command, running; ended in the end."""
    environment = dict(os.environ) if path is None else {**os.environ, "PYTHONPATH": str(path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "keycluster", "torture", "--dir", str(folder), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder.parent,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _running_in(folder: Path) -> list[str]:
    """Command lines of processes that have to do with the folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and f"/{os.getpid()}/" not in str(file):
            found.append(words)
    return found


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
    """Ctrl-C in the midst of it: its processes are gone, what was done until then is kept, and that is no failure."""
    folder = tmp_path / "region"
    with _torture(folder, "--time", "600", "--nodes", "1") as process:
        log, deadline = folder / "us-east-1" / "n1" / "node.log", time.monotonic() + ENDS_S_MAX
        while not log.exists() or not re.search("node is up.*node is up", log.read_text(), re.DOTALL):  # dev's, ours.
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
        said, told = process.communicate(timeout=ENDS_S_MAX)
    assert process.returncode == 130, said + told
    assert "interrupted" in said
    assert (folder / "history.jsonl").exists()
    assert _running_in(folder) == []


def test_folder_that_dev_can_t_use_is_refused_in_one_line(tmp_path: Path) -> None:
    """What `dev` says of it is told."""
    folder = tmp_path / "region"
    folder.mkdir()
    (folder / "dev.json").write_text("no settings")
    with _torture(folder, "--time", "1") as process:
        said, told = process.communicate(timeout=ENDS_S_MAX)
    assert process.returncode == 1
    assert "dev.json is not what `keycluster dev` wrote" in told
    assert "Traceback" not in told
    assert said == ""


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
