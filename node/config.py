"""A node's configuration: one TOML file, read strictly (`keycluster node --config FILE`).

Unknown names, wrong types and what can't work are refused in one line that names the file and the place. Nothing
secret is ever in the file: the seal is a path or a place to read a passphrase from.
"""

import difflib
import ipaddress
import json
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import MILLISECOND, NodeId
from keycluster.node.addresses import AddressMalformed, split_address

CONFIG_BYTES_MAX = 65_536

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?", re.ASCII)
"""Node ids and AZs: at most 64 characters (an X.509 common name, RFC 5280), fit for a file name and a log line."""

REGION = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
"""As in ARNs; at most 32 characters, so that the names of its authorities fit into 64."""

LEASE_MS_DEFAULT = 1_000
ELECTION_MS_DEFAULT = 300
HEARTBEAT_MS_DEFAULT = 60
TIMING_MS_MIN = 10
TIMING_MS_MAX = 60_000
HEARTBEATS_PER_ELECTION_MIN = 3
"""A leader may lose two heartbeats in a row before anybody thinks of an election."""

NATIVE_CONNECTIONS_MAX = 4_096
AWS_CONNECTIONS_MAX = 1_024
PEER_CONNECTIONS_MAX = 256
CONNECTIONS_LIMIT = 100_000
"""No port takes more, whatever the file says: file descriptors run out first."""

DESCRIPTOR_MAX = 1_023


class ConfigError(Exception):
    """One line: the file, the place in it, and what to write instead."""


class SealKind(StrEnum):
    KEY_FILE = "key-file"
    PASSPHRASE = "passphrase"  # noqa: S105


@dataclass(frozen=True, slots=True)
class SealConfig:
    """Where the seal comes from, never the seal itself."""

    kind: SealKind
    path: Path | None = None
    """Of a key file: the file. Of a passphrase: a named pipe to read it from, or None for the terminal or stdin."""
    descriptor: int | None = None
    """Of a passphrase: an open file descriptor to read it from instead."""


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """One port: where it listens and what others are told. Both are `host:port`."""

    listen: str
    advertised: str
    tls: bool
    connections_max: int


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """Equal on all nodes of a region; the defaults are design.md's."""

    lease_ns: int = LEASE_MS_DEFAULT * MILLISECOND
    election_ns: int = ELECTION_MS_DEFAULT * MILLISECOND
    heartbeat_ns: int = HEARTBEAT_MS_DEFAULT * MILLISECOND


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """All that a node is told from outside. Paths are absolute."""

    region: str
    node: NodeId
    az: str
    role: MemberRole
    data: Path
    seal: SealConfig
    peer: DoorConfig
    native: DoorConfig
    aws: DoorConfig
    timing: TimingConfig = TimingConfig()


class _Seal(Struct, forbid_unknown_fields=True, kw_only=True):
    kind: SealKind
    path: str | UnsetType = UNSET
    descriptor: int | UnsetType = UNSET


class _Door(Struct, forbid_unknown_fields=True, kw_only=True):
    listen: str
    advertised: str | UnsetType = UNSET
    connections_max: int | UnsetType = UNSET


class _AwsDoor(_Door, forbid_unknown_fields=True, kw_only=True):
    tls: bool = False


class _Timing(Struct, forbid_unknown_fields=True, kw_only=True):
    lease_ms: int = LEASE_MS_DEFAULT
    election_ms: int = ELECTION_MS_DEFAULT
    heartbeat_ms: int = HEARTBEAT_MS_DEFAULT


class _File(Struct, forbid_unknown_fields=True, kw_only=True):
    region: str
    node: str
    az: str
    role: MemberRole = MemberRole.VOTER
    data: str
    seal: _Seal
    peer: _Door
    native: _Door
    aws: _AwsDoor
    timing: _Timing = msgspec.field(default_factory=_Timing)


_TABLES: dict[str, type[Struct]] = {
    "": _File, "seal": _Seal, "peer": _Door, "native": _Door, "aws": _AwsDoor, "timing": _Timing,
}  # fmt: skip


def load_config(path: Path) -> NodeConfig:
    """Reads and checks the file; relative paths in it count from its folder. Raises `ConfigError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    try:
        return parse_config(content, folder=path.absolute().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_config(content: bytes, *, folder: Path) -> NodeConfig:
    """The configuration in a file's content. Raises `ConfigError` without the file's name."""
    if len(content) > CONFIG_BYTES_MAX:
        raise ConfigError(f"longer than {CONFIG_BYTES_MAX} bytes")
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}") from None
    _refuse_unknown_names(table)
    try:
        file = msgspec.convert(table, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace("`$.", "`")) from None
    return _checked(file, folder)


def write_config(config: NodeConfig) -> str:
    """The file that `parse_config` reads as `config`."""
    lines = [
        _line("region", config.region),
        _line("node", config.node),
        _line("az", config.az),
        _line("role", config.role.value),
        _line("data", str(config.data)),
        "\n[seal]\n",
        _line("kind", config.seal.kind.value),
    ]
    if config.seal.path is not None:
        lines.append(_line("path", str(config.seal.path)))
    if config.seal.descriptor is not None:
        lines.append(_line("descriptor", config.seal.descriptor))
    for name, door in (("peer", config.peer), ("native", config.native), ("aws", config.aws)):
        lines += [f"\n[{name}]\n", _line("listen", door.listen), _line("advertised", door.advertised)]
        lines.append(_line("connections_max", door.connections_max))
        if name == "aws":
            lines.append(_line("tls", door.tls))
    lines.append("\n[timing]\n")
    for name in ("lease", "election", "heartbeat"):
        lines.append(_line(f"{name}_ms", getattr(config.timing, f"{name}_ns") // MILLISECOND))
    return "".join(lines)


def _line(name: str, value: str | int) -> str:
    # JSON's strings are TOML's basic strings, except that TOML wants U+007F escaped.
    return f"{name} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")


def _refuse_unknown_names(table: dict[str, Any]) -> None:
    """msgspec would refuse them too; this says which name was probably meant."""
    for place, kind in _TABLES.items():
        inner = table if not place else table.get(place)
        known = [field.encode_name for field in msgspec.structs.fields(kind)]
        for name in inner if isinstance(inner, dict) else ():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
                raise ConfigError(f"unknown name {name!r} in {f'[{place}]' if place else 'the first table'}; {meant}")


def _checked(file: _File, folder: Path) -> NodeConfig:
    _check_name("region", file.region, REGION)
    _check_name("node", file.node, NAME)
    _check_name("az", file.az, NAME)
    data = _path("data", file.data, folder)
    return NodeConfig(
        region=file.region,
        node=NodeId(file.node),
        az=file.az,
        role=file.role,
        data=data,
        seal=_seal(file.seal, folder, data),
        peer=_door("peer", file.peer, tls=True, connections_default=PEER_CONNECTIONS_MAX),
        native=_door("native", file.native, tls=True, connections_default=NATIVE_CONNECTIONS_MAX),
        aws=_door("aws", file.aws, tls=file.aws.tls, connections_default=AWS_CONNECTIONS_MAX),
        timing=_timing(file.timing),
    )


def _check_name(place: str, value: str, allowed: re.Pattern[str]) -> None:
    if not allowed.fullmatch(value):
        raise ConfigError(f"{place}: {value[:100]!r} is not a name; allowed is {allowed.pattern}")


def _path(place: str, value: str, folder: Path) -> Path:
    if not value or "\0" in value:
        raise ConfigError(f"{place}: a path is needed")
    return folder / value


def _seal(seal: _Seal, folder: Path, data: Path) -> SealConfig:
    path = None if isinstance(seal.path, UnsetType) else _path("seal.path", seal.path, folder)
    descriptor = None if isinstance(seal.descriptor, UnsetType) else seal.descriptor
    if seal.kind is SealKind.KEY_FILE:
        if path is None or descriptor is not None:
            raise ConfigError("seal: a key-file needs a path and no descriptor")
        if path.resolve().is_relative_to(data.resolve()):
            raise ConfigError("seal.path: the key file is inside the data folder; who steals one would have both")
    elif path is not None and descriptor is not None:
        raise ConfigError("seal: a passphrase comes from a path or a descriptor, not from both")
    elif descriptor is not None and not 0 <= descriptor <= DESCRIPTOR_MAX:
        raise ConfigError("seal.descriptor: the number of an open file descriptor is needed")
    return SealConfig(kind=seal.kind, path=path, descriptor=descriptor)


def _door(place: str, door: _Door, *, tls: bool, connections_default: int) -> DoorConfig:
    advertised = door.listen if isinstance(door.advertised, UnsetType) else door.advertised
    listen_host = _host(f"{place}.listen", door.listen)
    advertised_host = _host(f"{place}.advertised", advertised)
    if _is(advertised_host, "is_unspecified"):
        raise ConfigError(f"{place}.advertised: write the address that others reach this node at, not {advertised!r}")
    if not tls and not (listen_host == "localhost" or _is(listen_host, "is_loopback")):
        raise ConfigError(f"{place}.listen: without TLS only a loopback address is served, not {door.listen!r}")
    connections = connections_default if isinstance(door.connections_max, UnsetType) else door.connections_max
    if not 1 <= connections <= CONNECTIONS_LIMIT:
        raise ConfigError(f"{place}.connections_max: 1 to {CONNECTIONS_LIMIT}, not {connections}")
    return DoorConfig(listen=door.listen, advertised=advertised, tls=tls, connections_max=connections)


def _host(place: str, address: str) -> str:
    try:
        host, port = split_address(address)
    except AddressMalformed as error:
        raise ConfigError(f"{place}: {error}") from None
    if port == 0:
        raise ConfigError(f"{place}: {address!r} needs a port of its own: others must find it again")
    return host


def _is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), what))
    except ValueError:  # A name.
        return False


def _timing(timing: _Timing) -> TimingConfig:
    for name in ("lease_ms", "election_ms", "heartbeat_ms"):
        if not TIMING_MS_MIN <= getattr(timing, name) <= TIMING_MS_MAX:
            raise ConfigError(f"timing.{name}: {TIMING_MS_MIN} to {TIMING_MS_MAX}, not {getattr(timing, name)}")
    if timing.heartbeat_ms * HEARTBEATS_PER_ELECTION_MIN > timing.election_ms:
        raise ConfigError(f"timing.election_ms: at least {HEARTBEATS_PER_ELECTION_MIN} times heartbeat_ms")
    if timing.lease_ms < timing.election_ms:
        raise ConfigError("timing.lease_ms: at least election_ms")
    return TimingConfig(
        lease_ns=timing.lease_ms * MILLISECOND,
        election_ns=timing.election_ms * MILLISECOND,
        heartbeat_ns=timing.heartbeat_ms * MILLISECOND,
    )
