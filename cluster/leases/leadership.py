"""One leadership, as far as leases go: when the leader serves, to whom it grants, who may leave (L2, L4, L8, L9).

It lives from the election to the end of the term's leadership and reads the Raft core, which knows the quorum lease and
the configurations. A question that can't be granted yet stays, the newest of each member, and is looked at again after
every input: right after an election that is when the leader's own entry commits, for a member that lags when it has
caught up. The clock is then one read after the question came, as L2 demands.
"""

from typing import Final

from keycluster.cluster.leases.grantor import LeaseGrantor
from keycluster.cluster.leases.messages import LeaseAsk
from keycluster.cluster.leases.removal import WaitingChange, leaving, taken_out
from keycluster.cluster.leases.successor import voters_heard_lately
from keycluster.cluster.marks import Mark
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.errors import HandingOver, MembershipRefused, RaftError
from keycluster.cluster.raft.membership import first_step
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import SECOND, Instant, LogIndex, NodeId

_WAITS = Mark("a removal waits for leases to run out")
_STEPS_ASIDE = Mark("a leader whose apply hangs steps aside", within=("core",))
# A whole node's apply hangs with its disk, and that is what it steps aside for.

APPLY_STALL_NS: Final = 2 * SECOND
"""As long as a leader's disk may stall (`RaftConfig.disk_stall_ns`), and longer than L."""


class Leadership:
    """What this leader may do at an instant: serve, grant, take members out."""

    def __init__(self, core: RaftCore, *, lease_ns: int, now: Instant) -> None:
        """`now`: the clock that came with the input that won the election."""
        self._core = core
        self.term = core.term
        self._lease_ns = lease_ns
        self._asks: dict[NodeId, tuple[LeaseAsk, Instant]] = {}  # With when they came.
        self._change: WaitingChange | None = None
        self._applied = LogIndex(0)
        self._applied_at = now  # When this leader's own applied index last advanced, or had reached the commit index.
        self.book = LeaseGrantor(
            lease_ns=lease_ns,
            members=(*core.membership.members, *core.committed_membership.members),
            excluded=(core.node, core.last_term_leader),
            elected_at=now,
            applied=core.applied_index,
        )

    def may_serve(self, applied: LogIndex, now: Instant) -> bool:
        """L4: its own term's first entry is applied, and its quorum lease lives."""
        own_entry = self._core.term_start
        return own_entry is not None and applied >= own_entry and self._quorum_lease_lives(now)

    def _quorum_lease_lives(self, now: Instant) -> bool:
        """L2(b), L4, L8: no other leader exists at `now`. After TimeoutNow one may, for the rest of this term."""
        until = self._core.quorum_lease_until
        return until is not None and now < until and not self._core.hand_over_sent

    # Granting

    def ask(self, member: NodeId, ask: LeaseAsk, now: Instant) -> None:
        """A member's question of this term came. `granted` answers it, at once or later."""
        self.book.reported(member, ask.applied)
        self._asks[member] = (ask, now)

    def granted(self, now: Instant) -> list[tuple[NodeId, LeaseAsk]]:
        """The questions that are granted now, noted in the book before they are handed out."""
        if not self._asks or not self._core.own_term_committed or not self._quorum_lease_lives(now):
            return []
        # A question older than L is worth nothing to who asked it, but noting a lease for it could hold writes back.
        self._asks = {m: (ask, came) for m, (ask, came) in self._asks.items() if now - came < self._lease_ns}
        granted = [(member, ask) for member, (ask, _) in sorted(self._asks.items()) if self._may_hold(member, now)]
        for member, _ in granted:
            del self._asks[member]
            self.book.note(member, commit=self._core.commit_index, now=now)
        return granted

    def _may_hold(self, member: NodeId, now: Instant) -> bool:
        """L2(c), L9. Of the newest configuration too: a removal that is appended counts, committed or not."""
        return (
            self._core.committed_membership.is_member(member)
            and self._core.membership.is_member(member)
            and member not in leaving(self._core.membership)
            and (self._change is None or member not in self._change.leaving)
            and not self.book.lags_too_far(member, now)
        )

    # Membership

    @property
    def change_waits(self) -> bool:
        """A change was asked for whose first entry isn't appended yet: leases run out first."""
        return self._change is not None

    def propose_membership(self, target: Membership, now: Instant, *, context: bytes) -> None:
        """Begins a change; `step_change` goes on with it. Raises `MembershipRefused` or another `RaftError`."""
        if self._change is not None:
            raise MembershipRefused("a change is under way: it waits for the leases of the members that leave")
        if self._core.membership != self._core.committed_membership or not self._core.own_term_committed:
            raise MembershipRefused("a change is in flight, or this leader has not committed its first entry yet")
        if self._core.is_handing_over or self._core.hand_over_sent:
            raise HandingOver("leadership is on its way to another node")
        leaving_at_once = taken_out(self._core.membership, first_step(self._core.membership, target))
        if leaving_at_once:
            self._change = WaitingChange(target, context, leaving_at_once)
            self.step_change(now)
            if self.change_waits:
                _WAITS.hit()
        else:
            self._core.propose_membership(target, now, context=context)

    def step_change(self, now: Instant) -> None:
        """L9: appends what a change waits for, once those whom it takes out hold no lease."""
        if self._core.is_handing_over or self._core.hand_over_sent:
            return
        change = self._change
        if change is not None and self._hold_nothing(change.leaving, now):
            self._change = None
            try:
                self._core.propose_membership(change.target, now, context=change.context)
            except RaftError:
                return  # The configuration has moved on: who asked sees that its change isn't in the log.
        if self._core.can_leave_joint and self._hold_nothing(leaving(self._core.membership), now):
            self._core.leave_joint(now)

    def _hold_nothing(self, members: frozenset[NodeId], now: Instant) -> bool:
        return not any(self.book.counts(member, now) for member in members if member != self._core.node)

    # After every input

    def keep_up(self, applied: LogIndex, now: Instant) -> None:
        """Remembers this leader's own progress, and does what has become possible by an input or must not wait."""
        self.book.advanced(applied, now)
        if self._change is not None or self._core.membership.outgoing:
            self.step_change(now)
        self.step_aside(applied, now)

    # Leading on or not

    def step_aside(self, applied: LogIndex, now: Instant) -> None:
        """Hands over when this leader's own apply hangs: nothing is settled before it has applied (L5), so it would
        stop every write for ever. To a voter heard of lately that has applied more; if there is none, nobody could do
        better."""
        if applied > self._applied or applied >= self._core.commit_index:
            self._applied, self._applied_at = applied, now
        if now - self._applied_at < APPLY_STALL_NS or self._core.is_handing_over:
            return
        self._applied_at = now  # Tried again after as long, should it fail.
        ahead = [(self.book.applied_at(voter), voter) for voter in voters_heard_lately(self._core, now)]
        best_applied, best = max(ahead, default=(applied, self._core.node))
        if best_applied > applied:
            _STEPS_ASIDE.hit()
            self._core.transfer_leadership(best, now)

    # What tick must not miss

    def due(self, applied: LogIndex, now: Instant) -> Instant | None:
        """When a lease ends that holds back an acknowledgement or a removal, or this leader has to step aside."""
        end = self.book.next_end(applied, now)
        if self._change is None and applied >= self._core.commit_index and not self._core.membership.outgoing:
            return end  # As nearly always.
        ends = [end]
        if applied < self._core.commit_index and (stalled_at := Instant(self._applied_at + APPLY_STALL_NS)) > now:
            ends.append(stalled_at)
        if self._change is not None:
            ends += [self.book.counted_until(member, now) for member in self._change.leaving]
        if self._core.membership.is_joint:
            ends += [self.book.counted_until(member, now) for member in leaving(self._core.membership)]
        return min((end for end in ends if end is not None), default=None)
