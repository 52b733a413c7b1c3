"""Which nodes may vote, so that no AZ can stop or decide for the region (design.md, "Consensus").

The members that operators admitted and asked to remove are rows (`MemberRecord`): what shall be. Raft's membership is
what is; the leader brings the second to the first, one change at a time (node/membership.py).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from keycluster.cluster.keys.records import MemberRecord, MemberRole, MemberState
from keycluster.cluster.types import NodeId

SPREAD_AZS: Final = 3  # From this many AZs on, none may hold a majority.
NO_CHANGE: Final[Mapping[NodeId, str | None]] = MappingProxyType({})
LEAVING: Final = (MemberState.REMOVING, MemberState.REMOVED)


def is_spread(azs: Iterable[str]) -> bool:
    """Whether voters in these AZs (one entry a voter) are placed well.

    With three or more AZs among them none holds a majority: none can decide alone, and with an odd number of voters the
    region outlives the loss of any one. Of an even number an AZ may hold half, as on the way from three voters to five.
    With one or two AZs that can't be had, so nothing is asked.
    """
    voters = Counter(azs)
    majority = voters.total() // 2 + 1
    return len(voters) < SPREAD_AZS or max(voters.values()) < majority


def placement_allows(members: Mapping[NodeId, str], change: Mapping[NodeId, str | None] = NO_CHANGE) -> bool:
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
