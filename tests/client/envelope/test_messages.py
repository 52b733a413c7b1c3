"""The message format without files: portions of any size, limits, damage, and no text before its tag."""

import os
import struct
from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.client.envelope import format as envelope_format
from keycluster.client.envelope.decryptor import BodyReader, HeaderReader
from keycluster.client.envelope.encryptor import MessageEncryptor
from keycluster.client.envelope.format import (
    ContentType,
    EncryptedDataKey,
    Header,
    Incomplete,
    Suite,
    decode_context,
    decode_header,
    encode_context,
)
from keycluster.client.envelope.keys import MessageKeys, Signer
from keycluster.client.errors import EnvelopeError
from keycluster.client.surroundings import REAL

DATA_KEY = bytes(range(32))
ENTRY = EncryptedDataKey(b"aws-kms", b"arn:aws:kms:us-east-1:123456789012:key/k", b"wrapped")


def encryptor(
    suite: Suite,
    *,
    context: Mapping[str, str] | None = None,
    frame_bytes: int = 16,
    entries: tuple[EncryptedDataKey, ...] = (ENTRY,),
) -> MessageEncryptor:
    signer = Signer(REAL.new_signing_key()) if suite is Suite.SIGNED else None
    members = dict(context or {})
    if signer is not None:
        members["aws-crypto-public-key"] = signer.public_key
    return MessageEncryptor(
        suite=suite,
        data_key=DATA_KEY,
        encrypted_data_keys=entries,
        context=members,
        signer=signer,
        message_id=os.urandom(32),
        frame_bytes=frame_bytes,
    )


def make(plaintext: bytes, suite: Suite, *, context: Mapping[str, str] | None = None, frame_bytes: int = 16) -> bytes:
    maker = encryptor(suite, context=context, frame_bytes=frame_bytes)
    return bytes(maker.header + maker.update(plaintext) + maker.finish())


def read(
    portions: Iterable[bytes],
    written: list[bytes] | None = None,
    data_key: bytes = DATA_KEY,
    frame_bytes_max: int = 1 << 20,
) -> bytes:
    """Reads a message as decrypt_stream does. Plaintext is added to `written` as it would be written."""
    written = [] if written is None else written
    reader = HeaderReader()
    body: BodyReader | None = None
    for portion in portions:
        if body is None:
            if reader.feed(portion) is not None:
                body = reader.unlock(data_key, frame_bytes_max=frame_bytes_max)
                written.append(body.feed(b""))
        else:
            written.append(body.feed(portion))
    if body is None:
        reader.finish()
    assert body is not None, "a message that ends within its header was let through"
    body.finish()
    return b"".join(written)


def cut(content: bytes, sizes: list[int]) -> list[bytes]:
    """Cuts content into portions of the sizes, over and over."""
    portions, at, turn = [], 0, 0
    while at < len(content):
        size = sizes[turn % len(sizes)]
        portions.append(content[at : at + size])
        at, turn = at + size, turn + 1
    return portions


suites = st.sampled_from([Suite.SIGNED, Suite.UNSIGNED])
contexts = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: not name.startswith("aws-")),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    max_size=4,
)
portion_sizes = st.lists(st.integers(1, 400), min_size=1, max_size=5)


@given(st.binary(max_size=200), suites, contexts, st.integers(1, 64), portion_sizes, portion_sizes)
@settings(max_examples=150, deadline=None)
def test_message_in_any_portions_comes_back(
    plaintext: bytes, suite: Suite, context: dict[str, str], frame_bytes: int, in_sizes: list[int], out_sizes: list[int]
) -> None:
    """However plaintext and message are cut up, the same text comes back, frame by frame."""
    maker = encryptor(suite, context=context, frame_bytes=frame_bytes)
    message = maker.header + b"".join(maker.update(part) for part in cut(plaintext, in_sizes)) + maker.finish()
    assert read(cut(bytes(message), out_sizes)) == plaintext
    assert context.items() <= decode_header(bytes(message))[0].context.items()


@pytest.mark.parametrize("suite", [Suite.SIGNED, Suite.UNSIGNED])
def test_message_is_refused_at_every_cut(suite: Suite) -> None:
    """A message cut off anywhere never finishes, and what was written is a beginning of the text."""
    plaintext = bytes(range(70))
    message = make(plaintext, suite, context={"a": "b"})
    for length in range(len(message)):
        written: list[bytes] = []
        with pytest.raises(EnvelopeError):
            read([message[:length]] if length else [], written)
        assert plaintext.startswith(b"".join(written))


@pytest.mark.parametrize("suite", [Suite.SIGNED, Suite.UNSIGNED])
def test_any_flipped_bit_is_refused(suite: Suite) -> None:
    """A bit changed anywhere is an EnvelopeError, and nothing but true text is written before it."""
    plaintext = bytes(range(70))
    message = make(plaintext, suite, context={"a": "b"})
    for position in range(len(message)):
        for bit in (1, 128):
            damaged = bytearray(message)
            damaged[position] ^= bit
            written: list[bytes] = []
            with pytest.raises(EnvelopeError):
                read(cut(bytes(damaged), [33]), written)
            assert plaintext.startswith(b"".join(written))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused(content: bytes) -> None:
    """Bytes that are no message are an EnvelopeError, whole or in pieces."""
    with pytest.raises(EnvelopeError):
        read([content])
    with pytest.raises(EnvelopeError):
        read(cut(content, [1]))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_spliced_messages_are_refused(data: st.DataObject) -> None:
    """Parts of a message swapped, doubled, dropped or put in from another message under the same key are refused."""
    plaintext = bytes(range(64)) + b"tail"
    one, other = (make(plaintext, Suite.UNSIGNED) for _ in range(2))
    start = data.draw(st.integers(0, len(one)))
    stop = data.draw(st.integers(start, len(one)))
    donor = data.draw(st.sampled_from([one, other]))
    from_, to = sorted(data.draw(st.tuples(st.integers(0, len(donor)), st.integers(0, len(donor)))))
    spliced = one[:start] + donor[from_:to] + one[stop:]
    written: list[bytes] = []
    if spliced in (one, other):
        assert read([spliced]) == plaintext
        return
    with pytest.raises(EnvelopeError):
        read([spliced], written)
    assert plaintext.startswith(b"".join(written))


@given(st.binary(max_size=40), contexts, suites)
@settings(max_examples=100, deadline=None)
def test_header_parser_waits_or_decides_but_never_fails_otherwise(
    rest: bytes, context: dict[str, str], suite: Suite
) -> None:
    """Every beginning of a header is Incomplete with a need that grows; a header followed by anything is the header."""
    header = encryptor(suite, context=context).header[:-16]
    for length in range(len(header)):
        with pytest.raises(Incomplete) as caught:
            decode_header(header[:length])
        assert length < caught.value.needed <= len(header)
    decoded, count = decode_header(header + rest)
    assert (decoded.encode(), count) == (header, len(header))


@given(contexts)
def test_context_has_one_encoding(context: dict[str, str]) -> None:
    """A context comes back, its encoding is sorted by UTF-8 bytes, and empty is no bytes at all."""
    encoded = encode_context(context)
    assert decode_context(encoded) == context
    assert encoded == encode_context(dict(reversed(context.items())))
    assert (encoded == b"") == (not context)


def field(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x00",
        b"\x00\x00",
        b"\x00\x01",
        struct.pack(">H", 2) + field(b"a") + field(b"1") + field(b"a") + field(b"2"),
        struct.pack(">H", 1) + field(b"a") + field(b"1") + b"\x00",
        struct.pack(">H", 1) + field(b"\xff") + field(b"1"),
        struct.pack(">H", 2) + field(b"a") + field(b"1"),
    ],
    ids=["half a count", "count 0", "no pair", "name twice", "trailing byte", "not UTF-8", "a pair missing"],
)
def test_malformed_context_is_refused(encoded: bytes) -> None:
    """What doesn't say each pair once, in UTF-8, to the last byte, is no context."""
    with pytest.raises(EnvelopeError):
        decode_context(encoded)


def test_context_too_long_to_say_is_refused() -> None:
    """Names, values and the whole have 65,535 bytes at most."""
    for context in ({"a": "x" * 65_536}, {str(number): "x" * 600 for number in range(120)}):
        with pytest.raises(EnvelopeError, match="65535 is the limit"):
            encode_context(context)


def test_wrong_data_key_is_refused_before_any_text() -> None:
    """Under another data key the commitment fails, with the same words as any other failure of the header."""
    message = make(b"text", Suite.UNSIGNED)
    written: list[bytes] = []
    with pytest.raises(EnvelopeError, match=r"^the message doesn't verify$"):
        read([message], written, data_key=bytes(32))
    assert written == []
    with pytest.raises(EnvelopeError, match="32 are needed"):
        read([message], data_key=bytes(16))


def test_commitment_is_checked_by_itself() -> None:
    """A header whose tag verifies under a key that it doesn't commit to is refused: that is what the check is for."""
    maker = encryptor(Suite.UNSIGNED)
    header, count = decode_header(maker.header)
    forged = Header(
        header.suite, header.message_id, header.context, header.keys, header.content_type, header.frame_bytes, bytes(32)
    ).encode()
    tag = MessageKeys(data_key=DATA_KEY, suite=header.suite, message_id=header.message_id).header_tag(forged)
    with pytest.raises(EnvelopeError, match=r"^the message doesn't verify$"):
        read([forged + tag + maker.update(b"") + maker.finish()])
    assert count == len(forged)


def test_frames_longer_than_allowed_are_refused() -> None:
    """Whoever decrypts bounds the memory a message can take, in frames and as one block."""
    message = make(b"x" * 100, Suite.UNSIGNED, frame_bytes=64)
    assert read([message], frame_bytes_max=64)
    with pytest.raises(EnvelopeError, match="64 bytes; 63 are allowed"):
        read([message], frame_bytes_max=63)


def test_limits_of_the_header_hold_both_ways() -> None:
    """Too many or too long data keys, no data key, and impossible frame lengths are neither written nor read."""
    whole = encryptor(Suite.UNSIGNED).header
    start = whole.index(b"\x00\x01\x00\x07aws-kms")
    for count in (0, envelope_format.KEYS_MAX + 1):
        with pytest.raises(EnvelopeError):
            encryptor(Suite.UNSIGNED, entries=(ENTRY,) * count)
        with pytest.raises(EnvelopeError):
            decode_header(whole[:start] + struct.pack(">H", count) + whole[start + 2 :])
    with pytest.raises(EnvelopeError):
        encryptor(Suite.UNSIGNED, entries=(EncryptedDataKey(b"aws-kms", b"arn", b"x" * 8193),))
    with pytest.raises(EnvelopeError):
        decode_header(whole[: start + 2] + struct.pack(">H", 8193))
    for frame_bytes in (0, 1 << 31):
        with pytest.raises(EnvelopeError):
            encryptor(Suite.UNSIGNED, frame_bytes=frame_bytes)
    for content_type, frame_bytes in ((2, 0), (2, 1 << 31), (1, 16), (3, 16), (0, 0)):
        with pytest.raises(EnvelopeError):
            decode_header(whole[:-53] + struct.pack(">BI", content_type, frame_bytes) + whole[-48:])


@pytest.mark.parametrize("start", [b"\x01", b"\x02\x01\x78", b"\x02\x05\x79", b"\x03", b"AgV4"])
def test_other_formats_are_refused_at_their_first_bytes(start: bytes) -> None:
    """Version 1, suites without commitment and other files are told at once, before more is read."""
    with pytest.raises(EnvelopeError):
        HeaderReader().feed(start)


def test_signed_and_unsigned_are_not_to_be_mixed() -> None:
    """A signed message without its public key, and an unsigned one with one, are refused."""
    signer = Signer(REAL.new_signing_key())
    mixed: list[tuple[Suite, dict[str, str], Signer | None]] = [
        (Suite.SIGNED, {}, signer),
        (Suite.UNSIGNED, {"aws-crypto-public-key": signer.public_key}, None),
    ]
    for suite, context, given_signer in mixed:
        maker = MessageEncryptor(
            suite=suite,
            data_key=DATA_KEY,
            encrypted_data_keys=(ENTRY,),
            context=context,
            signer=given_signer,
            message_id=bytes(32),
            frame_bytes=16,
        )
        with pytest.raises(EnvelopeError, match="public-key"):
            read([maker.header])


def test_public_key_that_is_no_point_is_refused() -> None:
    """Anything but a point of P-384 as public key is an EnvelopeError."""
    for value in ("", "AA==", "ä", "A" * 10):
        maker = MessageEncryptor(
            suite=Suite.SIGNED,
            data_key=DATA_KEY,
            encrypted_data_keys=(ENTRY,),
            context={"aws-crypto-public-key": value},
            signer=Signer(REAL.new_signing_key()),
            message_id=bytes(32),
            frame_bytes=16,
        )
        with pytest.raises(EnvelopeError, match="P-384"):
            read([maker.header])


def test_message_has_no_more_frames_than_its_numbers_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame counter never runs into the mark of the last frame."""
    monkeypatch.setattr("keycluster.client.envelope.encryptor.FRAMES_MAX", 3)
    maker = encryptor(Suite.UNSIGNED, frame_bytes=1)
    maker.update(b"ab")
    with pytest.raises(EnvelopeError, match="frames"):
        maker.update(b"c")


def test_signatures_have_the_length_that_aws_expects() -> None:
    """103 bytes each time, as AWS's SDKs make them."""
    for _ in range(30):
        signer = Signer(REAL.new_signing_key())
        signer.update(os.urandom(10))
        assert len(signer.footer()) == 2 + 103


def forge(content_type: ContentType, frame_bytes: int, rest: Callable[[MessageKeys, bytes], bytes]) -> bytes:
    """An unsigned message whose header says what it likes and verifies; `rest(keys, message_id)` makes its body."""
    message_id = os.urandom(32)
    keys = MessageKeys(data_key=DATA_KEY, suite=Suite.UNSIGNED, message_id=message_id)
    header = Header(Suite.UNSIGNED, message_id, {}, (ENTRY,), content_type, frame_bytes, keys.commitment)
    body = header.encode()
    return body + keys.header_tag(body) + rest(keys, message_id)


def test_block_longer_than_allowed_is_refused() -> None:
    """A message without frames is held whole in memory, so it has the same bound as a frame."""

    def block(keys: MessageKeys, message_id: bytes) -> bytes:
        aad = envelope_format.single_aad(message_id, 100)
        return bytes(12) + struct.pack(">Q", 100) + keys.aead.encrypt(bytes(12), b"x" * 100, aad)

    message = forge(ContentType.SINGLE, 0, block)
    assert read([message], frame_bytes_max=100) == b"x" * 100
    with pytest.raises(EnvelopeError, match="100 bytes; 99 are allowed"):
        read([message], frame_bytes_max=99)


def test_last_frame_longer_than_the_others_is_refused() -> None:
    """The last frame's own length can't pass the bound that the header's frame length was checked against."""

    def last_frame(keys: MessageKeys, message_id: bytes) -> bytes:
        nonce = envelope_format.frame_nonce(1)
        sealed = keys.aead.encrypt(nonce, b"x" * 17, envelope_format.last_frame_aad(message_id, 1, 17))
        return envelope_format.LAST_FRAME + nonce[-4:] + nonce + struct.pack(">I", 17) + sealed

    assert read([forge(ContentType.FRAMED, 17, last_frame)]) == b"x" * 17
    with pytest.raises(EnvelopeError, match="the last frame has 17 bytes"):
        read([forge(ContentType.FRAMED, 16, last_frame)])
