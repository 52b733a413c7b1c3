"""The key state machine on the real store: what apply writes is what a node reads, equal logs give equal digests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from keycluster.cluster.keys.apply import apply_entry
from keycluster.cluster.keys.commands import (
    CreateAlias,
    DisableKey,
    EnableKey,
    EnableKeyRotation,
    RotateKeyOnDemand,
    ScheduleKeyDeletion,
    TagResource,
)
from keycluster.cluster.keys.hierarchy import Keyring
from keycluster.cluster.keys.records import KeyState, Table, key_row, load_key
from keycluster.cluster.raft.messages import Entry, Membership
from keycluster.cluster.store.state import StateStore, StateTx
from keycluster.cluster.types import KeyId, NodeId
from keycluster.node.world import RealDisk
from tests.key_machine import FOUNDING, KeyMachine

KEYS = Keyring("us-east-1", {1: bytes(range(32))}, 1).state_keys(1)


def log_of_a_region() -> tuple[KeyMachine, list[Entry]]:
    """A machine in memory and the entries that it was given: every kind of change, refusals, a repeat, garbage."""
    machine = KeyMachine()
    keys = [machine.create_key(tags=(("a", "b"),)) for _ in range(5)]
    machine.ok(CreateAlias("alias/a", keys[0].key_id))
    machine.ok(EnableKeyRotation(keys[1].key_id, 90))
    machine.ok(RotateKeyOnDemand(keys[1].key_id, machine.next_backing_key()))
    machine.ok(DisableKey(keys[2].key_id), request_id=b"r" * 16)
    machine.ok(DisableKey(keys[2].key_id), request_id=b"r" * 16)
    machine.code(EnableKey("fake"))
    machine.code(FOUNDING, caller=machine.region_speaks)
    machine.ok(ScheduleKeyDeletion(keys[3].key_id, 7))
    machine.ok(TagResource(keys[4].key_id, (("c", "d"),)))
    machine.apply_payload(b"garbage")
    machine.membership(Membership(voters=(NodeId("node-a"),)))
    return machine, machine.entries


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    store = create(tmp_path / "one")
    yield store
    store.close()


def create(folder: Path) -> StateStore:
    disk = RealDisk()
    disk.make_folder(folder)
    return StateStore.create(disk, folder, KEYS, membership=Membership(voters=(NodeId("node-a"),)))


def test_rows_on_the_store_are_the_rows_in_memory(store: StateStore) -> None:
    """Table by table, in one batch; outcomes included."""
    machine, entries = log_of_a_region()
    applied = store.apply(entries, apply_entry)
    store.refresh()
    again = KeyMachine(founded=False)
    assert list(applied.results) == [apply_entry(again.state, entry) for entry in entries]
    for table in Table:
        rows = dict(store.view.scan(table, limit=1000))
        assert rows == machine.rows().get(table, {}), table
    key_id = KeyId(next(iter(machine.rows()[Table.KEYS])).decode())
    assert (Table.KEYS, key_row(key_id)) in applied.touched


def test_replicas_that_apply_in_other_batches_have_equal_digests(store: StateStore, tmp_path: Path) -> None:
    """One entry at a time or all at once: the keyed set hash is the same."""
    _, entries = log_of_a_region()
    twin = create(tmp_path / "two")
    store.apply(entries, apply_entry)
    for entry in entries:
        twin.apply([entry], apply_entry)
    assert store.digest_at(entries[-1].index) == twin.digest_at(entries[-1].index) is not None
    twin.close()


def test_failure_in_one_entry_rolls_the_batch_back(store: StateStore) -> None:
    """An I/O error is no result: nothing of the batch is there afterwards."""
    machine, entries = log_of_a_region()

    def fail_at_the_last(state: StateTx, entry: Entry) -> object:
        if entry is entries[-2]:
            raise OSError("disk")
        return apply_entry(state, entry)

    with pytest.raises(OSError, match="disk"):
        store.apply(entries, fail_at_the_last)
    store.refresh()
    assert store.view.scan(Table.KEYS, limit=10) == []
    store.apply(entries, apply_entry)
    store.refresh()
    states = [load_key(store.view, KeyId(key.decode())) for key in machine.rows()[Table.KEYS]]
    assert {KeyState.DISABLED, KeyState.PENDING_DELETION} <= {key.state for key in states if key is not None}
