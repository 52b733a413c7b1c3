"""`keycluster dev`: what a folder promises, on real processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keycluster import KeyClient
from tests.region.dev_region import DevRegion, dev_region

WAIT_S_MAX = 30.0


def until(what: Callable[[], bool]) -> None:
    """Looks at other processes until it is so."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run_dev(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A `dev` that is to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "keycluster", "dev", "--dir", str(folder), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
        check=False,
    )


async def test_the_endpoints_file_is_what_was_promised(region: DevRegion) -> None:
    """Its members, mode 0600, three nodes in three AZs, ports that outgoing connections never get, live processes."""
    content = json.loads(region.dev_endpoints_file.read_text())
    assert set(content) == {"regions", "account", "access_key_id", "secret_access_key", "ca_file"}
    assert list(content["regions"]) == ["us-east-1"]
    assert set(content["regions"]["us-east-1"]) == {"nodes"}
    nodes = content["regions"]["us-east-1"]["nodes"]
    assert [set(node) for node in nodes] == [{"id", "az", "role", "native", "aws", "pid"}] * 3
    assert len({node["az"] for node in nodes}) == len({node["pid"] for node in nodes}) == 3
    assert {node["role"] for node in nodes} == {"voter"}
    ports = [int(node[door].rpartition(":")[2]) for node in nodes for door in ("native", "aws")]
    assert len(set(ports)) == 6
    assert max(ports) < 32_768
    assert all(node["native"].startswith("127.0.0.1:") for node in nodes)
    assert all(node["aws"].startswith("http://127.0.0.1:") for node in nodes)
    assert region.dev_endpoints_file.stat().st_mode & 0o777 == 0o600
    assert content["account"] == "123456789012"
    assert "BEGIN CERTIFICATE" in Path(content["ca_file"]).read_text()
    async with KeyClient.from_endpoints(region.dev_endpoints_file) as client:
        assert all([(await client.at(node["id"]).node_status()).serving for node in nodes])


def test_nodes_are_in_the_group_of_dev(region: DevRegion) -> None:
    """One signal to the group, such as a terminal's Ctrl-C, reaches all of them."""
    assert len({os.getpgid(node.pid) for node in region.nodes()}) == 1


def test_a_second_dev_in_the_folder_is_refused(region: DevRegion) -> None:
    """At once, in one line, and the first one goes on."""
    done = run_dev(region.folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"keycluster: {region.folder} is in use by another `keycluster dev`\n"
    assert region.dev_endpoints_file.exists()
    assert all(node.is_running for node in region.nodes())


async def test_the_same_folder_starts_again_with_its_keys(tmp_path: Path) -> None:
    """Stopped by SIGTERM, everything ends and endpoints.json goes; ports, credentials and keys come again."""
    region = DevRegion(tmp_path / "region").start()
    before = region.read()
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        key = (await client.create_key()).key_metadata.key_id
        blob = (await client.encrypt(key_id=key, plaintext=b"from before")).ciphertext_blob
    nodes = region.nodes()
    region.stop()
    assert not any(node.is_running for node in nodes)
    assert not region.dev_endpoints_file.exists()
    with dev_region(tmp_path / "region") as region:
        after = region.read()
        for content in (before, after):
            for node in content["regions"]["us-east-1"]["nodes"]:
                del node["pid"]
        assert after == before
        async with KeyClient.from_endpoints(region.endpoints_file) as client:
            assert (await client.decrypt(ciphertext_blob=blob)).plaintext == b"from before"


def test_nodes_end_with_a_killed_dev(tmp_path: Path) -> None:
    """SIGKILL of `dev` alone takes its nodes along, a paused one too, and leaves nothing that stops a restart."""
    region = DevRegion(tmp_path / "region", "--nodes", "2").start()
    nodes = region.nodes()
    nodes[1].signal(signal.SIGSTOP)
    dev = int(Path(f"/proc/{nodes[0].pid}/stat").read_text().rpartition(") ")[2].split()[1])
    os.kill(dev, signal.SIGKILL)
    until(lambda: not any(node.is_running for node in nodes))
    region.dev_endpoints_file.unlink()  # Nobody was left to do it; the next `dev` would, but we look for its own.
    with dev_region(tmp_path / "region") as again:
        assert not {node.pid for node in again.nodes()} & {node.pid for node in nodes}


def test_ctrl_c_stops_all_of_it(tmp_path: Path) -> None:
    """SIGINT to the whole group, as a terminal sends it: everything ends in order, without a traceback."""
    region = DevRegion(tmp_path / "region", "--nodes", "2").start()
    nodes = region.nodes()
    os.killpg(os.getpgid(nodes[0].pid), signal.SIGINT)
    until(lambda: not region.dev_endpoints_file.exists() and not any(node.is_running for node in nodes))
    region.stop()
    logs = [region.node_folder(node.id) / "node.log" for node in nodes]
    assert all('event="node has stopped"' in log.read_text() for log in logs)
    assert "Traceback" not in region.says()
    assert "has ended" not in region.says()


def test_a_lost_node_is_no_new_region(tmp_path: Path) -> None:
    """The first node's folder is gone: it isn't founded anew beside the others, whose region goes on without it."""
    with dev_region(tmp_path / "region") as region:
        ca = Path(region.read()["ca_file"]).read_text()
    shutil.rmtree(region.node_folder("n1") / "data")
    done = run_dev(tmp_path / "region")
    assert done.returncode == 1
    assert "node n1 can't join us-east-1" in done.stderr
    assert Path(region.read()["ca_file"]).read_text() == ca


def test_dev_goes_on_while_any_node_lives(tmp_path: Path) -> None:
    """A dead node is not started again; with the last one `dev` ends, status 1, and endpoints.json goes."""
    region = DevRegion(tmp_path / "region", "--nodes", "2").start()
    try:
        first, second = region.nodes()
        region.kill_node(first.id)
        until(lambda: "has ended with status -9" in region.says())
        assert second.is_running
        assert region.dev_endpoints_file.exists()
        region.kill_node(second.id)
        until(lambda: not region.dev_endpoints_file.exists())
        until(lambda: "no node lives any more" in region.says())
    finally:
        region.stop()


async def test_two_regions_with_given_credentials_and_ports(tmp_path: Path) -> None:
    """Each region has nodes, keys and a CA of its own; one access key is the root of the account in both."""
    options = ("--regions", "us-east-1,eu-west-1", "--nodes", "1", "--account", "000000000007")
    credentials = (
        "--access-key-id",
        "AKIAKEYCLUSTERTESTS1",
        "--secret-access-key",
        "a secret of forty characters or fewer",
    )
    base = free_base()
    with dev_region(tmp_path / "region", *options, *credentials, "--port-base", str(base)) as region:
        content = region.read()
        assert sorted(content["regions"]) == ["eu-west-1", "us-east-1"]
        assert content["account"] == "000000000007"
        nodes = [node for name in content["regions"] for node in content["regions"][name]["nodes"]]
        assert {int(node[door].rpartition(":")[2]) for node in nodes for door in ("native", "aws")} <= set(
            range(base, base + 6)
        )
        assert len({node["pid"] for node in nodes}) == 1
        arns = []
        for name in content["regions"]:
            async with KeyClient.from_endpoints(region.endpoints_file, region=name) as client:
                arns.append((await client.create_key()).key_metadata.arn)
        assert sorted(arn.rsplit(":", 1)[0] for arn in map(str, arns)) == [
            "arn:aws:kms:eu-west-1:000000000007",
            "arn:aws:kms:us-east-1:000000000007",
        ]


def free_base() -> int:
    """Six ports in a row that nobody has now."""
    for base in range(19_000, 20_000, 10):
        probes = [socket.socket() for _ in range(6)]
        try:
            for number, probe in enumerate(probes):
                probe.bind(("127.0.0.1", base + number))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return base
    raise AssertionError("no six free ports in a row")


def test_one_node_is_one_process(tmp_path: Path) -> None:
    """`--nodes 1` has no children, logs into the folder, ends in order on SIGINT, and starts again."""
    for _ in range(2):
        region = DevRegion(tmp_path / "region", "--nodes", "1").start()
        (node,) = region.nodes()
        children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text()
        assert children == ""
        node.signal(signal.SIGINT)
        until(lambda node=node: not node.is_running)  # type: ignore[misc]  # mypy and a default in a lambda.
        region.stop()
        assert "Traceback" not in region.says()
    log = (tmp_path / "region" / "dev.log").read_text()
    assert log.count("node has stopped") == 2


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """A folder keeps its ports: if somebody else has one, `dev` says which, and starts nothing."""
    region = DevRegion(tmp_path / "region", "--nodes", "1").start()
    (node,) = region.nodes()
    region.stop()
    port = int(node.native.rpartition(":")[2])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        done = run_dev(tmp_path / "region")
        assert done.returncode == 1
        assert done.stderr.startswith(f"keycluster: port {port} of node n1 in us-east-1 is taken")
        based = run_dev(tmp_path / "other", "--port-base", str(port))
        assert based.returncode == 1
        assert f"listens on port {port}" in based.stderr
        assert not (tmp_path / "other" / "dev.json").exists()  # The folder isn't bound to ports it can't have.


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    """A file where the folder should be, or somebody else's dev.json."""
    (tmp_path / "file").write_text("")
    done = run_dev(tmp_path / "file")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dev.json").write_text("{}")
    done = run_dev(tmp_path / "other")
    assert "is not what `keycluster dev` wrote" in done.stderr


@pytest.mark.parametrize("after_s", [0.6, 1.1, 1.7, 2.4])
def test_a_first_start_that_was_killed_goes_on(tmp_path: Path, after_s: float) -> None:
    """SIGKILL at some moment of founding and joining: the same command makes the region after all."""
    region = DevRegion(tmp_path / "region", "--nodes", "2")
    first = subprocess.Popen(
        [sys.executable, "-m", "keycluster", "dev", "--dir", str(region.folder), "--nodes", "2"],
        stdout=subprocess.DEVNULL,
    )
    time.sleep(after_s)  # The moment is the test.
    first.kill()
    first.wait()
    try:
        assert len(region.start().nodes()) == 2
    finally:
        region.stop()


def test_a_removed_node_stays_away(tmp_path: Path) -> None:
    """The folder of a region that a node was removed from starts again without it."""
    with dev_region(tmp_path / "region", "--nodes", "2") as region:
        done = subprocess.run(
            [sys.executable, "-m", "keycluster", "remove", "n2", "--endpoints", str(region.endpoints_file)],
            capture_output=True,
            text=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    with dev_region(tmp_path / "region") as region:
        assert [node.id for node in region.nodes()] == ["n1"]
        assert "n2 was removed from the region" in region.says()
