"""Who is on the way out, and when the entry that takes them out may be appended (L9).

A member that left the configuration is counted by no later leader. So nobody may leave it while holding a lease: the
leader first stops granting, then waits until what it noted (or must assume, L6) has run out, then appends. A joint
entry takes nobody out; leaving the joint phase does, and so does a step that drops learners. Who is on the way out of a
joint phase is read from the configuration itself, so a new leader goes on by the same rule without being told.

The leader itself needs no waiting: it serves under its quorum lease alone, which ends before anybody follows it (L4).
"""

from dataclasses import dataclass

from keycluster.cluster.raft.membership import leave
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import NodeId


@dataclass(frozen=True, slots=True)
class WaitingChange:
    """A change whose very first entry takes learners out: it isn't appended before their leases have run out."""

    target: Membership
    context: bytes
    leaving: frozenset[NodeId]


def leaving(membership: Membership) -> frozenset[NodeId]:
    """The members that the end of the joint phase takes out; nobody outside one."""
    return taken_out(membership, leave(membership)) if membership.is_joint else frozenset()


def taken_out(current: Membership, step: Membership) -> frozenset[NodeId]:
    """The members that an entry with `step` takes out."""
    return frozenset(current.members) - frozenset(step.members)
