"""Writes a run's time line: `STEM.txt` and `STEM.html`."""

from collections.abc import Sequence
from pathlib import Path

from keycluster.simulations.runs import SeedReport
from keycluster.simulations.timeline.model import make_timeline
from keycluster.simulations.timeline.page import draw_page
from keycluster.simulations.timeline.text import draw_text
from keycluster.simulations.trace import Record


def write(stem: Path, report: SeedReport, records: Sequence[Record]) -> None:
    """Both files, in place of older ones."""
    timeline = make_timeline(report, records)
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.txt").write_text(draw_text(timeline))
    stem.with_name(f"{stem.name}.html").write_text(draw_page(timeline))
