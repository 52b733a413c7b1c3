"""The commands on keys: each handler changes rows and returns the operation's response, or raises KmsError.

What needs no state was checked at the door; it is checked again where rows and schedules rely on it, since a command
may come from a node of another version.
"""

from msgspec.structs import replace

from keycluster.cluster.keys import commands
from keycluster.cluster.keys.authorise import authorise
from keycluster.cluster.keys.describe import days_from, key_metadata, unix_seconds
from keycluster.cluster.keys.limits import (
    ON_DEMAND_ROTATIONS_MAX,
    check_deletion_window,
    check_description,
    check_rotation_period,
    check_tag_key,
    check_tags,
    merge_tags,
)
from keycluster.cluster.keys.policy import check_policy, default_policy
from keycluster.cluster.keys.records import (
    EMPTY_ROW,
    KeyRecord,
    KeyState,
    RotationType,
    Table,
    account_key_row,
    alias_row,
    load_key,
)
from keycluster.cluster.keys.resolve import UUID_PATTERN
from keycluster.cluster.keys.timekeeping import destruction_held
from keycluster.cluster.keys.transition import Transition
from keycluster.cluster.wire import operations
from keycluster.cluster.wire.errors import (
    AlreadyExistsException,
    DependencyTimeoutException,
    KMSInvalidStateException,
    LimitExceededException,
    ValidationException,
)


def create_key(transition: Transition, body: commands.CreateKey) -> operations.CreateKeyResponse:
    caller = transition.caller
    authorise(caller, "kms:CreateKey", None)
    check_description(body.description)
    check_tags(body.tags)
    if body.policy is not None:
        check_policy(body.policy, caller.account, transition.region.partition)
    if UUID_PATTERN.fullmatch(body.key_id) is None:
        raise ValidationException("The command's key id is malformed")
    if load_key(transition.state, body.key_id) is not None:
        raise AlreadyExistsException("The command's key id is taken")
    key = KeyRecord(
        key_id=body.key_id,
        account=caller.account,
        created=transition.now,
        state=KeyState.ENABLED,
        backing_keys=(transition.accept(body.backing, RotationType.INITIAL),),
        description=body.description,
        policy=_policy_to_store(transition, body.policy),
        tags=merge_tags((), body.tags),
    )
    transition.put_key(key, replacing=None)
    transition.state.put(Table.ACCOUNT_KEYS, account_key_row(key.account, key.key_id), EMPTY_ROW)
    return operations.CreateKeyResponse(key_metadata=key_metadata(key, transition.region))


def enable_key(transition: Transition, body: commands.EnableKey) -> operations.EnableKeyResponse:
    key = transition.key_for("EnableKey", body.key)
    transition.change_key(key, state=KeyState.ENABLED)
    return operations.EnableKeyResponse()


def disable_key(transition: Transition, body: commands.DisableKey) -> operations.DisableKeyResponse:
    key = transition.key_for("DisableKey", body.key)
    transition.change_key(key, state=KeyState.DISABLED)
    return operations.DisableKeyResponse()


def schedule_key_deletion(
    transition: Transition, body: commands.ScheduleKeyDeletion
) -> operations.ScheduleKeyDeletionResponse:
    check_deletion_window(body.window_days)
    key = transition.key_for("ScheduleKeyDeletion", body.key)
    deletion_at = days_from(transition.now, body.window_days)
    transition.change_key(key, state=KeyState.PENDING_DELETION, deletion_at=deletion_at)
    return operations.ScheduleKeyDeletionResponse(
        key_id=transition.arn(key),
        deletion_date=unix_seconds(deletion_at),
        key_state=KeyState.PENDING_DELETION,
        pending_window_in_days=body.window_days,
    )


def cancel_key_deletion(
    transition: Transition, body: commands.CancelKeyDeletion
) -> operations.CancelKeyDeletionResponse:
    key = transition.key_for("CancelKeyDeletion", body.key)
    transition.change_key(key, state=KeyState.DISABLED, deletion_at=None)
    return operations.CancelKeyDeletionResponse(key_id=transition.arn(key))


def update_key_description(
    transition: Transition, body: commands.UpdateKeyDescription
) -> operations.UpdateKeyDescriptionResponse:
    check_description(body.description)
    key = transition.key_for("UpdateKeyDescription", body.key)
    transition.change_key(key, description=body.description)
    return operations.UpdateKeyDescriptionResponse()


def tag_resource(transition: Transition, body: commands.TagResource) -> operations.TagResourceResponse:
    check_tags(body.tags)
    key = transition.key_for("TagResource", body.key)
    transition.change_key(key, tags=merge_tags(key.tags, body.tags))
    return operations.TagResourceResponse()


def untag_resource(transition: Transition, body: commands.UntagResource) -> operations.UntagResourceResponse:
    for tag_key in body.tag_keys:
        check_tag_key(tag_key)
    key = transition.key_for("UntagResource", body.key)
    kept = tuple(tag for tag in key.tags if tag[0] not in body.tag_keys)
    transition.change_key(key, tags=kept)
    return operations.UntagResourceResponse()


def put_key_policy(transition: Transition, body: commands.PutKeyPolicy) -> operations.PutKeyPolicyResponse:
    key = transition.key_for("PutKeyPolicy", body.key)
    check_policy(body.policy, key.account, transition.region.partition)
    transition.change_key(key, policy=_policy_to_store(transition, body.policy))
    return operations.PutKeyPolicyResponse()


def enable_key_rotation(
    transition: Transition, body: commands.EnableKeyRotation
) -> operations.EnableKeyRotationResponse:
    """The period counts from now, also when rotation was on before: that is how AWS describes it."""
    check_rotation_period(body.period_days)
    key = transition.key_for("EnableKeyRotation", body.key)
    rotation_next = days_from(transition.now, body.period_days)
    transition.change_key(key, rotation_period_days=body.period_days, rotation_next=rotation_next)
    return operations.EnableKeyRotationResponse()


def disable_key_rotation(
    transition: Transition, body: commands.DisableKeyRotation
) -> operations.DisableKeyRotationResponse:
    key = transition.key_for("DisableKeyRotation", body.key)
    transition.change_key(key, rotation_period_days=None, rotation_next=None)
    return operations.DisableKeyRotationResponse()


def rotate_key_on_demand(
    transition: Transition, body: commands.RotateKeyOnDemand
) -> operations.RotateKeyOnDemandResponse:
    """The rotation is complete when this returns: the ConflictException of a rotation still under way never comes."""
    key = transition.key_for("RotateKeyOnDemand", body.key)
    if key.on_demand_rotations >= ON_DEMAND_ROTATIONS_MAX:
        raise LimitExceededException(
            f"{transition.arn(key)} has been rotated on demand {ON_DEMAND_ROTATIONS_MAX} times, which is the limit"
        )
    if body.backing is None:
        raise DependencyTimeoutException("The node that was asked had not heard of the key yet: try again")
    rotated = transition.add_backing_key(key, body.backing, RotationType.ON_DEMAND)
    transition.put_key(rotated, replacing=key)
    return operations.RotateKeyOnDemandResponse(key_id=key.key_id)


def rotate_key_automatically(transition: Transition, body: commands.RotateKeyAutomatically) -> None:
    """Does nothing where the proposer saw something else: another leader may have been first."""
    key = load_key(transition.state, body.key_id)
    if (
        key is None
        or key.state is not KeyState.ENABLED
        or key.rotation_next is None
        or key.rotation_period_days is None
        or key.rotation_next > transition.now
        or key.current.id != body.replaces
    ):
        raise KMSInvalidStateException("The key is not due for rotation")
    rotated = transition.add_backing_key(key, body.backing, RotationType.AUTOMATIC)
    rotation_next = days_from(transition.now, key.rotation_period_days)
    transition.put_key(replace(rotated, rotation_next=rotation_next), replacing=key)


def complete_key_deletion(transition: Transition, body: commands.CompleteKeyDeletion) -> None:
    """Destroys the key: its tokens, its aliases, all that was known of it. Held while time is in doubt."""
    key = load_key(transition.state, body.key_id)
    if (
        key is None
        or key.state is not KeyState.PENDING_DELETION
        or key.deletion_at != body.deletion_at
        or key.deletion_at > transition.now
    ):
        raise KMSInvalidStateException("The key is not due for deletion")
    if destruction_held(transition.clock):
        raise KMSInvalidStateException("Time has leapt: nothing is destroyed until it is confirmed")
    for alias in key.aliases:
        transition.state.delete(Table.ALIASES, alias_row(key.account, alias))
    transition.state.delete(Table.ACCOUNT_KEYS, account_key_row(key.account, key.key_id))
    transition.delete_key(key)


def _policy_to_store(transition: Transition, policy: str | None) -> str | None:
    """None for the default policy's own text: a million keys needn't hold a million copies."""
    if policy == default_policy(transition.caller.account, transition.region.partition):
        return None
    return policy
