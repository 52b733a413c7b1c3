"""What is measured runs in processes of its own: bare servers, and regions as `keycluster dev` starts them."""

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio

from keycluster.cluster.seams import TlsIdentity
from keycluster.cluster.types import NodeId
from keycluster.node import pki
from keycluster.node.network import RealNetwork
from keycluster.node.world import RealClock, RealEntropy
from keycluster.simulations.load import bare_native
from keycluster.simulations.load.bare_aws import BareAwsServer

REGION = "us-east-1"
HOST = "127.0.0.1"
START_S_MAX = 60.0
STOP_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class BareServers:
    """Where they listen, `host:port`."""

    native: str
    aws: str


@contextmanager
def bare_servers(*, signing_key: bytes) -> Iterator[BareServers]:
    """Both yardsticks, in one process that ends with the block."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve_bare, args=(signing_key, theirs), daemon=True)
    process.start()
    theirs.close()  # So that a server that dies ends the wait below.
    try:
        yield BareServers(*ours.recv())
    finally:
        process.terminate()
        process.join()


def _serve_bare(signing_key: bytes, ready: Connection) -> None:
    trio.run(_serve_bare_forever, signing_key, ready)


async def _serve_bare_forever(signing_key: bytes, ready: Connection) -> None:
    network, identity = RealNetwork(), _identity()

    async def native(*, task_status: trio.TaskStatus[str]) -> None:
        await network.serve_native(f"{HOST}:0", bare_native.serve, identity=identity, task_status=task_status)

    async def aws(*, task_status: trio.TaskStatus[str]) -> None:
        await network.serve_plain(f"{HOST}:0", BareAwsServer(signing_key).serve, task_status=task_status)

    async with trio.open_nursery() as nursery:
        ready.send((await nursery.start(native), await nursery.start(aws)))


def _identity() -> TlsIdentity:
    entropy, now = RealEntropy(), RealClock().wall()
    authority = pki.new_authority(pki.AuthorityName.CLIENT, REGION, entropy=entropy, now=now)
    private_key = pki.new_private_key(entropy)
    certificate = pki.issue_certificate(
        authority,
        node=NodeId("bare"),
        public_key=pki.public_key_of_private(private_key),
        hosts=(HOST,),
        entropy=entropy,
        now=now,
    )
    return TlsIdentity(certificate=certificate, private_key=private_key)


class Region:
    """A region of `keycluster dev` in a folder; may be stopped and started again."""

    def __init__(self, folder: Path, *, nodes: int) -> None:
        self.folder = folder
        self._nodes = nodes
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoints_file(self) -> Path:
        return self.folder / "endpoints.json"

    def start(self) -> float:
        """Seconds until every node serves."""
        began = time.monotonic()
        self.endpoints_file.unlink(missing_ok=True)
        self._process = subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-m", "keycluster", "dev", "--dir", str(self.folder), "--nodes", str(self._nodes)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not self.endpoints_file.exists():
            if self._process.poll() is not None or time.monotonic() > began + START_S_MAX:
                raise RuntimeError(f"the region in {self.folder} did not start")
            time.sleep(0.01)
        return time.monotonic() - began

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=STOP_S_MAX)
            finally:
                self._process.kill()
                self._process = None

    def endpoints(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.endpoints_file.read_text())
        return content

    def first_node(self) -> dict[str, Any]:
        node: dict[str, Any] = self.endpoints()["regions"][REGION]["nodes"][0]
        return node


@contextmanager
def region(folder: Path, *, nodes: int) -> Iterator[Region]:
    """A running one."""
    running = Region(folder, nodes=nodes)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def resident_mib(pid: int) -> float:
    """A process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")
