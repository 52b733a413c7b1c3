"""`keycluster dev`: a region, or several, on one machine, of real node processes.

It takes the steps an operator takes on three machines (docs/install.md): it founds the region at the first node, and
lets each further one join with a token. What it adds is a folder that remembers: ports, credentials, nodes. So the same
folder starts again with its keys.

    DIR/dev.json            settings and credentials (0600), written before anything else
    DIR/lock                held while it runs
    DIR/endpoints.json      there while all of it answers
    DIR/ca.pem              the certificate authorities clients trust
    DIR/REGION/NODE/        node.toml, seal.key, data/, node.log

Nodes are this process's children, in its process group, and end with it (PDEATHSIG). A node that dies stays dead: what
happens then is for the one who tries things to see.
"""

import argparse
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import trio
from msgspec import Struct

from keycluster import Credentials, KeyClient, NodeAddress, errors
from keycluster import Endpoints as ClientEndpoints
from keycluster.cli.endpoints import EndpointNode, Endpoints, write_endpoints, write_private
from keycluster.cli.node_process import failure_of, open_node, set_up_logging, stop_on_signal
from keycluster.cli.output import CommandFailed, Output
from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.seams import World
from keycluster.cluster.types import AccountId, NodeId
from keycluster.cluster.wire.admin import NodeStatusResponse
from keycluster.node.access_keys import AccessKeySecret, AccessKeyUnfit, check_access_key, generate_access_key
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
from keycluster.node.making import FolderTaken
from keycluster.node.pki import to_pem
from keycluster.node.sealing import SealError
from keycluster.node.world import RealEntropy, real_world

T = TypeVar("T")

HOST = "127.0.0.1"
DEFAULT_ACCOUNT = "123456789012"
SETTINGS, ENDPOINTS, CA_FILE = "dev.json", "endpoints.json", "ca.pem"
AZ_LETTERS = "abc"
PORTS_FROM, PORTS_BELOW = 20_000, 32_768  # Below what Linux gives to outgoing connections: nobody takes them meanwhile.
NODES_MAX = 9
START_S_MAX = 60.0
LOOK_AGAIN_S = 0.03
CALL_S_MAX = 5.0
STOP_S_MAX = 10.0


class DevNode(Struct):
    """One node, as `dev` remembers it."""

    id: str
    az: str
    role: str
    peer_port: int
    native_port: int
    aws_port: int
    joined: bool = False  # It has a sealed folder of its own: it is started, not joined again.

    @property
    def ports(self) -> tuple[int, int, int]:
        return (self.peer_port, self.native_port, self.aws_port)


class DevSettings(Struct):
    """What makes the same folder the same regions again."""

    account: str
    access_key_id: str
    secret_access_key: str
    regions: dict[str, list[DevNode]]

    @property
    def access_key(self) -> AccessKeySecret:
        return AccessKeySecret(self.access_key_id, self.secret_access_key)

    def __repr__(self) -> str:
        return f"DevSettings(account={self.account}, regions={sorted(self.regions)})"


def run_dev(options: argparse.Namespace, output: Output, hardening: Hardening) -> None:
    """Runs until stopped by a signal, or until no node lives. Raises CommandFailed."""
    folder: Path = options.dir.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        (folder / ENDPOINTS).unlink(missing_ok=True)
        settings = _settings(options, folder)
        dev = Dev(folder, settings, output, hardening)
        try:
            trio.run(dev.run)
        finally:
            (folder / ENDPOINTS).unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """For this process alone; the lock ends with the process, however that ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CommandFailed(f"{folder} is in use by another `keycluster dev`") from None
    finally:
        os.close(descriptor)


def _settings(options: argparse.Namespace, folder: Path) -> DevSettings:
    """What the folder remembers, with what the command line adds; durable before anything is made by it."""
    path = folder / SETTINGS
    settings = _remembered(path) or _new_settings(options)
    if options.account not in (None, settings.account) or options.access_key_id not in (None, settings.access_key_id):
        raise CommandFailed(f"{folder} has account {settings.account} and access key {settings.access_key_id}")
    if options.secret_access_key not in (None, settings.secret_access_key):
        raise CommandFailed(f"{folder} has another secret access key")
    names = options.regions.split(",") if options.regions else (sorted(settings.regions) or ["us-east-1"])
    if settings.regions and set(names) < set(settings.regions):
        raise CommandFailed(f"{folder} has the regions {', '.join(sorted(settings.regions))}: all of them start")
    ports = _Ports(options.port_base, [port for nodes in settings.regions.values() for n in nodes for port in n.ports])
    for name in names:
        nodes = settings.regions.setdefault(name, [])
        wanted = options.nodes if options.nodes is not None else max(len(nodes), 3 if not nodes else 0)
        if not 1 <= wanted <= NODES_MAX or wanted < len(nodes):
            raise CommandFailed(f"--nodes: {max(1, len(nodes))} to {NODES_MAX}, not {wanted}")
        if not nodes and not 0 <= options.learners < wanted:
            raise CommandFailed(f"--learners: 0 to {wanted - 1}, not {options.learners}")
        first_learner = wanted - options.learners
        nodes += [_new_node(name, number, number >= first_learner, ports) for number in range(len(nodes), wanted)]
    write_private(path, msgspec.json.encode(settings).decode())
    return settings


def _remembered(path: Path) -> DevSettings | None:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=DevSettings)
    except msgspec.MsgspecError:
        raise CommandFailed(f"{path} is not what `keycluster dev` wrote: choose another folder") from None


def _new_settings(options: argparse.Namespace) -> DevSettings:
    if (options.access_key_id is None) != (options.secret_access_key is None):
        raise CommandFailed("--access-key-id and --secret-access-key go together")
    generated = generate_access_key(RealEntropy())
    settings = DevSettings(
        account=options.account or DEFAULT_ACCOUNT,
        access_key_id=options.access_key_id or generated.access_key_id,
        secret_access_key=options.secret_access_key or generated.secret,
        regions={},
    )
    try:
        check_access_key(AccountId(settings.account), settings.access_key)
    except AccessKeyUnfit as error:
        raise CommandFailed(str(error)) from None
    return settings


def _new_node(region: str, number: int, learner: bool, ports: "_Ports") -> DevNode:
    return DevNode(
        id=f"n{number + 1}",
        az=region + AZ_LETTERS[number % len(AZ_LETTERS)],
        role=MemberRole.LEARNER if learner else MemberRole.VOTER,
        peer_port=ports.next(),
        native_port=ports.next(),
        aws_port=ports.next(),
    )


class _Ports:
    """Free ports, or those from a base upwards."""

    def __init__(self, base: int | None, taken: Sequence[int]) -> None:
        self._base = base
        self._taken = set(taken)

    def next(self) -> int:
        if self._base is not None:
            port = self._base
            while port in self._taken:
                port += 1
        else:
            port = self._free()
        if not 0 < port < 65_536:
            raise CommandFailed(f"--port-base: there is no port {port}")
        self._taken.add(port)
        return port

    def _free(self) -> int:
        jitter = RealEntropy().jitter()
        for _ in range(1000):
            port = jitter.randrange(PORTS_FROM, PORTS_BELOW)
            if port not in self._taken and _is_free(port):
                return port
        raise CommandFailed("no free port was found", hint="choose some with --port-base")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Dev:
    """One run."""

    def __init__(self, folder: Path, settings: DevSettings, output: Output, hardening: Hardening) -> None:
        self._folder = folder
        self._settings = settings
        self._output = output
        self._hardening = hardening
        self._children: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._pids: dict[tuple[str, str], int] = {}
        nodes = [node for nodes in settings.regions.values() for node in nodes]
        self._is_one_process = len(nodes) == 1
        self._one_ended = trio.Event()

    async def run(self) -> None:
        """Starts all, says where it is, waits for the end, stops all."""
        stop = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(stop_on_signal, stop)
                nursery.start_soon(self._run_until, stop, nursery.cancel_scope)
                for region in sorted(self._settings.regions):
                    await self._start_region(region, nursery, stop)
                self._announce()
                await self._wait_while_any_lives()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _only_failure(group) from None
        finally:
            with trio.CancelScope(shield=True):
                await self._stop_children()

    async def _run_until(self, stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        if not self._is_one_process:  # The one process ends by itself, in order.
            scope.cancel()

    async def _start_region(self, region: str, nursery: trio.Nursery, stop: trio.Event) -> None:
        nodes = self._settings.regions[region]
        world = real_world()
        if not nodes[0].joined:
            await self._found(region, nodes[0], world)
        for node in [node for node in nodes if node.joined]:
            await self._start_node(region, node, nursery, stop)
        for node in [node for node in nodes if not node.joined]:
            await self._join(region, node, world)
            await self._start_node(region, node, nursery, stop)
        with self._in_time(f"region {region} does not serve"):
            for node in nodes:
                await self._until_it_serves(region, node)

    async def _found(self, region: str, node: DevNode, world: World) -> None:
        config = self._config(region, node)
        founded = await trio.to_thread.run_sync(
            lambda: found_region(
                config,
                account=AccountId(self._settings.account),
                access_key=self._settings.access_key,
                world=world,
            )
        )
        with (self._folder / CA_FILE).open("a") as ca_file:
            ca_file.write(to_pem(founded.client_ca))
        self._has_joined(node)

    async def _join(self, region: str, node: DevNode, world: World) -> None:
        with self._in_time(f"node {node.id} can't join region {region}"):
            issued = await self._ask(
                region,
                [other for other in self._settings.regions[region] if other.joined],
                lambda client: client.issue_join_token(az=node.az, role=node.role),
            )
            try:
                await join_region(self._config(region, node), parse_join_token(issued.token), world=world)
            except (JoinFailed, FolderTaken, SealError) as error:
                raise CommandFailed(f"node {node.id}: {error}") from None
        self._has_joined(node)

    def _has_joined(self, node: DevNode) -> None:
        node.joined = True
        write_private(self._folder / SETTINGS, msgspec.json.encode(self._settings).decode())

    async def _start_node(self, region: str, node: DevNode, nursery: trio.Nursery, stop: trio.Event) -> None:
        config = self._config(region, node)
        folder = self._node_folder(region, node)
        write_private(folder / "node.toml", write_config(config))
        if self._is_one_process:
            self._pids[region, node.id] = os.getpid()
            await nursery.start(self._run_inside, config, stop)
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
        self, config: NodeConfig, stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        set_up_logging("warning")
        node, close = await trio.to_thread.run_sync(
            lambda: open_node(config, world=real_world(), hardening=self._hardening)
        )
        try:
            await node.run(stop, task_status)
        except BaseExceptionGroup as group:
            raise failure_of(node, group) from None
        finally:
            close()
            self._one_ended.set()

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

    async def _ask(self, region: str, nodes: Sequence[DevNode], call: Callable[[KeyClient], Awaitable[T]]) -> T:
        """An operator's call, at whichever of these nodes answers."""
        settings = self._settings
        endpoints = ClientEndpoints(
            region=region,
            nodes=tuple(NodeAddress(NodeId(node.id), node.az, HOST, node.native_port) for node in nodes),
            credentials=Credentials(settings.access_key_id, settings.secret_access_key),
            ca_file=str(self._folder / CA_FILE),
        )
        async with KeyClient(endpoints, timeout=CALL_S_MAX) as client:
            return await call(client)

    async def _until_it_serves(self, region: str, node: DevNode) -> None:
        while True:
            self._check_alive(region, node)
            try:
                status: NodeStatusResponse = await self._ask(region, [node], lambda client: client.node_status())
            except (errors.KmsError, errors.KeyClientError, ExceptionGroup):
                pass  # Not up yet.
            else:
                if status.serving and status.role == node.role:
                    return
            await trio.sleep(LOOK_AGAIN_S)

    def _check_alive(self, region: str, node: DevNode) -> None:
        child = self._children.get((region, node.id))
        if child is not None and child.poll() is not None:
            node_log = self._node_folder(region, node) / "node.log"
            lines = node_log.read_text(errors="replace").splitlines()
            raise CommandFailed(f"node {node.id} ended: {lines[-1] if lines else child.returncode}")

    @contextmanager
    def _in_time(self, what: str) -> Iterator[None]:
        with trio.move_on_after(START_S_MAX) as scope:
            yield
        if scope.cancelled_caught:
            raise CommandFailed(f"{what} within {START_S_MAX:.0f} s", hint="the nodes' node.log files say more")

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

    async def _wait_while_any_lives(self) -> None:
        """A node that ended is not started again: that is for whoever tries things to see."""
        if self._is_one_process:
            await self._one_ended.wait()
            return
        async with trio.open_nursery() as nursery:
            for (region, name), child in self._children.items():
                nursery.start_soon(self._watch, f"{region} {name}", child)

    @staticmethod
    async def _watch(name: str, child: "subprocess.Popen[bytes]") -> None:
        await _wait(child)
        print(f"node {name} has ended with status {child.returncode}", file=sys.stderr, flush=True)

    async def _stop_children(self) -> None:
        living = [child for child in self._children.values() if child.poll() is None]
        for child in living:
            child.send_signal(signal.SIGTERM)
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


def _only_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A failure to tell the user about, out of what a nursery wrapped it in; else the group itself."""
    failures, others = group.split(CommandFailed)
    error: BaseException = group if others is not None or failures is None else failures
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
