"""Keycluster: a self-hosted key management service. What applications import from here is its public face.

    from keycluster import KeyClient, errors

Names are loaded when first asked for: a node or `keycluster --help` needn't wait for the client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keycluster.client import errors
    from keycluster.client.endpoints import Credentials, Endpoints, NodeAddress
    from keycluster.client.envelope.format import Suite
    from keycluster.client.envelope.streams import EnvelopeResult
    from keycluster.client.key_client import KeyClient, RegionOperations
    from keycluster.client.nodes import NodeStatistics
    from keycluster.cluster.wire.operations import Tag

__all__ = [
    "Credentials",
    "Endpoints",
    "EnvelopeResult",
    "KeyClient",
    "NodeAddress",
    "NodeStatistics",
    "RegionOperations",
    "Suite",
    "Tag",
    "errors",
]

_HOMES = {
    "Credentials": "client.endpoints",
    "Endpoints": "client.endpoints",
    "EnvelopeResult": "client.envelope.streams",
    "KeyClient": "client.key_client",
    "NodeAddress": "client.endpoints",
    "NodeStatistics": "client.nodes",
    "RegionOperations": "client.key_client",
    "Suite": "client.envelope.format",
    "Tag": "cluster.wire.operations",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("keycluster.client.errors")
    if name in _HOMES:
        return getattr(import_module(f"keycluster.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'keycluster' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
