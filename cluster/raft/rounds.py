"""Heartbeat rounds: since when a leader knows that a quorum follows it.

Each append carries the number of the newest round begun, and its reply echoes it. A member that echoes round n heard
from the leader *after* n was begun, and sticks to it for E from then (rule L7). So once a quorum has echoed n, nobody
else can be elected until E after n's beginning, by a clock at the leader that is only fast or slow within its bounds.
Counting from the sending, not from the reply's arrival, makes a slow network shorten the lease, never stretch it.
"""

from collections import deque

from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import Instant, NodeId


class Rounds:
    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._sent: deque[tuple[int, Instant]] = deque()  # Rounds above `quorum_round`.
        self._echoed: dict[NodeId, int] = {}
        self.newest = 0
        self.quorum_round = 0
        self.quorum_sent_at: Instant | None = None  # When `quorum_round` was begun.

    def reset(self) -> None:
        """A new leadership: replies are told apart from earlier ones' by their term."""
        self._sent.clear()
        self._echoed = {self._node: 0}
        self.newest = self.quorum_round = 0
        self.quorum_sent_at = None

    def begin(self, membership: Membership, now: Instant) -> None:
        self.newest += 1
        self._sent.append((self.newest, now))
        self._echoed[self._node] = self.newest
        if len(membership.all_voters) == 1:
            self.recount(membership)

    def echoed(self, peer: NodeId, number: int, membership: Membership) -> bool:
        """A reply came. Returns whether a quorum has now echoed a newer round."""
        if number <= self._echoed.get(peer, 0) or number > self.newest:
            return False
        self._echoed[peer] = number
        return number > self.quorum_round and self.recount(membership)

    def recount(self, membership: Membership) -> bool:
        """Also after the membership changed: what a quorum of it has echoed. Never goes back."""
        number = membership.quorum_value(self._echoed)
        if number <= self.quorum_round:
            return False
        self.quorum_round = number
        while self._sent and self._sent[0][0] <= number:
            self.quorum_sent_at = self._sent.popleft()[1]
        return True
