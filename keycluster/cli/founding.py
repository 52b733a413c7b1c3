"""What `keycluster init` does: a region's first node, and the file with its only access key.

The order matters: the access key is durable in the endpoints file before the region that knows it is founded, so a
crash in between can't lose it. The CA's certificate comes last, beside the file; as long as it isn't there the same
command goes on where it was cut off.
"""

from pathlib import Path

import msgspec

from keycluster.cli.endpoints import EndpointNode, Endpoints, write_endpoints, write_private
from keycluster.cli.output import CommandFailed
from keycluster.cluster.seams import World
from keycluster.cluster.types import AccountId
from keycluster.node.access_keys import AccessKeySecret, AccessKeyUnfit, check_access_key, generate_access_key
from keycluster.node.config import ConfigError, NodeConfig
from keycluster.node.founding import found_region
from keycluster.node.making import FolderTaken, holds_node
from keycluster.node.pki import to_pem
from keycluster.node.seal_source import open_seal
from keycluster.node.sealing import SealError, open_secrets


class _Begun(msgspec.Struct):
    """The part of an endpoints file that tells whose it is."""

    regions: dict[str, dict[str, list[dict[str, str]]]]
    account: str
    access_key_id: str
    secret_access_key: str
    ca_file: str


def init_region(config: NodeConfig, *, account: str, endpoints: Path, world: World) -> None:
    """Blocking. Raises CommandFailed or OSError."""
    node = EndpointNode.of(config, pid=None)
    ca_file = endpoints.with_suffix(".ca.pem").absolute()
    begun = _begun(endpoints, Endpoints({config.region: [node]}, account, "", "", str(ca_file)))
    access_key = begun or generate_access_key(world.entropy)
    try:
        check_access_key(AccountId(account), access_key)
        if begun is None:
            _check_unused(config, world)
            write_endpoints(
                endpoints,
                Endpoints(
                    regions={config.region: [node]},
                    account=account,
                    access_key_id=access_key.access_key_id,
                    secret_access_key=access_key.secret,
                    ca_file=str(ca_file),
                ),
            )
        client_ca = _client_ca(config, account, access_key, world)
    except (FolderTaken, SealError, AccessKeyUnfit, ConfigError, OSError) as error:
        if begun is None and not holds_node(config.data, world.disk):  # No region was founded that knows this key.
            endpoints.unlink(missing_ok=True)
        raise CommandFailed(str(error)) from None
    write_private(ca_file, to_pem(client_ca))


def _begun(path: Path, wanted: Endpoints) -> AccessKeySecret | None:
    """The access key of an earlier try that was cut off. Raises CommandFailed if the file is another one."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Begun)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        found = None
    nodes = {region: {"nodes": [node.as_json() for node in nodes]} for region, nodes in wanted.regions.items()}
    is_ours = found is not None and (found.regions, found.account, found.ca_file) == (
        nodes,
        wanted.account,
        wanted.ca_file,
    )
    if found is None or not is_ours or Path(wanted.ca_file).exists():
        raise CommandFailed(f"{path} exists", hint="it may hold another region's access key: move it")
    return AccessKeySecret(found.access_key_id, found.secret_access_key)


def _check_unused(config: NodeConfig, world: World) -> None:
    """Before anything is written. `found_region` looks again, under the folder's lock."""
    if holds_node(config.data, world.disk):
        raise CommandFailed(f"{config.data} holds a node already: choose another folder")


def _client_ca(config: NodeConfig, account: str, access_key: AccessKeySecret, world: World) -> bytes:
    """Of the region, which is founded unless it is already."""
    if not holds_node(config.data, world.disk):
        return found_region(config, account=AccountId(account), access_key=access_key, world=world).client_ca
    seal = open_seal(config, disk=world.disk)
    return open_secrets(seal, region=config.region, node=config.node, data=config.data, disk=world.disk).client_ca
