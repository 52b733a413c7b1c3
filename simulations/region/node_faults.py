"""Faults of machines and processes: crashes, pauses, clocks, disks (`nemesis.py` says how they are carried out)."""

import random
from collections.abc import Callable
from functools import partial

from keycluster.cluster.cluster_time import OBSERVATION_NS_MAX
from keycluster.cluster.types import SECOND, LogIndex
from keycluster.node.peer_link import SPOKEN, PeerVersions
from keycluster.node.raft_driver import LogRetention
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.clock import DRIFT_PPM_MAX
from keycluster.simulations.region.nemesis import Nemesis, Strike, names
from keycluster.simulations.region.node import Excuse, SimNode, WatchedNode

STEPS_MAX = 600  # Of a process within which it crashes or stops: half a second's work.
WRITES_MAX = 60  # Operations of a disk within which its machine crashes: some ten commits.
SMALL_JUMP_NS_MAX = 8 * SECOND  # Below what a node says something about (security.md, 6).
LARGE_JUMPS_NS = tuple(hours * 3_600 * SECOND for hours in (-24 * 400, -30, -1, 1, 30, 24 * 9, 24 * 40, 24 * 400))
SLOW_S_MAX = 0.25
FULL_BYTES_MAX = 64 * 1024  # So much still goes onto a disk that is about to be full.
ONCE_CHANCE = 0.5  # That a disk's error is of one sync.
NO_LOG_KEPT = LogRetention(kept=0, kept_longest=0, slack=1)
STOP_S_MAX = 20.0  # systemd's TimeoutStopSec, shortened: who hasn't stopped by then is killed.
NEXT_VERSIONS = PeerVersions(SPOKEN.oldest, SPOKEN.newest + 1)
"""Of the release after this one, which changes the protocol's number and nothing else."""


def crash(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    return _crash(nemesis, fault, nemesis.victim(rng))


def crash_all(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """A power cut: all at the same instant; they come back one after the other."""
    up = nemesis.region.up()
    for node in up:
        node.crash()
        nemesis.start_after(node, int(fault.for_ns * rng.random()))
    return names(up) or None


def crash_at_step(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    return _at_step(nemesis, fault, rng, lambda node: _crash(nemesis, fault, node))


def pause_before_output(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    return _at_step(nemesis, fault, rng, lambda node: _pause(nemesis, fault, node))


def crash_at_write(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    node = nemesis.victim(rng)
    if node is None:
        return None
    operations = rng.randint(0, WRITES_MAX)

    def sprung() -> None:
        nemesis.springs(fault)
        nemesis.start_after(node, fault.for_ns)

    node.crash_at_write(operations, sprung)
    nemesis.arm(fault, node.spare)
    return f"{node.name} after {operations} operations"


def restart(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    node = nemesis.victim(rng)
    if node is None:
        return None

    async def restart_it() -> None:
        if await stop_and_start(nemesis, node, fault.for_ns):
            nemesis.took_effect(fault)

    nemesis.in_background(restart_it)
    return node.name


def sealed_restart(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """The machine comes up, the key file is on a stick that somebody has in his pocket."""
    node = nemesis.victim(rng)
    path = node.config.seal.path if node is not None else None
    if node is None or path is None or not (node.disk.exists(path) and node.disk.is_well):
        return None
    node.crash()
    content = node.disk.files()[path]
    node.disk.remove(path)
    node.excuses.add(Excuse.NO_SEAL)

    def bring_back() -> None:
        node.disk.put(path, content)
        node.excuses.discard(Excuse.NO_SEAL)
        nemesis.region.start(node)

    nemesis.region.start(node)
    nemesis.lasts(fault, bring_back)
    return node.name


def upgrade(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """All nodes, one after the other, restart into the next release's protocol, or back into this one's."""
    nodes = nemesis.region.up()
    if not nodes:
        return None
    rng.shuffle(nodes)
    versions = NEXT_VERSIONS if nodes[0].versions == SPOKEN else SPOKEN

    async def roll() -> None:
        for node in nodes:
            if nemesis.may_strike and node.running is not None:
                node.versions = versions
                if await stop_and_start(nemesis, node, fault.for_ns):
                    nemesis.took_effect(fault)  # From now on two versions talk to each other.

    nemesis.in_background(roll)
    return f"{names(nodes)} to {versions}"


def pause(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    return _pause(nemesis, fault, nemesis.victim(rng))


def drift(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Often to the edges of the bound, where a lease's reckoning has no room."""
    nodes = nemesis.victims(rng, fault.strength)
    for node in nodes:
        before = node.clock.ppm
        edge = rng.choice((-DRIFT_PPM_MAX, DRIFT_PPM_MAX))
        node.clock.set_rate(rng.choice((edge, edge, rng.randint(-DRIFT_PPM_MAX, DRIFT_PPM_MAX))))
        if node.clock.ppm != before:
            nemesis.took_effect(fault)

    def end() -> None:
        for node in nodes:
            node.clock.set_rate(node.clock.usual_ppm)

    nemesis.lasts(fault, end)
    return ", ".join(f"{node.name} {node.clock.ppm:+} ppm" for node in nodes) or None


def wall_jump(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Small ones at any number of machines, large ones at one machine at a time."""
    is_large = fault.strength > 0.5 and nemesis.far_off is None
    nodes = [node] if is_large and (node := nemesis.victim(rng)) is not None else nemesis.victims(rng, fault.strength)
    jumps = [
        rng.choice(LARGE_JUMPS_NS) if is_large else rng.randint(-SMALL_JUMP_NS_MAX, SMALL_JUMP_NS_MAX) for _ in nodes
    ]
    for node, jump in zip(nodes, jumps, strict=True):
        node.clock.jump_wall(jump)
    if is_large and nodes:
        nemesis.far_off = nodes[0]

    def end() -> None:
        for node, jump in zip(nodes, jumps, strict=True):
            node.clock.jump_wall(-jump)
        if is_large:
            nemesis.wire.after(2 * OBSERVATION_NS_MAX, put_right)

    def put_right() -> None:
        nemesis.far_off = None  # Not before: what was heard of it counts beside the next one's.

    nemesis.lasts(fault, end)
    return ", ".join(f"{node.name} {jump / SECOND:+.1f} s" for node, jump in zip(nodes, jumps, strict=True)) or None


def disk_slow(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    nodes = nemesis.victims(rng, rng.random())
    delay_s = fault.strength * SLOW_S_MAX
    for node in nodes:
        node.slow_down(fault.number, delay_s)
    works = [node.disk.counts.works for node in nodes]

    def end() -> None:
        if [node.disk.counts.works for node in nodes] != works:
            nemesis.took_effect(fault)
        for node in nodes:
            node.slow_down(fault.number, 0)

    nemesis.lasts(fault, end)
    return names(nodes) or None


def disk_stall(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    node = nemesis.victim(rng)
    if node is None:
        return None
    node.disk.stall()
    stalls = node.disk.counts.stalls

    def end() -> None:
        if node.disk.counts.stalls > stalls:
            nemesis.took_effect(fault)
        node.disk.resume()

    nemesis.lasts(fault, end)
    return node.name


def disk_full(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    node = nemesis.victim(rng)
    if node is None or node.disk.bytes_max is not None:
        return None
    node.disk.bytes_max = node.disk.bytes_used() + rng.randint(0, FULL_BYTES_MAX)
    refused, full = _excuse(node), node.disk.counts.full

    def end() -> None:
        if node.disk.counts.full > full:
            nemesis.took_effect(fault)
        node.disk.bytes_max = None
        _excuse_no_more(node, refused)
        nemesis.region.start(node)

    nemesis.lasts(fault, end)
    return node.name


def disk_error(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """The next sync fails and no other, or nothing can be written for a while."""
    node = nemesis.victim(rng)
    if node is None or not node.disk.is_well:
        return None
    is_once = rng.random() < ONCE_CHANCE
    node.disk.syncs_fail_next, node.disk.fails = int(is_once), not is_once
    refused = _excuse(node)
    node.on_disk_failure = partial(nemesis.springs, fault)

    def end() -> None:
        node.disk.syncs_fail_next, node.disk.fails = 0, False
        _excuse_no_more(node, refused)
        nemesis.region.start(node)

    nemesis.arm(fault, _nothing)
    nemesis.lasts(fault, end)
    return f"{node.name} {'once' if is_once else 'for a while'}"


def _excuse(node: SimNode) -> int | None:
    """How much its disk has refused before. None if it is excused already, and may be about to end by that."""
    refused = None if Excuse.DISK_FAILS in node.excuses else node.disk.counts.refused
    node.excuses.add(Excuse.DISK_FAILS)
    return refused


def _excuse_no_more(node: SimNode, refused: int | None) -> None:
    """Where nothing came of it. Else the node may be about to end, and isn't excused from its next start on."""
    if node.disk.is_well and node.disk.counts.refused == refused:
        node.excuses.discard(Excuse.DISK_FAILS)


def compact(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """With its next entry the node keeps no more of its log than the state needs; who lags gets a snapshot."""
    nodes = [node for node in nemesis.victims(rng, fault.strength) if node.running is not None]
    began: list[tuple[WatchedNode, LogIndex]] = []
    for node in nodes:
        if node.running is not None:
            node.running.driver.retention = NO_LOG_KEPT
            began.append((node.running, node.running.stores.log.first_index))

    def end() -> None:
        running = {node.running for node in nodes}
        if any(one in running and one.stores.log.first_index > first for one, first in began):
            nemesis.took_effect(fault)
        for node in nodes:
            if node.running is not None:
                node.running.driver.retention = node.retention

    nemesis.wire.after(SECOND, end)
    return names(nodes) or None


async def stop_and_start(nemesis: Nemesis, node: SimNode, down_ns: int) -> bool:
    """As a supervisor restarts it: told to stop, killed if it doesn't, started after a while. Whether it ran."""
    node.stop()
    life = node.life
    deadline_ns = nemesis.wire.now_ns + round(STOP_S_MAX * SECOND)
    if life is not None:
        nemesis.wire.at(deadline_ns, node.kill_life, life)
        await life.gone.wait()
    nemesis.start_after(node, down_ns)
    return life is not None


def _crash(nemesis: Nemesis, fault: Fault, node: SimNode | None) -> str | None:
    if node is None:
        return None
    node.crash()
    nemesis.start_after(node, fault.for_ns)
    return node.name


def _pause(nemesis: Nemesis, fault: Fault, node: SimNode | None) -> str | None:
    if node is None or node.is_paused:
        return None
    node.pause()
    nemesis.lasts(fault, node.resume)
    return node.name


def _at_step(nemesis: Nemesis, fault: Fault, rng: random.Random, act: Callable[[SimNode], object]) -> str | None:
    node = nemesis.victim(rng)
    if node is None or node.life is None:
        return None
    steps = rng.randint(1, STEPS_MAX)
    process = node.life.process
    process.at_step(process.steps + steps, lambda: act(node) if nemesis.springs(fault) else None)
    nemesis.arm(fault, _nothing)  # It is asked when its step has come.
    return f"{node.name} after {steps} steps"


def _nothing() -> None:
    pass


NODE_STRIKES: dict[FaultKind, Strike] = {
    FaultKind.CRASH: crash,
    FaultKind.CRASH_ALL: crash_all,
    FaultKind.CRASH_AT_STEP: crash_at_step,
    FaultKind.CRASH_AT_WRITE: crash_at_write,
    FaultKind.RESTART: restart,
    FaultKind.SEALED_RESTART: sealed_restart,
    FaultKind.UPGRADE: upgrade,
    FaultKind.PAUSE: pause,
    FaultKind.PAUSE_BEFORE_OUTPUT: pause_before_output,
    FaultKind.DRIFT: drift,
    FaultKind.WALL_JUMP: wall_jump,
    FaultKind.DISK_SLOW: disk_slow,
    FaultKind.DISK_STALL: disk_stall,
    FaultKind.DISK_FULL: disk_full,
    FaultKind.DISK_ERROR: disk_error,
    FaultKind.COMPACT: compact,
}
