"""Whom a voter may help to lead, looked at as it decides: no lease that lasts too long need come of it.

- L7: who heard a leader less than E ago, by its own clock, or was started less than E ago, gives neither vote nor
  pre-vote, whatever became of terms and processes since.
- Nor does a leader while it has its quorum lease: it would disturb itself.
- L8: a hand-over overrules that in the very next term only.
- A vote and a pre-vote are for a log at least as up to date (3.6.1). What pre-votes let through, votes would stop at
  the same voter, and the other way about: so each is looked at by itself.
"""

from typing import NamedTuple

from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.messages import AppendEntries, InstallSnapshot, VoteReply, VoteRequest
from keycluster.cluster.types import Instant, LogIndex, NodeId, Term
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.machine import Machine

STICKINESS = "stickiness"
UP_TO_DATE = "log-up-to-date"


class Stand(NamedTuple):
    """How a voter stands."""

    term: Term
    vote: NodeId | None
    log_end: tuple[Term, LogIndex]
    leads_until: Instant | None = None
    """By its quorum lease."""


ABOUT_LEADERS = (AppendEntries, InstallSnapshot, VoteRequest)


def started(machine: Machine, now: Instant) -> None:
    """Its life before may have heard a leader a moment ago, of this term at the newest."""
    machine.heard_at, machine.heard_term = now, machine.disk.hard_state.term


def took(machine: Machine, sender: NodeId, message: ReplicaMessage, before: Stand, now: Instant) -> None:
    """The machine has taken the message; `before` that it stood so. Raises `Found`."""
    if machine.member is None:
        return
    core = machine.member.core
    if isinstance(message, AppendEntries | InstallSnapshot):
        if core.term == message.term and core.leader == sender:
            machine.heard_at, machine.heard_term = now, message.term
    elif isinstance(message, VoteRequest) and _is_granted(machine, sender, message, before):
        _require_unbound(machine, sender, message, now)
        if before.leads_until is not None and now < before.leads_until:
            raise Found(STICKINESS, f"{machine.node} leads for {before.leads_until - now} ns more and helps {sender}")
        own, its = before.log_end, (message.last_term, message.last_index)
        if own > its:
            raise Found(UP_TO_DATE, f"{machine.node}, whose log ends with {own}, would have {sender} lead with {its}")


def stand_of(machine: Machine) -> Stand:
    """To be taken before a message is: the same input may append to a leader's log."""
    if machine.member is None:
        hard_state, log = machine.disk.hard_state, machine.disk.log
        return Stand(hard_state.term, hard_state.vote, (log.term(log.last_index), log.last_index))
    core = machine.member.core
    return Stand(core.term, core.vote, (core.last_term, core.last_index), core.quorum_lease_until)


def _is_granted(machine: Machine, sender: NodeId, message: VoteRequest, before: Stand) -> bool:
    if machine.member is None:
        return False
    if message.pre:
        sent = machine.member.core._member.outbox.messages
        return bool(sent) and sent[-1] == (sender, VoteReply(message.term, pre=True, granted=True))
    core, vote = machine.member.core, (message.term, sender)
    return (before.term, before.vote) != vote and (core.term, core.vote) == vote


def _require_unbound(machine: Machine, sender: NodeId, message: VoteRequest, now: Instant) -> None:
    if machine.member is None or machine.member.core._member.is_only_voter:
        return
    is_handed_over = message.hand_over and message.term == machine.heard_term + 1
    ago = now - machine.heard_at
    if ago < machine.member.core.config.election_ns and not is_handed_over:
        raise Found(
            STICKINESS,
            f"{machine.node} helps {sender} to lead in term {message.term}{', by a hand-over' * message.hand_over}, "
            f"{ago} ns after it was started or heard a leader, of term {machine.heard_term} at most",
        )
