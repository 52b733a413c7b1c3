"""A run's end: what must come back once the faults stop.

*Liveness*, after TigerBeetle's: a random majority is healed and the rest is lost for good; all of the majority must
serve within a bounded time, and a write must return. *Peace*: everything is healed, what operators had begun is
finished, and all members must serve.

Where members changed during the run there often is peace first: a configuration that was on its way may need just those
that would be lost, and no region survives that. Else more than a majority is kept, as it takes (`amid_change.py`).
"""

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

import trio

from keycluster.cluster.keys.records import MemberState
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.errors import KmsError
from keycluster.node.joining import JoinFailed
from keycluster.node.membership import next_membership
from keycluster.simulations.checkers.key_model import NOT_FOUND
from keycluster.simulations.region.nemesis import Nemesis, names
from keycluster.simulations.region.node import Excuse, NodeState, SimNode
from keycluster.simulations.region.region import TOO_LATE, SimRegion
from keycluster.simulations.region.workload import VISITOR

LIVENESS_S_MAX: Final = 8.0
"""Until all serve: an election takes a second or two, a lease one, a restart one, a stalled stream two: with room.

In some hundred runs it was one second at most, and 2.7 with the proof: what takes much longer is a finding."""
PEACE_S_MAX: Final = 90.0
"""Nodes that join may have to wait for an answer that was lost (`joining.ANSWER_SECONDS_MAX`)."""

PROOF_S_MAX: Final = 5.0
PROOF_S_MAX_EACH: Final = 4.0
"""For each node that is lost: clients may find them first, and wait for each; three seconds if it knows no leader."""
WAYS_TO_LOSE: Final = ("crash", "cut", "pause", "strand")
"""Stranded is who is cut off from the others, and not from clients."""
PROVE_AGAIN_S: Final = 0.2
JOIN_AGAIN_S: Final = 1.0  # Nobody may lead at first.
LOOK_AGAIN_S: Final = 1.0

Prove = Callable[[], Awaitable[bool]]
"""Whether a write returns."""


async def demand_liveness(
    nemesis: Nemesis, rng: random.Random, *, prove: Prove, kept: Sequence[SimNode] | None = None
) -> None:
    """Failures go to the region's checks. `kept`: instead of a random majority; who is to leave needn't serve."""
    region = nemesis.region
    members = region.known_voters()
    if kept is None:
        count = len(members) // 2 + 1
        sound = [name for name in members if not region.nodes[name].rotten]  # A page may be read for the first time.
        kept = [region.nodes[name] for name in sorted(rng.sample(sound if len(sound) >= count else members, count))]
    rest = [node for node in region.nodes.values() if node not in kept and node.state is not NodeState.BROKEN]
    for node in rest:
        _lose(region, node, nemesis.clients, rng)
    _heal(nemesis, kept)
    nemesis.note("liveness", f"of {names(members)} only {names(kept)}")
    with trio.move_on_after(LIVENESS_S_MAX) as waiting:
        await region.until(lambda: all(node.serves or node.name in region.removed for node in kept))
    if waiting.cancelled_caught:
        region.checks.found("liveness", f"only {names(kept)} are left, and not all serve: {_state_of(region)}")
    elif not await _proved(prove, seconds=PROOF_S_MAX + PROOF_S_MAX_EACH * len(rest)):
        region.checks.found("liveness", f"only {names(kept)} are left, and no write returns: {_state_of(region)}")


async def make_peace(nemesis: Nemesis, *, prove: Prove) -> None:
    """Everything is healed and finished. Failures go to the region's checks."""
    region = nemesis.region
    region.frozen.clear()
    _heal(nemesis, list(region.nodes.values()))
    nemesis.note("peace", "everybody returns")
    with trio.move_on_after(PEACE_S_MAX):
        await _finish_joins(region)
        while _unsettled(region):
            await _finish_removals(nemesis)  # Again: a node may find only now that its disk is of no use.
            with trio.move_on_after(LOOK_AGAIN_S):
                await region.until(lambda: not _unsettled(region))
        if await prove():
            return
    region.checks.found(
        "liveness", f"all is healed, and {_unsettled(region) or 'no write returns'}; {_state_of(region)}"
    )


async def _proved(prove: Prove, *, seconds: float) -> bool:
    """A client may find only lost nodes at first."""
    with trio.move_on_after(seconds):
        while not await prove():  # noqa: ASYNC110  # It asks a region, which tells nobody when it can be asked again.
            await trio.sleep(PROVE_AGAIN_S)
        return True
    return False


def _lose(region: SimRegion, node: SimNode, clients: Iterable[str], rng: random.Random) -> None:
    """For good: off, out of reach, or stopped where it stands."""
    region.frozen.add(node.name)
    way = rng.choice(WAYS_TO_LOSE)
    if way == "crash" or node.state is not NodeState.UP:
        node.crash("lost for good")
    elif way == "pause":
        node.pause()
    else:
        others = (*region.nodes, *clients, VISITOR) if way == "cut" else region.nodes
        for other in others:
            if other != node.name:
                region.network.links.cut(node.name, other)
                region.network.links.cut(other, node.name)


def _heal(nemesis: Nemesis, nodes: Sequence[SimNode]) -> None:
    """What lasts is over already; this undoes what was to last for good, and starts who is down."""
    region = nemesis.region
    mended = {node.name for node in nodes}
    for node in nodes:
        for other in (*region.nodes, *nemesis.clients, VISITOR):
            if other != node.name and (other in mended or other not in region.frozen):
                region.network.links.heal(node.name, other)
                region.network.links.heal(other, node.name)
        node.resume()
        node.disk.resume()
        region.start_now(node)


async def _finish_joins(region: SimRegion) -> None:
    """With the same token, from the same folder: the region may have admitted them already."""
    while region.unfinished:
        for node, token in list(region.unfinished.values()):
            try:
                await region.join_again(node, token)
            except (JoinFailed, *TOO_LATE):
                await trio.sleep(JOIN_AGAIN_S)


async def _finish_removals(nemesis: Nemesis) -> None:
    """Of nodes whose removal may not have been recorded, and of those that are of no use any more."""
    region = nemesis.region
    rows = region.rows()
    for stranded in [node for node in region.up() if _is_stranded(node, rows)]:
        nemesis.note("stranded", stranded.name)
        stranded.switch_off()
    for name, row in sorted(rows.items()):
        node = region.nodes.get(name)
        is_broken = node is not None and node.state is NodeState.BROKEN
        if row.state is not MemberState.REMOVING and (is_broken or name in region.asked_to_leave):
            if node is not None:
                node.excuses.add(Excuse.REMOVED)
            region.removed.add(name)
            try:
                await region.operate("RemoveNode", node_id=name)
            except KmsError as refusal:
                if refusal.code != NOT_FOUND:  # Else it has gone meanwhile, as it was asked to before.
                    region.removed.discard(name)
            region.asked_to_leave.discard(name)


def _is_stranded(node: SimNode, rows: Collection[NodeId]) -> bool:
    """It was away while everybody was replaced whom it believes: nobody can tell it who the members are now."""
    running = node.running
    if running is None or node.serves:
        return False
    known = running.directory.peers().keys()
    return bool(known) and known.isdisjoint(rows)


def _unsettled(region: SimRegion) -> str:
    """What is still to come; empty when all is as it shall be."""
    rows = region.rows()
    wrong = []
    for name, row in sorted(rows.items()):
        node = region.nodes.get(name)
        if row.state is not MemberState.ACTIVE:
            wrong.append(f"{name} is {row.state.value}")
        elif node is None or not node.serves:
            wrong.append(f"{name} doesn't serve")
    wrong += [f"{node.name} was removed and runs on" for node in region.up() if node.name not in rows]
    membership = region.membership()
    leader = region.leader()
    if membership is not None and leader is not None:
        everybody = rows.keys()
        if next_membership(membership, rows, leader=leader.name, caught_up=everybody, heard=everybody) is not None:
            wrong.append("members are still to change")
    return ", ".join(wrong) if rows else "nobody knows any members"


def _state_of(region: SimRegion) -> str:
    return "; ".join(_line(region, name) for name in region.nodes)


def _line(region: SimRegion, name: NodeId) -> str:
    node = region.nodes[name]
    running = node.running
    if node.state is not NodeState.UP or running is None:
        return f"{name} {node.state.value}"
    core = running.replica.core
    about = [
        f"{name} {'leads' if core.is_leader else f'follows {core.leader}'} in term {core.term}",
        "serves" if node.serves else "doesn't serve",
        f"applied {running.replica.applied_index}, settled {running.replica.settled_index}, log {core.last_index}",
    ]
    if node.is_paused:
        about.append("paused")
    return ", ".join(about)
