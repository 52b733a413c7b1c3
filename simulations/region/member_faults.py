"""What operators do in the midst of all that: members come, go and hand over (`nemesis.py` says how it is carried out).

Node ids are never given twice. A join that found nobody is tried again at the peace with the same token and the same
folder: the region may have admitted the node without the answer getting through.
"""

import random
from functools import partial

import trio

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.wire.errors import KmsError
from keycluster.node.joining import JoinFailed
from keycluster.simulations.checkers.key_model import NOT_FOUND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.nemesis import LEADER_CHANCE, Nemesis, Strike
from keycluster.simulations.region.node import Excuse, SimNode
from keycluster.simulations.region.region import TOO_LATE, az_name

JOINS_FIRST_CHANCE = 0.5  # The other half of operators are of the careless kind.
MEMBERS_MAX = 8
TRANSFER_S_MAX = 1.0  # After this it was an election that made the other one leader.
VOTERS_MIN = 3  # Below that a region is not one that anybody would promise anything of.


def add_voter(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    return _add(nemesis, fault, MemberRole.VOTER, rng)


def add_learner(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    return _add(nemesis, fault, MemberRole.LEARNER, rng)


def remove(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """A learner, or a voter that the region can spare; the leader among them."""
    region = nemesis.region
    rows = region.rows()
    stay = {name: row for name, row in sorted(rows.items()) if name in region.nodes and name not in region.removed}
    voters = [name for name, row in stay.items() if row.role is MemberRole.VOTER]
    fit = [name for name in stay if name not in voters or len(voters) > VOTERS_MIN]
    if not fit:
        return None
    leader = region.leader()
    seeks_leader = rng.random() < LEADER_CHANCE
    node = leader if leader is not None and leader.name in fit and seeks_leader else region.nodes[rng.choice(fit)]

    async def take_it_out() -> None:
        if await take_out(nemesis, node):
            nemesis.took_effect(fault)

    nemesis.in_background(take_it_out)
    return node.name


def replace_some(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Up to all of them, at once, whoever is down: as when machines are renewed in a hurry."""
    region = nemesis.region
    rows = region.rows()
    stay = sorted(name for name in rows if name in region.nodes and name not in region.removed)
    count = min(rng.randint(1, len(stay)), MEMBERS_MAX - len(rows) - len(region.unfinished)) if stay else 0
    if count < 1:
        return None
    leaving = [region.nodes[name] for name in sorted(rng.sample(stay, count))]
    joins_first = rng.random() < JOINS_FIRST_CHANCE

    async def renew(node: SimNode) -> None:
        has_come = joins_first and await bring_in(nemesis, az=node.config.az, role=node.config.role)
        if (has_come or not joins_first) and await take_out(nemesis, node):
            nemesis.took_effect(fault)
        if not joins_first:
            await bring_in(nemesis, az=node.config.az, role=node.config.role)

    for node in leaving:
        nemesis.in_background(partial(renew, node))
    return ", ".join(node.name for node in leaving)


def transfer(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    leader = nemesis.region.leader()
    running = leader.running if leader is not None else None
    if leader is None or running is None:
        return None
    others = [voter for voter in running.replica.core.membership.voters if voter != leader.name]
    if not others:
        return None
    target = rng.choice(others)

    async def ask() -> None:
        try:
            await nemesis.region.ask(leader, "TransferLeadership", node_id=target)
        except (KmsError, *TOO_LATE):
            return  # It leads no more, or the other one isn't up to it.
        with trio.move_on_after(TRANSFER_S_MAX):
            await nemesis.region.until(lambda: (now := nemesis.region.leader()) is not None and now.name == target)
            nemesis.took_effect(fault)

    nemesis.in_background(ask)
    return f"{leader.name} to {target}"


async def take_out(nemesis: Nemesis, node: SimNode) -> bool:
    """Has it removed, if the region agrees and answers. Whether it did."""
    region = nemesis.region
    region.members_move = True
    region.removed.add(node.name)
    region.asked_to_leave.add(node.name)  # Until it is known: it may be under way whatever becomes of the asking.
    node.excuses.add(Excuse.REMOVED)
    try:
        await region.operate("RemoveNode", node_id=node.name)
    except KmsError as refusal:
        if refusal.code != NOT_FOUND:  # Else it has gone already.
            region.removed.discard(node.name)  # The placement doesn't allow it now.
            node.excuses.discard(Excuse.REMOVED)
    except TOO_LATE:
        return False
    region.asked_to_leave.discard(node.name)
    return node.name in region.removed


async def replace(nemesis: Nemesis, node: SimNode) -> None:
    """For a node that must not be started from its disk again."""
    await take_out(nemesis, node)
    if not nemesis.is_over:
        await bring_in(nemesis, az=node.config.az, role=node.config.role)


async def bring_in(nemesis: Nemesis, *, az: str, role: MemberRole) -> bool:
    """Has a new node join, if the region agrees and answers. Whether it did."""
    try:
        await nemesis.region.join(nemesis.region.new_name(), az=az, role=role)
    except (JoinFailed, KmsError, *TOO_LATE):
        return False  # Refused for its placement; or it waits for the peace.
    return True


def _add(nemesis: Nemesis, fault: Fault, role: MemberRole, rng: random.Random) -> str | None:
    region = nemesis.region
    if len(region.rows()) + len(region.unfinished) >= MEMBERS_MAX:
        return None
    az = az_name(rng.randrange(region.azs))

    async def add() -> None:
        if await bring_in(nemesis, az=az, role=role):
            nemesis.took_effect(fault)

    nemesis.in_background(add)
    return f"a {role.value} in {az}"


MEMBER_STRIKES: dict[FaultKind, Strike] = {
    FaultKind.ADD_VOTER: add_voter,
    FaultKind.ADD_LEARNER: add_learner,
    FaultKind.REMOVE: remove,
    FaultKind.REPLACE: replace_some,
    FaultKind.TRANSFER: transfer,
}
