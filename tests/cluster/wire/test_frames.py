"""Frames and messages of the native door: the vectors of docs/formats.md, and whatever bytes come."""

import contextlib
import hmac
import struct
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.types import NodeId
from keycluster.cluster.wire import frames
from keycluster.cluster.wire.frames import (
    Challenge,
    Failure,
    FrameMalformed,
    FrameSplitter,
    Hello,
    Proof,
    Refused,
    Reply,
    Request,
    Side,
    Welcome,
    decode_client_greeting,
    decode_failure,
    decode_replies,
    decode_requests,
    decode_server_greeting,
    encode_greeting,
    encode_replies,
    encode_requests,
    frame,
    prove,
    session_key,
    verify_proof,
)
from tests.format_vectors import format_vectors


def with_bytes(value: Any) -> Any:
    """JSON has no bytes: {"bytes": "00ff"} stands for them."""
    if isinstance(value, dict):
        if set(value) == {"bytes"}:
            return bytes.fromhex(value["bytes"])
        return {name: with_bytes(member) for name, member in value.items()}
    return [with_bytes(member) for member in value] if isinstance(value, list) else value


def as_frame(value: Any) -> bytes:
    """By the document's words and another msgpack library."""
    body: bytes = msgpack.packb(with_bytes(value))
    return struct.pack(">I", len(body)) + body


def body_of(whole: bytes) -> bytes:
    (body,) = FrameSplitter(1 << 20).feed(whole)
    return body


# The document.


@pytest.mark.parametrize("vector", format_vectors("native log-in"))
def test_log_in_of_vector_is_what_the_document_says(vector: dict[str, Any]) -> None:
    """Each message, and both proofs, made from the document's words alone."""
    key = hmac.digest(vector["secret"].encode(), b"keycluster-native-1", "sha256")
    assert key == vector["session key"] == session_key(vector["secret"])

    def prefixed(text: str) -> bytes:
        return struct.pack(">H", len(text.encode())) + text.encode()

    proofs = [
        hmac.digest(
            key,
            b"keycluster/native/log-in/1"
            + bytes([side])
            + prefixed(vector["access key id"])
            + vector["client nonce"]
            + vector["server nonce"]
            + prefixed(vector["region"])
            + prefixed(vector["node id"])
            + vector["certificate sha256"],
            "sha256",
        )
        for side in (1, 2)
    ]
    said = {
        "hello": [1, 1, vector["access key id"], vector["client nonce"]],
        "challenge": [2, vector["server nonce"], vector["region"], vector["node id"]],
        "proof": [3, proofs[0]],
        "welcome": [4, proofs[1], 1_048_576, 256],
    }
    for name, message in said.items():
        body = msgpack.packb(message)
        assert struct.pack(">I", len(body)) + body == vector[name]


@pytest.mark.parametrize("vector", format_vectors("native log-in"))
def test_log_in_of_vector_goes_through_our_code(vector: dict[str, Any]) -> None:
    """Decoding, encoding again, and both sides' proofs."""
    hello = decode_client_greeting(body_of(vector["hello"]))
    challenge = decode_server_greeting(body_of(vector["challenge"]))
    proof = decode_client_greeting(body_of(vector["proof"]))
    welcome = decode_server_greeting(body_of(vector["welcome"]))
    assert isinstance(hello, Hello)
    assert isinstance(challenge, Challenge)
    assert isinstance(proof, Proof)
    assert isinstance(welcome, Welcome)
    for name, message in (("hello", hello), ("challenge", challenge), ("proof", proof), ("welcome", welcome)):
        assert encode_greeting(message) == vector[name]
    for side, given_proof in ((Side.CLIENT, proof.proof), (Side.SERVER, welcome.proof)):
        expected = prove(
            vector["session key"],
            side,
            hello=hello,
            challenge=challenge,
            certificate_sha256=vector["certificate sha256"],
        )
        assert verify_proof(given_proof, expected)


@pytest.mark.parametrize("vector", format_vectors("greeting"))
def test_greeting_of_vector_is_what_the_document_says(vector: dict[str, Any]) -> None:
    """The messages of the other conversations."""
    name, *fields = vector["message"]
    kind = getattr(frames, name)
    message = kind(*with_bytes(fields))
    assert encode_greeting(message) == vector["frame"] == as_frame([kind.__struct_config__.tag, *fields])
    decode = decode_client_greeting if kind is frames.Join else decode_server_greeting
    assert decode(body_of(vector["frame"])) == message


@pytest.mark.parametrize("vector", format_vectors("requests"))
def test_requests_of_vector_are_what_the_document_says(vector: dict[str, Any]) -> None:
    """Both directions."""
    assert as_frame(vector["requests"]) == vector["frame"]
    requests = decode_requests(body_of(vector["frame"]))
    assert encode_requests(requests) == vector["frame"]
    assert [[one.id, one.operation, one.deadline_ms, one.request_id] for one in requests] == [
        with_bytes(one[:4]) for one in vector["requests"]
    ]


@pytest.mark.parametrize("vector", format_vectors("replies"))
def test_replies_of_vector_are_what_the_document_says(vector: dict[str, Any]) -> None:
    """Both directions."""
    assert as_frame(vector["replies"]) == vector["frame"]
    replies = decode_replies(body_of(vector["frame"]))
    assert encode_replies(replies) == vector["frame"]
    failed = [decode_failure(reply.body) for reply in replies if reply.failed]
    assert failed == [Failure(*reply[2]) for reply in vector["replies"] if reply[1]]


# Proofs.


def test_proofs_differ_in_everything_that_was_said() -> None:
    """Otherwise one could be used elsewhere."""
    key = session_key("secret")

    def proof(
        side: Side = Side.CLIENT,
        key_id: str = "AK",
        nonces: tuple[bytes, bytes] = (b"a" * 32, b"b" * 32),
        region: str = "re",
        node: str = "no",
        certificate: bytes = b"c" * 32,
        version: int = 1,
    ) -> bytes:
        hello = Hello(version, key_id, nonces[0])
        challenge = Challenge(nonces[1], region, NodeId(node))
        return prove(key, side, hello=hello, challenge=challenge, certificate_sha256=certificate)

    proofs = {
        proof(),
        proof(side=Side.SERVER),
        proof(key_id="AKI"),
        proof(nonces=(b"b" * 32, b"a" * 32)),
        proof(nonces=(b"a" * 32, b"a" * 32)),
        proof(region="ren", node="o"),
        proof(region="r", node="eno"),
        proof(certificate=b"d" * 32),
        prove(session_key("other"), Side.CLIENT, hello=Hello(1, "AK", b"a" * 32),
              challenge=Challenge(b"b" * 32, "re", NodeId("no")), certificate_sha256=b"c" * 32),
    }  # fmt: skip
    assert len(proofs) == 9


def test_session_key_takes_text_and_bytes_alike() -> None:
    """A client has the one, a node the other."""
    assert session_key("sécret") == session_key("sécret".encode())


# Splitting.


@given(bodies=st.lists(st.binary(min_size=1, max_size=40), max_size=8), cuts=st.lists(st.integers(1, 30), max_size=80))
def test_frames_cut_anywhere_come_out_whole(bodies: list[bytes], cuts: list[int]) -> None:
    """Whatever pieces TCP makes of them."""
    content = b"".join(map(frame, bodies))
    splitter = FrameSplitter(40)
    seen: list[bytes] = []
    for cut in [*cuts, len(content)]:
        piece, content = content[:cut], content[cut:]
        seen += splitter.feed(piece)
    assert seen == bodies
    assert splitter.pending == 0


@pytest.mark.parametrize("length", [0, 41, 2**32 - 1])
def test_frame_of_a_length_out_of_bounds_is_refused_by_its_head(length: int) -> None:
    """Before a byte of it is kept."""
    splitter = FrameSplitter(40)
    with pytest.raises(FrameMalformed):
        splitter.feed(length.to_bytes(4, "big"))
    assert splitter.pending == 0


def test_long_frame_in_many_pieces_is_looked_at_once() -> None:
    """A megabyte byte by byte isn't a million copies: the pieces cost what they are long."""
    splitter = FrameSplitter(1 << 20)
    content = frame(bytes(1 << 20))
    assert splitter.feed(content[:4]) == []
    assert splitter._needed == len(content)
    for start in range(4, len(content) - 64, 64):
        assert splitter.feed(content[start : start + 64]) == []
    assert splitter.feed(content[start + 64 :]) == [bytes(1 << 20)]


# Whatever comes.


decoders = st.sampled_from([decode_client_greeting, decode_server_greeting, decode_requests, decode_replies])
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=40),
    ),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(decode=decoders, content=st.binary(max_size=60) | values.map(msgpack.packb))
def test_any_bytes_decode_or_are_refused(decode: Any, content: bytes) -> None:
    """Nothing else ever comes out of a decoder."""
    with contextlib.suppress(FrameMalformed):
        decode(content)


@pytest.mark.parametrize("decode", [decode_client_greeting, decode_requests, decode_replies])
@pytest.mark.parametrize("depth", [500, 5_000, 100_000])
def test_deep_nesting_decodes_or_is_refused(decode: Any, depth: int) -> None:
    """Without a crash of the interpreter."""
    for content in (b"\x91" * depth + b"\xc0", b"\x91\x95\x01\xa1E\x01\xc0" + b"\x81\xa1a" * depth + b"\xc0"):
        with contextlib.suppress(FrameMalformed):
            decode(content)


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb([1, 1, "AK", b"n" * 32, 0]),
        msgpack.packb([1, 1, "AK", b"n" * 31]),
        msgpack.packb([1, 1, "", b"n" * 32]),
        b"\x94\x01\xcc\x01\xa2AK\xc4\x20" + b"n" * 32,
        msgpack.packb([1, 1, "AK", b"n" * 32]) + b"\xc0",
        msgpack.packb([2, b"n" * 32, "r", "n"]),
        msgpack.packb({"version": 1}),
    ],
)
def test_greeting_in_another_form_is_refused(body: bytes) -> None:
    """One encoding per message, of the right side."""
    with pytest.raises(FrameMalformed):
        decode_client_greeting(body)


@given(
    request=st.builds(
        Request,
        id=st.integers(1, 2**32 - 1),
        operation=st.text(max_size=10),
        deadline_ms=st.integers(1, 300_000),
        request_id=st.none() | st.binary(min_size=16, max_size=16),
        input=st.dictionaries(st.text(max_size=3), st.binary(max_size=5), max_size=3),
    ),
    reply=st.builds(
        Reply,
        id=st.integers(0, 2**32 - 1),
        failed=st.booleans(),
        body=st.lists(st.text(max_size=3), max_size=3),
    ),
)
def test_requests_and_replies_go_round(request: Request[Any], reply: Reply[Any]) -> None:
    """What one side encodes the other decodes."""
    (decoded,) = decode_requests(body_of(encode_requests([request])))
    assert msgspec.msgpack.decode(decoded.input) == request.input
    assert (decoded.id, decoded.operation, decoded.deadline_ms, decoded.request_id) == (
        request.id,
        request.operation,
        request.deadline_ms,
        request.request_id,
    )
    (answer,) = decode_replies(body_of(encode_replies([reply])))
    assert (answer.id, answer.failed, msgspec.msgpack.decode(answer.body)) == (reply.id, reply.failed, reply.body)


def test_refused_goes_round() -> None:
    """Its text is whatever the node says."""
    refused = Refused("ThrottlingException", "später", True)
    assert decode_server_greeting(body_of(encode_greeting(refused))) == refused
