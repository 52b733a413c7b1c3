"""The checks from the inside can fail: each finds what it is for."""

from typing import Any

import pytest
import trio

from keycluster.cluster.raft.messages import Entry, EntryKind
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.simulations.region.logs import is_fault_of_ours
from keycluster.simulations.region.region import SimRegion
from tests.simulations.region.quiet_region import in_region

N0, N1 = NodeId("n0"), NodeId("n1")


def found_in(region: SimRegion) -> list[str]:
    return [failure.checker for failure in region.checks.failures]


async def write(region: SimRegion) -> None:
    await region.operate("CreateAccessKey", account="123456789012")


def test_quiet_region_shows_nothing() -> None:
    """What is checked of is there: entries, leaders, what is settled."""

    async def body(region: SimRegion) -> None:
        await write(region)
        region.checks.look_at_logs()
        region.checks.look_on_disks()
        assert found_in(region) == []
        assert region.checks.applied >= region.checks.settled > 0
        assert region.checks.leaders

    in_region(body)


def test_other_entry_at_the_same_index_is_found() -> None:
    """Applied, or committed in a log."""

    async def body(region: SimRegion) -> None:
        await write(region)
        index = region.checks.applied
        wrong = Entry(Term(1), index, EntryKind.COMMAND, b"another")
        region.checks.moved(region.nodes[N0], [wrong], [None], ())
        assert found_in(region) == ["entries"]
        region.checks.failures.clear()
        region.checks._entries[index] = (Term(1), 0, b"")
        region.checks.look_at_logs()
        assert set(found_in(region)) == {"entries"}

    in_region(body)


def test_other_state_at_the_same_index_is_found() -> None:
    """By the keyed digest of all rows."""

    async def body(region: SimRegion) -> None:
        await write(region)
        await write(region)
        index = LogIndex(region.checks.applied)
        region.checks._digests[index] = b"another"
        region.checks.replaced(region.nodes[N0])
        await region.until(lambda: bool(region.checks.failures))
        assert "digests" in found_in(region)

    in_region(body)


def test_second_leader_of_a_term_is_found() -> None:
    """Election safety."""

    async def body(region: SimRegion) -> None:
        leader = region.leader()
        assert leader is not None
        region.checks._leads.clear()
        term = max(region.checks.leaders)
        region.checks.leaders[term] = NodeId("another")
        await write(region)
        assert "leaders" in found_in(region)

    in_region(body)


def test_node_that_serves_behind_what_is_settled_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract 2, from the inside."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N1]
        assert node.running is not None
        node.pause()
        monkeypatch.setattr(node.running.replica, "may_serve", lambda now: True)
        await write(region)
        await trio.sleep(2)
        assert "settled" in found_in(region)

    in_region(body)


def test_key_in_the_clear_is_found() -> None:
    """On the wire and on a disk; the seal's own file is where it belongs."""

    async def body(region: SimRegion) -> None:
        node = region.nodes[N0]
        seal = node.config.seal.path
        assert seal is not None
        secret = node.disk.files()[seal]
        region.checks.look_on_disks()
        assert found_in(region) == []
        region.checks.secrecy.tap("n0", "n1", b"before" + secret + b"after")
        node.disk.write_at(node.config.data / "copy", 0, secret.hex().encode())
        region.checks.look_on_disks()
        assert found_in(region) == ["secrecy", "secrecy"]
        assert not any(secret.hex() in failure.message for failure in region.checks.failures)

    in_region(body)


@pytest.mark.parametrize(
    ("level", "event", "rest", "is_fault"),
    [
        ("error", "anything", {}, True),
        ("warning", "actor failed and is restarted", {"actor": "moving"}, True),
        ("warning", "peer's stream closed", {"reason": "undecodable frame of 9 bytes"}, True),
        ("warning", "peer's stream closed", {"reason": "no hello"}, False),
        ("warning", "refused", {"detail": "KeyError at room.py:7"}, True),
        ("info", "node is up", {}, False),
    ],
)
def test_lines_that_tell_of_a_mistake(level: str, event: str, rest: dict[str, Any], is_fault: bool) -> None:
    """Whatever the world has done to the node."""
    assert is_fault_of_ours(level, event, rest) is is_fault
