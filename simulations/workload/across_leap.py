"""A change that is asked for again under its id, and meanwhile all wall clocks have leapt.

Whatever the region remembers it by must not go by the time of day. The leap comes while the change is unanswered and
its client tries again, or after the answer, before somebody repeats it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.operations import Shape
from keycluster.simulations.workload.bursts import LOOK_SECONDS
from keycluster.simulations.workload.control_steps import CHANGES
from keycluster.simulations.workload.pool import Belief
from keycluster.simulations.workload.turns import Turn

CHANGE_SECONDS: Final = 4.0
UNDER_WAY_SECONDS: Final = 0.02
"""A change takes a few round trips and syncs: some leaps find it in no log yet, some already answered."""
AGAIN_AFTER_SECONDS: Final = ((0.0, 0.0), (0.1, 0.6))
"""Before each repeat, from and to: the leader hears others' clocks with their questions for leases, four times a
second, and until then cluster time goes on as before."""
DISABLE_CHANCE: Final = 0.5  # What is undone before the leap, so that doing it again shows.
UNANSWERED_CHANCE: Final = 0.5

_PLAINTEXT: Final = b"by one whose key was enabled again"


@dataclass(frozen=True, slots=True)
class LeapAhead:
    """The leap that is to come, whichever way the clocks go."""

    begin: Callable[[], bool]
    """Does it, and says whether it did."""
    break_connections: Callable[[], None]
    """Those of the client that asks."""


async def ask_across(turn: Turn, leap: LeapAhead) -> None:
    change = _draw(turn)
    if change is None:
        return
    request_id = turn.request_id()
    ask = partial(turn.ask, change, request_id=request_id, seconds=CHANGE_SECONDS)
    if turn.rng.random() < UNANSWERED_CHANCE:
        has_leapt = await _leap_while_unanswered(turn, ask, leap)
    else:
        await ask()
        if isinstance(change, wire.DisableKeyRequest):
            await turn.ask(wire.EnableKeyRequest(key_id=change.key_id), seconds=CHANGE_SECONDS)
        has_leapt = leap.begin()
    if not has_leapt:
        return
    for seconds in AGAIN_AFTER_SECONDS:
        await trio.sleep(turn.rng.uniform(*seconds))
        node = turn.rng.choice(turn.caller.door.nodes)
        await turn.ask(change, at=node, request_id=request_id, seconds=CHANGE_SECONDS)
    if isinstance(change, wire.DisableKeyRequest):
        using = wire.EncryptRequest(key_id=change.key_id, plaintext=_PLAINTEXT)
        await turn.ask(using, seconds=LOOK_SECONDS)
        await turn.ask(wire.EnableKeyRequest(key_id=change.key_id), seconds=CHANGE_SECONDS)


async def _leap_while_unanswered(turn: Turn, ask: Callable[[], Awaitable[object]], leap: LeapAhead) -> bool:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(turn.rng.uniform(0.0, UNDER_WAY_SECONDS))
        has_leapt = leap.begin()
        if has_leapt:
            leap.break_connections()
    return has_leapt


def _draw(turn: Turn) -> Shape | None:
    key = turn.pool.key(turn.rng, Belief.ENABLED)
    if key is not None and turn.rng.random() < DISABLE_CHANCE:
        return wire.DisableKeyRequest(key_id=key.key_id)
    names = [name for name in CHANGES if turn.plan.weights.get(name)]
    return CHANGES[turn.rng.choice(names)](turn) if names else None
