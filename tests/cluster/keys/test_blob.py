"""Blob v1: opens under one backing key and one context, whole, and in no other way."""

import copy
import os
import pickle
import timeit
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys import blob as blob_module
from keycluster.cluster.keys.blob import (
    BLOB_BYTES_MAX,
    BLOB_OVERHEAD,
    BlobKey,
    BlobMalformed,
    BlobUnverified,
    key_reference,
    parse_blob,
)
from keycluster.cluster.keys.context import EMPTY_CONTEXT, canonical_context
from keycluster.cluster.types import KeyId

KEY_ID = KeyId("1234abcd-12ab-34cd-56ef-1234567890ab")
BACKING_KEY_ID = bytes(range(16))
BACKING = bytes(range(50, 82))
KEY = BlobKey(KEY_ID, BACKING_KEY_ID, BACKING)
CONTEXT = canonical_context({"tenant": "seven"})
RANDOM = bytes(range(100, 128))

plaintexts = st.binary(min_size=1, max_size=4096)
randoms = st.binary(min_size=28, max_size=28)


def opens(whole: bytes, key: BlobKey = KEY, context: bytes = CONTEXT) -> bool:
    try:
        key.decrypt(parse_blob(whole), context)
    except (BlobMalformed, BlobUnverified):
        return False
    return True


@given(plaintext=plaintexts, random28=randoms)
def test_blob_opens_to_its_plaintext(plaintext: bytes, random28: bytes) -> None:
    """Round trip, at a fixed overhead, and the blob says whose it is."""
    whole = KEY.encrypt(plaintext, CONTEXT, random28)
    blob = parse_blob(whole)
    assert (blob.key_id, blob.backing_key_id) == (KEY_ID, BACKING_KEY_ID)
    assert len(whole) == BLOB_OVERHEAD + len(plaintext)
    assert KEY.decrypt(blob, CONTEXT) == plaintext


def test_blob_is_what_sp_800_108_and_gcm_make_of_it() -> None:
    """The whole blob built a second time from KBKDFHMAC and AESGCM of `cryptography`, by the documented layout."""
    plaintext = b"attack at dawn"
    header = b"\x01\x01" + b"\x00" + bytes.fromhex(KEY_ID.replace("-", "")) + BACKING_KEY_ID + RANDOM[:16]
    derived = KBKDFHMAC(
        algorithm=SHA256(),
        mode=Mode.CounterMode,
        length=64,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=b"keycluster/blob/1",
        context=header + sha256(CONTEXT).digest(),
        fixed=None,
    ).derive(BACKING)
    additional = header + RANDOM[16:] + derived[32:]
    sealed = AESGCM(derived[:32]).encrypt(RANDOM[16:], plaintext, additional)
    assert KEY.encrypt(plaintext, CONTEXT, RANDOM) == additional + b"\x00\x0e" + sealed


def test_blob_with_any_bit_flipped_does_not_open() -> None:
    """Every bit is covered: by the derivation, the commitment, the tag or the parser."""
    whole = KEY.encrypt(b"a secret", CONTEXT, RANDOM)
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        assert not opens(bytes(changed)), f"opened with bit {bit} flipped"


def test_blob_cut_or_lengthened_does_not_parse() -> None:
    """The parser itself refuses every other length, before any key is asked for."""
    whole = KEY.encrypt(b"a secret", CONTEXT, RANDOM)
    for other in [*(whole[:cut] for cut in range(len(whole))), whole + b"\x00", whole + whole]:
        with pytest.raises(BlobMalformed):
            parse_blob(other)


@given(st.binary(max_size=300) | st.binary(min_size=BLOB_OVERHEAD, max_size=BLOB_OVERHEAD + 20))
def test_garbage_does_not_open(garbage: bytes) -> None:
    """No bytes crash the parser, and none open; nor do they behind a good beginning."""
    assert not opens(garbage)
    good = KEY.encrypt(b"a secret", CONTEXT, RANDOM)
    assert garbage == b"" or not opens(good + garbage)
    assert garbage == good[-len(garbage) :] or not opens(good[: -len(garbage)] + garbage)


@given(st.binary(max_size=5000))
def test_parsed_bytes_are_their_own_only_encoding(whole: bytes) -> None:
    """Whatever parses has the ids that it says, in the one way to say them."""
    prefixed = b"\x01\x01" + whole
    try:
        blob = parse_blob(prefixed)
    except BlobMalformed:
        return
    assert prefixed[2:35] == key_reference(blob.key_id) + blob.backing_key_id


@pytest.mark.parametrize("other", [EMPTY_CONTEXT, canonical_context({"tenant": "Seven"}), b""])
def test_blob_under_another_context_does_not_open(other: bytes) -> None:
    """The context is part of the key."""
    whole = KEY.encrypt(b"a secret", CONTEXT, RANDOM)
    assert opens(whole)
    assert not opens(whole, context=other)


def test_blob_under_another_backing_key_does_not_open() -> None:
    """One bit of the backing key makes another key."""
    other = BlobKey(KEY_ID, BACKING_KEY_ID, bytes((BACKING[0] ^ 1,)) + BACKING[1:])
    assert not opens(KEY.encrypt(b"a secret", CONTEXT, RANDOM), key=other)


def test_blob_whose_tag_is_good_but_commitment_is_not_does_not_open() -> None:
    """The commitment counts by itself: GCM's tag, made anew by somebody who has the key, doesn't replace it."""
    whole = KEY.encrypt(b"a secret", CONTEXT, RANDOM)
    key, commitment = KEY._derive(whole[:51], CONTEXT)
    additional = whole[:63] + bytes((commitment[0] ^ 1,)) + commitment[1:]
    forged = additional + whole[95:97] + AESGCM(key).encrypt(RANDOM[16:], b"a secret", additional)
    assert len(forged) == len(whole)
    with pytest.raises(BlobUnverified):
        KEY.decrypt(parse_blob(forged), CONTEXT)


def test_refusals_are_one_error_after_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong context, a wrong commitment and a wrong tag: one error, one text, one derivation, one GCM call."""
    calls: list[str] = []

    def counting(key: bytes) -> AESGCM:
        calls.append("gcm")
        return AESGCM(key)

    def compare(one: bytes, other: bytes) -> bool:
        calls.append("compare")
        return one == other

    monkeypatch.setattr(blob_module, "AESGCM", counting)
    monkeypatch.setattr(blob_module, "compare_digest", compare)
    whole = KEY.encrypt(b"a secret", CONTEXT, RANDOM)
    wrong_commitment = whole[:70] + bytes((whole[70] ^ 1,)) + whole[71:]
    wrong_tag = whole[:-1] + bytes((whole[-1] ^ 1,))
    for refused, context in ((whole, EMPTY_CONTEXT), (wrong_commitment, CONTEXT), (wrong_tag, CONTEXT)):
        calls.clear()
        with pytest.raises(BlobUnverified) as raised:
            KEY.decrypt(parse_blob(refused), context)
        assert calls == ["compare", "gcm"]
        assert str(raised.value) == "a ciphertext blob doesn't verify"


@pytest.mark.parametrize("key_id", [KEY_ID, KeyId("mrk-" + "0123456789abcdef" * 2)])
def test_key_reference_leads_back_to_its_key_id(key_id: KeyId) -> None:
    """Both kinds of id have a reference of 17 bytes that only they have."""
    reference = key_reference(key_id)
    assert len(reference) == 17
    key = BlobKey(key_id, BACKING_KEY_ID, BACKING)
    assert parse_blob(key.encrypt(b"x", CONTEXT, RANDOM)).key_id == key_id


@pytest.mark.parametrize("text", ["", "1234", KEY_ID.upper(), KEY_ID.replace("-", ""), "mrk-12", "alias/a", "g" * 36])
def test_key_reference_of_no_key_id_is_refused(text: str) -> None:
    """Only the canonical spelling has a reference."""
    with pytest.raises(ValueError):  # noqa: PT011  # fromhex has words of its own.
        key_reference(KeyId(text))


def test_plaintext_and_random_of_other_sizes_are_refused() -> None:
    """1 to 4,096 bytes, and 28 random ones; the largest blob is well below what Decrypt takes."""
    assert len(KEY.encrypt(bytes(4096), CONTEXT, RANDOM)) == BLOB_BYTES_MAX <= 6144
    for plaintext, random28 in ((b"", RANDOM), (bytes(4097), RANDOM), (b"x", RANDOM[:27]), (b"x", RANDOM + b"x")):
        with pytest.raises(ValueError, match="28 random bytes"):
            KEY.encrypt(plaintext, CONTEXT, random28)


def test_backing_key_of_another_size_is_refused() -> None:
    """No short key is ever accepted."""
    for backing_key_id, backing in ((BACKING_KEY_ID, BACKING[:16]), (b"", BACKING), (BACKING_KEY_ID, b"")):
        with pytest.raises(ValueError, match="32 bytes and its id 16"):
            BlobKey(KEY_ID, backing_key_id, backing)


def test_blob_key_shows_no_key_and_is_not_copied() -> None:
    """Neither repr nor pickle nor copy lets it out."""
    assert repr(KEY) == f"BlobKey(backing_key_id={BACKING_KEY_ID.hex()})"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(KEY)


def test_blob_speed_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Not a promise, a figure: the hot path's own time for 1 KiB, random bytes from the system included."""
    plaintext = bytes(1024)
    whole = KEY.encrypt(plaintext, CONTEXT, RANDOM)
    with capsys.disabled():
        for name, work in (
            ("encrypt", lambda: KEY.encrypt(plaintext, CONTEXT, os.urandom(28))),
            ("parse and decrypt", lambda: KEY.decrypt(parse_blob(whole), CONTEXT)),
        ):
            print(
                f"\nblob, {name} 1 KiB: {min(timeit.repeat(work, number=2000, repeat=3)) / 2000 * 1e6:.1f} µs", end=""
            )
