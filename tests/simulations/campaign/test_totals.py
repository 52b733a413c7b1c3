"""What runs come to, and when they have shown too little."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from keycluster.cluster.types import SECOND
from keycluster.simulations.campaign import remote
from keycluster.simulations.campaign.campaign import CampaignOptions, run_campaign
from keycluster.simulations.campaign.findings import Findings
from keycluster.simulations.campaign.pool import Done
from keycluster.simulations.campaign.totals import Totals
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, Simulator

MARKS = {"snapshot": ["core", "region"], "transfer": ["core"], "door": ["region"]}


@pytest.fixture
def totals() -> Totals:
    return Totals(Simulator.CORE, (FaultKind.PAUSE, FaultKind.LOSS))


BUSY = {"Write ok": 60, "CompareAndSet ok": 60, "Use ok": 120, "Write unknown": 5, "Read ok": 1}


def report(
    spec: RunSpec,
    *,
    marks: tuple[str, ...] = (),
    failures: int = 0,
    operations: Mapping[str, int] = BUSY,
    **faults: int,
) -> SeedReport:
    return SeedReport(
        spec,
        simulated_ns=60 * SECOND,
        wall_s=0.5,
        events=1_000,
        faults=Counter(faults),
        operations=Counter(operations),
        marks=Counter(marks),
        failures=[Failure("checker", "found")] * failures,
    )


def test_sums(totals: Totals, spec: RunSpec) -> None:
    """Speed is that of one core, however many ran."""
    totals.add(report(spec, pause=2, failures=1), MARKS)
    totals.add(report(spec, pause=1, loss=1), MARKS)
    assert (totals.seeds, totals.speed, totals.events_per_s) == (2, 120, 2_000)
    assert totals.faults == {"pause": 3, "loss": 1}
    assert len(totals.failed) == 1


def test_what_comes_twice_is_counted_once(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, totals: Totals
) -> None:
    """A worker that was thought to be lost may answer after all."""
    options = CampaignOptions(template=spec, module="toy", count=2, scheduler="tcp://somewhere")
    twice = [Done(job, report(job.spec), MARKS) for job in options.jobs() for _ in range(2)]
    monkeypatch.setattr(remote, "completed", lambda *_, **__: (done for done in twice))
    findings = Findings(tmp_path, module="toy", workers=1, limit_s=1)
    told: list[int] = []
    run_campaign(options, totals, findings, lambda one, _: told.append(one.spec.seed))
    assert told == [1, 2]
    assert totals.seeds == 2


def test_coverage_names_what_was_never_seen(totals: Totals, spec: RunSpec) -> None:
    """Marks of this simulator and kinds that could be drawn; another simulator's marks are not asked for."""
    totals.add(report(spec, marks=("snapshot",), pause=1), MARKS)
    assert totals.marks_never_hit() == ["transfer"]
    assert totals.kinds_without_effect() == ["loss"]
    assert totals.gaps(coverage=True) == [
        "no fault of this kind had an effect: loss",
        "a mark was never hit: transfer",
    ]
    assert totals.gaps(coverage=False) == []


def test_rates_that_make_nothing_happen_are_a_failure(totals: Totals, spec: RunSpec) -> None:
    """Also without coverage; but not where no faults were asked for."""
    totals.add(report(spec), MARKS)
    assert totals.gaps(coverage=False) == ["no fault had an effect in any run"]
    calm = Totals(Simulator.CORE, ())
    calm.add(report(spec), {})
    assert calm.gaps(coverage=True) == []


def test_coverage_fails_runs_in_which_little_was_done(totals: Totals, spec: RunSpec) -> None:
    """Storms without a leader all the time look like runs in which nothing is wrong. What failed is no work."""
    totals.add(report(spec, marks=("snapshot", "transfer"), pause=1, loss=1), MARKS)
    assert totals.load == (2.0, 2.0)
    assert totals.gaps(coverage=True) == []
    idle = {"Write ok": 20, "Write unknown": 600, "Use ok": 180, "Use failed": 600, "Read ok": 600}
    totals.add(report(spec, operations=idle), MARKS)
    assert totals.gaps(coverage=True) == ["too little was done: 1.17 writes a simulated second, 1.50 at least"]
    assert totals.gaps(coverage=False) == []


def test_what_a_region_does_counts_as_load(spec: RunSpec) -> None:
    """Changes of keys and the data plane, by the names that they have there."""
    region = Totals(Simulator.REGION, ())
    region.add(report(spec, operations={"CreateKey ok": 60, "TagResource ok": 60, "Decrypt ok": 180}), {})
    assert region.load == (2.0, 3.0)
