"""`keycluster dev`: a region, or several, on one machine, of real node processes.

It takes the steps an operator takes on three machines (docs/install.md): it founds the region at the first node, and
lets each further one join with a token. What it adds is a folder that remembers (dev_settings.py), so that the same
folder starts again with its keys, also after a run that was cut off while it made them.

    DIR/dev.json            settings and credentials (0600), written before anything else
    DIR/lock                held while it runs
    DIR/endpoints.json      there while all of it answers
    DIR/ca.pem              the certificate authorities clients trust
    DIR/dev.log             what nodes inside this process log
    DIR/REGION/NODE/        node.toml, seal.key, data/, node.log

Nodes are this process's children, in its process group, and end with it (PDEATHSIG). A node that dies stays dead: what
happens then is for the one who tries things to see. Where every region has one node, it runs inside this process.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from keycluster import Credentials, KeyClient, NodeAddress, errors
from keycluster import Endpoints as ClientEndpoints
from keycluster.cli.dev_settings import HOST, DevNode, DevSettings, is_free, settle
from keycluster.cli.endpoints import EndpointNode, Endpoints, write_endpoints, write_private
from keycluster.cli.node_process import failure_of, open_node, set_up_logging, stop_on_signal
from keycluster.cli.output import CommandFailed, Output
from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.seams import FolderInUse
from keycluster.cluster.types import AccountId, NodeId
from keycluster.node.config import (
    AWS_CONNECTIONS_MAX,
    NATIVE_CONNECTIONS_MAX,
    PEER_CONNECTIONS_MAX,
    DoorConfig,
    NodeConfig,
    SealConfig,
    SealKind,
    write_config,
)
from keycluster.node.founding import found_region
from keycluster.node.hardening import Hardening, child_environment
from keycluster.node.join_token import parse_join_token
from keycluster.node.joining import JoinFailed, join_region
from keycluster.node.making import FolderTaken, holds_node, lock_data
from keycluster.node.pki import to_pem
from keycluster.node.seal_source import open_seal
from keycluster.node.sealing import SealError, open_secrets
from keycluster.node.world import real_world

ENDPOINTS, CA_FILE, LOCK, LOG = "endpoints.json", "ca.pem", "lock", "dev.log"
START_S_MAX = 60.0
LOOK_AGAIN_S = 0.05
PATIENCE_S_MIN, PATIENCE_S_MAX = 0.3, 5.0  # For one try to reach a node that starts: short at first, as it is quick.
STOP_S_MAX = 10.0

Key = tuple[str, str]  # A region's name and a node's id.


def run_dev(options: argparse.Namespace, output: Output, hardening: Hardening) -> None:
    """Runs until stopped by a signal, or until no node lives. Raises CommandFailed or OSError."""
    folder: Path = options.dir.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        (folder / ENDPOINTS).unlink(missing_ok=True)
        dev = Dev(folder, settle(options, folder), output, hardening)
        dev.check_place()
        try:
            with (folder / LOG).open("a") as log:
                set_up_logging("info", log)
                trio.run(dev.run)
        finally:
            (folder / ENDPOINTS).unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """For this process alone; the lock ends with the process, however that ends."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CommandFailed(f"{folder} is in use by another `keycluster dev`") from None
    finally:
        os.close(descriptor)


class Dev:
    """One run."""

    def __init__(self, folder: Path, settings: DevSettings, output: Output, hardening: Hardening) -> None:
        self._folder = folder
        self._settings = settings
        self._output = output
        self._hardening = hardening
        self._world = real_world()
        self._authorities: dict[str, str] = {}  # Of each region, PEM.
        self._children: dict[Key, subprocess.Popen[bytes]] = {}
        self._pids: dict[Key, int] = {}
        self._serves = {region: trio.Event() for region in settings.regions}  # Set once one of its nodes does.
        self._stop = trio.Event()
        self._is_one_process = all(len(nodes) == 1 for nodes in settings.regions.values())

    def check_place(self) -> None:
        """Waits for nodes of a killed run to be gone, and sees that nobody else has the ports. Raises CommandFailed."""
        deadline = time.monotonic() + STOP_S_MAX
        for region, nodes in self._settings.regions.items():
            for node in nodes:
                data = self._node_folder(region, node) / "data"
                while data.is_dir() and self._is_in_use(data):
                    if time.monotonic() > deadline:
                        raise CommandFailed(f"another process has {data}", hint="is the node still running?")
                    time.sleep(LOOK_AGAIN_S)
                for port in node.ports:
                    if not is_free(port):
                        raise CommandFailed(
                            f"port {port} of node {node.id} in {region} is taken by another program",
                            hint=f"a folder keeps its ports: end that program (`ss -ltnp 'sport = :{port}'` shows it)",
                        )

    def _is_in_use(self, data: Path) -> bool:
        try:
            lock_data(data, self._world.disk)()
        except FolderInUse:
            return True
        return False

    async def run(self) -> None:
        """Starts all, says where it is, waits for the end, stops all."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(stop_on_signal, self._stop)
                async with trio.open_nursery() as inside:  # Nodes in this process end by themselves, in order.
                    with trio.CancelScope() as until_stopped:
                        nursery.start_soon(self._cancel_when_stopped, until_stopped)
                        await self._start_and_watch(inside)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first_failure(group) from None
        finally:
            with trio.CancelScope(shield=True):
                await self._stop_children()

    async def _cancel_when_stopped(self, scope: trio.CancelScope) -> None:
        await self._stop.wait()
        scope.cancel()

    async def _start_and_watch(self, inside: trio.Nursery) -> None:
        async with trio.open_nursery() as regions:
            for region in self._settings.regions:
                regions.start_soon(self._start_region, region, inside)
        self._announce()
        if self._is_one_process:
            await trio.sleep_forever()
        async with trio.open_nursery() as watchers:
            for (region, name), child in self._children.items():
                watchers.start_soon(self._watch, f"{region} {name}", child)
        raise CommandFailed("no node lives any more")

    # Starting.

    async def _start_region(self, region: str, inside: trio.Nursery) -> None:
        nodes = self._settings.regions[region]
        self._authorities[region] = await trio.to_thread.run_sync(self._found_if_new, region)
        write_private(self._folder / CA_FILE, "".join(self._authorities[name] for name in sorted(self._authorities)))
        with trio.move_on_after(START_S_MAX) as scope:
            async with trio.open_nursery() as starts:
                for node in nodes:
                    starts.start_soon(self._bring_up, region, node, inside)
        if scope.cancelled_caught:
            raise CommandFailed(
                f"region {region} does not serve within {START_S_MAX:.0f} s",
                hint=f"{self._folder / region}/*/node.log say more",
            )

    def _found_if_new(self, region: str) -> str:
        """The region's client CA, PEM. Blocking.

        Founded is only where no node is there at all: one whose folder was removed can't become another region.
        """
        nodes = self._settings.regions[region]
        made = [node for node in nodes if self._is_made(self._config(region, node))]
        node = made[0] if made else nodes[0]
        config = self._config(region, node)
        disk = self._world.disk
        try:
            if not made:
                found_region(
                    config,
                    account=AccountId(self._settings.account),
                    access_key=self._settings.access_key,
                    world=self._world,
                )
            secrets = open_secrets(
                open_seal(config, disk=disk), region=region, node=config.node, data=config.data, disk=disk
            )
        except (FolderTaken, SealError) as error:
            raise CommandFailed(f"node {node.id} of {region}: {error}") from None
        return to_pem(secrets.client_ca)

    async def _bring_up(self, region: str, node: DevNode, inside: trio.Nursery) -> None:
        if not self._is_made(self._config(region, node)):
            await self._serves[region].wait()
            await self._join(region, node)
        await self._start_node(region, node, inside)
        try:
            await self._until_it_serves(region, node)
        except CommandFailed:
            if not await self._was_removed(region, node):
                raise
            self._pids.pop((region, node.id))
            print(f"node {region} {node.id} was removed from the region", file=sys.stderr, flush=True)
            return
        self._serves[region].set()

    async def _join(self, region: str, node: DevNode) -> None:
        made = [n for n in self._settings.regions[region] if self._is_made(self._config(region, n))]
        try:
            async with self._client(region, made) as client:
                issued = await client.issue_join_token(az=node.az, role=node.role)
            await join_region(self._config(region, node), parse_join_token(issued.token), world=self._world)
        except (JoinFailed, FolderTaken, SealError, errors.KmsError, errors.KeyClientError) as error:
            raise CommandFailed(f"node {node.id} can't join {region}: {error}") from None

    async def _start_node(self, region: str, node: DevNode, inside: trio.Nursery) -> None:
        config = self._config(region, node)
        folder = self._node_folder(region, node)
        write_private(folder / "node.toml", write_config(config))
        if self._is_one_process:
            self._pids[region, node.id] = os.getpid()
            await inside.start(self._run_inside, config)
            return
        with (folder / "node.log").open("ab") as node_log:
            # Not through trio: it starts processes in a thread, and PDEATHSIG is about the starting thread's end.
            child = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", "keycluster", "node", "--config", str(folder / "node.toml"), "--parent",
                 str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=node_log,
                stderr=node_log,
                env=dict(child_environment()),
            )  # fmt: skip
        self._children[region, node.id] = child
        self._pids[region, node.id] = child.pid

    async def _run_inside(
        self, config: NodeConfig, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        node, close = await trio.to_thread.run_sync(
            lambda: open_node(config, world=self._world, hardening=self._hardening)
        )
        try:
            await node.run(self._stop, task_status)
        except BaseExceptionGroup as group:
            raise failure_of(node, group) from None
        finally:
            close()

    async def _until_it_serves(self, region: str, node: DevNode) -> None:
        """Until it holds a live lease in its role. Raises CommandFailed if it ends before."""
        await self._until_it_listens(region, node)
        patience = PATIENCE_S_MIN
        while True:
            try:
                async with self._client(region, [node], timeout=patience) as client:
                    while True:
                        status = await client.node_status()
                        if status.serving and status.role == node.role:
                            return
                        self._check_alive(region, node)
                        await trio.sleep(LOOK_AGAIN_S)
            except (errors.KmsError, errors.KeyClientError):
                self._check_alive(region, node)
                await trio.sleep(LOOK_AGAIN_S)
                patience = min(patience * 1.5, PATIENCE_S_MAX)

    async def _until_it_listens(self, region: str, node: DevNode) -> None:
        while True:
            self._check_alive(region, node)
            try:
                stream = await trio.open_tcp_stream(HOST, node.native_port)
            except OSError:
                await trio.sleep(LOOK_AGAIN_S)
            else:
                await trio.aclose_forcefully(stream)
                return

    def _check_alive(self, region: str, node: DevNode) -> None:
        child = self._children.get((region, node.id))
        if child is not None and child.poll() is not None:
            node_log = self._node_folder(region, node) / "node.log"
            lines = node_log.read_text(errors="replace").splitlines()
            said = lines[-1].removeprefix("keycluster: ") if lines else f"status {child.returncode}"
            raise CommandFailed(f"node {node.id} of {region} ended: {said}", hint=f"{node_log} says more")

    async def _was_removed(self, region: str, node: DevNode) -> bool:
        """Whether the region's other nodes say that it is none of them."""
        others = [other for other in self._settings.regions[region] if other is not node]
        if not others:
            return False
        try:
            async with self._client(region, others) as client:
                members = (await client.node_status()).members
        except (errors.KmsError, errors.KeyClientError):
            return False
        return all(member.node_id != node.id or member.role is None for member in members)

    # What a node is, and how it is reached.

    def _config(self, region: str, node: DevNode) -> NodeConfig:
        folder = self._node_folder(region, node)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        peer, native, aws = (f"{HOST}:{port}" for port in node.ports)
        return NodeConfig(
            region=region,
            node=NodeId(node.id),
            az=node.az,
            role=MemberRole(node.role),
            data=folder / "data",
            seal=SealConfig(SealKind.KEY_FILE, path=folder / "seal.key"),
            peer=DoorConfig(peer, peer, tls=True, connections_max=PEER_CONNECTIONS_MAX),
            native=DoorConfig(native, native, tls=True, connections_max=NATIVE_CONNECTIONS_MAX),
            aws=DoorConfig(aws, aws, tls=False, connections_max=AWS_CONNECTIONS_MAX),
        )

    def _node_folder(self, region: str, node: DevNode) -> Path:
        return self._folder / region / node.id

    def _endpoints(self) -> Endpoints:
        return Endpoints(
            regions={
                region: [
                    EndpointNode.of(self._config(region, node), pid=self._pids[region, node.id])
                    for node in nodes
                    if (region, node.id) in self._pids
                ]
                for region, nodes in self._settings.regions.items()
            },
            account=self._settings.account,
            access_key_id=self._settings.access_key_id,
            secret_access_key=self._settings.secret_access_key,
            ca_file=str(self._folder / CA_FILE),
        )

    def _is_made(self, config: NodeConfig) -> bool:
        return holds_node(config.data, self._world.disk)

    def _client(self, region: str, nodes: Sequence[DevNode], *, timeout: float = PATIENCE_S_MAX) -> KeyClient:
        """An operator's client for these nodes."""
        settings = self._settings
        endpoints = ClientEndpoints(
            region=region,
            nodes=tuple(NodeAddress(NodeId(node.id), node.az, HOST, node.native_port) for node in nodes),
            credentials=Credentials(settings.access_key_id, settings.secret_access_key),
            ca_file=str(self._folder / CA_FILE),
        )
        return KeyClient(endpoints, timeout=timeout)

    # While it runs, and the end of it.

    def _announce(self) -> None:
        endpoints = self._endpoints()
        path = self._folder / ENDPOINTS
        write_endpoints(path, endpoints)
        lines = []
        for region, nodes in endpoints.regions.items():
            lines.append(f"region {region} serves")
            lines += [
                f"  {node.id}  {node.az}  {node.role:<8} native {node.native}   aws {node.aws}   pid {node.pid}"
                for node in nodes
            ]
        lines += [f"endpoints and credentials: {path}", "stop with Ctrl-C"]
        self._output.result({"Endpoints": str(path)}, lines=lines)
        sys.stdout.flush()

    async def _watch(self, name: str, child: "subprocess.Popen[bytes]") -> None:
        """A node that ended is not started again: that is for whoever tries things to see."""
        await _wait(child)
        if not self._stop.is_set():
            print(f"node {name} has ended with status {child.returncode}", file=sys.stderr, flush=True)

    async def _stop_children(self) -> None:
        living = [child for child in self._children.values() if child.poll() is None]
        for child in living:
            child.send_signal(signal.SIGTERM)
            child.send_signal(signal.SIGCONT)  # One that was paused ends in order too.
        with trio.move_on_after(STOP_S_MAX):
            for child in living:
                await _wait(child)
        for child in living:
            if child.poll() is None:
                child.kill()
                child.wait()


async def _wait(child: "subprocess.Popen[bytes]") -> None:
    """Until a process has ended, without a thread: the kernel tells by a descriptor."""
    if child.poll() is not None:
        return
    descriptor = os.pidfd_open(child.pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    child.wait()


def _first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to tell the user, out of what nurseries wrapped; the group itself where a fault of ours is in it."""
    if group.split((CommandFailed, OSError))[1] is not None:
        return group
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
