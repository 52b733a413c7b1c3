"""Whether leaders change voters only to such as can carry on (node/membership.py).

A change of voters counts from when it is in the log. If most of the voters to be are silent or far behind, nothing is
committed any more: until they are back, for ever if they never are.
"""

from collections.abc import Callable
from typing import Final

from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.types import Instant, NodeId, Term

BEHIND_ENTRIES_MAX: Final = 128
"""Twice what the product allows: entries may have been committed since it looked."""

_Led = tuple[Term, tuple[NodeId, ...]]


class VoterSteps:
    def __init__(self, found: Callable[[str, str], None]) -> None:
        self._found = found
        self._led: dict[NodeId, _Led] = {}

    def stepped(self, core: RaftCore, now: Instant) -> None:
        """A node has done something, at `now` by its clock."""
        if not core.is_leader:
            self._led.pop(core.node, None)
            return
        voters = core.membership.voters
        led = self._led.get(core.node)
        self._led[core.node] = (core.term, voters)
        if led is None or led[0] != core.term or led[1] == voters:
            return
        able = [voter for voter in voters if voter == core.node or _is_able(core, voter, now)]
        if len(able) <= len(voters) // 2:
            self._found(
                "membership",
                f"{core.node} goes over to voters {', '.join(voters)}: only {', '.join(able) or 'nobody'} answers "
                "and isn't far behind",
            )


def _is_able(core: RaftCore, voter: NodeId, now: Instant) -> bool:
    progress = core.progress.get(voter)
    if progress is None or progress.heard_at is None:
        return False
    return (
        now - progress.heard_at <= 2 * core.config.election_ns
        and progress.match + BEHIND_ENTRIES_MAX >= core.commit_index
    )
