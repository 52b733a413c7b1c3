"""Which nodes may vote, so that no AZ can stop or decide for the region (design.md, "Consensus").

The members that operators admitted and asked to remove are rows (`MemberRecord`): what shall be. Raft's membership is
what is. The leader brings the second to the first, one change at a time (`next_membership`); each member joins as a
learner and votes once it has caught up.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from keycluster.cluster.keys.records import MemberRecord, MemberRole, MemberState
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import NodeId

SPREAD_AZS: Final = 3  # From this many AZs on, the loss of any one must leave a majority.
LEAVING: Final = (MemberState.REMOVING, MemberState.REMOVED)


def is_spread(azs: Iterable[str]) -> bool:
    """Whether voters in these AZs (one entry a voter) are placed well.

    With three or more AZs among them none holds a majority: the region outlives the loss of any one. With one or two
    that can't be had, so nothing is asked.
    """
    voters = Counter(azs)
    majority = voters.total() // 2 + 1
    return len(voters) < SPREAD_AZS or max(voters.values()) < majority


def placement_allows(members: Mapping[NodeId, str], change: Mapping[NodeId, str | None]) -> bool:
    """Whether the voters may change so. `members`: voter → AZ; `change`: node → its AZ to add it, None to remove it.

    The last voter can't go: nothing would be left to agree on anything.
    """
    after = {node: az for node, az in {**members, **change}.items() if az is not None}
    return bool(after) and is_spread(after.values())


def wanted_voters(members: Iterable[MemberRecord]) -> dict[NodeId, str]:
    """Node → AZ of all that vote or shall vote."""
    return {
        member.node: member.az
        for member in members
        if member.wanted is MemberRole.VOTER and member.state not in LEAVING
    }


def next_membership(
    members: Iterable[MemberRecord], membership: Membership, *, caught_up: Collection[NodeId]
) -> Membership | None:
    """What the leader should propose next, None where all is as it shall be (or must wait for someone to catch up).

    Removals come first, then a new learner, then one promotion. `caught_up`: learners whose log is close to the
    leader's. Asked only outside a joint phase: the caller finishes that first.
    """
    if membership.is_joint:
        return None
    by_node = {member.node: member for member in members}
    leaving = {node for node, member in by_node.items() if member.state in LEAVING}
    voters, learners = set(membership.voters), set(membership.learners)
    if leaving & (voters | learners) and voters - leaving:
        return _membership(voters - leaving, learners - leaving)
    joining = sorted(by_node.keys() - leaving - voters - learners)
    if joining:
        return _membership(voters, learners | {joining[0]})
    azs = {node: by_node[node].az for node in sorted(voters) if node in by_node}
    for node in sorted(learners & by_node.keys() & set(caught_up)):
        member = by_node[node]
        if member.wanted is MemberRole.VOTER and placement_allows(azs, {node: member.az}):
            return _membership(voters | {node}, learners - {node})
    return None


def _membership(voters: set[NodeId], learners: set[NodeId]) -> Membership:
    return Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))
