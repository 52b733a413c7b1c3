"""What `keycluster simulate` shows: a bar while it goes on, a line a seed for machines, and what it all came to."""

import contextlib
import json
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from keycluster.cli.output import CommandFailed, Output, printable
from keycluster.cluster.types import SECOND
from keycluster.simulations.campaign.campaign import CampaignOptions, run_campaign
from keycluster.simulations.campaign.compiled import CannotCompile, compiled_code, compiled_if_it_pays
from keycluster.simulations.campaign.findings import Finding, Findings, draw_run
from keycluster.simulations.campaign.origin import origin
from keycluster.simulations.campaign.pool import WorkerWontStart
from keycluster.simulations.campaign.remote import RemoteFailed
from keycluster.simulations.campaign.replay_file import ReplayFile
from keycluster.simulations.campaign.totals import Totals
from keycluster.simulations.campaign.worker import MODULES, load
from keycluster.simulations.runs import Failure, SeedReport, SpecMalformed

SEEDS_SHOWN = 12  # Of those that failed by one checker.
MESSAGE_LINES = 6
INTERRUPTED = 130
WIDTH = 118
REPLAY_LIMIT_S = 3_600.0


class _NotDrawn(Exception):
    """The time line that was asked for isn't there."""


class Reporter:
    """Runs a campaign and tells of it."""

    def __init__(
        self, options: CampaignOptions, *, folder: Path, shrink_s: float, draws_all: bool, output: Output
    ) -> None:
        self._options = options
        self._shrink_s = shrink_s
        self._draws_all = draws_all
        self._output = output
        self._folder = folder
        supported = load(options.module).SUPPORTED
        kinds = supported if options.template.kinds is None else options.template.kinds
        self._totals = Totals(options.template.simulator, tuple(kinds))
        self._findings = Findings(folder, module=options.module, workers=options.workers, limit_s=options.limit_s)
        self._people: TextIO = sys.stderr if output.json else sys.stdout
        self._quiet_tty = not sys.stderr.isatty()

    def run(self, *, coverage: bool) -> int:
        """Returns the exit status. Ctrl-C ends it, with what is done so far."""
        interrupted = False
        try:
            self._run_all()
            if self._shrink_s > 0:
                self._shrink_all()
            if self._draws_all and not any(finding.text for finding in self._findings.all):
                self._draw()
        except KeyboardInterrupt:
            interrupted = True
            self._say("interrupted: this is what was done until then")
        except (CannotCompile, WorkerWontStart, RemoteFailed, _NotDrawn, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            if self._totals.seeds:
                self._summarise(coverage=False)
            raise CommandFailed(str(error), status=1 if self._totals.failed else None) from None
        finally:
            self._findings.leave_folder()
        gaps = self._summarise(coverage=coverage and not interrupted)
        if self._totals.failed or gaps:
            return 1
        return INTERRUPTED if interrupted else 0

    def _run_all(self) -> None:
        options = self._options
        compiled = self._compiled()
        self._totals.began = time.monotonic()
        seeds = f"seeds from {options.template.seed}" if options.count != 1 else f"seed {options.template.seed}"
        print(f"{options.template.simulator.value}: {seeds}", file=sys.stderr, flush=True)
        with self._bar("", options.count) as (bar, task):

            def on_done(report: SeedReport, replay_file: Path | None) -> None:
                self._tell(report, replay_file, bar)
                bar.update(task, advance=1, description=self._progress())

            try:
                run_campaign(options, self._totals, self._findings, on_done, compiled=compiled, tell=self._note)
            finally:
                self._totals.ended = time.monotonic()

    def _compiled(self) -> Path | None:
        options = self._options
        if options.scheduler is not None or options.is_compiled is False:
            return None
        if options.is_compiled:
            return compiled_code(self._note)
        return compiled_if_it_pays(self._note, simulated_s=options.simulated_s)

    def _tell(self, report: SeedReport, replay_file: Path | None, bar: Progress) -> None:
        """One seed: a line of JSON, or what it failed by."""
        if self._output.json:
            value = report.to_json() | ({} if replay_file is None else {"replay": str(replay_file)})
            print(json.dumps(value), flush=True)
        if report.failures:
            failure = report.failures[0]
            line = printable(f"seed {report.spec.seed} failed: {failure.checker}: {_headline(failure)}")
            bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _progress(self) -> str:
        totals = self._totals
        failed = f", {len(totals.failed)} failed" if totals.failed else ""
        return f"{totals.simulated_ns / SECOND / max(totals.elapsed_s, 1e-3):,.0f} simulated s/s{failed}"

    @contextlib.contextmanager
    def _bar(self, description: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
        """On a terminal; elsewhere only what is printed through it shows."""
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), disable=self._quiet_tty, transient=True) as bar:
            yield bar, bar.add_task(description, total=total)

    def _shrink_all(self) -> None:
        findings = self._findings.to_shrink()
        for finding in findings:
            self._note(f"shrinking seed {finding.report.spec.seed}, {finding.checker}")
            self._findings.shrink_and_draw(finding, seconds=self._shrink_s / len(findings), tell=self._note)

    def _draw(self) -> None:
        spec = self._options.template
        stem = self._folder / f"{spec.simulator.value}-{spec.seed}"
        done = draw_run(self._options.module, spec, stem, limit_s=self._options.limit_s)
        if done.text is None:
            raise _NotDrawn(f"no time line was drawn: {_headline(done.report.failures[0])}")
        if not self._output.json:
            print(done.text.read_text())
        self._say(f"time line: {done.text}, {done.page}")

    def _note(self, text: str) -> None:
        """What goes on, for whoever watches."""
        print(f"… {text}", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        print(text, file=self._people, flush=True)

    # What it all came to

    def _summarise(self, *, coverage: bool) -> list[str]:
        """Returns why too little was tested."""
        totals = self._totals
        first = self._options.template.seed
        last = f"..{first + totals.seeds - 1}" if totals.seeds > 1 else ""
        self._say(
            f"{totals.simulator.value}: {totals.seeds:,} seed{'' if totals.seeds == 1 else 's'} ({first}{last}),"
            f" {totals.simulated_ns / SECOND:,.0f} simulated s in {totals.elapsed_s:,.1f} s; on one core"
            f" {totals.speed:,.0f} simulated s/s and {totals.events_per_s:,.0f} events/s"
        )
        self._say_counts("faults", totals.faults)
        self._say_counts("effects on disks", totals.effects)
        self._say_operations()
        self._say(f"succeeded in a simulated second: {totals.load.writes:.2f} writes, {totals.load.uses:.2f} uses")
        gaps = totals.gaps(coverage=coverage)
        if not coverage and totals.seeds > 1:  # One run alone can't have had them all.
            self._say_list("kinds without effect", totals.kinds_without_effect())
            self._say_list("marks never hit", totals.marks_never_hit())
        for gap in gaps:
            self._say(f"✗ {gap}")
        self._say_failures()
        return gaps

    def _say_counts(self, name: str, counts: Counter[str]) -> None:
        self._say_list(name, [f"{what} {count:,}" for what, count in sorted(counts.items())])

    def _say_operations(self) -> None:
        """By outcome, and which never succeeded: what never does is not being tested."""
        outcomes: Counter[str] = Counter()
        succeeded: dict[str, bool] = {}
        for name, count in self._totals.operations.items():
            operation, _, outcome = name.partition(" ")
            outcomes[outcome.partition(" ")[0]] += count
            succeeded[operation] = succeeded.get(operation, False) or outcome.startswith("ok")
        self._say_counts("operations", outcomes)
        self._say_list("operations that never succeeded", sorted(name for name, did in succeeded.items() if not did))

    def _say_list(self, name: str, items: list[str]) -> None:
        if items:
            self._say(
                textwrap.fill(f"{name}: {', '.join(items)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
            )

    def _say_failures(self) -> None:
        findings = self._findings.all
        if not findings:
            self._say("nothing found")
            return
        plural = "" if self._totals.seeds == 1 else "s"
        self._say(f"{len(findings):,} of {self._totals.seeds:,} seed{plural} failed, by the code of {origin().commit}:")
        by_checker: dict[str, list[Finding]] = {}
        for finding in sorted(findings, key=lambda finding: finding.shrinking is None):
            by_checker.setdefault(finding.checker, []).append(finding)
        for first, *others in by_checker.values():
            for line in _about(first):
                self._say(line)
            if others:
                seeds = [str(finding.report.spec.seed) for finding in others[:SEEDS_SHOWN]]
                more = f" and {len(others) - SEEDS_SHOWN:,} more" if len(others) > SEEDS_SHOWN else ""
                self._say(f"    by the same checker: seeds {', '.join(seeds)}{more}, in {self._folder}")


def _headline(failure: Failure) -> str:
    """Of a traceback, what it ends with."""
    lines = failure.message.splitlines() or [""]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _about(finding: Finding) -> Iterator[str]:
    report = finding.shrinking.report if finding.shrinking else finding.report
    failure = next(failure for failure in report.failures if failure.checker == finding.checker)
    yield printable(f"✗ seed {report.spec.seed}, {finding.checker}: {_headline(failure)}")
    rest = [line for line in failure.message.splitlines() if line != _headline(failure)]
    yield from (f"    {printable(line)}" for line in rest[-MESSAGE_LINES:])
    if finding.strays:
        yield "    the same run gave another trace when it was repeated: it isn't deterministic"
    if finding.shrinking is not None:
        spec, before = finding.shrinking.spec, finding.report.drawn or finding.report.spec
        yield (
            f"    shrunk in {finding.shrinking.tried} tries: faults from {len(before.faults or ())} to"
            f" {len(spec.faults or ())}, time from {before.time_ns / SECOND:g} s to {spec.time_ns / SECOND:.4g} s"
            f"{'' if finding.shrinking.is_minimal else '; there was no time for more'}"
        )
    if finding.text is not None:
        yield f"    time line: {finding.text}, {finding.page}"
    yield f"    again: {finding.command()}"


def replay(path: Path, *, limit_s: float | None, output: Output) -> int:
    """Runs a failed run again and draws it. Returns the exit status: 1 too where it isn't deterministic."""
    file, module = _read_replay(path)
    changes = file.origin.changes_to(origin())
    if changes:
        print(f"keycluster: not as in {path}: {'; '.join(changes)}", file=sys.stderr, flush=True)
    try:
        stem = path.with_name(f"{path.name.removesuffix('.json')}.replay")
        drawing = draw_run(module, file.spec, stem, limit_s=limit_s or REPLAY_LIMIT_S)
    except WorkerWontStart as error:
        raise CommandFailed(str(error)) from None
    report = drawing.report
    is_same_trace = file.trace_sha256 == report.trace_sha256
    if output.json:
        value: dict[str, Any] = report.to_json() | {
            "same_code": file.origin.is_same_code(origin()),
            "same_versions": file.origin.versions == origin().versions,
            "same_trace": is_same_trace,
            "commit": file.origin.commit,
        }
        print(json.dumps(value))
    else:
        _print_replay(file, drawing, changes=changes)
    strays = bool(file.trace_sha256) and not changes and not is_same_trace
    return 1 if report.failures or strays else 0


def _read_replay(path: Path) -> tuple[ReplayFile, str]:
    """With the module of its simulator, which can do all that it asks for."""
    try:
        file = ReplayFile.read(path)
        module = MODULES.get(file.spec.simulator)
        if module is not None:
            file.spec.require_supported(load(module).SUPPORTED)
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from None
    except SpecMalformed as error:
        raise CommandFailed(f"{path}: {error}") from None
    if module is None:
        raise CommandFailed(f"{path}: what real processes did can't be done again; their run is in its time line")
    return file, module


def _print_replay(file: ReplayFile, drawing: Finding, *, changes: list[str]) -> None:
    """What it came to is said last: above it there may be pages."""
    if drawing.text is not None:
        print(drawing.text.read_text())
        print(f"time line: {drawing.text}, {drawing.page}")
    why = "; ".join(changes)
    if not file.trace_sha256:
        print("the file has no trace to compare with")
    elif file.trace_sha256 == drawing.report.trace_sha256:
        print("the same trace as in the file" + (f", though {why}" if why else ""))
    elif why:
        print(f"another trace than in the file: {why}")
    else:
        print("✗ another trace than in the file, by the same code: this run isn't deterministic")
    for failure in drawing.report.failures:
        print(f"✗ {failure.checker}: {failure.message}")
    if not drawing.report.failures:
        print("nothing found" + (f", but not as in the file: {why}" if why else ""))
