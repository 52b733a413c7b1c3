"""A region's first node, made on an empty folder: `keycluster init` (security.md, 1 and 8).

What is made: the node's keys, domain key generation 1, both authorities, one operator's access key, a log whose first
entries are the one-voter membership and the command that founds the region, and an empty state. Nothing is applied
here: the node does that at its first start, as with any other entry.
"""

from dataclasses import dataclass

from keycluster.cluster.keys.commands import FoundRegion, NewMember, encode_command, region_caller, stamp
from keycluster.cluster.keys.hierarchy import GENERATION_BYTES, Keyring, Purpose
from keycluster.cluster.keys.records import AuthorityRecord, MemberRole
from keycluster.cluster.keys.token import NONCE_BYTES, seal_secret
from keycluster.cluster.raft.messages import Entry, EntryKind, HardState, Membership, encode_membership_entry
from keycluster.cluster.seams import Entropy, World
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore
from keycluster.cluster.types import AccountId, ClusterTime, LogIndex, Term, WallTime
from keycluster.node.access_keys import AccessKeySecret, check_access_key, generate_access_key, seal_access_key
from keycluster.node.addresses import split_address
from keycluster.node.config import ConfigError, NodeConfig
from keycluster.node.making import LOG_FOLDER, STATE_FOLDER, making
from keycluster.node.pki import (
    Authority,
    AuthorityName,
    issue_certificate,
    new_authority,
    new_private_key,
    public_key_of_private,
)
from keycluster.node.seal_source import new_seal
from keycluster.node.sealing import NodeSecrets, wrap_info, write_secrets

FIRST_GENERATION = 1
FIRST_TERM = Term(1)

NO_MEMBERSHIP = Membership(voters=())
"""What an empty state knows: who belongs to the region stands in the log alone."""


@dataclass(frozen=True, slots=True)
class FoundedRegion:
    """What the operator needs now and is never shown again, and the CA's certificate that clients check nodes by."""

    access_key: AccessKeySecret
    client_ca: bytes  # DER.


def found_region(
    config: NodeConfig, *, account: AccountId, access_key: AccessKeySecret | None, world: World
) -> FoundedRegion:
    """Makes the region's first node, a voter, in the configuration's data folder. Blocking: run it in a thread.

    A try that was cut off leaves a folder that the next one clears; a folder with a node is refused.
    Raises `FolderTaken`, `SealError`, `AccessKeyUnfit`, `ConfigError` or `OSError`.
    """
    if config.role is not MemberRole.VOTER:
        raise ConfigError("role: a region's first node is a voter")
    access_key = access_key or generate_access_key(world.entropy)
    check_access_key(account, access_key)
    with making(config.data, world.disk, keep_pending=False):
        seal = new_seal(config, disk=world.disk, entropy=world.entropy)
        now = world.clock.wall()
        authorities = {
            name: new_authority(name, config.region, entropy=world.entropy, now=now) for name in AuthorityName
        }
        secrets = _new_secrets(config, authorities, entropy=world.entropy, now=now)
        keyring = secrets.keyring()
        founding = FoundRegion(
            region=config.region,
            generation=FIRST_GENERATION,
            member=_first_member(config, secrets, entropy=world.entropy),
            authorities=tuple(_seal_authority(authorities[name], keyring, world.entropy) for name in AuthorityName),
            access_key=seal_access_key(
                access_key, account=account, operator=True, keyring=keyring, entropy=world.entropy
            ),
        )
        _create_stores(config, founding, keyring, world=world, now=now)
        write_secrets(secrets, seal, data=config.data, disk=world.disk, entropy=world.entropy)
    return FoundedRegion(access_key=access_key, client_ca=secrets.client_ca)


def node_hosts(config: NodeConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The hosts for a node's peer certificate, and for its native one, which the AWS door shows too."""
    peer, native, aws = (split_address(door.advertised)[0] for door in (config.peer, config.native, config.aws))
    return (peer,), (native, aws)


def _new_secrets(
    config: NodeConfig, authorities: dict[AuthorityName, Authority], *, entropy: Entropy, now: WallTime
) -> NodeSecrets:
    peer_key, native_key = new_private_key(entropy), new_private_key(entropy)
    wrap_keys = entropy.new_wrap_key_pair()
    peer_hosts, native_hosts = node_hosts(config)
    certificates = [
        issue_certificate(
            authorities[name],
            node=config.node,
            public_key=public_key_of_private(private_key),
            hosts=hosts,
            entropy=entropy,
            now=now,
        )
        for name, private_key, hosts in (
            (AuthorityName.PEER, peer_key, peer_hosts),
            (AuthorityName.CLIENT, native_key, native_hosts),
        )
    ]
    return NodeSecrets(
        region=config.region,
        node=config.node,
        peer_key=peer_key,
        native_key=native_key,
        wrap_private=wrap_keys.private,
        wrap_public=wrap_keys.public,
        generations=((FIRST_GENERATION, entropy.random_bytes(GENERATION_BYTES)),),
        peer_certificate=certificates[0],
        native_certificate=certificates[1],
        peer_ca=authorities[AuthorityName.PEER].certificate,
        client_ca=authorities[AuthorityName.CLIENT].certificate,
        contacts=(),
    )


def _first_member(config: NodeConfig, secrets: NodeSecrets, *, entropy: Entropy) -> NewMember:
    info = wrap_info(config.region, FIRST_GENERATION, config.node)
    wrapped = entropy.wrap(secrets.generations[0][1], to=secrets.wrap_public, info=info)
    return NewMember(
        node=config.node,
        az=config.az,
        wanted=MemberRole.VOTER,
        identity_key=public_key_of_private(secrets.peer_key),
        wrap_key=secrets.wrap_public,
        certificates=(secrets.peer_certificate, secrets.native_certificate),
        peer_address=config.peer.advertised,
        native_address=config.native.advertised,
        aws_address=config.aws.advertised,
        wraps=((FIRST_GENERATION, wrapped),),
    )


def _seal_authority(authority: Authority, keyring: Keyring, entropy: Entropy) -> AuthorityRecord:
    sealed = seal_secret(
        keyring,
        FIRST_GENERATION,
        Purpose.AUTHORITY,
        secret=authority.private_key,
        owner=authority.name.value.encode(),
        nonce=entropy.random_bytes(NONCE_BYTES),
    )
    return AuthorityRecord(name=authority.name.value, certificate=authority.certificate, private_key_sealed=sealed)


def _create_stores(config: NodeConfig, founding: FoundRegion, keyring: Keyring, *, world: World, now: WallTime) -> None:
    """Entry 1 founds the region, entry 2 is its membership: that one finds the member's row when it is applied."""
    keys = keyring.state_keys(FIRST_GENERATION)
    command = encode_command(founding, region_caller(config.node))
    membership = encode_membership_entry(Membership(voters=(config.node,)))
    entries = (
        Entry(FIRST_TERM, LogIndex(1), EntryKind.COMMAND, stamp(command, ClusterTime(now), 0)),
        Entry(FIRST_TERM, LogIndex(2), EntryKind.MEMBERSHIP, membership),
    )
    log = LogStore.create(world.disk, config.data / LOG_FOLDER, keys)
    try:
        log.write(hard_state=HardState(FIRST_TERM, config.node), entries=entries)
    finally:
        log.close()
    StateStore.create(world.disk, config.data / STATE_FOLDER, keys, membership=NO_MEMBERSHIP).close()
