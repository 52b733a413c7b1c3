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
    return f"{name:34} {simulator:7} {seeds:>12} seeds {wall_s:>6} s  {checker}"


def as_markdown(results: Sequence[Found]) -> str:
    missed = [found.bug.name for found in results if found.seed is None]
    lines = [_HEAD]
    lines.append(
        f"Measured on {datetime.now(UTC):%d %B %Y}: {len(results) - len(missed)} of {len(results)} found."
        + (f" Not found: {', '.join(missed)}." if missed else "")
    )
    lines += ["", "| bug | what is wrong | rule | simulator | found by | seeds | s |", "| --- " * 7 + "|"]
    for found in results:
        name, simulator, checker, seeds, wall_s = row_of(found)
        settings = f"; {found.bug.settings}" if found.bug.settings else ""
        cells = (f"`{name}`", found.bug.what, found.bug.rule, simulator + settings, checker, seeds, wall_s)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
