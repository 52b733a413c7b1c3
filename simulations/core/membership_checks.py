"""Changes of the membership, looked at as they are first taken for committed.

- Voters change by a joint phase, which begins with the old ones and ends with the new ones (dissertation 4.3). A step
  that leaves it out does harm only if two majorities without a common member then do just the wrong things.
- Who is taken out holds no lease any more (L9): nobody counts it from here on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from keycluster.cluster.raft.messages import Entry, EntryKind, Membership, decode_membership_entry
from keycluster.cluster.types import NodeId
from keycluster.simulations.core.findings import demand
from keycluster.simulations.core.lease_checks import COUNTED
from keycluster.simulations.core.machine import Machine

MEMBERSHIP: Final = "membership"


class MembershipChecks:
    def __init__(self, first: Membership, machines: Mapping[NodeId, Machine]) -> None:
        self.on_committed: Callable[[Membership], None] = lambda membership: None
        self._newest = first
        self._machines = machines

    def committed(self, entries: Sequence[Entry], t: int) -> None:
        """Of the log, in order and each once. Raises `Found`."""
        for entry in entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                before, self._newest = self._newest, decode_membership_entry(entry.payload).membership
                _require_step(before, self._newest)
                self.on_committed(self._newest)
                for node in sorted(set(before.members) - set(self._newest.members)):
                    _require_no_lease(self._machines[node], t)


def _require_step(before: Membership, after: Membership) -> None:
    if after.is_joint:
        is_allowed = not before.is_joint and after.outgoing == before.voters
    else:
        is_allowed = after.voters == before.voters
    demand(is_allowed, MEMBERSHIP, f"{after} follows {before} in one step")


def _require_no_lease(machine: Machine, t: int) -> None:
    until = machine.member.replica._holder.serve_until if machine.member is not None else None
    left = machine.real(until) - t if until is not None else 0
    demand(left <= 0, COUNTED, f"{machine.node} is a member no more, and holds a lease for {left} ns")
