"""One simulated node: the product's own `Node`, with everything that the world hands it simulated.

A *life* is one process of it, from a start to its end: by a crash, by being told to stop, or by itself. What it ends
by itself is judged here: after bit rot a node should refuse its disk, without a fault it never should.

A crash comes in this order: the network first, so that nothing that is done from now on is heard; then the disk, which
loses or tears what wasn't synced; then the process. What its tasks still do while they unwind reaches neither.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.raft.messages import Entry
from keycluster.cluster.seams import World
from keycluster.cluster.store.errors import StoreDamaged, StoreFailed
from keycluster.cluster.store.log import FILE_NAME as LOG_NAME
from keycluster.cluster.store.state import FILE_NAME as STATE_NAME
from keycluster.cluster.types import NodeId
from keycluster.cluster.witness import RolledBack
from keycluster.node.actors import describe
from keycluster.node.config import NodeConfig
from keycluster.node.hardening import Hardening
from keycluster.node.making import lock_data
from keycluster.node.peer_link import SPOKEN
from keycluster.node.peers import RemovedFromRegion
from keycluster.node.raft_driver import DEFAULT_RETENTION, Touched
from keycluster.node.run import Node, open_stores
from keycluster.node.seal_source import open_seal
from keycluster.node.sealing import SEALED_NAME, NodeSecrets, SealError, open_secrets
from keycluster.simulations.disk import CrashDisk
from keycluster.simulations.region.clock import SimClock
from keycluster.simulations.region.entropy import SimEntropy
from keycluster.simulations.region.network import SimNetwork
from keycluster.simulations.region.process import Process
from keycluster.simulations.region.wire import Wire

DISK_S = 0.0003  # A synced write on an SSD of a data centre.


class NodeState(StrEnum):
    DOWN = "down"
    UP = "up"
    BROKEN = "broken"  # Its disk is not to be started again: the node is replaced.


class Excuse(StrEnum):
    """What was done to a node that it may end by."""

    DISK_FAILS = "its disk fails"
    OLD_DISK = "its disk is an old copy"
    NO_SEAL = "its seal is away"
    REMOVED = "it is removed"


_EXCUSES: tuple[tuple[type[Exception], frozenset[Excuse]], ...] = (
    (StoreFailed, frozenset({Excuse.DISK_FAILS})),
    (RolledBack, frozenset({Excuse.OLD_DISK})),
    (SealError, frozenset({Excuse.NO_SEAL})),
    (RemovedFromRegion, frozenset({Excuse.REMOVED})),
    (OSError, frozenset({Excuse.DISK_FAILS})),
)
"""What each ending may come of, beside changed bytes (`SimNode.rotten`). One that isn't here is a finding whatever was
done before."""

_BREAKS = (StoreDamaged, RolledBack, RemovedFromRegion)
"""Whoever ended by these must not be started from the same disk."""

_WAL = "-wal"


@dataclass(frozen=True, slots=True)
class Ending:
    """What a node ended by itself by."""

    text: str
    excused: bool
    broken: bool


class NodeWatch(Protocol):
    """Who is told what happens in a node, within the same step of the event loop."""

    def started(self, node: "SimNode") -> None: ...

    def disk_failed(self, node: "SimNode", path: Path | None) -> None:
        """It refused to write or sync this file, just now."""
        ...

    def opened(self, node: "SimNode", secrets: NodeSecrets) -> None:
        """Its folder is open: these are its secrets."""
        ...

    def moved(
        self, node: "SimNode", entries: Sequence[Entry], outcomes: Sequence[Outcome | None], touched: Touched
    ) -> None:
        """Entries were applied and are visible."""
        ...

    def replaced(self, node: "SimNode") -> None:
        """A snapshot was installed."""
        ...

    def stepped(self, node: "SimNode") -> None: ...

    def paused(self, node: "SimNode") -> None: ...

    def resumed(self, node: "SimNode") -> None: ...

    def stopped(self, node: "SimNode", why: str) -> None:
        """A crash, or told to."""
        ...

    def ended(self, node: "SimNode", ending: Ending) -> None:
        """By itself."""
        ...


class WatchedNode(Node):
    """The product's node, which tells of its steps."""

    watch: NodeWatch
    owner: "SimNode"

    def state_moved(self, entries: Sequence[Entry], outcomes: Sequence[Outcome | None], touched: Touched) -> None:
        super().state_moved(entries, outcomes, touched)
        self.watch.moved(self.owner, entries, outcomes, touched)

    def state_replaced(self) -> None:
        super().state_replaced()
        self.watch.replaced(self.owner)

    def stepped(self) -> None:
        super().stepped()
        self.watch.stepped(self.owner)


@dataclass(slots=True, eq=False)
class Life:
    """One process of a node."""

    number: int
    process: Process
    stop: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    node: WatchedNode | None = None
    """None until its folder is open."""
    killed: bool = False


class SimNode:
    """A machine with its disk, its clock and at most one process."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        disk: CrashDisk,
        clock: SimClock,
        wire: Wire,
        network: SimNetwork,
        nursery: trio.Nursery,
        watch: NodeWatch,
        seed: str,
    ) -> None:
        self.config = config
        self.name: NodeId = config.node
        self.disk = disk
        self.clock = clock
        self.state = NodeState.DOWN
        self.excuses: set[Excuse] = set()
        self.rotten: set[Path] = set()
        """Files of which bytes changed, as long as that may still show."""
        self.versions = SPOKEN
        self.retention = DEFAULT_RETENTION
        self.wal_pages_large: int | None = None
        self.life: Life | None = None
        self.lives = 0
        self._delays_s: dict[int, float] = {}
        self.disk.delay_s = DISK_S
        self.disk.on_failure = self._disk_failed
        self.on_disk_failure: Callable[[], object] = _nothing
        self._failed_in: int | None = None  # The life in which the disk failed last.
        self._wire = wire
        self._network = network
        self._nursery = nursery
        self._watch = watch
        self._seed = seed
        self._remains: list[trio.Event] = []  # One of each life whose tasks haven't all ended.

    @property
    def running(self) -> WatchedNode | None:
        """The product's node while it is open; it may be about to end."""
        return self.life.node if self.life is not None else None

    @property
    def serves(self) -> bool:
        """Whether a request that came now might be answered from its state."""
        running = self.running
        return running is not None and running.replica.may_serve(self.clock.now())

    @property
    def is_paused(self) -> bool:
        return self.life is not None and self.life.process.paused

    def world(self, purpose: str) -> World:
        """All seams, for what runs on this machine as one process. No two purposes have the same randomness."""
        return World(
            clock=self.clock,
            entropy=SimEntropy(f"{self._seed}/{self.name}/{purpose}"),
            disk=self.disk.mount(),
            network=self._network.of(self.name),
        )

    def start(self) -> None:
        """As a supervisor does: at once, without waiting for the node to be up. Not from within a node's own step."""
        if self.state is not NodeState.DOWN:
            return
        if self.disk.is_well:
            self.excuses.discard(Excuse.DISK_FAILS)
        self._network.up(self.name)
        self.lives += 1
        life = Life(self.lives, Process(f"{self.name}/{self.lives}"))
        self.life, self.state = life, NodeState.UP
        self._remains.append(life.gone)
        self._nursery.start_soon(self._live, life)

    def has_served(self, *, may_be_told: bool = False) -> None:
        """What it was done to before is behind it, if all of that would have been found at its start.

        A database's pages are read when they are needed; what is sealed, and write-ahead logs, at each start. That its
        disk is an old copy it may yet be told by a peer that it hasn't reached.
        """
        if not may_be_told:
            self.excuses.discard(Excuse.OLD_DISK)
        self.rotten = {path for path in self.rotten if path.name in (LOG_NAME, STATE_NAME)}
        if self.disk.is_well and self._failed_in != self.lives:  # Else it may be about to end by that.
            self.excuses.discard(Excuse.DISK_FAILS)

    def has_new_state(self) -> None:
        """A snapshot took its state's place."""
        self.rotten = {path for path in self.rotten if not path.name.startswith(STATE_NAME)}

    def stop(self) -> None:
        """As a signal does. It goes on until its leases are over, or until somebody crashes it."""
        if self.life is not None:
            self.life.stop.set()

    def crash(self, why: str = "crash") -> None:
        """The machine is gone, here and now; it can be started again at once."""
        self._network.down(self.name, machine=True)
        self.disk.crash()
        self._bury(why)

    def switch_off(self) -> None:
        """For good: it isn't started again."""
        self.crash("switched off")
        self.state = NodeState.BROKEN

    def kill(self, why: str = "kill") -> None:
        """The process is gone, the machine goes on: what it wrote is there, synced or not."""
        self._network.down(self.name)
        self.disk.unmount()
        self._bury(why)

    def crash_at_write(self, operations: int, then: Callable[[], None]) -> None:
        """The machine crashes in the midst of its disk's work, after so many operations more; then `then` is called."""
        self.disk.on_gone = partial(self._lose_disk, then)
        self.disk.crash_after(operations)

    def spare(self) -> None:
        """Takes back `crash_at_write`, if it hasn't come true."""
        self.disk.spare()

    def _disk_failed(self, path: Path | None) -> None:
        self._failed_in = self.lives
        self._watch.disk_failed(self, path)
        self.on_disk_failure()

    def _lose_disk(self, then: Callable[[], None]) -> None:
        """Called from within the operation: what it was for comes to its end, unheard."""
        self._network.down(self.name, machine=True)
        if self.life is not None:
            self.life.killed = True
        self._wire.after(0, self.crash, "crash at a write")
        self._wire.after(0, then)

    def kill_life(self, life: Life) -> None:
        """Kills it if it is that life's process which still runs."""
        if self.life is life:
            self.kill("it did not stop")

    def slow_down(self, reason: int, delay_s: float) -> None:
        """How much longer all work of the disk takes for that reason; reasons add up."""
        self._delays_s[reason] = delay_s
        self.disk.delay_s = DISK_S + sum(self._delays_s.values())

    def pause(self) -> None:
        if self.life is not None and not self.is_paused:
            self.life.process.pause()
            self._watch.paused(self)

    def resume(self) -> None:
        if self.life is not None and self.is_paused:
            self.life.process.resume()
            self._watch.resumed(self)

    async def is_gone(self) -> None:
        """Returns once nothing of any life of it is left: no task, no open file."""
        while self._remains:
            await self._remains[0].wait()

    def _bury(self, why: str) -> None:
        if self.life is not None:
            life, self.life, self.state = self.life, None, NodeState.DOWN
            life.killed = True
            life.process.kill()
            self._watch.stopped(self, why)

    async def _live(self, life: Life) -> None:
        failure: Exception | None = None
        try:
            await life.process.run(partial(self._run, life))
        except Exception as error:  # noqa: BLE001  # What a node ends by is what is looked at.
            failure = error
        finally:
            self._remains.remove(life.gone)
            life.gone.set()
        if life.killed:
            return
        self._network.down(self.name)
        self.life, self.state = None, NodeState.DOWN
        if failure is None:
            self._watch.stopped(self, "stop")
            return
        ending = self._judge(failure)
        if ending.broken:
            self.state = NodeState.BROKEN
        self._watch.ended(self, ending)

    async def _run(self, life: Life) -> None:
        world = self.world(f"life {life.number}")
        node, close = await world.disk.run(partial(self._open, world))
        try:
            life.node = node
            self._watch.started(self)
            await node.run(life.stop)
        finally:
            close()

    def _open(self, world: World) -> tuple[WatchedNode, Callable[[], None]]:
        """As `keycluster node` does it."""
        config = self.config
        unlock = lock_data(config.data, world.disk)
        try:
            seal = open_seal(config, disk=world.disk)
            secrets = open_secrets(seal, region=config.region, node=config.node, data=config.data, disk=world.disk)
            stores = open_stores(config, secrets, world=world, wal_pages_large=self.wal_pages_large)
        except BaseException:
            unlock()
            raise

        def close() -> None:
            stores.log.close()
            stores.state.close()
            unlock()

        try:
            node = WatchedNode(
                config,
                world=world,
                secrets=secrets,
                stores=stores,
                hardening=Hardening(swap_excluded=True),
                peer_versions=self.versions,
                retention=self.retention,
            )
        except BaseException:
            close()
            raise
        node.watch, node.owner = self._watch, self
        self._watch.opened(self, secrets)
        return node, close

    def _judge(self, failure: Exception) -> Ending:
        leaves = list(_leaves(failure))
        return Ending(
            text=describe(failure),
            excused=all(self._is_excused(leaf) for leaf in leaves),
            broken=any(isinstance(leaf, _BREAKS) or self._is_of_rot(leaf) for leaf in leaves),
        )

    def _is_excused(self, failure: BaseException) -> bool:
        if self._is_of_rot(failure):
            return True
        return any(isinstance(failure, kind) and bool(excuses & self.excuses) for kind, excuses in _EXCUSES)

    def _is_of_rot(self, failure: BaseException) -> bool:
        """Whether it may come of just those bytes that changed."""
        for path in self.rotten:
            match failure:
                case StoreDamaged() | StoreFailed():
                    of_it = path.parent == failure.path.parent or path.is_relative_to(failure.path)
                case RolledBack():  # Its last commit looked torn, and was dropped.
                    of_it = path.name == LOG_NAME + _WAL
                case SealError():
                    of_it = path in (self.config.seal.path, self.config.data / SEALED_NAME)
                case _:
                    of_it = False
            if of_it:
                return True
        return False


def _nothing() -> None:
    pass


def _leaves(failure: BaseException) -> Iterator[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        for inner in failure.exceptions:
            yield from _leaves(inner)
    else:
        yield failure
