"""Rules that chance hardly ever turns into harm, each broken: of members, windows, caps, hand-overs and snapshots."""

import msgspec
import pytest

from keycluster.cluster.raft import core as raft_core
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.handover import HandOver
from keycluster.cluster.raft.member import Member as RaftMember
from keycluster.cluster.raft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    Membership,
    SnapshotMeta,
    TimeoutNow,
    VoteRequest,
    encode_membership_entry,
)
from keycluster.cluster.raft.progress import Progress
from keycluster.cluster.raft.ready import IncomingChunk
from keycluster.cluster.types import SECOND, Instant, LogIndex, NodeId, Term
from keycluster.simulations.core import door, lease_checks, membership_checks, promises, safety, storage, votes
from keycluster.simulations.core.door import Acknowledged, Door, Request
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.machine import Machine
from keycluster.simulations.core.member import Member
from keycluster.simulations.core.membership_checks import MembershipChecks
from keycluster.simulations.core.safety import RaftSafety
from keycluster.simulations.core.world import World

N1, N2, N3, N4 = (NodeId(f"n{number}") for number in range(1, 5))
THREE = Membership(voters=(N1, N2, N3))


@pytest.fixture
def world() -> World:
    """Three members that serve."""
    world = World(1)
    world.start_all()
    world.run_while(lambda: not all(world.may_serve(node) for node in world.machines), ns_max=5 * SECOND)
    return world


def leader_of(world: World) -> tuple[Machine, Member]:
    leader = world.leader()
    assert leader is not None
    assert leader.member is not None
    return leader, leader.member


def follower_of(world: World) -> tuple[Machine, Member]:
    leader, _ = leader_of(world)
    follower = next(machine for machine in world.machines.values() if machine is not leader)
    assert follower.member is not None
    return follower, follower.member


def membership_entry(index: int, membership: Membership) -> Entry:
    return Entry(Term(1), LogIndex(index), EntryKind.MEMBERSHIP, encode_membership_entry(membership, b""))


# Members


@pytest.mark.parametrize(
    ("steps", "finds"),
    [
        ([Membership(voters=(N1, N2, N4))], True),
        ([Membership(voters=(N1, N2, N4), outgoing=(N1, N2, N3))], False),
        ([Membership(voters=(N1, N2, N4), outgoing=(N1, N2))], True),
        ([Membership(voters=(N1, N2, N4), outgoing=(N1, N2, N3)), Membership(voters=(N1, N2))], True),
        ([Membership(voters=(N1, N2, N3), learners=(N4,))], False),
    ],
)
def test_change_of_voters_without_a_joint_phase_is_found(steps: list[Membership], finds: bool, world: World) -> None:
    """It begins with the old voters, ends with the new ones, and nothing else changes who they are."""
    checks = MembershipChecks(THREE, world.machines)
    entries = [membership_entry(index, step) for index, step in enumerate(steps, 1)]
    if not finds:
        checks.committed(entries, world.t)
        return
    with pytest.raises(Found) as found:
        checks.committed(entries, world.t)
    assert found.value.checker == membership_checks.MEMBERSHIP


def test_member_taken_out_with_its_lease_is_found(world: World) -> None:
    """L9; without a lease it may go."""
    machine, _ = follower_of(world)
    checks = MembershipChecks(Membership(voters=THREE.voters), world.machines)
    rest = tuple(node for node in THREE.voters if node != machine.node)
    steps = [Membership(voters=rest, outgoing=THREE.voters), Membership(voters=rest)]
    entries = [membership_entry(index, step) for index, step in enumerate(steps, 1)]
    with pytest.raises(Found) as found:
        checks.committed(entries, world.t)
    assert found.value.checker == lease_checks.COUNTED
    world.crash(machine.node)
    MembershipChecks(Membership(voters=THREE.voters), world.machines).committed(entries, world.t)


def test_older_membership_taken_for_committed_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest one counts as soon as its entry is committed."""
    monkeypatch.setattr(RaftCore, "committed_membership", THREE)
    with pytest.raises(Found) as found:
        world.run_for(SECOND)
    assert found.value.checker == membership_checks.MEMBERSHIP


def test_candidate_that_is_no_voter_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it asks for votes."""
    machine, member = follower_of(world)
    request = VoteRequest(member.core.term, LogIndex(1), Term(1), pre=True, hand_over=False)
    promises.require_kept(machine, [(N1, request)])
    monkeypatch.setattr(Membership, "is_voter", lambda membership, node: False)
    with pytest.raises(Found) as found:
        promises.require_kept(machine, [(N1, request)])
    assert found.value.checker == membership_checks.MEMBERSHIP


def test_acknowledgement_of_what_is_not_on_disk_is_found(world: World) -> None:
    """Of this term: what was said in an earlier one may be late news of an entry that has been replaced since."""
    machine, member = follower_of(world)
    reply = AppendReply(member.core.term, 1, member.core.last_index)
    promises.require_kept(machine, [(N1, reply)])
    machine.disk.log.held.pop()
    with pytest.raises(Found) as found:
        promises.require_kept(machine, [(N1, reply)])
    assert found.value.checker == promises.PROMISES
    promises.require_kept(machine, [(N1, msgspec.structs.replace(reply, term=Term(reply.term - 1)))])


# Leaders


def test_leader_that_helps_another_one_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it has its quorum lease."""
    machine, member = leader_of(world)
    request = VoteRequest(
        Term(member.core.term + 1), member.core.last_index, member.core.last_term, pre=True, hand_over=False
    )
    world.run_for(world.raft.election_ns)
    monkeypatch.setattr(RaftCore, "_leads_surely", lambda core: False)
    now, before = machine.now(world.t), votes.stand_of(machine)
    machine.heard_at = Instant(now - SECOND)
    monkeypatch.setattr(RaftMember, "is_sticky", False)
    member.core.receive(N4, request, now)
    with pytest.raises(Found) as found:
        votes.took(machine, N4, request, before, now)
    assert found.value.checker == votes.STICKINESS
    assert "helps n4" in str(found.value)


def test_leader_that_begins_without_its_entry_is_found() -> None:
    """A term's first entry names its leader."""
    first = Entry(Term(2), LogIndex(2), EntryKind.COMMAND, b"")
    with pytest.raises(Found) as found:
        RaftSafety().written(N1, Term(1), [first])
    assert found.value.checker == safety.LEADER_ENTRY
    RaftSafety().written(N1, Term(2), [first])


@pytest.mark.parametrize("to", [N2, N4])
def test_hand_over_to_one_who_cannot_lead_is_found(to: NodeId, world: World) -> None:
    """It lacks an entry, or is no voter."""
    machine, member = leader_of(world)
    for view in member.core._replication.progress.values():
        view.match = LogIndex(0)
    with pytest.raises(Found) as found:
        promises.require_kept(machine, [(to, TimeoutNow(member.core.term))])
    assert found.value.checker == door.HAND_OVER


def a_change(world: World, commands: int = 1) -> None:
    machine, _ = leader_of(world)
    a_door = Door(machine, world.safety, Acknowledged())
    for number in range(commands):
        request = Request(1, number, 0, door.WRITE, 0, b"change", number)
        world.feed(machine, lambda member, now: a_door.take(request, now, machine.wall(world.t)))  # noqa: B023


def test_change_taken_during_a_hand_over_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target would never have all of the log."""
    monkeypatch.setattr(RaftCore, "is_handing_over", False)
    monkeypatch.setattr(HandOver, "step", lambda hand_over: None)
    machine, member = leader_of(world)
    member.core.transfer_leadership(follower_of(world)[0].node, machine.now(world.t))
    with pytest.raises(Found) as found:
        a_change(world)
    assert found.value.checker == door.HAND_OVER


def test_change_above_the_cap_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One alone may be larger than it, and nothing beside it."""
    monkeypatch.setattr(raft_core, "ENTRY_BYTES_OVERHEAD", -1_000)
    monkeypatch.setattr(RaftConfig, "uncommitted_bytes_max", 60)
    a_change(world)
    with pytest.raises(Found) as found:
        a_change(world, commands=2)
    assert found.value.checker == door.CAP


# Windows, applying, snapshots


def test_entry_that_waits_although_there_is_room_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go along with the next one."""
    machine, member = leader_of(world)
    heartbeat = AppendEntries(member.core.term, 1, LogIndex(1), Term(1), LogIndex(1))
    other = follower_of(world)[0].node
    promises.require_kept(machine, [(other, heartbeat)])
    member.core._replication.progress[other].next = member.core.last_index
    with pytest.raises(Found) as found:
        promises.require_kept(machine, [(other, heartbeat)])
    assert found.value.checker == promises.WINDOW
    monkeypatch.setattr(Progress, "may_send", lambda progress, config: False)
    promises.require_kept(machine, [(other, heartbeat)])


def test_more_to_apply_than_is_allowed_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a member whose apply hangs."""
    machine, _ = follower_of(world)
    monkeypatch.setattr(RaftConfig, "apply_bytes_max", 100)
    monkeypatch.setattr(raft_core, "entry_bytes", lambda entry: 0)
    world.set_apply_hangs(machine.node, True)
    a_change(world, commands=5)
    with pytest.raises(Found) as found:
        world.run_for(SECOND)
    assert found.value.checker == storage.APPLYING


def test_half_a_snapshot_is_no_whole(world: World) -> None:
    """Nor are halves of two, nor one with a gap."""
    machine, member = follower_of(world)
    now = machine.now(world.t)
    one = SnapshotMeta(LogIndex(9), Term(1), THREE, N1)
    two = SnapshotMeta(LogIndex(10), Term(1), THREE, N1)

    def whole_after(*chunks: tuple[SnapshotMeta, int, int]) -> bool:
        for meta, offset, count in chunks:
            chunk = IncomingChunk(meta, 10, offset, bytes(count), done=offset + count == 10)
            member.store_chunk(chunk, now, lambda meta: None)
        return member.is_incoming_whole

    assert whole_after((one, 0, 5), (one, 5, 5))
    assert not whole_after((one, 0, 5))
    assert not whole_after((one, 0, 5), (two, 5, 5))
    assert not whole_after((one, 0, 3), (one, 5, 5))


def test_read_without_an_answer_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the next one comes to the same door, long after the other should have failed."""
    machine, _ = leader_of(world)
    a_door = Door(machine, world.safety, Acknowledged())
    monkeypatch.setattr(RaftCore, "read_index", lambda core, request, now: None)

    def ask() -> None:
        a_door.take(Request(1, 0, 0, door.CONFIRM, 0), machine.now(world.t), machine.wall(world.t))

    ask()
    ask()
    world.run_for(3 * SECOND)
    with pytest.raises(Found) as found:
        ask()
    assert found.value.checker == door.READ_INDEX
