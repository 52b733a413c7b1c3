"""A folder of `keycluster dev`, its nodes as processes of ours, and a proxy before each of their ports.

`dev` makes the region and ends again. Then each node is started with the configuration that `dev` wrote, but listening
at another address of this machine: where others look for it, there is a proxy. So the folder stays one of `dev`'s,
which starts it again afterwards.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from keycluster.client.endpoints import Credentials, Endpoints, NodeAddress
from keycluster.client.key_client import KeyClient
from keycluster.cluster.types import NodeId
from keycluster.node.addresses import split_address
from keycluster.node.config import DoorConfig, NodeConfig, load_config, write_config
from keycluster.node.hardening import child_environment
from keycluster.simulations.runs import Failure
from keycluster.simulations.torture.folder import DEV_LOG, RegionUnfit, locked, prepare
from keycluster.simulations.torture.links import Links, Proxy
from keycluster.simulations.torture.processes import NodeProcess
from keycluster.simulations.trace import Trace

HOST: Final = "127.0.0.1"
HIDDEN_HOST: Final = "127.0.0.2"
"""Where nodes listen: only proxies look there."""
DIALS_FROM: Final = "127.0.1.{}"
OUTSIDE: Final = "outside"
"""Whoever else connects to a node: no fault is meant for them."""
START_S_MAX: Final = 90.0
STOP_S_MAX: Final = 30.0
LOOK_AGAIN_S: Final = 0.05

_DEV: Final = (  # It ends with us, however we end.
    "import runpy, sys; from keycluster.node.hardening import die_with_parent; die_with_parent(int(sys.argv.pop(1))); "
    "runpy.run_module('keycluster', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True, slots=True)
class NodePorts:
    """Of one node: where others look for it, which is also where it listens, at another address."""

    peer: int
    native: int
    aws: int


def make_region(folder: Path, *, nodes: int | None) -> dict[str, Any]:
    """Lets `dev` make the region in `folder`, or start the one that is there; the content of its endpoints file.

    Blocking. Raises `RegionUnfit`. Should another `dev` come in between, ours ends, and the file may be the other's:
    who goes on takes the lock first.
    """
    prepare(folder)
    endpoints, log = folder / "endpoints.json", folder / DEV_LOG
    options = [] if nodes is None else ["--nodes", str(nodes)]
    with locked(folder):  # So the file is what a killed `dev` has left, and nobody needs it.
        endpoints.unlink(missing_ok=True)
    with log.open("wb") as output:
        dev = subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-c", _DEV, str(os.getpid()), "dev", "--dir", str(folder), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(child_environment()),
            start_new_session=True,  # A terminal's Ctrl-C is for us alone: we end it.
        )
    try:
        deadline = time.monotonic() + START_S_MAX
        while not endpoints.exists() and dev.poll() is None and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN_S)
        if not endpoints.exists():
            raise RegionUnfit(f"`keycluster dev` didn't start there: {log.read_text(errors='replace').strip()[-500:]}")
        content: dict[str, Any] = json.loads(endpoints.read_text())
    finally:
        _end(dev)
    if len(content["regions"]) != 1:
        raise RegionUnfit(f"{folder} has several regions: choose another folder")
    return content


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S_MAX)
    finally:
        process.kill()
        process.wait()


class TortureRegion:
    """One run's. `now_ns` is the run's clock."""

    def __init__(self, folder: Path, content: dict[str, Any], *, seed: int, trace: Trace) -> None:
        [(self.name, region)] = content["regions"].items()
        self.folder = folder
        self.trace = trace
        self.links = Links(random.Random(f"links/{seed}"), spared=OUTSIDE)
        self.credentials = Credentials(content["access_key_id"], content["secret_access_key"])
        self.ca_file: str = content["ca_file"]
        self.failures: list[Failure] = []
        self.nodes: dict[str, NodeProcess] = {}
        self.ports: dict[str, NodePorts] = {}
        self._began = trio.current_time()
        for number, node in enumerate(region["nodes"]):
            self._add(node["id"], node["az"], DIALS_FROM.format(number + 1))
        self._by_address = {node.address: name for name, node in self.nodes.items()}

    def _add(self, name: str, az: str, address: str) -> None:
        folder = self.folder / self.name / name
        config = load_config(folder / "node.toml")
        self.ports[name] = NodePorts(*(_port(door) for door in (config.peer, config.native, config.aws)))
        path, sealed = folder / "torture.toml", folder / "torture-sealed.toml"
        hidden = _hidden(config)
        path.write_text(write_config(hidden))
        sealed.write_text(write_config(_without_seal(hidden, folder)))
        self.nodes[name] = NodeProcess(name, az, address, path, sealed, folder / "node.log", self._told)

    @property
    def now_ns(self) -> int:
        """Of this machine's monotonic clock, from the run's beginning."""
        return int((trio.current_time() - self._began) * 1e9)

    def begin(self) -> None:
        """The run begins now."""
        self._began = trio.current_time()

    def note(self, lane: str, what: str, *detail: str | int) -> None:
        self.trace.note(self.now_ns, lane, what, *detail)

    def found(self, checker: str, message: str) -> None:
        self.failures.append(Failure(checker, message, self.now_ns))

    def up(self) -> list[NodeProcess]:
        return [node for node in self.nodes.values() if node.is_up]

    def _told(self, node: NodeProcess, what: str, why: str) -> None:
        self.note(node.name, what, *([why] if why else []))

    # Who is reached how.

    @asynccontextmanager
    async def open(self) -> AsyncIterator[trio.Nursery]:
        """With proxies before all ports and all nodes started; in the end all processes are ended."""
        async with trio.open_nursery() as nursery:
            try:
                for name, ports in self.ports.items():
                    for port in (ports.peer, ports.native, ports.aws):
                        proxy = Proxy(name, HIDDEN_HOST, port, self._who)
                        await nursery.start(partial(proxy.serve, self.links, listen_host=HOST, listen_port=port))
                for node in self.nodes.values():
                    node.start()
                    nursery.start_soon(self._watch, node)
                yield nursery
                nursery.cancel_scope.cancel()
            finally:
                for node in self.nodes.values():
                    node.kill("the run is over")

    def _who(self, address: str) -> str:
        return self._by_address.get(address, OUTSIDE)

    async def _watch(self, node: NodeProcess) -> None:
        """A node that ends by itself has found something, or fails: both are to be looked at. It is started again."""
        while True:
            status = await node.wait()
            if node.is_wanted:
                self.found("node-ended", f"{node.name} ended by itself with status {status}: {node.last_words()}")
                node.told(node, "stops", node.last_words())
                node.start()
            await trio.sleep(LOOK_AGAIN_S)

    async def private_ports(self, client: str, nursery: trio.Nursery) -> dict[str, NodePorts]:
        """Proxies before all nodes' doors that only this client knows: its own links."""
        found = {}
        for name, ports in self.ports.items():
            own = []
            for port in (ports.native, ports.aws):
                proxy = Proxy(name, HIDDEN_HOST, port, lambda address: client)
                own.append(await nursery.start(partial(proxy.serve, self.links, listen_host=HOST)))
            found[name] = NodePorts(ports.peer, *own)
        return found

    def endpoints(self, ports: dict[str, NodePorts], credentials: Credentials) -> Endpoints:
        """The native doors at these ports."""
        addresses = tuple(
            NodeAddress(NodeId(name), self.nodes[name].az, HOST, own.native) for name, own in ports.items()
        )
        return Endpoints(self.name, addresses, credentials, self.ca_file)

    def operator(self, *, timeout: float) -> KeyClient:
        """Over links that no fault is meant for."""
        return KeyClient(self.endpoints(self.ports, self.credentials), timeout=timeout)


def _port(door: DoorConfig) -> int:
    return split_address(door.advertised)[1]


def _hidden(config: NodeConfig) -> NodeConfig:
    """What is advertised stays, so that nothing in the region's state changes."""

    def hidden(door: DoorConfig) -> DoorConfig:
        return replace(door, listen=f"{HIDDEN_HOST}:{_port(door)}")

    return replace(config, peer=hidden(config.peer), native=hidden(config.native), aws=hidden(config.aws))


def _without_seal(config: NodeConfig, folder: Path) -> NodeConfig:
    """As if its key file were gone. The real one is never moved: a run may be killed at any moment, and the region is
    its user's.
    """
    return replace(config, seal=replace(config.seal, path=folder / "no-seal.key"))
