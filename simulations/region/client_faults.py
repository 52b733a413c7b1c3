"""Faults of the programs that use a region (`nemesis.py` says how they are carried out).

What a killed program had asked for may be done all the same, and nobody is told: to the checkers these calls are of
unknown outcome for ever. What a stopped one is told meanwhile it hears late, or past its own deadline.
"""

import random

from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.clients import SimClient
from keycluster.simulations.region.nemesis import Nemesis, Strike


def client_crash(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """SIGKILL; another program begins at that machine soon (`SimClient.work`)."""
    client = _victim(nemesis, rng)
    if client is None:
        return None
    client.kill()
    return client.name


def client_pause(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """SIGSTOP, past the end of connections and of deadlines."""
    client = _victim(nemesis, rng)
    if client is None or client.process is None or client.process.paused:
        return None
    client.process.pause()
    nemesis.lasts(fault, client.process.resume)
    return client.name


def _victim(nemesis: Nemesis, rng: random.Random) -> SimClient | None:
    """Any program that runs now."""
    running = [client for client in nemesis.programs if client.process is not None]
    return rng.choice(running) if running else None


CLIENT_STRIKES: dict[FaultKind, Strike] = {
    FaultKind.CLIENT_CRASH: client_crash,
    FaultKind.CLIENT_PAUSE: client_pause,
}
