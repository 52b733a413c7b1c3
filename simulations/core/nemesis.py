"""Carries out a schedule of faults: each is decided when it happens, by its own random numbers.

Half of the faults seek the leader, and some wait for a bad moment (`ambushes.py`). A fault that finds nobody it could
hit isn't even traced. Counted are those that had an effect, once each, by whoever notices it: weather, cuts and clogs
when a frame first felt them, faults of disks when the first work waited, changes of members once they are committed.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Final

from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import MILLISECOND, SECOND, NodeId
from keycluster.simulations.core import changes, links
from keycluster.simulations.core.ambushes import CUT_NS, Ambushes
from keycluster.simulations.core.cuts import Cuts
from keycluster.simulations.core.machine import WRITE_NS, Machine, Trap, TrapKind
from keycluster.simulations.core.member import Disk
from keycluster.simulations.core.network import Effect, Link, Weather
from keycluster.simulations.core.rollback import RollBacks
from keycluster.simulations.core.served import ServedWorld
from keycluster.simulations.faults import Effective, Fault, FaultKind, Leap, draw_leap
from keycluster.simulations.trace import What

SEEKS_LEADER = 0.5
SEEKS_MEMBER = 0.9
TRAP_STEPS_MAX = 40  # A node takes a hundred or so in a second.
TRAP_WRITES_MAX = 5
SLOWEST_WRITE_NS = 80 * MILLISECOND
WALL_JUMP_NS_MAX = 200 * SECOND  # Beyond a minute a node refuses to serve.
AMBUSH_CHANCE = 0.5  # That a fault which can waits for a bad moment.
RESTART_AMBUSH_CHANCE = 0.2
OVERTAKEN_NS_MIN = 1_500 * MILLISECOND  # Longer than a lease, for which changes wait.
COPY_AGES_NS = 200 * MILLISECOND  # So old a copy of a disk is when it is put in, …
COPY_KEPT_NS_MAX = 5 * SECOND  # … and so much older where little is written.
HAND_OVER_NS_MAX = 2 * SECOND  # As long as a node that is told to stop waits for another one to lead.

Act = Callable[["Nemesis", Fault, random.Random], str | None]
"""Begins a fault, and sees to it that it is counted. Whom it hit, in words; None: nothing happened."""


class Nemesis:
    def __init__(self, world: ServedWorld, schedule: Sequence[Fault], *, drift_ppm: int) -> None:
        self._effective = Effective()
        self.counts = self._effective.counts
        self.took_effect = self._effective.add
        self._world = world
        self._schedule = schedule
        self._drift_ppm = drift_ppm
        self._unfelt: dict[tuple[NodeId, FaultKind], list[Fault]] = defaultdict(list)  # By any work of the machine's.
        self._asked: list[tuple[Fault, Membership]] = []  # Changes of members that leaders have begun.
        self._ended = False
        world.memberships.on_committed = self._members_changed
        self.rollbacks = RollBacks(world, self._restart_later)
        self._cuts = Cuts(world, self._later)
        self._ambushes = Ambushes(
            world,
            self._cuts,
            later=self._later,
            crash_for=self._crash_for,
            happened=self._happened,
            took_effect=self.took_effect,
        )

    def start(self) -> None:
        for fault in self._schedule:
            self._world.at(fault.at_ns, partial(self._begin, fault))

    def end(self) -> None:
        """Nothing of what it began goes on, and nothing begins."""
        world = self._world
        self._ended = True
        self._unfelt.clear()
        world.network.heal()
        world.release_held()
        for node, machine in world.machines.items():
            machine.trap = machine.rots_next = None
            machine.felt = None
            machine.apply_ns = machine.write_ns = WRITE_NS
            machine.wall_offset_ns = machine.wall_offset_founded_ns
            world.set_disk_stalls(node, False)
            world.set_apply_hangs(node, False)
        self.rollbacks.end()

    def _begin(self, fault: Fault) -> None:
        if self._ended:
            return
        whom = ACTS[fault.kind](self, fault, fault.rng())
        if whom is not None:
            self._happened(fault, whom)

    def _happened(self, fault: Fault, whom: str) -> None:
        self._world.trace.note(self._world.t, "nemesis", What.FAULT, fault.kind.value, whom, fault.for_ns)

    def _later(self, ns: int, act: Callable[[], None]) -> None:
        self._world.after(ns, partial(self._unless_ended, act))

    def _unless_ended(self, act: Callable[[], None]) -> None:
        if not self._ended:
            act()

    # Whom

    def _running(self) -> list[Machine]:
        return [machine for machine in self._world.machines.values() if machine.replica is not None]

    def _victim(self, rng: random.Random) -> Machine | None:
        """Of those that run; mostly a member: machines that were removed run on, more and more of them."""
        leader = self._world.leader()
        if leader is not None and rng.random() < SEEKS_LEADER:
            return leader
        running = self._running()
        if rng.random() < SEEKS_MEMBER:
            newest = max((machine.disk.state for machine in self._world.machines.values()), key=lambda s: s.index)
            members = [machine for machine in running if newest.membership.is_member(machine.node)]
            running = members or running
        return rng.choice(running) if running else None

    def _restart_later(self, node: NodeId, ns: int) -> None:
        self._later(ns, partial(self._start, node))

    def _start(self, node: NodeId) -> None:
        if not self.rollbacks.keeps_out(node):
            self._world.start(node)

    # Network

    def _loss(self, fault: Fault, rng: random.Random) -> str:
        return self._begin_weather(fault, Effect.LOST, loss=0.01 + 0.4 * fault.strength**2)

    def _delay(self, fault: Fault, rng: random.Random) -> str:
        longest = rng.choice([20, 100, 400, 1_500]) * MILLISECOND
        return self._begin_weather(fault, Effect.DELAYED, slow_chance=0.01 + 0.2 * fault.strength, slow_ns_max=longest)

    def _duplicate(self, fault: Fault, rng: random.Random) -> str:
        return self._begin_weather(fault, Effect.DOUBLED, duplicate=0.02 + 0.5 * fault.strength)

    def _reorder(self, fault: Fault, rng: random.Random) -> str:
        longest = int((2 + 60 * fault.strength) * MILLISECOND)
        return self._begin_weather(fault, Effect.OVERTAKEN, slow_chance=0.5, slow_ns_max=longest)

    def _begin_weather(
        self,
        fault: Fault,
        effect: Effect,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        slow_chance: float = 0.0,
        slow_ns_max: int = 0,
    ) -> str:
        weather = Weather(loss, duplicate, slow_chance, slow_ns_max)
        self._world.network.begin_weather(fault.number, weather, effect, partial(self.took_effect, fault))
        self._later(fault.for_ns, partial(self._world.network.end_weather, fault.number))
        return " ".join(f"{name} {value:.3g}" for name, value in asdict(weather).items() if value)

    def _reset(self, fault: Fault, rng: random.Random) -> str | None:
        """Links break and come up again: a whole disk must never be taken for a rolled-back one."""
        victim = self._victim(rng)
        if victim is None:
            return None
        broken = len(victim.greeted)
        victim.greeted.clear()
        for other in self._world.machines.values():
            broken += other.greeted.pop(victim.node, None) is not None
        if broken:
            self.took_effect(fault)
        return str(victim.node)

    def _cut(
        self,
        draw: Callable[[ServedWorld, Machine | None, float, random.Random], set[Link]],
        fault: Fault,
        rng: random.Random,
    ) -> str | None:
        victim, leader = self._victim(rng), self._world.leader()
        if victim is leader and rng.random() < AMBUSH_CHANCE:
            if rng.random() < 0.5:
                return self._ambushes.until_successor(fault, rng)
            return self._ambushes.at_candidate(fault, rng, fault.for_ns, provokes=True)
        cut = draw(self._world, victim, fault.strength, rng)
        return self._cut_links(fault, cut) if cut else None

    def _cut_links(self, fault: Fault, cut: Iterable[Link]) -> str:
        self._cuts.begin(cut, fault.for_ns, partial(self.took_effect, fault))
        return links.describe(cut)

    def _clog(self, fault: Fault, rng: random.Random) -> str | None:
        """Swizzled: links stop one by one, and go on one by one in another order."""
        chosen = links.some_of_all(self._world, 0.2 + 0.8 * fault.strength, rng)
        if not chosen:
            return None
        for place, link in enumerate(chosen):
            self._later(fault.for_ns * place // (3 * len(chosen)), partial(self._stop_link, fault, link))
        rng.shuffle(chosen)
        for place, link in enumerate(chosen):
            at = fault.for_ns * 2 // 3 + fault.for_ns * (place + 1) // (3 * len(chosen))
            self._later(at, partial(self._free_link, fault.number, link))
        return links.describe(chosen)

    def _stop_link(self, fault: Fault, link: Link) -> None:
        self._world.network.begin_clog(fault.number, [link], partial(self.took_effect, fault))

    def _free_link(self, number: int, link: Link) -> None:
        if self._world.network.end_clog(number, link):
            self._world.release_held()

    # Processes

    def _lose_az(self, fault: Fault, rng: random.Random) -> str | None:
        victim = self._victim(rng)
        if victim is None:
            return None
        gone = [node for node, machine in self._world.machines.items() if machine.az == victim.az]
        if rng.random() < 0.5:
            self._cut_links(fault, links.between(gone, [node for node in self._world.machines if node not in gone]))
            return f"{victim.az} is cut off: {' '.join(gone)}"
        self.took_effect(fault)
        for node in gone:
            self._crash_for(node, fault.for_ns)
        return f"{victim.az} crashes: {' '.join(gone)}"

    def _crash(self, fault: Fault, rng: random.Random) -> str | None:
        if rng.random() < RESTART_AMBUSH_CHANCE:
            return self._ambushes.restart_before_vote(fault, rng)
        victim = self._victim(rng)
        if victim is None:
            return None
        self.took_effect(fault)
        self._crash_for(victim.node, fault.for_ns)
        return str(victim.node)

    def _crash_for(self, node: NodeId, ns: int) -> None:
        self._world.crash(node)
        self._restart_later(node, ns)

    def _crash_all(self, fault: Fault, rng: random.Random) -> str | None:
        crashed = list(self._world.machines)
        if any(machine.member is not None for machine in self._world.machines.values()):
            self.took_effect(fault)
        for node in crashed:
            self._crash_for(node, rng.randint(1, max(1, fault.for_ns)))
        return "all"

    def _trap(self, what: TrapKind, fault: Fault, rng: random.Random) -> str | None:
        victim = self._victim(rng)
        if victim is None or victim.trap is not None:
            return None
        steps = rng.randint(0, TRAP_WRITES_MAX if what is TrapKind.CRASH_AT_WRITE else TRAP_STEPS_MAX)
        victim.trap = Trap(what, steps, rng, partial(self._sprung, what, fault, victim.node))
        return str(victim.node)

    def _sprung(self, what: TrapKind, fault: Fault, node: NodeId) -> None:
        self.took_effect(fault)
        if what is TrapKind.PAUSE_BEFORE_OUTPUT:
            self._later(fault.for_ns, partial(self._world.resume, node))
        else:
            self._restart_later(node, fault.for_ns)

    def _restart(self, fault: Fault, rng: random.Random) -> str | None:
        """As by SIGTERM: a leader hands over first, and waits for another one to lead."""
        if rng.random() < RESTART_AMBUSH_CHANCE:
            return self._ambushes.restart_before_vote(fault, rng)
        victim = self._victim(rng)
        if victim is None:
            return None
        if not changes.hand_over(self._world, victim):
            self._stop(fault, victim, victim.life)
        else:
            self._stop_when_led(fault, victim, victim.life, self._world.t + HAND_OVER_NS_MAX)
        return str(victim.node)

    def _stop_when_led(self, fault: Fault, machine: Machine, life: int, deadline: int) -> None:
        replica = machine.replica
        waits = replica is None or replica.core.leader in (None, machine.node)
        if machine.life == life and waits and self._world.t < deadline:
            self._later(10 * MILLISECOND, partial(self._stop_when_led, fault, machine, life, deadline))
        else:
            self._stop(fault, machine, life)

    def _stop(self, fault: Fault, machine: Machine, life: int) -> None:
        if machine.life == life:
            self.took_effect(fault)
            self._crash_for(machine.node, fault.for_ns)

    def _pause(self, fault: Fault, rng: random.Random) -> str | None:
        victim = self._victim(rng)
        if victim is None:
            return None
        self.took_effect(fault)
        self._world.pause(victim.node)
        self._later(fault.for_ns, partial(self._world.resume, victim.node))
        return str(victim.node)

    # Machines

    def _drift(self, fault: Fault, rng: random.Random) -> str:
        """Every clock gets another rate; its reading stays."""
        bound = self._drift_ppm
        for machine in self._world.machines.values():
            before = machine.clock_ppm
            self._world.set_clock(machine, rng.choice([-bound, bound, 0, rng.randint(-bound, bound)]))
            if machine.clock_ppm != before:
                self.took_effect(fault)
        return " ".join(f"{node}:{machine.clock_ppm}" for node, machine in self._world.machines.items())

    def _wall_jump(self, fault: Fault, rng: random.Random) -> str | None:
        victim = self._victim(rng)
        if victim is None:
            return None
        by = int(rng.choice([-1, 1]) * WALL_JUMP_NS_MAX * fault.strength**2)
        victim.wall_offset_ns += by
        if by:
            self.took_effect(fault)
        self._later(fault.for_ns, partial(self._jump_back, victim, by))
        return f"{victim.node} by {by}"

    def _jump_back(self, machine: Machine, by: int) -> None:
        machine.wall_offset_ns -= by

    def _wall_leap(self, fault: Fault, rng: random.Random) -> str | None:
        """Half of them wait until somebody campaigns: cluster time is about to change hands."""
        leap = draw_leap(rng, leapt_ns=self._world.wall_leapt_ns)
        if leap is None:
            return None
        if rng.random() < AMBUSH_CHANCE and self._ambushes.at_succession(fault, partial(self._leap, fault, leap)):
            return f"by {leap.by_ns}, once leadership is in doubt"
        self._leap(fault, leap)
        return f"by {leap.by_ns}"

    def _leap(self, fault: Fault, leap: Leap) -> None:
        self.took_effect(fault)
        self._world.leap(leap.by_ns)
        if leap.is_taken_back:
            self._later(fault.for_ns, partial(self._world.leap, -leap.by_ns))

    def _disk_slow(self, fault: Fault, rng: random.Random) -> str | None:
        victim = self._victim(rng)
        if victim is None:
            return None
        victim.write_ns = 2 * MILLISECOND + int(SLOWEST_WRITE_NS * fault.strength)
        victim.apply_ns = victim.write_ns
        self._unfelt[victim.node, fault.kind].clear()  # The disk is as slow now as this one says.
        self._lasts(fault, victim, partial(self._disk_well, victim))
        return f"{victim.node} {victim.write_ns}"

    def _disk_well(self, machine: Machine) -> None:
        machine.write_ns = machine.apply_ns = WRITE_NS

    def _lasts(self, fault: Fault, machine: Machine, end: Callable[[], None]) -> None:
        """It is counted when any of the machine's work first waits because of it, before it is over."""
        unfelt = self._unfelt[machine.node, fault.kind]
        unfelt.append(fault)
        machine.felt = partial(self._felt, machine.node)

        def over() -> None:
            if fault in unfelt:
                unfelt.remove(fault)
            end()

        self._later(fault.for_ns, over)

    def _felt(self, node: NodeId, kind: FaultKind) -> None:
        for fault in self._unfelt.pop((node, kind), ()):
            self.took_effect(fault)

    def _disk_stall(self, fault: Fault, rng: random.Random) -> str | None:
        victim = self._victim(rng)
        if victim is None:
            return None
        self._lasts(fault, victim, partial(self._world.set_disk_stalls, victim.node, False))
        self._world.set_disk_stalls(victim.node, True)
        return str(victim.node)

    def _apply_hang(self, fault: Fault, rng: random.Random) -> str | None:
        victim = self._victim(rng)
        if victim is None:
            return None
        self._lasts(fault, victim, partial(self._world.set_apply_hangs, victim.node, False))
        self._world.set_apply_hangs(victim.node, True)
        return str(victim.node)

    def _roll_back(self, fault: Fault, rng: random.Random) -> str | None:
        """A copy of the disk is kept now and put in later."""
        victim = self._victim(rng)
        if victim is None:
            return None
        copy = victim.disk.copy()
        until = self._world.t + fault.for_ns + COPY_KEPT_NS_MAX
        self._later(max(fault.for_ns, COPY_AGES_NS), partial(self._put_in, fault, victim, copy, rng, until))
        return str(victim.node)

    def _put_in(self, fault: Fault, machine: Machine, copy: Disk, rng: random.Random, until: int) -> None:
        """Later, as long as nothing that anybody knows of has been written since."""
        if self.rollbacks.put_in(machine, copy, rng):
            self.took_effect(fault)
        elif self._world.t < until:
            self._later(COPY_AGES_NS, partial(self._put_in, fault, machine, copy, rng, until))

    def _bit_rot(self, fault: Fault, rng: random.Random) -> str | None:
        """Of a snapshot: a member is down while the others' logs go past it; what it gets then is damaged, must be
        refused, and made again. (What becomes of a store or a log that is damaged is a whole node's matter.)"""
        victim = self._victim(rng)
        if victim is None:
            return None
        victim.rots_next = partial(self.took_effect, fault)
        self._crash_for(victim.node, max(fault.for_ns, OVERTAKEN_NS_MIN))
        self._later(max(fault.for_ns, OVERTAKEN_NS_MIN) - MILLISECOND, partial(self._overtake, victim))
        return str(victim.node)

    def _overtake(self, victim: Machine) -> None:
        for machine in self._running():
            if machine is not victim:
                changes.compact(machine)

    def _compact(self, fault: Fault, rng: random.Random) -> str | None:
        """Far enough that members that lag need a snapshot."""
        victim = self._victim(rng)
        cut = changes.compact(victim) if victim is not None else None
        if cut is not None:
            self.took_effect(fault)
        return cut

    # Members

    def _change_members(self, fault: Fault, rng: random.Random) -> str | None:
        change = changes.change_members(self._world, fault.kind, rng)
        if change is None:
            return None
        if change.has(fault.kind):
            self._asked.append((fault, change.target))
        if rng.random() < AMBUSH_CHANCE:
            self._ambushes.in_joint_phase(fault, rng)
        return str(change)

    def _members_changed(self, membership: Membership) -> None:
        """It is committed, at least as the new half of a joint one."""
        new = (membership.voters, membership.learners)
        for fault, target in self._asked:
            if (target.voters, target.learners) == new:
                self.took_effect(fault)
        self._asked = [asked for asked in self._asked if (asked[1].voters, asked[1].learners) != new]

    def _transfer(self, fault: Fault, rng: random.Random) -> str | None:
        """Often something happens to it on its way."""
        leader_and_target = changes.transfer(self._world, rng)
        if leader_and_target is None:
            return None
        self.took_effect(fault)
        leader, target = leader_and_target
        match rng.randrange(5):
            case 0:
                self._ambushes.at_candidate(fault, rng, rng.randint(*CUT_NS), provokes=False)
            case 1:
                self._ambushes.unheard(fault, leader, target, rng)
            case 2:
                self._ambushes.again(fault, leader, target, rng)
        return f"{leader.node} to {target.node}"


ACTS: Final[dict[FaultKind, Act]] = {
    FaultKind.LOSS: Nemesis._loss,
    FaultKind.DELAY: Nemesis._delay,
    FaultKind.DUPLICATE: Nemesis._duplicate,
    FaultKind.REORDER: Nemesis._reorder,
    FaultKind.RESET: Nemesis._reset,
    FaultKind.PARTITION: lambda nemesis, fault, rng: nemesis._cut(links.partition, fault, rng),
    FaultKind.ONE_WAY: lambda nemesis, fault, rng: nemesis._cut(links.one_way, fault, rng),
    FaultKind.PARTIAL: lambda nemesis, fault, rng: nemesis._cut(links.partial_cut, fault, rng),
    FaultKind.CLOG: Nemesis._clog,
    FaultKind.AZ_LOSS: Nemesis._lose_az,
    FaultKind.CRASH: Nemesis._crash,
    FaultKind.CRASH_AT_STEP: lambda nemesis, fault, rng: nemesis._trap(TrapKind.CRASH_AT_STEP, fault, rng),
    FaultKind.CRASH_AT_WRITE: lambda nemesis, fault, rng: nemesis._trap(TrapKind.CRASH_AT_WRITE, fault, rng),
    FaultKind.CRASH_ALL: Nemesis._crash_all,
    FaultKind.RESTART: Nemesis._restart,
    FaultKind.PAUSE: Nemesis._pause,
    FaultKind.PAUSE_BEFORE_OUTPUT: lambda nemesis, fault, rng: nemesis._trap(TrapKind.PAUSE_BEFORE_OUTPUT, fault, rng),
    FaultKind.DRIFT: Nemesis._drift,
    FaultKind.WALL_JUMP: Nemesis._wall_jump,
    FaultKind.WALL_LEAP: Nemesis._wall_leap,
    FaultKind.DISK_SLOW: Nemesis._disk_slow,
    FaultKind.DISK_STALL: Nemesis._disk_stall,
    FaultKind.APPLY_HANG: Nemesis._apply_hang,
    FaultKind.BIT_ROT: Nemesis._bit_rot,
    FaultKind.ROLLED_BACK: Nemesis._roll_back,
    FaultKind.COMPACT: Nemesis._compact,
    FaultKind.ADD_VOTER: Nemesis._change_members,
    FaultKind.ADD_LEARNER: Nemesis._change_members,
    FaultKind.CHANGE_ROLE: Nemesis._change_members,
    FaultKind.REMOVE: Nemesis._change_members,
    FaultKind.TRANSFER: Nemesis._transfer,
}
