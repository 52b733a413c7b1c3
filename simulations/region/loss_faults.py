"""Faults by which a disk loses what it had: bit rot, and an old copy of it put back.

A region of 2f + 1 voters outlives f lost disks, as long as the others have what is committed, on so many disks that no
majority lacks it. After the strike nothing else begins until the node either serves or has refused to.

Before bit rot there is calm, in which all catch up. Not before a roll-back: it would leave nothing that the old copy
lacks. Then what lasts goes on, uncommitted entries may be lost, and the others may lag by what a majority without them
has. Only votes must not be in doubt: nobody can know of a vote that was forgotten, so there has to be a leader that all
of them follow.
"""

import random
from functools import partial

import trio

from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.member_faults import VOTERS_MIN, replace
from keycluster.simulations.region.nemesis import Nemesis, Strike
from keycluster.simulations.region.node import Excuse, NodeState, SimNode
from keycluster.simulations.region.node_faults import NO_LOG_KEPT
from keycluster.simulations.region.rot import commits_lost

CALM_S_MAX = 8.0
CLEAR_S_MAX = 15.0
SNAPSHOT_CHANCE = 0.4  # That it hits a snapshot on its way instead of a node that was switched off.
SNAPSHOT = "snapshot.in"


def bit_rot(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    node = nemesis.victim(rng)
    if node is not None and rng.random() < SNAPSHOT_CHANCE:
        return _rot_snapshot(nemesis, fault, node)
    if node is None or not can_be_spared(nemesis, node):
        return None
    nemesis.in_background(partial(_rot, nemesis, fault, node, rng))
    return node.name


def rolled_back(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Somebody restores last night's image of the machine."""
    node = nemesis.victim(rng)
    if node is None or not can_be_spared(nemesis, node):
        return None
    nemesis.in_background(partial(_roll_back, nemesis, fault, node, rng))
    return node.name


def _rot_snapshot(nemesis: Nemesis, fault: Fault, node: SimNode) -> str:
    """It is down while the others' logs go past it, and the snapshot that it gets then lies on its disk with a flipped
    bit: it must be refused, and another one made."""
    node.disk.on_rot = partial(nemesis.springs, fault)
    node.disk.rots_next = SNAPSHOT

    def disarm() -> None:
        node.disk.rots_next = None

    nemesis.arm(fault, disarm)
    node.crash("crash before a rotten snapshot")
    nemesis.start_after(node, fault.for_ns)
    others = [other for other in nemesis.region.nodes.values() if other is not node and other.running is not None]
    for other in others:
        if other.running is not None:
            other.running.driver.retention = NO_LOG_KEPT

    def end() -> None:
        for other in others:
            if other.running is not None:
                other.running.driver.retention = other.retention

    nemesis.lasts(fault, end)
    return f"the next snapshot of {node.name}"


async def _rot(nemesis: Nemesis, fault: Fault, node: SimNode, rng: random.Random) -> None:
    if not await calm(nemesis, node):
        return
    node.crash("crash before bit rot")
    files = {path: content for path, content in node.disk.files().items() if content}
    path = rng.choice(sorted(files))
    offset = rng.randrange(len(files[path]))
    node.disk.flip(path, offset, 1 << rng.randrange(8))
    nemesis.took_effect(fault)
    nemesis.note("bit-rot", f"{node.name}: {path.name} at {offset} of {len(files[path])}")
    lost = commits_lost(files[path], node.disk.files()[path]) if path.name.endswith("-wal") else 0
    if lost > 1:
        nemesis.region.checks.found("damage", f"{node.name}: {lost} commits of {path.name} would be gone unnoticed")
    node.rotten.add(path)
    await until_clear(nemesis, node, fault.for_ns)


async def _roll_back(nemesis: Nemesis, fault: Fault, node: SimNode, rng: random.Random) -> None:
    copy = node.disk.files()
    lives = node.lives
    await trio.sleep(rng.uniform(0.2, 4))
    if node.lives != lives and rng.random() < 0.5:
        copy = node.disk.files()  # Old copies of both lives, and of this one.
        await trio.sleep(rng.uniform(0.2, 2))
    if not await _until_others_can_do_without(nemesis, node):
        return
    nemesis.doubtful = node
    node.crash("crash before its roll-back")
    seal = node.config.seal.path
    if seal is not None:  # It isn't on the disk that is put back, and may have been away when that was copied.
        copy[seal] = node.disk.files()[seal]
    is_older = copy != node.disk.files()
    node.disk.fill(copy)
    if is_older:
        nemesis.took_effect(fault)
    nemesis.note("rolled-back", node.name)
    node.excuses.add(Excuse.OLD_DISK)
    await until_clear(nemesis, node, fault.for_ns)


async def _until_others_can_do_without(nemesis: Nemesis, node: SimNode) -> bool:
    """Whether it came to that in time."""

    def can_they() -> bool:
        return nemesis.may_strike and node.state is NodeState.UP and _others_have_what_is_committed(nemesis, node)

    with trio.move_on_after(CALM_S_MAX):
        await nemesis.region.until(lambda: nemesis.is_over or can_they())
    return can_they()


def _others_have_what_is_committed(nemesis: Nemesis, node: SimNode) -> bool:
    """A majority has it without the node, no member is being changed, and no election is under way or may have been."""
    region, running, leader = nemesis.region, node.running, nemesis.region.leader()
    members = region.membership()
    if running is None or leader is None or members is None or members.is_joint or node.name not in members.members:
        return False
    term = running.stores.log.hard_state.term
    committed = max(each.running.replica.core.commit_index for each in region.up() if each.running is not None)
    keepers = 0
    for name in members.voters:
        other = region.nodes[name].running if name in region.nodes else None
        if other is None or other.replica.core.membership != members:
            return False
        if (other.replica.core.term, other.replica.core.leader) != (term, leader.name):
            return False
        keepers += name != node.name and other.stores.log.last_index >= committed
    return keepers > len(members.voters) // 2


def can_be_spared(nemesis: Nemesis, node: SimNode) -> bool:
    """One at a time, of enough."""
    members = nemesis.region.membership()
    if nemesis.doubtful is not None or members is None or len(members.voters) < VOTERS_MIN:
        return False
    return all(
        name in nemesis.region.nodes and nemesis.region.nodes[name].state is NodeState.UP for name in members.voters
    )


async def calm(nemesis: Nemesis, node: SimNode) -> bool:
    """Ends what lasts, lets nothing else begin, and waits until the node can be spared. False if that never came."""
    if nemesis.doubtful is not None:
        return False
    nemesis.doubtful = node
    nemesis.end_all()
    with trio.move_on_after(CALM_S_MAX):
        while not nemesis.is_over:
            await nemesis.region.until(lambda: nemesis.is_over or _others_have_all(nemesis, node))
            if not nemesis.is_over and _others_have_all(nemesis, node):
                return True
    nemesis.doubtful = None
    return False


def _others_have_all(nemesis: Nemesis, node: SimNode) -> bool:
    """All voters run in one term and have at least what the node's disk has; nothing is being changed about members."""
    region, running = nemesis.region, node.running
    members = region.membership()
    if running is None or members is None or members.is_joint:
        return False
    for name in members.voters:
        other = region.nodes[name].running
        if other is None or not region.nodes[name].serves or other.replica.core.membership != members:
            return False
        if other.replica.core.term != running.replica.core.term:
            return False
        if other.stores.log.last_index < running.stores.log.last_index:
            return False
    return True


async def until_clear(nemesis: Nemesis, node: SimNode, down_ns: int) -> None:
    """It starts again; either it serves in the end, or it refuses to go on and is replaced."""
    nemesis.start_after(node, down_ns)
    with trio.move_on_after(CLEAR_S_MAX + down_ns / SECOND):
        await nemesis.region.until(lambda: node.serves or node.state is NodeState.BROKEN)
    nemesis.doubtful = None
    if node.state is NodeState.BROKEN:
        await replace(nemesis, node)


LOSS_STRIKES: dict[FaultKind, Strike] = {FaultKind.BIT_ROT: bit_rot, FaultKind.ROLLED_BACK: rolled_back}
