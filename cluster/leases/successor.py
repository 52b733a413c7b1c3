"""To whom a leader may hand over: other voters that it heard of a moment ago.

One that is dead or cut off would be told to campaign and couldn't: the region would be without a leader for a time-out.
"""

from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.types import Instant, NodeId


def voters_heard_lately(core: RaftCore, now: Instant) -> list[NodeId]:
    """As leader: within the shortest election time-out. Sorted; without the leader, which isn't in `progress`."""
    return [node for node in members_heard_lately(core, now) if node in core.membership.voters]


def members_heard_lately(core: RaftCore, now: Instant) -> list[NodeId]:
    """The like, of all members."""
    return sorted(
        node
        for node, progress in core.progress.items()
        if progress.heard_at is not None and now - progress.heard_at <= core.config.election_ns
    )
