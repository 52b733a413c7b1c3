"""What must be true the moment a change has returned, asked of every node; and changes that are asked for twice.

Contract 2 is tested where it is hardest to keep: a change returns from one node, and in the same instant each of the
others is asked for what it must do, or must not do any more.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.operations import Shape
from keycluster.simulations.workload.aws_door import AwsDoor
from keycluster.simulations.workload.control_steps import CHANGES
from keycluster.simulations.workload.turns import Step, Turn

LOOK_SECONDS: Final = 2.0
"""For one call at one node, which may be gone for good."""

STATE_CHANGES: Final = frozenset({"disable_key", "enable_key", "schedule_deletion", "cancel_deletion"})
"""Drawn twice as often as others: a node that acts on an old state does what must not be done any more."""

_PLAINTEXT: Final = b"looked at"


Look = Callable[[Turn, Any, Any], Sequence[Shape]]
"""Given a change and its answer: requests that show whether a node acts on it."""


def looks_after(turn: Turn, request: Shape, response: Shape) -> Sequence[Shape]:
    """What shows whether a node acts on the change."""
    return LOOKS[type(request)](turn, request, response)


def _encrypting(key_id: str) -> Shape:
    return wire.EncryptRequest(key_id=key_id, plaintext=_PLAINTEXT)


def _using(turn: Turn, request: Any, response: Shape) -> Sequence[Shape]:
    """Whether the key works: Encrypt, and Decrypt of something that it encrypted before."""
    key_id, about = request.key_id, turn.pool.about(request)
    blobs = [known for known in turn.pool.blobs[-200:] if known.key_id == about]
    if not blobs or turn.rng.random() < 0.5:
        return (_encrypting(key_id),)
    known = turn.rng.choice(blobs)
    opening = wire.DecryptRequest(ciphertext_blob=known.blob, encryption_context=known.context)
    return (_encrypting(key_id), opening)


def _created(turn: Turn, request: wire.CreateKeyRequest, response: wire.CreateKeyResponse) -> Sequence[Shape]:
    key_id = response.key_metadata.key_id
    return (_encrypting(key_id), wire.DescribeKeyRequest(key_id=key_id))


def _named(turn: Turn, request: Any, response: Shape) -> Sequence[Shape]:
    return (_encrypting(request.alias_name), wire.DescribeKeyRequest(key_id=request.alias_name))


def _rotated(turn: Turn, request: wire.RotateKeyOnDemandRequest, response: Shape) -> Sequence[Shape]:
    data_key = wire.GenerateDataKeyRequest(key_id=request.key_id, key_spec="AES_256")
    return (data_key, wire.ListKeyRotationsRequest(key_id=request.key_id))


def _by(look: Callable[[str], Shape]) -> Look:
    return lambda turn, request, response: (look(request.key_id),)


_TAGS = _by(lambda key_id: wire.ListResourceTagsRequest(key_id=key_id))
_ROTATION = _by(lambda key_id: wire.GetKeyRotationStatusRequest(key_id=key_id))

LOOKS: Final[dict[type[Shape], Look]] = {
    wire.CreateKeyRequest: _created,
    wire.EnableKeyRequest: _using,
    wire.DisableKeyRequest: _using,
    wire.ScheduleKeyDeletionRequest: _using,
    wire.CancelKeyDeletionRequest: _using,
    wire.UpdateKeyDescriptionRequest: _by(lambda key_id: wire.DescribeKeyRequest(key_id=key_id)),
    wire.CreateAliasRequest: _named,
    wire.UpdateAliasRequest: _named,
    wire.DeleteAliasRequest: _named,
    wire.TagResourceRequest: _TAGS,
    wire.UntagResourceRequest: _TAGS,
    wire.PutKeyPolicyRequest: _by(lambda key_id: wire.GetKeyPolicyRequest(key_id=key_id)),
    wire.EnableKeyRotationRequest: _ROTATION,
    wire.DisableKeyRotationRequest: _ROTATION,
    wire.RotateKeyOnDemandRequest: _rotated,
}


async def look_everywhere(turn: Turn, looks: Sequence[Shape]) -> None:
    """Each node at the same time, each with one of the looks at least."""
    async with trio.open_nursery() as nursery:
        for node in turn.caller.door.nodes:
            look = turn.rng.choice(looks)
            nursery.start_soon(partial(turn.ask, look, at=node, seconds=LOOK_SECONDS))


async def change_and_look(turn: Turn) -> None:
    """Any change of the plan; then, if it was made, every node."""
    names = [name for name in CHANGES if turn.plan.weights.get(name)]
    names += [name for name in names if name in STATE_CHANGES]
    request = CHANGES[turn.rng.choice(names)](turn) if names else None
    if request is None:
        return
    response = await turn.ask(request, at=turn.node())
    if response is not None:
        await look_everywhere(turn, looks_after(turn, request, response))


async def repeat(turn: Turn) -> None:
    """A change that somebody asked for a while ago, under its id: perhaps at another node, under another leader."""
    known = [change for change in turn.pool.changes if change.door == turn.caller.door.kind]
    if known:
        change = turn.rng.choice(known)
        await turn.ask(change.request, at=turn.node(), request_id=change.request_id)


async def twins(turn: Turn) -> None:
    """One change, asked for twice at once by way of two nodes."""
    names = [name for name in CHANGES if turn.plan.weights.get(name)]
    request = CHANGES[turn.rng.choice(names)](turn) if names else None
    if request is None:
        return
    request_id = turn.request_id()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            node = turn.rng.choice(turn.caller.door.nodes)
            nursery.start_soon(partial(turn.ask, request, at=node, request_id=request_id))


async def misuse_id(turn: Turn) -> None:
    """Another change under the id of one that was made: it must be refused, and leave everything as it is.

    Not through the AWS door: there a request is named by what it says, too.
    """
    door = turn.caller.door.kind
    made = [change for change in turn.pool.changes if change.is_made and change.door == door != AwsDoor.kind]
    names = [name for name in CHANGES if turn.plan.weights.get(name)]
    if not made or not names:
        return
    change, request = turn.rng.choice(made), CHANGES[turn.rng.choice(names)](turn)
    if request is not None and request != change.request:
        await turn.ask(request, at=turn.node(), request_id=change.request_id)


BURST_STEPS: Final[dict[str, Step]] = {
    "change_and_look": change_and_look,
    "repeat": repeat,
    "twins": twins,
    "misuse_id": misuse_id,
}
