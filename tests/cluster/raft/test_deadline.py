"""A core that is ticked at its deadlines alone does what one does that is ticked every millisecond.

Each member of a region under faults has a twin: it gets the same inputs, but a tick only once its `deadline` has come.
Whatever one hands out, the other must hand out at the same instant.
"""

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.messages import AppendEntries, Membership, Message, SnapshotMeta
from keycluster.cluster.raft.ready import ReadFailed, Ready
from keycluster.cluster.types import MILLISECOND, SECOND, Instant, LogIndex, NodeId
from tests.cluster.raft import harness, simulated
from tests.cluster.raft.harness import Region, membership
from tests.cluster.raft.simulated import Faults, SimulatedRegion


class TwinCore(RaftCore):
    """Ticked as its driver likes; checks at each output that a twin who is ticked at its deadlines agrees."""

    ticks = twin_ticks = 0

    def __init__(self, **arguments: object) -> None:
        jitter = arguments["jitter"]
        assert isinstance(jitter, random.Random)
        copy = random.Random()
        copy.setstate(jitter.getstate())
        self.twin = RaftCore(**{**arguments, "jitter": copy})  # type: ignore[arg-type]  # Passed through.
        super().__init__(**arguments)  # type: ignore[arg-type]  # Passed through.

    def tick(self, now: Instant) -> None:
        super().tick(now)
        TwinCore.ticks += 1
        if self.twin.deadline is not None and self.twin.deadline <= now:
            TwinCore.twin_ticks += 1
            self.twin.tick(now)
            assert self.twin.deadline is None or self.twin.deadline > now, "a driver would run in circles"

    def ready(self) -> Ready:
        ready = super().ready()
        assert self.twin.ready() == ready
        assert (self.twin.role, self.twin.term, self.twin.leader) == (self.role, self.term, self.leader)
        assert self.twin.is_handing_over == self.is_handing_over
        return ready

    def receive(self, sender: NodeId, message: Message, now: Instant) -> None:
        self.twin.receive(sender, message, now)
        super().receive(sender, message, now)

    def propose(self, payloads: Sequence[bytes], now: Instant) -> LogIndex:
        first = super().propose(payloads, now)
        assert self.twin.propose(payloads, now) == first
        return first

    def propose_membership(self, target: Membership, now: Instant, *, context: bytes = b"") -> LogIndex:
        index = super().propose_membership(target, now, context=context)
        assert self.twin.propose_membership(target, now, context=context) == index
        return index

    def leave_joint(self, now: Instant) -> LogIndex:
        index = super().leave_joint(now)
        assert self.twin.leave_joint(now) == index
        return index

    def transfer_leadership(self, target: NodeId, now: Instant) -> None:
        super().transfer_leadership(target, now)
        self.twin.transfer_leadership(target, now)

    def read_index(self, request: int, now: Instant) -> None:
        self.twin.read_index(request, now)
        super().read_index(request, now)

    def persisted(self, ticket: int, now: Instant) -> None:
        self.twin.persisted(ticket, now)
        super().persisted(ticket, now)

    def applied_to(self, index: LogIndex, now: Instant) -> None:
        self.twin.applied_to(index, now)
        super().applied_to(index, now)

    def offer_snapshot(self, peer: NodeId, meta: SnapshotMeta, *, size: int, now: Instant) -> None:
        self.twin.offer_snapshot(peer, meta, size=size, now=now)
        super().offer_snapshot(peer, meta, size=size, now=now)

    def snapshot_chunk_read(self, peer: NodeId, meta: SnapshotMeta, *, offset: int, data: bytes, now: Instant) -> None:
        self.twin.snapshot_chunk_read(peer, meta, offset=offset, data=data, now=now)
        super().snapshot_chunk_read(peer, meta, offset=offset, data=data, now=now)

    def snapshot_read_failed(self, peer: NodeId, now: Instant) -> None:
        self.twin.snapshot_read_failed(peer, now)
        super().snapshot_read_failed(peer, now)

    def snapshot_chunk_stored(self, meta: SnapshotMeta, *, offset_next: int, now: Instant) -> None:
        self.twin.snapshot_chunk_stored(meta, offset_next=offset_next, now=now)
        super().snapshot_chunk_stored(meta, offset_next=offset_next, now=now)

    def snapshot_installed(self, meta: SnapshotMeta, now: Instant) -> None:
        self.twin.snapshot_installed(meta, now)
        super().snapshot_installed(meta, now)

    def snapshot_refused(self, meta: SnapshotMeta, now: Instant) -> None:
        self.twin.snapshot_refused(meta, now)
        super().snapshot_refused(meta, now)


@pytest.fixture(autouse=True)
def _twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RaftCore", TwinCore)
    monkeypatch.setattr(simulated, "TICK_NS", 1 * MILLISECOND)
    TwinCore.ticks = TwinCore.twin_ticks = 0


NODES = tuple(map(NodeId, "abcde"))
FAULTS = st.sampled_from(
    (
        Faults(),
        Faults(loss=0.3),
        Faults(delay_max_ns=90 * MILLISECOND, repeat=0.2),
        Faults(write_max_ns=400 * MILLISECOND),
    )
)
ACTIONS = st.sampled_from(
    ("propose", "read", "transfer", "cut", "heal", "stall", "crash", "restart", "change", "leave", "compact")
)


def act(region: SimulatedRegion, action: str, node: NodeId, other: NodeId) -> None:
    match action:
        case "propose":
            region.propose(node, b"x" * 100)
        case "read":
            region.read(node)
        case "transfer":
            region.transfer(node, other)
        case "cut":
            region.cut.add((node, other))
        case "heal":
            region.cut.clear()
            region.stalled.clear()
        case "stall":
            region.stalled.add(node)
        case "crash":
            region.crash(node, keep_writes=1)
        case "restart":
            region.restart(node)
        case "change":
            region.change(node, membership([other for other in region.members if other != node]))
        case "leave":
            region.leave_joint(node)
        case "compact":
            region.compact(node, keep=1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from((1, 2, 3, 5)),
    faults=FAULTS,
    actions=st.lists(
        st.tuples(ACTIONS, st.sampled_from(NODES), st.sampled_from(NODES), st.integers(1, 400)), max_size=30
    ),
)
def test_deadlines_alone_do(
    seed: int, size: int, faults: Faults, actions: list[tuple[str, NodeId, NodeId, int]]
) -> None:
    """Same outputs at the same instants, whatever goes wrong meanwhile, from a small part of the ticks."""
    region = SimulatedRegion(NODES[:size], seed=seed)
    region.run_until(lambda: region.leader is not None, within_ms=2_000)
    region.faults = faults
    for number, (action, drawn, other, pause_ms) in enumerate(actions):
        # Half of it happens to whoever leads: most of it does nothing elsewhere.
        node = region.leader.node if number % 2 and region.leader is not None else drawn
        if node in region.members and other in region.members:
            act(region, action, node, other)
        region.run(pause_ms)
    region.heal()
    region.run(1_000)
    assert TwinCore.twin_ticks < TwinCore.ticks / 5


def led_region(voters: str = "abc") -> Region:
    """By "a", and nothing is under way."""
    region = Region(voters)
    region.elect("a")
    region.settle()
    return region


def test_leader_without_a_quorum_steps_down_at_the_deadline() -> None:
    region = led_region()
    region.cut = {NodeId("b"), NodeId("c")}
    for _ in range(700):
        region.tick(1, only="a")
    assert not region["a"].core.is_leader


def test_leader_with_a_stalled_disk_moves_away_at_the_deadline() -> None:
    region = led_region()
    region["a"].propose(b"x")
    for _ in range(2_100):
        region.tick(1, only="a")
        region.deliver()
        region["b"].work()
        region["c"].work()
    assert region["a"].core.leader != "a"


@pytest.mark.parametrize("target_is_behind", [False, True])
def test_hand_over_that_nobody_takes_up_ends_at_the_deadline(*, target_is_behind: bool) -> None:
    """Before TimeoutNow the leader goes on; after it, it repeats it and steps down."""
    region = led_region()
    region.cut = {NodeId("c")}
    region.tick(7, only="a")
    if target_is_behind:
        region["a"].propose(b"x")
        region.settle()
    region["a"].transfer(NodeId("c"))
    for _ in range(310):
        region.tick(1, only="ab")
        region.settle()
    assert not region["a"].core.is_handing_over
    assert region["a"].core.is_leader == target_is_behind


def test_read_that_nobody_answers_fails_at_the_deadline() -> None:
    """Forwarded, the answer lost; and the leader's own, before a follower has its first entry durably."""
    region = led_region()
    region["b"].read(1)
    for _ in range(610):
        region.tick(1)
        region.take(to="b", sender="a")
        region["b"].core.receive(NodeId("a"), heartbeat(region["a"].core), region["b"].now)
        region["b"].pump()
        region.deliver()
    assert region["b"].reads == [ReadFailed(1)]

    region = Region("abc")
    while not region["a"].core.is_leader:
        region.tick(1, only="a")
        region.deliver()
        for member in region.up:
            member.write_one()
    region.tick(7, only="a")  # So that it doesn't fall due together with a heartbeat.
    region["a"].read(2)
    for _ in range(610):
        region.tick(1, only="a")
        region.deliver()
    assert region["a"].reads == [ReadFailed(2)]


def heartbeat(leader: RaftCore) -> AppendEntries:
    return AppendEntries(leader.term, 0, leader.last_index, leader.last_term, leader.commit_index)


def test_member_without_a_region_waits_for_its_time_out_only() -> None:
    """A learner that hears nobody doesn't keep its driver busy."""
    region = Region("abc", learners=["d"])
    core = region["d"].core
    for _ in range(20):
        assert core.deadline is not None
        assert core.deadline > region.time
        region.time = core.deadline
        region["d"].tick()
    assert region.time > harness.UPTIME_NS + 5 * SECOND
