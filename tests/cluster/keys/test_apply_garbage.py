"""Whatever gets into the log: apply refuses it or carries it out, alike at every replica, and never fails."""

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keycluster.cluster.keys.apply import apply_entry
from keycluster.cluster.keys.commands import Caller, CommandBody, CreateAlias, FoundRegion, encode_command, stamp
from keycluster.cluster.keys.records import Table
from keycluster.cluster.raft.messages import EntryKind
from keycluster.cluster.types import ClusterTime
from tests.command_strategies import bodies, callers, values_of
from tests.key_machine import KeyMachine
from tests.room_on_memory import MemoryState

ROUNDS = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])


def whoever(machine: KeyMachine) -> st.SearchStrategy[Caller]:
    return st.sampled_from([machine.caller, machine.other, machine.region_speaks]) | callers


def aimed(machine: KeyMachine, body: CommandBody, key_id: str) -> CommandBody:
    """The command with its key references naming a key that exists, so that it gets past the look-up."""
    names = {"key", "key_id"} & set(body.__struct_fields__)
    return msgspec.structs.replace(body, **dict.fromkeys(names, key_id))


@ROUNDS
@given(st.data())
def test_commands_of_any_content_are_carried_out_or_refused(data: st.DataObject) -> None:
    """Values that no door lets through, by any caller, at any time: an outcome each, and equal rows at a twin."""
    machine = KeyMachine()
    key = machine.create_key()
    machine.ok(CreateAlias("alias/a", key.key_id))
    for _ in range(data.draw(st.integers(1, 6))):
        body = data.draw(bodies)
        if data.draw(st.booleans()):
            body = aimed(machine, body, key.key_id)
        machine.time = ClusterTime(data.draw(st.integers(0, 2**62)))
        machine.running_ns = data.draw(st.integers(0, 2**62))
        outcome = machine.apply(body, caller=data.draw(whoever(machine)))
        assert (outcome.ok is None) is (outcome.error_code is not None)
    twin = MemoryState()
    for entry in machine.entries:
        apply_entry(twin, entry)
    assert {table: rows for table, rows in twin.tables.items() if rows} == machine.rows()


@ROUNDS
@given(values_of(FoundRegion))
def test_founding_of_any_content_is_carried_out_or_refused_whole(body: FoundRegion) -> None:
    """Half a region would be none."""
    machine = KeyMachine(founded=False)
    outcome = machine.apply(body, caller=machine.region_speaks)
    assert (outcome.ok is None) is (machine.rows().keys() == {Table.CLOCK})


@ROUNDS
@given(st.binary(max_size=100), st.booleans(), st.sampled_from([EntryKind.COMMAND, EntryKind.MEMBERSHIP]))
def test_entries_of_any_bytes_are_refused(garbage: bytes, stamped: bool, kind: EntryKind) -> None:
    """And change nothing."""
    machine = KeyMachine()
    before = machine.rows()
    payload = stamp(garbage, machine.time, 0) if stamped else garbage
    assert machine.apply_payload(payload, kind).error_code == "KMSInternalException"
    assert machine.rows() == before


@ROUNDS
@given(st.data())
def test_command_with_bytes_changed_is_carried_out_or_refused(data: st.DataObject) -> None:
    """Damage that MACs would have found; here it meets the decoder alone."""
    machine = KeyMachine()
    command = encode_command(machine.new_create_key(tags=(("a", "b"),)), machine.caller, request_id=b"i" * 16)
    payload = bytearray(stamp(command, machine.time, 0))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    outcome: Any = machine.apply_payload(bytes(payload))
    assert (outcome.ok is None) is (outcome.error_code is not None)
    assert len(machine.rows().get(Table.KEYS, {})) == (1 if outcome.ok is not None else 0)
