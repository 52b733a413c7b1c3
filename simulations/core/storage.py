"""What machines' disks do: they write, apply and carry snapshots, and each takes its time.

As in `node/raft_driver.py`: one write at a time, and those that come meanwhile share the next; one batch of entries at
a time; a snapshot is installed behind all of both.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from keycluster.cluster.raft.messages import Entry, SnapshotMeta, entry_bytes
from keycluster.cluster.raft.ready import IncomingChunk, SnapshotRead
from keycluster.cluster.replica import ReplicaPersist, ReplicaReady
from keycluster.cluster.types import MILLISECOND, Instant, LogIndex, NodeId
from keycluster.simulations.core.electable import require_unelectable
from keycluster.simulations.core.findings import demand
from keycluster.simulations.core.machine import ANY_LIFE, WRITE_NS, Machine, TrapKind
from keycluster.simulations.core.member import Member
from keycluster.simulations.core.state import AppliedState
from keycluster.simulations.faults import FaultKind
from keycluster.simulations.trace import What

if TYPE_CHECKING:
    from keycluster.simulations.core.world import World

SNAPSHOT_BYTES = 300_000  # Two chunks.
INSTALL_WRITES = 100
"""A state that is replaced takes so much longer than a write: leaders come and go meanwhile."""
SUFFIX = "snapshot-suffix"
CHUNKS = "snapshot-chunks"
APPLYING = "applying"


class Storage:
    def __init__(self, world: "World") -> None:
        self._world = world
        self.writes_lost = 0  # By crashes, before they were done.

    # The log

    def write(self, machine: Machine, persist: ReplicaPersist) -> None:
        """Writes that come while one is under way share the next one."""
        if persist.truncate_from is not None and machine.still_leads:
            self._world.safety.leader_takes_back(machine.node, persist.truncate_from)
        machine.to_write.append(persist)
        if machine.writing is None:
            self._begin_write(machine)

    def _begin_write(self, machine: Machine) -> None:
        world = self._world
        if machine.felt is not None and machine.write_ns > WRITE_NS:
            machine.felt(FaultKind.DISK_SLOW)
        machine.writing, machine.to_write = machine.to_write, []
        at = world.t + 1 + int(world.draw() * machine.write_ns)
        world.push(at, None, ANY_LIFE, self._wrote, machine, machine.life)

    def _wrote(self, machine: Machine, life: int) -> None:
        """The disk completes it even while the process is stopped; the process hears of it later."""
        if machine.life != life or machine.writing is None:
            return
        if machine.disk_stalls:
            machine.write_waits = True
            if machine.felt is not None:
                machine.felt(FaultKind.DISK_STALL)
            return
        trap = machine.trap
        if trap is not None and trap.what is TrapKind.CRASH_AT_WRITE and trap.springs():
            machine.trap = None
            if trap.rng.random() < 0.5:
                self.write_now(machine, machine.writing)
                machine.writing = None  # Done, though nobody hears of it.
            self._world.crash(machine.node)
            trap.then()
            return
        self.write_now(machine, machine.writing)
        ticket = machine.writing[-1].ticket
        if machine.paused:
            machine.waiting.append((self._persisted, ticket, None))
        else:
            self._world.take(machine, self._persisted, ticket, None)

    def write_now(self, machine: Machine, persists: Sequence[ReplicaPersist]) -> None:
        log = machine.disk.log
        for persist in persists:
            machine.disk.write(persist)
            if persist.entries:
                before = log.term(LogIndex(persist.entries[0].index - 1))
                self._world.safety.written(machine.node, before, persist.entries)
        self._world.note(self._world.t, machine.node, "wrote", log.last_index)

    def _persisted(self, machine: Machine, now: Instant, ticket: int, _: None) -> None:
        if machine.member is None:
            return
        machine.writing = None
        if machine.to_write:
            self._begin_write(machine)
        machine.member.replica.persisted(ticket, now)

    def crashed(self, machine: Machine) -> None:
        """Before its memory is lost: what it writes, or was going to, is lost too."""
        self.writes_lost += len(machine.writing or ()) + len(machine.to_write)

    def set_stalls(self, machine: Machine, stalls: bool) -> None:
        machine.disk_stalls = stalls
        if not stalls and machine.write_waits:
            machine.write_waits = False
            self._world.push(self._world.t + 1, None, ANY_LIFE, self._wrote, machine, machine.life)

    # Applying

    def apply(self, machine: Machine, member: Member, entries: Sequence[Entry]) -> None:
        """Soon: some of them, together with what else waits."""
        leading = [(m.node, m.leads_in, m.disk.log) for m in self._world.contract.leading.values() if m.leads_in]
        known = len(self._world.safety.committed)
        self._world.safety.handed_out(machine.node, member.core.term, entries, leading)
        newly = self._world.safety.committed[known:]
        if newly:
            require_unelectable(entries[-1], self._world.machines.values())
            self._world.memberships.committed(newly, self._world.t)
        member.unapplied += entries
        _require_bounded(machine.node, member)
        self._begin_apply(machine)

    def _begin_apply(self, machine: Machine) -> None:
        member = machine.member
        if member is None or not member.unapplied or machine.applying:
            return
        if machine.apply_hangs:
            if machine.felt is not None:
                machine.felt(FaultKind.APPLY_HANG)
            return
        if machine.felt is not None and machine.apply_ns > WRITE_NS:
            machine.felt(FaultKind.DISK_SLOW)
        world = self._world
        machine.applying = True
        count = 1 + int(world.draw() * len(member.unapplied))
        at = world.t + 1 + int(world.draw() * machine.apply_ns)
        world.push(at, machine, machine.life, self._apply_some, count, None)

    def _apply_some(self, machine: Machine, now: Instant, count: int, _: None) -> None:
        if machine.member is None:
            return
        machine.applying = False
        entries = machine.member.apply_some(count, now)
        for entry in entries:
            self._world.contract.reached(machine.node, entry.index, machine.member.digests[entry.index])
        self._world.note(self._world.t, machine.node, What.APPLIES, entries[-1].index)
        self._world.applied(machine, entries)
        self._begin_apply(machine)

    def set_apply_hangs(self, machine: Machine, hangs: bool) -> None:
        machine.apply_hangs = hangs
        self._begin_apply(machine)

    # Snapshots

    def take_snapshots(self, machine: Machine, ready: ReplicaReady) -> None:
        world, life = self._world, machine.life
        later = world.t + machine.write_ns
        if ready.snapshot_chunk is not None:
            world.push(later, machine, life, self._store_chunk, ready.snapshot_chunk, None)
        if ready.snapshot_install is not None:
            world.push(
                world.t + INSTALL_WRITES * machine.write_ns, machine, life, self._install, ready.snapshot_install, None
            )
        for peer in ready.snapshots_wanted:
            world.push(world.t, machine, life, self._offer, peer, None)
        for read in ready.snapshot_reads:
            world.push(world.t, machine, life, self._read_chunk, read, None)

    def _store_chunk(self, machine: Machine, now: Instant, chunk: IncomingChunk, _: None) -> None:
        if machine.member is None:
            return
        rotten = machine.rots_next
        find: Callable[[SnapshotMeta], AppliedState | None] = self._snapshot_state
        if rotten is not None and chunk.done:
            machine.rots_next, find = None, _nothing
            rotten()
        machine.member.store_chunk(chunk, now, find)

    def _install(self, machine: Machine, now: Instant, meta: SnapshotMeta, _: None) -> None:
        """A driver installs only behind all writes and applies that it was given before."""
        member = machine.member
        if member is None:
            return
        if machine.applying or member.unapplied or machine.writing is not None:
            self._world.push(self._world.t + MILLISECOND, machine, machine.life, self._install, meta, None)
            return
        demand(member.is_incoming_whole, CHUNKS, f"{machine.node} installs {meta.index} before it has all of it")
        if member.install_snapshot(meta, now):
            self._world.safety.installed(machine.node, meta)
            end, log = (member.core.last_term, member.core.last_index), machine.disk.log
            demand(
                end == (log.term(log.last_index), log.last_index),
                SUFFIX,
                f"{machine.node} installed {meta.index} of term {meta.term} and takes its log to end with {end}",
            )
            self._world.contract.reached(machine.node, machine.disk.state.index, machine.disk.state.digest)
            self._world.note(self._world.t, machine.node, "installed a snapshot", meta.index)
            self._world.state_replaced(machine)

    def _offer(self, machine: Machine, now: Instant, peer: NodeId, _: None) -> None:
        if machine.member is not None:
            machine.member.offer_snapshot(peer, now, size=SNAPSHOT_BYTES)

    def _read_chunk(self, machine: Machine, now: Instant, read: SnapshotRead, _: None) -> None:
        if machine.member is not None:
            machine.member.read_snapshot(read, now, size=SNAPSHOT_BYTES)

    def _snapshot_state(self, meta: SnapshotMeta) -> AppliedState | None:
        for machine in self._world.machines.values():
            if machine.member is not None and meta in machine.member.snapshots:
                return machine.member.snapshots[meta]
        return None


def _require_bounded(node: NodeId, member: Member) -> None:
    """One entry goes alone, however large: only what waits with another one counts."""
    waiting, most = sum(map(entry_bytes, member.unapplied[:-1])), member.core.config.apply_bytes_max
    demand(waiting <= most, APPLYING, f"{node} has {waiting} bytes and an entry more to apply, of {most} at most")


def _nothing(_meta: SnapshotMeta) -> AppliedState | None:
    """What is left of a snapshot that doesn't verify."""
    return None
