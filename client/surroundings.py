"""Where the world comes in: connections, randomness, and how long the machine has been up. Deadlines are on the event
loop's own clock.

`KeyClient` takes the real ones unless it is given others: simulations put their network and a seed here, tests whatever
they need. Not meant for applications.
"""

import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from keycluster.client.transport import SecureStream, client_context
from keycluster.cluster.wire.frames import REQUEST_ID_BYTES


class Stream(Protocol):
    """A connected, encrypted stream. One task receives and one writes. Broken, its methods raise `StreamBroken`."""

    @property
    def certificate(self) -> bytes:
        """The other side's (DER); its chain and its host name have been checked."""
        ...

    @property
    def has_output(self) -> bool:
        """Whether `flush` has something to send."""
        ...

    def write_nowait(self, content: bytes) -> None:
        """Takes content over; `flush` sends it."""
        ...

    async def flush(self) -> None:
        """Sends what there is. If it is cancelled, the stream is of no more use."""
        ...

    async def receive(self) -> bytes:
        """All that has come, at least a byte; empty at the end of the stream."""
        ...

    async def aclose(self) -> None:
        """Closes within half a second. Not interrupted by a cancellation."""
        ...


Connect = Callable[[str, int], Awaitable[Stream]]
"""To a host and port. Raises `StreamBroken`, or `NodeNotTrusted` for a certificate that isn't the region's."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a client has from outside."""

    connect_by: Callable[[str], Connect]
    """Given the CA's file: how to connect to its nodes. Raises OSError or ssl.SSLError if that can't be read."""
    random_bytes: Callable[[int], bytes]
    """So many, fit for nonces and message ids."""
    new_request_id: Callable[[], bytes]
    """By which the region makes a change once: asked once for each call that changes something, in its task."""
    new_jitter: Callable[[], random.Random]
    """For pauses and the choice of nodes: nothing secret."""
    new_signing_key: Callable[[], ec.EllipticCurvePrivateKey]
    """On P-384, for one signed message."""
    machine_seconds: Callable[[], float]
    """On a clock that goes on while the machine sleeps; the event loop's may stand still then."""


def _connect_by(ca_file: str) -> Connect:
    return partial(SecureStream.connect, context=client_context(ca_file))


def _machine_seconds() -> float:
    """Linux's CLOCK_MONOTONIC doesn't count sleep and its CLOCK_BOOTTIME does, as CLOCK_MONOTONIC does on macOS."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


REAL = Surroundings(
    connect_by=_connect_by,
    random_bytes=os.urandom,
    new_request_id=partial(os.urandom, REQUEST_ID_BYTES),
    new_jitter=random.Random,
    new_signing_key=partial(ec.generate_private_key, ec.SECP384R1()),
    machine_seconds=_machine_seconds,
)
