"""Cluster time as `apply` sees it, and the guard against time that leaps (security.md, 6).

Each command carries a stamp: cluster time, and the region's running time, which the leaders' monotonic clocks advance
and which stands still while nobody leads (cluster_time.py). Neither goes backwards here, whatever a stamp says.

What cluster time gains on running time is the *excess*. Elections add a second or two to it, a stopped or suspended
region its whole stop, clocks set wrong their whole error. It is forgiven at a rate of one hour in 24 running hours.
When it passes an hour, destruction is held: nothing is destroyed until the region has run 24 hours more, or an operator
has confirmed that the time is right. Rotation isn't held: it destroys nothing.
"""

from msgspec.structs import replace

from keycluster.cluster.keys.records import ONLY_ROW, ClockRecord, StateWriter, Table, load_clock, store
from keycluster.cluster.types import SECOND, ClusterTime, RunningTime

EXCESS_MAX_NS = 3600 * SECOND
HOLD_NS = 24 * 3600 * SECOND
FORGIVEN_PER_RUNNING = 24  # One hour in 24 running hours.


def advance(clock: ClockRecord | None, *, time: ClusterTime, running_ns: int) -> ClockRecord:
    """The clock after an entry stamped with `time` and `running_ns`."""
    if clock is None:
        return ClockRecord(time=time, running_ns=RunningTime(running_ns))
    now, running = max(time, clock.time), max(running_ns, clock.running_ns)
    ran = running - clock.running_ns
    gained = max(0, now - clock.time - ran)
    excess = max(0, clock.excess_ns - ran // FORGIVEN_PER_RUNNING) + gained
    held_until = clock.held_until_running_ns
    if excess > EXCESS_MAX_NS:
        excess, held_until = 0, running + HOLD_NS
    return replace(
        clock,
        time=ClusterTime(now),
        running_ns=RunningTime(running),
        excess_ns=excess,
        held_until_running_ns=held_until,
    )


def destruction_held(clock: ClockRecord) -> bool:
    """Whether nothing may be destroyed now because time leapt."""
    return clock.running_ns < clock.held_until_running_ns


def confirmed(clock: ClockRecord) -> ClockRecord:
    """The clock after an operator confirmed the time."""
    return replace(clock, excess_ns=0, held_until_running_ns=0)


def advance_clock(state: StateWriter, *, time: ClusterTime, running_ns: int) -> ClockRecord:
    clock = advance(load_clock(state), time=time, running_ns=running_ns)
    store(state, Table.CLOCK, ONLY_ROW, clock)
    return clock
