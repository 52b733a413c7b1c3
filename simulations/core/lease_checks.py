"""Leases against each other, looked at as they begin: no write and no cut need meet them first.

- When a member comes to lead, every older leader's quorum lease is over (L4, L7, L8).
- While a leader has its quorum lease, those who no longer stick to it are no quorum (L4, L7): looked at as it begins.
- A new leader counts all members, whether or not they hold a lease, but itself and the last leader (L6, L9).
- Whoever holds a lease is counted by the newest leader at least as long as the lease lasts (L1, L2, L3, L6, L9): looked
  at when a lease begins, and of all when a member comes to lead.

Ends are compared in real time, by the rates that clocks have now: rates within the bound may come together in any way.
A member that is stopped counts too: its clock goes on.
"""

from collections.abc import Iterable, Mapping

from keycluster.cluster.types import Instant, NodeId, Term
from keycluster.simulations.core.electable import memberships_on
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.machine import Machine

QUORUM_LEASE = "quorum-lease"
COUNTED = "lease-not-counted"


def require_old_leases_over(new: Machine, leading: Iterable[Machine], t: int) -> None:
    """`new` has come to lead."""
    for machine in leading:
        until = machine.member.core.quorum_lease_until if machine is not new and machine.member is not None else None
        if until is not None and machine.real(until) > t:
            left = machine.real(until) - t
            raise Found(
                QUORUM_LEASE, f"{new.node} comes to lead, and {machine.node}'s quorum lease lasts {left} ns more"
            )


def require_members_counted(leader: Machine, t: int) -> None:
    """`leader` has come to lead, and counts whoever may hold an older lease, learners and both halves."""
    if leader.member is None:
        return
    core, leadership, now = leader.member.core, leader.member.replica._leadership, leader.now(t)
    if leadership is None or now - core._replication.began_at >= core.config.lease_ns:
        return  # It was stopped as it came to lead: what it counted may have run out.
    newest = memberships_on(leader.disk)[-1]
    for node in sorted({*newest.members, *core.committed_membership.members} - {leader.node, core.last_term_leader}):
        if leadership.book.counted_until(node, now) is None:
            raise Found(COUNTED, f"{leader.node} comes to lead, and doesn't count {node}, a member until now")


def require_quorum_bound(leader: Machine, machines: Mapping[NodeId, Machine], t: int) -> None:
    """While `leader` has its quorum lease, those who could vote for another one are no quorum (L4, L7)."""
    if leader.member is None:
        return
    core = leader.member.core
    until = core.quorum_lease_until
    if until is None or leader.real(until) <= t:
        return
    ends = leader.real(until)
    free = [
        node
        for node in core.membership.all_voters
        if node != leader.node and _sticks_until(machines[node], core.term, core.config.election_ns, t) < ends
    ]
    if core.membership.has_quorum(free):
        raise Found(QUORUM_LEASE, f"{leader.node}'s quorum lease lasts {ends - t} ns more, {' '.join(free)} may vote")


def _sticks_until(voter: Machine, term: Term, election_ns: int, t: int) -> int:
    """In real time: to the leader of the term, if that is the newest that it heard. Who is down votes for nobody before
    it has run for E, whatever its disk holds."""
    if voter.member is None:
        return voter.real(Instant(voter.now(t) + election_ns))
    return voter.real(Instant(voter.heard_at + election_ns)) if voter.heard_term == term else 0


def require_counted(holder: Machine, leader: Machine, t: int) -> None:
    """If `holder` has a lease, `leader`, the newest, counts it until then."""
    if holder.member is None or leader.member is None or holder is leader or holder.leads_in is not None:
        return
    until = holder.member.replica._holder.serve_until
    if until is None or holder.real(until) <= t:
        return
    leadership = leader.member.replica._leadership
    if leadership is None:
        return
    counted = leadership.book.counted_until(holder.node, Instant(leader.now(t)))
    if counted is None or leader.real(counted) < holder.real(until):
        left = holder.real(until) - t
        raise Found(
            COUNTED,
            f"{holder.node} holds a lease for {left} ns more, {leader.node} counts it for "
            f"{leader.real(counted) - t if counted is not None else 0}",
        )
