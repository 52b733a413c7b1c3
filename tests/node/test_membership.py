"""How raft's membership follows the member rows, a step at a time, and who is known as a member."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keycluster.cluster.keys.hierarchy import Keyring
from keycluster.cluster.keys.records import MemberRecord, MemberRole, MemberState
from keycluster.cluster.peer_messages import Introduced, Introduction
from keycluster.cluster.raft.membership import first_step
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.store.state import StateStore
from keycluster.cluster.types import ClusterTime, LogIndex, NodeId
from keycluster.node.founding import NO_MEMBERSHIP
from keycluster.node.membership import Directory, next_membership
from keycluster.node.peers import Peer
from keycluster.node.world import real_world
from tests.node.region_on_disk import RegionOnDisk

V, L = MemberRole.VOTER, MemberRole.LEARNER
ACTIVE, JOINING, REMOVING = MemberState.ACTIVE, MemberState.JOINING, MemberState.REMOVING


def row(node: str, *, az: str = "a", wanted: MemberRole = V, state: MemberState = ACTIVE) -> MemberRecord:
    return MemberRecord(
        node=NodeId(node),
        az=az,
        wanted=wanted,
        identity_key=b"",
        wrap_key=b"",
        certificates=(),
        peer_address="",
        native_address="",
        aws_address="",
        state=state,
        role=None,
        admitted=ClusterTime(0),
    )


def members(voters: str, learners: str = "") -> Membership:
    return Membership(
        voters=tuple(map(NodeId, sorted(voters.split()))), learners=tuple(map(NodeId, sorted(learners.split())))
    )


def step(
    membership: Membership, *rows: MemberRecord, caught_up: str = "", silent: str = "", leader: str = ""
) -> Membership | None:
    """Voters have caught up, but for the silent ones; learners only if named in `caught_up`. None of the rows leads."""
    return next_membership(
        membership,
        {r.node: r for r in rows},
        leader=NodeId(leader),
        caught_up=frozenset([*map(NodeId, caught_up.split()), *membership.voters]),
        heard={r.node for r in rows} - set(map(NodeId, silent.split())),
    )


def test_a_joining_node_comes_in_as_a_learner() -> None:
    """Even one that is to vote: it catches up first (dissertation 4.2.1)."""
    assert step(members("n1"), row("n1"), row("n2", state=JOINING), caught_up="n2") == members("n1", "n2")


def test_a_learner_votes_once_it_has_caught_up() -> None:
    """Not before, and only if it was admitted as a voter."""
    rows = (row("n1"), row("n2", az="b"))
    assert step(members("n1", "n2"), *rows) is None
    assert step(members("n1", "n2"), *rows, caught_up="n2") == members("n1 n2")
    assert step(members("n1", "n2"), row("n1"), row("n2", wanted=L), caught_up="n2") is None


def test_a_node_that_is_removed_leaves_first() -> None:
    """Removals go before additions: a node that is trusted no longer goes at once."""
    rows = (row("n1"), row("n2", state=REMOVING), row("n3", state=JOINING))
    assert step(members("n1 n2"), *rows) == members("n1")


def test_the_last_voter_never_leaves() -> None:
    """The region would end."""
    assert step(members("n1"), row("n1", state=REMOVING)) is None


def test_no_az_gets_a_majority_of_three() -> None:
    """With three zones among the voters, a promotion that gives one a majority has to wait."""
    rows = [row("n1", az="a"), row("n2", az="b"), row("n3", az="c"), row("n4", az="a"), row("n5", az="a")]
    assert step(members("n1 n2 n3 n4", "n5"), *rows, caught_up="n5") is None


def test_a_voter_stays_while_the_others_have_no_majority_that_answers() -> None:
    """One that is removed while another is down would stop the region; a newcomer that takes its place sets it free."""
    three = members("n1 n2 n3", "n4")
    rows = [row("n1", az="a", state=REMOVING), row("n2", az="b"), row("n3", az="c"), row("n4", az="a")]
    assert step(three, *rows, silent="n3") is None
    assert step(three, *rows, caught_up="n4", silent="n3") == members("n1 n2 n3 n4")
    assert step(members("n1 n2 n3 n4"), *rows, silent="n3") == members("n2 n3 n4")


def test_a_voter_that_lags_is_not_counted_on() -> None:
    """It answers again, but holds up every commit that needs it until it has caught up."""
    rows = {r.node: r for r in [row("n1", state=REMOVING), row("n2"), row("n3")]}
    everybody = frozenset(rows)
    three, leader = members("n1 n2 n3"), NodeId("n2")
    assert next_membership(three, rows, leader=leader, heard=everybody, caught_up=everybody - {"n3"}) is None
    assert next_membership(three, rows, leader=leader, heard=everybody, caught_up=everybody) == members("n2 n3")


def test_a_voter_waits_for_a_newcomer_that_catches_up() -> None:
    """Two voters can't do without either: for the moment it takes, the third is of more use than of harm."""
    three = members("n1 n2 n3", "n4")
    rows = [row("n1", az="a", state=REMOVING), row("n2", az="b"), row("n3", az="c"), row("n4", az="a")]
    assert step(three, *rows) is None
    assert step(three, *rows, caught_up="n4") == members("n1 n2 n3 n4")
    assert step(three, *rows, silent="n4") == members("n2 n3", "n4")
    assert step(three, row("n1", state=REMOVING), row("n2"), row("n3"), row("n4", wanted=L)) == members("n2 n3", "n4")


def test_a_silent_voter_goes_before_a_newcomer_votes() -> None:
    """It is no help: nothing is lost with it."""
    rows = [row("n1", az="a", state=REMOVING), row("n2", az="b"), row("n3", az="c"), row("n4", az="a")]
    assert step(members("n1 n2 n3", "n4"), *rows, silent="n1") == members("n2 n3", "n4")


def test_some_voters_leave_while_not_all_can() -> None:
    """Those that don't answer first, then as many as can be spared."""
    leaving = [row(name, state=REMOVING) for name in ("n1", "n2", "n3")]
    rows = [*leaving, row("n4"), row("n5"), row("n6")]
    six = members("n1 n2 n3 n4 n5 n6")
    assert step(six, *rows) == members("n4 n5 n6")
    assert step(six, *rows, silent="n6") == members("n4 n5 n6")
    assert step(members("n1 n2 n3 n4 n6"), *leaving, row("n4"), row("n6"), silent="n6") == members("n3 n4 n6")
    assert step(members("n1 n2 n3 n4 n6"), *leaving, row("n4"), row("n6"), silent="n1 n6") == members("n3 n4 n6")


def test_a_leader_that_is_removed_lets_others_vote_and_go() -> None:
    """It stays until it has handed over; and the others too, while nobody is there who stays."""
    rows = [row("n1", state=REMOVING), row("n2", state=REMOVING), row("n3", state=JOINING)]
    assert step(members("n1 n2"), *rows, leader="n1") == members("n1 n2", "n3")
    assert step(members("n1 n2", "n3"), *rows, leader="n1") is None
    assert step(members("n1 n2", "n3"), *rows, leader="n1", caught_up="n3") == members("n1 n2 n3")
    assert step(members("n1 n3"), *rows[::2], leader="n1") is None
    assert step(members("n1 n3"), *rows[::2], leader="n3") == members("n3")


def test_nobody_votes_while_too_few_answer() -> None:
    """Of four voters three must answer: one more that is silent, and nothing is written any more."""
    rows = [row("n1", az="a"), row("n2", az="b"), row("n3", az="c"), row("n4", az="d")]
    assert step(members("n1 n2 n3", "n4"), *rows, caught_up="n4", silent="n3 n4") is None


@given(st.data())
def test_steps_end_where_the_rows_point(data: st.DataObject) -> None:
    """Whatever the rows ask for and whoever is silent for good, if voters then and now have majorities that answer: all
    steps are such as Raft takes and go on from, and the last is to what was asked for, but for the silent newcomers."""
    names = [NodeId(f"n{number}") for number in range(1, 8)]
    rows = {
        name: row(
            name,
            az=data.draw(st.sampled_from(["a", "b"])),  # No two AZs keep anybody from voting.
            wanted=data.draw(st.sampled_from([V, V, L])),
            state=data.draw(st.sampled_from([ACTIVE, JOINING, REMOVING])),
        )
        for name in names
    }
    voters = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    learners = [name for name in names if name not in voters and data.draw(st.booleans())]
    for voter in voters:
        rows[voter] = msgspec.structs.replace(rows[voter], wanted=V)
    staying = {name for name in names if rows[name].state is not REMOVING}
    goal = members(*(" ".join(name for name in sorted(staying) if rows[name].wanted is kind) for kind in (V, L)))
    membership = members(" ".join(voters), " ".join(learners))
    silent = data.draw(st.frozensets(st.sampled_from(names)))
    ready = frozenset(names) - silent
    assume(goal.voters and membership.has_quorum(ready) and goal.has_quorum(ready))
    for _ in range(30):
        able = [node for node in membership.voters if node in ready]
        leader = min(able, key=lambda node: node not in staying)  # It hands over to whoever stays.
        following = next_membership(membership, rows, leader=leader, caught_up=ready, heard=ready)
        if following is None:
            break
        first_step(membership, following)
        assert following.has_quorum(ready)
        assert leader in following.voters
        membership = following
    else:
        pytest.fail("the steps don't end")
    assert set(membership.voters) <= set(goal.voters)
    assert set(membership.members) == set(goal.members)
    assert set(goal.voters) & ready <= set(membership.voters)


INTRODUCED = Peer(NodeId("n2"), b"key 2", "h2:1")


def names(directory: Directory) -> str:
    return " ".join(f"{name}@{peer.address}" for name, peer in sorted(directory.peers().items()))


def told(applied: LogIndex, *members: str) -> Introduction:
    """`name@address`, by a member whose state is that new."""
    parts = [member.split("@") for member in members]
    return Introduction(
        applied, tuple(Introduced(NodeId(name), f"key of {name}".encode(), address) for name, address in parts)
    )


@pytest.fixture
def region(tmp_path: Path) -> Iterator[RegionOnDisk]:
    region = RegionOnDisk(tmp_path)
    region.change_member("n1", peer_address="h1:1")
    yield region
    region.close()


def directory_of(region: RegionOnDisk) -> Directory:
    """Node n3's, which has applied that n1 is a member."""
    return Directory(node=NodeId("n3"), view=region.view, introduced=[INTRODUCED])


def test_member_that_lags_hears_those_that_it_does_not_know(region: RegionOnDisk) -> None:
    """Who leads by now may have come while it was away, or have moved: what the newest state says holds."""
    directory, applied = directory_of(region), region.view.applied_index
    assert names(directory) == "n1@h1:1"
    directory.be_told(told(LogIndex(applied + 9), "n1@h1:2", "n3@h3:1", "n4@h4:1"))
    assert names(directory) == "n1@h1:2 n4@h4:1"
    directory.be_told(told(LogIndex(applied + 8), "n5@h5:1"))
    assert names(directory) == "n1@h1:2 n4@h4:1"


def test_member_that_does_not_lag_goes_by_its_own_state(region: RegionOnDisk) -> None:
    """Those that lag tell it nothing; and once it has caught up, what it was told is over."""
    directory, applied = directory_of(region), region.view.applied_index
    directory.be_told(told(applied, "n4@h4:1"))
    assert names(directory) == "n1@h1:1"
    directory.be_told(told(LogIndex(applied + 1), "n4@h4:1"))
    assert names(directory) == "n4@h4:1"
    region.change_member("n1", peer_address="h1:9")
    directory.forget()
    assert names(directory) == "n1@h1:9"


def test_node_without_a_state_hears_those_that_it_is_told_of(tmp_path: Path) -> None:
    """After those that its admission named: whoever of them led may lead no more."""
    keys = Keyring("us-east-1", {1: bytes(32)}, 1).state_keys(1)
    state = StateStore.create(real_world().disk, tmp_path / "state", keys, membership=NO_MEMBERSHIP)
    directory = Directory(node=NodeId("n1"), view=state.view, introduced=[INTRODUCED])
    assert names(directory) == "n2@h2:1"
    directory.be_told(told(LogIndex(3), "n2@h2:2", "n3@h3:1"))
    assert names(directory) == "n2@h2:2 n3@h3:1"
    state.close()


def test_members_that_were_removed_are_not_introduced(region: RegionOnDisk) -> None:
    """All others are, by the state that says so."""
    directory = directory_of(region)
    assert [member.node for member in directory.introduction().members] == ["n1"]
    region.change_member("n1", state=MemberState.REMOVED)
    assert directory.introduction().members == ()
    assert directory.introduction().applied == region.view.applied_index
