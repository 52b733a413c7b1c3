"""The wall clocks of all machines leap together, clients' too; monotonic ones go on as if nothing had happened.

So it is after the suspension of a whole region, or when the time server that all of them follow is corrected. Some
leaps bring a client of their own, which asks for one change before and after (`workload/across_leap.py`).
"""

import random
from functools import partial

import trio

from keycluster.cluster.types import SECOND
from keycluster.simulations.faults import Fault, FaultKind, Leap, draw_leap
from keycluster.simulations.region.nemesis import Nemesis, Strike
from keycluster.simulations.workload.across_leap import LeapAhead, ask_across

CLIENT_CHANCE = 0.5
WHOLE_S_MAX = 12.0  # Of the client's life.


def wall_leap(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    leap = draw_leap(rng, leapt_ns=nemesis.wire.leapt_ns)
    if leap is None:
        return None
    if nemesis.one_off is not None and rng.random() < CLIENT_CHANCE:
        nemesis.in_background(partial(_with_client, nemesis, fault, leap))
    else:
        _leap(nemesis, fault, leap)
    return f"by {leap.by_ns / SECOND:+.0f} s{', for a while' if leap.is_taken_back else ''}"


async def _with_client(nemesis: Nemesis, fault: Fault, leap: Leap) -> None:
    if nemesis.one_off is None:
        return
    name = f"l{fault.number}"

    def begin() -> bool:
        if nemesis.may_strike:
            _leap(nemesis, fault, leap)
        return nemesis.may_strike

    def break_connections() -> None:
        for node in nemesis.region.nodes:
            nemesis.attack.links.reset(name, node)

    with trio.move_on_after(WHOLE_S_MAX):
        await nemesis.one_off(name, partial(ask_across, leap=LeapAhead(begin, break_connections)))


def _leap(nemesis: Nemesis, fault: Fault, leap: Leap) -> None:
    wire = nemesis.wire
    wire.leapt_ns += leap.by_ns
    nemesis.took_effect(fault)

    def take_back() -> None:
        wire.leapt_ns -= leap.by_ns

    if leap.is_taken_back:
        nemesis.lasts(fault, take_back)


LEAP_STRIKES: dict[FaultKind, Strike] = {FaultKind.WALL_LEAP: wall_leap}
