"""A region of real processes for tests: `keycluster dev` in a folder, and what may happen to it.

Whatever a test does, nothing it started outlives it: nodes end with `dev` (PDEATHSIG), and `dev` is ended by its own
process id.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import NodeId
from keycluster.node.config import DoorConfig, NodeConfig, SealConfig, SealKind, write_config

REGION = "us-east-1"
HOST = "127.0.0.1"
START_S_MAX = 60.0
STOP_S_MAX = 30.0
COMMAND_S_MAX = 90.0
PORTS_FROM, PORTS_BELOW = 20_000, 32_768  # Below what Linux gives to outgoing connections.
CONNECTIONS_MAX = 1_024
FULL = os.environ.get("KEYCLUSTER_TESTS") == "full"
"""Set KEYCLUSTER_TESTS=full for the numbers that are promised; else a few rounds show that all is in order."""


def rounds(full: int, few: int) -> int:
    """How often to do it."""
    return full if FULL else few


@dataclass(frozen=True, slots=True)
class NodeEndpoint:
    """One line of endpoints.json."""

    id: str
    az: str
    role: str
    native: str
    aws: str
    pid: int

    def signal(self, number: signal.Signals) -> None:
        """To the node's process alone."""
        os.kill(self.pid, number)

    @property
    def memory_bytes(self) -> int:
        """Resident."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def is_running(self) -> bool:
        """Whether its process is there and not a zombie."""
        with suppress(OSError):
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]
            return state not in "ZX"
        return False


def free_port() -> int:
    """One that nobody listens at and nobody is given meanwhile."""
    while True:
        port = random.randrange(PORTS_FROM, PORTS_BELOW)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a node that joins listens, and what it tells others, where that differs: for tests that stand between."""

    peer: int
    native: int
    aws: int
    peer_told: int | None = None
    native_told: int | None = None

    @classmethod
    def free(cls) -> "Ports":
        return cls(free_port(), free_port(), free_port())


@dataclass(frozen=True, slots=True)
class NodeRun:
    """A node's process started by a test, with an output of its own."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def last_words(self) -> list[str]:
        """What the command line said of its end: at most one line is allowed."""
        return [line for line in self.text.splitlines() if line.startswith(("keycluster:", "Traceback"))]

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(timeout=STOP_S_MAX)


class DevRegion:
    """One `keycluster dev`, and nodes that join its region."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._restarted: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    @property
    def endpoints_file(self) -> Path:
        """A copy of endpoints.json: `dev` removes its own once the nodes that it started are dead."""
        return self.folder.with_suffix(".endpoints.json")

    @property
    def dev_endpoints_file(self) -> Path:
        return self.folder / "endpoints.json"

    def start(self) -> Self:
        """Returns once every node serves."""
        log = self.folder.with_suffix(".log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "keycluster", "dev", "--dir", str(self.folder), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S_MAX
        while not self.dev_endpoints_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the region did not start:\n{self.says()}")
            time.sleep(0.02)
        self.endpoints_file.write_text(self.dev_endpoints_file.read_text())
        return self

    def says(self) -> str:
        """What `dev` and its nodes have printed, for a failed assertion."""
        logs = [self.folder.with_suffix(".log"), *sorted(self.folder.glob("*/*/node.log"))]
        return "\n".join(
            f"--- {path.name} {path.parent.name}\n{path.read_text()[-2000:]}" for path in logs if path.exists()
        )

    def read(self) -> dict[str, Any]:
        """The endpoints file's content."""
        content: dict[str, Any] = json.loads(self.endpoints_file.read_text())
        return content

    def nodes(self, region: str = REGION) -> list[NodeEndpoint]:
        nodes = [NodeEndpoint(**node) for node in self.read()["regions"][region]["nodes"]]
        return [
            replace(node, pid=self._restarted[region, node.id].pid) if (region, node.id) in self._restarted else node
            for node in nodes
        ]

    def node(self, name: str, region: str = REGION) -> NodeEndpoint:
        return next(node for node in self.nodes(region) if node.id == name)

    def node_folder(self, name: str, region: str = REGION) -> Path:
        return self.folder / region / name

    def restart_node(self, name: str, region: str = REGION) -> NodeRun:
        """Starts a node that died, as an operator would: `dev` leaves it dead."""
        return self._start_node(name, region, self.node_folder(name, region) / "node.log")

    def run_node(self, name: str, region: str = REGION) -> NodeRun:
        """The same, with an output of its own."""
        output = self.node_folder(name, region) / "run.log"
        output.unlink(missing_ok=True)
        return self._start_node(name, region, output)

    def _start_node(self, name: str, region: str, output: Path) -> NodeRun:
        config = self.node_folder(name, region) / "node.toml"
        with output.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "keycluster", "node", "--config", str(config), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=config.parent,
            )
        self._restarted[region, name] = process
        return NodeRun(process, output)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One `keycluster` command, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "keycluster", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )

    def operate(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on this region."""
        return self.command(command, "--endpoints", str(self.endpoints_file), *arguments)

    def admit_node(
        self, name: str, az: str, role: str = "voter", *, ports: Ports | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`token` and `join`, as docs/install.md says. The node isn't started; `nodes` knows it if it was admitted."""
        ports = ports or Ports.free()
        folder = self.node_folder(name)
        folder.mkdir(mode=0o700)
        config = folder / "node.toml"
        config.write_text(write_config(_joining_config(name, az, role, folder, ports)))
        token = self.operate("token", "--az", az, "--role", role)
        if token.returncode != 0:
            return token
        token_file = self.folder.with_suffix(f".{name}.token")
        token_file.write_text(token.stdout)
        joined = self.command("join", "--config", str(config), "--token-file", str(token_file))
        if joined.returncode == 0:
            self._add_endpoint(
                {"id": name, "az": az, "role": role, "native": f"{HOST}:{ports.native_told or ports.native}",
                 "aws": f"http://{HOST}:{ports.aws}", "pid": 0}
            )  # fmt: skip
        return joined

    def join_node(self, name: str, az: str, role: str = "voter", *, ports: Ports | None = None) -> NodeRun:
        """Admitted and started."""
        joined = self.admit_node(name, az, role, ports=ports)
        assert joined.returncode == 0, joined.stderr
        return self.restart_node(name)

    def _add_endpoint(self, node: dict[str, Any]) -> None:
        content = self.read()
        content["regions"][REGION]["nodes"].append(node)
        self.endpoints_file.write_text(json.dumps(content))

    def forget_node(self, name: str) -> None:
        """Clients that read the file from now on don't know it."""
        content = self.read()
        nodes = content["regions"][REGION]["nodes"]
        content["regions"][REGION]["nodes"] = [node for node in nodes if node["id"] != name]
        self.endpoints_file.write_text(json.dumps(content))

    def kill_node(self, name: str, region: str = REGION) -> None:
        """SIGKILL, and gone when this returns."""
        node = self.node(name, region)
        node.signal(signal.SIGKILL)
        restarted = self._restarted.get((region, name))
        if restarted is not None:
            restarted.wait(timeout=STOP_S_MAX)
        while node.is_running:
            time.sleep(0.001)

    def _end_restarted(self, number: signal.Signals) -> None:
        for process in self._restarted.values():
            if process.poll() is None:
                process.send_signal(number)
        for process in self._restarted.values():
            process.wait(timeout=STOP_S_MAX)
        self._restarted.clear()

    def stop(self) -> None:
        """SIGTERM to `dev`, as a person's Ctrl-C does."""
        self._end_restarted(signal.SIGTERM)
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=STOP_S_MAX)
            self._process = None

    def kill_all(self) -> None:
        """SIGKILL to everything at once, as a power cut: nodes first, then `dev`."""
        for name in self.read()["regions"]:
            for node in self.nodes(name):
                with suppress(ProcessLookupError):
                    node.signal(signal.SIGKILL)
        self._end_restarted(signal.SIGKILL)
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=STOP_S_MAX)
            self._process = None
        self.dev_endpoints_file.unlink()  # What a killed `dev` left; the next one would remove it as it starts.

    def boto3(self, node: NodeEndpoint, **changes: Any) -> Any:
        """A boto3 client for one node's AWS door, which does not retry by itself."""
        import boto3
        from botocore.config import Config

        content = self.read()
        arguments = {
            "region_name": REGION,
            "endpoint_url": node.aws,
            "aws_access_key_id": content["access_key_id"],
            "aws_secret_access_key": content["secret_access_key"],
            "config": Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
        }
        return boto3.client("kms", **{**arguments, **changes})


def _joining_config(name: str, az: str, role: str, folder: Path, ports: Ports) -> NodeConfig:
    def door(port: int, told: int | None, *, tls: bool = True) -> DoorConfig:
        return DoorConfig(f"{HOST}:{port}", f"{HOST}:{told or port}", tls=tls, connections_max=CONNECTIONS_MAX)

    return NodeConfig(
        region=REGION,
        node=NodeId(name),
        az=az,
        role=MemberRole(role),
        data=folder / "data",
        seal=SealConfig(SealKind.KEY_FILE, path=folder / "seal.key"),
        peer=door(ports.peer, ports.peer_told),
        native=door(ports.native, ports.native_told),
        aws=door(ports.aws, None, tls=False),
    )


@contextmanager
def dev_region(folder: Path, *options: str) -> Iterator[DevRegion]:
    """A running region, stopped in the end whatever happened."""
    region = DevRegion(folder, *options)
    try:
        yield region.start()
    finally:
        try:
            region.stop()
        except (subprocess.TimeoutExpired, ProcessLookupError):
            region.kill_all()
            raise
