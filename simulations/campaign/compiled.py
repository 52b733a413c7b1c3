"""The core simulator as machine code: the very same sources, compiled by mypyc, which comes with mypy.

A copy of all code is made in a cache folder named by a hash of the sources and of what compiles them; its hot modules
are compiled beside their sources there, and workers import that copy. So a campaign also goes on with the code that it
began with, whatever is edited meanwhile. Nothing but these workers uses it: the interpreter is the reference, by which
failed runs are shrunk and drawn, and a trace that differs is told.

The cache is the user's own (0700): who may write there decides what runs.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import keycluster
from keycluster.simulations.campaign.origin import FLOORS, code_sha256, tree_sha256

HOT: Final = (
    "cluster/raft/*.py",
    "cluster/leases/*.py",
    "cluster/acknowledgements.py",
    "cluster/cluster_time.py",
    "cluster/invariant.py",
    "cluster/marks.py",
    "cluster/replica.py",
    "simulations/core/*.py",
    "simulations/trace.py",
)
"""What a core run spends its time in."""

INTERPRETED: Final = (
    *("__init__.py", "messages.py"),  # msgspec makes messages' classes itself, and mypyc would make its own.
    *("nemesis.py", "changes.py", "rollback.py", "links.py", "shape.py", "speed.py"),  # Rarely run.
)
"""Of these folders, what stays as it is."""

KEPT_S: Final = 14 * 24 * 3600  # A copy that wasn't used for so long is removed when the next one is made.
PAYS_FROM_S: Final = 60_000.0
"""Simulated seconds, of all runs together: the interpreter takes some eight minutes of processor time for as many."""
TOOLS: Final = ("mypy", "setuptools")
UNSUITED = "a worker doesn't run the compiled code"


class CannotCompile(Exception):
    """What is missing, or the compiler's last word: one line."""


def compiled_code(tell: Callable[[str], None]) -> Path:
    """The folder to import `keycluster` from. Made if it isn't there, which takes a minute or some; `tell` is told so.

    Raises `CannotCompile`.
    """
    cache = _own_folder(_cache_home() / "keycluster" / "compiled")
    with _locked(cache / ".lock"):
        return build(Path(keycluster.__file__).parent, HOT, code_sha256(), cache=cache, tell=tell)


def compiled_if_it_pays(tell: Callable[[str], None], *, simulated_s: float) -> Path | None:
    """The folder if it is there, or if compiling costs less than it saves in so many simulated seconds. None: it isn't
    and wouldn't; or it would, and can't be made here, which is told."""
    try:
        if simulated_s >= PAYS_FROM_S:
            return compiled_code(tell)
    except CannotCompile as error:
        tell(f"interpreted, which takes twice as long: {error}")
        return None
    target = _cache_home() / "keycluster" / "compiled" / _key(HOT, code_sha256())
    if not target.is_dir():
        return None
    try:
        _own_folder(target.parent)
        os.utime(target)
    except (CannotCompile, OSError):
        return None
    return target


def build(root: Path, hot: Sequence[str], code: str, *, cache: Path, tell: Callable[[str], None]) -> Path:
    """Compiles modules of the package at `root`, whose `tree_sha256` is `code`, unless that was done before."""
    target = cache / _key(hot, code)
    if not target.exists():
        _require_tools()
        tell("compiling the simulator, a minute or some, once for each state of its code")
        _remove_old(cache)
        with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as folder:
            work = Path(folder) / "code"
            _copy(root, work / root.name)
            if tree_sha256(work / root.name) != code:
                raise CannotCompile("the code was changed while it was copied: try again")
            _compile(work, list(_modules(work / root.name, hot)), log=cache / "build.log")
            work.rename(target)
    os.utime(target)
    return target


def require_compiled(code: str) -> None:
    """In a worker: that it runs what was compiled from `code`. Raises `CannotCompile`."""
    root = Path(keycluster.__file__).parent
    if code_sha256() != code:
        raise CannotCompile(f"{UNSUITED}: {root} has other sources")
    for path in _modules(root, HOT):
        module = import_module(".".join(path.relative_to(root.parent).with_suffix("").parts))
        if not isinstance(getattr(module.__spec__, "loader", None), ExtensionFileLoader):
            raise CannotCompile(f"{UNSUITED}: {module.__name__} is interpreted")


def _modules(root: Path, hot: Sequence[str]) -> Iterator[Path]:
    for pattern in hot:
        yield from (path for path in sorted(root.glob(pattern)) if path.name not in INTERPRETED)


def _key(hot: Sequence[str], code: str) -> str:
    """Of all that decides what a build gives."""
    tools = [f"{name} {metadata.version(name)}" for name in TOOLS if find_spec(name) is not None]
    parts = [code, *hot, *INTERPRETED, sys.version, sysconfig.get_platform(), *tools, shlex.join(_compiler())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def _require_tools() -> None:
    if find_spec("mypyc") is None or find_spec("setuptools") is None:
        raise CannotCompile("--compiled needs mypyc: pip install 'keycluster[compiled]'")
    compiler = _compiler()[0]
    if shutil.which(compiler) is None:
        raise CannotCompile(f"--compiled needs a C compiler, and there is no {compiler}")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise CannotCompile("--compiled needs Python's own headers (Debian: python3-dev)")


def _copy(root: Path, target: Path) -> None:
    """Sources only; what is a symbolic link in a checkout is a folder there."""
    places = [(path, target / path.name) for path in root.glob("*.py")]
    for floor in FLOORS:
        folder = (root / floor).resolve()
        places += [(path, target / floor / path.relative_to(folder)) for path in folder.rglob("*.py")]
    for path, place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _compile(work: Path, modules: Sequence[Path], *, log: Path) -> None:
    """Beside their sources, in `work`."""
    command = [sys.executable, "-m", "mypyc", "--strict", "--follow-imports=silent", f"--cache-dir={os.devnull}"]
    with log.open("w") as output:
        status = subprocess.run(  # noqa: S603
            [*command, *(str(path.relative_to(work)) for path in modules)],
            cwd=work,
            env={**os.environ, "PYTHONPATH": "", "MYPYC_OPT_LEVEL": "2", "MYPYC_DEBUG_LEVEL": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        error = next((line for line in lines if "error" in line), lines[-1] if lines else f"status {status}")
        raise CannotCompile(f"mypyc failed ({log}): {error.strip()}")
    shutil.rmtree(work / "build", ignore_errors=True)


# The cache


def _cache_home() -> Path:
    """As the XDG base directory specification has it: a relative path there counts as none."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return home if home.is_absolute() else Path.home() / ".cache"


def _own_folder(path: Path) -> Path:
    """Made if need be. Nobody else may write there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise CannotCompile(f"{path} must be this user's own folder, with mode 0700")
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One at a time makes the copy; the others wait, and use it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_old(cache: Path) -> None:
    before = time.time() - KEPT_S
    for folder in cache.iterdir():
        if folder.is_dir() and folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)
