"""Who must be kept for a region to go on while its members change: a majority of each configuration that may come.

Known are the configurations in the logs of nodes that run, and what member rows ask for next. Of those that only a
node which is down has in its log none counts without a majority in which somebody runs. What can't be known is taken
for both: whether a removal without an answer was recorded, and which learners were close enough to become voters.
"""

import random
from collections.abc import Collection, Iterator, Set
from itertools import chain, combinations

from keycluster.cluster.keys.records import MemberRole, MemberState
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import NodeId
from keycluster.simulations.region.nemesis import Nemesis
from keycluster.simulations.region.node import Excuse, SimNode
from keycluster.simulations.region.region import SimRegion


def draw_survivors(nemesis: Nemesis, rng: random.Random) -> list[SimNode] | None:
    """As few as will do; None if none of them could be lost, or a disk has just lost data."""
    region = nemesis.region
    if nemesis.doubtful is not None:
        return None
    configurations = set(_may_come(region))
    eligible = [
        node.name for node in region.up() if _is_whole(node) and any(c.is_voter(node.name) for c in configurations)
    ]
    rng.shuffle(eligible)
    kept = list(eligible)
    for name in eligible:
        fewer = [other for other in kept if other != name]
        if _suffice(fewer, configurations):
            kept = fewer
    voters = {name for configuration in configurations for name in configuration.all_voters}
    if not configurations or not _suffice(kept, configurations) or voters <= set(kept):
        return None
    return [region.nodes[name] for name in sorted(kept)]


def _is_whole(node: SimNode) -> bool:
    return node.running is not None and Excuse.OLD_DISK not in node.excuses and not node.rotten


def _suffice(names: Collection[NodeId], configurations: Collection[Membership]) -> bool:
    return all(configuration.has_quorum(names) for configuration in configurations)


def _may_come(region: SimRegion) -> Iterator[Membership]:
    for node in region.up():
        if node.running is not None:
            core = node.running.replica.core
            for membership in (core.membership, core.committed_membership):
                yield membership
                yield from _next(region, membership)


def _next(region: SimRegion, membership: Membership) -> Iterator[Membership]:
    """From what it comes to when its joint phase is left. One step may follow another."""
    rows = region.rows()
    leaving = {name for name, row in rows.items() if row.state is MemberState.REMOVING}
    learners = [name for name in membership.learners if name in rows and rows[name].wanted is MemberRole.VOTER]
    voters = set(membership.voters)
    for promoted in _subsets(learners):
        for gone in (set(), leaving, leaving | region.asked_to_leave):
            remaining = (voters | promoted) - gone
            if remaining:
                yield Membership(voters=tuple(sorted(remaining)))


def _subsets(names: Collection[NodeId]) -> Iterator[Set[NodeId]]:
    sizes = range(len(names) + 1)
    return map(frozenset, chain.from_iterable(combinations(sorted(names), size) for size in sizes))
