"""What the folder of `keycluster dev` remembers: regions, nodes, ports, credentials. So the same folder starts again.

It is written before anything is made by it, and a folder's ports, account and access key never change: they stand in
certificates, in the replicated state and in what people have copied out of endpoints.json.
"""

import argparse
import random
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from keycluster.cli.endpoints import write_private
from keycluster.cli.output import CommandFailed
from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import AccountId
from keycluster.node.access_keys import AccessKeySecret, AccessKeyUnfit, check_access_key, generate_access_key
from keycluster.node.config import REGION
from keycluster.node.world import RealEntropy

HOST = "127.0.0.1"
FILE_NAME = "dev.json"
DEFAULT_ACCOUNT = "123456789012"
DEFAULT_REGION = "us-east-1"
DEFAULT_NODES = 3
NODES_MAX = 9
AZ_LETTERS = "abc"
PORTS_FROM, PORTS_BELOW = 20_000, 32_768  # Below what Linux gives to outgoing connections: nobody takes them meanwhile.


class DevNode(Struct):
    """One node, as `dev` remembers it."""

    id: str
    az: str
    role: str
    peer_port: int
    native_port: int
    aws_port: int

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

    @property
    def ports(self) -> list[int]:
        return [port for nodes in self.regions.values() for node in nodes for port in node.ports]

    def __repr__(self) -> str:
        return f"DevSettings(account={self.account}, regions={sorted(self.regions)})"


def settle(options: argparse.Namespace, folder: Path) -> DevSettings:
    """What the folder remembers, with what the command line adds; durable when this returns. Raises CommandFailed."""
    path = folder / FILE_NAME
    settings = _remembered(path) or _new_settings(options)
    for given, kept, what in (
        (options.account, settings.account, f"account {settings.account}"),
        (options.access_key_id, settings.access_key_id, f"access key {settings.access_key_id}"),
        (options.secret_access_key, settings.secret_access_key, "a secret access key of its own"),
    ):
        if given not in (None, kept):
            raise CommandFailed(f"{folder} has {what}", hint="leave the option out, or choose another folder")
    ports = _Ports(options.port_base, settings.ports)
    for name in _region_names(options.regions, settings, folder):
        _add_nodes(options, settings.regions.setdefault(name, []), name, ports)
    write_private(path, msgspec.json.encode(settings).decode())
    return settings


def is_free(port: int) -> bool:
    """Whether a node could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _remembered(path: Path) -> DevSettings | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=DevSettings)
    except FileNotFoundError:
        return None
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


def _region_names(given: str | None, settings: DevSettings, folder: Path) -> list[str]:
    if given is None:
        return sorted(settings.regions) or [DEFAULT_REGION]
    names = given.split(",")
    for name in names:
        if not REGION.fullmatch(name):
            raise CommandFailed(f"--regions: {name[:100]!r} is not a region's name: a-z, 0-9 and -, a letter first")
    if len(set(names)) < len(names):
        raise CommandFailed(f"--regions: {given} names one twice")
    if not set(settings.regions) <= set(names):
        raise CommandFailed(f"{folder} has the regions {','.join(sorted(settings.regions))}: all of them start")
    return names


def _add_nodes(options: argparse.Namespace, nodes: list[DevNode], region: str, ports: "_Ports") -> None:
    wanted = options.nodes if options.nodes is not None else len(nodes) or DEFAULT_NODES
    if not max(1, len(nodes)) <= wanted <= NODES_MAX:
        raise CommandFailed(f"--nodes: {max(1, len(nodes))} to {NODES_MAX}, not {wanted}")
    if not 0 <= options.learners < wanted:
        raise CommandFailed(f"--learners: 0 to {wanted - 1}, not {options.learners}")
    for number in range(len(nodes), wanted):
        is_learner = number >= wanted - options.learners
        nodes.append(
            DevNode(
                id=f"n{number + 1}",
                az=region + AZ_LETTERS[number % len(AZ_LETTERS)],
                role=MemberRole.LEARNER if is_learner else MemberRole.VOTER,
                peer_port=ports.next(),
                native_port=ports.next(),
                aws_port=ports.next(),
            )
        )


class _Ports:
    """Free ports, or those from a base upwards."""

    def __init__(self, base: int | None, taken: Sequence[int]) -> None:
        self._base = base
        self._taken = set(taken)
        self._jitter: random.Random = RealEntropy().jitter()

    def next(self) -> int:
        port = self._any_free() if self._base is None else self._next_from(self._base)
        self._taken.add(port)
        return port

    def _next_from(self, base: int) -> int:
        port = base
        while port in self._taken:
            port += 1
        if not 0 < port < 65_536:
            raise CommandFailed(f"--port-base: there is no port {port}")
        if not is_free(port):
            raise CommandFailed(f"--port-base: something else listens on port {port}", hint="choose another base")
        return port

    def _any_free(self) -> int:
        for _ in range(1000):
            port = self._jitter.randrange(PORTS_FROM, PORTS_BELOW)
            if port not in self._taken and is_free(port):
                return port
        raise CommandFailed("no free port was found", hint="choose some with --port-base")
