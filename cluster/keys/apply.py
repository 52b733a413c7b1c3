"""The key state machine: one committed log entry in, changed rows and an outcome out.

Deterministic: nothing here reads a clock, draws a random number or depends on an order of a set, so every node makes
the same rows of the same log. What a caller can get wrong becomes a refusal (an Outcome with an error), with every row
as before: the handlers run inside a savepoint. Anything else that is raised, an I/O error or a broken invariant, is no
result: it goes out to the store, which rolls the batch back and stops the node.

For each command: the stamp moves the clock; the caller's access key is looked up again (security.md, 7); a repeated
request gets its first outcome; one that was under way for too long is refused; else the body's handler resolves,
authorises, checks the key's state and changes rows.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from keycluster.cluster.invariant import require
from keycluster.cluster.keys import apply_aliases, apply_keys, apply_region, commands
from keycluster.cluster.keys.authorise import authorise_operator, check_credential
from keycluster.cluster.keys.commands import (
    Command,
    CommandBody,
    CommandMalformed,
    Outcome,
    decode_payload,
)
from keycluster.cluster.keys.records import (
    ONLY_ROW,
    AccessKeyRecord,
    ClockRecord,
    StateWriter,
    Table,
    load_region,
    store,
)
from keycluster.cluster.keys.requests import check_age, forget_some, is_remembered, make_room, recall, remember
from keycluster.cluster.keys.timekeeping import advance_clock
from keycluster.cluster.keys.transition import Transition
from keycluster.cluster.raft.messages import Entry, EntryKind, MembershipMalformed, decode_membership_entry
from keycluster.cluster.types import LogIndex
from keycluster.cluster.wire.errors import AccessDeniedException, AlreadyExistsException, KmsError, KMSInternalException

NOTHING: Final = msgspec.msgpack.encode(None)  # The response of commands that nobody waits for.

_ENCODER = msgspec.msgpack.Encoder()


def _tick(transition: Transition, body: commands.Tick) -> None:
    after = forget_some(transition.state, transition.clock.forgot_until, transition.clock.running_ns)
    store(transition.state, Table.CLOCK, ONLY_ROW, replace(transition.clock, forgot_until=after))


Handler = Callable[[Transition, Any], msgspec.Struct | None]

CALLERS_COMMANDS: Final[dict[type[CommandBody], Handler]] = {
    commands.CreateKey: apply_keys.create_key,
    commands.EnableKey: apply_keys.enable_key,
    commands.DisableKey: apply_keys.disable_key,
    commands.ScheduleKeyDeletion: apply_keys.schedule_key_deletion,
    commands.CancelKeyDeletion: apply_keys.cancel_key_deletion,
    commands.UpdateKeyDescription: apply_keys.update_key_description,
    commands.CreateAlias: apply_aliases.create_alias,
    commands.UpdateAlias: apply_aliases.update_alias,
    commands.DeleteAlias: apply_aliases.delete_alias,
    commands.TagResource: apply_keys.tag_resource,
    commands.UntagResource: apply_keys.untag_resource,
    commands.PutKeyPolicy: apply_keys.put_key_policy,
    commands.EnableKeyRotation: apply_keys.enable_key_rotation,
    commands.DisableKeyRotation: apply_keys.disable_key_rotation,
    commands.RotateKeyOnDemand: apply_keys.rotate_key_on_demand,
}
"""What an account's callers may ask for."""

OPERATORS_COMMANDS: Final[dict[type[CommandBody], Handler]] = {
    commands.IssueJoinToken: apply_region.issue_join_token,
    commands.BeginRemoveMember: apply_region.begin_remove_member,
    commands.CreateAccessKey: apply_region.create_access_key,
    commands.DeactivateAccessKey: apply_region.deactivate_access_key,
    commands.ConfirmTime: apply_region.confirm_time,
}
"""What needs an operator's access key."""

REGIONS_COMMANDS: Final[dict[type[CommandBody], Handler]] = {
    commands.CompleteKeyDeletion: apply_keys.complete_key_deletion,
    commands.RotateKeyAutomatically: apply_keys.rotate_key_automatically,
    commands.Tick: _tick,
    commands.AdmitMember: apply_region.admit_member,
    commands.UpdateMemberAddresses: apply_region.update_member_addresses,
}
"""What the region itself does, and no access key may. FoundRegion is one more, before there is a region."""


def apply_entry(state: StateWriter, entry: Entry) -> Outcome:
    """Applies a COMMAND or MEMBERSHIP entry to `state`. Raises only what must stop the node."""
    if entry.kind is EntryKind.MEMBERSHIP:
        return _apply_membership(state, entry.payload)
    require(entry.kind is EntryKind.COMMAND, f"{entry} reached the key state machine")
    try:
        payload = decode_payload(entry.payload)
    except CommandMalformed as malformed:
        return _refused(KMSInternalException(f"The log entry is {malformed}"))
    clock = advance_clock(state, time=payload.time, running_ns=payload.running_ns)
    command = payload.command
    try:
        if isinstance(command.body, commands.FoundRegion):
            return _found(state, clock, command, command.body)
        if command.caller.is_region:
            return _carry_out_regions(state, entry.index, clock, command)
        return _carry_out_callers(state, entry.index, clock, command)
    except KmsError as refusal:
        return _refused(refusal)


def _apply_membership(state: StateWriter, payload: bytes) -> Outcome:
    try:
        change = decode_membership_entry(payload)
    except (msgspec.DecodeError, MembershipMalformed):
        return _refused(KMSInternalException("The log entry is not a membership"))
    apply_region.apply_membership(state, change.membership)
    return Outcome(ok=NOTHING)


def _found(state: StateWriter, clock: ClockRecord, command: Command, body: commands.FoundRegion) -> Outcome:
    if not command.caller.is_region:
        raise AccessDeniedException("Only a node founds a region")
    if load_region(state) is not None:
        raise AlreadyExistsException("The region was founded before")
    with state.savepoint():
        apply_region.found_region(state, clock.time, body)
    return Outcome(ok=NOTHING)


def _carry_out_regions(state: StateWriter, index: LogIndex, clock: ClockRecord, command: Command) -> Outcome:
    handler = REGIONS_COMMANDS.get(type(command.body))
    if handler is None:
        raise AccessDeniedException("The region itself doesn't do that")
    return _run(handler, _transition(state, index, clock, command, None), command.body)


def _carry_out_callers(state: StateWriter, index: LogIndex, clock: ClockRecord, command: Command) -> Outcome:
    """Raises what isn't remembered: a caller who is no longer good, a mismatch, an age, a full memory."""
    access_key, now = check_credential(state, command.caller), clock.running_ns
    if not is_remembered(command):
        check_age(command, now)
        return _judge(state, index, clock, command, access_key)
    repeated = recall(state, command, now)
    if repeated is not None:
        return repeated
    check_age(command, now)
    remembered = make_room(state, command.caller.principal, now)
    outcome = _judge(state, index, clock, command, access_key)
    refusal = outcome.error()
    if refusal is None or not refusal.retryable:
        remember(state, command, outcome, now, remembered)
    return outcome


def _judge(
    state: StateWriter, index: LogIndex, clock: ClockRecord, command: Command, access_key: AccessKeyRecord
) -> Outcome:
    """The outcome of a new request, refusals included."""
    body = command.body
    try:
        handler = CALLERS_COMMANDS.get(type(body))
        if handler is None:
            handler = OPERATORS_COMMANDS.get(type(body))
            authorise_operator(access_key, f"keycluster:{type(body).__name__}")
        if handler is None:
            raise AccessDeniedException("Only the region itself does that")
        return _run(handler, _transition(state, index, clock, command, access_key), body)
    except KmsError as refusal:
        return _refused(refusal)


def _transition(
    state: StateWriter, index: LogIndex, clock: ClockRecord, command: Command, access_key: AccessKeyRecord | None
) -> Transition:
    region = load_region(state)
    if region is None:
        raise KMSInternalException("There is no region yet")
    return Transition(state, region, index, clock, command.caller, access_key)


def _run(handler: Handler, transition: Transition, body: CommandBody) -> Outcome:
    with transition.state.savepoint():
        response = handler(transition, body)
    return Outcome(ok=_ENCODER.encode(response))


def _refused(refusal: KmsError) -> Outcome:
    return Outcome(error_code=refusal.code, error_message=refusal.message)
