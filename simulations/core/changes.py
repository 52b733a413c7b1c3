"""What an operator or a node itself asks of a leader: other members, another leader, a shorter log.

Every member that takes itself for the leader is asked: one of them may be of the past.
"""

import random
from dataclasses import dataclass

from keycluster.cluster.leases.successor import voters_heard_lately
from keycluster.cluster.raft.errors import RaftError
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import Instant, LogIndex, NodeId
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.member import Member
from keycluster.simulations.core.world import World
from keycluster.simulations.faults import FaultKind

VOTERS_MIN = 1
MEMBERS_MAX = 7
MACHINES_MAX = 12  # Node ids are never used twice: so many may come and go in one run.
CHANGES_MAX = 3  # In one step.


@dataclass(frozen=True, slots=True)
class MemberChange:
    leader: NodeId
    before: Membership
    target: Membership

    def __str__(self) -> str:
        return f"{self.leader}: voters {' '.join(self.target.voters)} learners {' '.join(self.target.learners)}"

    def has(self, kind: FaultKind) -> bool:
        """Whether a change of that kind is part of it: what is drawn may be undone by what is drawn next."""
        before, target = self.before, self.target
        match kind:
            case FaultKind.ADD_VOTER:
                return bool(set(target.voters) - set(before.members))
            case FaultKind.ADD_LEARNER:
                return bool(set(target.learners) - set(before.members))
            case FaultKind.CHANGE_ROLE:
                return bool((set(before.voters) & set(target.learners)) | (set(before.learners) & set(target.voters)))
            case _:
                return bool(set(before.members) - set(target.members))


def change_members(world: World, kind: FaultKind, rng: random.Random) -> MemberChange | None:
    """One change of the kind, sometimes with others in the same step. What a leader has begun; None: nobody has."""
    for machine in list(world.contract.leading.values()):
        replica = machine.replica
        if replica is None:
            continue
        before = replica.core.membership
        target = _draw_target(world, before, kind, rng)
        if target == before:
            return None
        for node in target.members:
            if node not in world.machines:
                world.add_machine(node)
                world.start(node)
        if propose(world, machine, target):
            return MemberChange(machine.node, before, target)
    return None


def remove(world: World, gone: NodeId) -> bool:
    """Takes a member out. Returns whether a leader has begun it."""
    for machine in list(world.contract.leading.values()):
        replica = machine.replica
        if replica is None or not replica.core.membership.is_member(gone):
            continue
        membership = replica.core.membership
        voters = tuple(node for node in membership.voters if node != gone)
        learners = tuple(node for node in membership.learners if node != gone)
        if voters and propose(world, machine, Membership(voters=voters, learners=learners)):
            return True
    return False


def propose(world: World, machine: Machine, target: Membership) -> bool:
    """Whether it has begun."""
    accepted: list[bool] = []

    def propose(member: Member, now: Instant) -> None:
        try:
            member.replica.propose_membership(target, now)
        except RaftError:
            return
        accepted.append(True)

    world.feed(machine, propose)
    return bool(accepted)


_KINDS = (FaultKind.ADD_VOTER, FaultKind.ADD_LEARNER, FaultKind.CHANGE_ROLE, FaultKind.REMOVE)


def _draw_target(world: World, current: Membership, kind: FaultKind, rng: random.Random) -> Membership:
    voters, learners = set(current.voters), set(current.learners)
    fresh = iter([NodeId(f"n{number}") for number in range(len(world.machines) + 1, MACHINES_MAX + 1)])
    kinds = [kind] + [rng.choice(_KINDS) for _ in range(rng.choice([0, 0, 0, 1, CHANGES_MAX - 1]))]
    for each in kinds:
        if each in (FaultKind.ADD_VOTER, FaultKind.ADD_LEARNER):
            node = next(fresh, None)
            if node is not None and len(voters | learners) < MEMBERS_MAX:
                (voters if each is FaultKind.ADD_VOTER else learners).add(node)
        elif each is FaultKind.CHANGE_ROLE:
            _change_role(voters, learners, rng)
        else:
            removable = sorted(learners | voters) if len(voters) > VOTERS_MIN else sorted(learners)
            if removable:
                node = rng.choice(removable)
                voters.discard(node)
                learners.discard(node)
    return Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))


def _change_role(voters: set[NodeId], learners: set[NodeId], rng: random.Random) -> None:
    if learners and (len(voters) == VOTERS_MIN or rng.random() < 0.5):
        node = rng.choice(sorted(learners))
        learners.remove(node)
        voters.add(node)
    elif len(voters) > VOTERS_MIN:
        node = rng.choice(sorted(voters))
        voters.remove(node)
        learners.add(node)


def transfer(world: World, rng: random.Random) -> tuple[Machine, Machine] | None:
    """To any other voter, dead or alive. The leader and the other one; None: nothing has begun."""
    for machine in list(world.contract.leading.values()):
        replica = machine.replica
        if replica is None:
            continue
        target = rng.choice(replica.core.membership.voters)
        if hand_over_to(world, machine, target):
            return machine, world.machines[target]
    return None


def hand_over(world: World, machine: Machine) -> bool:
    """As a node that is told to stop: to the voter that it heard of lately and that has most. False: it needn't."""
    replica = machine.replica
    if replica is None or not replica.core.is_leader:
        return False
    progress = replica.core.progress
    fit = voters_heard_lately(replica.core, machine.now(world.t))
    successor = max(fit, key=lambda node: (progress[node].match, node), default=None)
    return successor is not None and hand_over_to(world, machine, successor)


def hand_over_to(world: World, machine: Machine, target: NodeId) -> bool:
    """Whether it has begun."""
    accepted: list[bool] = []

    def give(member: Member, now: Instant) -> None:
        try:
            member.replica.transfer_leadership(target, now)
        except RaftError:
            return
        accepted.append(True)

    world.feed(machine, give)
    return bool(accepted)


def compact(machine: Machine) -> str | None:
    """Cuts the log as far as it may be. None: there is nothing to cut, or the disk is at work."""
    log = machine.disk.log
    upto = LogIndex(min(machine.disk.state.index, log.last_index))
    if machine.writing is not None or upto <= log.base:
        return None
    log.compact(upto)
    return f"{machine.node} up to {upto}"
