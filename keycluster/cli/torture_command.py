"""`keycluster torture`: a region of real processes under real kills, pauses and cuts, and what its clients saw of it.

Exit status: 0 nothing found, 1 something was, 2 the command line is wrong or the run can't be done, 130 interrupted.
With --json, standard output has one object and nothing else; all that is for people goes to standard error.
"""

import argparse
import json
import secrets
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from keycluster.cli.output import CommandFailed, Output, printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from keycluster.simulations.checkers.history import History
    from keycluster.simulations.faults import FaultKind
    from keycluster.simulations.torture.nemesis import Nemesis
    from keycluster.simulations.torture.run import Torture

SEED_BITS = 48
SEED_MAX = 2**63 - 1
TIME_S_MAX, TIME_S_DEFAULT = 1_000_000, 60.0
NODES_MAX = 9  # As `dev` has it.
CLIENTS_MAX = 100  # Each has proxies of its own, in one process.
RATE_MAX = 10_000
TEXT_SHOWN = 50
INTERRUPTED = 130
WIDTH = 118
FAILURES_SHOWN = 20
DESCRIPTION = (
    "Starts the region of `keycluster dev` in DIR, lets clients use it while its nodes are killed, paused and cut off "
    "from each other, and checks what the clients saw. Ends all that it started. DIR/history.jsonl has every call; "
    "where something was found, DIR/torture.txt and .html have the time line. See docs/simulation.md."
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    help_text = "search for bugs: a region of real processes under kills, pauses and cuts"
    parser = commands.add_parser("torture", help=help_text, description=DESCRIPTION)
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="as for `keycluster dev`, new or not")
    seconds, seeds = _between(1.0, TIME_S_MAX, "seconds"), _between(0, SEED_MAX, "for a seed")
    nodes, clients = _between(1, NODES_MAX, "nodes"), _between(1, CLIENTS_MAX, "clients")
    rate = _between(1.0, RATE_MAX, "operations a second")
    parser.add_argument(
        "--time", type=seconds, default=TIME_S_DEFAULT, metavar="S", help="seconds with faults (default: 60)"
    )
    parser.add_argument(
        "--seed", type=seeds, metavar="N", help="of faults, and of how clients work (default: a fresh one)"
    )
    parser.add_argument("--nodes", type=nodes, metavar="N", help="of a new region (default: 3, or as before)")
    parser.add_argument("--clients", type=clients, metavar="N", help="(default: 6)")
    parser.add_argument("--rate", type=rate, metavar="OPS", help="operations a second, of all clients (default: 40)")
    parser.add_argument("--faults", metavar="KIND,…", help="only these kinds, or none (default: a choice of all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_torture, failed=2)


def _between(least: float, most: float, what: str) -> Callable[[str], float]:
    """An option's type: such a number, in this range."""
    convert = int if isinstance(least, int) else float

    def parse(text: str) -> float:
        with suppress(ValueError):
            if least <= (value := convert(text)) <= most:
                return value
        raise argparse.ArgumentTypeError(f"{least:g} to {most:,} {what}, not {text[:TEXT_SHOWN]!r}")

    return parse


def _torture(options: argparse.Namespace, output: Output) -> int:
    """Returns the exit status."""
    from keycluster.cluster.types import SECOND
    from keycluster.simulations.runs import RunSpec, SeedReport, Simulator
    from keycluster.simulations.torture.folder import RegionUnfit
    from keycluster.simulations.torture.run import SUPPORTED, Torture, run_in

    spec = RunSpec(
        simulator=Simulator.TORTURE,
        seed=secrets.randbits(SEED_BITS) if options.seed is None else options.seed,
        time_ns=round(options.time * SECOND),
        kinds=_kinds(options.faults, SUPPORTED),
        nodes=options.nodes,
        clients=options.clients,
        operations_per_s=options.rate,
    )
    folder: Path = options.dir.absolute()
    torture, is_interrupted = Torture(SeedReport(spec)), False
    print(f"torture: seed {spec.seed}", file=sys.stderr, flush=True)
    try:
        with _bar(options.time) as bar:
            run_in(folder, torture, progress=_Progress(bar, options.time))
    except RegionUnfit as unfit:
        raise CommandFailed(str(unfit)) from None
    except KeyboardInterrupt:
        is_interrupted = True
    _leave(folder, torture)
    _tell(folder, torture, output, is_interrupted=is_interrupted)
    if torture.report.failures:
        return 1
    return INTERRUPTED if is_interrupted else 0


def _kinds(text: str | None, supported: "tuple[FaultKind, ...]") -> "tuple[FaultKind, ...] | None":
    """None: all."""
    if text in (None, "none"):
        return None if text is None else ()
    known = {kind.value: kind for kind in supported}
    names = [name.strip() for name in (text or "").split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CommandFailed(
            f"real processes have no faults of kind {', '.join(name or repr(name) for name in unknown)}",
            hint=f"there are: {', '.join(sorted(known))}; or none",
        )
    return tuple(sorted({known[name] for name in names}))


def _bar(seconds: float) -> "Bar":
    """On a terminal; elsewhere nothing is shown."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    bar.add_task("starting the region", total=seconds)
    return bar


class _Progress:
    def __init__(self, bar: "Bar", seconds: float) -> None:
        self._bar = bar
        self._seconds = seconds

    def __call__(self, doing: str, elapsed_s: float, nemesis: "Nemesis | None", history: "History") -> None:
        faults = 0 if nemesis is None else nemesis.counts.total()
        text = f"{doing}: {_counted(faults, 'fault')}, {_counted(len(history.calls), 'call')}"
        [task] = self._bar.task_ids
        self._bar.update(task, completed=min(elapsed_s, self._seconds), description=text)


def _leave(folder: Path, torture: "Torture") -> None:
    """The run's files, in place of an earlier run's."""
    from keycluster.simulations.timeline import draw

    for name in ("torture.txt", "torture.html", "torture.json"):
        (folder / name).unlink(missing_ok=True)
    report = torture.report
    if report.failures:
        (folder / "torture.json").write_text((report.drawn or report.spec).to_json() + "\n")
        draw.write(folder / "torture", report, torture.trace.records())


def _tell(folder: Path, torture: "Torture", output: Output, *, is_interrupted: bool) -> None:
    report = torture.report
    if output.json:
        print(json.dumps({**report.to_json(), "interrupted": is_interrupted}), flush=True)
        return
    if is_interrupted:
        print("interrupted: this is what was done until then")
    outcomes = Counter[str]()
    for name, count in report.operations.items():
        outcomes[name.split()[1]] += count
    _print_counts(_counted(report.operations.total(), "operation"), outcomes)
    _print_counts(_counted(report.faults.total(), "fault"), report.faults)
    print(
        f"{_counted(len(report.failures), 'violation')}; seed {report.spec.seed}; history: {folder / 'history.jsonl'}"
    )
    for failure in report.failures[:FAILURES_SHOWN]:
        print(printable(f"✗ {failure.checker}: {failure.message.splitlines()[0]}"))
    if report.failures:
        print(f"time line: {folder / 'torture.txt'}, {folder / 'torture.html'}")


def _print_counts(what: str, counts: Counter[str]) -> None:
    items = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    print(textwrap.fill(f"{what}: {items or 'none'}", WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
