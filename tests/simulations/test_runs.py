"""What a run is asked for and what came of it, as JSON between processes and machines."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, Simulator, SpecMalformed

FAULTS = st.builds(
    Fault,
    number=st.integers(0, 99),
    at_ns=st.integers(0, SECOND),
    kind=st.sampled_from(FaultKind),
    for_ns=st.integers(0, SECOND),
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**48 - 1),
)
SPECS = st.builds(
    RunSpec,
    simulator=st.sampled_from(Simulator),
    seed=st.integers(0, 2**48),
    time_ns=st.integers(MILLISECOND, 60 * SECOND),
    kinds=st.none() | st.lists(st.sampled_from(FaultKind), max_size=3).map(tuple),
    nodes=st.none() | st.integers(1, 9),
    clients=st.none() | st.integers(1, 99),
    operations_per_s=st.none() | st.floats(0.1, 1e3),
    faults=st.none() | st.lists(FAULTS, max_size=3).map(tuple),
)
COUNTS = st.dictionaries(st.text(max_size=5), st.integers(1, 99), max_size=3).map(Counter)
FAILURES = st.builds(
    Failure, checker=st.text(max_size=9), message=st.text(max_size=9), at_ns=st.none() | st.integers(0, SECOND)
)


@given(SPECS)
def test_a_spec_crosses_as_one_line(spec: RunSpec) -> None:
    """Nothing is lost, and a line's end is its end."""
    assert "\n" not in spec.to_json()
    assert RunSpec.from_json(spec.to_json()) == spec


@given(SPECS, COUNTS, st.lists(FAILURES, max_size=3))
def test_a_report_crosses_as_json(spec: RunSpec, counts: Counter[str], failures: list[Failure]) -> None:
    """To the millisecond that its line shows."""
    report = SeedReport(spec, "ab", 61_234 * MILLISECOND, 0.125, 7, counts, None, counts, counts, failures)
    assert SeedReport.from_json(json.loads(json.dumps(report.to_json())), spec) == report


@given(SPECS, st.data())
def test_a_spec_with_something_wrong_is_refused(spec: RunSpec, data: st.DataObject) -> None:
    """By one kind of error, whatever it is that is wrong."""
    value = json.loads(spec.to_json())
    name = data.draw(st.sampled_from(sorted(value)))
    damage = data.draw(st.sampled_from(["missing", "text", "extra"]))
    if damage == "missing":
        del value[name]
    elif damage == "extra":
        value[f"{name}s"] = 1
    else:
        value[name] = "x"
    with pytest.raises(SpecMalformed):
        RunSpec.from_json(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "value", "bounds"),
    [
        ("seed", -1, "0 or more"),
        ("time_ns", 0, "1,000,000 to"),
        ("time_ns", -5, "1,000,000 to"),
        ("nodes", 0, "1 to 9"),
        ("nodes", -3, "1 to 9"),
        ("nodes", 1_000, "1 to 9"),
        ("clients", 0, "1 to 100"),
        ("operations_per_s", 0, "0.001 to"),
        ("operations_per_s", float("nan"), "0.001 to"),
        ("operations_per_s", float("inf"), "0.001 to"),
    ],
)
def test_a_spec_out_of_range_is_refused(name: str, value: float, bounds: str) -> None:
    """With its bounds; a simulator would end by any exception, which isn't a finding."""
    text = json.dumps(json.loads(RunSpec(Simulator.CORE, 1, SECOND).to_json()) | {name: value})
    with pytest.raises(SpecMalformed, match=f"{name} is .*, not {bounds}"):
        RunSpec.from_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("number", -1), ("at_ns", -1), ("for_ns", -1), ("strength", 1.1), ("strength", -0.1), ("seed", -1)],
)
def test_a_fault_out_of_range_is_refused(name: str, value: float) -> None:
    """By its place, as JSON paths have it."""
    fault = Fault(0, 0, FaultKind.CRASH, 0, 0.5, 1)
    value_of_spec = json.loads(RunSpec(Simulator.CORE, 1, SECOND, faults=(fault, fault)).to_json())
    value_of_spec["faults"][1][name] = value
    with pytest.raises(SpecMalformed, match=rf"faults\[1\].{name} is"):
        RunSpec.from_json(json.dumps(value_of_spec))


def test_a_fault_that_a_simulator_cannot_do_is_refused() -> None:
    """Asked for by kind, or in a schedule."""
    spec = RunSpec(Simulator.CORE, 1, SECOND, kinds=(FaultKind.CRASH,))
    spec.require_supported([FaultKind.CRASH])
    with pytest.raises(SpecMalformed, match="core has no faults of kind crash"):
        spec.require_supported([FaultKind.LAG])
    with pytest.raises(SpecMalformed, match="core has no faults of kind lag"):
        spec.with_faults([Fault(0, 0, FaultKind.LAG, 0, 0.5, 1)]).require_supported([FaultKind.CRASH])


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[]", "null", "{}", '{"format": 99}', "\x00", '{"format": 1, "faults": 3}']
)
def test_what_is_no_spec_is_refused(text: str) -> None:
    """Not by a KeyError from inside."""
    with pytest.raises(SpecMalformed):
        RunSpec.from_json(text)
