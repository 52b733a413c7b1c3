"""The table of planted bugs, for a terminal and for docs/planted-bugs.md."""

from collections.abc import Sequence
from datetime import UTC, datetime

from keycluster.simulations.planted.hunt import Found

_HEAD = """# Planted bugs

Mistakes planted into a copy of the product, and how soon the simulators find them. Each is a patch in
`simulations/planted/`, whose head says more. A seed counts only if it finds nothing without the patch.

`python -m keycluster.simulations.planted --write-docs` measures this table anew and writes it; with `--only NAME` it
looks for one. Seeds are counted from 1. Seconds are of one core, the patched copy's making included.
"""


def row_of(found: Found) -> tuple[str, ...]:
    bug = found.bug
    seeds = str(found.seeds) if found.seed is not None else f"not in {found.seeds}"
    return bug.name, bug.simulator.value, found.checker or "-", seeds, f"{found.wall_s:.0f}"


def as_text(found: Found) -> str:
    """One line."""
    name, simulator, checker, seeds, wall_s = row_of(found)
    line = f"{name:36} {simulator:7} {seeds:>12} seeds {wall_s:>6} s  {checker}"
    return line if found.seed is None or found.as_expected else f"{line}, not {' or '.join(found.bug.checkers)}"


def as_markdown(results: Sequence[Found]) -> str:
    lines = [
        _HEAD,
        _summary(results),
        "",
        "| bug | what is wrong | rule | simulator | found by | seeds | s |",
        "| --- " * 7 + "|",
    ]
    for found in results:
        name, simulator, checker, seeds, wall_s = row_of(found)
        if found.seed is not None and not found.as_expected:
            checker += f" (expected: {' or '.join(found.bug.checkers)})"
        settings = f"; {found.bug.settings}" if found.bug.settings else ""
        cells = (f"`{name}`", found.bug.what, found.bug.rule, simulator + settings, checker, seeds, wall_s)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _summary(results: Sequence[Found]) -> str:
    """Found, and found by a checker that the patch names: one that another checker stumbled over is no success."""
    missed = [found.bug.name for found in results if found.seed is None]
    otherwise = [found.bug.name for found in results if found.seed is not None and not found.as_expected]
    found_count = len(results) - len(missed)
    parts = [
        f"Measured on {datetime.now(UTC):%d %B %Y}: {found_count} of {len(results)} found, "
        f"{found_count - len(otherwise)} of them by a checker that is expected to."
    ]
    parts += [f"Found otherwise: {', '.join(otherwise)}."] if otherwise else []
    parts += [f"Not found: {', '.join(missed)}."] if missed else []
    return " ".join(parts)
