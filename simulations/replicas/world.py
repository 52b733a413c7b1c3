"""The heap, the network and the machines, and the checker that looks at all of them after every step.

What the checker holds to (design.md, contract 2): whatever any replica takes for *settled*, every replica that says it
may serve has applied. A success may leave once its index is settled, and a read is answered once what it saw is
settled (L10), so this is stronger than "no acknowledged change is missing where a request could be answered".

All instants here are real nanoseconds; each machine's own clock runs at its own rate, within the bound or, where a
scenario wants to see what happens, outside it.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from keycluster.cluster.invariant import InvariantBroken, require
from keycluster.cluster.peer_messages import (
    Forward,
    ForwardReply,
    ReplicaMessage,
    array_of,
    decode_peer_messages,
    encode_peer_message,
)
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.messages import Membership, SnapshotMeta
from keycluster.cluster.raft.ready import SnapshotRead
from keycluster.cluster.replica import Replica, ReplicaConfig, ReplicaPersist
from keycluster.cluster.types import MILLISECOND, SECOND, Instant, LogIndex, NodeId, Term, WallTime
from keycluster.simulations.replicas.member import AppliedState, Disk, DurableLog, Member

WALL_START = 1_800_000_000 * SECOND
SNAPSHOT_BYTES = 300_000  # Two chunks.
PPM = 1_000_000

Input = Callable[[Member, Instant], None]
Meddle = Callable[[NodeId, NodeId, ReplicaMessage], int | None]
"""(sender, receiver, message) -> further delay in nanoseconds, or None: it is lost. For scenarios."""


class ContractBroken(InvariantBroken):
    """A replica may serve and lacks what is settled, or two leaders may serve at once."""


@dataclass(slots=True)
class Network:
    """Chances are per message; delays in nanoseconds."""

    delay_ns_min: int = 200_000
    delay_ns_spread: int = 800_000
    slow_chance: float = 0.0  # Of a delay up to `slow_ns_max`.
    slow_ns_max: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    cut: set[tuple[NodeId, NodeId]] = field(default_factory=set)  # Directed.

    def delays(self, rng: random.Random) -> list[int]:
        """One for each copy that arrives."""
        if rng.random() < self.loss:
            return []
        copies = 2 if rng.random() < self.duplicate else 1
        return [self._delay(rng) for _ in range(copies)]

    def _delay(self, rng: random.Random) -> int:
        if rng.random() < self.slow_chance:
            return rng.randrange(self.slow_ns_max)
        return self.delay_ns_min + rng.randrange(self.delay_ns_spread + 1)


@dataclass(slots=True)
class Machine:
    """What a node runs on. `member` is None while it is down."""

    node: NodeId
    disk: Disk
    clock_base: int
    clock_ppm: int
    wall_offset_ns: int = 0
    member: Member | None = None
    life: int = 0  # Events of an earlier life are void.
    paused: bool = False
    waiting: deque[Input] = field(default_factory=deque)  # Inputs that came during a pause.
    drain_waits: bool = False  # The pause fell between an input and its outputs.
    apply_ns: int = 1 * MILLISECOND
    apply_hangs: bool = False
    applying: bool = False
    write_ns: int = 1 * MILLISECOND
    write_done_at: int = 0  # Writes complete in order.
    tick_at: int | None = None

    def now(self, t: int) -> Instant:
        return Instant(self.clock_base + t * (PPM + self.clock_ppm) // PPM)

    def real(self, now: Instant) -> int:
        """The first real instant at which this machine's clock shows `now`."""
        return -((self.clock_base - now) * PPM // (PPM + self.clock_ppm))

    def wall(self, t: int) -> WallTime:
        return WallTime(WALL_START + self.wall_offset_ns + t)

    @property
    def replica(self) -> Replica | None:
        return self.member.replica if self.member is not None and not self.paused else None


Stops = Callable[[Machine, NodeId, ReplicaMessage], bool]
"""(machine, sender, message) -> whether the process stops between this message and what it leads to."""


class World:
    def __init__(
        self,
        seed: int | str,
        *,
        voters: int = 3,
        learners: int = 0,
        raft: RaftConfig | None = None,
        config: ReplicaConfig | None = None,
        network: Network | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.raft = raft or RaftConfig()
        self.config = config or ReplicaConfig()
        self.network = network or Network()
        self.t = 0
        self.steps = 0
        self.serving_seen = (
            0  # How often the checker found a member that may serve: it must have had something to check.
        )
        self.settled = LogIndex(0)  # The newest that any replica ever took for settled.
        self.settled_at: list[tuple[int, LogIndex]] = []
        self.leaders: list[tuple[Term, NodeId]] = []
        self.meddle: Meddle = lambda sender, receiver, message: 0
        self.stops_before_output: Stops = lambda machine, sender, message: False
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._events = 0
        self._history: dict[LogIndex, bytes] = {}
        ids = [NodeId(f"n{number}") for number in range(1, voters + learners + 1)]
        self.genesis = Membership(voters=tuple(ids[:voters]), learners=tuple(ids[voters:]))
        self.machines: dict[NodeId, Machine] = {}
        for node in ids:
            self.add_machine(node)

    # Machines

    def add_machine(self, node: NodeId, *, ppm: int = 0) -> Machine:
        """A new machine with an empty disk; it knows the region's first configuration, like a node that was founded
        with it or has joined."""
        state = AppliedState(LogIndex(0), Term(0), self.genesis, None, b"")
        disk = Disk(DurableLog(LogIndex(0), Term(0)), state)
        machine = Machine(node, disk, clock_base=self.rng.randrange(10**15), clock_ppm=ppm)
        self.machines[node] = machine
        return machine

    def start(self, node: NodeId) -> None:
        machine = self.machines[node]
        if machine.member is not None:
            return
        rng = random.Random(self.rng.random())
        machine.member = Member(
            node, machine.disk, raft=self.raft, config=self.config, rng=rng, now=machine.now(self.t)
        )
        machine.tick_at = None
        for other in self.machines.values():
            self.greet(other, machine)
        self._drain(machine)

    def greet(self, knowing: Machine, known: Machine) -> None:
        """A link comes up: one end tells the other what it knows the other acknowledged."""
        if knowing.replica is None or known.replica is None:
            return
        pair = knowing.replica.known_of(known.node)
        if pair is not None:
            known.replica.learn_known_of_me(*pair)

    def start_all(self) -> None:
        for node in list(self.machines):
            self.start(node)

    def crash(self, node: NodeId) -> None:
        """Memory and writes under way are lost."""
        machine = self.machines[node]
        machine.life += 1
        machine.member = None
        machine.paused = machine.applying = machine.drain_waits = False
        machine.waiting.clear()
        machine.write_done_at = self.t

    def pause(self, node: NodeId) -> None:
        """SIGSTOP: nothing runs; what comes in waits, and its clock is read when it is looked at."""
        self.machines[node].paused = True

    def resume(self, node: NodeId) -> None:
        machine = self.machines[node]
        if machine.member is None or not machine.paused:
            return
        machine.paused = False
        self.check()  # A request may be the first thing that it looks at.
        if machine.drain_waits:
            machine.drain_waits = False
            self._drain(machine)
        while machine.waiting and not machine.paused and machine.member is not None:
            self.feed(machine, machine.waiting.popleft())
            self.check()

    # Time

    def at(self, t: int, event: Callable[[], None]) -> None:
        self._events += 1
        heapq.heappush(self._heap, (max(t, self.t), self._events, event))

    def after(self, ns: int, event: Callable[[], None]) -> None:
        self.at(self.t + ns, event)

    def run_until(self, t: int) -> None:
        """Steps up to real time `t`, the checker behind each."""
        while self._heap and self._heap[0][0] <= t:
            self.t, _, event = heapq.heappop(self._heap)
            event()
            self.steps += 1
            self.check()
        self.t = t
        self.check()

    def run_for(self, ns: int) -> None:
        self.run_until(self.t + ns)

    def run_while(self, condition: Callable[[], bool], *, ns_max: int) -> int:
        """Runs until `condition` no longer holds; how long that took. Raises `InvariantBroken` after `ns_max`."""
        begun = self.t
        while condition():
            require(bool(self._heap) and self._heap[0][0] <= begun + ns_max, f"still so after {ns_max / SECOND} s")
            self.run_until(self._heap[0][0])
        return self.t - begun

    # Inputs and outputs of a member

    def feed(self, machine: Machine, give: Input, *, pause_before_output: bool = False) -> None:
        """One input: the clock is read, the core called, its outputs are handed on (after a pause, if wished)."""
        if machine.member is None:
            return
        if machine.paused:
            machine.waiting.append(give)
            return
        give(machine.member, machine.now(self.t))
        if pause_before_output:
            machine.paused = machine.drain_waits = True
        else:
            self._drain(machine)

    def _later(self, machine: Machine, t: int, give: Input) -> None:
        life = machine.life

        def event() -> None:
            if machine.life == life:
                self.feed(machine, give)

        self.at(t, event)

    def _drain(self, machine: Machine) -> None:
        member = machine.member
        if member is None:
            return
        ready = member.ready()
        for receiver, message in ready.messages:
            self._send(machine, receiver, message)
        if ready.persist is not None:
            self._write(machine, ready.persist)
        member.unapplied += ready.committed
        self._begin_apply(machine)
        if (chunk := ready.snapshot_chunk) is not None:
            self._later(
                machine, self.t + machine.write_ns, lambda m, now: m.store_chunk(chunk, now, self._snapshot_state)
            )
        if (meta := ready.snapshot_install) is not None:
            self._install_when_idle(machine, meta)
        for peer in ready.snapshots_wanted:
            self._later(machine, self.t, partial(offer_snapshot, peer))
        for read in ready.snapshot_reads:
            self._later(machine, self.t, partial(read_snapshot, read))
        self._schedule_tick(machine)

    def _write(self, machine: Machine, persist: ReplicaPersist) -> None:
        machine.write_done_at = max(machine.write_done_at, self.t) + 1 + self.rng.randrange(machine.write_ns)
        life, member = machine.life, machine.member

        def event() -> None:
            if machine.life == life and member is not None:
                # The disk completes it even while the process is stopped; the process hears of it later.
                machine.disk.write(persist)
                self.feed(machine, lambda m, now: m.replica.persisted(persist.ticket, now))

        self.at(machine.write_done_at, event)

    def _begin_apply(self, machine: Machine) -> None:
        member = machine.member
        if member is None or not member.unapplied or machine.applying or machine.apply_hangs:
            return
        machine.applying = True
        count = self.rng.randint(1, len(member.unapplied))

        def give(m: Member, now: Instant) -> None:
            machine.applying = False
            m.apply_some(count, now)
            self._compare_history(m)

        self._later(machine, self.t + 1 + self.rng.randrange(machine.apply_ns), give)

    def set_apply_hangs(self, node: NodeId, hangs: bool) -> None:
        """Its apply makes no progress from the next batch on, though all else of it runs."""
        self.machines[node].apply_hangs = hangs
        self._begin_apply(self.machines[node])

    def _install_when_idle(self, machine: Machine, meta: SnapshotMeta) -> None:
        """A driver installs only behind all writes and applies that it was given before."""

        def give(m: Member, now: Instant) -> None:
            if machine.applying or m.unapplied or machine.write_done_at > self.t:
                self._later(machine, self.t + MILLISECOND, give)
            else:
                m.install_snapshot(meta, now)

        self._later(machine, self.t + machine.write_ns, give)

    def _snapshot_state(self, meta: SnapshotMeta) -> AppliedState | None:
        for machine in self.machines.values():
            if machine.member is not None and meta in machine.member.snapshots:
                return machine.member.snapshots[meta]
        return None

    def _schedule_tick(self, machine: Machine) -> None:
        member = machine.member
        if member is None:
            return
        at = max(self.t + 1, machine.real(member.replica.next_wakeup(machine.now(self.t))))
        if machine.tick_at is not None and machine.tick_at <= at:
            return
        machine.tick_at = at
        life = machine.life

        def event() -> None:
            if machine.life == life and machine.tick_at == at:
                machine.tick_at = None
                self.feed(machine, lambda m, now: m.replica.tick(now, machine.wall(self.t)))

        self.at(at, event)

    def _send(self, machine: Machine, receiver: NodeId, message: ReplicaMessage) -> None:
        target = self.machines.get(receiver)
        further = self.meddle(machine.node, receiver, message)
        if target is None or further is None:
            return
        encoded = array_of([encode_peer_message(message)])
        sender = machine.node

        def arrive() -> None:
            if (sender, receiver) not in self.network.cut:
                stops = target.replica is not None and self.stops_before_output(target, sender, message)
                self.feed(
                    target,
                    lambda m, now: m.replica.receive(sender, _decode(encoded), now, target.wall(self.t)),
                    pause_before_output=stops,
                )

        for delay in self.network.delays(self.rng):
            self.after(delay + further, arrive)

    def cut_off(self, node: NodeId, *, keep: Iterable[NodeId] = ()) -> None:
        """Cuts all links of a node, both ways, except those with `keep`."""
        others = set(self.machines) - {node, *keep}
        self.network.cut |= {(node, other) for other in others} | {(other, node) for other in others}

    # Questions

    def leader(self) -> Machine | None:
        """The machine that leads in the highest term, of those that run."""
        leading = [
            machine
            for machine in self.machines.values()
            if machine.replica is not None and machine.replica.core.is_leader
        ]
        return max(leading, key=lambda machine: machine.replica.core.term if machine.replica else 0, default=None)

    def led_by(self, node: NodeId) -> bool:
        replica = self.machines[node].replica
        return replica is not None and replica.core.is_leader

    def may_serve(self, node: NodeId) -> bool:
        machine = self.machines[node]
        return machine.replica is not None and machine.replica.may_serve(machine.now(self.t))

    def propose(self, machine: Machine, commands: list[bytes]) -> LogIndex:
        """At a member that runs. Raises as `Replica.propose` does; it must be running."""
        member = machine.member
        require(member is not None and not machine.paused, "proposed at a member that doesn't run")
        try:
            return (
                member.replica.propose(commands, machine.now(self.t), machine.wall(self.t)) if member else LogIndex(0)
            )
        finally:
            self._drain(machine)

    # The checker

    def check(self) -> None:
        """After every step. Raises `ContractBroken`."""
        leaders_serving = []
        for machine in self.machines.values():
            replica = machine.replica
            if replica is None:
                continue
            if replica.core.is_leader:
                replica.acknowledges(LogIndex(0), machine.now(self.t))  # Leases that have just ended count no more.
                if not self.leaders or self.leaders[-1] != (replica.core.term, machine.node):
                    self._note_leader(replica.core.term, machine.node)
                if replica.may_serve(machine.now(self.t)):
                    leaders_serving.append(machine.node)
            if replica.settled_index > self.settled:
                self.settled = replica.settled_index
                self.settled_at.append((self.t, self.settled))
        if len(leaders_serving) > 1:
            raise ContractBroken(f"at {self.t}: two leaders serve: {leaders_serving}")
        self._check_servers()

    def _check_servers(self) -> None:
        for machine in self.machines.values():
            replica = machine.replica
            if replica is None or not replica.may_serve(machine.now(self.t)):
                continue
            self.serving_seen += 1
            if replica.applied_index < self.settled:
                raise ContractBroken(
                    f"at {self.t}: {machine.node} may serve with {replica.applied_index} applied, "
                    f"{self.settled} is settled"
                )

    def _note_leader(self, term: Term, node: NodeId) -> None:
        if (term, node) not in self.leaders:
            require(all(term != other for other, _ in self.leaders), f"two leaders in term {term}")
            self.leaders.append((term, node))

    def _compare_history(self, member: Member) -> None:
        for index, digest in list(member.digests.items())[-64:]:
            known = self._history.setdefault(index, digest)
            require(known == digest, f"{member.node} applied another entry at {index}")


def offer_snapshot(peer: NodeId, member: Member, now: Instant) -> None:
    member.offer_snapshot(peer, now, size=SNAPSHOT_BYTES)


def read_snapshot(read: SnapshotRead, member: Member, now: Instant) -> None:
    member.read_snapshot(read, now, size=SNAPSHOT_BYTES)


def _decode(encoded: bytes) -> ReplicaMessage:
    """As a node does; replicas in here forward nothing."""
    [message] = decode_peer_messages(encoded)
    require(not isinstance(message, Forward | ForwardReply), "a replica sent a forwarded command")
    return cast(ReplicaMessage, message)
