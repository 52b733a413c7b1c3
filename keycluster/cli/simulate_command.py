"""`keycluster simulate`: whole regions under a virtual clock and a hostile world, many seeds at once.

Exit status: 0 nothing found, 1 something was, 2 the command line is wrong or its runs can't be done, 130 interrupted.
With --json, standard output has one line for each seed and nothing else; all that is for people goes to standard error.
"""

import argparse
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    seeds.add_argument("--count", type=_positive, metavar="N", help="so many fresh ones (core: 100, region: 10)")
    seeds.add_argument("--for", type=_seconds, metavar="S", dest="wall_s", help="fresh ones for so many real seconds")
    parser.add_argument(
        "--time", type=_seconds, metavar="S", help="simulated seconds with faults (core: 60, region: 20)"
    )
    parser.add_argument("--faults", metavar="KIND,…", help="only these kinds, or none (default: all)")
    parser.add_argument("--nodes", type=_positive, metavar="N", help="founding voters (default: drawn)")
    parser.add_argument("--clients", type=_positive, metavar="N", help="default: drawn")
    parser.add_argument("--rate", type=_seconds, metavar="OPS", help="operations a simulated second (default: drawn)")
    parser.add_argument("--coverage", action="store_true", help="fail if a mark or a kind of fault was never seen")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="runs at once (default: one a core)")
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
        default=Path("simulation-failures"),
        metavar="DIR",
        help="for failures (default: %(default)s)",
    )
    parser.add_argument("--timeline", action="store_true", help="draw the time line of a run that didn't fail, too")
    parser.add_argument(
        "--shrink-time",
        type=_not_negative,
        default=SHRINK_S,
        metavar="S",
        help="for all failures (default: %(default)s)",
    )
    parser.add_argument("--no-shrink", action="store_const", const=0.0, dest="shrink_time", help="the same as 0")
    parser.add_argument("--json", action="store_true", help="print JSON, one line a seed")
    parser.set_defaults(run=_simulate, failed=2)


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _seeds(text: str) -> tuple[int, int]:
    first, dots, last = text.partition("..")
    if not dots or _seed(first) > _seed(last):
        raise argparse.ArgumentTypeError("as in 1..100")
    return int(first), int(last)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e7:
        raise ValueError
    return value


def _seconds(text: str) -> float:
    value = _not_negative(text)
    if value < 0.001:
        raise ValueError
    return value


for _type, _name in ((_seed, "seed"), (_positive, "number"), (_not_negative, "number"), (_seconds, "number")):
    _type.__name__ = _name  # What argparse calls it when it refuses.


def _simulate(options: argparse.Namespace, output: Output) -> int:
    """Returns the exit status."""
    from keycluster.cli.simulate_report import Reporter, replay
    from keycluster.simulations.campaign.worker import MODULES, load
    from keycluster.simulations.runs import Simulator

    if options.replay is not None:
        return replay(options.replay, limit_s=options.limit, output=output)
    simulator = Simulator.REGION if options.region else Simulator.CORE
    if options.timeline and options.seed is None:
        raise CommandFailed("--timeline is for one run: give its --seed")
    if options.compiled and simulator is not Simulator.CORE:
        raise CommandFailed("--compiled is for --core: whole nodes spend their time in SQLite and trio")
    kinds = _kinds(options.faults, load(MODULES[simulator]).SUPPORTED)
    campaign = _campaign(options, simulator, kinds)
    reporter = Reporter(
        campaign, folder=options.out, shrink_s=options.shrink_time, draws_all=options.timeline, output=output
    )
    return reporter.run(coverage=options.coverage)


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
