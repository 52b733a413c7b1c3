"""The files that failures leave: a run that failed must be there again by one command, smaller and drawn.

For a run of core seed 7 that failed, in the findings' folder:

- `core-7.json`: the run as it was, written at once;
- `core-7.shrunk.json`: the smallest that still fails by the same checker;
- `core-7.txt`, `core-7.html`: the time line of that one.

A replay of a file, `core-7.json` or any other, is drawn beside it to `core-7.replay.txt` and `.html`.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keycluster.simulations.campaign.pool import NO_END, Job, Pool
from keycluster.simulations.campaign.replay_file import ReplayFile
from keycluster.simulations.campaign.shrink import Shrinking, shrink
from keycluster.simulations.runs import RunSpec, SeedReport

SHRUNK_MAX = 3  # Failures, each of another checker: more would mostly be the same bug again.
LIMIT_FACTOR = 5  # A smaller run may take so many times as long as the one it came from, but
LIMIT_S_MIN = 20.0  # that much always: a machine may be busy.
DRAWN = (".txt", ".html")
EARLIER = (
    ".shrunk.json",
    *(f"{stem}{ending}" for stem in ("", ".replay", ".shrunk.replay") for ending in DRAWN),
)
"""What an earlier campaign may have left of the same seed: it'd pass for this one's."""


@dataclass(slots=True)
class Finding:
    report: SeedReport
    path: Path
    """Of the newest replay file."""
    shrinking: Shrinking | None = None
    strays: bool = False
    """The same run, done again, went another way: then that is the first thing to find."""
    text: Path | None = None
    page: Path | None = None

    @property
    def checker(self) -> str:
        return self.report.failures[0].checker

    def command(self) -> str:
        """Runs it again."""
        return f"keycluster simulate --replay {self.path}"


class Findings:
    def __init__(self, folder: Path, *, module: str, workers: int, limit_s: float) -> None:
        self.all: list[Finding] = []
        self._folder = folder
        self._module = module
        self._workers = workers
        self._limit_s = limit_s
        self._is_folder_ours = False

    def make_folder(self) -> None:
        """So that the first failure isn't what finds out that it can't be written down. Raises `OSError`."""
        self._is_folder_ours = not self._folder.exists()
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder):
            pass

    def leave_folder(self) -> None:
        """It goes again if nothing is in it."""
        if self._is_folder_ours:
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def keep(self, report: SeedReport) -> Path:
        """Of a run that failed. Returns its replay file. Raises `OSError`."""
        path = self._folder / f"{report.spec.simulator.value}-{report.spec.seed}.json"
        for ending in EARLIER:
            path.with_suffix(ending).unlink(missing_ok=True)
        ReplayFile.of(report).write(path)
        self.all.append(Finding(report, path))
        return path

    def to_shrink(self) -> list[Finding]:
        """The shortest of each checker, but not those that had no end: each try would have none."""
        first: dict[str, Finding] = {}
        for finding in sorted(self.all, key=lambda one: (one.report.events, one.report.spec.seed)):
            if finding.checker != NO_END:
                first.setdefault(finding.checker, finding)
        return list(first.values())[:SHRUNK_MAX]

    def shrink_and_draw(self, finding: Finding, *, seconds: float, tell: Callable[[str], None]) -> None:
        """Takes about `seconds`, then draws the smallest run that was found."""
        limit_s = min(self._limit_s, max(LIMIT_S_MIN, finding.report.wall_s * LIMIT_FACTOR))
        stem = finding.path.with_suffix("")
        with Pool(self._module, workers=self._workers, limit_s=limit_s) as pool:
            if finding.report.drawn is not None:
                self._shrink(finding, pool, seconds=seconds, tell=tell)
        spec = finding.shrinking.spec if finding.shrinking is not None else finding.report.drawn or finding.report.spec
        drawing = draw_run(self._module, spec, stem, limit_s=limit_s)
        finding.text, finding.page = drawing.text, drawing.page

    def _shrink(self, finding: Finding, pool: Pool, *, seconds: float, tell: Callable[[str], None]) -> None:
        def try_all(specs: Sequence[RunSpec]) -> list[SeedReport]:
            done = {one.job.spec.to_json(): one.report for one in pool.completed([Job(spec) for spec in specs])}
            return [done[spec.to_json()] for spec in specs]

        ends = time.monotonic() + seconds
        report = finding.report
        [again] = try_all([report.drawn or report.spec])
        finding.strays = again.trace_sha256 != report.trace_sha256
        if finding.strays:
            tell(f"seed {report.spec.seed}: the same run gave another trace: it isn't deterministic")
        if not any(failure.checker == finding.checker for failure in again.failures):
            return
        again.drawn = again.drawn or report.drawn
        again.failures.sort(key=lambda failure: failure.checker != finding.checker)
        left = ends - time.monotonic()
        finding.shrinking = shrink(again, try_all, seconds=left, at_once=self._workers)
        finding.path = finding.path.with_suffix(".shrunk.json")
        ReplayFile.of(finding.shrinking.report).write(finding.path)


def draw_run(module: str, spec: RunSpec, stem: Path, *, limit_s: float) -> Finding:
    """Runs it once more, in a process of its own, and draws it to `STEM.txt` and `STEM.html`, if it has an end.

    Raises `OSError` where these can't be written.
    """
    text, page = (stem.with_name(f"{stem.name}{ending}") for ending in DRAWN)
    for path in (text, page):
        path.write_text("")  # Before the run: a worker that can't write would look like one that failed.
        path.unlink()
    with Pool(module, workers=1, limit_s=limit_s) as pool:
        [done] = pool.completed([Job(spec, draw_to=str(stem))])
    if text.exists() and page.exists():
        return Finding(done.report, stem, text=text, page=page)
    return Finding(done.report, stem)
