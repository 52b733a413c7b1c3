"""Carries out what the member rows ask for, at whichever node leads.

Commands change rows only: a token admits a node (its row is JOINING), an operator's removal marks one REMOVING. Raft's
membership follows the rows, one change at a time: a new node comes in as a learner, becomes a voter once it has caught
up if it was admitted as one, and leaves when it is being removed. So a leader that dies half-way leaves nothing
half-done: the next one looks at the same rows.

The leader never takes itself out: it hands over first (rule L8), and the next one does it.
"""

from collections.abc import Collection, Mapping, Sequence
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
from keycluster.cluster.types import NodeId
from keycluster.node.operations.admin import best_successor
from keycluster.node.peers import Peer

LOOK_AGAIN_S = 0.1
CAUGHT_UP_ENTRIES = 64  # A learner this close to the commit index becomes a voter: it won't hold up the next commit.

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


class MembershipActor:
    """Runs at every node, acts at the leader."""

    def __init__(self, *, node: NodeId, replica: Replica, view: StateView, clock: Clock, pump: Pump) -> None:
        self._node = node
        self._replica = replica
        self._view = view
        self._clock = clock
        self._pump = pump

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await trio.sleep(LOOK_AGAIN_S)
            if self._replica.core.leader != self._node:
                continue
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
        leaving = sorted(node for node in membership.members if rows[node].state is MemberState.REMOVING)
        if self._node in leaving:
            self._hand_over(leaving)
            return
        now = self._clock.now()
        heard = {self._node, *members_heard_lately(core, now)}
        target = next_membership(membership, rows, caught_up=self._caught_up(), heard=heard)
        if target is not None:
            log.info("membership changes", voters=target.voters, learners=target.learners)
            self._replica.propose_membership(target, now)

    def _caught_up(self) -> frozenset[NodeId]:
        core = self._replica.core
        near = core.commit_index - CAUGHT_UP_ENTRIES
        return frozenset(node for node, progress in core.progress.items() if progress.match >= max(near, 1))

    def _hand_over(self, leaving: Collection[NodeId]) -> None:
        now = self._clock.now()
        successor = best_successor(self._replica, now, leaving=leaving)
        if successor is not None and not self._replica.core.is_handing_over:
            self._replica.transfer_leadership(successor, now)


def next_membership(
    membership: Membership,
    rows: Mapping[NodeId, MemberRecord],
    *,
    caught_up: Collection[NodeId],
    heard: Collection[NodeId],
) -> Membership | None:
    """The next single step from `membership`, which is not joint, to what the rows ask for; None when there is none.

    Removals come first, voters before learners (Raft takes out both in two steps only), then a new learner, then one
    promotion. The last voter never leaves: the region would end.

    `heard`: who answers now. Voters change only to such of whom a majority does: a change counts from when it is in
    the log, so one whose voters are silent would stop the region until they are back, for ever if they never are.
    """
    voters, learners = set(membership.voters), set(membership.learners)
    leaving = {node for node, row in rows.items() if row.state in LEAVING}
    staying = _membership(voters - leaving, learners)
    if leaving & voters and staying.voters and staying.has_quorum(heard):
        return staying
    if leaving & learners:
        return _membership(voters, learners - leaving)
    joining = sorted(rows.keys() - leaving - voters - learners)
    if joining:
        return _membership(voters, learners | {joining[0]})
    azs = {node: rows[node].az for node in sorted(voters)}
    for node in sorted(learners & set(caught_up)):
        promoted = _membership(voters | {node}, learners - {node})
        is_wanted = rows[node].wanted is MemberRole.VOTER and placement_allows(azs, {node: rows[node].az})
        if is_wanted and promoted.has_quorum(heard):
            return promoted
    return None


def _membership(voters: set[NodeId], learners: set[NodeId]) -> Membership:
    return Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))
