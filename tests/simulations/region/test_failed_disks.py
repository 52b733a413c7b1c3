"""A node that was told that its disk failed must end, and take nothing for stored until then."""

from contextlib import suppress

import pytest
import trio

from keycluster.simulations.disk import CrashDisk
from keycluster.simulations.memory_file import MemoryFile
from keycluster.simulations.region.node import Excuse, NodeState
from keycluster.simulations.region.region import SimRegion
from tests.simulations.region.quiet_region import in_region


async def write(region: SimRegion) -> None:
    await region.operate("CreateAccessKey", account="123456789012")


def findings_after_failed_sync(*, excused: bool = True) -> list[str]:
    async def body(region: SimRegion) -> list[str]:
        node = next(node for node in region.nodes.values() if node is not region.leader())
        if excused:
            node.excuses.add(Excuse.DISK_FAILS)
        node.disk.syncs_fail_next = 1
        for _ in range(4):
            await write(region)
        await trio.sleep(5)
        assert node.disk.counts.failed == 1
        if not region.checks.failures:
            await region.until(lambda: node.serves)
            assert (node.lives, node.state, node.excuses) == (2, NodeState.UP, set())
        return [failure.checker for failure in region.checks.failures]

    return in_region(body)


def test_node_whose_sync_failed_ends_and_comes_back() -> None:
    """Whoever looks after it starts it again."""
    assert findings_after_failed_sync() == []


def test_node_that_ends_by_a_failing_disk_has_an_excuse_only_if_it_fails() -> None:
    """Else it is a finding."""
    assert findings_after_failed_sync(excused=False) == ["endings"]


def test_node_that_goes_on_after_a_failed_sync_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: by what it takes for stored."""
    sync = CrashDisk.sync_file

    def careless(disk: CrashDisk, file: MemoryFile) -> None:
        """As if nobody asked what a sync has to say."""
        with suppress(OSError):
            sync(disk, file)

    monkeypatch.setattr(CrashDisk, "sync_file", careless)
    assert "failed-disk" in findings_after_failed_sync()
