"""The operations' requests and responses, as AWS KMS names and shapes them (API version 2014-11-01).

One type serves both doors and the client: field names are snake_case here and AWS's PascalCase on the wire, in JSON
(AWS door: bytes are Base64, times are Unix seconds) and in msgpack (native door: bytes are bytes) alike.
Annotations carry AWS's constraints; `validate.py` checks them, so that a wrong type (SerializationException) and a
broken constraint (ValidationException) stay two errors. Members that every answer has are not optional, whatever the
model says, so that a caller needn't ask.
Source of members and limits: the AWS KMS API Reference.
"""

from typing import Annotated

from msgspec import Struct, field

from keycluster.cluster.wire.constraints import Length, OneOf, Pattern, Range

UnixSeconds = float  # Seconds since 1970-01-01 UTC, as AWS's JSON protocol sends times.


class Shape(Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """What every request, response and nested structure is: immutable, absent members left out.

    Its `repr` says of bytes only how many they are: plaintext, data keys and random bytes are among them.
    """

    def __repr__(self) -> str:
        members = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={_shown(value)}" for name, value in members if value is not None)
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)


PolicyText = Annotated[str, Length(1, 131072), Pattern(r"[\u0009\u000A\u000D\u0020-\u00FF]+")]
DescriptionText = Annotated[str, Length(0, 8192)]
KeyUsageText = Annotated[
    str, OneOf("SIGN_VERIFY", "ENCRYPT_DECRYPT", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT", "ENCAPSULATE_DECAPSULATE")
]
CustomerMasterKeySpecText = Annotated[
    str,
    OneOf(
        "RSA_2048",
        "RSA_3072",
        "RSA_4096",
        "ECC_NIST_P256",
        "ECC_NIST_P384",
        "ECC_NIST_P521",
        "ECC_SECG_P256K1",
        "SYMMETRIC_DEFAULT",
        "HMAC_224",
        "HMAC_256",
        "HMAC_384",
        "HMAC_512",
        "SM2",
    ),
]
KeySpecText = Annotated[
    str,
    OneOf(
        "RSA_2048",
        "RSA_3072",
        "RSA_4096",
        "ECC_NIST_P256",
        "ECC_NIST_P384",
        "ECC_NIST_P521",
        "ECC_SECG_P256K1",
        "SYMMETRIC_DEFAULT",
        "HMAC_224",
        "HMAC_256",
        "HMAC_384",
        "HMAC_512",
        "SM2",
        "ML_DSA_44",
        "ML_DSA_65",
        "ML_DSA_87",
        "ECC_NIST_EDWARDS25519",
        "ML_KEM_512",
        "ML_KEM_768",
        "ML_KEM_1024",
    ),
]
OriginText = Annotated[str, OneOf("AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE")]
CustomKeyStoreIdText = Annotated[str, Length(1, 64)]
TagKeyText = Annotated[str, Length(1, 128)]
TagValueText = Annotated[str, Length(0, 256)]
XksKeyIdText = Annotated[str, Length(1, 128), Pattern(r"^[a-zA-Z0-9-_.]+$")]
KeyIdText = Annotated[str, Length(1, 2048)]
GrantTokenText = Annotated[str, Length(1, 8192)]
GrantTokenList = Annotated[tuple[GrantTokenText, ...], Length(0, 10)]
Limit = Annotated[int, Range(1, 1000)]
MarkerText = Annotated[str, Length(1, 1024), Pattern(r"[\u0020-\u00FF]*")]
ResourceOwnerText = Annotated[str, OneOf("SELF", "OTHER_ACCOUNTS_VIA_RAM")]
ResourceOwnersList = Annotated[tuple[ResourceOwnerText, ...], Length(1, 2)]
PendingWindowInDays = Annotated[int, Range(1, 365)]
PolicyNameText = Annotated[str, Length(1, 128), Pattern(r"[\w]+")]
AliasNameText = Annotated[str, Length(1, 256), Pattern(r"^[a-zA-Z0-9:/_-]+$")]
RotationPeriodInDays = Annotated[int, Range(90, 2560)]
IncludeKeyMaterialText = Annotated[str, OneOf("ALL_KEY_MATERIAL", "ROTATIONS_ONLY")]
Plaintext = Annotated[bytes, Length(1, 4096)]
EncryptionAlgorithmSpecText = Annotated[
    str, OneOf("SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE")
]
Ciphertext = Annotated[bytes, Length(1, 6144)]
KeyEncryptionMechanismText = Annotated[str, OneOf("RSAES_OAEP_SHA_256")]
AttestationDocument = Annotated[bytes, Length(1, 262144)]
DryRunModifierText = Annotated[str, OneOf("IGNORE_CIPHERTEXT")]
NumberOfBytes = Annotated[int, Range(1, 1024)]
DataKeySpecText = Annotated[str, OneOf("AES_256", "AES_128")]


class Tag(Shape, frozen=True, kw_only=True):
    tag_key: TagKeyText
    tag_value: TagValueText


class CreateKeyRequest(Shape, frozen=True, kw_only=True):
    policy: PolicyText | None = None
    description: DescriptionText | None = None
    key_usage: KeyUsageText | None = None
    customer_master_key_spec: CustomerMasterKeySpecText | None = None
    key_spec: KeySpecText | None = None
    origin: OriginText | None = None
    custom_key_store_id: CustomKeyStoreIdText | None = None
    bypass_policy_lockout_safety_check: bool | None = None
    tags: tuple[Tag, ...] | None = None
    multi_region: bool | None = None
    xks_key_id: XksKeyIdText | None = None


class MultiRegionKey(Shape, frozen=True, kw_only=True):
    arn: str | None = None
    region: str | None = None


class MultiRegionConfiguration(Shape, frozen=True, kw_only=True):
    multi_region_key_type: str | None = None
    primary_key: MultiRegionKey | None = None
    replica_keys: tuple[MultiRegionKey, ...] | None = None


class XksKeyConfigurationType(Shape, frozen=True, kw_only=True):
    id: str | None = None


class KeyMetadata(Shape, frozen=True, kw_only=True):
    aws_account_id: str = field(name="AWSAccountId")
    key_id: str
    arn: str
    creation_date: UnixSeconds
    enabled: bool
    description: str
    key_usage: str
    key_state: str
    deletion_date: UnixSeconds | None = None
    valid_to: UnixSeconds | None = None
    origin: str
    custom_key_store_id: str | None = None
    cloud_hsm_cluster_id: str | None = None
    expiration_model: str | None = None
    key_manager: str
    customer_master_key_spec: str
    key_spec: str
    encryption_algorithms: tuple[str, ...] | None = None
    signing_algorithms: tuple[str, ...] | None = None
    key_agreement_algorithms: tuple[str, ...] | None = None
    encapsulation_algorithms: tuple[str, ...] | None = None
    multi_region: bool
    multi_region_configuration: MultiRegionConfiguration | None = None
    pending_deletion_window_in_days: int | None = None
    mac_algorithms: tuple[str, ...] | None = None
    xks_key_configuration: XksKeyConfigurationType | None = None
    current_key_material_id: str | None = None


class CreateKeyResponse(Shape, frozen=True, kw_only=True):
    key_metadata: KeyMetadata


class DescribeKeyRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    grant_tokens: GrantTokenList | None = None


class DescribeKeyResponse(Shape, frozen=True, kw_only=True):
    key_metadata: KeyMetadata


class ListKeysRequest(Shape, frozen=True, kw_only=True):
    limit: Limit | None = None
    marker: MarkerText | None = None
    resource_owners: ResourceOwnersList | None = None


class KeyListEntry(Shape, frozen=True, kw_only=True, gc=False):
    key_id: str
    key_arn: str


class ListKeysResponse(Shape, frozen=True, kw_only=True):
    keys: tuple[KeyListEntry, ...]
    next_marker: str | None = None
    truncated: bool


class EnableKeyRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText


class EnableKeyResponse(Shape, frozen=True, kw_only=True):
    """EnableKey answers with nothing but success."""


class DisableKeyRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText


class DisableKeyResponse(Shape, frozen=True, kw_only=True):
    """DisableKey answers with nothing but success."""


class ScheduleKeyDeletionRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    pending_window_in_days: PendingWindowInDays | None = None


class ScheduleKeyDeletionResponse(Shape, frozen=True, kw_only=True):
    key_id: str
    deletion_date: UnixSeconds | None = None
    key_state: str
    pending_window_in_days: int


class CancelKeyDeletionRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText


class CancelKeyDeletionResponse(Shape, frozen=True, kw_only=True):
    key_id: str


class UpdateKeyDescriptionRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    description: DescriptionText


class UpdateKeyDescriptionResponse(Shape, frozen=True, kw_only=True):
    """UpdateKeyDescription answers with nothing but success."""


class GetKeyPolicyRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    policy_name: PolicyNameText | None = None


class GetKeyPolicyResponse(Shape, frozen=True, kw_only=True):
    policy: str
    policy_name: str


class PutKeyPolicyRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    policy_name: PolicyNameText | None = None
    policy: PolicyText
    bypass_policy_lockout_safety_check: bool | None = None


class PutKeyPolicyResponse(Shape, frozen=True, kw_only=True):
    """PutKeyPolicy answers with nothing but success."""


class ListKeyPoliciesRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    limit: Limit | None = None
    marker: MarkerText | None = None


class ListKeyPoliciesResponse(Shape, frozen=True, kw_only=True):
    policy_names: tuple[str, ...]
    next_marker: str | None = None
    truncated: bool


class TagResourceRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    tags: tuple[Tag, ...]


class TagResourceResponse(Shape, frozen=True, kw_only=True):
    """TagResource answers with nothing but success."""


class UntagResourceRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    tag_keys: tuple[TagKeyText, ...]


class UntagResourceResponse(Shape, frozen=True, kw_only=True):
    """UntagResource answers with nothing but success."""


class ListResourceTagsRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    limit: Limit | None = None
    marker: MarkerText | None = None


class ListResourceTagsResponse(Shape, frozen=True, kw_only=True):
    tags: tuple[Tag, ...]
    next_marker: str | None = None
    truncated: bool


class CreateAliasRequest(Shape, frozen=True, kw_only=True):
    alias_name: AliasNameText
    target_key_id: KeyIdText


class CreateAliasResponse(Shape, frozen=True, kw_only=True):
    """CreateAlias answers with nothing but success."""


class UpdateAliasRequest(Shape, frozen=True, kw_only=True):
    alias_name: AliasNameText
    target_key_id: KeyIdText


class UpdateAliasResponse(Shape, frozen=True, kw_only=True):
    """UpdateAlias answers with nothing but success."""


class DeleteAliasRequest(Shape, frozen=True, kw_only=True):
    alias_name: AliasNameText


class DeleteAliasResponse(Shape, frozen=True, kw_only=True):
    """DeleteAlias answers with nothing but success."""


class ListAliasesRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText | None = None
    limit: Limit | None = None
    marker: MarkerText | None = None


class AliasListEntry(Shape, frozen=True, kw_only=True, gc=False):
    alias_name: str
    alias_arn: str
    target_key_id: str | None = None
    creation_date: UnixSeconds | None = None
    last_updated_date: UnixSeconds | None = None


class ListAliasesResponse(Shape, frozen=True, kw_only=True):
    aliases: tuple[AliasListEntry, ...]
    next_marker: str | None = None
    truncated: bool


class EnableKeyRotationRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    rotation_period_in_days: RotationPeriodInDays | None = None


class EnableKeyRotationResponse(Shape, frozen=True, kw_only=True):
    """EnableKeyRotation answers with nothing but success."""


class DisableKeyRotationRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText


class DisableKeyRotationResponse(Shape, frozen=True, kw_only=True):
    """DisableKeyRotation answers with nothing but success."""


class GetKeyRotationStatusRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText


class GetKeyRotationStatusResponse(Shape, frozen=True, kw_only=True):
    key_rotation_enabled: bool
    key_id: str
    rotation_period_in_days: int | None = None
    next_rotation_date: UnixSeconds | None = None
    on_demand_rotation_start_date: UnixSeconds | None = None


class RotateKeyOnDemandRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText


class RotateKeyOnDemandResponse(Shape, frozen=True, kw_only=True):
    key_id: str


class ListKeyRotationsRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    include_key_material: IncludeKeyMaterialText | None = None
    limit: Limit | None = None
    marker: MarkerText | None = None


class RotationsListEntry(Shape, frozen=True, kw_only=True):
    key_id: str
    key_material_id: str | None = None
    key_material_description: str | None = None
    import_state: str | None = None
    key_material_state: str | None = None
    expiration_model: str | None = None
    valid_to: UnixSeconds | None = None
    rotation_date: UnixSeconds | None = None
    rotation_type: str | None = None


class ListKeyRotationsResponse(Shape, frozen=True, kw_only=True):
    rotations: tuple[RotationsListEntry, ...]
    next_marker: str | None = None
    truncated: bool


class EncryptRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    plaintext: Plaintext
    encryption_context: dict[str, str] | None = None
    grant_tokens: GrantTokenList | None = None
    encryption_algorithm: EncryptionAlgorithmSpecText | None = None
    dry_run: bool | None = None


class EncryptResponse(Shape, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    key_id: str
    encryption_algorithm: str


class RecipientInfo(Shape, frozen=True, kw_only=True):
    key_encryption_algorithm: KeyEncryptionMechanismText | None = None
    attestation_document: AttestationDocument | None = None


class DecryptRequest(Shape, frozen=True, kw_only=True):
    ciphertext_blob: Ciphertext | None = None
    encryption_context: dict[str, str] | None = None
    grant_tokens: GrantTokenList | None = None
    key_id: KeyIdText | None = None
    encryption_algorithm: EncryptionAlgorithmSpecText | None = None
    recipient: RecipientInfo | None = None
    dry_run: bool | None = None
    dry_run_modifiers: tuple[DryRunModifierText, ...] | None = None


class DecryptResponse(Shape, frozen=True, kw_only=True):
    key_id: str
    plaintext: bytes
    encryption_algorithm: str
    ciphertext_for_recipient: bytes | None = None
    key_material_id: str | None = None


class ReEncryptRequest(Shape, frozen=True, kw_only=True):
    ciphertext_blob: Ciphertext | None = None
    source_encryption_context: dict[str, str] | None = None
    source_key_id: KeyIdText | None = None
    destination_key_id: KeyIdText
    destination_encryption_context: dict[str, str] | None = None
    source_encryption_algorithm: EncryptionAlgorithmSpecText | None = None
    destination_encryption_algorithm: EncryptionAlgorithmSpecText | None = None
    grant_tokens: GrantTokenList | None = None
    dry_run: bool | None = None
    dry_run_modifiers: tuple[DryRunModifierText, ...] | None = None


class ReEncryptResponse(Shape, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    source_key_id: str
    key_id: str
    source_encryption_algorithm: str
    destination_encryption_algorithm: str
    source_key_material_id: str | None = None
    destination_key_material_id: str | None = None


class GenerateDataKeyRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    encryption_context: dict[str, str] | None = None
    number_of_bytes: NumberOfBytes | None = None
    key_spec: DataKeySpecText | None = None
    grant_tokens: GrantTokenList | None = None
    recipient: RecipientInfo | None = None
    dry_run: bool | None = None


class GenerateDataKeyResponse(Shape, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    plaintext: bytes
    key_id: str
    ciphertext_for_recipient: bytes | None = None
    key_material_id: str | None = None


class GenerateDataKeyWithoutPlaintextRequest(Shape, frozen=True, kw_only=True):
    key_id: KeyIdText
    encryption_context: dict[str, str] | None = None
    key_spec: DataKeySpecText | None = None
    number_of_bytes: NumberOfBytes | None = None
    grant_tokens: GrantTokenList | None = None
    dry_run: bool | None = None


class GenerateDataKeyWithoutPlaintextResponse(Shape, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    key_id: str
    key_material_id: str | None = None


class GenerateRandomRequest(Shape, frozen=True, kw_only=True):
    number_of_bytes: NumberOfBytes | None = None
    custom_key_store_id: CustomKeyStoreIdText | None = None
    recipient: RecipientInfo | None = None


class GenerateRandomResponse(Shape, frozen=True, kw_only=True):
    plaintext: bytes
    ciphertext_for_recipient: bytes | None = None
