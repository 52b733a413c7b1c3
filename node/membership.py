"""Carries out what the member rows ask for, at whichever node leads.

Commands change rows only: a token admits a node (its row is JOINING), an operator's removal marks one REMOVING. Raft's
membership follows the rows, one change at a time: a new node comes in as a learner, becomes a voter once it has caught
up if it was admitted as one, and leaves when it is being removed. So a leader that dies half-way leaves nothing
half-done: the next one looks at the same rows.

The leader never takes itself out: it hands over first (rule L8), and the next one does it. While there is nobody to
hand over to, it goes on with the others, and lets newcomers vote.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Protocol

import structlog
import trio
from cryptography import x509
from cryptography.x509.oid import NameOID

from keycluster.cluster.keys.records import (
    MemberRecord,
    MemberRole,
    MemberState,
    load_member,
    load_members,
    load_region,
)
from keycluster.cluster.leases.successor import members_heard_lately
from keycluster.cluster.membership import LEAVING, placement_allows
from keycluster.cluster.peer_messages import Introduced, Introduction
from keycluster.cluster.raft.errors import RaftError
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.replica import Replica
from keycluster.cluster.seams import Clock
from keycluster.cluster.store.state import StateView
from keycluster.cluster.types import SECOND, Instant, LogIndex, NodeId
from keycluster.node.peers import Peer

LOOK_AGAIN_S = 0.1
CAUGHT_UP_NS = SECOND
"""Who has on disk what was committed this long ago won't hold up the next commit for much longer than that.

Entries would say less: of a region in which little is written a disk that hangs lacks few of them."""
HAND_OVER_AGAIN_NS = 5 * SECOND  # After one that nobody took up; meanwhile other changes go on.
VOTERS_TO_OUTLIVE_ONE = 3
REMOVAL_LATE_NS = 5 * SECOND  # Leases run out and leadership is handed over in less: then an operator should know.

log = structlog.get_logger(__name__)


class Directory:
    """Who is a member, by the applied state; before there is one, by what the admission answered.

    Or by what a member has said whose state is newer: entries come from the leader, and who leads may be known from
    nowhere else, or listen at another address by now.
    """

    def __init__(self, *, node: NodeId, view: StateView, introduced: Sequence[Peer]) -> None:
        self._node = node
        self._view = view
        self._introduced = {peer.node: peer for peer in introduced if peer.node != node}
        self._told: Introduction | None = None
        self._peers: Mapping[NodeId, Peer] | None = None

    def forget(self) -> None:
        """Member rows changed: the next question looks again."""
        self._peers = None

    def peers(self) -> Mapping[NodeId, Peer]:
        if self._peers is None:
            self._peers = self._look()
        return self._peers

    def _look(self) -> Mapping[NodeId, Peer]:
        own, told = self.introduction(), self._told
        if told is not None and told.applied > own.applied:
            own = told
        elif load_region(self._view) is None:
            return self._introduced
        return {
            member.node: Peer(member.node, member.identity_key, member.address)
            for member in own.members
            if member.node != self._node
        }

    def introduction(self) -> Introduction:
        return Introduction(
            self._view.applied_index,
            tuple(
                Introduced(member.node, member.identity_key, member.peer_address)
                for member in load_members(self._view)
                if member.state is not MemberState.REMOVED
            ),
        )

    def be_told(self, introduction: Introduction) -> None:
        """By a member, what its state says."""
        if self._told is None or introduction.applied > self._told.applied:
            self._told = introduction
            self.forget()

    def was_removed(self, certificate: bytes) -> bool:
        names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if not names:
            return False
        member = load_member(self._view, NodeId(str(names[0].value)))
        return member is not None and member.state is MemberState.REMOVED


class Pump(Protocol):
    """The driver's: hands out what the replica has to say after it was given something."""

    def __call__(self) -> None: ...


class CommitHistory:
    """What was committed a while ago, at this leader: the measure of who has caught up."""

    def __init__(self) -> None:
        self._noted: deque[tuple[Instant, LogIndex]] = deque()

    def note(self, commit_index: LogIndex, now: Instant) -> None:
        """At each look; all but one of those that are old enough are forgotten."""
        self._noted.append((now, commit_index))
        while len(self._noted) > 1 and now - self._noted[1][0] >= CAUGHT_UP_NS:
            self._noted.popleft()

    def index_before(self, now: Instant) -> LogIndex | None:
        """Committed `CAUGHT_UP_NS` ago at least; None if it hasn't been looked at for so long."""
        if not self._noted or now - self._noted[0][0] < CAUGHT_UP_NS:
            return None
        return self._noted[0][1]


class LateRemovals:
    """Removals were accepted, but may have to wait: an operator must hear of it, above all if a node was stolen."""

    def __init__(self) -> None:
        self._since: dict[NodeId, Instant] = {}
        self.is_news = False
        """Whether one was asked for just now: who has its entry on disk, and whose disk hangs, isn't known yet."""
        self.warning: str | None = None

    def look(self, leaving: Set[NodeId], unready: Set[NodeId], now: Instant) -> None:
        """`leaving`: members yet; `unready`: members that stay, and don't answer or are far behind."""
        self._since = {node: self._since.get(node, now) for node in sorted(leaving)}
        self.is_news = any(now - since < CAUGHT_UP_NS for since in self._since.values())
        late = [node for node, since in self._since.items() if now - since >= REMOVAL_LATE_NS]
        warning = None
        if late:
            others = f"{', '.join(sorted(unready))} answers and has caught up, or " if unready else ""
            warning = (
                f"to be removed and members still: {', '.join(late)}. They stay until {others}newcomers vote in their "
                "place (keycluster token, keycluster join): with too few voters that answer the region would stop"
            )
        if warning is not None and warning != self.warning:
            log.warning("removals wait", nodes=late, unready=sorted(unready))
        self.warning = warning


class MembershipActor:
    """Runs at every node, acts at the leader."""

    def __init__(self, *, node: NodeId, replica: Replica, view: StateView, clock: Clock, pump: Pump) -> None:
        self._node = node
        self._replica = replica
        self._view = view
        self._clock = clock
        self._pump = pump
        self._late = LateRemovals()
        self._commits = CommitHistory()
        self._handed_over_at: Instant | None = None

    def warning(self) -> str | None:
        """For the operator: which removals wait, and for what. Known where the leader is."""
        return self._late.warning if self._replica.core.leader == self._node else None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await trio.sleep(LOOK_AGAIN_S)
            if self._replica.core.leader != self._node:
                self._late, self._commits, self._handed_over_at = LateRemovals(), CommitHistory(), None
                continue
            self._commits.note(self._replica.core.commit_index, self._clock.now())
            try:
                self._next_change()
            except RaftError as refusal:
                log.debug("membership change has to wait", reason=str(refusal))
            self._pump()

    def _next_change(self) -> None:
        core = self._replica.core
        membership = core.membership
        if membership != core.committed_membership or membership.is_joint or self._replica.membership_change_waits:
            return
        if core.term_start is None or self._view.applied_index < core.term_start:
            return  # A new leader's log may be ahead of its rows.
        rows = {member.node: member for member in load_members(self._view)}
        if not rows.keys() >= set(membership.members):
            return  # What made them members is committed, but not applied yet.
        now = self._clock.now()
        before = self._commits.index_before(now)
        if before is None:
            return  # Nobody can be said to have caught up.
        leaving = frozenset(node for node, row in rows.items() if row.state in LEAVING)
        heard = frozenset([self._node, *members_heard_lately(core, now)])
        caught_up = frozenset([self._node, *(node for node, view in core.progress.items() if view.match >= before)])
        self._late.look(leaving & set(membership.members), set(membership.members) - leaving - (heard & caught_up), now)
        if self._late.is_news:
            return
        if self._node not in leaving or not self._hand_over(heard & caught_up - leaving, now):
            target = next_membership(membership, rows, leader=self._node, caught_up=caught_up, heard=heard)
            if target is not None:
                self._replica.propose_membership(target, now)
                log.info("membership changes", voters=target.voters, learners=target.learners)

    def _hand_over(self, fit: Set[NodeId], now: Instant) -> bool:
        """Whether leadership is on its way to one of `fit`; not if none of them votes, or one was tried just now."""
        core = self._replica.core
        successors = [(core.progress[node].match, node) for node in fit if core.membership.is_voter(node)]
        may_try = self._handed_over_at is None or now - self._handed_over_at >= HAND_OVER_AGAIN_NS
        if not core.is_handing_over and successors and may_try:
            self._handed_over_at = now
            self._replica.transfer_leadership(max(successors)[1], now)
        return core.is_handing_over


def next_membership(
    membership: Membership,
    rows: Mapping[NodeId, MemberRecord],
    *,
    leader: NodeId,
    caught_up: Set[NodeId],
    heard: Set[NodeId],
) -> Membership | None:
    """The next single step from `membership`, which is not joint, to what the rows ask for; None when there is none.

    Removals come first, where they can be, voters before learners (Raft takes out both in two steps only), then a new
    learner, then one promotion. The leader stays: it hands over to somebody first.

    `heard`: who answers now, and `caught_up`: who has on disk what was committed a moment ago. A step to other voters
    is taken only if a majority of them is both. It counts from when it is in the log: voters of whom too many are
    silent would stop the region until they are back, for ever if they never are; and one that came back far behind
    stops it until it has caught up.
    """
    voters, learners = set(membership.voters), set(membership.learners)
    leaving = {node for node, row in rows.items() if row.state in LEAVING}
    ready = heard & caught_up
    promoted = _promoted(membership, rows, leaving, ready)
    newcomers = {node for node in learners - leaving if rows[node].wanted is MemberRole.VOTER} & (heard - caught_up)
    staying = _without_leaving(
        membership, leaving, leader=leader, ready=ready, is_growing=promoted is not None or bool(newcomers)
    )
    if staying is not None:
        return staying
    if leaving & learners:
        return _membership(voters, learners - leaving)
    joining = sorted(rows.keys() - leaving - voters - learners)
    return _membership(voters, learners | {joining[0]}) if joining else promoted


def _without_leaving(
    membership: Membership, leaving: Set[NodeId], *, leader: NodeId, ready: Set[NodeId], is_growing: bool
) -> Membership | None:
    """Without as many of the leaving voters as can go: first those that don't answer or lag, for they are no help.

    Never without all of them: the region would end. And where newcomers are about to vote, who is of use stays until
    they do, if there would be too few voters to outlive the loss of one.
    """
    voters = set(membership.voters)
    going = sorted((leaving & voters) - {leader}, key=lambda node: (node in ready, node))
    if not voters - leaving:
        return None
    for count in range(len(going), 0, -1):
        rest = _membership(voters.difference(going[:count]), membership.learners)
        waits = is_growing and going[count - 1] in ready and len(rest.voters) < VOTERS_TO_OUTLIVE_ONE
        if rest.has_quorum(ready) and not waits:
            return rest
    return None


def _promoted(
    membership: Membership, rows: Mapping[NodeId, MemberRecord], leaving: Set[NodeId], ready: Set[NodeId]
) -> Membership | None:
    """With one voter more, if one has caught up that shall vote, and may in its AZ."""
    azs = {node: rows[node].az for node in membership.voters}
    for node in sorted(set(membership.learners) & ready - leaving):
        promoted = _membership({*membership.voters, node}, {*membership.learners} - {node})
        is_wanted = rows[node].wanted is MemberRole.VOTER and placement_allows(azs, {node: rows[node].az})
        if is_wanted and promoted.has_quorum(ready):
            return promoted
    return None


def _membership(voters: Collection[NodeId], learners: Collection[NodeId]) -> Membership:
    return Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))
