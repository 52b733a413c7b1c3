"""A region of real processes for tests: `keycluster dev` in a folder, and what may happen to it.

Whatever a test does, nothing it started outlives it: nodes end with `dev` (PDEATHSIG), and `dev` is ended by its own
process id.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

REGION = "us-east-1"
START_S_MAX = 60.0
STOP_S_MAX = 30.0
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
    def is_running(self) -> bool:
        """Whether its process is there and not a zombie."""
        with suppress(OSError):
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]
            return state not in "ZX"
        return False


class DevRegion:
    """One `keycluster dev`."""

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

    def restart_node(self, name: str, region: str = REGION) -> None:
        """Starts a node that died, as an operator would: `dev` leaves it dead."""
        folder = self.node_folder(name, region)
        with (folder / "node.log").open("ab") as log:
            self._restarted[region, name] = subprocess.Popen(
                [sys.executable, "-m", "keycluster", "node", "--config", str(folder / "node.toml"), "--parent",
                 str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip

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
