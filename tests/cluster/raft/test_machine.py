"""A region of 3 to 7 members through everything that can happen, with the safety properties checked at each step.

Hypothesis chooses what happens and shrinks what fails. Each example ends in peace: then there must be a leader within
bounded time, a proposal must reach every member, and every read must have been answered.

RAFT_MACHINE_EXAMPLES sets how many examples run (the default takes about half a minute); with RAFT_MACHINE_UNSHRUNK a
failure is reported at once, as it was found.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keycluster.cluster.types import MILLISECOND, NodeId
from tests.cluster.raft.harness import membership
from tests.cluster.raft.simulated import Faults, SimulatedRegion

NAMES = tuple(map(NodeId, "abcdefg"))
EXAMPLES = int(os.environ.get("RAFT_MACHINE_EXAMPLES", "150"))
RULES_PER_EXAMPLE = 80
MACHINE_SECONDS_MAX = 60 + 3 * EXAMPLES  # Half a second each on an idle core.
PHASES = (Phase.generate,) if os.environ.get("RAFT_MACHINE_UNSHRUNK") else (Phase.generate, Phase.shrink)
LEADER_WITHIN_MS = 8_000  # A stalled disk may have to be noticed, snapshots sent and joint phases left.
READ_WITHIN_MS = 700  # The core's patience, and a tick of a slow clock.

nodes = st.sampled_from(NAMES)
some_nodes = st.sets(nodes, min_size=1, max_size=5)


class RegionMachine(RuleBasedStateMachine):
    steps = 0
    examples = 0
    commits = 0
    changes = 0
    snapshots = 0

    @initialize(
        size=st.integers(3, 7),
        seed=st.integers(0, 2**32),
        pace_ms=st.sampled_from((10, 60, 150, 400)),
        keep=st.sampled_from((2, 10, 1_000)),
        leaves_joint=st.booleans(),
        peace_every=st.sampled_from((5, 12, 1_000)),
    )
    def found(self, size: int, seed: int, pace_ms: int, keep: int, leaves_joint: bool, peace_every: int) -> None:
        self.region = SimulatedRegion(NAMES[:size], seed=seed)
        self.region.run_until(lambda: self.region.leader is not None, within_ms=2_000)
        self.pace_ms = pace_ms
        self.keep = keep
        self.leaves_joint = leaves_joint
        self.peace_every = peace_every
        self.rules_run = 0
        self.proposed = 0

    @invariant()
    def let_time_go_by(self) -> None:
        """After every rule, so that most of them have an effect before the next one."""
        if hasattr(self, "region"):
            self.rules_run += 1
            if self.rules_run % self.peace_every == 0:
                self.region.heal()
                self.region.run_until(self._is_led, within_ms=2_000)
            self.region.run(self.pace_ms)
            for member in self.region.up:
                self.region.compact(member.node, keep=self.keep)
                if self.leaves_joint and member.core.can_leave_joint:
                    self.region.leave_joint(member.node)

    def _known(self, node: NodeId) -> NodeId:
        """A member that exists, for a name that may not."""
        known = sorted(self.region.members)
        return known[NAMES.index(node) % len(known)]

    def _acting(self, node: NodeId, at_leader: bool) -> NodeId:
        leader = self.region.leader
        return leader.node if at_leader and leader is not None else self._known(node)

    # Time

    @rule(milliseconds=st.integers(1, 100))
    def run_shortly(self, milliseconds: int) -> None:
        self.region.run(milliseconds)

    @rule(milliseconds=st.integers(100, 3_000))
    def run(self, milliseconds: int) -> None:
        self.region.run(milliseconds)

    @rule()
    def run_until_led(self) -> None:
        self.region.run_until(lambda: self.region.leader is not None, within_ms=2_000)

    # Work

    @rule(node=nodes, at_leader=st.booleans(), count=st.integers(1, 6), size=st.integers(1, 200))
    def propose(self, node: NodeId, at_leader: bool, count: int, size: int) -> None:
        payloads = [f"{self.proposed + i}:".encode().ljust(size, b".") for i in range(count)]
        if self.region.propose(self._acting(node, at_leader), *payloads):
            self.proposed += count

    @rule(batches=st.integers(5, 20), between_ms=st.sampled_from((0, 5, 50)))
    def work(self, batches: int, between_ms: int) -> None:
        """Steady load at whoever leads."""
        for _ in range(batches):
            leader = self.region.leader
            if leader is not None:
                self.proposed += self.region.propose(leader.node, b"%d" % self.proposed)
            self.region.run(between_ms)

    @rule(node=nodes, at_leader=st.booleans())
    def read(self, node: NodeId, at_leader: bool) -> None:
        self.region.read(self._acting(node, at_leader))

    @rule(node=nodes, keep=st.integers(0, 8))
    def compact(self, node: NodeId, keep: int) -> None:
        self.region.compact(self._known(node), keep=keep)

    # Change

    @rule(voters=some_nodes, learners=st.sets(nodes, max_size=2))
    def change_membership(self, voters: set[NodeId], learners: set[NodeId]) -> None:
        leader = self.region.leader
        if leader is not None:
            for node in sorted(voters | learners):
                if node not in self.region.members:
                    self.region.add(node)
            # Mostly a change that is possible: learners cannot leave along with voters.
            stay = set(leader.core.membership.learners) if voters != set(leader.core.membership.voters) else set()
            target = membership(voters, learners=(learners | stay) - voters)
            RegionMachine.changes += self.region.change(leader.node, target)

    @rule(node=nodes)
    def change_one_voter(self, node: NodeId) -> None:
        leader = self.region.leader
        if leader is not None:
            old = leader.core.membership
            if node not in self.region.members:
                self.region.add(node)
            voters = set(old.voters) ^ {node}
            if voters:
                target = membership(voters, learners=set(old.learners) - {node})
                RegionMachine.changes += self.region.change(leader.node, target)

    @rule()
    def leave_joint(self) -> None:
        for member in self.region.up:
            self.region.leave_joint(member.node)

    @rule(node=nodes)
    def transfer(self, node: NodeId) -> None:
        leader = self.region.leader
        if leader is not None:
            self.region.transfer(leader.node, self._known(node))

    # Faults

    @rule(node=nodes, at_leader=st.booleans(), keep_writes=st.integers(0, 3))
    def crash(self, node: NodeId, at_leader: bool, keep_writes: int) -> None:
        self.region.crash(self._acting(node, at_leader), keep_writes=keep_writes)

    @rule(node=nodes)
    def restart(self, node: NodeId) -> None:
        self.region.restart(self._known(node))

    @rule()
    def restart_all(self) -> None:
        for node in sorted(self.region.members):
            self.region.restart(node)

    @rule(group=some_nodes)
    def partition(self, group: set[NodeId]) -> None:
        """Between these and all others, both ways."""
        self.region.cut |= {(a, b) for a in NAMES for b in NAMES if (a in group) != (b in group)}

    @rule(sender=nodes, from_leader=st.booleans(), to=nodes)
    def cut_one_way(self, sender: NodeId, from_leader: bool, to: NodeId) -> None:
        """`to` no longer hears the leader, say, but can still speak to everybody."""
        self.region.cut.add((self._acting(sender, from_leader), self._known(to)))

    @rule(node=nodes, at_leader=st.booleans())
    def cut_off(self, node: NodeId, at_leader: bool) -> None:
        node = self._acting(node, at_leader)
        self.region.cut |= {pair for other in NAMES for pair in ((node, other), (other, node))}

    @rule()
    def mend_links(self) -> None:
        self.region.cut.clear()

    @rule(
        loss=st.sampled_from((0.0, 0.0, 0.05, 0.3)),
        repeat=st.sampled_from((0.0, 0.0, 0.1, 0.5)),
        delay_ms=st.sampled_from((1, 3, 20, 100, 400)),
    )
    def network(self, loss: float, repeat: float, delay_ms: int) -> None:
        """With long delays messages overtake each other by whole elections."""
        old = self.region.faults
        write = (old.write_min_ns, old.write_max_ns)
        self.region.faults = Faults(loss, repeat, MILLISECOND // 2, delay_ms * MILLISECOND, *write)

    @rule(write_ms=st.sampled_from((1, 5, 50, 300)))
    def disks(self, write_ms: int) -> None:
        self.region.faults = Faults(
            self.region.faults.loss,
            self.region.faults.repeat,
            self.region.faults.delay_min_ns,
            self.region.faults.delay_max_ns,
            MILLISECOND // 2,
            write_ms * MILLISECOND,
        )

    @rule(node=nodes, at_leader=st.booleans())
    def stall_disk(self, node: NodeId, at_leader: bool) -> None:
        self.region.stalled.add(self._acting(node, at_leader))

    @precondition(lambda self: self.region.stalled)
    @rule()
    def free_disks(self) -> None:
        self.region.stalled.clear()

    # Peace

    def teardown(self) -> None:
        if hasattr(self, "region"):
            self._check_liveness()
            RegionMachine.steps += self.region.steps
            RegionMachine.examples += 1
            RegionMachine.commits += self.region.safety.highest_commit
            RegionMachine.snapshots += sum(member.installs for member in self.region.members.values())

    def _check_liveness(self) -> None:
        region = self.region
        region.heal()
        assert region.run_until(self._is_led, within_ms=LEADER_WITHIN_MS), f"no leader in peace: {self._story()}"
        self._peace: tuple[int, int] | None = None
        assert region.run_until(self._is_everywhere, within_ms=LEADER_WITHIN_MS), f"no progress: {self._story()}"
        region.run(READ_WITHIN_MS)
        for node in sorted(region.members):
            assert not region.safety.reads_open(node), f"{node} has reads without an answer"

    def _is_led(self) -> bool:
        """One leader that can work, with nobody in a later term."""
        leader = self.region.leader
        return leader is not None and leader.core.own_term_committed and not leader.core.is_handing_over

    def _is_everywhere(self) -> bool:
        """A proposal of the leader's term is applied at all its members. A new leader needs a new one."""
        leader = self.region.leader
        if leader is None or not self._is_led():
            return False
        if self._peace is None or self._peace[0] != leader.core.term:
            assert self.region.propose(leader.node, b"peace"), f"the leader takes no proposal: {self._story()}"
            self._peace = (leader.core.term, leader.core.last_index)
        members = [self.region.members[node] for node in leader.core.membership.members]
        return all(member.disk.state.index >= self._peace[1] for member in members)

    def _story(self) -> str:
        return "; ".join(
            f"{member.node} {member.core.role} term {member.core.term} leader {member.core.leader} "
            f"log {member.core.last_index}/{member.core.last_term} commit {member.core.commit_index} "
            f"applied {member.disk.state.index} {dict(member.core.progress)} {member.core.membership}"
            for member in self.region.up
        )


@pytest.fixture(scope="module", autouse=True)
def _report(request: pytest.FixtureRequest) -> Iterator[None]:
    """Says at the end how far the machine came."""
    yield
    m = RegionMachine
    print(
        f"\nraft machine: {m.examples} regions, {m.steps:,} steps, {m.commits:,} entries committed, "
        f"{m.changes} membership changes, {m.snapshots} snapshots installed"
    )


TestRegion = pytest.mark.timeout(MACHINE_SECONDS_MAX)(RegionMachine.TestCase)
TestRegion.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=RULES_PER_EXAMPLE,
    deadline=None,
    database=None,
    print_blob=True,
    phases=PHASES,
    suppress_health_check=list(HealthCheck),
)
