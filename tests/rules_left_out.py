"""Each lease rule left out, one at a time, for scenarios to show that they notice it.

A rule left out is a context manager that replaces a method while it is open. The names are the rules' (design.md). The
simulators look for the like of them by random runs: simulations/planted/.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

from keycluster.cluster.leases import holder
from keycluster.cluster.leases.grantor import LeaseGrantor
from keycluster.cluster.leases.holder import LeaseHolder
from keycluster.cluster.leases.leadership import Leadership
from keycluster.cluster.leases.messages import AppliedReport, LeaseAnswer, LeaseAsk
from keycluster.cluster.leases.removal import leaving
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.member import Member
from keycluster.cluster.replica import Replica
from keycluster.cluster.types import Instant, LogIndex, NodeId, Term

Patches = Callable[[], dict[tuple[type | object, str], object]]


@dataclass(frozen=True, slots=True)
class RuleLeftOut:
    rule: str
    what: str
    patches: Patches

    @contextmanager
    def open(self) -> Iterator[None]:
        with ExitStack() as stack:
            for (target, name), replacement in self.patches().items():
                stack.enter_context(patch.object(target, name, replacement))
            yield


def _count_from_the_answer() -> dict[tuple[type | object, str], object]:
    take = Replica._take_answer

    def take_answer(self: Replica, sender: NodeId, answer: LeaseAnswer, now: Instant) -> None:
        asks = self._holder._asks
        if answer.nonce in asks:
            asks[answer.nonce] = replace(asks[answer.nonce], asked_at=now)
        take(self, sender, answer, now)

    return {(Replica, "_take_answer"): take_answer}


def _take_any_term() -> dict[tuple[type | object, str], object]:
    take = LeaseHolder.take

    def take_any(
        self: LeaseHolder, nonce: bytes, *, sender: NodeId, term: Term, current_term: Term, commit: LogIndex
    ) -> bool:
        del current_term
        return take(self, nonce, sender=sender, term=term, current_term=term, commit=commit)

    def drop(self: LeaseHolder) -> None:
        self._waiting.clear()
        self._serve_until = None

    return {(LeaseHolder, "take"): take_any, (LeaseHolder, "drop"): drop}


def _grant_with(*, committed: bool = True, lease: bool = True) -> Patches:
    def patches() -> dict[tuple[type | object, str], object]:
        def granted(self: Leadership, now: Instant) -> list[tuple[NodeId, LeaseAsk]]:
            if (committed and not self._core.own_term_committed) or (lease and not self._quorum_lease_lives(now)):
                return []
            asks = [(member, ask) for member, (ask, _) in sorted(self._asks.items()) if self._may_hold(member, now)]
            for member, _ in asks:
                del self._asks[member]
                self.book.note(member, commit=self._core.commit_index, now=now)
            return asks

        return {(Leadership, "granted"): granted}

    return patches


def _grant_to_the_uncommitted() -> dict[tuple[type | object, str], object]:
    def may_hold(self: Leadership, member: NodeId, now: Instant) -> bool:
        return member not in leaving(self._core.membership) and not self.book.lags_too_far(member, now)

    return {(Leadership, "_may_hold"): may_hold}


def _grant_to_those_who_lag() -> dict[tuple[type | object, str], object]:
    return {(LeaseGrantor, "lags_too_far"): lambda self, member, now: False}


def _grant_after_timeout_now() -> dict[tuple[type | object, str], object]:
    granted, lives = Leadership.granted, Leadership._quorum_lease_lives

    def grant(self: Leadership, now: Instant) -> list[tuple[NodeId, LeaseAsk]]:
        sent_at = self._core._replication.rounds.quorum_sent_at
        is_raw_alive = sent_at is not None and now < sent_at + self._core.config.lease_ns
        with patch.object(Leadership, "_quorum_lease_lives", lambda self, now: is_raw_alive):
            return granted(self, now)

    return {(Leadership, "granted"): grant, (Leadership, "_quorum_lease_lives"): lives}


def _note_nothing() -> dict[tuple[type | object, str], object]:
    return {(LeaseGrantor, "note"): lambda self, member, *, commit, now: None}


def _no_drift() -> dict[tuple[type | object, str], object]:
    return {(holder, "serve_ns"): lambda lease_ns, drift_ppm: lease_ns}


def _serve_before_applied() -> dict[tuple[type | object, str], object]:
    def applied_to(self: LeaseHolder, applied: LogIndex) -> None:
        del applied
        for lease in self._waiting:
            self._serve_until = max(self._serve_until or lease.until, lease.until)
        self._waiting = []

    return {(LeaseHolder, "applied_to"): applied_to}


def _lead_without_quorum() -> dict[tuple[type | object, str], object]:
    return {(Leadership, "may_serve"): lambda self, applied, now: applied >= (self._core.term_start or 0)}


def _lead_before_applied() -> dict[tuple[type | object, str], object]:
    return {(Leadership, "may_serve"): lambda self, applied, now: self._quorum_lease_lives(now)}


def _keep_lease_as_leader() -> dict[tuple[type | object, str], object]:
    lead = Replica.may_serve

    def may_serve(self: Replica, now: Instant) -> bool:
        return lead(self, now) or self._holder.may_serve(now)

    return {(LeaseHolder, "drop"): lambda self: None, (Replica, "may_serve"): may_serve}


def _count_nobody() -> dict[tuple[type | object, str], object]:
    return {(LeaseGrantor, "settled"): lambda self, own_applied, now: own_applied}


def _lead_on() -> dict[tuple[type | object, str], object]:
    return {(Leadership, "step_aside"): lambda self, applied, now: None}


def _assume(which: str) -> Patches:
    """A new leader assumes leases of some members only."""

    def patches() -> dict[tuple[type | object, str], object]:
        begin = Leadership.__init__

        def init(self: Leadership, core: RaftCore, *, lease_ns: int, now: Instant) -> None:
            begin(self, core, lease_ns=lease_ns, now=now)
            membership = core.membership
            assumed = {
                "nobody": (),
                "voters": membership.all_voters,
                "new half": (*membership.voters, *membership.learners),
            }[which]
            self.book._counted = {m: c for m, c in self.book._counted.items() if m in assumed}

        return {(Leadership, "__init__"): init}

    return patches


def _forget_leaders() -> dict[tuple[type | object, str], object]:
    return {(Member, "is_sticky"): property(lambda self: False)}


def _serve_after_timeout_now() -> dict[tuple[type | object, str], object]:
    def until(self: RaftCore) -> Instant | None:
        sent_at = self._replication.rounds.quorum_sent_at
        return None if not self.is_leader or sent_at is None else Instant(sent_at + self.config.lease_ns)

    return {
        (RaftCore, "quorum_lease_until"): property(until),
        (RaftCore, "hand_over_sent"): property(lambda self: False),
    }


def _leave_at_once() -> dict[tuple[type | object, str], object]:
    return {(Leadership, "_hold_nothing"): lambda self, members, now: True}


def _grant_to_the_leaving() -> dict[tuple[type | object, str], object]:
    def may_hold(self: Leadership, member: NodeId, now: Instant) -> bool:
        return self._core.committed_membership.is_member(member) and not self.book.lags_too_far(member, now)

    return {(Leadership, "_may_hold"): may_hold}


def _grant_to_the_removed() -> dict[tuple[type | object, str], object]:
    def may_hold(self: Leadership, member: NodeId, now: Instant) -> bool:
        return (
            self._core.committed_membership.is_member(member)
            and member not in leaving(self._core.membership)
            and (self._change is None or member not in self._change.leaving)
            and not self.book.lags_too_far(member, now)
        )

    return {(Leadership, "_may_hold"): may_hold}


def _count_the_last_leader() -> dict[tuple[type | object, str], object]:
    return {(RaftCore, "last_term_leader"): property(lambda self: None)}


def _tell_nobody() -> dict[tuple[type | object, str], object]:
    return {(Replica, "_settled_messages"): lambda self: [], (Replica, "_take_report"): _take_report_quietly}


def _repeat_no_notice() -> dict[tuple[type | object, str], object]:
    return {(Replica, "_take_report"): _take_report_quietly}


def _take_report_quietly(self: Replica, sender: NodeId, report: AppliedReport) -> None:
    if self._leadership is not None:
        self._leadership.book.reported(sender, report.applied)


def _settled_is_applied() -> dict[tuple[type | object, str], object]:
    return {(Replica, "settled_index"): property(lambda self: self._applied)}


RULES_LEFT_OUT = (
    RuleLeftOut("L1", "counts from the answer's arrival", _count_from_the_answer),
    RuleLeftOut("L1", "takes an answer of any term", _take_any_term),
    RuleLeftOut("L2", "grants before an own entry is committed", _grant_with(committed=False)),
    RuleLeftOut("L2", "grants without a living quorum lease", _grant_with(lease=False)),
    RuleLeftOut("L2", "grants to members of a configuration not committed", _grant_to_the_uncommitted),
    RuleLeftOut("L2", "grants to members that lag for ever", _grant_to_those_who_lag),
    RuleLeftOut("L2", "notes nothing", _note_nothing),
    RuleLeftOut("L3", "ignores the drift of clocks", _no_drift),
    RuleLeftOut("L3", "serves before the commit index is applied", _serve_before_applied),
    RuleLeftOut("L4", "leader serves without a quorum lease", _lead_without_quorum),
    RuleLeftOut("L4", "leader serves before its own entry is applied", _lead_before_applied),
    RuleLeftOut("L4", "leader keeps the lease it held", _keep_lease_as_leader),
    RuleLeftOut("L5", "acknowledges without counting holders", _count_nobody),
    RuleLeftOut("L5", "leads on though its apply hangs", _lead_on),
    RuleLeftOut("L6", "new leader assumes no leases", _assume("nobody")),
    RuleLeftOut("L6", "new leader assumes voters' leases only", _assume("voters")),
    RuleLeftOut("L6", "new leader assumes the new half's leases only", _assume("new half")),
    RuleLeftOut("L6", "new leader counts the last one too", _count_the_last_leader),
    RuleLeftOut("L7", "voters stick to no leader", _forget_leaders),
    RuleLeftOut("L8", "serves and grants after TimeoutNow", _serve_after_timeout_now),
    RuleLeftOut("L8", "grants after TimeoutNow", _grant_after_timeout_now),
    RuleLeftOut("L9", "takes members out while they hold leases", _leave_at_once),
    RuleLeftOut("L9", "grants to members on the way out", _grant_to_the_leaving),
    RuleLeftOut("L9", "grants to members whose removal is appended", _grant_to_the_removed),
    RuleLeftOut("L10", "takes what it applied for settled", _settled_is_applied),
    RuleLeftOut("L10", "tells nobody what is settled", _tell_nobody),
    RuleLeftOut("L10", "repeats no lost notice", _repeat_no_notice),
)
