"""What AWS's answers say about a key, made from its record."""

from hashlib import sha256

from keycluster.cluster.keys.limits import DAY
from keycluster.cluster.keys.records import KeyRecord, KeyState, RegionRecord
from keycluster.cluster.keys.resolve import key_arn
from keycluster.cluster.types import ClusterTime, KeyId
from keycluster.cluster.wire.operations import KeyMetadata, UnixSeconds

_MATERIAL_LABEL = b"keycluster/key-material/1"


def unix_seconds(time: ClusterTime) -> UnixSeconds:
    """As AWS sends times: to the millisecond."""
    return (time // 1_000_000) / 1000


def key_material_id(key_id: KeyId, backing_key_id: bytes) -> str:
    """AWS's name for one rotation's material: 64 hexadecimal digits. It tells nothing about the material."""
    return sha256(_MATERIAL_LABEL + key_id.encode() + backing_key_id).hexdigest()


def key_metadata(key: KeyRecord, region: RegionRecord) -> KeyMetadata:
    """As DescribeKey answers."""
    return KeyMetadata(
        aws_account_id=key.account,
        key_id=key.key_id,
        arn=key_arn(region, key.account, key.key_id),
        creation_date=unix_seconds(key.created),
        enabled=key.state is KeyState.ENABLED,
        description=key.description,
        key_usage=key.usage,
        key_state=key.state,
        deletion_date=None if key.deletion_at is None else unix_seconds(key.deletion_at),
        origin=key.origin,
        key_manager="CUSTOMER",
        customer_master_key_spec=key.spec,
        key_spec=key.spec,
        encryption_algorithms=("SYMMETRIC_DEFAULT",),
        multi_region=False,
        current_key_material_id=key_material_id(key.key_id, key.current.id),
    )


def days_from(time: ClusterTime, days: int) -> ClusterTime:
    return ClusterTime(time + days * DAY)
