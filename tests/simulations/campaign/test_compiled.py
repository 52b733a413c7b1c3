"""Compiled code: made once, from the sources that are there, and only then used."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import keycluster
from keycluster.cluster.types import SECOND
from keycluster.simulations.campaign import compiled
from keycluster.simulations.campaign.compiled import (
    HOT,
    PAYS_FROM_S,
    CannotCompile,
    build,
    compiled_code,
    compiled_if_it_pays,
)
from keycluster.simulations.campaign.origin import FLOORS, code_sha256, tree_sha256
from keycluster.simulations.campaign.pool import Job, Pool, WorkerWontStart
from keycluster.simulations.campaign.worker import MODULES
from keycluster.simulations.runs import RunSpec, Simulator

FULL = os.environ.get("KEYCLUSTER_TESTS") == "full"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nothing is compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "keycluster" / "compiled"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small one, built like Keycluster."""
    root = tmp_path / "checkout" / "small"
    for floor in FLOORS:
        (root / floor).mkdir(parents=True)
    (root / "__init__.py").touch()
    (root / "cluster" / "messages.py").write_text("NAME = 'hello'\n")
    (root / "cluster" / "hot.py").write_text("def twice(n: int) -> int:\n    return 2 * n\n")
    return root


def not_told(text: str) -> None:
    raise AssertionError(text)


def test_every_pattern_names_modules() -> None:
    """What was moved must not silently be interpreted from then on."""
    root = Path(keycluster.__file__).parent
    assert [pattern for pattern in HOT if not list(compiled._modules(root, [pattern]))] == []


def test_hot_modules_are_compiled_once_for_each_state_of_the_code(package: Path, cache: Path) -> None:
    """What is told is told once; a change is another folder, with its own; what isn't hot stays as it is."""
    cache.mkdir(mode=0o700, parents=True)
    told: list[str] = []
    code = tree_sha256(package)
    folder = build(package, ["cluster/*.py"], code, cache=cache, tell=told.append)
    assert len(told) == 1
    assert build(package, ["cluster/*.py"], code, cache=cache, tell=not_told) == folder
    program = (
        "import small.cluster.hot as hot, small.cluster.messages as m; print(hot.twice(21), hot.__file__, m.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    printed = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed[0] == "42"
    assert printed[1].startswith(str(folder))
    assert printed[1].endswith(".so")
    assert printed[2] == str(folder / "small" / "cluster" / "messages.py")
    (package / "cluster" / "hot.py").write_text("def twice(n: int) -> int:\n    return 'no'\n")
    with pytest.raises(CannotCompile, match=r"mypyc failed .*hot\.py:2: error: Incompatible return value"):
        build(package, ["cluster/*.py"], tree_sha256(package), cache=cache, tell=told.append)
    assert {path.name for path in cache.iterdir()} == {folder.name, "build.log"}


def test_code_that_changes_while_it_is_copied_is_not_used(package: Path, cache: Path) -> None:
    """Its folder would have the name of other code."""
    cache.mkdir(mode=0o700, parents=True)
    with pytest.raises(CannotCompile, match="changed while it was copied"):
        build(package, ["cluster/*.py"], "of what was there before", cache=cache, tell=lambda _: None)


def test_cache_that_others_may_write_is_refused(cache: Path) -> None:
    """Who may write there would decide what runs."""
    cache.mkdir(parents=True)
    cache.chmod(0o770)
    with pytest.raises(CannotCompile, match="mode 0700"):
        compiled_code(not_told)


def test_cache_is_made_for_its_owner_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask says; and without a compiler there is one line about it."""
    monkeypatch.setenv("CC", "there-is-no-such-compiler -O2")
    with pytest.raises(CannotCompile, match=r"a C compiler, and there is no there-is-no-such-compiler$"):
        compiled_code(not_told)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_missing_mypyc_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    with pytest.raises(CannotCompile, match=r"pip install 'keycluster\[compiled\]'"):
        compiled_code(not_told)


def test_few_runs_use_what_is_there_and_compile_nothing(cache: Path) -> None:
    """A minute of compiling isn't worth it for a few seconds of runs."""
    assert compiled_if_it_pays(not_told, simulated_s=1.0) is None
    made = cache / compiled._key(HOT, code_sha256())
    made.mkdir(parents=True, mode=0o700)
    cache.chmod(0o700)
    assert compiled_if_it_pays(not_told, simulated_s=1.0) == made
    assert compiled_if_it_pays(not_told, simulated_s=PAYS_FROM_S) == made


def test_many_runs_without_a_compiler_are_interpreted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asked for compiled code, so its lack is no failure, but it is told."""
    told: list[str] = []
    monkeypatch.setenv("CC", "there-is-no-such-compiler -O2")
    assert compiled_if_it_pays(told.append, simulated_s=PAYS_FROM_S) is None
    [text] = told
    assert text.startswith("interpreted, ")
    assert "there is no there-is-no-such-compiler" in text


def test_worker_that_does_not_run_what_was_compiled_is_refused(tmp_path: Path) -> None:
    """Figures of the interpreter must not pass for the compiler's: here the folder has nothing to import."""
    spec = RunSpec(Simulator.CORE, 1, SECOND)
    with (
        Pool(MODULES[Simulator.CORE], workers=1, limit_s=20, compiled=tmp_path) as pool,
        pytest.raises(WorkerWontStart, match="is interpreted"),
    ):
        list(pool.completed([Job(spec)]))


@pytest.mark.skipif(not FULL, reason="a minute to compile: KEYCLUSTER_TESTS=full")
@pytest.mark.timeout(900)
def test_compiled_runs_are_the_interpreter_s() -> None:
    """Byte for byte, as hashes of traces say, with every kind of fault; and if something is found, by both."""
    jobs = [Job(replace(RunSpec(Simulator.CORE, 1, 20 * SECOND), seed=seed)) for seed in range(40)]
    traces = []
    for folder in (None, compiled_code(print)):
        with Pool(MODULES[Simulator.CORE], workers=2, limit_s=60, compiled=folder) as pool:
            done = list(pool.completed(jobs))
        traces.append({one.job.spec.seed: (one.report.trace_sha256, one.report.failures) for one in done})
    assert traces[0] == traces[1]
    assert len(traces[0]) == len(jobs)
