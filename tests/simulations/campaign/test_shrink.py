"""Shrinking: what is left fails by the same checker, and nothing in it can go."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.campaign.shrink import shrink
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, Simulator

Fails = Callable[[RunSpec], list[Failure]]


def schedule(count: int) -> tuple[Fault, ...]:
    return tuple(
        Fault(number, (number + 1) * 10 * MILLISECOND, FaultKind.PAUSE, 64 * MILLISECOND, 0.5, number)
        for number in range(count)
    )


def report_of(spec: RunSpec, fails: Fails) -> SeedReport:
    return SeedReport(spec, drawn=spec, failures=fails(spec))


def trier(fails: Fails, tried: list[RunSpec] | None = None) -> Callable[[Sequence[RunSpec]], list[SeedReport]]:
    def try_all(specs: Sequence[RunSpec]) -> list[SeedReport]:
        if tried is not None:
            tried.extend(specs)
        return [report_of(spec, fails) for spec in specs]

    return try_all


def spec_of(faults: tuple[Fault, ...]) -> RunSpec:
    return RunSpec(Simulator.CORE, 1, 60 * SECOND, nodes=5, clients=40, operations_per_s=320.0, faults=faults)


@given(st.integers(1, 60), st.data(), st.integers(1, 4))
@settings(max_examples=60)
def test_only_the_faults_that_it_takes_are_left(count: int, data: st.DataObject, at_once: int) -> None:
    """However many they are and wherever they stand; several tried at once find the same."""
    needed = data.draw(st.sets(st.integers(0, count - 1), max_size=4))

    def fails(spec: RunSpec) -> list[Failure]:
        there = {fault.number for fault in spec.faults or ()}
        return [Failure("checker", "found")] if needed <= there else []

    spec = spec_of(schedule(count))
    outcome = shrink(report_of(spec, fails), trier(fails), seconds=30, at_once=at_once)
    assert {fault.number for fault in outcome.faults} == needed
    assert outcome.is_minimal
    assert outcome.report.failures


def test_time_clients_rate_and_nodes_shrink_too() -> None:
    """To the least with which it fails: here 2 s, 3 clients, 40 operations a second, 3 nodes."""

    def fails(spec: RunSpec) -> list[Failure]:
        enough = spec.time_ns >= 2 * SECOND and (spec.clients or 0) >= 3 and (spec.operations_per_s or 0) >= 40
        return [Failure("checker", "found")] if enough and (spec.nodes or 0) >= 3 else []

    outcome = shrink(report_of(spec_of(schedule(9)), fails), trier(fails), seconds=30)
    assert 2 * SECOND <= outcome.spec.time_ns < 3 * SECOND
    assert (outcome.spec.clients, outcome.spec.operations_per_s, outcome.spec.nodes) == (3, 40, 3)
    assert outcome.faults == ()


def test_a_run_ends_soon_after_what_it_found() -> None:
    """The time of the finding is the first thing tried, and faults behind it are gone."""
    tried: list[RunSpec] = []

    def fails(spec: RunSpec) -> list[Failure]:
        return [Failure("checker", "found", 95 * MILLISECOND)] if spec.time_ns > 95 * MILLISECOND else []

    outcome = shrink(report_of(spec_of(schedule(30)), fails), trier(fails, tried), seconds=30)
    assert outcome.spec.time_ns == 96 * MILLISECOND
    assert len(tried) < 40


def test_faults_last_no_longer_than_it_takes() -> None:
    """Of 64 ms, 8 are enough."""

    def fails(spec: RunSpec) -> list[Failure]:
        enough = any(fault.number == 3 and fault.for_ns >= 5 * MILLISECOND for fault in spec.faults or ())
        return [Failure("checker", "found")] if enough else []

    outcome = shrink(report_of(spec_of(schedule(6)), fails), trier(fails), seconds=30)
    assert [(fault.number, fault.for_ns) for fault in outcome.faults] == [(3, 8 * MILLISECOND)]


def test_kinds_that_have_no_part_in_it_go_together() -> None:
    """In a chaotic run hardly any half of all faults will do; all faults of a kind often can go."""
    faults = tuple(
        replace(fault, kind=FaultKind.LOSS if fault.number % 3 else FaultKind.PAUSE) for fault in schedule(300)
    )
    tried: list[RunSpec] = []

    def fails(spec: RunSpec) -> list[Failure]:
        pauses = [fault for fault in spec.faults or () if fault.kind is FaultKind.PAUSE]
        return [Failure("checker", "found")] if len(pauses) == 100 and spec.time_ns >= 60 * SECOND else []

    outcome = shrink(report_of(spec_of(faults), fails), trier(fails, tried), seconds=30)
    assert {fault.kind for fault in outcome.faults} == {FaultKind.PAUSE}
    assert [len(spec.faults or ()) for spec in tried].index(100) < 10


def test_another_checkers_finding_is_not_taken() -> None:
    """A smaller run that fails in another way is another bug."""

    def fails(spec: RunSpec) -> list[Failure]:
        return [Failure("first", "found")] if len(spec.faults or ()) >= 5 else [Failure("second", "found")]

    outcome = shrink(report_of(spec_of(schedule(20)), fails), trier(fails), seconds=30)
    assert len(outcome.faults) == 5
    assert [failure.checker for failure in outcome.report.failures] == ["first"]


def test_it_ends_in_time() -> None:
    """With what it has, and says that there may be less."""
    spec = spec_of(schedule(40))
    outcome = shrink(report_of(spec, lambda _: [Failure("checker", "found")]), trier(lambda _: []), seconds=0)
    assert outcome.spec == spec
    assert not outcome.is_minimal


@pytest.mark.parametrize("grown", [{"clients": 40}, {"operations_per_s": 320.0}, {"time_ns": 60 * SECOND}])
def test_a_simulator_that_ignores_a_limit_does_not_keep_it_going(grown: dict[str, int]) -> None:
    """What comes back as large as before is no progress, though it fails."""

    def try_all(specs: Sequence[RunSpec]) -> list[SeedReport]:
        return [
            SeedReport(spec, drawn=replace(spec, **grown), failures=[Failure("checker", "found")])  # type: ignore[arg-type]  # By name.
            for spec in specs
        ]

    spec = spec_of(schedule(3))
    outcome = shrink(SeedReport(spec, drawn=spec, failures=[Failure("checker", "found")]), try_all, seconds=30)
    assert outcome.is_minimal
    assert outcome.tried < 100
