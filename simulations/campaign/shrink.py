"""The smallest run that still fails: fewer faults, less time, fewer clients, fewer operations, fewer nodes.

Each fault has random numbers of its own, so leaving one out changes no other; but a run is chaotic, and what follows a
change may go another way altogether. So this is a search for runs that fail *by the same checker*, no proof that the
rest had no part in it. Faults go by delta debugging (Zeller and Hildebrandt, TSE 2002): halves, then quarters, then
smaller parts; the search ends when no single fault can go, or with its time.

Plain values: what tries a run is handed in. Candidates are tried several at once and the first in their order is taken,
so that with time enough the outcome doesn't depend on who was quicker.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

from keycluster.cluster.types import MILLISECOND
from keycluster.simulations.faults import Fault
from keycluster.simulations.runs import RunSpec, SeedReport

TIME_NS_MIN = 10 * MILLISECOND
AFTER_NS = 1 * MILLISECOND  # Faults go on so long after what was found: time in which it must be found.

TryAll = Callable[[Sequence[RunSpec]], list[SeedReport]]
"""Runs all of them and returns their reports in the same order."""


@dataclass(slots=True)
class Shrinking:
    """What a search has come to."""

    report: SeedReport
    """Of the smallest run that fails so far; its `drawn` is that run."""
    checker: str
    tried: int = 0
    is_minimal: bool = False
    """No single step of this search makes it smaller."""

    @property
    def spec(self) -> RunSpec:
        return self.report.drawn or self.report.spec

    @property
    def faults(self) -> tuple[Fault, ...]:
        return self.spec.faults or ()


def shrink(report: SeedReport, try_all: TryAll, *, seconds: float, at_once: int = 1) -> Shrinking:
    """`report` has failed and says what was drawn; its first failure is what is looked for. Takes about `seconds`."""
    return _Search(report, try_all, ends=time.monotonic() + seconds, at_once=at_once).run()


class _Search:
    def __init__(self, report: SeedReport, try_all: TryAll, *, ends: float, at_once: int) -> None:
        self.best = Shrinking(report, report.failures[0].checker)
        self._try_all = try_all
        self._ends = ends
        self._at_once = at_once

    def run(self) -> Shrinking:
        """Steps that save most come first; all again until a whole round has changed nothing."""
        changed = True
        while changed and not self._is_late():
            changed = False
            for step in (self._cut_time, self._drop_kinds, self._cut_load, self._drop_faults, self._cut_durations):
                changed |= step()
        self.best.is_minimal = not changed and not self._is_late()
        return self.best

    def _is_late(self) -> bool:
        return time.monotonic() >= self._ends

    def _take_first(self, candidates: Iterator[RunSpec]) -> bool:
        """The first that fails in the same way becomes the best one."""
        while not self._is_late():
            batch = list(islice(candidates, self._at_once))
            if not batch:
                return False
            reports = self._try_all(batch)
            self.best.tried += len(batch)
            for spec, report in zip(batch, reports, strict=True):
                if self._is_better(report, spec):
                    self.best.report = report
                    return True
        return False

    def _is_better(self, report: SeedReport, spec: RunSpec) -> bool:
        """It fails in the same way, and a simulator that draws anew what was taken away can't keep the search going."""
        report.drawn = report.drawn or spec
        if not any(failure.checker == self.best.checker for failure in report.failures):
            return False
        new, old = _size(report.drawn), _size(self.best.spec)
        return new != old and all(fewer <= more for fewer, more in zip(new, old, strict=True))

    def _cut_time(self) -> bool:
        """To the moment of the finding, or by halves; faults beyond the end go too."""
        changed = False
        while self._take_first(_shorter(self.best.spec, self._found_at())):
            changed = True
        return changed

    def _found_at(self) -> int | None:
        times = [f.at_ns for f in self.best.report.failures if f.checker == self.best.checker and f.at_ns is not None]
        return min(times, default=None)

    def _cut_load(self) -> bool:
        changed = False
        while self._take_first(_lighter(self.best.spec)):
            changed = True
        return changed

    def _drop_kinds(self) -> bool:
        """All faults of a kind at once; the most frequent first."""
        changed = False
        for kind, _ in Counter(fault.kind for fault in self.best.faults).most_common():
            others = [fault for fault in self.best.faults if fault.kind is not kind]
            changed |= self._take_first(iter([self.best.spec.with_faults(others)]))
        return changed

    def _drop_faults(self) -> bool:
        """ddmin over complements: parts are left out, ever smaller ones."""
        changed, parts = False, 2
        if self.best.faults and self._take_first(iter([self.best.spec.with_faults(())])):
            return True
        while len(self.best.faults) >= 2 and not self._is_late():
            faults = self.best.faults
            parts = min(parts, len(faults))
            if self._take_first(_without_parts(self.best.spec, faults, parts)):
                changed, parts = True, max(parts - 1, 2)
            elif parts == len(faults):
                break
            else:
                parts *= 2
        return changed

    def _cut_durations(self) -> bool:
        """Each fault for half as long, as often as that will do."""
        changed = False
        for place in range(len(self.best.faults)):
            while place < len(self.best.faults) and self._take_first(_briefer(self.best.spec, place)):
                changed = True
        return changed


def _size(spec: RunSpec) -> tuple[float, ...]:
    faults = spec.faults or ()
    load = (spec.nodes or 0, spec.clients or 0, spec.operations_per_s or 0)
    return (spec.time_ns, len(faults), sum(fault.for_ns for fault in faults), *load)


def _shorter(spec: RunSpec, found_at: int | None) -> Iterator[RunSpec]:
    ends = [spec.time_ns * part // 16 for part in (8, 12, 14, 15)]
    if found_at is not None and found_at + AFTER_NS < spec.time_ns:
        ends.insert(0, found_at + AFTER_NS)
    last_fault = max((fault.at_ns for fault in spec.faults or ()), default=0)
    if last_fault + AFTER_NS < spec.time_ns * 8 // 16:
        ends.append(last_fault + AFTER_NS)
    for time_ns in ends:
        if TIME_NS_MIN <= time_ns < spec.time_ns:
            faults = tuple(fault for fault in spec.faults or () if fault.at_ns < time_ns)
            yield replace(spec, time_ns=time_ns, faults=faults)


def _lighter(spec: RunSpec) -> Iterator[RunSpec]:
    if spec.clients is not None:
        for clients in sorted({1, 2, spec.clients // 2, spec.clients - 1}):
            if 1 <= clients < spec.clients:
                yield replace(spec, clients=clients)
    if spec.operations_per_s is not None and spec.operations_per_s > 1:
        yield replace(spec, operations_per_s=spec.operations_per_s / 2)
    if spec.nodes is not None:
        for nodes in sorted({1, 3, spec.nodes - 1}):
            if 1 <= nodes < spec.nodes:
                yield replace(spec, nodes=nodes)


def _without_parts(spec: RunSpec, faults: Sequence[Fault], parts: int) -> Iterator[RunSpec]:
    edges = [len(faults) * place // parts for place in range(parts + 1)]
    for start, end in pairwise(edges):
        yield spec.with_faults((*faults[:start], *faults[end:]))


def _briefer(spec: RunSpec, place: int) -> Iterator[RunSpec]:
    faults = list(spec.faults or ())
    fault = faults[place]
    if fault.for_ns >= 2 * MILLISECOND:
        faults[place] = replace(fault, for_ns=fault.for_ns // 2)
        yield spec.with_faults(faults)
