"""Key tokens and sealed secrets: they open where they were made for, and nowhere else."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.hierarchy import GenerationUnknown, Keyring, Purpose
from keycluster.cluster.keys.token import (
    TOKEN_BYTES,
    TokenInvalid,
    TokenMeta,
    generation_of,
    open_backing_key,
    open_secret,
    seal_backing_key,
    seal_secret,
)
from keycluster.cluster.types import AccountId, KeyId

RING = Keyring("us-east-1", {1: bytes(range(32)), 2: bytes(range(1, 33))}, 2)
META = TokenMeta(
    account=AccountId("123456789012"),
    key_id=KeyId("1234abcd-12ab-34cd-56ef-1234567890ab"),
    backing_key_id=bytes(range(16)),
    spec="SYMMETRIC_DEFAULT",
    usage="ENCRYPT_DECRYPT",
    origin="AWS_KMS",
)
BACKING = bytes(range(100, 132))
NONCE = bytes(range(200, 212))
OWNER = b"AKIAEXAMPLE"


def token(generation: int = 1) -> bytes:
    return seal_backing_key(RING, generation, BACKING, meta=META, nonce=NONCE)


@given(backing=st.binary(min_size=32, max_size=32), nonce=st.binary(min_size=12, max_size=12))
def test_token_opens_to_its_backing_key(backing: bytes, nonce: bytes) -> None:
    """What was sealed comes back, at a fixed size, and isn't readable in the token."""
    sealed = seal_backing_key(RING, 2, backing, meta=META, nonce=nonce)
    assert len(sealed) == TOKEN_BYTES
    assert generation_of(sealed) == 2
    assert backing not in sealed
    assert open_backing_key(RING, sealed, META) == backing


@pytest.mark.parametrize(
    "change",
    [
        {"account": AccountId("210987654321")},
        {"key_id": KeyId("1234abcd-12ab-34cd-56ef-1234567890ac")},
        {"backing_key_id": bytes(16)},
        {"spec": "HMAC_256"},
        {"usage": "GENERATE_VERIFY_MAC"},
        {"origin": "EXTERNAL"},
        {"spec": "SYMMETRIC_DEFAULTE", "usage": "NCRYPT_DECRYPT"},
    ],
)
def test_token_moved_to_another_record_is_refused(change: dict[str, Any]) -> None:
    """A token swapped between accounts, keys, rotations, specs, usages or origins doesn't open."""
    with pytest.raises(TokenInvalid):
        open_backing_key(RING, token(), dataclasses.replace(META, **change))


def test_token_of_another_region_or_generation_is_refused() -> None:
    """The same generation bytes in another region, or under another number, open nothing."""
    with pytest.raises(TokenInvalid):
        open_backing_key(Keyring("eu-west-1", {1: bytes(range(32))}, 1), token(1), META)
    renumbered = token(1)[:4] + b"\x02" + token(1)[5:]
    assert generation_of(renumbered) == 2
    with pytest.raises(TokenInvalid):
        open_backing_key(Keyring("us-east-1", {2: bytes(range(32))}, 2), renumbered, META)


def test_token_of_a_generation_not_held_says_so() -> None:
    """A missing generation is not a damaged token: the node may yet receive it."""
    with pytest.raises(GenerationUnknown):
        open_backing_key(Keyring("us-east-1", {1: bytes(range(32))}, 1), token(2), META)


def test_token_with_any_bit_flipped_is_refused() -> None:
    """Each bit counts; a changed generation number may also be one that isn't held."""
    whole = token()
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((TokenInvalid, GenerationUnknown)):
            open_backing_key(RING, bytes(changed), META)


def test_token_cut_or_lengthened_is_refused() -> None:
    """There is one length."""
    for cut in range(TOKEN_BYTES):
        with pytest.raises(TokenInvalid):
            open_backing_key(RING, token()[:cut], META)
    with pytest.raises(TokenInvalid):
        open_backing_key(RING, token() + b"\x00", META)


@given(st.binary(max_size=120))
def test_garbage_is_no_token(garbage: bytes) -> None:
    """No bytes crash the parser, and none open."""
    with pytest.raises((TokenInvalid, GenerationUnknown)):
        open_backing_key(RING, garbage, META)
    with pytest.raises((TokenInvalid, GenerationUnknown)):
        open_secret(RING, Purpose.ACCESS_KEY, garbage, owner=OWNER)


@pytest.mark.parametrize("purpose", [Purpose.ACCESS_KEY, Purpose.AUTHORITY, Purpose.JOIN_TOKEN])
@pytest.mark.parametrize("secret", [b"", b"s", b"a secret of forty characters, or so long"])
def test_secret_opens_for_its_purpose_and_owner_alone(purpose: Purpose, secret: bytes) -> None:
    """Another purpose, another owner, another region: nothing opens."""
    sealed = seal_secret(RING, 2, purpose, secret=secret, owner=OWNER, nonce=NONCE)
    assert open_secret(RING, purpose, sealed, owner=OWNER) == secret
    for other in set(Purpose) - {purpose}:
        with pytest.raises(TokenInvalid):
            open_secret(RING, other, sealed, owner=OWNER)
    with pytest.raises(TokenInvalid):
        open_secret(RING, purpose, sealed, owner=OWNER + b"2")
    with pytest.raises(TokenInvalid):
        open_secret(Keyring("eu-west-1", {2: bytes(range(1, 33))}, 2), purpose, sealed, owner=OWNER)


def test_secret_with_any_bit_flipped_is_refused() -> None:
    """As for tokens."""
    whole = seal_secret(RING, 1, Purpose.ACCESS_KEY, secret=b"secret", owner=OWNER, nonce=NONCE)
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((TokenInvalid, GenerationUnknown)):
            open_secret(RING, Purpose.ACCESS_KEY, bytes(changed), owner=OWNER)


def test_wrong_sizes_are_refused_when_sealing() -> None:
    """A caller's mistake is a ValueError, before anything is sealed."""
    with pytest.raises(ValueError, match="backing key has 32"):
        seal_backing_key(RING, 1, BACKING[:16], meta=META, nonce=NONCE)
    with pytest.raises(ValueError, match="nonce"):
        seal_backing_key(RING, 1, BACKING, meta=META, nonce=NONCE[:8])
    with pytest.raises(ValueError, match="id has 16"):
        seal_backing_key(RING, 1, BACKING, meta=dataclasses.replace(META, backing_key_id=b""), nonce=NONCE)
    with pytest.raises(ValueError, match="at most"):
        seal_secret(RING, 1, Purpose.AUTHORITY, secret=bytes(16_385), owner=OWNER, nonce=NONCE)


def test_errors_hold_no_secret() -> None:
    """What is raised says neither what was sealed nor what failed."""
    with pytest.raises(TokenInvalid) as raised:
        open_backing_key(RING, token()[:-1] + b"\x00", META)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    assert str(raised.value) == "a sealed secret doesn't open where it was found"
