"""The endpoints file: where a region's nodes are, and an access key for them. Mode 0600: it holds a secret."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycluster.node.config import NodeConfig

FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class EndpointNode:
    """A node as clients reach it."""

    id: str
    az: str
    role: str
    native: str
    aws: str
    pid: int | None

    @classmethod
    def of(cls, config: NodeConfig, *, pid: int | None) -> "EndpointNode":
        """From a node's own configuration. `pid`: its process, where it is known to be on this machine."""
        return cls(
            id=config.node,
            az=config.az,
            role=config.role.value,
            native=config.native.advertised,
            aws=f"{'https' if config.aws.tls else 'http'}://{config.aws.advertised}",
            pid=pid,
        )

    def as_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "id": self.id,
            "az": self.az,
            "role": self.role,
            "native": self.native,
            "aws": self.aws,
        }
        return plain if self.pid is None else {**plain, "pid": self.pid}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The file's content."""

    regions: dict[str, list[EndpointNode]]
    account: str
    access_key_id: str
    secret_access_key: str
    ca_file: str

    def __repr__(self) -> str:
        return f"Endpoints(regions={sorted(self.regions)}, account={self.account})"


def write_endpoints(path: Path, endpoints: Endpoints) -> None:
    """Written beside its place and renamed: whoever sees the file sees all of it."""
    content = {
        "regions": {
            region: {"nodes": [node.as_json() for node in nodes]} for region, nodes in endpoints.regions.items()
        },
        "account": endpoints.account,
        "access_key_id": endpoints.access_key_id,
        "secret_access_key": endpoints.secret_access_key,
        "ca_file": endpoints.ca_file,
    }
    write_private(path, json.dumps(content, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replaces the file, mode 0600, durably."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
