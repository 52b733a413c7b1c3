"""Carries out a schedule of faults (`simulations/faults.py`) on a region of real processes.

As in the simulators, a fault decides whom it hits when its time comes, by its own random numbers, and one that finds
nobody to hit has no effect and isn't counted. Faults may overlap; `peace` ends all that still lasts.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import trio

from keycluster.client.errors import KeyclusterError
from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.sides import draw_sides, links_between
from keycluster.simulations.torture.links import LinkName, Weather
from keycluster.simulations.torture.processes import NodeProcess
from keycluster.simulations.torture.region import TortureRegion
from keycluster.simulations.torture.watch import Watch
from keycluster.simulations.trace import What

LEADER_CHANCE: Final = 0.5
"""Half of the faults hit the leader."""
CLIENTS_TOO_CHANCE: Final = 0.3
AZ_CRASH_CHANCE: Final = 0.5
LOSS_MAX: Final = 0.3
DELAYED_MAX: Final = 0.3
DELAY_NS_MIN, DELAY_NS_MAX = 10 * MILLISECOND, 2 * SECOND
TRANSFER_S_MAX: Final = 5.0
REFUSES_S_MAX: Final = 20.0
"""A node without its seal says so once Python has started."""

Strike = Callable[["Nemesis", Fault, random.Random], str | None]
"""What it does, in words, or None if it had no effect."""


class Nemesis:
    """One run's. `clients` are names that may find themselves on either side of a cut."""

    def __init__(self, region: TortureRegion, watch: Watch, *, clients: Iterable[str]) -> None:
        self.region = region
        self.watch = watch
        self.clients = list(clients)
        self.counts: Counter[str] = Counter()
        """Faults that had an effect, by kind."""
        self._nursery: trio.Nursery | None = None
        self._peace = trio.Event()

    async def run(self, faults: Iterable[Fault], *, time_ns: int) -> None:
        """For so long from now on; returns when all that lasted is over."""
        begins = trio.current_time()
        async with trio.open_nursery() as self._nursery:
            for fault in faults:
                await trio.sleep_until(begins + fault.at_ns / SECOND)
                self._strike(fault)
            await trio.sleep_until(begins + time_ns / SECOND)
            self._peace.set()
        self._nursery = None

    def _strike(self, fault: Fault) -> None:
        strike = STRIKES.get(fault.kind)
        done = None if strike is None else strike(self, fault, fault.rng())
        if done is not None:
            if fault.kind not in SPRINGS_LATER:
                self.count(fault.kind)
            self.region.note("nemesis", What.FAULT, fault.kind.value, done, fault.for_ns)

    # For strikes.

    def count(self, kind: FaultKind) -> None:
        self.counts[kind.value] += 1

    async def for_its_time(self, fault_ns: int) -> None:
        """Returns when a fault is over: in its time, or at the peace."""
        with trio.move_on_after(fault_ns / SECOND):
            await self._peace.wait()

    def in_background(self, work: Callable[[], Awaitable[object]]) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work)

    def victim(self, rng: random.Random) -> NodeProcess | None:
        """One that runs, often the leader."""
        up, leader = self.region.up(), self.watch.leader()
        seeks_leader = rng.random() < LEADER_CHANCE
        found = [node for node in up if node.name == leader]
        if seeks_leader and found:
            return found[0]
        return rng.choice(up) if up else None

    def everybody(self, rng: random.Random) -> list[str]:
        nodes = list(self.region.nodes)
        return [*nodes, *self.clients] if rng.random() < CLIENTS_TOO_CHANCE else nodes


# Of processes.


def _keep_down(nemesis: Nemesis, node: NodeProcess, for_ns: int) -> None:
    """It starts again when the last fault that keeps it down is over."""
    node.held_by += 1

    async def come_back() -> None:
        await nemesis.for_its_time(for_ns)
        node.held_by -= 1
        node.start()

    nemesis.in_background(come_back)


def crash(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    node = nemesis.victim(rng)
    if node is None:
        return None
    node.kill("SIGKILL")
    _keep_down(nemesis, node, fault.for_ns)
    return node.name


def crash_all(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """At once, and back one by one."""
    running = [node for node in nemesis.region.nodes.values() if node.is_running and node.is_wanted]
    for node in running:
        node.kill("SIGKILL")
        _keep_down(nemesis, node, rng.randint(0, fault.for_ns))
    return _names(running) or None


def restart(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    node = nemesis.victim(rng)
    if node is None:
        return None
    node.held_by += 1

    async def stop_and_come_back(node: NodeProcess) -> None:
        wrong = await node.stop()
        if wrong is not None:
            nemesis.region.found("node-ended", f"told to stop, {node.name} {wrong}")
        await nemesis.for_its_time(fault.for_ns)
        node.held_by -= 1
        node.start()

    nemesis.in_background(partial(stop_and_come_back, node))
    return node.name


def sealed_restart(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """The seal is gone for a while: a node must refuse to run without it."""
    node = nemesis.victim(rng)
    if node is None:
        return None
    node.kill("SIGKILL")
    node.held_by += 1

    async def refuse_and_come_back(node: NodeProcess) -> None:
        try:
            node.launch(node.sealed_config)
            status: int | None = None
            with trio.move_on_after(REFUSES_S_MAX):
                status = await node.wait()
            if not status:
                message = f"{node.name} without its seal ended with {status}: {node.last_words()}"
                nemesis.region.found("seal", message)
            await nemesis.for_its_time(fault.for_ns)
            node.kill("without its seal")
        finally:
            node.held_by -= 1
        node.start()

    nemesis.in_background(partial(refuse_and_come_back, node))
    return node.name


def pause(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    node = nemesis.victim(rng)
    if node is None:
        return None
    node.pause()
    paused = node.process

    async def go_on(node: NodeProcess) -> None:
        await nemesis.for_its_time(fault.for_ns)
        if node.process is paused:
            node.resume()

    nemesis.in_background(partial(go_on, node))
    return node.name


def transfer(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Counted once it is done."""

    async def ask() -> None:
        try:
            async with nemesis.region.operator(timeout=TRANSFER_S_MAX) as operator:
                await operator.transfer_leadership()
        except KeyclusterError:
            return
        nemesis.count(FaultKind.TRANSFER)
        nemesis.region.note("nemesis", "detail", FaultKind.TRANSFER.value, "done")

    nemesis.in_background(ask)
    return None


# Of links.


def partition(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    side, rest = _sides(nemesis, rng)
    links = [*links_between(side, rest), *links_between(rest, side)]
    return _cut(nemesis, fault, links, f"{' '.join(side)} | {' '.join(rest)}")


def one_way(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    side, rest = _sides(nemesis, rng)
    return _cut(nemesis, fault, links_between(side, rest), f"{' '.join(side)} -> {' '.join(rest)}")


def partial_cut(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Any links, in any direction: some reach each other by way of others only."""
    everybody = nemesis.everybody(rng)
    links = [link for link in links_between(everybody, everybody) if rng.random() < fault.strength]
    return _cut(nemesis, fault, links, _arrows(links))


def clog(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Swizzled, as FoundationDB does it: links stop one by one and go on one by one in another order."""
    everybody = nemesis.everybody(rng)
    links = [link for link in links_between(everybody, everybody) if rng.random() < fault.strength]
    begins = sorted(rng.randint(0, fault.for_ns // 2) for _ in links)
    ends = sorted(rng.randint(0, fault.for_ns // 2) for _ in links)

    async def clog_one(link: LinkName, begin_ns: int, end_ns: int) -> None:
        await nemesis.for_its_time(begin_ns)
        nemesis.region.links.stop([link])
        await nemesis.for_its_time(fault.for_ns - begin_ns - end_ns)
        nemesis.region.links.go_on([link])

    for link, begin_ns, end_ns in zip(links, begins, rng.sample(ends, len(ends)), strict=True):
        nemesis.in_background(partial(clog_one, link, begin_ns, end_ns))
    return _arrows(links) or None


def az_loss(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """All of its machines crash, or nobody outside reaches any of them."""
    up = nemesis.region.up()
    azs = sorted({node.az for node in up})
    if not azs:
        return None
    az = rng.choice(azs)
    inside = [node for node in up if node.az == az]
    if rng.random() < AZ_CRASH_CHANCE:
        for node in inside:
            node.kill("SIGKILL")
            _keep_down(nemesis, node, fault.for_ns)
        return f"{az}: {_names(inside)} crash"
    there = [node.name for node in inside]
    rest = [name for name in (*nemesis.region.nodes, *nemesis.clients) if name not in there]
    return _cut(nemesis, fault, [*links_between(there, rest), *links_between(rest, there)], f"{az} | the rest")


def reset(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    everybody = nemesis.everybody(rng)
    pairs = [(one, other) for number, one in enumerate(everybody) for other in everybody[number + 1 :]]
    hit = rng.sample(pairs, max(1, round(fault.strength * len(pairs)))) if pairs else []
    broken = sum(nemesis.region.links.reset(*pair) for pair in hit)
    return f"{broken} connections" if broken else None


def loss(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    return _weather(nemesis, fault, Weather(loss=fault.strength * LOSS_MAX))


def delay(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    longest = rng.randint(DELAY_NS_MIN, DELAY_NS_MAX)
    return _weather(nemesis, fault, Weather(delay=fault.strength * DELAYED_MAX, delay_ns_max=longest))


def _weather(nemesis: Nemesis, fault: Fault, weather: Weather) -> str:
    links = nemesis.region.links
    links.begin_weather(fault.number, weather, is_felt=partial(nemesis.count, fault.kind))

    async def clear_up() -> None:
        await nemesis.for_its_time(fault.for_ns)
        links.end_weather(fault.number)

    nemesis.in_background(clear_up)
    return f"{fault.strength:.2f}"


def _cut(nemesis: Nemesis, fault: Fault, links: list[LinkName], what: str) -> str | None:
    if not links:
        return None
    nemesis.region.links.stop(links)
    nemesis.region.note("network", What.CUT, what)

    async def heal() -> None:
        await nemesis.for_its_time(fault.for_ns)
        nemesis.region.links.go_on(links)
        nemesis.region.note("network", What.HEALED, what)

    nemesis.in_background(heal)
    return what


def _sides(nemesis: Nemesis, rng: random.Random) -> tuple[list[str], list[str]]:
    """The leader is often in the smaller one."""
    everybody, victim = nemesis.everybody(rng), nemesis.victim(rng)
    return draw_sides(everybody, None if victim is None else victim.name, rng)


def _arrows(links: Iterable[LinkName]) -> str:
    return " ".join(f"{source}->{target}" for source, target in links)


def _names(nodes: Iterable[NodeProcess]) -> str:
    return " ".join(node.name for node in nodes)


SPRINGS_LATER: Final = frozenset({FaultKind.LOSS, FaultKind.DELAY})
"""Counted when the first piece is lost or late, not when the weather begins."""

STRIKES: Final[dict[FaultKind, Strike]] = {
    FaultKind.LOSS: loss,
    FaultKind.DELAY: delay,
    FaultKind.RESET: reset,
    FaultKind.PARTITION: partition,
    FaultKind.ONE_WAY: one_way,
    FaultKind.PARTIAL: partial_cut,
    FaultKind.CLOG: clog,
    FaultKind.AZ_LOSS: az_loss,
    FaultKind.CRASH: crash,
    FaultKind.CRASH_ALL: crash_all,
    FaultKind.RESTART: restart,
    FaultKind.PAUSE: pause,
    FaultKind.TRANSFER: transfer,
    FaultKind.SEALED_RESTART: sealed_restart,
}
