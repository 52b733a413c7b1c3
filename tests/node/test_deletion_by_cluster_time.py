"""A key's end, by whole nodes: its time is the region's, and who decides it is the majority's clocks."""

from dataclasses import replace
from pathlib import Path

import pytest

from keycluster.cluster.keys.commands import ConfirmTime, ScheduleKeyDeletion
from keycluster.cluster.keys.limits import DAY
from keycluster.cluster.keys.records import ClockRecord, KeyState, load_clock
from keycluster.cluster.keys.timekeeping import destruction_held
from keycluster.cluster.types import KeyId, WallTime
from keycluster.node import maintenance
from keycluster.node.world import RealClock, real_world
from tests.node.region_in_process import RegionInProcess, region_in_process

NAMES = ("n0", "n1", "n2")


class SetClock(RealClock):
    """A machine's clock that somebody can set; what runs by itself isn't touched."""

    ahead_ns = 0

    def wall(self) -> WallTime:
        return WallTime(super().wall() + self.ahead_ns)


def clock_of(region: RegionInProcess, name: str) -> ClockRecord:
    clock = load_clock(region.node(name).room.view)
    assert clock is not None
    return clock


async def some_looks(region: RegionInProcess) -> None:
    """Returns after a few ticks of maintenance, which looks for work after each."""
    for _ in range(3):
        await a_tick(region, clock_of(region, "n1").running_ns)


async def a_tick(region: RegionInProcess, before: int) -> None:
    await region.until(lambda: clock_of(region, "n1").running_ns > before)


async def test_a_key_is_deleted_when_the_majority_says_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong clock deletes nothing, nor do all of them until an operator, who is told to, has confirmed the leap;
    then every node's row goes, with its tokens."""
    monkeypatch.setattr(maintenance, "LOOK_EVERY_S", 0.1)
    clocks = {name: SetClock() for name in NAMES}
    async with region_in_process(tmp_path) as region:
        for name, clock in clocks.items():
            region.worlds[name] = replace(real_world(), clock=clock)
        await region.found("n0")
        for name in ("n1", "n2"):
            await region.join(name, az=name)
        await region.all_serve(voters=3)
        doomed, kept = await region.create_key("n0"), await region.create_key("n1")
        await region.carry_out("n1", ScheduleKeyDeletion(doomed, 7))

        def is_doomed(key: KeyId) -> bool:
            rows = [region.stored(name, key) for name in NAMES]
            return all(row is not None and row.state is KeyState.PENDING_DELETION for row in rows)

        clocks["n0"].ahead_ns = 8 * DAY
        await some_looks(region)
        assert is_doomed(doomed)
        assert not destruction_held(clock_of(region, "n1"))  # It wasn't the hold that saved it: no time has leapt.
        clocks["n1"].ahead_ns = clocks["n2"].ahead_ns = 8 * DAY
        await region.until(lambda: destruction_held(clock_of(region, "n1")))
        await some_looks(region)
        assert is_doomed(doomed)
        assert [text for text in region.node("n1")._warnings() if "confirm-time" in text]
        await region.carry_out("n1", ConfirmTime())
        await region.until(lambda: all(region.stored(name, doomed) is None for name in NAMES))
        assert not [text for text in region.node("n1")._warnings() if "confirm-time" in text]
        assert all(region.has(name, kept) and not region.has(name, doomed) for name in NAMES)
