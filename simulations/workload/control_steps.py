"""Changes and reads of the control plane.

What a change should be is made by a `draw_…` function, so that `bursts.py` can look at what comes of it.
"""

from collections.abc import Callable
from typing import Final

from keycluster.cluster.keys.policy import default_policy
from keycluster.cluster.types import AccountId
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.operations import Shape, Tag
from keycluster.simulations.workload.pool import Belief, KnownKey
from keycluster.simulations.workload.turns import Step, Turn

TAG_KEYS: Final = ("tenant", "cost centre", "stage", "ü")
PAGES_MAX: Final = 6
PAGE_LIMITS: Final = (None, None, 1, 3)
DELETION_WINDOW_DAYS: Final = (7, 7, 14, 30)  # From the shortest to the longest.
ROTATION_DAYS: Final = (None, 90, 365)

Draw = Callable[[Turn], Shape | None]
"""A request, or None where there is nothing to make one of yet."""


# Changes.


def draw_create_key(turn: Turn) -> Shape | None:
    """As long as there is room: all clients share a few keys, so that their calls meet."""
    if len(turn.pool.keys) + turn.pool.creating >= turn.plan.keys_max:
        return None
    tags = _tags(turn) if turn.rng.random() < 0.3 else None
    return wire.CreateKeyRequest(description=_description(turn), tags=tags)


def _description(turn: Turn) -> str:
    return turn.rng.choice(("", f"for {turn.caller.name}, {turn.rng.randrange(1_000)}"))


def _tags(turn: Turn) -> tuple[Tag, ...]:
    keys = turn.rng.sample(TAG_KEYS, turn.rng.randint(1, 2))
    return tuple(Tag(tag_key=key, tag_value=str(turn.rng.randrange(100))) for key in keys)


def _on_key(make: Callable[[Turn, str], Shape], *beliefs: Belief) -> Draw:
    """Mostly on a key that is believed to be so, named by id or ARN."""

    def draw(turn: Turn) -> Shape | None:
        key = turn.pool.key(turn.rng, *(beliefs if turn.rng.random() < 0.8 else ()))
        return None if key is None else make(turn, turn.pool.reference(turn.rng, key, aliases=False))

    return draw


draw_enable_key = _on_key(lambda turn, key: wire.EnableKeyRequest(key_id=key), Belief.DISABLED)
draw_disable_key = _on_key(lambda turn, key: wire.DisableKeyRequest(key_id=key), Belief.ENABLED)
_draw_any_deletion = _on_key(
    lambda turn, key: wire.ScheduleKeyDeletionRequest(
        key_id=key, pending_window_in_days=turn.rng.choice(DELETION_WINDOW_DAYS)
    ),
    Belief.DISABLED,
)
draw_cancel_deletion = _on_key(lambda turn, key: wire.CancelKeyDeletionRequest(key_id=key), Belief.PENDING)
draw_update_description = _on_key(
    lambda turn, key: wire.UpdateKeyDescriptionRequest(key_id=key, description=_description(turn))
)
draw_tag = _on_key(lambda turn, key: wire.TagResourceRequest(key_id=key, tags=_tags(turn)))
draw_untag = _on_key(lambda turn, key: wire.UntagResourceRequest(key_id=key, tag_keys=(turn.rng.choice(TAG_KEYS),)))
draw_enable_rotation = _on_key(
    lambda turn, key: wire.EnableKeyRotationRequest(key_id=key, rotation_period_in_days=turn.rng.choice(ROTATION_DAYS)),
    Belief.ENABLED,
)
draw_disable_rotation = _on_key(lambda turn, key: wire.DisableKeyRotationRequest(key_id=key), Belief.ENABLED)
draw_rotate_on_demand = _on_key(lambda turn, key: wire.RotateKeyOnDemandRequest(key_id=key), Belief.ENABLED)


def draw_schedule_deletion(turn: Turn) -> Shape | None:
    """As long as most keys stay: with keys to be deleted there is little to do."""
    pending = sum(key.belief is Belief.PENDING for key in turn.pool.keys)
    return _draw_any_deletion(turn) if 2 * (pending + 1) <= len(turn.pool.keys) else None


def draw_put_policy(turn: Turn) -> Shape | None:
    """The default policy in other words: only that is supported, but its text is the caller's own."""
    key = turn.pool.key(turn.rng)
    if key is None:
        return None
    account = AccountId(key.arn.split(":")[4])
    text = default_policy(account, "aws").replace("key-default-1", f"written-{turn.rng.randrange(1_000)}")
    return wire.PutKeyPolicyRequest(key_id=key.key_id, policy=text)


def draw_create_alias(turn: Turn) -> Shape | None:
    free = [alias for alias in turn.pool.aliases if alias not in turn.pool.targets]
    return _aliasing(turn, free, wire.CreateAliasRequest)


def draw_update_alias(turn: Turn) -> Shape | None:
    return _aliasing(turn, list(turn.pool.targets), wire.UpdateAliasRequest)


def _aliasing(
    turn: Turn, likely: list[str], request: type[wire.CreateAliasRequest | wire.UpdateAliasRequest]
) -> Shape | None:
    key = turn.pool.key(turn.rng, Belief.ENABLED)
    alias = turn.rng.choice(likely if likely and turn.rng.random() < 0.85 else turn.pool.aliases)
    return None if key is None else request(alias_name=alias, target_key_id=turn.rng.choice((key.key_id, key.arn)))


def draw_delete_alias(turn: Turn) -> Shape | None:
    likely = list(turn.pool.targets)
    alias = turn.rng.choice(likely if likely and turn.rng.random() < 0.85 else turn.pool.aliases)
    return wire.DeleteAliasRequest(alias_name=alias)


CHANGES: Final[dict[str, Draw]] = {
    "create_key": draw_create_key,
    "disable_key": draw_disable_key,
    "enable_key": draw_enable_key,
    "schedule_deletion": draw_schedule_deletion,
    "cancel_deletion": draw_cancel_deletion,
    "update_description": draw_update_description,
    "create_alias": draw_create_alias,
    "update_alias": draw_update_alias,
    "delete_alias": draw_delete_alias,
    "tag": draw_tag,
    "untag": draw_untag,
    "put_policy": draw_put_policy,
    "enable_rotation": draw_enable_rotation,
    "disable_rotation": draw_disable_rotation,
    "rotate_on_demand": draw_rotate_on_demand,
}
"""By step."""


def _asking(draw: Draw) -> Step:
    async def step(turn: Turn) -> None:
        request = draw(turn)
        if request is not None:
            await turn.ask(request, at=turn.node())

    return step


# Reads.


def _any_key(turn: Turn, *, aliases: bool = False) -> str | None:
    key: KnownKey | None = turn.pool.key(turn.rng)
    return None if key is None else turn.pool.reference(turn.rng, key, aliases=aliases)


def draw_describe(turn: Turn) -> Shape | None:
    key_id = turn.rng.choice(turn.pool.aliases) if turn.rng.random() < 0.2 else _any_key(turn, aliases=True)
    return None if key_id is None else wire.DescribeKeyRequest(key_id=key_id)


def draw_get_policy(turn: Turn) -> Shape | None:
    key_id = _any_key(turn)
    return None if key_id is None else wire.GetKeyPolicyRequest(key_id=key_id)


def draw_get_rotation_status(turn: Turn) -> Shape | None:
    key_id = _any_key(turn)
    return None if key_id is None else wire.GetKeyRotationStatusRequest(key_id=key_id)


def _paged(make: Callable[[Turn, str | None], Callable[[int | None, str | None], Shape]], *, of_key: bool) -> Step:
    """A list, page after page."""

    async def step(turn: Turn) -> None:
        key_id = _any_key(turn) if of_key else None
        if of_key and key_id is None:
            return
        page, limit, marker = make(turn, key_id), turn.rng.choice(PAGE_LIMITS), None
        for _ in range(PAGES_MAX):
            answer = await turn.ask(page(limit, marker), at=turn.node())
            marker = getattr(answer, "next_marker", None)
            if marker is None:
                return

    return step


list_keys = _paged(
    lambda turn, key: lambda limit, marker: wire.ListKeysRequest(limit=limit, marker=marker), of_key=False
)


def _aliases_page(turn: Turn, key_id: str | None) -> Callable[[int | None, str | None], Shape]:
    of_key = _any_key(turn) if turn.rng.random() < 0.5 else None
    return lambda limit, marker: wire.ListAliasesRequest(key_id=of_key, limit=limit, marker=marker)


def _tags_page(turn: Turn, key_id: str | None) -> Callable[[int | None, str | None], Shape]:
    return lambda limit, marker: wire.ListResourceTagsRequest(key_id=key_id or "", limit=limit, marker=marker)


def _rotations_page(turn: Turn, key_id: str | None) -> Callable[[int | None, str | None], Shape]:
    which = turn.rng.choice((None, "ALL_KEY_MATERIAL"))
    return lambda limit, marker: wire.ListKeyRotationsRequest(
        key_id=key_id or "", include_key_material=which, limit=limit, marker=marker
    )


CONTROL_STEPS: Final[dict[str, Step]] = {
    **{name: _asking(draw) for name, draw in CHANGES.items()},
    "describe": _asking(draw_describe),
    "get_policy": _asking(draw_get_policy),
    "get_rotation_status": _asking(draw_get_rotation_status),
    "list_keys": list_keys,
    "list_aliases": _paged(_aliases_page, of_key=False),
    "list_tags": _paged(_tags_page, of_key=True),
    "list_rotations": _paged(_rotations_page, of_key=True),
}
