"""Nobody who lacks a committed entry could win an election: looked at when an entry is first taken for committed.

Leader Completeness as `safety.py` has it speaks of the leaders that came; this speaks of all that might come, if just
the right machines crashed now. It follows from the same proof (dissertation 3.6.3): whoever lacks the entry has a log
that is less up to date than those of a majority. What a crash can take is on no disk, so disks are what is looked at.
"""

from collections.abc import Iterable

from keycluster.cluster.raft.messages import Entry, EntryKind, Membership, decode_membership_entry
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.member import Disk
from keycluster.simulations.core.safety import LEADER_COMPLETENESS


def memberships_on(disk: Disk) -> list[Membership]:
    """The applied one, and those in the log behind it: the last counts for whoever starts from this disk."""
    behind = disk.log.held[max(0, disk.state.index - disk.log.base) :]
    return [
        disk.state.membership,
        *(decode_membership_entry(e.payload).membership for e in behind if e.kind is EntryKind.MEMBERSHIP),
    ]


def require_unelectable(entry: Entry, machines: Iterable[Machine]) -> None:
    """Of `machines`, those with an old copy of their disk are left out: they neither vote nor stand."""
    whole = [machine for machine in machines if not machine.is_rolled_back]
    logs = {machine.node: machine.disk.log for machine in whole}
    ends = {node: (log.term(log.last_index), log.last_index) for node, log in logs.items()}
    for machine in whole:
        log, end = logs[machine.node], ends[machine.node]
        if log.base > entry.index or log.has(entry.index, entry.term):
            continue
        votes = [node for node, other in ends.items() if other <= end]
        membership = memberships_on(machine.disk)[-1]
        if membership.is_voter(machine.node) and membership.has_quorum(votes):
            raise Found(
                LEADER_COMPLETENESS,
                f"{machine.node} lacks the committed {entry}, and could be elected by {' '.join(sorted(votes))}",
            )
