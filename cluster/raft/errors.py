"""Why the core refuses a call.

RaftError
├── NotLeader              go to the leader
├── ProposalsFull          too many uncommitted bytes: try again later
├── HandingOver            leadership is on its way to another node: try again there
├── MembershipRefused      the change isn't possible now, or never: `reason` tells
└── TransferRefused        leadership can't go to that node
"""

from keycluster.cluster.types import NodeId


class RaftError(Exception):
    """A call that the core refuses; nothing has changed."""


class NotLeader(RaftError):
    def __init__(self, leader_hint: NodeId | None) -> None:
        super().__init__(f"not the leader; last known: {leader_hint}")
        self.leader_hint = leader_hint


class ProposalsFull(RaftError):
    """The cap on uncommitted bytes is reached: a majority doesn't keep up."""


class HandingOver(RaftError):
    """The leader takes no proposals any more until the hand-over has failed or its term has ended."""


class MembershipRefused(RaftError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TransferRefused(RaftError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
