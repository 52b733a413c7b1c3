"""Whom a leader hands over to."""

from types import SimpleNamespace
from typing import cast

from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.replica import Replica
from keycluster.cluster.types import Instant, NodeId
from keycluster.node.operations.admin import best_successor

NOW = Instant(10**12)
E = RaftConfig().election_ns


def leader_with(progress: dict[str, tuple[int, int | None]], *, learners: str = "") -> Replica:
    """n1 leads; of each other member how far it is and when it was heard of."""
    voters = tuple(sorted(NodeId(node) for node in {"n1", *progress} - set(learners.split())))
    core = SimpleNamespace(
        leader=NodeId("n1"),
        config=RaftConfig(),
        membership=Membership(voters=voters, learners=tuple(map(NodeId, learners.split()))),
        progress={
            NodeId(node): SimpleNamespace(match=match, heard_at=heard_at)
            for node, (match, heard_at) in progress.items()
        },
    )
    return cast(Replica, SimpleNamespace(core=core))


def test_the_longest_log_succeeds() -> None:
    """It need not be sent anything before it can be told to take over."""
    assert best_successor(leader_with({"n2": (8, NOW), "n3": (7, NOW)}), NOW) == "n2"


def test_a_dead_voter_is_not_chosen() -> None:
    """An idle region's dead voter has as long a log as the others; told to campaign it can't, and nobody leads."""
    assert best_successor(leader_with({"n2": (7, NOW), "n3": (7, NOW - E - 1)}), NOW) == "n2"
    assert best_successor(leader_with({"n2": (7, None), "n3": (7, NOW - E - 1)}), NOW) is None


def test_a_learner_is_not_chosen() -> None:
    """It can't lead."""
    assert best_successor(leader_with({"n2": (9, NOW), "n3": (8, NOW)}, learners="n2"), NOW) == "n3"


def test_a_lone_voter_has_no_successor() -> None:
    """A region of one node."""
    assert best_successor(leader_with({}), NOW) is None
