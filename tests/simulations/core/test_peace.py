"""A region that is whole must do what it is told and come to rest: what only fails to happen is found at the end."""

from collections.abc import Callable

import pytest

from keycluster.cluster.acknowledgements import Acknowledgements
from keycluster.cluster.leases.followership import Followership
from keycluster.cluster.leases.holder import LeaseHolder
from keycluster.cluster.leases.leadership import Leadership
from keycluster.cluster.leases.messages import AppliedReport
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.errors import MembershipRefused
from keycluster.cluster.raft.questions import Questions
from keycluster.cluster.raft.reads import ForwardedReads
from keycluster.cluster.replica import Replica
from keycluster.cluster.types import SECOND, LogIndex
from keycluster.simulations.core.peace import PEACE
from keycluster.simulations.core.run import CoreRun
from keycluster.simulations.core.shape import draw_shape
from keycluster.simulations.runs import RunSpec, Simulator
from keycluster.simulations.trace import Trace


def failures_of_a_run() -> list[tuple[str, str]]:
    """Without faults, of three voters."""
    spec = RunSpec(Simulator.CORE, 1, 2 * SECOND, kinds=(), nodes=3, operations_per_s=20.0)
    core = CoreRun(spec, draw_shape(spec, ()), Trace())
    return [(failure.checker, failure.message) for failure in core.run()]


def test_region_as_it_is_comes_to_rest() -> None:
    """Else the others here show nothing."""
    assert failures_of_a_run() == []


def hands_over_to_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RaftCore, "transfer_leadership", lambda core, target, now: None)


def refuses_changes(patch: pytest.MonkeyPatch) -> None:
    def refuse(leadership: Leadership, target: object, now: object, *, context: bytes) -> None:
        raise MembershipRefused("never")

    patch.setattr(Leadership, "propose_membership", refuse)


def prolongs_no_lease(patch: pytest.MonkeyPatch) -> None:
    """What is granted counts only once something else has been applied."""
    take = LeaseHolder.take

    def take_late(holder: LeaseHolder, *args: object, **more: object) -> bool:
        take(holder, *args, **more)  # type: ignore[arg-type]  # As they come.
        return False

    patch.setattr(LeaseHolder, "take", take_late)


def answers_no_read(patch: pytest.MonkeyPatch) -> None:
    def forget(reads: ForwardedReads, number: int, index: object) -> None:
        reads._asked.pop(number, None)

    patch.setattr(ForwardedReads, "answer", forget)


def keeps_cluster_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replica, "cluster_time", lambda replica, now: replica._time)
    patch.setattr(Replica, "_time", None, raising=False)


def lets_nothing_be_compacted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Questions, "retain_above", LogIndex(1))


def takes_no_witness(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Acknowledgements, "take", lambda acknowledgements, sender, witness: None)


def reports_all_the_time(patch: pytest.MonkeyPatch) -> None:
    message = Followership.message

    def message_always(followership: Followership, **about: object) -> object:
        core = followership._core
        due = message(followership, **about)  # type: ignore[arg-type]  # As they come.
        if due is None and core.leader not in (None, core.node):
            return core.leader, AppliedReport(core.term, LogIndex(0), LogIndex(0))
        return due

    patch.setattr(Followership, "message", message_always)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (hands_over_to_nobody, "nobody hands over to n"),
        (refuses_changes, "this isn't done: n"),
        (prolongs_no_lease, "serves no more"),
        (answers_no_read, "have got no answer"),
        (keeps_cluster_time, "cluster time is None"),
        (lets_nothing_be_compacted, "may compact 1"),
        (takes_no_witness, "which acknowledged in term"),
        (reports_all_the_time, "AppliedReport came"),
    ],
)
def test_what_never_happens_or_never_ends_is_found(
    broken: Callable[[pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thing broken in each: no fault excuses it."""
    broken(monkeypatch)
    [(checker, message)] = failures_of_a_run()
    assert checker == PEACE
    assert says in message
