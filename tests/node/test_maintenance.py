"""Maintenance: what is due is carried out at the leader, once, and nothing else is."""

from typing import Any

import pytest
import trio

from keycluster.cluster.keys.commands import (
    CompleteKeyDeletion,
    Outcome,
    RotateKeyAutomatically,
    Tick,
)
from keycluster.cluster.keys.records import Table, load_key
from keycluster.cluster.types import KeyId, NodeId
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import ThrottlingException
from keycluster.node import maintenance
from keycluster.node.maintenance import Maintenance
from tests.key_room import KeyRoom

DAY_S = 24 * 3600


def region_with_due_work(keys: int = 1) -> tuple[KeyRoom, list[str]]:
    """Some keys, each with a deletion due in seven days and another key with a rotation due in ninety."""
    region = KeyRoom()
    doomed = [region.create_key() for _ in range(keys)]
    for key in doomed:
        region.write("ScheduleKeyDeletion", wire.ScheduleKeyDeletionRequest(key_id=key, pending_window_in_days=7))
    return region, doomed


async def test_due_deletion_is_carried_out_by_the_leader() -> None:
    """Not a moment before; afterwards nothing is due."""
    region, (key,) = region_with_due_work()
    work = Maintenance(region.room)
    region.machine.pass_time(7 * DAY_S - 1)
    await work.look()
    assert region.consensus.proposed == [Tick()]
    region.machine.pass_time(1)
    await work.look()
    assert isinstance(region.consensus.proposed[-1], CompleteKeyDeletion)
    assert load_key(region.machine.state, KeyId(key)) is None
    assert work.due() == []


async def test_due_rotation_gives_the_key_a_new_backing_key_that_opens() -> None:
    """The old one stays."""
    region = KeyRoom()
    key = region.create_key()
    region.write("EnableKeyRotation", wire.EnableKeyRotationRequest(key_id=key, rotation_period_in_days=90))
    region.machine.pass_time(90 * DAY_S)
    await Maintenance(region.room).look()
    hot = region.room.resolve(key, region.machine.caller, action="kms:Encrypt")
    assert len(hot.record.backing_keys) == 2
    assert all(hot.blob_key(backing.id) is not None for backing in hot.record.backing_keys)
    rotations = [body for body in region.consensus.proposed if isinstance(body, RotateKeyAutomatically)]
    assert len(rotations) == 1


async def test_more_than_a_batch_is_carried_out_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until nothing is left."""
    monkeypatch.setattr(maintenance, "BATCH", 3)
    region, doomed = region_with_due_work(keys=8)
    region.machine.pass_time(7 * DAY_S)
    await Maintenance(region.room).look()
    assert [load_key(region.machine.state, KeyId(key)) for key in doomed] == [None] * 8
    assert Table.DUE not in region.machine.rows()


async def test_node_that_does_not_lead_does_nothing() -> None:
    """Nor one that knows no time."""
    region, _ = region_with_due_work()
    region.machine.pass_time(8 * DAY_S)
    work = Maintenance(region.room)
    region.consensus.leader = NodeId("node-b")
    await work.look()
    assert region.consensus.proposed == []
    region.consensus.cluster_time = lambda: None  # type: ignore[method-assign]  # Of this one only.
    assert work.due() == []


async def test_deletion_is_not_proposed_while_time_is_in_doubt_and_rotation_is() -> None:
    """A hold must not stop what destroys nothing."""
    region, (doomed,) = region_with_due_work()
    rotating = region.create_key()
    region.write("EnableKeyRotation", wire.EnableKeyRotationRequest(key_id=rotating, rotation_period_in_days=90))
    region.machine.pass_time(100 * DAY_S, running=False)
    await Maintenance(region.room).look()
    kinds = {type(body) for body in region.consensus.proposed}
    assert kinds == {Tick, RotateKeyAutomatically}
    assert load_key(region.machine.state, KeyId(doomed)) is not None


async def test_refused_or_lost_command_is_left_to_the_next_look(autojump_clock: Any) -> None:
    """No busy loop, no crash; the look ends and another one tries again."""
    region, (key,) = region_with_due_work()
    region.machine.pass_time(7 * DAY_S)
    work = Maintenance(region.room)
    real, calls = region.consensus.propose, 0

    async def failing(command: bytes) -> Outcome:
        nonlocal calls
        calls += 1
        if calls == 1:
            return await real(command)
        if calls == 2:
            raise ThrottlingException("Rate exceeded")
        if calls == 4:
            return Outcome(error_code="KMSInvalidStateException", error_message="no")
        if calls == 6:
            await trio.sleep_forever()
        return await real(command)

    region.consensus.propose = failing  # type: ignore[method-assign]  # Of this one only.
    for looks in (1, 2, 3):
        await work.look()
        assert calls == 2 * looks
        assert load_key(region.machine.state, KeyId(key)) is not None
    await work.look()
    assert load_key(region.machine.state, KeyId(key)) is None


async def test_run_looks_again_and_again(autojump_clock: Any) -> None:
    """A tick at each look, until it is cancelled."""
    region = KeyRoom()
    async with trio.open_nursery() as nursery:
        await nursery.start(Maintenance(region.room).run)
        await trio.sleep(3.5 * maintenance.LOOK_EVERY_S)
        nursery.cancel_scope.cancel()
    assert region.consensus.proposed == [Tick()] * 3
