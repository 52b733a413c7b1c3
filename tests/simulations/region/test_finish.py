"""What a run demands of a region at its end."""

import pytest

from keycluster.cluster.types import SECOND
from keycluster.node import proposals
from keycluster.simulations.region import finish
from keycluster.simulations.region.run import run
from keycluster.simulations.runs import RunSpec, SeedReport, Simulator


def _report(seed: int) -> SeedReport:
    """Of a run in fair weather, up to its end."""
    return run(RunSpec(Simulator.REGION, seed, SECOND, kinds=(), nodes=3))


def test_node_that_knows_no_leader_must_not_hold_clients_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was lost to the others only is still found by clients, and they must get on all the same."""
    monkeypatch.setattr(finish, "WAYS_TO_LOSE", ("strand",))
    seeds = range(1, 4)
    assert [_report(seed).failures for seed in seeds] == [[]] * len(seeds)
    monkeypatch.setattr(proposals, "HELD_S_MAX", 1_000.0)
    failures = [failure for seed in seeds for failure in _report(seed).failures]
    assert {failure.checker for failure in failures} == {"liveness"}
    assert all("no write returns" in failure.message for failure in failures)
