"""An access key's life: made, used at every node, withdrawn while it is used, refused by every node from then on."""

from contextlib import suppress
from functools import partial
from typing import Final

import trio

from keycluster.client.endpoints import Credentials
from keycluster.client.errors import KeyclusterError, KmsError
from keycluster.cluster.wire import admin
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.operations import Shape, Tag
from keycluster.simulations.runs import Failure
from keycluster.simulations.workload.bursts import LOOK_SECONDS, look_everywhere
from keycluster.simulations.workload.doors import Door
from keycluster.simulations.workload.pool import Belief, KnownKey
from keycluster.simulations.workload.turns import Caller, Step, Turn

USES: Final = 3
"""Calls that may be under way when the key is withdrawn."""


async def access_key(turn: Turn) -> None:
    key = turn.pool.key(turn.rng, Belief.ENABLED)
    if key is None:
        return
    operator = turn.by(turn.caller.operator or turn.caller)
    account = key.arn.split(":")[4]
    made = await operator.ask(admin.CreateAccessKeyRequest(account=account))
    if isinstance(made, admin.CreateAccessKeyResponse):
        await _live(turn, operator, key, Credentials(made.access_key_id, made.secret_access_key))


async def _live(turn: Turn, operator: Turn, key: KnownKey, credentials: Credentials) -> None:
    is_withdrawn = False
    try:
        async with turn.caller.open_door(credentials) as door:
            holder = turn.by(_holder(turn, credentials, door))
            await look_everywhere(holder, (_encrypting(key),))
            is_withdrawn = await _withdraw_in_use(holder, operator, key, credentials)
            if is_withdrawn:
                await look_everywhere(holder, _uses(holder, key))
    except KmsError as refusal:  # At the log-in: nobody has withdrawn it yet.
        if not refusal.retryable:
            message = f"access key {credentials.access_key_id} was made and is refused at the log-in: {refusal.code}"
            turn.shared.failures.append(Failure("currency", message, turn.shared.record.now_ns()))
    except KeyclusterError:
        return  # No node could be reached.
    if is_withdrawn:
        await _try_again(turn, key, credentials)


async def _withdraw_in_use(holder: Turn, operator: Turn, key: KnownKey, credentials: Credentials) -> bool:
    """Whether it is certain that it has been withdrawn."""
    async with trio.open_nursery() as nursery:
        for _ in range(USES):
            use = holder.rng.choice(_uses(holder, key))
            nursery.start_soon(partial(holder.ask, use, at=holder.node(), seconds=LOOK_SECONDS))
        withdrawn = await operator.ask(admin.DeactivateAccessKeyRequest(access_key_id=credentials.access_key_id))
    return withdrawn is not None


async def _try_again(turn: Turn, key: KnownKey, credentials: Credentials) -> None:
    """A node that can't know of the withdrawal may still let it log in, but must not act on anything it asks."""
    with suppress(KeyclusterError):
        async with turn.caller.open_door(credentials) as door:
            holder = turn.by(_holder(turn, credentials, door))
            await look_everywhere(holder, _uses(holder, key))


def _holder(turn: Turn, credentials: Credentials, door: Door) -> Caller:
    return Caller(
        name=f"{turn.caller.name}/{credentials.access_key_id[-4:]}",
        door=door,
        surroundings=turn.caller.surroundings,
        open_door=turn.caller.open_door,
        access_key_id=credentials.access_key_id,
    )


def _uses(turn: Turn, key: KnownKey) -> tuple[Shape, ...]:
    tag = Tag(tag_key="withdrawn", tag_value=str(turn.rng.randrange(100)))
    return (
        _encrypting(key),
        wire.DescribeKeyRequest(key_id=key.key_id),
        wire.TagResourceRequest(key_id=key.key_id, tags=(tag,)),
    )


def _encrypting(key: KnownKey) -> Shape:
    return wire.EncryptRequest(key_id=key.key_id, plaintext=b"by an access key of its own")


ACCESS_STEPS: Final[dict[str, Step]] = {"access_key": access_key}
