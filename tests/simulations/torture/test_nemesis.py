"""The nemesis counts what had an effect, and nothing else."""

import random
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.torture.links import Links
from keycluster.simulations.torture.nemesis import Nemesis


@pytest.mark.parametrize("kind", [FaultKind.LOSS, FaultKind.DELAY])
async def test_weather_counts_once_it_has_made_something_late(
    kind: FaultKind, autojump_clock: trio.testing.MockClock
) -> None:
    """Where nobody says anything, nothing is lost: that is no fault."""
    notes: list[tuple[Any, ...]] = []
    links = Links(random.Random(1))
    region = SimpleNamespace(links=links, note=lambda *note: notes.append(note), nodes={})
    nemesis = Nemesis(cast("Any", region), cast("Any", None), clients=())
    faults = [Fault(number, number * SECOND, kind, SECOND, 1.0, seed=number) for number in range(2)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(nemesis.run, faults, time_ns=3 * SECOND))
        await trio.sleep(0.9)
        assert nemesis.counts == {}
        await trio.sleep(0.2)
        for _ in range(50):  # Nearly a third of them are hit.
            nursery.start_soon(links.passes, ("a", "b"))
    assert nemesis.counts == {kind.value: 1}
    assert [note[2] for note in notes] == [kind.value] * 2
