"""The heap, the network and the machines: inputs of replicas, and where their outputs go.

An event is one tuple; nothing else is made for it. What a machine gets is an *input*: its clock is read, the replica
called, its outputs handed on, and the checkers look at what changed. Everything random comes from one generator, in the
order of events.

Scenarios (`tests/cluster/leases`) use the same world with `feed`, `meddle`, `stops_before_output` and the run methods.
"""

import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keycluster.cluster.invariant import require
from keycluster.cluster.peer_messages import ReplicaMessage
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.messages import Entry, Membership
from keycluster.cluster.raft.ready import ReadAnswer
from keycluster.cluster.replica import NOTHING_TO_DO, ReplicaConfig, ReplicaReady
from keycluster.cluster.types import SECOND, ClusterTime, Instant, LogIndex, NodeId, Term
from keycluster.cluster.witness import RolledBack
from keycluster.simulations.core import votes
from keycluster.simulations.core.contract import Contract
from keycluster.simulations.core.door import Door
from keycluster.simulations.core.machine import ANY_LIFE, NO_TICK, PPM, Give, Machine, Trap, TrapKind
from keycluster.simulations.core.member import Disk, DurableLog, Member
from keycluster.simulations.core.membership_checks import MembershipChecks
from keycluster.simulations.core.network import Network
from keycluster.simulations.core.promises import require_kept
from keycluster.simulations.core.safety import RaftSafety
from keycluster.simulations.core.state import AppliedState, stamp
from keycluster.simulations.core.storage import Storage
from keycluster.simulations.trace import Trace, What

Input = Callable[[Member, Instant], object]
Meddle = Callable[[NodeId, NodeId, ReplicaMessage], int | None]
"""(sender, receiver, message) -> further delay in nanoseconds, or None: it is lost. For scenarios."""
Stops = Callable[[Machine, NodeId, ReplicaMessage], bool]
"""(machine, sender, message) -> whether the process stops between this message and what it leads to."""
_Sent = tuple[Machine, int, Sequence[ReplicaMessage]]
"""A frame on its way: who sent it, in which life."""
Event = tuple[int, int, Machine | None, int, Callable[..., None], Any, Any]
"""When, which of that instant, whose input (None: not an input), of which life of it, what to call, with what."""


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
        trace: Trace | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.raft = raft or RaftConfig()
        self.config = config or ReplicaConfig()
        self.network = network or Network()
        self.trace = trace or Trace()
        self.t = 0
        self.steps = 0
        self.meddle: Meddle | None = None
        self.stops_before_output: Stops | None = None
        self.on_rolled_back: Callable[[Machine, RolledBack], None] | None = None
        self.machines: dict[NodeId, Machine] = {}
        self.contract = Contract(self.machines)
        self.contract.on_role = self._role_changed
        self.safety = RaftSafety()
        self.storage = Storage(self)
        self.wall_leapt_ns = 0  # All wall clocks together.
        self._heap: list[Event] = []
        self._held: list[tuple[Machine, _Sent]] = []  # On clogged links.
        self._events = 0
        self.draw = self.rng.random
        self.note = self.trace.note
        ids = [NodeId(f"n{number}") for number in range(1, voters + learners + 1)]
        self.genesis = Membership(voters=tuple(sorted(ids[:voters])), learners=tuple(sorted(ids[voters:])))
        self.memberships = MembershipChecks(self.genesis, self.machines)
        for node in ids:
            self.add_machine(node)

    # Machines

    def add_machine(self, node: NodeId, *, ppm: int = 0) -> Machine:
        """A new machine with an empty disk; it knows the region's first configuration, like a node that was founded
        with it or has joined."""
        state = AppliedState(index=LogIndex(0), term=Term(0), membership=self.genesis)
        disk = Disk(DurableLog(LogIndex(0), Term(0)), state)
        machine = Machine(node, disk, clock_base=self.rng.randrange(10**15), clock_ppm=ppm)
        self.machines[node] = machine
        return machine

    def start(self, node: NodeId) -> None:
        machine = self.machines[node]
        if machine.member is not None:
            return
        now = machine.now(self.t)
        votes.started(machine, now)

        def stamp_and_look(command: bytes, time: ClusterTime, running_ns: int) -> bytes:
            self.contract.stamps(machine, time, running_ns, ns_max=self.t * (PPM + self.raft.drift_ppm) // PPM)
            return stamp(command, time, running_ns)

        machine.member = Member(
            node,
            machine.disk,
            raft=self.raft,
            config=self.config,
            rng=random.Random(self.rng.random()),
            stamp=stamp_and_look,
            now=now,
        )
        self.note(self.t, node, What.STARTS)
        for other in list(self.machines.values()):
            if other is not machine and (other.node, node) not in self.network.cut:
                self.greet(other, machine)
        self._hand_on(machine, now)

    def greet(self, knowing: Machine, known: Machine) -> bool:
        """A link comes up: one end tells the other what it knows the other acknowledged. False if none can."""
        if knowing.replica is None or known.replica is None:
            return False
        known.greeted[knowing.node] = knowing.life
        pair = knowing.replica.known_of(known.node)
        if pair is not None:
            try:
                known.replica.learn_known_of_me(*pair)
            except RolledBack as noticed:
                self._rolled_back(known, noticed)
        return known.member is not None

    def _rolled_back(self, machine: Machine, noticed: RolledBack) -> None:
        """The machine noticed that its disk is an old one."""
        if self.on_rolled_back is None:
            raise noticed
        self.on_rolled_back(machine, noticed)

    def start_all(self) -> None:
        for node in list(self.machines):
            self.start(node)

    def crash(self, node: NodeId) -> None:
        """Memory and writes under way are lost."""
        machine = self.machines[node]
        if machine.member is not None:
            self.note(self.t, node, What.CRASHES)
        self.contract.crashed(machine)
        self.storage.crashed(machine)
        machine.lose_memory()

    def pause(self, node: NodeId) -> None:
        """SIGSTOP: nothing runs; what comes in waits, and its clock is read when it is looked at."""
        machine = self.machines[node]
        if not machine.paused and machine.member is not None:
            machine.paused = True
            self.note(self.t, node, What.PAUSES)

    def resume(self, node: NodeId) -> None:
        machine = self.machines[node]
        if machine.member is None or not machine.paused:
            return
        machine.paused = False
        self.note(self.t, node, What.RESUMES)
        now = machine.now(self.t)
        self.contract.require_current(machine, now)  # A request may be the first thing that it looks at.
        if machine.drain_waits:
            machine.drain_waits = False
            self._hand_on(machine, now)
        while machine.waiting and not machine.paused and machine.member is not None:
            self.take(machine, *machine.waiting.popleft())

    # Time

    def at(self, t: int, event: Callable[[], None]) -> None:
        self.push(t, None, ANY_LIFE, _call, event, None)

    def after(self, ns: int, event: Callable[[], None]) -> None:
        self.at(self.t + ns, event)

    def push(  # noqa: PLR0917  # An event's own fields, in its order.
        self, t: int, machine: Machine | None, life: int, give: Callable[..., None], a: Any, b: Any
    ) -> None:
        """An input of a life of a machine, or an event of the world's own (None)."""
        self._events += 1
        heapq.heappush(self._heap, (t if t > self.t else self.t, self._events, machine, life, give, a, b))

    def run_until(self, t: int) -> None:
        """Steps up to real time `t`, the checkers behind each."""
        heap = self._heap
        while heap and heap[0][0] <= t:
            self.t, _, machine, life, give, a, b = heapq.heappop(heap)
            self.steps += 1
            if machine is None:
                give(a, b)
            elif machine.life == life and machine.member is not None:
                if machine.paused:
                    machine.waiting.append((give, a, b))
                else:
                    self.take(machine, give, a, b)
        self.t = max(t, self.t)

    def run_for(self, ns: int) -> None:
        self.run_until(self.t + ns)

    def run_while(self, condition: Callable[[], bool], *, ns_max: int) -> int:
        """Runs until `condition` no longer holds; how long that took. Raises `InvariantBroken` after `ns_max`."""
        begun = self.t
        while condition():
            require(bool(self._heap) and self._heap[0][0] <= begun + ns_max, f"still so after {ns_max / SECOND} s")
            self.run_until(self._heap[0][0])
        return self.t - begun

    # Inputs

    def take(self, machine: Machine, give: Give, a: Any, b: Any) -> None:
        """One input of a machine that runs: the clock is read, the replica called, its outputs are handed on."""
        now = machine.now(self.t)
        give(machine, now, a, b)
        if not machine.drain_waits:
            self._hand_on(machine, now)

    def _hand_on(self, machine: Machine, now: Instant) -> None:
        """Hands on what the replica has to say since its last input, and looks at what changed."""
        trap, member = machine.trap, machine.member
        if trap is not None and trap.what is not TrapKind.CRASH_AT_WRITE and trap.springs():
            self._spring(machine, trap, now)
            return
        if member is None:
            return
        ready = member.replica.ready()
        if ready is not NOTHING_TO_DO:  # Two of five inputs lead to nothing.
            self._work_off(machine, member, now, ready)
        machine.tick_due = member.replica.next_wakeup(now)
        if machine.tick_due < machine.wakes_at:
            self._wake(machine)
        self.contract.stepped(machine, member, self.t, now)
        door = machine.door
        if door is not None and (door.in_log or door.unsettled or door.answers):
            self._at_door(door, now)

    def _work_off(self, machine: Machine, member: Member, now: Instant, ready: ReplicaReady) -> None:
        if ready.messages:
            self._send_all(machine, ready.messages)
        if ready.persist is not None:
            self.storage.write(machine, ready.persist)
        if ready.committed:
            self.storage.apply(machine, member, ready.committed)
        if ready.reads:
            self._read_answers(machine, now, ready.reads)
        if ready.snapshot_chunk or ready.snapshot_install or ready.snapshots_wanted or ready.snapshot_reads:
            self.storage.take_snapshots(machine, ready)

    def _at_door(self, door: Door, now: Instant) -> None:
        """After each input of a machine at whose door something waits."""

    def _spring(self, machine: Machine, trap: Trap, now: Instant) -> None:
        """The fault that waited for this input falls between it and what it leads to, or into the midst of that."""
        machine.trap = None
        if trap.what is TrapKind.PAUSE_BEFORE_OUTPUT:
            machine.drain_waits = True
            self.pause(machine.node)
        elif machine.member is not None:
            ready = machine.member.replica.ready()
            sent = trap.rng.randint(0, len(ready.messages))
            self._send_all(machine, ready.messages[:sent])
            if ready.persist is not None and machine.writing is None and trap.rng.random() < 0.5:
                self.storage.write_now(machine, [ready.persist])
            self.contract.stepped(machine, machine.member, self.t, now)
            self.crash(machine.node)
        trap.then()

    def feed(self, machine: Machine, give: Input) -> None:
        """One input of a scenario's own."""
        if machine.member is None:
            return
        if machine.paused:
            machine.waiting.append((_give, give, None))
        else:
            self.take(machine, _give, give, None)

    def _wake(self, machine: Machine) -> None:
        """When its tick is due."""
        machine.wakes_at = machine.tick_due
        at = max(self.t + 1, machine.real(machine.tick_due))
        self.push(at, None, ANY_LIFE, self._woken, machine, machine.wakes_at)

    def _woken(self, machine: Machine, wakes_at: Instant) -> None:
        """Its clock shows the instant, unless it was to wake earlier after all."""
        if machine.member is None or machine.wakes_at != wakes_at:
            return
        machine.wakes_at = NO_TICK
        if machine.paused:
            machine.waiting.append((self._tick, None, None))
        elif machine.tick_due > machine.now(self.t):
            self._wake(machine)  # Each input since has put the tick off.
        else:
            self.take(machine, self._tick, None, None)

    def _tick(self, machine: Machine, now: Instant, _: None, __: None) -> None:
        if machine.member is None:
            return
        replica = machine.member.replica
        replica.tick(now, machine.wall(self.t))
        self.contract.shows_time(machine, replica.cluster_time(now))
        serves = replica.may_serve(now)
        if serves is not machine.serves:
            machine.serves = serves
            self.note(self.t, machine.node, What.SERVES if serves else What.SERVES_NOT)

    def _frame(self, machine: Machine, now: Instant, sender: NodeId, messages: Sequence[ReplicaMessage]) -> None:
        member = machine.member
        if member is None:
            return
        t = self.t
        wall, note, receive = machine.wall(t), self.note, member.replica.receive
        for message in messages:
            note(t, machine.node, type(message).__name__, sender)
            if not isinstance(message, votes.ABOUT_LEADERS):  # Nine of ten.
                receive(sender, message, now, wall)
                continue
            before = votes.stand_of(machine)
            receive(sender, message, now, wall)
            votes.took(machine, sender, message, before, now)

    # For a world that has more on top of its replicas

    def _read_answers(self, machine: Machine, now: Instant, answers: Sequence[ReadAnswer]) -> None:
        """What became of reads that were asked of the replica."""

    def applied(self, machine: Machine, entries: Sequence[Entry]) -> None:
        """The member's state has these now."""

    def state_replaced(self, machine: Machine) -> None:
        """The member's state is a snapshot's."""

    def set_clock(self, machine: Machine, ppm: int) -> None:
        """Its clock runs at another rate from now on."""
        machine.set_rate(ppm, self.t)
        if machine.member is not None and machine.wakes_at != NO_TICK:
            self._wake(machine)

    def leap(self, by_ns: int) -> None:
        """All wall clocks are set to another time at once, also those of machines that are off, or yet to come."""
        self.wall_leapt_ns += by_ns
        for machine in self.machines.values():
            machine.wall_offset_ns += by_ns
            machine.wall_offset_founded_ns += by_ns

    def set_disk_stalls(self, node: NodeId, stalls: bool) -> None:
        """No write completes until it is set back."""
        self.storage.set_stalls(self.machines[node], stalls)

    def set_apply_hangs(self, node: NodeId, hangs: bool) -> None:
        """Its apply makes no progress from the next batch on, though all else of it runs."""
        self.storage.set_apply_hangs(self.machines[node], hangs)

    # Network

    def _send_all(self, machine: Machine, messages: Sequence[tuple[NodeId, ReplicaMessage]]) -> None:
        """What there is for one receiver travels together, as it does on a stream."""
        require_kept(machine, messages)
        if self.meddle is not None:
            for receiver, message in messages:
                further = self.meddle(machine.node, receiver, message)
                if further is not None:
                    self._send(machine, receiver, [message], further)
            return
        if len(messages) == 1:
            [(receiver, message)] = messages
            self._send(machine, receiver, [message], 0)
            return
        frames: dict[NodeId, list[ReplicaMessage]] = {}
        for receiver, message in messages:
            if receiver in frames:
                frames[receiver].append(message)
            else:
                frames[receiver] = [message]
        for receiver, frame in frames.items():
            self._send(machine, receiver, frame, 0)

    def _send(self, machine: Machine, receiver: NodeId, frame: Sequence[ReplicaMessage], further: int) -> None:
        target = self.machines.get(receiver)
        if target is None:
            return
        network, sent = self.network, (machine, machine.life, frame)
        if network.loss or network.duplicate or network.slow_chance:
            for delay in network.delays(self.rng, (machine.node, receiver), self.t):
                self.push(self.t + delay + further, None, ANY_LIFE, self._arrive, target, sent)
        else:  # As `push` does it: most events are made here.
            self._events += 1
            t = self.t + network.delay_ns_min + int(self.draw() * network.delay_ns_spread) + further
            heapq.heappush(self._heap, (t, self._events, None, ANY_LIFE, self._arrive, target, sent))

    def _arrive(self, target: Machine, sent: _Sent) -> None:
        sender, life, frame = sent
        network = self.network
        if target.member is None:
            return
        if network.cut and (sender.node, target.node) in network.cut:
            network.stopped((sender.node, target.node))
            return
        if network.clogged and (sender.node, target.node) in network.clogged:
            network.held((sender.node, target.node))
            self._held.append((target, sent))
            return
        if target.greeted.get(sender.node, ANY_LIFE) < life and (sender.life != life or not self.greet(sender, target)):
            return  # On a new stream nothing comes before the hello. (What an earlier life sent may come behind it.)
        if target.paused:
            target.waiting.append((self._frame, sender.node, frame))
            return
        if self.stops_before_output is not None and self.stops_before_output(target, sender.node, frame[0]):
            target.drain_waits = True
        now = target.now(self.t)
        self._frame(target, now, sender.node, frame)
        if target.drain_waits:
            self.pause(target.node)
        else:
            self._hand_on(target, now)

    def release_held(self) -> None:
        """What waited on links that are clogged no more arrives."""
        held, self._held = self._held, []
        for target, sent in held:
            self.push(self.t, None, ANY_LIFE, self._arrive, target, sent)

    def drop_frames_of_the_dead(self) -> None:
        """What is still on its way from processes that are gone is lost."""

        def is_of_the_dead(event: Event) -> bool:
            return event[4] == self._arrive and event[6][0].life != event[6][1]

        self._heap[:] = [event for event in self._heap if not is_of_the_dead(event)]
        heapq.heapify(self._heap)

    def cut_off(self, node: NodeId, *, keep: Iterable[NodeId] = ()) -> None:
        """Cuts all links of a node, both ways, except those with `keep`."""
        others = set(self.machines) - {node, *keep}
        self.network.cut |= {(node, other) for other in others} | {(other, node) for other in others}

    # Questions

    @property
    def settled(self) -> LogIndex:
        """The newest that any replica ever took for settled."""
        return self.contract.settled

    @property
    def settled_at(self) -> list[tuple[int, LogIndex]]:
        return self.contract.settled_at

    def leader(self) -> Machine | None:
        """The machine that leads in the highest term, of those that run."""
        leading = [machine for machine in self.contract.leading.values() if machine.replica is not None]
        return max(leading, key=lambda machine: machine.leads_in or 0, default=None)

    def led_by(self, node: NodeId) -> bool:
        replica = self.machines[node].replica
        return replica is not None and replica.core.is_leader

    def may_serve(self, node: NodeId) -> bool:
        machine = self.machines[node]
        return machine.replica is not None and machine.replica.may_serve(machine.now(self.t))

    def propose(self, machine: Machine, commands: list[bytes]) -> LogIndex:
        """At a member that runs. Raises as `Replica.propose` does."""
        require(machine.replica is not None, "proposed at a member that doesn't run")
        first: list[LogIndex] = []
        self.feed(
            machine, lambda member, now: first.append(member.replica.propose(commands, now, machine.wall(self.t)))
        )
        return first[0]

    def _role_changed(self, machine: Machine, term: Term | None) -> None:
        if term is None:
            self.note(self.t, machine.node, What.FOLLOWS)
        else:
            self.note(self.t, machine.node, What.LEADS, term)
            self.safety.led(machine.node, term, machine.disk.log)


def _call(event: Callable[[], None], _: None) -> None:
    event()


def _give(machine: Machine, now: Instant, give: Input, _: None) -> None:
    if machine.member is not None:
        give(machine.member, now)
