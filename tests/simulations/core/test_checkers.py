"""Each checker of the core simulator fails when it must: fed a bad state, or with the code broken under it."""

from collections.abc import Callable
from functools import partial

import pytest

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.raft.election import Election
from keycluster.cluster.raft.messages import COMMAND, Entry, EntryKind, Membership, SnapshotMeta
from keycluster.cluster.replica import Replica, StateDiverged
from keycluster.cluster.types import SECOND, ClusterTime, LogIndex, NodeId, Term
from keycluster.cluster.witness import OwnRecord, RolledBack
from keycluster.simulations.checkers.history import ok
from keycluster.simulations.core import contract, door, run, safety
from keycluster.simulations.core.clients import LINEARIZABILITY
from keycluster.simulations.core.door import Acknowledged, Door, Request
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.member import DurableLog
from keycluster.simulations.core.rollback import WITNESS
from keycluster.simulations.core.run import CoreRun
from keycluster.simulations.core.safety import RaftSafety
from keycluster.simulations.core.shape import draw_shape
from keycluster.simulations.core.world import World
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.runs import RunSpec, Simulator
from keycluster.simulations.trace import Trace

N1, N2 = NodeId("n1"), NodeId("n2")


def entry(index: int, term: int, payload: bytes = b"") -> Entry:
    return Entry(Term(term), LogIndex(index), COMMAND, payload)


def begins(index: int, term: int, payload: bytes = b"") -> Entry:
    """A leadership's own first entry."""
    return Entry(Term(term), LogIndex(index), EntryKind.LEADER, payload)


def log_of(*entries: Entry) -> DurableLog:
    return DurableLog(LogIndex(0), Term(0), list(entries))


def finds(checker: str, act: Callable[[], object]) -> None:
    with pytest.raises(Found) as found:
        act()
    assert found.value.checker == checker


# Raft's five


def test_two_leaders_of_a_term_are_found() -> None:
    """Election Safety."""
    raft = RaftSafety()
    raft.led(N1, Term(1), log_of())
    raft.led(N1, Term(1), log_of())
    finds(safety.ELECTION_SAFETY, lambda: raft.led(N2, Term(1), log_of()))


def test_leader_that_takes_back_is_found() -> None:
    """Leader Append-Only."""
    finds(safety.APPEND_ONLY, lambda: RaftSafety().leader_takes_back(N1, LogIndex(3)))


@pytest.mark.parametrize(
    ("before", "other"),
    [(Term(1), begins(2, 2, b"another")), (Term(2), begins(2, 2, b"same"))],
    ids=["entry", "before"],
)
def test_logs_that_differ_are_found(before: Term, other: Entry) -> None:
    """Log Matching: another entry under one index and term, or the same one behind others."""
    raft = RaftSafety()
    raft.written(N1, Term(0), [begins(1, 1), begins(2, 2, b"same")])
    raft.written(N2, Term(1), [begins(2, 2, b"same")])
    finds(safety.LOG_MATCHING, lambda: raft.written(N2, before, [other]))


def test_leader_without_a_committed_entry_is_found() -> None:
    """Leader Completeness, when the leader is elected."""
    raft = RaftSafety()
    raft.handed_out(N1, Term(2), [entry(1, 1), entry(2, 2)], [])
    raft.led(N2, Term(3), log_of(entry(1, 1), entry(2, 2)))
    raft.led(N2, Term(2), log_of(entry(1, 1)))  # Votes that came late: the entry wasn't committed before its term.
    finds(safety.LEADER_COMPLETENESS, lambda: raft.led(N2, Term(4), log_of(entry(1, 1))))


def test_leader_that_lacks_what_shows_to_be_committed_is_found() -> None:
    """Leader Completeness, when an entry is committed in an earlier term than one that leads by now."""
    raft = RaftSafety()
    leading = [(N2, Term(3), log_of())]
    finds(safety.LEADER_COMPLETENESS, lambda: raft.handed_out(N1, Term(2), [entry(1, 2)], leading))
    raft = RaftSafety()
    raft.handed_out(N1, Term(3), [entry(1, 3)], leading)


def test_another_entry_applied_is_found() -> None:
    """State Machine Safety."""
    raft = RaftSafety()
    raft.handed_out(N1, Term(1), [entry(1, 1, b"one")], [])
    raft.handed_out(N2, Term(1), [entry(1, 1, b"one")], [])
    finds(safety.STATE_MACHINE_SAFETY, lambda: raft.handed_out(N2, Term(1), [entry(1, 1, b"other")], []))
    finds(safety.STATE_MACHINE_SAFETY, lambda: raft.handed_out(N2, Term(1), [entry(3, 1)], []))


def test_snapshot_of_another_history_is_found() -> None:
    """State Machine Safety, by snapshot."""
    raft = RaftSafety()
    raft.handed_out(N1, Term(1), [entry(1, 1)], [])
    membership = Membership(voters=(N1,))
    raft.installed(N2, SnapshotMeta(LogIndex(1), Term(1), membership, None))
    for index, term in ((1, 2), (2, 1)):
        meta = SnapshotMeta(LogIndex(index), Term(term), membership, None)
        finds(safety.STATE_MACHINE_SAFETY, partial(raft.installed, N2, meta))


# Contract 2


@pytest.fixture
def world() -> World:
    """Three members that serve; something is settled."""
    world = World(1)
    world.start_all()
    world.run_while(lambda: not all(world.may_serve(node) for node in world.machines), ns_max=5 * SECOND)
    world.run_while(lambda: world.settled == 0, ns_max=SECOND)
    return world


def test_member_that_serves_without_what_is_settled_is_found(world: World) -> None:
    """At its next step, and at once when the settled index rises."""
    world.contract.settled = LogIndex(world.settled + 1)
    finds(contract.CURRENCY, lambda: world.run_for(SECOND))


def test_settled_index_that_rises_too_far_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the member that says so, whoever lacks it."""
    monkeypatch.setattr(Replica, "settled_index", property(lambda replica: LogIndex(replica.applied_index + 1)))
    finds(contract.CURRENCY, lambda: world.run_for(SECOND))


def test_settled_index_that_falls_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a life."""
    monkeypatch.setattr(Replica, "settled_index", property(lambda replica: LogIndex(0)))
    finds(contract.SETTLED_FALLS, lambda: world.run_for(SECOND))


def test_two_leaders_that_serve_are_found(world: World) -> None:
    """Whatever their terms are."""
    leader = world.leader()
    assert leader is not None
    other = next(machine for machine in world.machines.values() if machine is not leader)
    world.contract.leading[other.node] = other
    finds(contract.ONE_LEADER, lambda: world.run_for(SECOND))


def test_cluster_time_that_falls_is_found(world: World) -> None:
    """As a replica shows it, and as it stamps commands."""
    machine = world.machines[N1]
    checks = contract.Contract(world.machines)
    checks.shows_time(machine, ClusterTime(machine.time + 5))
    checks.shows_time(machine, None)
    finds(contract.TIME_FALLS, lambda: checks.shows_time(machine, ClusterTime(machine.time - 1)))
    checks.stamps(machine, ClusterTime(machine.stamped + 5), 0, ns_max=0)
    finds(contract.TIME_FALLS, lambda: checks.stamps(machine, ClusterTime(machine.stamped - 1), 0, ns_max=0))


def test_running_time_ahead_of_all_clocks_is_found(world: World) -> None:
    """Whatever wall clocks say: it can't have gone on for longer than there was."""
    machine = world.machines[N1]
    checks = contract.Contract(world.machines)
    checks.stamps(machine, machine.stamped, SECOND, ns_max=SECOND)
    finds(contract.RUNNING_TIME, lambda: checks.stamps(machine, machine.stamped, 2 * SECOND, ns_max=SECOND))


def test_states_that_differ_are_found(world: World) -> None:
    """At equal index."""
    checks = contract.Contract(world.machines)
    checks.reached(N1, LogIndex(7), b"a")
    checks.reached(N2, LogIndex(7), b"a")
    finds(contract.DIVERGED, lambda: checks.reached(N2, LogIndex(7), b"b"))


# At a door


@pytest.fixture
def a_door(world: World) -> Door:
    leader = world.leader()
    assert leader is not None
    return Door(leader, world.safety, Acknowledged())


def take(world: World, a_door: Door, request: Request) -> None:
    leader = world.leader()
    assert leader is not None
    a_door.take(request, leader.now(world.t), leader.wall(world.t))


def test_call_served_without_what_was_acknowledged_is_found(world: World) -> None:
    """Contract 2, by what has returned."""
    leader = world.leader()
    assert leader is not None
    behind = Door(leader, world.safety, Acknowledged(LogIndex(leader.disk.state.index + 1)))
    finds(door.STALE_USE, lambda: take(world, behind, Request(1, 0, 0, door.USE, 0)))


def test_read_index_that_is_too_low_is_found(world: World, a_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed before the question counts."""
    monkeypatch.setattr(world, "_read_answers", lambda machine, now, answers: a_door.confirmed(answers))
    leader = world.leader()
    assert leader is not None
    world.safety.committed.append(entry(len(world.safety.committed) + 1, 1))
    world.feed(leader, lambda member, now: take(world, a_door, Request(1, 0, 0, door.CONFIRM, 0)))
    finds(door.READ_INDEX, lambda: world.run_for(SECOND))


def test_acknowledgement_of_what_is_not_committed_is_found(world: World, a_door: Door) -> None:
    """What was acknowledged must stand in the log for ever."""
    leader = world.leader()
    assert leader is not None
    world.feed(leader, lambda member, now: take(world, a_door, Request(1, 0, 0, door.WRITE, 0, b"change", 1)))
    index, waiting = next(iter(a_door.in_log.items()))
    world.run_for(SECOND)
    waiting.outcome = True
    world.safety.committed[index - 1] = entry(index, 1, b"another")
    finds(door.ACKNOWLEDGED, lambda: a_door.stepped(leader.now(world.t)))


# Whole runs


def a_run(seed: int = 1, *kinds: FaultKind) -> CoreRun:
    spec = RunSpec(Simulator.CORE, seed, 4 * SECOND, kinds=kinds, operations_per_s=20.0)
    return CoreRun(spec, draw_shape(spec, kinds), Trace())


def checkers_of(core: CoreRun) -> set[str]:
    return {failure.checker for failure in core.run()}


def test_region_that_never_recovers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Liveness: nobody campaigns once the faults are over."""
    core = a_run()

    def nobody_campaigns() -> None:
        monkeypatch.setattr(Election, "_may_campaign", lambda election: False)
        for node in core.machines:
            core.crash(node)

    core.at(3 * SECOND, nobody_campaigns)
    assert checkers_of(core) == {run.LIVENESS}


def test_change_that_never_returns_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Liveness: all serve, and no change is acknowledged."""
    core = a_run()
    core.at(3 * SECOND, lambda: monkeypatch.setattr(Replica, "acknowledges", lambda replica, index, now: False))
    assert checkers_of(core) == {run.LIVENESS}


def test_rolled_back_disk_that_nobody_notices_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node on an old copy of its disk must stay out."""
    monkeypatch.setattr(OwnRecord, "check", lambda record, told, holds: None)
    found = set[str]()
    for seed in range(8):
        found |= checkers_of(a_run(seed, FaultKind.ROLLED_BACK))
    assert WITNESS in found


def test_history_that_no_order_explains_is_found() -> None:
    """Linearizability: one read saw what nobody wrote."""
    core = a_run()
    assert core.run() == []
    read = next(call for call in core.callers.history.calls if call.operation == "Read" and call.is_ok)
    read.outcome = ok({"Value": 10**9})
    assert {failure.checker for failure in core.callers.check([])} == {LINEARIZABILITY}


def test_acknowledged_change_that_is_gone_is_found() -> None:
    """At the end, whoever serves has it."""
    core = a_run()
    assert core.run() == []
    core.acknowledged.index = LogIndex(core.acknowledged.index + 10**6)
    finds(run.LOST, core.require_nothing_lost)


@pytest.mark.parametrize(
    ("error", "checker"),
    [
        (InvariantBroken("x"), run.INVARIANT),
        (StateDiverged("x"), contract.DIVERGED),
        (RolledBack("x"), WITNESS),
        (Found("some", "x"), "some"),
        (ZeroDivisionError("x"), run.EXCEPTION),
    ],
)
def test_whatever_ends_a_run_is_a_finding(error: Exception, checker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run never raises."""

    def fail(machine: Machine, *rest: object) -> None:
        raise error

    core = a_run()
    core.at(SECOND, partial(fail, core.machines[N1]))
    [failure] = core.run()
    assert (failure.checker, failure.at_ns) == (checker, SECOND)
