"""Carries out a schedule of faults on a region (`simulations/faults.py`).

A fault decides whom it hits when its time comes, by its own random numbers. One that can't hit anybody then (nobody is
up, the region is too small) has no effect: it is neither counted nor traced. Most faults take effect later, or never:
those are traced when they are set up, and counted, once, when it has come to something: a segment was lost, a write
refused, a log cut, a change of members answered.

What a region can't survive is not done to it: no more disks lose data at a time than a quorum can spare (TigerBeetle
calls this a fault atlas). A disk loses data by bit rot and by being rolled back. Then its node must not be needed: all
other voters are up and hold what is committed, and until it is clear what becomes of the node no other fault strikes.
Either it refuses to go on and is replaced, or it was nothing that mattered.

`peace` ends all that still lasts.
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import trio

from keycluster.simulations.faults import Effective, Fault, FaultKind
from keycluster.simulations.region.attack import Attack
from keycluster.simulations.region.clients import SimClient
from keycluster.simulations.region.node import SimNode
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.trace import Trace, What
from keycluster.simulations.workload.turns import Step

Strike = Callable[["Nemesis", Fault, random.Random], str | None]
"""Does it, and says what was done to whom; None: nothing."""

AT_ONCE = frozenset(
    {
        FaultKind.RESET,
        FaultKind.CRASH,
        FaultKind.CRASH_ALL,
        FaultKind.SEALED_RESTART,
        FaultKind.PAUSE,
        FaultKind.WALL_JUMP,
        FaultKind.CLIENT_CRASH,
        FaultKind.CLIENT_PAUSE,
    }
)
"""Done when their strikes return. All others call `took_effect` themselves."""

LEADER_CHANCE = 0.5  # Faults seek the leader: half of them hit it.


class Nemesis:
    """One run's."""

    def __init__(self, region: SimRegion, *, strikes: Mapping[FaultKind, Strike], trace: Trace) -> None:
        self.region = region
        self.wire = region.wire
        self._effective = Effective()
        self.counts = self._effective.counts
        """Faults that had an effect, by kind."""
        self.clients: list[str] = []
        """Names on the network that may find themselves on either side of a cut."""
        self.programs: Sequence[SimClient] = ()
        """The clients themselves."""
        self.one_off: Callable[[str, Step], Awaitable[object]] | None = None
        """Has a program of its own, on a machine of that name, do one step."""
        self.is_over = False
        self.doubtful: SimNode | None = None
        """Whose disk has lost data; until it is clear what becomes of the node nothing else happens."""
        self.far_off: SimNode | None = None
        """Whose wall clock is hours off."""
        self.attack = Attack(region.network.links)
        self._strikes = strikes
        self._trace = trace
        self._lasting: dict[int, Callable[[], None]] = {}
        self._armed: dict[int, Callable[[], None]] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, faults: Iterable[Fault], *, time_ns: int) -> None:
        """For so long from now on. What operators are still waiting for then is given up."""
        begins = self.wire.now_ns
        async with trio.open_nursery() as self._nursery:
            for fault in faults:
                await self._wait_until(begins + fault.at_ns)
                self.strike(fault)
            await self._wait_until(begins + time_ns)
            self._nursery.cancel_scope.cancel()
        self._nursery = None
        self.peace()

    @property
    def may_strike(self) -> bool:
        """Whether anything may begin now."""
        return not self.is_over and self.doubtful is None

    def strike(self, fault: Fault) -> None:
        """Now, if anything may begin."""
        strike = self._strikes.get(fault.kind)
        if strike is None or not self.may_strike:
            return
        done = strike(self, fault, fault.rng())
        if done is not None:
            if fault.kind in AT_ONCE:
                self.took_effect(fault)
            self._trace.note(self.wire.now_ns, "nemesis", What.FAULT, fault.kind.value, done, fault.for_ns)

    def peace(self) -> None:
        """Ends what lasts, in the order in which it began, and lets nothing new begin."""
        self.is_over = True
        self.end_all()

    def end_all(self) -> None:
        """What lasts, in the order in which it began; traps that haven't sprung never will."""
        while self._armed:
            self._armed.pop(min(self._armed))()
        for number in sorted(self._lasting):
            self._lasting.pop(number)()

    # For strikes

    def took_effect(self, fault: Fault) -> None:
        """Counts it, once."""
        self._effective.add(fault)

    def arm(self, fault: Fault, disarm: Callable[[], None]) -> None:
        """A trap is set. `disarm` is called if it hasn't sprung when there shall be peace or calm."""
        self._armed[fault.number] = disarm

    def springs(self, fault: Fault) -> bool:
        """Whether a trap may still spring; if so it counts as sprung."""
        if self._armed.pop(fault.number, None) is None:
            return False
        self.took_effect(fault)
        return True

    def note(self, kind: str, what: str) -> None:
        """More about a fault, once it is known."""
        self._trace.note(self.wire.now_ns, "nemesis", "detail", kind, what)

    def lasts(self, fault: Fault, end: Callable[[], None]) -> None:
        """`end` is called when the fault is over: in its time, or at the peace."""
        self._lasting[fault.number] = end
        self.wire.after(fault.for_ns, self._ends, fault.number)

    def _ends(self, number: int) -> None:
        end = self._lasting.pop(number, None)
        if end is not None:
            end()

    def in_background(self, work: Callable[[], Awaitable[object]]) -> None:
        """What takes an operator some time."""
        if self._nursery is not None:
            self._nursery.start_soon(work)

    def start_after(self, node: SimNode, down_ns: int) -> None:
        """A node that was crashed or stopped comes back after a while; at the peace at the latest."""
        self.region.start_after(node, 0 if self.is_over else down_ns)

    def victim(self, rng: random.Random) -> SimNode | None:
        """One that runs, often the leader."""
        leader = self.region.leader()
        seeks_leader = rng.random() < LEADER_CHANCE
        up = self.region.up()
        if seeks_leader and leader is not None:
            return leader
        return rng.choice(up) if up else None

    def victims(self, rng: random.Random, strength: float) -> list[SimNode]:
        """Up to all that run, the more the stronger it is."""
        up = self.region.up()
        return rng.sample(up, max(1, round(strength * len(up)))) if up else []

    async def _wait_until(self, at_ns: int) -> None:
        reached = trio.Event()
        self.wire.at(at_ns, reached.set)
        await reached.wait()


def names(nodes: Iterable[SimNode | str]) -> str:
    return " ".join(node.name if isinstance(node, SimNode) else node for node in nodes)
