"""The data plane's handlers: AWS's answers, and AWS's refusals in AWS's order."""

import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keycluster.cluster.keys.blob import BlobKey, parse_blob
from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.keys.context import EMPTY_CONTEXT
from keycluster.cluster.keys.describe import key_material_id
from keycluster.cluster.keys.records import KeyRecord, KeyState, Table
from keycluster.cluster.types import KeyId
from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    CustomKeyStoreNotFoundException,
    DisabledException,
    DryRunOperationException,
    IncorrectKeyException,
    InvalidCiphertextException,
    InvalidGrantTokenException,
    InvalidKeyUsageException,
    KmsError,
    KMSInvalidStateException,
    NotFoundException,
    UnsupportedOperationException,
    ValidationException,
)
from keycluster.cluster.wire.operations import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    GenerateRandomRequest,
    RecipientInfo,
    ReEncryptRequest,
)
from keycluster.node.operations.data import (
    DATA,
    decrypt,
    encrypt,
    generate_data_key,
    generate_data_key_without_plaintext,
    generate_random,
    re_encrypt,
)
from tests.room_on_memory import OTHER_ACCOUNT, RoomOnMemory, key_arn

ABSENT = KeyId("11111111-2222-3333-4444-555555555555")
CONTEXT = {"tenant": "seven", "use": "test"}
NO_USABLE_KEY = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not "
    "allowed to access."
)


class Region(RoomOnMemory):
    """With a key, another of the same account and one of another, and short ways to the handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.key = self.add_key()
        self.second = self.add_key()
        self.foreign = self.add_key(account=OTHER_ACCOUNT)

    def encrypt(self, key_id: str, plaintext: bytes = b"a secret", **fields: Any) -> Any:
        return encrypt(self.room, self.caller(), EncryptRequest(key_id=key_id, plaintext=plaintext, **fields))

    def decrypt(self, blob: bytes | None, *, caller: Caller | None = None, **fields: Any) -> Any:
        return decrypt(self.room, caller or self.caller(), DecryptRequest(ciphertext_blob=blob, **fields))

    def re_encrypt(self, blob: bytes | None, destination: str, **fields: Any) -> Any:
        request = ReEncryptRequest(ciphertext_blob=blob, destination_key_id=destination, **fields)
        return re_encrypt(self.room, self.caller(), request)

    def data_key(self, key_id: str, **fields: Any) -> Any:
        return generate_data_key(self.room, self.caller(), GenerateDataKeyRequest(key_id=key_id, **fields))

    def data_key_unseen(self, key_id: str, **fields: Any) -> Any:
        request = GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, **fields)
        return generate_data_key_without_plaintext(self.room, self.caller(), request)

    def blob(self, **fields: Any) -> bytes:
        blob: bytes = self.encrypt(self.key.key_id, **fields).ciphertext_blob
        return blob

    def uses(self) -> list[tuple[str, Callable[..., Any]]]:
        """Every operation that uses `key` in one way or another, taking further members of its request."""
        blob, other = self.blob(), self.encrypt(self.second.key_id).ciphertext_blob
        return [
            ("Encrypt", lambda **fields: self.encrypt(self.key.key_id, **fields)),
            ("Decrypt", lambda **fields: self.decrypt(blob, **fields)),
            ("ReEncrypt from", lambda **fields: self.re_encrypt(blob, self.second.key_id, **fields)),
            ("ReEncrypt to", lambda **fields: self.re_encrypt(other, self.key.key_id, **fields)),
            ("GenerateDataKey", lambda **fields: self.data_key(self.key.key_id, key_spec="AES_256", **fields)),
            (
                "GenerateDataKeyWithoutPlaintext",
                lambda **fields: self.data_key_unseen(self.key.key_id, number_of_bytes=24, **fields),
            ),
        ]


@pytest.fixture
def region() -> Region:
    return Region()


def material(key: KeyRecord, rotation: int = 0) -> str:
    return key_material_id(key.key_id, key.backing_keys[rotation].id)


@given(
    plaintext=st.binary(min_size=1, max_size=4096),
    context=st.none() | st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4),
)
def test_decrypt_returns_what_encrypt_was_given(plaintext: bytes, context: dict[str, str] | None) -> None:
    """For any plaintext and context, with the key left to the blob."""
    region = Region()
    answer = region.encrypt(region.key.key_id, plaintext, encryption_context=context)
    assert (answer.key_id, answer.encryption_algorithm) == (key_arn(region.key), "SYMMETRIC_DEFAULT")
    opened = region.decrypt(answer.ciphertext_blob, encryption_context=context)
    assert opened.plaintext == plaintext
    assert (opened.key_id, opened.encryption_algorithm) == (key_arn(region.key), "SYMMETRIC_DEFAULT")
    assert opened.key_material_id == material(region.key)


def test_empty_context_equals_none(region: Region) -> None:
    """`{}` and nothing are one context."""
    assert region.decrypt(region.blob(encryption_context={}), encryption_context=None).plaintext == b"a secret"


@pytest.mark.parametrize("other", [None, {"tenant": "seven"}, {**CONTEXT, "tenant": "Seven"}, {**CONTEXT, "x": ""}])
def test_decrypt_under_another_context_is_invalid_ciphertext(region: Region, other: dict[str, str] | None) -> None:
    """Exactly the same pairs, or nothing; without a message."""
    blob = region.blob(encryption_context=CONTEXT)
    assert region.decrypt(blob, encryption_context=dict(reversed(CONTEXT.items()))).plaintext == b"a secret"
    with pytest.raises(InvalidCiphertextException) as raised:
        region.decrypt(blob, encryption_context=other)
    assert raised.value.message == ""


def test_context_too_large_or_not_unicode_is_a_validation_error(region: Region) -> None:
    """At every operation that takes one, before the key is looked for."""
    for context in ({"k": "v" * 8192}, {"\ud800": ""}):
        attempts: list[Callable[[], object]] = [
            partial(region.encrypt, ABSENT, encryption_context=context),
            partial(region.decrypt, b"no blob", encryption_context=context),
            partial(region.re_encrypt, b"no blob", ABSENT, source_encryption_context=context),
            partial(region.re_encrypt, b"no blob", ABSENT, destination_encryption_context=context),
            partial(region.data_key, ABSENT, key_spec="AES_256", encryption_context=context),
        ]
        for refused in attempts:
            with pytest.raises(ValidationException, match="encryption context"):
                refused()


@pytest.mark.parametrize("form", ["{id}", "{arn}", "alias/mine", "arn:aws:kms:us-east-1:123456789012:alias/mine"])
def test_key_may_be_named_in_four_ways(region: Region, form: str) -> None:
    """By every operation; what comes back is the key's ARN, never the alias."""
    region.add_alias("alias/mine", region.key.key_id)
    name = form.format(id=region.key.key_id, arn=key_arn(region.key))
    blob = region.encrypt(name).ciphertext_blob
    answers = [
        region.encrypt(name),
        region.decrypt(blob, key_id=name),
        region.re_encrypt(blob, name, source_key_id=name),
        region.data_key(name, key_spec="AES_128"),
        region.data_key_unseen(name, key_spec="AES_128"),
    ]
    assert {answer.key_id for answer in answers} == {key_arn(region.key)}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (ABSENT, NotFoundException),
        ("alias/none", NotFoundException),
        ("mine", NotFoundException),
        (f"arn:aws:kms:us-east-1:123456789012:key/{ABSENT}", NotFoundException),
        (f"arn:aws:kms:eu-west-1:123456789012:key/{ABSENT}", NotFoundException),
        (f"arn:aws:kms:us-east-1:{OTHER_ACCOUNT}:key/{ABSENT}", AccessDeniedException),
        (f"arn:aws:kms:us-east-1:{OTHER_ACCOUNT}:alias/none", AccessDeniedException),
    ],
)
def test_key_that_is_not_there_is_refused(region: Region, name: str, error: type[KmsError]) -> None:
    """In the own account it isn't found; in another one nobody says."""
    blob = region.blob()
    attempts: list[Callable[[], object]] = [
        lambda: region.encrypt(name),
        lambda: region.decrypt(blob, key_id=name),
        lambda: region.re_encrypt(blob, name),
        lambda: region.re_encrypt(blob, region.key.key_id, source_key_id=name),
        lambda: region.data_key(name, key_spec="AES_256"),
        lambda: region.data_key_unseen(name, key_spec="AES_256"),
    ]
    for refused in attempts:
        with pytest.raises(error):
            refused()


def test_key_of_another_account_is_denied_as_if_it_weren_t_there(region: Region) -> None:
    """Same code and text whether the ARN names a key or none."""
    texts = set()
    for key_id in (region.foreign.key_id, ABSENT):
        with pytest.raises(AccessDeniedException) as raised:
            region.encrypt(f"arn:aws:kms:us-east-1:{OTHER_ACCOUNT}:key/{key_id}")
        texts.add(raised.value.message)
    assert len(texts) == 1
    with pytest.raises(NotFoundException):
        region.encrypt(region.foreign.key_id)


def test_disabled_key_is_not_used(region: Region) -> None:
    """Whatever the operation, and however it came to the key."""
    uses = region.uses()
    region.change_key(region.key.key_id, state=KeyState.DISABLED)
    for name, use in uses:
        with pytest.raises(DisabledException) as raised:
            use()
        assert raised.value.message == f"{key_arn(region.key)} is disabled.", name


def test_key_pending_deletion_is_not_used(region: Region) -> None:
    """Likewise."""
    uses = region.uses()
    region.change_key(region.key.key_id, state=KeyState.PENDING_DELETION)
    for name, use in uses:
        with pytest.raises(KMSInvalidStateException) as raised:
            use()
        assert raised.value.message == f"{key_arn(region.key)} is pending deletion.", name


def test_key_enabled_again_is_used(region: Region) -> None:
    """A state is the row's, not the cache's."""
    blob = region.blob()
    region.change_key(region.key.key_id, state=KeyState.DISABLED)
    region.change_key(region.key.key_id, state=KeyState.ENABLED)
    assert region.decrypt(blob).plaintext == b"a secret"


def test_decrypt_with_another_key_than_the_blob_s_is_incorrect_key(region: Region) -> None:
    """A named key must be the blob's, whether the blob's exists or not."""
    blob = region.blob()
    unknown = BlobKey(ABSENT, bytes(16), bytes(32)).encrypt(b"x", EMPTY_CONTEXT, bytes(28))
    for refused in (blob, unknown):
        with pytest.raises(IncorrectKeyException, match="does not identify a CMK"):
            region.decrypt(refused, key_id=region.second.key_id)
        with pytest.raises(IncorrectKeyException):
            region.re_encrypt(refused, region.key.key_id, source_key_id=region.second.key_id)


def test_blob_with_any_bit_flipped_is_never_opened(region: Region) -> None:
    """Each is InvalidCiphertext, or AccessDenied where another key is named now; neither is success."""
    blob = region.blob(encryption_context=CONTEXT)
    seen = set()
    for bit in range(len(blob) * 8):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((InvalidCiphertextException, AccessDeniedException)) as raised:
            region.decrypt(bytes(changed), encryption_context=CONTEXT)
        seen.add(type(raised.value))
    assert seen == {InvalidCiphertextException, AccessDeniedException}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(min_size=1, max_size=6144), cut=st.integers(0, 200))
def test_garbage_is_invalid_ciphertext(region: Region, garbage: bytes, cut: int) -> None:
    """Alone, behind a blob's beginning, or behind a whole blob."""
    blob = region.blob()
    for wrong in (garbage, blob[:cut] + garbage, blob + garbage):
        if wrong == blob:
            continue
        with pytest.raises((InvalidCiphertextException, AccessDeniedException)):
            region.decrypt(wrong)


def test_blob_that_names_no_key_of_the_caller_s_is_denied(region: Region) -> None:
    """Absent or another account's: same code, same text; and never the state that the foreign key is in."""
    absent = BlobKey(ABSENT, bytes(16), bytes(32)).encrypt(b"x", EMPTY_CONTEXT, bytes(28))
    foreign = encrypt(
        region.room,
        region.caller(OTHER_ACCOUNT),
        EncryptRequest(key_id=region.foreign.key_id, plaintext=b"x"),
    ).ciphertext_blob
    region.change_key(region.foreign.key_id, state=KeyState.DISABLED)
    forged = BlobKey(region.foreign.key_id, bytes(16), bytes(32)).encrypt(b"x", EMPTY_CONTEXT, bytes(28))
    for blob in (absent, foreign, forged):
        for refused in (region.decrypt, lambda blob: region.re_encrypt(blob, region.key.key_id)):
            with pytest.raises(AccessDeniedException) as raised:
                refused(blob)
            assert raised.value.message == NO_USABLE_KEY


def test_refused_blobs_take_the_same_work(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row not found, one decryption in vain: absent keys and others' can't be told apart by it.

    Whether or not the foreign key is in use by its owner, and so in the cache. What is refused never gets there.
    """
    work: list[str] = []
    forged = BlobKey(region.foreign.key_id, bytes(16), bytes(32)).encrypt(b"x", EMPTY_CONTEXT, bytes(28))
    absent = BlobKey(ABSENT, bytes(16), bytes(32)).encrypt(b"x", EMPTY_CONTEXT, bytes(28))
    get, opening = region.state.get, BlobKey.decrypt

    def counted_get(table: int, key: bytes, /) -> bytes | None:
        row = get(table, key)
        work.append("absent row" if row is None else "row")
        return row

    def counted_decrypt(self: BlobKey, *arguments: Any) -> bytes:
        work.append("decryption")
        return opening(self, *arguments)

    monkeypatch.setattr(region.state, "get", counted_get)
    monkeypatch.setattr(BlobKey, "decrypt", counted_decrypt)
    for owner_uses_it in (False, True):
        if owner_uses_it:
            region.room.hot_key(region.foreign.key_id)
        for blob in (absent, forged):
            work.clear()
            kept = region.room.cache.statistics()
            with pytest.raises(AccessDeniedException):
                region.decrypt(blob)
            assert sorted(work) == ["absent row", "decryption"]
            assert region.room.cache.statistics() == kept


def test_blob_of_an_unknown_backing_key_is_invalid_ciphertext(region: Region) -> None:
    """The key exists and is the caller's; the blob was never made by it."""
    forged = BlobKey(region.key.key_id, bytes(16), bytes(32)).encrypt(b"x", EMPTY_CONTEXT, bytes(28))
    guessed = BlobKey(region.key.key_id, region.key.current.id, bytes(32)).encrypt(b"x", EMPTY_CONTEXT, bytes(28))
    for blob in (forged, guessed):
        with pytest.raises(InvalidCiphertextException) as raised:
            region.decrypt(blob)
        assert raised.value.message == ""


def test_old_backing_keys_go_on_decrypting(region: Region) -> None:
    """After any number of rotations; answers name the material that was used."""
    blobs = []
    for _ in range(3):
        blobs.append(region.blob())
        region.rotate(region.key.key_id)
    key = region.room.key(region.key.key_id)
    assert key is not None
    for rotation, blob in enumerate(blobs):
        assert parse_blob(blob).backing_key_id == key.backing_keys[rotation].id
        answer = region.decrypt(blob)
        assert (answer.plaintext, answer.key_material_id) == (b"a secret", material(key, rotation))
    again = region.re_encrypt(blobs[0], region.key.key_id)
    assert (again.source_key_material_id, again.destination_key_material_id) == (material(key, 0), material(key, 3))


def test_re_encrypt_moves_to_another_key_and_context(region: Region) -> None:
    """Opens under the source's context and seals under the destination's, and only so."""
    answer = region.re_encrypt(
        region.blob(encryption_context=CONTEXT),
        region.second.key_id,
        source_encryption_context=CONTEXT,
        destination_encryption_context={"new": "one"},
    )
    assert (answer.source_key_id, answer.key_id) == (key_arn(region.key), key_arn(region.second))
    assert (answer.source_encryption_algorithm, answer.destination_encryption_algorithm) == ("SYMMETRIC_DEFAULT",) * 2
    assert answer.source_key_material_id == material(region.key)
    assert answer.destination_key_material_id == material(region.second)
    moved = region.decrypt(answer.ciphertext_blob, encryption_context={"new": "one"})
    assert (moved.plaintext, moved.key_id) == (b"a secret", key_arn(region.second))
    with pytest.raises(InvalidCiphertextException):
        region.decrypt(answer.ciphertext_blob, encryption_context=CONTEXT)


def test_re_encrypt_to_a_refused_destination_tells_nothing_of_the_blob(region: Region) -> None:
    """The destination is allowed before the blob is opened: no oracle for blobs without a right to encrypt."""
    good = region.blob()
    for blob in (good, good[:-1] + bytes((good[-1] ^ 1,))):
        with pytest.raises(NotFoundException):
            region.re_encrypt(blob, ABSENT)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"key_spec": "AES_256"}, 32),
        ({"key_spec": "AES_128"}, 16),
        ({"number_of_bytes": 1}, 1),
        ({"number_of_bytes": 1024}, 1024),
    ],
)
def test_data_key_has_the_size_asked_for(region: Region, fields: dict[str, Any], size: int) -> None:
    """And the blob opens to it, also where the key itself isn't shown."""
    seen = region.data_key(region.key.key_id, encryption_context=CONTEXT, **fields)
    assert len(seen.plaintext) == size
    assert region.decrypt(seen.ciphertext_blob, encryption_context=CONTEXT).plaintext == seen.plaintext
    assert (seen.key_id, seen.key_material_id) == (key_arn(region.key), material(region.key))
    unseen = region.data_key_unseen(region.key.key_id, encryption_context=CONTEXT, **fields)
    assert len(region.decrypt(unseen.ciphertext_blob, encryption_context=CONTEXT).plaintext) == size
    assert (unseen.key_id, unseen.key_material_id) == (key_arn(region.key), material(region.key))


@pytest.mark.parametrize("fields", [{}, {"key_spec": "AES_256", "number_of_bytes": 32}])
def test_data_key_of_no_size_or_two_is_refused(region: Region, fields: dict[str, Any]) -> None:
    """Exactly one of KeySpec and NumberOfBytes."""
    for generate in (region.data_key, region.data_key_unseen):
        with pytest.raises(ValidationException, match=r"^Please specify either number of bytes or key spec\.$"):
            generate(region.key.key_id, **fields)


def test_every_blob_has_random_bytes_of_its_own(region: Region) -> None:
    """Two answers for one request differ, and salt and nonce came from one call for 28 bytes each."""
    region.encrypt(region.key.key_id)
    region.entropy.asked.clear()
    assert len({region.blob() for _ in range(10)}) == 10
    assert region.entropy.asked == [28] * 10
    region.entropy.asked.clear()
    region.data_key(region.key.key_id, number_of_bytes=24)
    assert region.entropy.asked == [24, 28]


def test_dry_run_of_what_would_succeed_says_so_and_does_nothing(region: Region) -> None:
    """AWS's error for success; no random byte is drawn."""
    uses = region.uses()
    region.entropy.asked.clear()
    for name, use in uses:
        with pytest.raises(DryRunOperationException) as raised:
            use(dry_run=True)
        assert raised.value.message == "The request would have succeeded, but the DryRun option is set.", name
        assert raised.value.status == 400
    assert region.entropy.asked == []


def test_dry_run_of_what_would_fail_fails_likewise(region: Region) -> None:
    """A dry run stops only where the answer would leave."""
    blob = region.blob()
    with pytest.raises(InvalidCiphertextException):
        region.decrypt(blob, encryption_context=CONTEXT, dry_run=True)
    with pytest.raises(NotFoundException):
        region.encrypt(ABSENT, dry_run=True)
    with pytest.raises(AccessDeniedException):
        region.decrypt(blob, caller=region.caller(OTHER_ACCOUNT), dry_run=True)
    region.change_key(region.key.key_id, state=KeyState.DISABLED)
    with pytest.raises(DisabledException):
        region.data_key(region.key.key_id, key_spec="AES_256", dry_run=True)


def test_dry_run_that_ignores_the_ciphertext_asks_for_permission_alone(region: Region) -> None:
    """No blob, or a wrong one; but the key must be named."""
    ignoring: dict[str, Any] = {"dry_run": True, "dry_run_modifiers": ("IGNORE_CIPHERTEXT",)}
    for blob in (None, b"no blob"):
        with pytest.raises(DryRunOperationException):
            region.decrypt(blob, key_id=region.key.key_id, **ignoring)
        with pytest.raises(DryRunOperationException):
            region.re_encrypt(blob, region.second.key_id, source_key_id=region.key.key_id, **ignoring)
        with pytest.raises(ValidationException, match="'keyId'"):
            region.decrypt(blob, **ignoring)
        with pytest.raises(ValidationException, match="'sourceKeyId'"):
            region.re_encrypt(blob, region.second.key_id, **ignoring)
        with pytest.raises(NotFoundException):
            region.re_encrypt(blob, ABSENT, source_key_id=region.key.key_id, **ignoring)
        with pytest.raises(NotFoundException):
            region.decrypt(blob, key_id=ABSENT, **ignoring)


def test_ciphertext_is_required_but_for_that_dry_run(region: Region) -> None:
    """Always, whatever else is said."""
    text = "Value at 'ciphertextBlob' failed to satisfy constraint: Member must not be null"
    cases: list[dict[str, Any]] = [{}, {"dry_run": True}, {"dry_run_modifiers": ("IGNORE_CIPHERTEXT",)}]
    for fields in cases:
        with pytest.raises(ValidationException, match=text):
            region.decrypt(None, key_id=region.key.key_id, **fields)
        with pytest.raises(ValidationException, match=text):
            region.re_encrypt(None, region.key.key_id, source_key_id=region.key.key_id, **fields)


def test_modifier_without_a_dry_run_changes_nothing(region: Region) -> None:
    """No key need be named, and the answer is a real one."""
    answer = region.decrypt(region.blob(), dry_run_modifiers=("IGNORE_CIPHERTEXT",))
    assert answer.plaintext == b"a secret"


def test_other_algorithms_are_an_invalid_key_usage(region: Region) -> None:
    """A symmetric key knows SYMMETRIC_DEFAULT alone; said or left out is the same."""
    blob = region.blob()
    text = r"^Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT\.$"
    uses: list[tuple[str, Callable[..., object]]] = [
        ("encryption_algorithm", lambda **fields: region.encrypt(region.key.key_id, **fields)),
        ("encryption_algorithm", lambda **fields: region.decrypt(blob, **fields)),
        ("source_encryption_algorithm", lambda **fields: region.re_encrypt(blob, region.second.key_id, **fields)),
        ("destination_encryption_algorithm", lambda **fields: region.re_encrypt(blob, region.second.key_id, **fields)),
    ]
    for field, use in uses:
        use(**{field: "SYMMETRIC_DEFAULT"})
        with pytest.raises(InvalidKeyUsageException, match=text):
            use(**{field: "RSAES_OAEP_SHA_256"})


def test_key_of_another_spec_is_never_used_symmetrically(region: Region) -> None:
    """Whatever later issues store: what isn't a symmetric key doesn't encrypt."""
    uses = region.uses()
    region.change_key(region.key.key_id, spec="HMAC_256", usage="GENERATE_VERIFY_MAC")
    for _, use in uses:
        with pytest.raises(InvalidKeyUsageException, match="key spec HMAC_256"):
            use()


def test_grant_tokens_name_no_grant(region: Region) -> None:
    """There are none yet: a token is refused, an empty list is not."""
    for _, use in region.uses():
        use(grant_tokens=())
        with pytest.raises(InvalidGrantTokenException):
            use(grant_tokens=("token",))


def test_recipient_is_refused(region: Region) -> None:
    """Who asks for an answer sealed to an enclave never gets it in the clear."""
    recipient = RecipientInfo(key_encryption_algorithm="RSAES_OAEP_SHA_256", attestation_document=b"document")
    blob = region.blob()
    for refused in (
        lambda: region.decrypt(blob, recipient=recipient),
        lambda: region.data_key(region.key.key_id, key_spec="AES_256", recipient=recipient),
        lambda: generate_random(
            region.room, region.caller(), GenerateRandomRequest(number_of_bytes=8, recipient=recipient)
        ),
    ):
        with pytest.raises(UnsupportedOperationException, match="Recipient"):
            refused()


def test_generate_random_returns_that_many_bytes(region: Region) -> None:
    """From the node's entropy, in one piece."""
    region.entropy.asked.clear()
    answers = [
        generate_random(region.room, region.caller(), GenerateRandomRequest(number_of_bytes=size)).plaintext
        for size in (1, 32, 1024)
    ]
    assert [len(answer or b"") for answer in answers] == region.entropy.asked == [1, 32, 1024]


def test_generate_random_without_size_or_from_a_store_is_refused(region: Region) -> None:
    """There is no custom key store yet."""
    with pytest.raises(ValidationException, match="NumberOfBytes"):
        generate_random(region.room, region.caller(), GenerateRandomRequest())
    with pytest.raises(CustomKeyStoreNotFoundException, match="cks-1234"):
        generate_random(
            region.room,
            region.caller(),
            GenerateRandomRequest(number_of_bytes=8, custom_key_store_id="cks-1234"),
        )


def test_hot_path_reads_no_row(region: Region) -> None:
    """Once a key is warm, Encrypt, Decrypt and GenerateDataKey answer from memory."""
    blob = region.blob()
    region.decrypt(blob)
    region.state.reads.clear()
    region.blob()
    region.decrypt(blob)
    region.data_key(region.key.key_id, key_spec="AES_256")
    assert region.state.reads == []


def test_refusals_hold_no_plaintext(region: Region) -> None:
    """Neither message nor detail has what was to be hidden."""
    blob = region.blob(plaintext=b"topsecret", encryption_context=CONTEXT)
    region.change_key(region.second.key_id, state=KeyState.DISABLED)
    attempts: list[Callable[[], object]] = [
        lambda: region.decrypt(blob),
        lambda: region.encrypt(region.second.key_id, b"topsecret"),
        lambda: region.re_encrypt(blob, region.second.key_id, source_encryption_context=CONTEXT),
    ]
    for refused in attempts:
        with pytest.raises(KmsError) as raised:
            refused()
        assert "topsecret" not in raised.value.message + raised.value.detail + repr(raised.value)


def test_handlers_are_listed_by_operation() -> None:
    """The table of operations takes them from here."""
    assert DATA["Encrypt"] is encrypt
    assert DATA["ReEncrypt"] is re_encrypt
    assert len(DATA) == 6


def test_data_plane_speed_is_printed(region: Region, capsys: pytest.CaptureFixture[str]) -> None:
    """Not a promise, a figure: a handler's own time on a warm key, 1 KiB, two pairs of context."""
    caller, room = region.caller(), region.room
    sealing = EncryptRequest(key_id=region.key.key_id, plaintext=bytes(1024), encryption_context=CONTEXT)
    opening = DecryptRequest(ciphertext_blob=encrypt(room, caller, sealing).ciphertext_blob, encryption_context=CONTEXT)
    generating = GenerateDataKeyRequest(key_id=key_arn(region.key), key_spec="AES_256", encryption_context=CONTEXT)
    assert room.key(region.key.key_id) is not None
    with capsys.disabled():
        for name, work in (
            ("Encrypt", lambda: encrypt(room, caller, sealing)),
            ("Decrypt", lambda: decrypt(room, caller, opening)),
            ("GenerateDataKey", lambda: generate_data_key(room, caller, generating)),
        ):
            print(f"\n{name}: {min(timeit.repeat(work, number=1000, repeat=3)) / 1000 * 1e6:.1f} µs", end="")
    assert region.state.tables[Table.KEYS]
