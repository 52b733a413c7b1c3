"""Repeated requests: one effect, one answer, for as long as promised and no longer."""

from itertools import pairwise

import pytest

from keycluster.cluster.keys import requests
from keycluster.cluster.keys.commands import (
    Caller,
    CreateAlias,
    DeactivateAccessKey,
    DisableKey,
    EnableKey,
    ScheduleKeyDeletion,
    Tick,
)
from keycluster.cluster.keys.records import Table
from keycluster.cluster.wire.operations import CreateKeyResponse
from tests.key_machine import OPERATOR_KEY, KeyMachine, caller_of
from tests.room_on_memory import OTHER_ACCOUNT

ID = b"i" * 16
HASH = b"h" * 32


def remembered(machine: KeyMachine) -> int:
    """How many requests are remembered; both tables must agree."""
    count = len(machine.rows().get(Table.REQUESTS, {}))
    assert count == len(machine.rows().get(Table.REQUEST_ORDER, {}))
    return count


def test_repeated_create_key_makes_one_key_and_gets_its_first_answer() -> None:
    """Although the repeat carries another key id and other random bytes: the node made those anew."""
    machine = KeyMachine()
    first = machine.ok(machine.new_create_key(), CreateKeyResponse, request_id=ID, params_hash=HASH)
    machine.pass_time(599)
    again = machine.ok(machine.new_create_key(), CreateKeyResponse, request_id=ID, params_hash=HASH)
    assert again == first
    assert len(machine.rows()[Table.KEYS]) == 1


def test_repeat_with_other_parameters_is_a_mismatch_and_does_nothing() -> None:
    """The first outcome stays remembered."""
    machine = KeyMachine()
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    code = machine.code(machine.new_create_key(), request_id=ID, params_hash=b"x" * 32)
    assert code == "IdempotentParameterMismatchException"
    assert len(machine.rows()[Table.KEYS]) == 1
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    assert len(machine.rows()[Table.KEYS]) == 1


def test_refused_request_stays_refused_after_what_was_wrong_is_put_right() -> None:
    """A late copy of a request that was refused must not do what its caller was told did not happen."""
    machine = KeyMachine()
    key = machine.create_key()
    machine.ok(ScheduleKeyDeletion(key.key_id, 7))
    copy = {"request_id": ID, "params_hash": HASH}
    refused = machine.refusal(CreateAlias("alias/a", key.key_id), **copy)
    target = machine.create_key()
    assert machine.refusal(CreateAlias("alias/a", target.key_id), **copy) == refused
    assert Table.ALIASES not in machine.rows()


def test_request_ids_belong_to_their_principal() -> None:
    """Another principal's equal id is another request."""
    machine = KeyMachine()
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH, caller=machine.other)
    assert len(machine.rows()[Table.KEYS]) == 2


def test_request_is_forgotten_after_ten_minutes() -> None:
    """Then its id is free again."""
    machine = KeyMachine()
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    machine.pass_time(600)
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=b"x" * 32)
    assert len(machine.rows()[Table.KEYS]) == 2
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=b"x" * 32)
    assert len(machine.rows()[Table.KEYS]) == 2
    remembered(machine)


def test_memory_shrinks_with_requests_and_with_ticks() -> None:
    """Each new request drops a few expired ones of its principal, each Tick some of everybody's; nothing is left."""
    machine = KeyMachine()
    key = machine.create_key()
    for _ in range(20):
        machine.ok(EnableKey(key.key_id))
    full = remembered(machine)
    machine.pass_time(601)
    machine.ok(EnableKey(key.key_id))
    assert remembered(machine) == full + 1 - requests.DROPPED_PER_REQUEST
    machine.pass_time(601)
    machine.ok(Tick(), caller=machine.region_speaks)
    assert remembered(machine) == 0
    assert Table.PRINCIPALS not in machine.rows()


def test_ticks_go_round_all_principals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Tick does a bounded piece of work; the next goes on where it stopped, and none is left out."""
    monkeypatch.setattr(requests, "PRINCIPALS_PER_TICK", 1)
    monkeypatch.setattr(requests, "DROPPED_PER_TICK", 2)
    machine = KeyMachine()
    keys = {caller: machine.create_key(caller=caller) for caller in (machine.caller, machine.other)}
    for caller, key in keys.items():
        for _ in range(3):
            machine.ok(EnableKey(key.key_id), caller=caller)
    machine.pass_time(601)
    counts = [remembered(machine)]
    for _ in range(10):
        machine.ok(Tick(), caller=machine.region_speaks)
        counts.append(remembered(machine))
    assert counts[-1] == 0
    assert all(0 <= before - after <= 2 for before, after in pairwise(counts))


def test_busy_principals_older_requests_are_dropped_early_but_not_young_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what is remembered freely a request is still known for three minutes."""
    monkeypatch.setattr(requests, "REMEMBERED_FREELY", 5)
    machine = KeyMachine()
    body = machine.new_create_key()
    machine.ok(body, request_id=ID, params_hash=HASH)
    for _ in range(10):
        machine.pass_time(17.9)
        machine.ok(EnableKey(body.key_id))
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    assert len(machine.rows()[Table.KEYS]) == 1
    for _ in range(20):
        machine.pass_time(17.9)
        machine.ok(EnableKey(body.key_id))
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    assert len(machine.rows()[Table.KEYS]) == 2


def test_principal_with_too_many_young_requests_is_throttled_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rather than forget a young one. The throttled request isn't remembered: later it goes through."""
    machine = KeyMachine()
    key, other = machine.create_key(), machine.create_key(caller=machine.other)
    monkeypatch.setattr(requests, "REMEMBERED_MAX", remembered(machine))
    copy = {"request_id": ID, "params_hash": HASH}
    machine.ok(DisableKey(key.key_id))
    assert machine.code(EnableKey(key.key_id), **copy) == "ThrottlingException"
    machine.ok(EnableKey(other.key_id), caller=machine.other)
    machine.pass_time(600)
    machine.ok(EnableKey(key.key_id), **copy)


def test_repeat_by_a_credential_that_was_deactivated_is_denied() -> None:
    """What was withdrawn is withdrawn, for answers that are still remembered too."""
    machine = KeyMachine()
    copy = {"request_id": ID, "params_hash": HASH, "caller": machine.other}
    machine.ok(machine.new_create_key(), **copy)
    machine.ok(DeactivateAccessKey(machine.other.access_key_id))
    assert machine.code(machine.new_create_key(), **copy) == "UnrecognizedClientException"


@pytest.mark.parametrize(
    "caller",
    [caller_of(access_key_id="AKIAUNKNOWN000000000"), caller_of(version=2), caller_of(OTHER_ACCOUNT, OPERATOR_KEY)],
    ids=["unknown key", "other version", "other account"],
)
def test_command_of_a_caller_who_is_not_its_credential_is_denied(caller: Caller) -> None:
    """A command carries its caller, and `apply` looks the credential up again."""
    machine = KeyMachine()
    before = machine.rows()
    assert machine.code(machine.new_create_key(), caller=caller) == "UnrecognizedClientException"
    after = machine.rows()
    del before[Table.CLOCK], after[Table.CLOCK]
    assert after == before


def test_id_used_again_after_it_expired_is_remembered_on_its_own() -> None:
    """Dropping the old use, whose row the new one took, must not forget the new one."""
    machine = KeyMachine()
    key = machine.create_key()
    for _ in range(2 * requests.DROPPED_PER_REQUEST):
        machine.ok(EnableKey(key.key_id))
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    machine.pass_time(600)
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    made = len(machine.rows()[Table.KEYS])
    for _ in range(5):
        machine.ok(EnableKey(key.key_id))
    machine.ok(machine.new_create_key(), request_id=ID, params_hash=HASH)
    assert len(machine.rows()[Table.KEYS]) == made
