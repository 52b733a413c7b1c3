"""What must hold inside a region at each step of a node, whatever its clients see.

- At most one leader in a term (Raft, figure 3: election safety).
- Nodes apply the same entries at the same index, in all of their lives, and have the same digest there (state machine
  safety; security.md, 5).
- Contract 2 from the inside: whatever is settled is applied by every node that may serve (rules L3 to L6). It can only
  break when the settled index rises, or in a step of the node that serves too early: so it is looked at then.
- A node on an old copy of its disk doesn't go on once it was told (`old_disks.py`).
- A leader changes voters only to such as can carry on (`voter_steps.py`).
- No node ends by itself without an excuse, no actor is restarted, nothing is logged as an error.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.raft.messages import Entry
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.node.raft_driver import Touched
from keycluster.node.sealing import NodeSecrets
from keycluster.simulations.region.failed_disks import FailedDisks
from keycluster.simulations.region.logs import is_fault_of_ours, line_of
from keycluster.simulations.region.node import Ending, NodeState, SimNode
from keycluster.simulations.region.old_disks import OldDisks
from keycluster.simulations.region.secrecy import SecrecyWatch
from keycluster.simulations.region.voter_steps import VoterSteps
from keycluster.simulations.runs import Failure
from keycluster.simulations.trace import Trace, What

FAILURES_MAX = 20  # A run that goes wrong goes wrong again and again.
HASH_BYTES = 8
LOG_BYTES_MAX = 1 << 30  # All of it.

_LEADERS, _ENTRIES, _DIGESTS = "leaders", "entries", "digests"
_SETTLED, _ENDINGS, _LOG = "settled", "endings", "log"
_PROTOCOL = "protocol"
_MALFORMED = "SerializationException"


class StateChecks:
    """A region's `NodeWatch`: checks, and notes in the trace."""

    def __init__(self, *, now_ns: Callable[[], int], trace: Trace) -> None:
        self.nodes: Mapping[NodeId, SimNode] = {}
        """Looked at live: nodes come and go."""
        self.failures: list[Failure] = []
        self.settled = LogIndex(0)
        self.leaders: dict[Term, NodeId] = {}
        self.on_move: Callable[[], None] = _nothing
        """Called after each step of any node."""
        self.on_end: Callable[[SimNode], None] = _no_matter
        """Called when a node has ended, by itself or because it was told to."""
        self.on_applied: Callable[[Sequence[Entry], Sequence[Outcome | None]], None] = _not_looked_at
        """Called when a node has applied entries."""
        self.on_settled: Callable[[LogIndex], None] = _not_noted
        """Called when the settled index has risen."""
        self.secrecy = SecrecyWatch(found=self.found)
        self.old_disks = OldDisks(self.found)
        self.failed_disks = FailedDisks(self.found)
        self.voter_steps = VoterSteps(self.found)
        self._now_ns = now_ns
        self._trace = trace
        self._entries: dict[LogIndex, tuple[Term, int, bytes]] = {}
        self._digests: dict[LogIndex, bytes] = {}
        self._leads: dict[NodeId, Term] = {}
        self._serves: set[NodeId] = set()

    @property
    def applied(self) -> LogIndex:
        """The newest entry that any node has applied."""
        return max(self._entries, default=LogIndex(0))

    def found(self, checker: str, message: str) -> None:
        """Something is wrong."""
        self._trace.note(self._now_ns(), "checks", What.OFFENCE, checker, message)
        if len(self.failures) < FAILURES_MAX:
            self.failures.append(Failure(checker, message, self._now_ns()))

    def look_on_disks(self) -> None:
        """At the end."""
        for node in self.nodes.values():
            self.secrecy.look_on_disk(node)

    def look_at_logs(self) -> None:
        """At the end: what is committed in a log is what was applied there (log matching, leader completeness)."""
        for node in self.nodes.values():
            running = node.running
            if running is None:
                continue
            log, commit = running.stores.log, running.replica.core.commit_index
            for entry in log.entries(log.first_index, LogIndex(commit + 1), LOG_BYTES_MAX):
                known = self._entries.get(entry.index)
                if known is not None and known != _fact_of(entry):
                    self.found(
                        _ENTRIES, f"{node.name} has {entry.term} committed at {entry.index}, applied is {known[0]}"
                    )

    def look_at_doors(self) -> None:
        """At the end: no byte is changed on its way here, and no client of ours sends what isn't the protocol."""
        for node in self.nodes.values():
            malformed = node.running.gate.refusals[_MALFORMED] if node.running is not None else 0
            if malformed:
                self.found(_PROTOCOL, f"{node.name} refused {malformed} times what its clients sent as malformed")

    # As NodeWatch

    def started(self, node: SimNode) -> None:
        self.note(node, What.STARTS, node.lives)
        self.old_disks.started(node, self.nodes)
        self._look_at_state(node)

    def disk_failed(self, node: SimNode, path: Path | None) -> None:
        self.note(node, "disk fails", path.name if path is not None else None)
        self.failed_disks.failed(node, path)

    def opened(self, node: SimNode, secrets: NodeSecrets) -> None:
        self.secrecy.learn_node(node, secrets)

    def moved(
        self, node: SimNode, entries: Sequence[Entry], outcomes: Sequence[Outcome | None], touched: Touched
    ) -> None:
        self.on_applied(entries, outcomes)
        self.secrecy.learn_rows(node, touched)
        for entry in entries:
            fact = _fact_of(entry)
            known = self._entries.setdefault(entry.index, fact)
            if known != fact:
                self.found(_ENTRIES, f"{node.name} applied {fact[:2]} at {entry.index}, another node {known[:2]}")
            self._look_at_digest(node, entry.index)
        if entries:
            last = entries[-1]
            self.note(node, What.APPLIES, last.index, last.term, self._entries[last.index][2])

    def replaced(self, node: SimNode) -> None:
        node.has_new_state()
        self._look_at_state(node)
        running = node.running
        self.note(node, "snapshot", running.stores.state.view.applied_index if running is not None else None)

    def stepped(self, node: SimNode) -> None:
        running = node.running
        if running is None:
            return
        replica = running.replica
        core = replica.core
        self.voter_steps.stepped(core, node.clock.now())
        if core.is_leader:
            if self._leads.get(node.name) != core.term:
                self._look_at_leader(node, core.term)
        elif node.name in self._leads:
            del self._leads[node.name]
            self.note(node, What.FOLLOWS, core.term)
        if replica.settled_index > self.settled:
            self.settled = replica.settled_index
            self._trace.note(self._now_ns(), node.name, What.SETTLED, self.settled)
            for other in self.nodes.values():
                self._look_at_serving(other)
            self.on_settled(self.settled)
        else:
            self._look_at_serving(node)
        self.old_disks.stepped(node)
        self.failed_disks.stepped(node)
        self.on_move()

    def paused(self, node: SimNode) -> None:
        self.note(node, What.PAUSES)

    def resumed(self, node: SimNode) -> None:
        self.note(node, What.RESUMES)

    def stopped(self, node: SimNode, why: str) -> None:
        was_told = why == "stop"
        self.note(node, What.STOPS if was_told else What.CRASHES, why)
        self._forget(node)
        if was_told:
            self.on_end(node)
        self.on_move()

    def ended(self, node: SimNode, ending: Ending) -> None:
        self.note(node, What.STOPS, ending.text)
        self._forget(node)
        if not ending.excused:
            self.found(_ENDINGS, f"{node.name} ended by itself: {ending.text}")
        self.on_end(node)
        self.on_move()

    def take_line(self, lane: str, level: str, event: str, rest: Mapping[str, Any]) -> None:
        """What a node logs."""
        line = line_of(event, rest)
        self._trace.note(self._now_ns(), lane, level, line)
        if is_fault_of_ours(level, event, rest):
            self.found(_LOG, f"{lane}: {line}")

    # The parts

    def _look_at_leader(self, node: SimNode, term: Term) -> None:
        self._leads[node.name] = term
        self.note(node, What.LEADS, term)
        known = self.leaders.setdefault(term, node.name)
        if known != node.name:
            self.found(_LEADERS, f"term {term} has two leaders: {known} and {node.name}")

    def _look_at_serving(self, node: SimNode) -> None:
        running = node.running
        if running is None or node.state is not NodeState.UP:
            return
        serves = running.replica.may_serve(node.clock.now())
        if serves != (node.name in self._serves):
            if serves:
                self._serves.add(node.name)
                node.has_served(may_be_told=self.old_disks.may_be_told(node))
                self.note(node, What.SERVES)
            else:
                self._serves.discard(node.name)
                self.note(node, What.SERVES_NOT)
        applied = running.stores.state.view.applied_index
        if serves and applied < self.settled:
            self.found(_SETTLED, f"{node.name} serves at {applied}, and {self.settled} is settled")

    def _look_at_state(self, node: SimNode) -> None:
        running = node.running
        if running is not None:
            self._look_at_digest(node, running.stores.state.view.applied_index)

    def _look_at_digest(self, node: SimNode, index: LogIndex) -> None:
        running = node.running
        digest = running.stores.state.digest_at(index) if running is not None else None
        if digest is None:
            return
        if self._digests.setdefault(index, digest) != digest:
            self.found(_DIGESTS, f"{node.name} has another state at {index} than another node")

    def _forget(self, node: SimNode) -> None:
        self._leads.pop(node.name, None)
        self._serves.discard(node.name)

    def note(self, node: SimNode, what: str, *detail: int | str | bytes | None) -> None:
        """In the node's lane of the trace."""
        self._trace.note(self._now_ns(), node.name, what, *detail)


def _fact_of(entry: Entry) -> tuple[Term, int, bytes]:
    return entry.term, int(entry.kind), hashlib.sha256(entry.payload).digest()[:HASH_BYTES]


def _nothing() -> None:
    pass


def _not_looked_at(_entries: Sequence[Entry], _outcomes: Sequence[Outcome | None]) -> None:
    pass


def _not_noted(_index: LogIndex) -> None:
    pass


def _no_matter(_node: SimNode) -> None:
    pass
