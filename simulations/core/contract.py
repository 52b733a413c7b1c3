"""Contract 2 and what belongs to it, looked at after each step of a machine: only what the step can have changed.

- Whatever any replica takes for *settled*, every replica that may serve has applied. A success may leave once its index
  is settled, and a read is answered once what it saw is (L10), so this is stronger than "no acknowledged change is
  missing where a request could be answered". A replica comes to serve only by a step of its own, and the settled index
  rises only by somebody's step: so the one that stepped is looked at each time, all others when it rises.
- At most one leader serves, and none that has told another one to take over, for the rest of its term (L8).
- A leader commits entries of older terms only along with one of its own (dissertation 3.6.2): what comes of it
  otherwise takes half a dozen crashes to be seen.
- A replica's settled index and its cluster time never fall. Running time is never more than has passed.
- States are equal at equal index.
- A replica that has committed its newest membership goes by no older one.
"""

from collections.abc import Callable, Mapping

from keycluster.cluster.types import MILLISECOND, ClusterTime, Instant, LogIndex, NodeId, Term
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.lease_checks import (
    require_counted,
    require_members_counted,
    require_old_leases_over,
    require_quorum_bound,
)
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.member import Member
from keycluster.simulations.core.membership_checks import MEMBERSHIP

CURRENCY = "currency"
ONE_LEADER = "one-leader-serves"
COMMITMENT = "commitment"
GIVEN_UP = "serves-after-hand-over"
SETTLED_FALLS = "settled-falls"
TIME_FALLS = "cluster-time"
RUNNING_TIME = "running-time"
ROUNDING_NS_MAX = 1 * MILLISECOND  # Of clocks whose rates change.
DIVERGED = "states-diverge"


class Contract:
    def __init__(self, machines: Mapping[NodeId, Machine]) -> None:
        self.settled = LogIndex(0)  # The newest that any replica ever took for settled.
        self.settled_at: list[tuple[int, LogIndex]] = []
        self.leading: dict[NodeId, Machine] = {}
        self.on_role: Callable[[Machine, Term | None], None] = lambda machine, term: None
        """Told when a member begins to lead (its term) or leads no more (None)."""
        self._machines = machines
        self._newest_term = Term(0)  # In which anybody has led.
        self._digests: dict[LogIndex, bytes] = {}

    def stepped(self, machine: Machine, member: Member, t: int, now: Instant) -> None:
        """`member` runs on the machine; `now` is its clock at `t`. Raises `Found`."""
        replica, core = member.replica, member.core
        term = core.term if core.is_leader else None
        if term != machine.leads_in:
            self._role_changed(machine, term)
            if term is not None:
                self._leads(machine, t)
        self._look_at_leases(machine, member, t)
        if term is not None and core.commit_index > machine.commit_at_election and not core.own_term_committed:
            raise Found(COMMITMENT, f"{machine.node} commits {core.commit_index} without an entry of its term {term}")
        if core.membership_index <= core.commit_index and core.committed_membership is not core.membership:
            raise Found(MEMBERSHIP, f"{machine.node} takes an older membership for the newest committed")
        settled = replica.settled_index
        if settled != machine.settled:
            if settled < machine.settled:
                raise Found(SETTLED_FALLS, f"{machine.node}: from {machine.settled} to {settled}")
            machine.settled = settled
            if settled > self.settled:
                self.settled = settled
                self.settled_at.append((t, settled))
                for other in self._machines.values():
                    self.require_current(other, other.now(t))
        if machine.disk.state.index < self.settled:
            self.require_current(machine, now)
        if term is not None and term == machine.gave_up_in and replica.may_serve(now):
            raise Found(GIVEN_UP, f"{machine.node} serves in term {term}, in which it has told another one to lead")
        if term is not None and len(self.leading) > 1:
            self._require_one_leader(t)

    def _look_at_leases(self, machine: Machine, member: Member, t: int) -> None:
        """The one that it holds, and the one by which it leads: when they begin or are prolonged."""
        lease, quorum_lease = member.replica._holder.serve_until, None
        if machine.leads_in is not None:
            quorum_lease = member.core.quorum_lease_until
        if lease != machine.lease_until:
            machine.lease_until = lease
            newest = self._newest_leader()
            if newest is not None:
                require_counted(machine, newest, t)
        if quorum_lease != machine.quorum_lease_until:
            machine.quorum_lease_until = quorum_lease
            require_quorum_bound(machine, self._machines, t)

    def require_current(self, machine: Machine, now: Instant) -> None:
        """It doesn't serve, or has applied what is settled."""
        replica = machine.replica
        applied = machine.disk.state.index
        if replica is not None and applied < self.settled and replica.may_serve(now):
            raise Found(CURRENCY, f"{machine.node} may serve with {applied} applied, {self.settled} is settled")

    def _require_one_leader(self, t: int) -> None:
        serving = [
            machine.node
            for machine in self.leading.values()
            if machine.replica is not None and machine.replica.may_serve(machine.now(t))
        ]
        if len(serving) > 1:
            raise Found(ONE_LEADER, f"two leaders serve: {serving}")

    def _role_changed(self, machine: Machine, term: Term | None) -> None:
        machine.leads_in = term
        if term is None:
            self.leading.pop(machine.node, None)
        else:
            self.leading[machine.node] = machine
            machine.heard_term = term
            if machine.member is not None:
                machine.commit_at_election = machine.member.core.commit_index
        self.on_role(machine, term)

    def _newest_leader(self) -> Machine | None:
        """None while the last one that led leads no more: leaders of the past may not know what it granted."""
        return next((machine for machine in self.leading.values() if machine.leads_in == self._newest_term), None)

    def _leads(self, machine: Machine, t: int) -> None:
        """It has come to lead. A leader of the past may still come to hear of its own election."""
        self._newest_term = max(self._newest_term, machine.leads_in or self._newest_term)
        if self._newest_leader() is machine:
            require_old_leases_over(machine, self.leading.values(), t)
            require_members_counted(machine, t)
            for other in self._machines.values():
                require_counted(other, machine, t)

    def crashed(self, machine: Machine) -> None:
        """Before its memory is lost."""
        if machine.leads_in is not None:
            self._role_changed(machine, None)

    def shows_time(self, machine: Machine, time: ClusterTime | None) -> None:
        """What the replica takes for cluster time now."""
        if time is None:
            return
        if time < machine.time:
            raise Found(TIME_FALLS, f"{machine.node}: from {machine.time} back to {time}")
        machine.time = time

    def stamps(self, machine: Machine, time: ClusterTime, running_ns: int, *, ns_max: int) -> None:
        """The times that the replica gives a command; `ns_max` have passed since the beginning by the fastest clock."""
        if running_ns > ns_max + ROUNDING_NS_MAX:
            raise Found(RUNNING_TIME, f"{machine.node} says {running_ns} ns of no more than {ns_max}")
        if time < machine.stamped:
            raise Found(TIME_FALLS, f"{machine.node} stamped a command with {machine.stamped}, and then with {time}")
        machine.stamped = time

    def reached(self, node: NodeId, index: LogIndex, digest: bytes) -> None:
        """The member's state at `index` has this digest."""
        known = self._digests.setdefault(index, digest)
        if known != digest:
            raise Found(DIVERGED, f"{node} applied another entry at {index} than others did, or before it")
