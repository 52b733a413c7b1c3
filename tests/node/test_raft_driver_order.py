"""In which order the driver works off what a replica wants done, with stores that note what is asked of them."""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar, cast

import pytest
import trio
import trio.testing

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.raft.messages import Entry, EntryKind, Membership, SnapshotMeta
from keycluster.cluster.raft.progress import ProgressState
from keycluster.cluster.raft.ready import IncomingChunk, SnapshotRead
from keycluster.cluster.replica import Replica, ReplicaPersist, ReplicaReady
from keycluster.cluster.seams import Disk
from keycluster.cluster.store.errors import SnapshotRefused
from keycluster.cluster.store.state import StateTx
from keycluster.cluster.types import MILLISECOND, SECOND, Instant, LogIndex, NodeId, Term, WallTime
from keycluster.node import raft_driver
from keycluster.node.raft_driver import LogRetention, RaftDriver, Stores, Touched

T = TypeVar("T")
N2, N3 = NodeId("n2"), NodeId("n3")


def meta(index: int) -> SnapshotMeta:
    return SnapshotMeta(LogIndex(index), Term(1), Membership(voters=(NodeId("n1"),)), None)


def entry(index: int) -> Entry:
    return Entry(Term(1), LogIndex(index), EntryKind.COMMAND, b"")


class TrioClock:
    """The loop's own."""

    def now(self) -> Instant:
        return Instant(int(trio.current_time() * SECOND))

    def wall(self) -> WallTime:
        return WallTime(self.now())


class Bench:
    """A driver between a replica that hands out what the test gives it and stores that note what is done."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.held: set[str] = set()
        self._released = trio.Event()
        self._ready: deque[ReplicaReady] = deque()
        self.wakeup_ns = 20 * MILLISECOND
        self.ticks: list[float] = []
        self.first_index = 1
        self.next_snapshot = 0
        self.core = SimpleNamespace(progress={}, retain_above=LogIndex(10**9))
        self.settled_index = self.applied_index = LogIndex(0)
        self.view = SimpleNamespace(applied_index=LogIndex(0), digest=b"", get=lambda table, key: None)
        stores = SimpleNamespace(
            log=self, state=self, outgoing=Path("out"), incoming=Path("in")
        )  # Each fake below is one of the methods that the driver calls on them.
        self.driver = RaftDriver(
            replica=cast(Replica, self),
            stores=cast(Stores, stores),
            clock=TrioClock(),
            disk=cast(Disk, self),
            apply_entry=lambda tx, applied: Outcome(),
            send=lambda peer, message: self.note(f"send to {peer}"),
            listener=self,
        )

    def note(self, event: str) -> None:
        self.events.append(event)

    def hand_out(self, **what: object) -> None:
        """What `ready` gives next; the driver is told to look."""
        self._ready.append(ReplicaReady(**what))  # type: ignore[arg-type]  # Passed through.
        self.driver.pump()

    def release(self, event: str) -> None:
        self.held.discard(event)
        self._released.set()
        self._released = trio.Event()

    # The disk: blocking work is done at once, and ends when the test lets it.

    async def run(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        result = work()
        last = self.events[-1]
        while last in self.held:
            await self._released.wait()
        return result

    def size(self, path: Path) -> int:
        return 4096

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        self.note(f"store chunk at {offset}")

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        self.note(f"read chunk at {offset}")
        return b"x" * count

    def remove(self, path: Path) -> None:
        self.note(f"remove {path}")

    # The stores

    def write(self, *, entries: Sequence[Entry], **rest: object) -> None:
        self.note(f"write {len(entries)}")

    def compact(self, upto: LogIndex) -> None:
        self.first_index = upto + 1
        self.note(f"compact {upto}")

    def reset_to(self, snapshot: SnapshotMeta) -> None:
        self.note(f"reset to {snapshot.index}")

    def apply(self, entries: Sequence[Entry], apply_one: Callable[[StateTx, Entry], Outcome]) -> SimpleNamespace:
        self.note(f"apply {entries[0].index}..{entries[-1].index}")
        self._applying = entries[-1].index
        return SimpleNamespace(results=[Outcome()] * len(entries), touched=frozenset())

    def refresh(self) -> None:
        self.view.applied_index = self._applying
        self.note("refresh")

    def write_snapshot(self, path: Path) -> SnapshotMeta:
        self.next_snapshot += 1
        self.note(f"make snapshot {self.next_snapshot}")
        return meta(self.next_snapshot)

    def install_snapshot(self, path: Path, snapshot: SnapshotMeta) -> None:
        self.note(f"install {snapshot.index}")
        if snapshot.index == 13:
            raise SnapshotRefused(path, "unlucky")
        self._applying = snapshot.index

    # The replica

    def ready(self) -> ReplicaReady:
        return self._ready.popleft() if self._ready else ReplicaReady()

    def tick(self, now: Instant, wall: WallTime) -> None:
        self.ticks.append(trio.current_time())

    def next_wakeup(self, now: Instant) -> Instant:
        return Instant(now + self.wakeup_ns)

    def persisted(self, ticket: int, now: Instant) -> None:
        self.note(f"persisted {ticket}")

    def applied(self, index: LogIndex, now: Instant, **rest: object) -> None:
        self.note(f"applied {index}")

    def offer_snapshot(self, peer: NodeId, snapshot: SnapshotMeta, *, size: int, now: Instant) -> None:
        self.note(f"offer {snapshot.index} to {peer}")

    def snapshot_chunk_read(self, peer: NodeId, snapshot: SnapshotMeta, **rest: object) -> None:
        self.note(f"chunk for {peer}")

    def snapshot_read_failed(self, peer: NodeId, now: Instant) -> None:
        self.note(f"no chunk for {peer}")

    def snapshot_chunk_stored(self, snapshot: SnapshotMeta, *, offset_next: int, now: Instant) -> None:
        self.note(f"stored up to {offset_next}")

    def snapshot_installed(self, snapshot: SnapshotMeta, now: Instant, **rest: object) -> None:
        self.note(f"installed {snapshot.index}")

    def snapshot_refused(self, snapshot: SnapshotMeta, now: Instant) -> None:
        self.note(f"refused {snapshot.index}")

    # The listener

    def state_moved(self, entries: Sequence[Entry], outcomes: Sequence[Outcome | None], touched: Touched) -> None:
        self.note("caches dropped")

    def state_replaced(self) -> None:
        self.note("all caches dropped")

    def stepped(self) -> None:
        pass


@pytest.fixture
async def bench(nursery: trio.Nursery) -> Bench:
    made = Bench()
    await nursery.start(made.driver.run)
    return made


async def settle_down() -> None:
    await trio.testing.wait_all_tasks_blocked(0.0001)


def persist(ticket: int, *entries: Entry) -> ReplicaPersist:
    return ReplicaPersist(ticket, None, None, entries, None)


async def test_messages_leave_before_the_disk_is_waited_for(bench: Bench) -> None:
    """A leader's entries are on their way while its own log is written."""
    bench.held = {"write 1"}
    bench.hand_out(messages=[(N2, object())], persist=persist(1, entry(1)))
    await settle_down()
    assert bench.events == [f"send to {N2}", "write 1"]
    bench.hand_out(persist=persist(2, entry(2)))
    bench.hand_out(persist=persist(3, entry(3)))
    bench.release("write 1")
    await settle_down()
    assert bench.events[2:] == ["persisted 1", "write 2", "persisted 3"]  # Group commit of what waited.


async def test_applied_is_said_once_it_is_visible(bench: Bench) -> None:
    """L5: on disk, then the view and the caches, then the replica; what follows goes in its own transaction."""
    bench.hand_out(committed=[entry(1), entry(2)])
    await settle_down()
    assert bench.events == ["apply 1..2", "refresh", "caches dropped", "applied 2"]


async def test_a_snapshot_is_installed_after_all_that_was_to_be_written_and_applied(bench: Bench) -> None:
    """Entries written after the log was reset would not follow it."""
    bench.held = {"write 1"}
    bench.hand_out(persist=persist(1, entry(1)), committed=[entry(1)])
    await settle_down()
    bench.hand_out(persist=persist(2, entry(2), entry(3)))
    bench.hand_out(snapshot_install=meta(9))
    await settle_down()
    assert "install 9" not in bench.events
    bench.release("write 1")
    await settle_down()
    done = [event for event in bench.events if event.split()[0] in {"persisted", "applied", "install", "reset"}]
    assert done == ["applied 1", "persisted 1", "persisted 2", "install 9", "reset to 9"]
    assert bench.events[-4:] == ["refresh", "all caches dropped", "installed 9", "remove in"]


async def test_a_refused_snapshot_leaves_the_log_alone(bench: Bench) -> None:
    """Its file goes, and the replica asks for another."""
    bench.hand_out(snapshot_install=meta(13))
    await settle_down()
    assert bench.events == ["install 13", "refused 13", "remove in"]


async def test_making_a_snapshot_holds_up_nothing(bench: Bench) -> None:
    """Neither applying nor the log; and who asks again meanwhile is not asking for a second one."""
    bench.held = {"make snapshot 1"}
    bench.hand_out(snapshots_wanted=[N2])
    await settle_down()
    bench.hand_out(snapshots_wanted=[N2], committed=[entry(1)], persist=persist(1, entry(2)))
    await settle_down()
    assert {"applied 1", "persisted 1"} <= set(bench.events)
    bench.release("make snapshot 1")
    await settle_down()
    assert [event for event in bench.events if "offer" in event or "make" in event] == [
        "make snapshot 1",
        f"offer 1 to {N2}",
    ]


async def test_a_snapshot_serves_all_who_want_one_while_it_joins_up(bench: Bench) -> None:
    """But one that couldn't use it, or is offered what the log doesn't follow any more, gets a new one."""
    bench.hand_out(snapshots_wanted=[N2, N3])
    await settle_down()
    assert bench.events == ["make snapshot 1", f"offer 1 to {N2}", f"offer 1 to {N3}"]
    bench.hand_out(snapshots_wanted=[N2])
    await settle_down()
    assert bench.events[3:] == ["make snapshot 2", f"offer 2 to {N2}"]
    bench.first_index = 100
    bench.hand_out(snapshots_wanted=[N3])
    await settle_down()
    assert bench.events[5:] == ["make snapshot 3", f"offer 3 to {N3}"]
    bench.hand_out(snapshot_reads=[SnapshotRead(N2, meta(2), 0, 10), SnapshotRead(N3, meta(3), 0, 10)])
    await settle_down()
    assert bench.events[7:] == [f"no chunk for {N2}", "read chunk at 0", f"chunk for {N3}"]


async def test_a_snapshot_nobody_wants_is_erased(bench: Bench) -> None:
    """Old copies hold what was deleted since (security.md, 3); one that is being fetched stays."""
    wants = SimpleNamespace(state=ProgressState.SNAPSHOT, heard_at=TrioClock().now())
    bench.core.progress = {N2: wants}
    bench.hand_out(snapshots_wanted=[N2])
    bench.hand_out(committed=[entry(1)])
    await settle_down()
    assert "remove out" not in bench.events
    wants.state = ProgressState.REPLICATE
    bench.hand_out(committed=[entry(2)])
    await settle_down()
    assert "remove out" in bench.events
    bench.hand_out(snapshot_reads=[SnapshotRead(N2, meta(1), 0, 10)])
    await settle_down()
    assert bench.events[-1] == f"no chunk for {N2}"


async def test_chunks_are_stored_one_after_the_other(bench: Bench) -> None:
    """Each is told once it is stored; what is being received isn't erased."""
    for offset in (0, 4):
        chunk = IncomingChunk(meta(9), 8, offset, b"data", done=False)
        bench.hand_out(snapshot_chunk=chunk)
        await settle_down()
        bench.driver._snapshots.tell(raft_driver._DropSnapshot())
        await settle_down()
    assert bench.events == ["store chunk at 0", "stored up to 4", "store chunk at 4", "stored up to 8"]


async def test_compaction_holds_up_no_applying(bench: Bench) -> None:
    """And never goes beyond what members that answer still need."""
    bench.driver.retention = LogRetention(kept=10, slack=5)
    bench.core.retain_above = LogIndex(7)
    bench.held = {"compact 7"}
    bench.hand_out(committed=[entry(index) for index in range(1, 31)])
    await settle_down()
    assert bench.events[-1] == "compact 7"
    bench.hand_out(committed=[entry(31)])
    await settle_down()
    assert bench.events[-1] == "applied 31"
    bench.core.retain_above = LogIndex(100)
    bench.release("compact 7")
    await settle_down()
    assert bench.events[-1] == "compact 21"


async def test_a_log_is_compacted_at_last_whoever_lags(bench: Bench) -> None:
    """A member that answers and never catches up gets a snapshot in the end."""
    bench.driver.retention = LogRetention(kept=10, kept_longest=20, slack=5)
    bench.core.retain_above = LogIndex(0)
    bench.hand_out(committed=[entry(index) for index in range(1, 31)])
    await settle_down()
    assert bench.events[-1] == "compact 20"


async def test_the_tick_comes_when_the_replica_wants_it(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    """What waits for an instant (an end of a lease, a heartbeat) is done then, whatever the loop was waiting for."""
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    bench.wakeup_ns = 2 * MILLISECOND
    bench.hand_out()
    await trio.sleep(0.0025)
    assert began < bench.ticks[-1] <= began + 0.0022


async def test_nothing_is_ticked_that_has_nothing_to_do(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    """Not before the instant that the replica names, except for one that was named before; and never hours later."""
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(raft_driver.TICK_S_MAX)
    bench.ticks.clear()
    bench.wakeup_ns = 100 * MILLISECOND
    for _ in range(10):
        bench.hand_out()
        await trio.sleep(0.02)
    assert len(bench.ticks) == 2
    bench.wakeup_ns = 10**13
    await trio.sleep(10)
    regular = [later - earlier for earlier, later in zip(bench.ticks, bench.ticks[1:], strict=False)]
    assert max(regular) <= raft_driver.TICK_S_MAX + 0.001
