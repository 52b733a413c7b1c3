"""A replica that is ticked when `next_wakeup` says so does what one does that is ticked every millisecond.

As in raft/test_deadline.py: each replica of a region has a twin that gets the same inputs, but a tick only when it
wants one.
"""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from keycluster.cluster.leases.messages import AppliedReport, SettledNotice
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.replica import Replica, ReplicaReady
from keycluster.cluster.types import MILLISECOND, SECOND, Instant, LogIndex, NodeId, WallTime
from keycluster.simulations.core import member
from keycluster.simulations.core.network import Network
from keycluster.simulations.core.world import World

INPUTS = (
    "receive",
    "propose",
    "persisted",
    "applied",
    "propose_membership",
    "transfer_leadership",
    "read_index",
    "learn_known_of_me",
    "offer_snapshot",
    "snapshot_chunk_read",
    "snapshot_read_failed",
    "snapshot_chunk_stored",
    "snapshot_installed",
    "snapshot_refused",
)
ticks: Counter[str] = Counter()


class PairedCore(RaftCore):
    """With another that is as it was at the start, for the twin."""

    def __init__(self, **arguments: object) -> None:
        jitter = arguments["jitter"]
        assert isinstance(jitter, random.Random)
        self.twins_chance = random.Random()
        self.twins_chance.setstate(jitter.getstate())
        self.twin = RaftCore(**{**arguments, "jitter": self.twins_chance})  # type: ignore[arg-type]  # Passed through.
        super().__init__(**arguments)  # type: ignore[arg-type]  # Passed through.


class TwinReplica(Replica):
    def __init__(self, **arguments: object) -> None:
        core = arguments["core"]
        assert isinstance(core, PairedCore)
        chance = core.twins_chance
        twins = {**arguments, "core": core.twin, "nonces": lambda: chance.randbytes(16)}
        self.twin = Replica(**twins)  # type: ignore[arg-type]  # Passed through.
        self.twin_due = Instant(0)
        super().__init__(**arguments)  # type: ignore[arg-type]  # Passed through.

    def tick(self, now: Instant, wall: WallTime) -> None:
        super().tick(now, wall)
        ticks["every millisecond"] += 1
        if self.twin_due <= now:
            ticks["when due"] += 1
            self.twin.tick(now, wall)
            assert self.twin.next_wakeup(now) > now, "a driver would run in circles"

    def next_wakeup(self, now: Instant) -> Instant:
        self.twin_due = self.twin.next_wakeup(now)
        return Instant(now + MILLISECOND)

    def ready(self) -> ReplicaReady:
        ready = super().ready()
        assert self.twin.ready() == ready
        assert self.twin.core.role == self.core.role
        assert self.twin.serve_until == self.serve_until
        return ready


def _both(name: str) -> Callable[..., object]:
    def give(self: TwinReplica, *values: object, **named: object) -> object:
        getattr(self.twin, name)(*values, **named)
        return getattr(Replica, name)(self, *values, **named)

    return give


for _name in INPUTS:
    setattr(TwinReplica, _name, _both(_name))


@pytest.fixture
def _twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "RaftCore", PairedCore)
    monkeypatch.setattr(member, "Replica", TwinReplica)
    ticks.clear()


def led(world: World) -> World:
    world.start_all()
    world.run_while(lambda: world.leader() is None, ns_max=5 * SECOND)
    world.run_for(SECOND)
    return world


def write(world: World) -> LogIndex:
    leader = world.leader()
    assert leader is not None
    return world.propose(leader, [b"change"])


@pytest.mark.usefixtures("_twins")
@pytest.mark.parametrize("seed", range(6))
def test_wakeups_alone_do(seed: int) -> None:
    """Same messages, writes and leases at the same instants: at rest, under writes, cuts, a crash and a removal."""
    world = led(World(seed, voters=3, learners=1))
    rng = random.Random(seed)
    nodes = sorted(world.machines)
    for _ in range(5):
        write(world)
        world.run_for(rng.randrange(100) * MILLISECOND)
    cut = rng.choice(nodes)
    leader = world.leader()
    assert leader is not None
    if cut != leader.node:
        world.cut_off(cut)
        write(world)
    world.run_for(1500 * MILLISECOND)
    world.network.cut.clear()
    world.run_for(SECOND)
    leader = world.leader()
    assert leader is not None
    target = Membership(voters=world.genesis.voters)
    world.feed(leader, lambda m, now: m.replica.propose_membership(target, now))
    world.run_for(2 * SECOND)
    world.crash(leader.node)
    world.run_for(2 * SECOND)
    write(world)
    world.start(leader.node)
    world.run_for(SECOND)
    assert ticks["when due"] < ticks["every millisecond"] / 10


def moves_away_after(world: World) -> int:
    """From a leader whose apply hangs, in nanoseconds after the first write."""
    led(world)
    leader = world.leader()
    assert leader is not None
    world.set_apply_hangs(leader.node, True)
    write(world)
    return world.run_while(lambda: world.leader() in (None, leader), ns_max=3 * SECOND)


@pytest.mark.parametrize("seed", range(4))
def test_wakeups_alone_move_leadership_away_from_a_hanging_apply(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No later than where a replica looks every millisecond; sooner by a heartbeat at most: that is how often it notes
    that all is applied, and a stall counts from there."""
    when_due = moves_away_after(World(seed))
    monkeypatch.setattr(Replica, "next_wakeup", lambda self, now: Instant(now + MILLISECOND))
    every_millisecond = moves_away_after(World(seed))
    assert -RaftConfig().heartbeat_ns - MILLISECOND <= when_due - every_millisecond <= 2 * MILLISECOND


@pytest.fixture
def ticked(monkeypatch: pytest.MonkeyPatch) -> Counter[NodeId]:
    """Ticks of each node."""
    counts: Counter[NodeId] = Counter()
    tick = Replica.tick

    def count(self: Replica, now: Instant, wall: WallTime) -> None:
        counts[self.core.node] += 1
        tick(self, now, wall)

    monkeypatch.setattr(Replica, "tick", count)
    return counts


def test_idle_members_are_ticked_for_heartbeats_and_questions_only(ticked: Counter[NodeId]) -> None:
    """Sixteen a second for a leader, four and some for who follows."""
    world = led(World(1))
    ticked.clear()
    world.run_for(3 * SECOND)
    for machine in world.machines.values():
        assert machine.replica is not None
        assert ticked[machine.node] <= 3 * (17 if machine.replica.core.is_leader else 8)


@pytest.mark.parametrize("every_ms", [1, 45])
def test_a_change_is_reported_once_and_told_once(every_ms: int) -> None:
    """To each, when nothing is lost, though notices and reports cross: repeats wait until a message could be lost."""
    world = led(World(1, voters=5, network=Network(delay_ns_spread=0)))  # Links keep the order.
    reports: Counter[tuple[NodeId, LogIndex]] = Counter()
    notices: Counter[tuple[NodeId, LogIndex]] = Counter()

    def count(sender: NodeId, receiver: NodeId, message: object) -> int:
        if isinstance(message, AppliedReport):
            reports[sender, message.applied] += 1
        if isinstance(message, SettledNotice):
            notices[receiver, message.settled] += 1
        return 0

    world.meddle = count
    for _ in range(20):
        write(world)
        world.run_for(every_ms * MILLISECOND)
    world.run_for(200 * MILLISECOND)
    assert set(reports.values()) == set(notices.values()) == {1}
    if every_ms == 45:
        assert len(reports) == len(notices) == 20 * 4
