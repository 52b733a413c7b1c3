"""Strict decoding: a request means one thing, or it is refused."""

import contextlib
import json
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.wire import operations
from keycluster.cluster.wire.errors import KmsError, SerializationException, ValidationException
from keycluster.cluster.wire.operations import (
    CreateAliasRequest,
    EncryptRequest,
    EncryptResponse,
    GenerateRandomRequest,
    KeyMetadata,
    ListKeysRequest,
    TagResourceRequest,
)
from keycluster.cluster.wire.strict import StrictDecoder

ENCRYPT = StrictDecoder(EncryptRequest)
TAG_RESOURCE = StrictDecoder(TagResourceRequest)
REQUESTS = [
    kind for name, kind in vars(operations).items() if isinstance(kind, type) and name.endswith("Request")
]  # fmt: skip


class Pairs(list[tuple[Any, Any]]):
    """An object as it is written: names may occur twice."""


def has_duplicates(value: Any) -> bool:
    if isinstance(value, Pairs):
        names = [name for name, _ in value]
        return len(set(names)) < len(names) or any(has_duplicates(member) for _, member in value)
    return isinstance(value, list) and any(map(has_duplicates, value))


def as_msgpack(value: Any) -> bytes:
    packer = msgpack.Packer()
    if isinstance(value, Pairs):
        return bytes(packer.pack_map_header(len(value))) + b"".join(
            as_msgpack(name) + as_msgpack(member) for name, member in value
        )
    if isinstance(value, list):
        return bytes(packer.pack_array_header(len(value))) + b"".join(map(as_msgpack, value))
    return bytes(packer.pack(value))


def as_json(value: Any, blank: str, *, ascii_only: bool) -> str:
    if isinstance(value, Pairs):
        members = (
            f"{json.dumps(name, ensure_ascii=ascii_only)}{blank}:{blank}{as_json(member, blank, ascii_only=ascii_only)}"
            for name, member in value
        )
        return "{" + blank + f",{blank}".join(members) + blank + "}"
    if isinstance(value, list):
        return "[" + ",".join(as_json(member, blank, ascii_only=ascii_only) for member in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


texts = st.text(st.sampled_from('ab:",\\é\n'), min_size=1, max_size=4)
contexts = st.lists(st.tuples(texts, texts), max_size=3).map(Pairs)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.lists(st.tuples(texts, inner), max_size=3).map(Pairs),
    max_leaves=6,
)
members = st.one_of(
    st.tuples(st.just("KeyId"), texts),
    st.tuples(st.just("EncryptionContext"), contexts | st.none()),
    st.tuples(st.just("GrantTokens"), st.lists(texts, max_size=2)),
    st.tuples(st.just("DryRun"), st.booleans() | st.none()),
    st.tuples(st.just("EncryptionAlgorithm"), st.just("SYMMETRIC_DEFAULT")),
    st.tuples(texts, anything),
)


@given(others=st.lists(members, max_size=5), place=st.integers(0, 5))
def test_msgpack_is_taken_exactly_when_no_name_occurs_twice(others: list[tuple[str, Any]], place: int) -> None:
    """At any depth, unknown members and their insides included."""
    written = Pairs([*others[:place], ("Plaintext", b"p"), *others[place:]])
    if all(name != "KeyId" for name, _ in others):
        written.append(("KeyId", "k"))
    check(written, lambda: ENCRYPT.from_msgpack(as_msgpack(written)))


@given(
    others=st.lists(members, max_size=5),
    place=st.integers(0, 5),
    blank=st.sampled_from(["", " ", "\n\t"]),
    ascii_only=st.booleans(),
)
def test_json_is_taken_exactly_when_no_name_occurs_twice(
    others: list[tuple[str, Any]], place: int, blank: str, ascii_only: bool
) -> None:
    """However it is spaced and escaped."""
    written = Pairs([*others[:place], ("Plaintext", "cA=="), *others[place:]])
    if all(name != "KeyId" for name, _ in others):
        written.append(("KeyId", "k"))
    content = as_json(written, blank, ascii_only=ascii_only).encode()
    check(written, lambda: ENCRYPT.from_json(content))


def check(written: Pairs, decode: Any) -> None:
    if has_duplicates(written):
        with pytest.raises(SerializationException, match="twice"):
            decode()
        return
    request = decode()
    known = dict(written)
    assert request.key_id == known["KeyId"]
    assert request.plaintext == b"p"
    assert request.encryption_context == (
        None if known.get("EncryptionContext") is None else dict(known["EncryptionContext"])
    )
    assert request.dry_run == known.get("DryRun")


@pytest.mark.parametrize(
    "content",
    [
        b'{"KeyId":"a","Plaintext":"cA==","KeyId":"\\u003a"}',
        b'{"KeyId":"\\u003a\\u003a","Plaintext":"cA==","EncryptionContext":{"a":"b","a":"c"}}',
        b'{"KeyId":"a","Key\\u0049d":"b","Plaintext":"cA=="}',
        b'{"KeyId" :"a","KeyId" :"a","Plaintext":"cA=="}',
        b'{"KeyId":"a","Plaintext":"cA==","Foo":{"a":{"b":1,"b":2}}}',
        b'{"KeyId":"a","Plaintext":"cA==","DryRun":null,"DryRun":null}',
    ],
)
def test_duplicate_in_disguise_is_found(content: bytes) -> None:
    """Escaped colons in the place of dropped ones, escaped names, blanks, nulls, unknown members."""
    with pytest.raises(SerializationException, match="twice"):
        ENCRYPT.from_json(content)


def test_request_types_have_no_floats() -> None:
    """A float can be written shorter in msgpack than msgspec writes it: then a duplicate could hide."""
    for kind in REQUESTS:
        StrictDecoder(kind)
    for kind in (KeyMetadata, msgspec.defstruct("Nested", [("inner", tuple[KeyMetadata, ...] | None)])):
        with pytest.raises(InvariantBroken):
            StrictDecoder(kind)


@given(content=st.binary(max_size=80))
@pytest.mark.parametrize("kind", REQUESTS)
def test_any_bytes_are_decoded_or_refused(kind: type[msgspec.Struct], content: bytes) -> None:
    """In AWS's words; nothing else comes out."""
    for decode in (StrictDecoder(kind).from_msgpack, StrictDecoder(kind).from_json):
        with contextlib.suppress(SerializationException, ValidationException):
            assert isinstance(decode(content), kind)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"{}{}",
        b"{} x",
        b'{"KeyId":"a",}',
        b"\xef\xbb\xbf{}",
        b'{"KeyId":"\xff","Plaintext":"cA=="}',
        b'{"KeyId":"a","Plaintext":"cA==","Foo":"\xff"}',
        b'{"KeyId":"\\ud800","Plaintext":"cA=="}',
        b'{"KeyId":"a","Plaintext":"cA==","Foo":NaN}',
        b'{"KeyId":"a","Plaintext":"c"}',
        b'{"KeyId":"a","Plaintext":"*"}',
        b'{"KeyId":1,"Plaintext":"cA=="}',
        b'{"KeyId":"a","Plaintext":1}',
        b'{"KeyId":"a","Plaintext":"cA==","EncryptionContext":{"a":1}}',
        b'{"KeyId":"a","Plaintext":"cA==","EncryptionContext":{"a":null}}',
        b'{"KeyId":"a","Plaintext":"cA==","EncryptionContext":[]}',
        b'{"KeyId":"a","Plaintext":"cA==","GrantTokens":"a"}',
        b'{"KeyId":"a","Plaintext":"cA==","DryRun":"true"}',
        b'{"KeyId":"a","Plaintext":"cA==","Foo":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"KeyId":"a","Plaintext":"cA==","Foo":' + b'{"a":' * 40_000 + b"1" + b"}" * 40_000 + b"}",
    ],
)
def test_what_is_no_request_in_json_is_refused(content: bytes) -> None:
    """Broken, of the wrong type, not UTF-8, or nested without end."""
    with pytest.raises(SerializationException):
        ENCRYPT.from_json(content)


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        {"KeyId": b"a", "Plaintext": b"p"},
        {"KeyId": "a", "Plaintext": "p"},
        {b"KeyId": "a", "Plaintext": b"p"},
        {"KeyId": "a", "Plaintext": b"p", 7: 8},
        {"KeyId": "a", "Plaintext": b"p", "DryRun": 1},
        {"KeyId": "a", "Plaintext": b"p", "EncryptionContext": {1: "a"}},
    ],
)
def test_what_is_no_request_in_msgpack_is_refused(value: Any) -> None:
    """Text isn't bytes, and names are text."""
    with pytest.raises(SerializationException):
        ENCRYPT.from_msgpack(msgpack.packb(value))


def test_trailing_bytes_are_refused() -> None:
    """In both."""
    with pytest.raises(SerializationException):
        ENCRYPT.from_msgpack(msgpack.packb({"KeyId": "a", "Plaintext": b"p"}) + b"\xc0")
    with pytest.raises(SerializationException):
        ENCRYPT.from_json(b'{"KeyId":"a","Plaintext":"cA=="}\0')


def test_number_of_many_digits_costs_nothing() -> None:
    """In an unknown member it isn't computed."""
    content = b'{"NumberOfBytes":1,"Foo":' + b"9" * 200_000 + b"}"
    assert StrictDecoder(GenerateRandomRequest).from_json(content).number_of_bytes == 1


def test_empty_body_is_an_empty_object() -> None:
    """For operations that need nothing."""
    assert StrictDecoder(ListKeysRequest).from_json(b"") == ListKeysRequest()


def test_longer_msgpack_forms_are_taken() -> None:
    """Other libraries write bin 16 or str 8 where less would do; that hides no duplicate."""
    content = b"\xde\x00\x02\xd9\x05KeyId\xd9\x01a\xa9Plaintext\xc5\x00\x01p"
    assert ENCRYPT.from_msgpack(content) == EncryptRequest(key_id="a", plaintext=b"p")


def test_response_types_decode_what_they_encode() -> None:
    """Base64 in JSON, bytes in msgpack."""
    response = EncryptResponse(ciphertext_blob=b"\0\xff", key_id="k", encryption_algorithm="SYMMETRIC_DEFAULT")
    assert msgspec.json.decode(msgspec.json.encode(response), type=EncryptResponse) == response
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(response), type=EncryptResponse) == response


# Missing members are another error than wrong ones.


@pytest.mark.parametrize(
    ("decoder", "content", "text"),
    [
        (
            StrictDecoder(CreateAliasRequest),
            b"{}",
            "2 validation errors detected: Value null at 'aliasName' failed to satisfy constraint: Member must not be "
            "null; Value null at 'targetKeyId' failed to satisfy constraint: Member must not be null",
        ),
        (
            ENCRYPT,
            b'{"KeyId":null,"Plaintext":"cA=="}',
            "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null",
        ),
        (
            TAG_RESOURCE,
            b'{"KeyId":"a","Tags":[{"TagKey":"a","TagValue":"b"},{"TagKey":"a"}]}',
            "1 validation error detected: Value null at 'tags.2.member.tagValue' failed to satisfy constraint: "
            "Member must not be null",
        ),
    ],
)
def test_missing_member_is_a_validation_error(decoder: StrictDecoder[Any], content: bytes, text: str) -> None:
    """At any depth, null or absent."""
    with pytest.raises(ValidationException) as raised:
        decoder.from_json(content)
    assert raised.value.message == text
    with pytest.raises(ValidationException):
        decoder.from_msgpack(msgpack.packb(json.loads(content.replace(b'"cA=="', b"null"))))


def test_wrong_type_counts_before_a_missing_member() -> None:
    """As far as AWS can be told: it decodes before it validates."""
    with pytest.raises(SerializationException):
        ENCRYPT.from_json(b'{"KeyId":7}')


def test_duplicate_counts_before_a_missing_member() -> None:
    """Which of the two would be the missing one?"""
    with pytest.raises(KmsError, match="twice"):
        ENCRYPT.from_json(b'{"KeyId":"a","KeyId":"b"}')
