"""The network seam in memory: `SimNetwork.of(name)` is what the node or client of that name gets as its `Network`.

Dialling, serving and their errors are as in node/network.py; streams and links are those of sim_stream.py and links.py.
TLS takes its round trip and checks what it would (trust.py), and encrypts nothing: `tap` sees what is said inside it.

Whoever serves at an address owns it, and its host with it: `n1.test:7000` is n1's once n1 has served there, and stays
so when it is down. A plain port without an identity needs a loopback host, as in the real one: `127.0.0.7` or
`localhost` (such hosts can be dialled from anywhere here: simulated machines have one address space).
"""

import errno
import ipaddress
import os
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from itertools import count
from random import Random

import trio

from keycluster.cluster.seams import (
    ADDRESS_NOT_REPORTED,
    DEFAULT_LIMITS,
    AddressReport,
    ByteStream,
    DialError,
    ServeLimits,
    StreamHandler,
    TlsIdentity,
)
from keycluster.cluster.types import SECOND
from keycluster.node.addresses import join_address, split_address
from keycluster.node.network import DIAL_SECONDS_MAX, PortStatistics
from keycluster.simulations.region import trust
from keycluster.simulations.region.links import Links
from keycluster.simulations.region.pipes import Connection
from keycluster.simulations.region.sim_stream import SimStream
from keycluster.simulations.region.wire import Wire

SYN_RETRY_NS = 1 * SECOND
"""RFC 6298, 2: the first retransmission of what opens a connection; then twice as long each time."""

FIRST_FREE_PORT = 32_768
DIALLERS_PORTS = (40_000, 20_000)
"""The first, and how many: diallers' own ports, which tell connections apart in logs."""


@dataclass(eq=False, slots=True)
class _Listener:
    """One address that somebody serves."""

    owner: str
    handler: StreamHandler
    limits: ServeLimits
    identity: TlsIdentity | None
    client_ca: bytes | None = None
    """Of a peer port: who dials must show a certificate of this CA."""
    statistics: PortStatistics = field(default_factory=PortStatistics)
    nursery: trio.Nursery | None = None
    context: Context | None = None
    """Of the serving task: its process's connections belong to the process."""


@dataclass(eq=False, slots=True)
class _Dial:
    """One attempt to connect."""

    name: str
    address: str
    identity: TlsIdentity | None
    tls: bool
    settled: trio.Event = field(default_factory=trio.Event)
    connection: Connection | None = None
    failure: str | None = None
    abandoned: bool = False
    certificate: bytes | None = None
    """The server's."""

    def is_wanted(self) -> bool:
        return not self.abandoned and not self.settled.is_set()

    def settle(self, failure: str | None = None) -> None:
        self.failure = failure
        self.settled.set()


class SimNetwork:
    """All machines' network. `links` is the nemesis's handle on it."""

    def __init__(self, wire: Wire, rng: Random) -> None:
        self.wire = wire
        self.links = Links(wire, rng)
        self._listeners: dict[str, _Listener] = {}
        self._owners: dict[str, str] = {}  # Of addresses and hosts.
        self._hosts: dict[str, HostNetwork] = {}
        self._ports = count(FIRST_FREE_PORT)
        self._diallers = count()

    @property
    def tap(self) -> Callable[[str, str, bytes], object] | None:
        """Called with sender, receiver and bytes for all that is sent, whether it arrives or not."""
        return self.links.tap

    @tap.setter
    def tap(self, tap: Callable[[str, str, bytes], object] | None) -> None:
        self.links.tap = tap

    def of(self, name: str) -> "HostNetwork":
        """The network as seen by that node or client: by one process, as after `down` this gives another one.

        Who asks for it runs, so the machine is up.
        """
        self.links.up(name)
        if name not in self._hosts:
            self._hosts[name] = HostNetwork(self, name)
        return self._hosts[name]

    def down(self, name: str, *, machine: bool = False) -> None:
        """Its process has died, or its machine: streams are cut as `Links.down` says, and it listens nowhere.

        What the dead process still asks of its `Network` waits for ever.
        """
        host = self._hosts.pop(name, None)
        if host is not None:
            host.is_dead = True
        for address in [address for address, listener in self._listeners.items() if listener.owner == name]:
            del self._listeners[address]
        self.links.down(name, machine=machine)

    def up(self, name: str) -> None:
        """Its machine runs again."""
        self.links.up(name)

    def statistics(self) -> dict[str, PortStatistics]:
        """Per listening address."""
        return {address: listener.statistics for address, listener in self._listeners.items()}

    # For `HostNetwork`.

    def listen(self, address: str, listener: _Listener) -> str:
        """Takes an address; returns it with its port. Raises `OSError` where it is taken."""
        host, port = split_address(address)
        bound = join_address(host, port or next(self._ports))
        if bound in self._listeners:
            raise OSError(errno.EADDRINUSE, f"can't listen at {address}: {os.strerror(errno.EADDRINUSE)}")
        self._listeners[bound] = listener
        self._owners[bound] = self._owners[host] = listener.owner
        return bound

    def stop_listening(self, address: str, listener: _Listener) -> None:
        """Gives the address back, unless that happened already."""
        if self._listeners.get(address) is listener:
            del self._listeners[address]

    def begin(self, dial: _Dial) -> None:
        """Sends what opens a connection; `dial` is settled when there is an outcome."""
        host, _ = split_address(dial.address)
        owner = self._owners.get(dial.address) or self._owners.get(host)
        if owner is None:
            self.wire.after(0, dial.settle, f"{dial.address} does not answer: {os.strerror(errno.EHOSTUNREACH)}")
            return
        self.links.carry(
            self.links.link(dial.name, owner), self._knock, dial, owner, retry_ns=SYN_RETRY_NS, wanted=dial.is_wanted
        )

    def _knock(self, dial: _Dial, owner: str) -> None:
        """What opens a connection has arrived at the machine."""
        listener = self._listeners.get(dial.address)
        if listener is None:
            self._answer(dial, owner, f"{dial.address} does not answer: {os.strerror(errno.ECONNREFUSED)}")
        elif listener.statistics.connections >= listener.limits.connections_max:
            listener.statistics.over_limit += 1
            self._answer(dial, owner, _unfinished(dial, "the other side hung up"))
        elif dial.tls != (listener.identity is not None):
            self._answer(dial, owner, _unfinished(dial, "the other side speaks something else"))
        else:
            listener.statistics.accepted += 1
            listener.statistics.connections += 1
            # A port of TLS has the connection at once, but what its process does first is to read the client's hello.
            link = self.links.link(owner, dial.name)
            round_trip_ns = link.delay_ns() + link.back.delay_ns() if dial.tls else 0
            self.wire.after(round_trip_ns, self._hand_over, dial, listener)

    def _hand_over(self, dial: _Dial, listener: _Listener) -> None:
        """A task of the listener's process takes the connection: not before the process runs, if it is stopped."""
        if self._listeners.get(dial.address) is not listener or listener.nursery is None or listener.context is None:
            listener.statistics.connections -= 1
            self._answer(dial, listener.owner, _unfinished(dial, "the other side hung up"))
            return
        own_port = DIALLERS_PORTS[0] + next(self._diallers) % DIALLERS_PORTS[1]
        connection = Connection(
            self.links,
            dialler=(dial.name, join_address(dial.name, own_port)),
            listener=(listener.owner, dial.address),
            between_nodes=listener.client_ca is not None,
        )
        if dial.abandoned:
            connection.dialler.close()
        dial.connection = connection
        listener.context.copy().run(listener.nursery.start_soon, self._connection, connection.listener, dial, listener)

    async def _connection(self, stream: SimStream, dial: _Dial, listener: _Listener) -> None:
        try:
            if listener.identity is not None:
                dial.certificate = listener.identity.certificate
            accepted = _accept_client(stream, dial, listener)
            self._answer(dial, listener.owner, None)
            if accepted:
                await listener.handler(stream)
            else:
                listener.statistics.handshakes_failed += 1
                stream.refuse()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            listener.statistics.connections -= 1
            stream.close()

    def _answer(self, dial: _Dial, owner: str, failure: str | None) -> None:
        self.links.carry(self.links.link(owner, dial.name), dial.settle, failure, wanted=dial.is_wanted)


class HostNetwork:
    """The seam, for one node or client."""

    def __init__(self, network: SimNetwork, name: str) -> None:
        self.name = name
        self.is_dead = False
        self._network = network

    async def dial_peer(
        self, address: str, *, identity: TlsIdentity, peer_ca: bytes, expected_public_key: bytes
    ) -> ByteStream:
        trust.require_own_key(identity)
        stream = await self._dial(_Dial(self.name, address, identity, tls=True), peer_ca, host=None)
        if stream.peer_public_key != expected_public_key:
            await stream.aclose()
            raise DialError(f"{address} shows another public key than the one pinned for that node")
        return stream

    async def dial_native(self, address: str, *, client_ca: bytes | None) -> ByteStream:
        host, _ = split_address(address)
        return await self._dial(_Dial(self.name, address, None, tls=True), client_ca, host=host)

    async def dial_plain(self, address: str, *, tls: bool = False, client_ca: bytes | None = None) -> ByteStream:
        """Connects to a port of `serve_plain`, as an AWS SDK does: not part of the seam, for simulated clients."""
        host, _ = split_address(address)
        return await self._dial(_Dial(self.name, address, None, tls=tls), client_ca, host=host)

    async def serve_peers(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity,
        peer_ca: bytes,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        await self._serve(address, _Listener(self.name, handler, limits, identity, peer_ca), task_status)

    async def serve_native(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        await self._serve(address, _Listener(self.name, handler, limits, identity), task_status)

    async def serve_plain(
        self,
        address: str,
        handler: StreamHandler,
        *,
        identity: TlsIdentity | None = None,
        limits: ServeLimits = DEFAULT_LIMITS,
        task_status: AddressReport = ADDRESS_NOT_REPORTED,
    ) -> None:
        if identity is None and not _is_loopback(split_address(address)[0]):
            raise ValueError(f"{address} is not a loopback address, and without TLS no other is served")
        await self._serve(address, _Listener(self.name, handler, limits, identity), task_status)

    async def _serve(self, address: str, listener: _Listener, task_status: AddressReport) -> None:
        if self.is_dead:
            await trio.sleep_forever()
        if listener.identity is not None:
            trust.require_own_key(listener.identity)
        bound = self._network.listen(address, listener)
        async with trio.open_nursery() as nursery:
            listener.nursery, listener.context = nursery, copy_context()
            try:
                task_status.started(bound)
                await trio.sleep_forever()
            finally:  # Within: once its tasks have ended a nursery takes no more, and its process may be paused there.
                listener.nursery = None
                self._network.stop_listening(bound, listener)

    async def _dial(self, dial: _Dial, ca: bytes | None, *, host: str | None) -> SimStream:
        if self.is_dead:
            await trio.sleep_forever()
        try:
            with trio.move_on_after(DIAL_SECONDS_MAX):
                self._network.begin(dial)
                await dial.settled.wait()
        finally:
            if not dial.settled.is_set():
                dial.abandoned = True
                if dial.connection is not None:
                    dial.connection.dialler.close()
        if dial.failure is not None:
            raise DialError(dial.failure)
        if dial.abandoned or dial.connection is None:
            raise DialError(f"{dial.address} does not answer within {DIAL_SECONDS_MAX:g} s")
        stream = dial.connection.dialler
        refusal = _judge_server(dial, ca, host)
        if refusal is not None:
            await stream.aclose()
            raise DialError(f"{dial.address} shows a certificate that is not accepted: {refusal}")
        if dial.certificate is not None:
            stream.peer_certificate = dial.certificate
            stream.peer_public_key = trust.public_key_shown(dial.certificate)
        return stream


def _judge_server(dial: _Dial, ca: bytes | None, host: str | None) -> str | None:
    """Why the server's certificate isn't accepted; without a CA everything is."""
    if dial.certificate is None or ca is None:
        return None
    refusal = trust.why_refused(dial.certificate, ca)
    if refusal is None and host is not None and not trust.names_host(dial.certificate, host):
        return f"Hostname mismatch, certificate is not valid for '{host}'."
    return refusal


def _accept_client(stream: SimStream, dial: _Dial, listener: _Listener) -> bool:
    """Whether the listener accepts who dials; its peer port wants a certificate."""
    if listener.client_ca is None:
        return True
    if dial.identity is None:
        return False
    certificate = dial.identity.certificate
    if trust.why_refused(certificate, listener.client_ca) is not None:
        return False
    stream.peer_certificate = certificate
    stream.peer_public_key = trust.public_key_shown(certificate)
    return True


def _unfinished(dial: _Dial, why: str) -> str:
    return f"{dial.address} does not finish the TLS handshake: {why}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
