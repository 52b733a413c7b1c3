"""The time line for a terminal."""

import pytest

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, Simulator
from keycluster.simulations.timeline.model import make_timeline
from keycluster.simulations.timeline.text import ROWS_MAX, draw_text
from keycluster.simulations.trace import Detail, Record, What

SPEC = RunSpec(Simulator.CORE, 7, 10 * SECOND, nodes=3)


def drawn(*records: tuple[int, str, str, tuple[Detail, ...]], failures: list[Failure] | None = None) -> list[str]:
    kept = [Record(at * MILLISECOND, lane, what, detail) for at, lane, what, detail in records]
    report = SeedReport(SPEC, "ab", 10 * SECOND, failures=failures or [])
    return draw_text(make_timeline(report, kept)).splitlines()


def test_a_story() -> None:
    """Who leads and serves, what went wrong meanwhile, and the call that shouldn't have been answered so."""
    text = drawn(
        (0, "n1", What.STARTS, ()),
        (0, "n2", What.STARTS, ()),
        (100, "n1", What.LEADS, (2,)),
        (101, "n1", What.SERVES, ()),
        (150, "c1", What.CALL, (1, "Encrypt", "k1")),
        (151, "c1", What.RETURNS, (1, "ok", "n1")),
        (200, "nemesis", What.FAULT, ("pause", "n1", 900 * MILLISECOND)),
        (200, "n1", What.PAUSES, ()),
        (300, "n2", What.LEADS, (3,)),
        (400, "c1", What.CALL, (2, "Decrypt", "k1")),
        (1_100, "n1", What.RESUMES, ()),
        (1_101, "c1", What.RETURNS, (2, "ok", "n1")),
        (1_101, "nemesis", What.OFFENCE, ("currency", "call 2 was answered by a lease that had ended", 2)),
    )
    assert text == [
        "core seed 7: 3 nodes, 10 s with faults",
        "trace ab",
        "✗ currency at 1.1010 s: call 2 was answered by a lease that had ended",
        "",
        "█ leads and serves   ▓ leads   ┃ serves   │ up   ‖ paused   · down",
        "",
        "      time  faults                    n1              n2              calls",
        "    0.0000                            │ starts        │ starts",
        "    0.1000                            ▓ leads t2      │",
        "    0.1010                            █ serves        │",
        "    0.2000  pause n1 for 900 ms       ‖ paused        │               1 ok",
        "    0.3000                            ‖               ▓ leads t3",
        "    0.4000  → c1 #2 Decrypt k1",
        "    1.1000                            █ resumes       ▓",
        "    1.1010  ← c1 #2 Decrypt k1 → ok n1 after 701 ms",
        "    1.1010  ✗ currency: call 2 was answered by a lease that had ended",
    ]


def test_a_long_run_is_cut_to_what_stands_around_the_finding() -> None:
    """Its beginning stays, and so does what led there; lines say how many are missing."""
    moments = [(at, "n1", What.PAUSES if at % 2 else What.RESUMES, ()) for at in range(3_000)]
    text = drawn(*moments, failures=[Failure("liveness", "no leader", 2_000 * MILLISECOND)])
    assert len(text) < ROWS_MAX + 20
    [place] = [place for place, line in enumerate(text) if line.strip().startswith("2.0000  ✗ liveness")]
    assert any(line.startswith("    1.9990") for line in text[:place])
    assert [line for line in text if "rows left out" in line]


@pytest.mark.parametrize("nodes", [1, 3, 9])
def test_every_node_has_its_column(nodes: int) -> None:
    """However many there are; with nine a line needs a wide terminal, but each cell can be read."""
    names = [f"n{number}" for number in range(1, nodes + 1)]
    text = drawn(*((0, name, What.STARTS, ()) for name in names))
    assert text[7].split() == ["0.0000", *["│", "starts"] * nodes]
    assert all(name in text[6] for name in names)
    assert max(map(len, text)) <= 160


def test_records_of_a_simulators_own_show_while_they_are_few() -> None:
    """A snapshot installed is worth a row; a thousand messages are not."""
    messages = [(at, "n1", "message", ("vote",)) for at in range(1_000)]
    text = "\n".join(drawn(*messages, (1_000, "n1", "snapshot", (17,))))
    assert "snapshot 17" in text
    assert "message" not in text
