"""Faults hit somebody who matters."""

import random
from collections import Counter

import pytest

from keycluster.cluster.types import SECOND
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.nemesis import Nemesis
from keycluster.simulations.core.run import run
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import RunSpec, Simulator

SEEDS = range(8)
KINDS = (FaultKind.ADD_VOTER, FaultKind.ADD_LEARNER, FaultKind.REMOVE, FaultKind.CRASH, FaultKind.PAUSE)


def test_victims_are_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was removed runs on, and nothing hangs on what becomes of them; so few of the faults are theirs."""
    hit = Counter[bool]()
    choose = Nemesis._victim

    def watched(nemesis: Nemesis, rng: random.Random) -> Machine | None:
        victim = choose(nemesis, rng)
        if victim is not None:
            newest = max((machine.disk.state for machine in nemesis._world.machines.values()), key=lambda s: s.index)
            hit[newest.membership.is_member(victim.node)] += 1
        return victim

    monkeypatch.setattr(Nemesis, "_victim", watched)
    for seed in SEEDS:
        run(RunSpec(Simulator.CORE, seed, 60 * SECOND, kinds=KINDS))
    assert 0 < hit[False] < 0.12 * hit.total()
