"""A change that one member doesn't hear of: clients ask for it again, and ask that member for what it has missed.

Contract 2 hangs on a few ways to an answer that nobody takes by chance within the second for which the member still has
its lease: the same change asked for twice, a change that changes nothing any more, a read at another node. Here a
client of its own takes them all, at the one key, while the member is cut off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.operations import Shape, Tag
from keycluster.simulations.workload.bursts import LOOK_SECONDS
from keycluster.simulations.workload.pool import Belief, KnownKey
from keycluster.simulations.workload.turns import Turn

CHANGE_SECONDS: Final = 4.0
"""A change waits for the lease of a member that doesn't answer: a second."""
USE_SECONDS: Final = 4.0
"""The member may have to come back first."""
USES: Final = 2
AGAIN_AFTER_SECONDS: Final = (0.01, 0.2)
READ_SECONDS: Final = 0.15
READS_SECONDS: Final = 1.2
PAUSE_SECONDS: Final = 0.005
DISABLE_CHANCE: Final = 0.7  # What shows on the data plane too.

_PLAINTEXT: Final = b"by one who may have missed something"


@dataclass(frozen=True, slots=True)
class Behind:
    """The member that is cut off, and who leads meanwhile; `begin` does it, and says whether it did."""

    node: str
    leader: str
    begin: Callable[[], bool]


async def miss_a_change(turn: Turn, behind: Behind) -> None:
    key = turn.pool.key(turn.rng, Belief.ENABLED)
    if not {behind.node, behind.leader} <= set(turn.caller.door.nodes):
        return  # One of them is about to leave.
    if key is None or await turn.ask(_using(key), at=behind.node, seconds=LOOK_SECONDS) is None:
        return
    await turn.ask(_reading(key), at=behind.leader, seconds=LOOK_SECONDS)  # Connected to both, then.
    change = _draw(turn, key)
    if not behind.begin():
        return
    request_id = turn.request_id()
    async with trio.open_nursery() as nursery:
        for its_id, is_again in ((request_id, False), (request_id, True), (None, True)):
            wait_s = turn.rng.uniform(*AGAIN_AFTER_SECONDS) if is_again else 0.0
            nursery.start_soon(partial(_change_and_use, turn, behind, change, key, request_id=its_id, wait_s=wait_s))
        nursery.start_soon(_read_in_turns, turn, behind, _reading(key, change))
    if isinstance(change, wire.DisableKeyRequest):
        await turn.ask(wire.EnableKeyRequest(key_id=key.key_id), seconds=CHANGE_SECONDS)


def _draw(turn: Turn, key: KnownKey) -> Shape:
    if turn.rng.random() < DISABLE_CHANCE:
        return wire.DisableKeyRequest(key_id=key.key_id)
    number = turn.rng.randrange(1_000)
    if turn.rng.random() < 0.5:
        return wire.UpdateKeyDescriptionRequest(key_id=key.key_id, description=f"missed {number}")
    return wire.TagResourceRequest(key_id=key.key_id, tags=(Tag(tag_key="missed", tag_value=str(number)),))


async def _change_and_use(
    turn: Turn, behind: Behind, change: Shape, key: KnownKey, *, request_id: bytes | None, wait_s: float
) -> None:
    await trio.sleep(wait_s)
    if await turn.ask(change, at=behind.leader, request_id=request_id, seconds=CHANGE_SECONDS) is None:
        return
    for look in _looks(change, key):
        await turn.ask(look, at=behind.node, seconds=USE_SECONDS)


def _looks(change: Shape, key: KnownKey) -> Sequence[Shape]:
    return [_using(key)] * USES if isinstance(change, wire.DisableKeyRequest) else [_reading(key, change)]


async def _read_in_turns(turn: Turn, behind: Behind, read: Shape) -> None:
    """What one has told nobody may tell otherwise from then on."""
    ends = trio.current_time() + READS_SECONDS
    while trio.current_time() < ends:
        for node in (behind.leader, behind.node):
            await turn.ask(read, at=node, seconds=READ_SECONDS)
        await trio.sleep(PAUSE_SECONDS)


def _using(key: KnownKey) -> Shape:
    return wire.EncryptRequest(key_id=key.key_id, plaintext=_PLAINTEXT)


def _reading(key: KnownKey, change: Shape | None = None) -> Shape:
    if isinstance(change, wire.TagResourceRequest):
        return wire.ListResourceTagsRequest(key_id=key.key_id)
    return wire.DescribeKeyRequest(key_id=key.key_id)
