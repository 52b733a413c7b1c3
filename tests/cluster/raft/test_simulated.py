"""The virtual region itself: repeatable, live after faults, and able to see what it looks for."""

import pytest

from keycluster.cluster.raft.member import Member
from keycluster.cluster.raft.outbox import Outbox
from keycluster.cluster.types import MILLISECOND
from tests.cluster.raft.simulated import Faults, SimulatedRegion

ROUGH = Faults(loss=0.1, repeat=0.1, delay_max_ns=30 * MILLISECOND, write_max_ns=20 * MILLISECOND)


def rough_run(seed: int) -> SimulatedRegion:
    """Three seconds with losses, a crash of the leader, and steady proposals."""
    region = SimulatedRegion("abcde", seed=seed)
    region.faults = ROUGH
    for turn in range(60):
        region.run(50)
        leader = region.leader
        if leader is not None:
            region.propose(leader.node, b"%d" % turn)
            if turn == 40:
                region.crash(leader.node, keep_writes=1)
    return region


def test_same_seed_same_run() -> None:
    """Equal inputs give equal outputs: no order of a set or a hash gets into messages."""
    first, second = rough_run(7), rough_run(7)
    assert first.steps == second.steps
    assert [m.disk.state for m in first.up] == [m.disk.state for m in second.up]
    assert [m.core.term for m in first.up] == [m.core.term for m in second.up]


@pytest.mark.parametrize("seed", range(5))
def test_liveness_after_faults(seed: int) -> None:
    """Once links and disks work there is a leader within two seconds, and what it commits reaches all within one."""
    region = rough_run(seed)
    region.heal()
    assert region.run_until(lambda: region.leader is not None, within_ms=2_000)
    region.run(500)
    leader = region.leader
    assert leader is not None
    assert region.propose(leader.node, b"x")
    goal = leader.core.last_index
    assert region.run_until(lambda: all(m.disk.state.index >= goal for m in region.up), within_ms=1_000)


def test_missing_stickiness_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail: without L7 a member that can't hear the leader deposes it while its lease lives."""
    monkeypatch.setattr(Member, "is_sticky", property(lambda _: False))
    region = SimulatedRegion("abc", seed=1)
    region.run(2_000)
    leader = region.leader
    assert leader is not None
    deaf = next(member.node for member in region.up if member is not leader)
    region.cut = {(leader.node, deaf)}
    with pytest.raises(AssertionError, match="L4"):
        region.run(3_000)


def test_word_before_it_is_durable_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail: replies that don't wait for the disk."""
    monkeypatch.setattr(Outbox, "hard_state_is_durable", property(lambda _: True))
    region = SimulatedRegion("abc", seed=1)
    with pytest.raises(AssertionError, match="before it is durable"):
        region.run(2_000)
