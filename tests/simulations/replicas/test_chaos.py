"""Random runs of whole regions under faults: contract 2 after every step, progress in the peace that follows."""

import hashlib

import pytest

from keycluster.cluster.invariant import InvariantBroken
from keycluster.simulations.replicas.chaos import Chaos, Options, run_seed
from keycluster.simulations.replicas.planted import PLANTED, Planted

RUNS = 24
RUNS_WIDE = 6
SOON = (
    16  # A planted bug that shows in this many runs is looked for here; the others have scenarios (test_lease_rules).
)

SHOWS_SOON = [
    bug
    for bug in PLANTED
    if bug.what
    in (
        "notes nothing",
        "serves before the commit index is applied",
        "acknowledges without counting holders",
        "new leader assumes no leases",
        "leader serves without a quorum lease",
        "takes what it applied for settled",
    )
]


def test_random_runs_keep_the_contract() -> None:
    """No member that may serve lacks what is settled, and afterwards all work; the runs had enough of everything."""
    reports = [run_seed(seed) for seed in range(RUNS)]
    faults = sum((report.faults for report in reports), start=reports[0].faults.__class__())
    assert all(faults[kind] > RUNS for kind in Options().kinds)
    assert sum(report.settled for report in reports) > 50 * RUNS
    assert sum(report.leaders for report in reports) > 2 * RUNS
    assert sum(report.serving_seen for report in reports) > 2_000 * RUNS


def test_random_runs_with_wide_drift_keep_the_contract() -> None:
    """Clocks that are up to nine per cent fast or slow, all configured so, shorten leases; nothing else changes."""
    for seed in range(RUNS_WIDE):
        run_seed(f"wide {seed}", Options(drift_ppm=90_000))


@pytest.mark.parametrize("bug", SHOWS_SOON, ids=lambda bug: bug.what)
def test_random_runs_see_a_rule_left_out(bug: Planted) -> None:
    """The checker is worth something: a planted bug breaks a run soon."""
    with bug.open(), pytest.raises(InvariantBroken):
        run_some(bug.options)


def run_some(options: Options | None) -> None:
    for seed in range(SOON):
        run_seed(seed, options)


def test_same_seed_gives_the_same_run() -> None:
    """A failure's seed is all that it takes to see it again."""
    assert trace(5) == trace(5)
    assert trace(5) != trace(6)


def trace(seed: int) -> str:
    chaos = Chaos(seed, Options(faults_ns=2_000_000_000))
    chaos.run()
    seen = (chaos.steps, chaos.t, chaos.settled_at, chaos.leaders, chaos.serving_seen)
    return hashlib.sha256(repr(seen).encode()).hexdigest()
