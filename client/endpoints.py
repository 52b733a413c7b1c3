"""Where a region is and with what to log in: what a client is made with, and the file that `keycluster dev` writes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from keycluster.cluster.types import NodeId

FILE_NAME = "endpoints.json"


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """One node's native door."""

    node: NodeId
    az: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key. The secret never leaves the process: log-in proves that it is there."""

    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return f"Credentials({self.access_key_id})"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """One region as a client sees it."""

    region: str
    nodes: tuple[NodeAddress, ...]
    credentials: Credentials
    ca_file: str
    """The certificate of the region's client CA, PEM."""


class _Node(msgspec.Struct):
    id: str
    az: str
    native: str


class _Region(msgspec.Struct):
    nodes: list[_Node]


class _File(msgspec.Struct):
    regions: dict[str, _Region]
    access_key_id: str
    secret_access_key: str
    ca_file: str


def read_endpoints(path: str | os.PathLike[str], region: str | None = None) -> Endpoints:
    """Reads the file, or `endpoints.json` in the folder. Without `region` the first one in the file is meant.

    Raises OSError if it can't be read, ValueError if it isn't such a file or hasn't the region.
    """
    file = Path(path)
    if file.is_dir():
        file /= FILE_NAME
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_File)
        name, found = _choose(content.regions, region)
        nodes = tuple(NodeAddress(NodeId(node.id), node.az, *split_address(node.native)) for node in found.nodes)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None
    return Endpoints(name, nodes, Credentials(content.access_key_id, content.secret_access_key), content.ca_file)


def _choose(regions: Mapping[str, Any], region: str | None) -> tuple[str, Any]:
    if region is None:
        for name, found in regions.items():
            return name, found
        raise ValueError("no region in it")
    if region not in regions:
        raise ValueError(f"no region {region} in it, but {', '.join(regions) or 'none'}")
    return region, regions[region]


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[host]:port`. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"not an address: {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)
