"""Questions and answers of a join: proven, whole, and each in one encoding."""

import hashlib
import hmac
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import NodeId
from keycluster.node.join_messages import (
    PAYLOAD_BYTES_MAX,
    VERSION,
    Admission,
    JoinMalformed,
    JoinRequest,
    answer,
    ask,
    is_question_proven,
    read_answer,
    read_question,
)
from keycluster.node.sealing import Contact

SECRET, CERTIFICATE = b"s" * 32, b"the server's certificate"
REQUEST = JoinRequest(
    version=VERSION,
    token_id=b"i" * 16,
    nonce=b"n" * 32,
    region="us-east-1",
    node=NodeId("n2"),
    az="b",
    role=MemberRole.LEARNER,
    peer_public_key=b"peer",
    native_public_key=b"native",
    wrap_public_key=b"w" * 32,
    peer_address="h:1",
    native_address="h:2",
    aws_address="h:3",
)
ADMISSION = Admission(
    version=VERSION,
    peer_certificate=b"pc",
    native_certificate=b"nc",
    peer_ca=b"pca",
    client_ca=b"cca",
    wraps=((1, b"wrapped"),),
    contacts=(Contact(NodeId("n1"), b"key", "h:1"),),
)
QUESTION = ask(REQUEST, secret=SECRET, server_certificate=CERTIFICATE)
ANSWER = answer(ADMISSION, question=QUESTION, secret=SECRET, server_certificate=CERTIFICATE)


def proven(question: bytes, *, secret: bytes = SECRET, certificate: bytes = CERTIFICATE) -> bool:
    return is_question_proven(question, secret=secret, server_certificate=certificate)


def read(
    payload: bytes, *, question: bytes = QUESTION, secret: bytes = SECRET, certificate: bytes = CERTIFICATE
) -> Admission:
    return read_answer(payload, question=question, secret=secret, server_certificate=certificate)


def test_both_ends_understand_each_other() -> None:
    """What is asked and answered arrives as it was said."""
    assert read_question(QUESTION) == REQUEST
    assert proven(QUESTION)
    assert read(ANSWER) == ADMISSION


def test_question_counts_for_its_token_and_server_alone() -> None:
    """Another secret, or another certificate between the two, and the proof is worth nothing."""
    assert not proven(QUESTION, secret=b"t" * 32)
    assert not proven(QUESTION, certificate=b"somebody between")


def test_answer_counts_for_its_question_and_server_alone() -> None:
    """An answer to another question, or seen through another certificate, is not the region's."""
    other = ask(replace(REQUEST, nonce=b"m" * 32), secret=SECRET, server_certificate=CERTIFICATE)
    for attempt in (
        partial(read, ANSWER, question=other),
        partial(read, ANSWER, secret=b"t" * 32),
        partial(read, ANSWER, certificate=b"somebody between"),
    ):
        with pytest.raises(JoinMalformed, match="not the region's"):
            attempt()


def test_proofs_are_as_documented() -> None:
    """Key, label, side, certificate and what was said, in the order that the module's docstring gives."""
    key = hmac.digest(SECRET, b"keycluster-join-1", "sha256")
    said = b"keycluster/join/1", hashlib.sha256(CERTIFICATE).digest()
    body, proof = msgspec.msgpack.decode(QUESTION)
    assert proof == hmac.digest(key, said[0] + b"\x01" + said[1] + body, "sha256")
    body, proof = msgspec.msgpack.decode(ANSWER)
    asked = hashlib.sha256(QUESTION).digest()
    assert proof == hmac.digest(key, said[0] + b"\x02" + said[1] + asked + body, "sha256")


def test_proof_of_one_side_is_not_the_others() -> None:
    """A question sent back as an answer proves nothing."""
    with pytest.raises(JoinMalformed, match="not the region's"):
        read(QUESTION)


def test_every_altered_byte_of_a_question_is_found() -> None:
    """Each byte counts: keys, addresses, role and proof."""
    for at in range(len(QUESTION)):
        altered = QUESTION[:at] + bytes([QUESTION[at] ^ 1]) + QUESTION[at + 1 :]
        try:
            assert not proven(altered), at
        except JoinMalformed:
            continue


def test_every_altered_byte_of_an_answer_is_found() -> None:
    """Nothing of an altered answer is looked at."""
    for at in range(len(ANSWER)):
        with pytest.raises(JoinMalformed):
            read(ANSWER[:at] + bytes([ANSWER[at] ^ 1]) + ANSWER[at + 1 :])


@settings(max_examples=500)
@given(
    st.binary(max_size=200)
    | st.integers(0, len(QUESTION) - 1).map(lambda length: QUESTION[:length])
    | st.binary(min_size=1, max_size=3).map(lambda tail: QUESTION + tail)
    | st.tuples(st.binary(max_size=100), st.binary(min_size=32, max_size=32)).map(msgspec.msgpack.encode)
)
def test_parser_takes_no_garbage(content: bytes) -> None:
    """Bytes that are no question are refused, whatever they are, and not shown."""
    with pytest.raises(JoinMalformed):
        read_question(content)


@given(
    field=st.sampled_from(
        [("region", ""), ("node", "n" * 65), ("token_id", b"i" * 15), ("nonce", b""), ("wrap_public_key", b"w"),
         ("peer_public_key", b"p" * 201), ("peer_address", "a" * 301), ("version", 2), ("role", "king")]
    )
)  # fmt: skip
def test_unfit_fields_are_refused(field: tuple[str, object]) -> None:
    """Everything a stranger sends has a bound."""
    name, value = field
    question = ask(replace(REQUEST, **{name: value}), secret=SECRET, server_certificate=CERTIFICATE)
    with pytest.raises(JoinMalformed):
        read_question(question)


def test_longer_than_a_frame_is_refused() -> None:
    """Neither read nor written."""
    with pytest.raises(JoinMalformed, match="too many"):
        read_question(bytes(PAYLOAD_BYTES_MAX + 1))
    contact = Contact(NodeId("n"), b"k" * 91, "a" * 200 + ":1")
    large = replace(ADMISSION, contacts=(contact,) * 100)
    with pytest.raises(JoinMalformed, match="a frame before log-in holds"):
        answer(large, question=QUESTION, secret=SECRET, server_certificate=CERTIFICATE)


def test_other_version_is_named() -> None:
    """Nodes of different versions say so."""
    newer = answer(replace(ADMISSION, version=9), question=QUESTION, secret=SECRET, server_certificate=CERTIFICATE)
    with pytest.raises(JoinMalformed, match="version 9"):
        read(newer)
