"""Faults hit somebody who matters, at a moment that matters."""

import random
from collections import Counter

import pytest

from keycluster.cluster.marks import all_marks
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import MILLISECOND, SECOND, NodeId
from keycluster.simulations.core import changes
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.run import SUPPORTED, CoreRun
from keycluster.simulations.core.shape import draw_shape
from keycluster.simulations.faults import MINUTE, Fault, FaultKind, Leap
from keycluster.simulations.runs import RunSpec, Simulator
from keycluster.simulations.trace import Trace, What

DRAWS = 2_000
N4, N5 = NodeId("n4"), NodeId("n5")


@pytest.fixture
def core() -> CoreRun:
    """Five voters that serve, no faults, and a few callers."""
    spec = RunSpec(Simulator.CORE, 1, 60 * SECOND, nodes=5, clients=2, operations_per_s=20.0, faults=())
    core = CoreRun(spec, draw_shape(spec, SUPPORTED), Trace(keep=True))
    core.start_all()
    core.callers.start()
    core.run_while(lambda: not all(core.may_serve(node) for node in list(core.machines)[:5]), ns_max=5 * SECOND)
    return core


def a_fault(kind: FaultKind, number: int = 0, *, for_ns: int = 500 * MILLISECOND, seed: int = 1) -> Fault:
    return Fault(number=number, at_ns=0, kind=kind, for_ns=for_ns, strength=0.5, seed=seed)


def leader_of(core: CoreRun) -> Machine:
    leader = core.leader()
    assert leader is not None
    return leader


def remove(core: CoreRun, node: NodeId) -> None:
    """Asks until a leader agrees."""
    core.run_while(lambda: not changes.remove(core, node), ns_max=5 * SECOND)


def told(core: CoreRun) -> list[object]:
    """What the nemesis says of faults, whether they had an effect or not."""
    return [record.detail[1] for record in core.trace.records() if record.what == What.FAULT]


def until_it_happens(core: CoreRun) -> None:
    """Until the nemesis tells of more."""
    count = len(told(core))
    core.run_while(lambda: len(told(core)) == count, ns_max=3 * SECOND)


def test_victims_are_members(core: CoreRun) -> None:
    """Who was removed runs on, and nothing hangs on what becomes of them; so few of the faults are theirs."""
    for gone in (N4, N5):
        remove(core, gone)
        core.run_for(5 * SECOND)
    rng, hit = random.Random(1), Counter[bool]()
    for _ in range(DRAWS):
        victim = core.nemesis._victim(rng)
        assert victim is not None
        hit[victim.node in (N4, N5)] += 1
    assert 0 < hit[True] < 0.05 * DRAWS


FELT_LATER = (
    *(FaultKind.LOSS, FaultKind.DELAY, FaultKind.DUPLICATE, FaultKind.REORDER),
    *(FaultKind.ONE_WAY, FaultKind.PARTIAL, FaultKind.PARTITION, FaultKind.CLOG),
    *(FaultKind.DISK_SLOW, FaultKind.DISK_STALL, FaultKind.APPLY_HANG),
    *(FaultKind.CRASH_AT_STEP, FaultKind.CRASH_AT_WRITE, FaultKind.PAUSE_BEFORE_OUTPUT),
    *(FaultKind.ADD_VOTER, FaultKind.ADD_LEARNER, FaultKind.CHANGE_ROLE, FaultKind.REMOVE),
)


@pytest.mark.parametrize("kind", FELT_LATER)
def test_fault_counts_once_it_is_felt(core: CoreRun, kind: FaultKind) -> None:
    """Not as soon as it is set up, and never more than once."""
    core.nemesis._begin(a_fault(kind, for_ns=3 * SECOND))
    assert not core.nemesis.counts
    core.run_for(6 * SECOND)
    assert core.nemesis.counts == {kind.value: 1}


@pytest.mark.parametrize("kind", FELT_LATER[:11])
def test_fault_that_is_over_before_anybody_feels_it_never_counts(core: CoreRun, kind: FaultKind) -> None:
    """Whatever happens then, also by another one of its kind."""
    if kind in (FaultKind.ONE_WAY, FaultKind.PARTIAL, FaultKind.PARTITION):
        core.nemesis._cut_links(a_fault(kind, for_ns=1), [(NodeId("n1"), NodeId("n2"))])
    else:
        core.nemesis._begin(a_fault(kind, for_ns=1))
    core.run_for(2 * SECOND)
    assert not core.nemesis.counts
    core.nemesis._begin(a_fault(kind, 1, for_ns=3 * SECOND))
    core.run_for(6 * SECOND)
    assert core.nemesis.counts == {kind.value: 1}


def test_change_of_members_that_is_never_committed_does_not_count(core: CoreRun) -> None:
    """Its leader was lost with it."""
    core.cut_off(leader_of(core).node)
    core.nemesis._begin(a_fault(FaultKind.ADD_LEARNER))
    core.run_for(6 * SECOND)
    assert told(core)
    assert not core.nemesis.counts


def test_change_counts_as_what_it_comes_to() -> None:
    """Several in one step may undo each other."""
    before = Membership(voters=(NodeId("n1"), NodeId("n2")), learners=(NodeId("n3"),))
    target = Membership(voters=(NodeId("n1"), NodeId("n3")), learners=(NodeId("n9"),))
    change = changes.MemberChange(NodeId("n1"), before, target)
    kinds = (FaultKind.ADD_VOTER, FaultKind.ADD_LEARNER, FaultKind.CHANGE_ROLE, FaultKind.REMOVE)
    assert [change.has(kind) for kind in kinds] == [False, True, True, True]


def test_writes_that_a_crash_takes_are_counted(core: CoreRun) -> None:
    """Those under way, and not those that are done and nobody heard of."""
    assert core.storage.writes_lost == 0
    machine = leader_of(core)
    core.run_while(lambda: machine.writing is None, ns_max=SECOND)
    waiting = len(machine.to_write)
    core.crash(machine.node)
    assert core.storage.writes_lost == 1 + waiting


def test_voter_restarts_before_it_is_asked(core: CoreRun) -> None:
    """Less than E before another one asks for its vote, which it must then refuse (L7)."""
    for seed in range(5):
        assert (
            core.nemesis._ambushes.restart_before_vote(a_fault(FaultKind.RESTART, seed), random.Random(seed))
            is not None
        )
        core.run_for(3 * SECOND)
    assert core.nemesis.counts["restart"] == 5


def test_old_leader_comes_back_when_the_next_one_leads(core: CoreRun) -> None:
    """With entries that only it has; the next one has cut its log then, or is cut off in turn."""
    for seed in range(4):
        old = leader_of(core)
        assert (
            core.nemesis._ambushes.until_successor(a_fault(FaultKind.PARTITION, seed), random.Random(seed)) is not None
        )
        alone = old.disk.log
        until_it_happens(core)
        assert core.nemesis.counts["partition"] == seed + 1
        assert leader_of(core) is not old
        assert not alone.has(alone.last_index, leader_of(core).disk.log.term(leader_of(core).disk.log.last_index))
        assert all((old.node, node) not in core.network.cut for node in core.machines if node != leader_of(core).node)
        core.run_for(8 * SECOND)


def test_leader_is_lost_in_the_joint_phase(core: CoreRun) -> None:
    """Another member knows of it, and it isn't over."""
    for seed in range(2):
        leader = leader_of(core)
        membership = leader.disk.state.membership
        gone = next(node for node in membership.voters if node != leader.node)
        assert changes.remove(core, gone)
        core.nemesis._ambushes.in_joint_phase(a_fault(FaultKind.REMOVE), random.Random(seed))
        until_it_happens(core)
        assert leader.disk.state.membership == membership
        core.run_for(6 * SECOND)


def test_hand_over_that_nobody_hears(core: CoreRun) -> None:
    """The leader has told its successor to take over, and steps down after a while."""
    leader = leader_of(core)
    term = leader.leads_in
    target = next(machine for machine in core.machines.values() if machine is not leader)
    assert changes.hand_over_to(core, leader, target.node)
    core.nemesis._ambushes.unheard(a_fault(FaultKind.TRANSFER), leader, target, random.Random(1))
    core.run_for(5 * SECOND)
    assert leader.gave_up_in == term
    assert told(core) == [f"{leader.node} to {target.node}, unheard"]
    assert leader.leads_in != term


def test_second_hand_over_that_a_voter_hears_of_first(core: CoreRun) -> None:
    """Within two terms, and within E of the first leader."""
    leader = leader_of(core)
    term = leader.leads_in
    assert term is not None
    target = next(machine for machine in core.machines.values() if machine is not leader)
    assert changes.hand_over_to(core, leader, target.node)
    core.nemesis._ambushes.again(a_fault(FaultKind.TRANSFER), leader, target, random.Random(1))
    until_it_happens(core)
    core.run_for(100 * MILLISECOND)
    assert leader_of(core).leads_in == term + 2


def test_all_wall_clocks_leap_together(core: CoreRun) -> None:
    """Of machines that come later too; monotonic clocks don't, and what is taken back is so everywhere."""
    walls = [machine.wall(core.t) for machine in core.machines.values()]
    shown = [machine.now(core.t) for machine in core.machines.values()]
    core.nemesis._leap(a_fault(FaultKind.WALL_LEAP), Leap(20 * MINUTE, is_taken_back=True))
    assert [machine.wall(core.t) for machine in core.machines.values()] == [wall + 20 * MINUTE for wall in walls]
    assert [machine.now(core.t) for machine in core.machines.values()] == shown
    assert core.add_machine(NodeId("n9")).wall(core.t) == pytest.approx(walls[0] + 20 * MINUTE, abs=3 * SECOND)
    core.run_for(SECOND)
    assert {core.machines[NodeId(node)].wall(core.t) - SECOND for node in ("n1", "n2")} == set(walls[:2])
    assert core.nemesis.counts["wall-leap"] == 1


def test_leap_waits_until_somebody_campaigns(core: CoreRun) -> None:
    """It falls between two leaders' cluster times."""
    leapt_in = []
    term = leader_of(core).leads_in
    fault = a_fault(FaultKind.WALL_LEAP)
    assert term is not None
    assert core.nemesis._ambushes.at_succession(fault, lambda: leapt_in.append(core.t))
    core.run_for(500 * MILLISECOND)
    assert not leapt_in
    core.cut_off(leader_of(core).node)
    core.run_for(2 * SECOND)
    [at] = leapt_in
    assert at < core.t
    assert max(machine.disk.hard_state.term for machine in core.machines.values()) > term


def test_damaged_snapshot_is_refused_and_made_again(core: CoreRun) -> None:
    """The member was down while the others' logs went past it; it serves in the end."""
    refused = next(mark for mark in all_marks() if mark.name == "a snapshot is refused")
    before = refused.count
    assert core.nemesis._bit_rot(a_fault(FaultKind.BIT_ROT), random.Random(3)) is not None
    core.run_while(lambda: core.nemesis.counts["bit-rot"] == 0, ns_max=4 * SECOND)
    core.run_while(lambda: not all(core.may_serve(node) for node in list(core.machines)[:5]), ns_max=5 * SECOND)
    assert refused.count == before + 1


def test_majority_is_drawn_by_newest_disks(core: CoreRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that is out on an old copy gets its own disk back first: it may know of another configuration."""
    machine, draw, seen = leader_of(core), core._draw_majority, []
    old = machine.disk.copy()
    core.run_for(SECOND)
    newest = machine.disk
    core.crash(machine.node)
    core.nemesis.rollbacks._newest[machine.node], machine.disk = newest, old

    def look() -> list[NodeId]:
        seen.append(machine.disk)
        return draw()

    monkeypatch.setattr(core, "_draw_majority", look)
    core._recover_with_majority()
    assert seen == [newest]
