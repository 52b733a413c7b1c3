"""What must be so once everything is healed: the operator's words are done, and then nothing is left over.

Faults hide what only fails to happen: a change that is never begun looks like one that a fault has stopped, and leases
that are never prolonged like leases that had no time to be. In a region that is whole there is no such excuse.

- Leadership goes where it is told to, a voter becomes a learner, and then leaves: each within a bound.
- Where nobody asks for anything, all members go on serving and know cluster time; all that was written is committed,
  applied and settled everywhere; no read waits, no window is open, and hardly anything is sent.
- Everybody knows what everybody else has acknowledged, as far as the last entries told it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sized
from typing import Final

from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.raft.progress import REPLICATE
from keycluster.cluster.replica import ReplicaConfig
from keycluster.cluster.types import MILLISECOND, SECOND, NodeId
from keycluster.simulations.core import changes
from keycluster.simulations.core.door import WRITE
from keycluster.simulations.core.findings import Found, demand
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.member import Member
from keycluster.simulations.core.served import ServedWorld
from keycluster.simulations.trace import Detail

PEACE: Final = "peace"

DONE_NS_MAX: Final = 10 * SECOND
"""Until an operator's word is done: an election or some, the leases of those who leave."""
SETTLE_NS: Final = 500 * MILLISECOND
"""For the last reports and notices, and those that are repeated since their answers were on their way."""
QUIET_NS: Final = 3 * SECOND
"""Longer than all that runs by itself: leases, patience, reports that are repeated."""
STEP_NS: Final = 50 * MILLISECOND
WAYS: Final = 5
"""Entry, acknowledgement, commit index, report of what is applied, notice of what is settled."""
ATTEMPTS: Final = 4
LATE_MAX: Final = 2
"""The network may let one message overtake another: then it does take a heartbeat. And a heartbeat may come just in
time for what without it would be late."""
WORK_NS_MAX: Final = 10 * MILLISECOND
"""Writing and applying at both ends."""
DUE_TOLERANCE: Final = 0.25
"""Clocks may be fast or slow by a tenth, and what is said at either end counts or doesn't."""

BEHIND_NS_MAX: Final = 200 * MILLISECOND
"""What a door shows for cluster time is kept for a while, and what has been told meanwhile may be newer."""


class Peace:
    def __init__(self, world: ServedWorld) -> None:
        """All machines run, all links are whole, and the region serves."""
        self._world = world
        self._was_obeyed = False

    # The operator's words

    def require_obeyed(self) -> None:
        """Raises `Found`."""
        others = self._other_voters()
        if not others:
            return
        self._require_handed_over(others[0])
        gone = self._other_voters()[-1]
        for target in (_with_learner, _without):
            self._change(target, gone)
        self._was_obeyed = True

    def _other_voters(self) -> list[NodeId]:
        leader = self._leader()
        return [node for node in leader.core.committed_membership.voters if node != leader.node]

    def _leader(self) -> Member:
        machine = self._world.leader()
        if machine is None or machine.member is None:
            raise Found(PEACE, "nobody leads")
        return machine.member

    def _require_handed_over(self, target: NodeId) -> None:
        """At once, as it is told to: a leader that steps down, and an election, would also do after a while."""
        world, late = self._world, 0
        in_time_ns = world.raft.election_ns * 3 // 4
        deadline = world.t + DONE_NS_MAX
        while not world.led_by(target):
            demand(late < 2 and world.t < deadline, PEACE, f"all are well, and nobody hands over to {target}")
            leader = world.leader()
            has_begun = leader is not None and changes.hand_over_to(world, leader, target)
            world.run_for(in_time_ns if has_begun else STEP_NS)
            late += has_begun

    def _change(self, target_of: Callable[[Membership, NodeId], Membership], node: NodeId) -> None:
        target = target_of(self._leader().core.committed_membership, node)

        def is_done() -> bool:
            machine = self._world.leader()
            core = machine.member.core if machine is not None and machine.member is not None else None
            return core is not None and core.committed_membership == target

        self._until(is_done, lambda leader: self._propose(leader, target))

    def _propose(self, leader: Machine, target: Membership) -> str:
        changes.propose(self._world, leader, target)
        return f"{leader.node}: voters {' '.join(target.voters)} learners {' '.join(target.learners)}"

    def _until(self, is_done: Callable[[], bool], ask: Callable[[Machine], str]) -> None:
        """Asked again and again, as an operator does who was told that it isn't possible just now."""
        deadline, asked = self._world.t + DONE_NS_MAX, "nobody leads"
        while not is_done():
            demand(self._world.t < deadline, PEACE, f"all are well, and this isn't done: {asked}")
            leader = self._world.leader()
            if leader is not None:
                asked = ask(leader)
            self._world.run_for(STEP_NS)

    def require_soon_settled(self) -> None:
        """L5, L10: a change is passed on, acknowledged and known to be settled by what each step of it leads to, not by
        what comes round anyway: heartbeats, reports that are repeated, questions for leases."""
        late = [late for _ in range(ATTEMPTS) if (late := self._late_to_settle())]
        demand(len(late) <= LATE_MAX, PEACE, f"all is quiet, and changes aren't settled soon: {late}")

    def _late_to_settle(self) -> list[str]:
        """One change. Who doesn't know that it is settled when its time is over."""
        world = self._world
        before, deadline = self._leader().core.last_index, world.t + DONE_NS_MAX
        change = world.callers.ask_now(WRITE)
        while self._leader().core.last_index == before:
            demand(world.t < deadline, PEACE, "all are well, and nobody takes a change")
            if change.outcome is not None:
                change = world.callers.ask_now(WRITE)
            world.run_for(MILLISECOND)
        world.run_for(WAYS * (world.network.delay_ns_min + world.network.delay_ns_spread) + WORK_NS_MAX)
        settled = [(machine.node, member.replica.settled_index) for machine, member in self._members()]
        return [f"{node} {index} of {before + 1}" for node, index in settled if index <= before]

    # Nothing is left over

    def require_quiet(self) -> None:
        """Callers rest. Raises `Found`."""
        self._world.run_for(SETTLE_NS)
        heard = self._listen()
        members = list(self._members())
        leader = self._leader()
        for machine, member in members:
            self._require_serves(machine, member)
            _require_caught_up(machine, member, leader)
            _require_nothing_asked(machine)
            _require_nothing_kept(machine, member)
        _require_windows_closed(leader)
        if self._was_obeyed:
            _require_told(members)
        _require_little_said(heard, len(members) - 1, self._world.raft, self._world.config)

    def _listen(self) -> Counter[str]:
        """What members hear from each other, by kind."""
        heard = Counter[str]()
        world, note = self._world, self._world.note
        members = {machine.node for machine, _ in self._members()}

        def count(at_ns: int, lane: str, what: str, *detail: Detail) -> None:
            if lane in members and detail and detail[0] in members:
                heard[what] += 1
            note(at_ns, lane, what, *detail)

        world.note = count
        world.run_for(QUIET_NS)
        world.note = note
        return heard

    def _members(self) -> Iterator[tuple[Machine, Member]]:
        membership = self._leader().core.committed_membership
        for node in membership.members:
            machine = self._world.machines[node]
            if machine.member is not None:
                yield machine, machine.member

    def _require_serves(self, machine: Machine, member: Member) -> None:
        now = machine.now(self._world.t)
        demand(member.replica.may_serve(now), PEACE, f"{machine.node} serves no more, though all is quiet")
        shown, time = member.replica.cluster_time(now), member.replica._clock.time(member.core.membership, now)
        demand(
            shown is not None and time is not None and time - BEHIND_NS_MAX <= shown <= time,
            PEACE,
            f"{machine.node} serves, and its cluster time is {shown} instead of {time}",
        )


def _with_learner(current: Membership, node: NodeId) -> Membership:
    voters = tuple(voter for voter in current.voters if voter != node)
    return Membership(voters=voters, learners=tuple(sorted({*current.learners, node})))


def _without(current: Membership, node: NodeId) -> Membership:
    return Membership(voters=current.voters, learners=tuple(each for each in current.learners if each != node))


def _require_caught_up(machine: Machine, member: Member, leader: Member) -> None:
    core, end = member.core, leader.core.last_index
    stands = {
        "has": core.last_index,
        "has on disk": core.stable_index,
        "takes for committed": core.commit_index,
        "has applied": core.applied_index,
        "takes for applied": member.replica.applied_index,
        "takes for settled": member.replica.settled_index,
        "may compact": core.retain_above,
    }
    for what, index in stands.items():
        demand(index == end, PEACE, f"all is quiet, {leader.node}'s log ends at {end}, {machine.node} {what} {index}")
    demand(core.term == leader.core.term, PEACE, f"{machine.node} is in term {core.term}, not {leader.core.term}")
    demand(core.uncommitted_bytes == 0, PEACE, f"{machine.node} takes {core.uncommitted_bytes} bytes for uncommitted")


def _require_nothing_asked(machine: Machine) -> None:
    waiting = machine.door.asked if machine.door is not None else 0
    demand(waiting == 0, PEACE, f"{waiting} reads asked of {machine.node} by ReadIndex have got no answer")


def _require_nothing_kept(machine: Machine, member: Member) -> None:
    """What isn't taken out where all is quiet piles up for as long as it stays so."""
    replica, core = member.replica, member.core
    kept: dict[str, Sized] = {
        "leases that wait to be applied": replica._holder._waiting,
        "writes": core._member.log._writes,
        "messages behind a write": core._member.outbox._held,
        "batches that are applied": core._applying,
        "leaders": core._member.leaders.standing[1:],
        "memberships": core._member.memberships.standing[1:],
        "reads of others": core._replication.reads._waiting if core.is_leader else (),
        "snapshots": core._replication.snapshots._transfers if core.is_leader else (),
        "questions for leases": replica._leadership._asks if replica._leadership is not None else (),
    }
    for what, held in kept.items():
        demand(not held, PEACE, f"all is quiet, and {machine.node} keeps {len(held)} {what}")


def _require_windows_closed(leader: Member) -> None:
    for node, view in leader.core.progress.items():
        is_whole = view.state is REPLICATE and view.match == leader.core.last_index and view.inflight_bytes == 0
        demand(is_whole, PEACE, f"all is quiet, and {leader.node} takes {node} to stand so: {view}")


def _require_told(members: list[tuple[Machine, Member]]) -> None:
    """Tables travel with entries, and some were written in this term: each knows what each acknowledged in it."""
    for machine, member in members:
        for other, _ in members:
            for where, known in (
                ("knows", member.replica.known_of(other.node)),
                ("has on disk", machine.disk.witness.get(other.node)),
            ):
                demand(
                    known is not None and known[0] == member.core.term,
                    PEACE,
                    f"{machine.node} {where} {known} of {other.node}, which acknowledged in term {member.core.term}",
                )


def _require_little_said(heard: Counter[str], followers: int, raft: RaftConfig, config: ReplicaConfig) -> None:
    """A heartbeat and a question for a lease, each with its answer, as often as they are due."""
    due = {
        "AppendEntries": QUIET_NS // raft.heartbeat_ns,
        "AppendReply": QUIET_NS // raft.heartbeat_ns,
        "LeaseAsk": QUIET_NS // config.renew_ns,
        "LeaseAnswer": QUIET_NS // config.renew_ns,
    }
    for what in sorted({*due, *heard}):
        expected = due.get(what, 0) * followers
        demand(
            abs(heard[what] - expected) <= expected * DUE_TOLERANCE,
            PEACE,
            f"all is quiet, and {heard[what]} {what} came to {followers} followers or from them, not {expected}",
        )
