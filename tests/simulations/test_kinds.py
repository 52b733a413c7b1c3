"""Which faults there are: what the manual says and what each of the simulators, and torture, can do are the same."""

import re
from pathlib import Path

from keycluster.simulations.campaign.worker import MODULES, load
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import Simulator
from keycluster.simulations.torture.run import SUPPORTED as TORTURE

MANUAL = Path(__file__).parents[2] / "docs" / "simulation.md"
COLUMNS = ("core", "region", "torture")
ROW = re.compile(r"^\| `(?P<kind>[a-z-]+)` \|(?P<marks>[ ✓]*\|[ ✓]*\|[ ✓]*)\| [^|\n]+ \|$", re.MULTILINE)


def in_manual() -> dict[str, set[str]]:
    """Who does it, by kind."""
    return {
        row["kind"]: {name for name, mark in zip(COLUMNS, row["marks"].split("|"), strict=True) if mark.strip()}
        for row in ROW.finditer(MANUAL.read_text())
    }


def test_manual_says_who_does_which_faults() -> None:
    """Its table has each kind once, and no others."""
    supported = {
        "core": load(MODULES[Simulator.CORE]).SUPPORTED,
        "region": load(MODULES[Simulator.REGION]).SUPPORTED,
        "torture": TORTURE,
    }
    done_by = {kind.value: {name for name, kinds in supported.items() if kind in kinds} for kind in FaultKind}
    assert in_manual() == done_by
    assert len(ROW.findall(MANUAL.read_text())) == len(FaultKind)
