"""Who is on the way out, and when the entry that takes them out may be appended (L9).

A member that left the configuration is counted by no later leader. So nobody may leave it while holding a lease: the
leader first stops granting, then waits until what it noted (or must assume, L6) has run out, then appends. What is on
the way out is read from the configuration itself where it can be, so that a new leader in a joint configuration goes
on by the same rule without being told.

The leader itself needs no waiting: it serves under its quorum lease alone, which ends before anybody follows it (L4).
"""

from dataclasses import dataclass

from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import NodeId


@dataclass(frozen=True, slots=True)
class WaitingChange:
    """A change whose very first entry takes members out: it isn't appended before their leases have run out."""

    target: Membership
    context: bytes
    leaving: frozenset[NodeId]


def staying(membership: Membership) -> frozenset[NodeId]:
    """The members that are left once a joint configuration has been left; all of them outside one."""
    return frozenset((*membership.voters, *membership.learners, *membership.learners_next))


def leaving(membership: Membership) -> frozenset[NodeId]:
    """The members that leaving the joint configuration takes out; empty outside one."""
    return frozenset(membership.members) - staying(membership)


def taken_out_at_once(current: Membership, target: Membership) -> frozenset[NodeId]:
    """The members that the first entry of a change takes out: learners. A leaving voter stays in the outgoing half."""
    return frozenset(current.members) - staying(target) - frozenset(current.voters)
