"""`keycluster simulate`: whole regions under a virtual clock and a hostile world, many seeds at once.

Exit status: 0 nothing found, 1 something was, 2 the command line is wrong or its runs can't be done, 130 interrupted.
With --json, standard output has one line for each seed and nothing else; all that is for people goes to standard error.
"""

import argparse
import math
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keycluster.cli.output import CommandFailed, Output

if TYPE_CHECKING:
    from keycluster.simulations.campaign.campaign import CampaignOptions
    from keycluster.simulations.faults import FaultKind
    from keycluster.simulations.runs import Simulator

FRESH_SEEDS = {"core": 100, "region": 10}
SEED_BITS = 48
LIMIT_S = 60.0  # Of wall time, for a run of no length; and so much more for each simulated second:
LIMIT_S_PER_S = 6.0
SHRINK_S = 60.0
SECONDS_MIN, SECONDS_MAX = 0.001, 1e7  # Of any time: `RunSpec` has the same bounds.
JOBS_MAX = 1_000
COVERAGE_SEEDS = {"core": 1_000, "region": 200}
"""Fewer don't get everywhere."""
OUT = Path("simulation-failures")
NOT_WITH_REPLAY: Final[dict[str, object]] = {
    **dict.fromkeys(("seed", "seeds", "count", "wall_s", "time", "faults", "nodes", "clients", "rate", "jobs")),
    **{"coverage": False, "compiled": None, "on": None, "out": OUT, "shrink_time": SHRINK_S},
}
"""What a replay would ignore, and its value where it isn't asked for."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    help_text = "search for bugs: run simulated regions under faults, from seeds"
    parser = commands.add_parser("simulate", help=help_text, description=f"{help_text}. See docs/simulation.md.")
    simulator = parser.add_mutually_exclusive_group()
    simulator.add_argument("--core", action="store_true", help="Raft cores and leases on a bare event heap (default)")
    simulator.add_argument("--region", action="store_true", help="whole nodes and clients")
    simulator.add_argument("--replay", type=Path, metavar="FILE", help="run a failed run again, and draw its time line")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=_seed, metavar="N", help="this one")
    seeds.add_argument("--seeds", type=_seeds, metavar="N..M", help="these, both ends included")
    seeds.add_argument("--count", type=_count, metavar="N", help="so many fresh ones (core: 100, region: 10)")
    seeds.add_argument("--for", type=_seconds, metavar="S", dest="wall_s", help="fresh ones for so many real seconds")
    parser.add_argument(
        "--time", type=_seconds, metavar="S", help="simulated seconds with faults (core: 60, region: 20)"
    )
    parser.add_argument("--faults", metavar="KIND,…", help="only these kinds, or none (default: all)")
    parser.add_argument("--nodes", type=_nodes, metavar="N", help="founding voters (default: drawn)")
    parser.add_argument("--clients", type=_clients, metavar="N", help="default: drawn")
    parser.add_argument("--rate", type=_rate, metavar="OPS", help="operations a simulated second (default: drawn)")
    parser.add_argument("--coverage", action="store_true", help="fail if a mark or a kind of fault was never seen")
    parser.add_argument("--jobs", type=_jobs, metavar="N", help="runs at once (default: one a core)")
    parser.add_argument("--limit", type=_seconds, metavar="S", help="real seconds that one run may take")
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        help="core: the same code as machine code, by mypyc, which is faster (default: where it is made or pays)",
    )
    parser.add_argument("--on", metavar="tcp://HOST:PORT", help="let the workers of this Dask scheduler do the runs")
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="DIR",
        help="for failures (default: %(default)s)",
    )
    parser.add_argument("--timeline", action="store_true", help="draw the time line of a run that didn't fail, too")
    parser.add_argument(
        "--shrink-time",
        type=_seconds_or_0,
        default=SHRINK_S,
        metavar="S",
        help="for all failures (default: %(default)s)",
    )
    parser.add_argument("--no-shrink", action="store_const", const=0.0, dest="shrink_time", help="as --shrink-time 0")
    parser.add_argument("--json", action="store_true", help="print JSON, one line a seed")
    parser.set_defaults(run=_simulate, failed=2)


def _whole(text: str, least: int, most: int | None = None) -> int:
    """An option's value within these bounds; else argparse tells which they are."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        bounds = f"from {least:,} on" if most is None else f"from {least:,} to {most:,}"
        raise argparse.ArgumentTypeError(f"a whole number {bounds}, not {text[:40]!r}")
    return value


def _number(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"a number from {least:g} to {most:,.0f}, not {text[:40]!r}")
    return value


def _seed(text: str) -> int:
    return _whole(text, 0)


def _seeds(text: str) -> tuple[int, int]:
    first, dots, last = text.partition("..")
    if not dots or not (first.isdecimal() and last.isdecimal()) or _seed(first) > _seed(last):
        raise argparse.ArgumentTypeError(f"two seeds, the smaller one first, as in 1..100, not {text[:40]!r}")
    return int(first), int(last)


def _count(text: str) -> int:
    return _whole(text, 1)


def _jobs(text: str) -> int:
    return _whole(text, 1, JOBS_MAX)


def _nodes(text: str) -> int:
    from keycluster.simulations.runs import NODES_MAX

    return _whole(text, 1, NODES_MAX)


def _clients(text: str) -> int:
    from keycluster.simulations.runs import CLIENTS_MAX

    return _whole(text, 1, CLIENTS_MAX)


def _rate(text: str) -> float:
    from keycluster.simulations.runs import OPERATIONS_PER_S_MAX, OPERATIONS_PER_S_MIN

    return _number(text, OPERATIONS_PER_S_MIN, OPERATIONS_PER_S_MAX)


def _seconds(text: str) -> float:
    return _number(text, SECONDS_MIN, SECONDS_MAX)


def _seconds_or_0(text: str) -> float:
    return _number(text, 0, SECONDS_MAX)


def _simulate(options: argparse.Namespace, output: Output) -> int:
    """Returns the exit status."""
    from keycluster.cli.simulate_report import Reporter, replay
    from keycluster.simulations.campaign.worker import MODULES, load
    from keycluster.simulations.runs import Simulator

    if options.replay is not None:
        _require_alone(options)
        return replay(options.replay, limit_s=options.limit, output=output)
    simulator = Simulator.REGION if options.region else Simulator.CORE
    if options.timeline and options.seed is None:
        raise CommandFailed("--timeline is for one run: give its --seed")
    if options.compiled and simulator is not Simulator.CORE:
        raise CommandFailed("--compiled is for --core: whole nodes spend their time in SQLite and trio")
    kinds = _kinds(options.faults, load(MODULES[simulator]).SUPPORTED)
    campaign = _campaign(options, simulator, kinds)
    if options.coverage and campaign.count is not None and campaign.count < COVERAGE_SEEDS[simulator]:
        seeds = f"{COVERAGE_SEEDS[simulator]:,} seeds and more"
        print(f"keycluster: --coverage is for {seeds}: fewer don't get everywhere", file=sys.stderr, flush=True)
    reporter = Reporter(
        campaign, folder=options.out, shrink_s=options.shrink_time, draws_all=options.timeline, output=output
    )
    return reporter.run(coverage=options.coverage)


def _require_alone(options: argparse.Namespace) -> None:
    """That nothing is asked for which a replay would ignore."""
    asked = [
        f"--{'for' if name == 'wall_s' else name.replace('_', '-')}"
        for name, unasked in NOT_WITH_REPLAY.items()
        if getattr(options, name) != unasked
    ]
    if asked:
        raise CommandFailed(f"--replay runs what its file says: leave out {', '.join(asked)}")


def _kinds(text: str | None, supported: "Sequence[FaultKind]") -> "tuple[FaultKind, ...] | None":
    """None: all."""
    if text is None:
        return None
    if text == "none":
        return ()
    known = {kind.value: kind for kind in supported}
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise CommandFailed(
            f"this simulator has no faults of kind {', '.join(unknown) or repr(text)}",
            hint=f"it has: {', '.join(sorted(known))}; or none",
        )
    return tuple(sorted({known[name] for name in names}))


def _campaign(
    options: argparse.Namespace, simulator: "Simulator", kinds: "tuple[FaultKind, ...] | None"
) -> "CampaignOptions":
    from keycluster.cluster.types import SECOND
    from keycluster.simulations.campaign.campaign import CampaignOptions
    from keycluster.simulations.campaign.worker import MODULES
    from keycluster.simulations.runs import RunSpec, Simulator

    count = None if options.wall_s else options.count or FRESH_SEEDS[simulator.value]
    if options.seed is not None:
        first, count = options.seed, 1
    elif options.seeds is not None:
        first, count = options.seeds[0], options.seeds[1] - options.seeds[0] + 1
    else:
        first = secrets.randbits(SEED_BITS)
    template = RunSpec(
        simulator=simulator,
        seed=first,
        time_ns=simulator.time_ns if options.time is None else round(options.time * SECOND),
        kinds=kinds,
        nodes=options.nodes,
        clients=options.clients,
        operations_per_s=options.rate,
    )
    return CampaignOptions(
        template=template,
        module=MODULES[simulator],
        count=count,
        seconds=options.wall_s,
        workers=options.jobs or len(os.sched_getaffinity(0)),
        limit_s=options.limit or LIMIT_S + LIMIT_S_PER_S * template.time_ns / SECOND,
        scheduler=options.on,
        is_compiled=options.compiled if simulator is Simulator.CORE else False,
    )
