"""What a member says must be on its disk when it says it (dissertation 3.8): looked at as its messages leave.

A vote or an acknowledgement given too soon does harm only if the member crashes within the millisecond in which its
disk is still at work, and others then do just the right things: looked at here, no crash is needed.

Likewise a leader's answers that wait for an entry of its own term: leases (L2) and ReadIndex (6.4).

Beside it, how much a leader has under way to one member: more than its window is nobody's harm here, and a node's end
where a member is slow for long.
"""

from collections.abc import Sequence

from keycluster.cluster.leases.messages import LeaseAnswer
from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.messages import (
    AppendEntries,
    AppendReply,
    ReadIndexReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from keycluster.cluster.raft.progress import REPLICATE
from keycluster.cluster.types import NodeId, Term
from keycluster.simulations.core.door import HAND_OVER, READ_INDEX
from keycluster.simulations.core.electable import memberships_on
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.membership_checks import MEMBERSHIP

PROMISES = "promises"
WINDOW = "window"
LEASES = "lease-granted-too-soon"


def require_kept(machine: Machine, messages: Sequence[tuple[NodeId, ReplicaMessage]]) -> None:
    """`messages` are about to leave the machine."""
    gave_up_in = machine.gave_up_in
    for receiver, message in messages:
        match message:
            case AppendReply():
                _require_term(machine, message)
                _require_stored(machine, message)
            case VoteReply(pre=False):
                _require_term(machine, message)
                _require_vote(machine, receiver, message)
            case VoteRequest():
                _require_voter(machine)
                if not message.pre:
                    _require_term(machine, message)
            case AppendEntries():
                _require_term(machine, message)
                _require_window(machine, receiver)
            case LeaseAnswer():
                _require_own_term(machine, message, LEASES)
                _require_grantable(machine, receiver, message, gave_up_in)
            case ReadIndexReply() if message.index is not None:
                _require_own_term(machine, message, READ_INDEX)
            case TimeoutNow():
                _require_successor_ready(machine, receiver)
                machine.gave_up_in = message.term


def _require_term(machine: Machine, message: AppendReply | VoteReply | VoteRequest | AppendEntries) -> None:
    durable = machine.disk.hard_state.term
    if message.term > durable:
        raise Found(PROMISES, f"{machine.node} speaks in term {message.term}, its disk knows {durable}")


def _require_voter(machine: Machine) -> None:
    """By the newest membership that it has, or an older one that isn't committed yet or not by all (4.2.2)."""
    if machine.member is None:
        return
    memberships = [*memberships_on(machine.disk), machine.member.core.membership]
    if not any(membership.is_voter(machine.node) for membership in memberships):
        raise Found(MEMBERSHIP, f"{machine.node} stands for election, and is no voter")


def _require_vote(machine: Machine, receiver: NodeId, message: VoteReply) -> None:
    hard_state = machine.disk.hard_state
    if message.granted and message.term == hard_state.term and hard_state.vote != receiver:
        raise Found(PROMISES, f"{machine.node} votes for {receiver}, its disk says {hard_state.vote}")


def _require_own_term(machine: Machine, message: LeaseAnswer | ReadIndexReply, checker: str) -> None:
    """A leader knows what is committed once an entry of its own term is: what it says about it waits for that."""
    core = machine.member.core if machine.member is not None else None
    if core is not None and core.is_leader and core.term == message.term and not core.own_term_committed:
        raise Found(
            checker, f"{machine.node} sends {type(message).__name__} without a committed entry of its term {core.term}"
        )


def _require_grantable(machine: Machine, holder: NodeId, message: LeaseAnswer, gave_up_in: Term | None) -> None:
    """L2, L8. As of the newest input of the core, which may be a little older than the grant."""
    core = machine.member.core if machine.member is not None else None
    if core is None or not core.is_leader or core.term != message.term:
        return
    until = core.quorum_lease_until
    if core.hand_over_sent:
        wrong = "after it told another one to lead" if gave_up_in == core.term else None  # Else in this very step.
    elif until is None or until <= core._member.now:
        wrong = "without a quorum lease"
    else:
        wrong = None if core.committed_membership.is_member(holder) else "which is no committed member"
    if wrong is not None:
        raise Found(LEASES, f"{machine.node} grants a lease to {holder}, {wrong}")


def _require_successor_ready(machine: Machine, receiver: NodeId) -> None:
    """3.10: it has the whole log, else nobody votes for it. Who takes itself out has stepped down by now, and is let
    off: it can't lead on whatever its successor has."""
    core = machine.member.core if machine.member is not None else None
    if core is None:
        return
    if receiver not in core.membership.voters:
        raise Found(HAND_OVER, f"{machine.node} has {receiver} lead, which is no voter")
    if not core.is_leader:
        return
    view = core.progress.get(receiver)
    if view is None or view.match != core.last_index:
        raise Found(HAND_OVER, f"{machine.node}, whose log ends at {core.last_index}, has {receiver} lead: {view}")


def _require_stored(machine: Machine, message: AppendReply) -> None:
    """The entry that it means, not just any at that index; of a rejection the match is no acknowledgement.

    What was said in an earlier term, and waited until it was noted, may mean an entry that has been replaced since: for
    who led then it is late news, as it is from a slow network.
    """
    log, member = machine.disk.log, machine.member
    if message.rejected is not None or message.match <= log.base or member is None or message.term < member.core.term:
        return
    meant = member.core._member.log.term(message.match)
    if meant is not None and not log.has(message.match, meant):
        raise Found(
            PROMISES,
            f"{machine.node} acknowledges {message.match} of term {meant}, its disk ends at {log.last_index} "
            "or has another entry there",
        )


def _require_window(machine: Machine, receiver: NodeId) -> None:
    """The last append may be the one that fills it, by as much as one append may hold. While there is room, nothing
    waits to be sent: what comes last would wait for something else to come."""
    progress = machine.member.core._replication.progress.get(receiver) if machine.member is not None else None
    if progress is None or machine.member is None:
        return
    view, config = progress.view(), machine.member.core.config
    bytes_max = config.inflight_bytes_max + config.append_bytes_max
    if view.inflight_messages > config.inflight_messages_max or view.inflight_bytes > bytes_max:
        raise Found(
            WINDOW,
            f"{machine.node} has {view.inflight_messages} appends, {view.inflight_bytes} bytes, on way to {receiver}",
        )
    core = machine.member.core
    if core.is_leader and view.state is REPLICATE and progress.may_send(config) and view.next <= core.last_index:
        raise Found(WINDOW, f"{machine.node} has not sent {view.next} to {receiver}, whose window has room")
