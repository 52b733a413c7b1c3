"""docs/install.md on one machine: each step a process of its own, as an operator runs it."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keycluster import KeyClient

WAIT_S_MAX = 40.0
PASSPHRASE = b"correct horse battery staple\n"
Started = subprocess.Popen[bytes]


class Machines:
    """Node folders in one folder, and the processes in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoints = folder / "region.json"
        self._nodes: dict[str, Started] = {}
        self._ports = iter(free_ports(12))

    def configure(self, name: str, *, az: str, role: str = "voter", seal: str = "key-file") -> None:
        """Writes the configuration that docs/install.md shows, with loopback addresses."""
        peer, native, aws = (f"127.0.0.1:{next(self._ports)}" for _ in range(3))
        folder = self.folder / name
        folder.mkdir()
        seal_lines = 'kind = "key-file"\npath = "seal.key"' if seal == "key-file" else 'kind = "passphrase"'
        (folder / "node.toml").write_text(
            f'region = "on-prem-1"\nnode = "{name}"\naz = "{az}"\nrole = "{role}"\ndata = "data"\n'
            f"[seal]\n{seal_lines}\n"
            f'[peer]\nlisten = "{peer}"\n[native]\nlisten = "{native}"\n[aws]\nlisten = "{aws}"\n'
        )

    def run(self, *words: str, given: bytes = b"", status: int = 0) -> str:
        """A command to its end; what it prints, or complains of where it has to fail."""
        done = subprocess.run(
            [sys.executable, "-m", "keycluster", *words],
            input=given,
            capture_output=True,
            timeout=WAIT_S_MAX,
            check=False,
            cwd=self.folder,
            env={**os.environ, "KEYCLUSTER_ENDPOINTS": str(self.endpoints)},
        )
        assert done.returncode == status, done.stderr.decode()
        return (done.stdout if status == 0 else done.stderr).decode().strip()

    def config(self, name: str) -> tuple[str, str]:
        return ("--config", str(self.folder / name / "node.toml"))

    def init(self, name: str, given: bytes = b"", status: int = 0) -> str:
        return self.run("init", *self.config(name), "--endpoints", str(self.endpoints), given=given, status=status)

    def start(self, name: str, given: bytes = b"") -> None:
        """Starts the node; `given` is piped into it."""
        with (self.folder / name / "node.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "keycluster", "node", *self.config(name), "--parent", str(os.getpid())],
                stdin=subprocess.PIPE if given else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if process.stdin is not None:
            process.stdin.write(given)
            process.stdin.close()
        self._nodes[name] = process

    def stop(self, name: str) -> int:
        """SIGTERM; returns the exit status."""
        process = self._nodes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=WAIT_S_MAX)

    def end_of(self, name: str) -> int:
        """The exit status of a node that ends by itself."""
        return self._nodes.pop(name).wait(timeout=WAIT_S_MAX)

    def log(self, name: str) -> str:
        return (self.folder / name / "node.log").read_text()

    def status(self) -> dict[str, dict[str, object]]:
        """Of each node in the endpoints file."""
        done = subprocess.run(
            [sys.executable, "-m", "keycluster", "status", "--endpoints", str(self.endpoints), "--json"],
            capture_output=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        nodes = json.loads(done.stdout)["regions"]["on-prem-1"]["nodes"]
        return {node["id"]: node for node in nodes}

    def until(self, what: Callable[[dict[str, dict[str, object]]], bool]) -> None:
        deadline = time.monotonic() + WAIT_S_MAX
        while not what(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.1)

    def until_serves(self, name: str, role: str) -> None:
        self.until(lambda nodes: nodes[name]["lease"] is True and nodes[name]["role"] == role)

    def list_node(self, name: str) -> None:
        """Adds a node to the endpoints file, as docs/install.md tells."""
        config = tomllib.loads((self.folder / name / "node.toml").read_text())
        content = json.loads(self.endpoints.read_text())
        content["regions"]["on-prem-1"]["nodes"].append(
            {
                "id": name,
                "az": config["az"],
                "role": config["role"],
                "native": config["native"]["listen"],
                "aws": f"http://{config['aws']['listen']}",
            }
        )
        self.endpoints.write_text(json.dumps(content))

    def end(self) -> None:
        for process in self._nodes.values():
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, below those of outgoing connections."""
    found: list[int] = []
    for port in range(17_000, 18_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """An empty folder for each machine to come."""
    made = Machines(tmp_path)
    yield made
    made.end()


async def test_a_region_is_installed_grown_and_shrunk(machines: Machines) -> None:
    """init, node, token, join, status, remove: three machines, one sealed by a passphrase from a pipe."""
    for name, az, seal in (("a1", "room-a", "key-file"), ("b1", "room-b", "passphrase"), ("c1", "room-c", "key-file")):
        machines.configure(name, az=az, seal=seal)
    assert "is founded" in machines.init("a1")
    assert machines.endpoints.stat().st_mode & 0o777 == 0o600
    machines.start("a1")
    machines.until_serves("a1", "voter")
    key = machines.run("key", "create")
    sealed = machines.run("encrypt", "--key", key, given=b"made with one node")
    # The token in the first line of standard input, the passphrase in the second.
    token = machines.run("token", "--az", "room-b")
    assert "b1 is admitted" in machines.run("join", *machines.config("b1"), given=token.encode() + b"\n" + PASSPHRASE)
    machines.start("b1", given=PASSPHRASE)
    token_file = machines.folder / "c.token"
    token_file.write_text(machines.run("token", "--az", "room-c"))
    machines.run("join", *machines.config("c1"), "--token-file", str(token_file))
    machines.start("c1")
    for name in ("b1", "c1"):
        machines.list_node(name)
        machines.until_serves(name, "voter")
    again = machines.run("join", *machines.config("c1"), "--token-file", str(token_file), status=1)
    assert "in use" in again
    # Restarts: by the key file without anybody there, by the passphrase only with it.
    assert machines.stop("a1") == 0
    assert machines.stop("b1") == 0
    machines.start("a1")
    machines.until_serves("a1", "voter")
    machines.start("b1", given=b"another passphrase\n")
    assert machines.end_of("b1") == 1
    assert "Traceback" not in machines.log("b1")
    machines.start("b1", given=PASSPHRASE)
    machines.until_serves("b1", "voter")
    async with KeyClient.from_endpoints(machines.endpoints) as client:
        for name in ("a1", "b1", "c1"):
            opened = await client.at(name).decrypt(ciphertext_blob=base64.b64decode(sealed))
            assert opened.plaintext == b"made with one node"
    # Out for ever: the removed node ends, and is not let in again.
    assert "is out of the region" in machines.run("remove", "c1")
    assert machines.end_of("c1") == 1
    machines.start("c1")
    assert machines.end_of("c1") == 1
    assert "removed" in machines.log("c1").splitlines()[-1]
    assert machines.run("key", "describe", key)


def test_init_loses_no_access_key(machines: Machines) -> None:
    """Cut off before the region was founded or before the CA was written, the same command goes on; else it refuses."""
    machines.configure("a1", az="room-a")
    machines.init("a1")
    secret = json.loads(machines.endpoints.read_text())["secret_access_key"]
    complaint = machines.init("a1", status=1)
    assert "exists" in complaint
    # The CA's certificate is what is written last.
    (machines.folder / "region.ca.pem").unlink()
    machines.init("a1")
    assert "BEGIN CERTIFICATE" in (machines.folder / "region.ca.pem").read_text()
    # Nothing founded yet: by the same access key, since that is what the operator's file has.
    (machines.folder / "region.ca.pem").unlink()
    (machines.folder / "a1" / "data").rename(machines.folder / "a1" / "lost")
    machines.init("a1")
    assert json.loads(machines.endpoints.read_text())["secret_access_key"] == secret
    machines.start("a1")
    machines.until_serves("a1", "voter")
    # Another region's file is never taken over, and a folder with a node is never founded anew.
    machines.configure("z1", az="room-z")
    assert "exists" in machines.init("z1", status=1)
    machines.endpoints.unlink()
    assert "holds a node already" in machines.init("a1", status=1)
    assert not machines.endpoints.exists()


def test_mistakes_are_one_line(machines: Machines) -> None:
    """What an operator gets wrong is said in one line with status 1, and nothing is made."""
    machines.configure("a1", az="room-a", role="learner")
    path = machines.folder / "a1" / "node.toml"

    def fails(*words: str, given: bytes = b"") -> str:
        complaint = machines.run(*words, given=given, status=1)
        assert "Traceback" not in complaint
        assert len(complaint.splitlines()) <= 2
        return complaint

    endpoints = ("--endpoints", str(machines.endpoints))
    assert "voter" in fails("init", *machines.config("a1"), *endpoints)
    assert not machines.endpoints.exists()
    assert "holds no node yet" in fails("node", *machines.config("a1"))
    assert "not a whole join token" in fails("join", *machines.config("a1"), given=b"nonsense\n")
    assert "No such file" in fails("join", *machines.config("a1"), "--token-file", str(machines.folder / "none"))
    path.write_text(path.read_text().replace('role = "learner"', 'role = "voter"\nzone = "b"'))
    assert "zone" in fails("init", *machines.config("a1"), *endpoints)
    assert "No such file" in fails("node", "--config", str(machines.folder / "none"))
    path.write_text(path.read_text().replace('zone = "b"\n', ""))
    assert "twelve decimal digits" in fails("init", *machines.config("a1"), *endpoints, "--account", "1")
    assert "none" in fails("init", *machines.config("a1"), "--endpoints", str(machines.folder / "none" / "x"))
    assert not machines.endpoints.exists()
    machines.init("a1")
    machines.start("a1")
    machines.until_serves("a1", "voter")
    assert fails("node", *machines.config("a1"))  # It runs already.
