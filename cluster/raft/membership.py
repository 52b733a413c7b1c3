"""Changes of the membership (dissertation 4.3): which are possible, and by which steps.

A change of voters goes through a joint phase: first an entry under which both the old and the new voters decide, then,
when the caller says so (`leave`), one with the new voters alone. Learners come and go in one step, since they decide
nothing. A joint entry never takes anybody out: members leave only by `leave`, or by a step of learners alone, so that
rule L9 has one moment to wait for.
"""

from keycluster.cluster.raft.errors import MembershipRefused
from keycluster.cluster.raft.messages import Membership, MembershipMalformed
from keycluster.cluster.types import NodeId


def first_step(current: Membership, target: Membership) -> Membership:
    """The membership to append on the way from `current` to `target`. Raises `MembershipRefused`."""
    try:
        target.validate()
    except MembershipMalformed as error:
        raise MembershipRefused(str(error)) from error
    if current.is_joint:
        raise MembershipRefused("a change is in its joint phase")
    if target.is_joint:
        raise MembershipRefused("the target of a change cannot be joint itself")
    if target == current:
        raise MembershipRefused("nothing would change")
    if target.voters == current.voters:
        return target
    gone = sorted(set(current.learners) - set(target.members))
    if gone:
        raise MembershipRefused(f"a change of voters cannot also remove learners ({', '.join(gone)}): two steps")
    demoted = _sorted(set(target.learners) & set(current.voters))
    learners = _sorted(set(target.learners) - set(demoted))
    return Membership(target.voters, current.voters, learners, demoted)


def leave(current: Membership) -> Membership:
    """The membership that ends the joint phase."""
    return Membership(current.voters, learners=_sorted({*current.learners, *current.learners_next}))


def _sorted(nodes: set[NodeId]) -> tuple[NodeId, ...]:
    return tuple(sorted(nodes))
