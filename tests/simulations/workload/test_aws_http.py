"""Requests to the AWS door are what AWS's SDKs would send, and answers are read whatever pieces they come in."""

import httptools
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from keycluster.client.endpoints import Credentials
from keycluster.cluster.types import SECOND
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import DisabledException
from keycluster.node.doors.http import HttpParser, date_line, encode_error, encode_http, encode_response
from keycluster.node.doors.limits import DEFAULT_LIMITS
from keycluster.simulations.workload.aws_http import Signer, encode_request, exchange

ACCESS_KEY_ID, SECRET = "AKIAEXAMPLEEXAMPLE12", "secretsecretsecretsecret"
WALL_NS = 1_800_000_000 * SECOND


@given(body=st.binary(max_size=200), operation=st.sampled_from(("Encrypt", "CreateKey")))
def test_signature_is_botocores(body: bytes, operation: str) -> None:
    """Another signer of the same request comes to the same signature."""
    headers = Signer(Credentials(ACCESS_KEY_ID, SECRET), "us-east-1").headers(
        host="127.0.0.1:7003", operation=operation, body=body, wall_ns=WALL_NS
    )
    ours = headers.pop("authorization")
    theirs = AWSRequest(method="POST", url="http://127.0.0.1:7003/", data=body, headers=headers)
    theirs.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(BotoCredentials(ACCESS_KEY_ID, SECRET), "kms", "us-east-1")
    to_sign = auth.string_to_sign(theirs, auth.canonical_request(theirs))
    assert ours.rpartition("=")[2] == auth.signature(to_sign, theirs)


def test_signer_changes_its_key_with_the_day() -> None:
    """A signing key holds for one day: the next day's signature isn't made with it."""
    signer, fresh = (Signer(Credentials(ACCESS_KEY_ID, SECRET), "us-east-1") for _ in range(2))
    tomorrow = WALL_NS + 24 * 3_600 * SECOND
    signer.headers(host="h", operation="Encrypt", body=b"", wall_ns=WALL_NS)
    theirs, ours = (one.headers(host="h", operation="Encrypt", body=b"", wall_ns=tomorrow) for one in (fresh, signer))
    assert ours == theirs


def test_request_is_read_by_the_door_as_it_was_meant() -> None:
    """Headers in lower case, the body whole, the connection kept."""
    [request] = HttpParser(DEFAULT_LIMITS).feed(encode_request({"host": "h", "x-amz-target": "T.E"}, b"{}"))
    assert (request.method, request.target, request.body, request.keeps_alive) == (b"POST", b"/", b"{}", True)
    assert request.headers == {b"host": b"h", b"x-amz-target": b"T.E", b"content-length": b"2"}


class Pieces:
    """A stream whose other side has said all in advance."""

    peer_public_key = peer_certificate = None
    peer_address = ""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def send_all(self, content: bytes | bytearray | memoryview) -> None:
        pass

    async def receive_some(self, count_max: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def aclose(self) -> None:
        pass


def answer(status: int, body: bytes, *, keeps_alive: bool = True) -> bytes:
    return encode_http(status, body, request_id="r", date=date_line(1_800_000_000), keeps_alive=keeps_alive)


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_answer_is_read_in_pieces_of_any_size(size: int) -> None:
    """Byte by byte or at once: the same response, with the node's own time."""
    response = wire.EncryptResponse(ciphertext_blob=b"\0blob", key_id="k", encryption_algorithm="SYMMETRIC_DEFAULT")
    content = answer(200, encode_response(response))
    read = await exchange(Pieces([content[at : at + size] for at in range(0, len(content), size)]), b"")
    assert read is not None
    assert read.shape(wire.EncryptRequest(key_id="k", plaintext=b"p")) == response
    assert (read.status, read.keeps_alive, read.wall_ns()) == (200, True, WALL_NS)


async def test_empty_answer_is_a_response_of_nothing() -> None:
    """EnableKey answers with nothing but success."""
    read = await exchange(Pieces([answer(200, b"", keeps_alive=False)]), b"")
    assert read is not None
    assert read.shape(wire.EnableKeyRequest(key_id="k")) == wire.EnableKeyResponse()
    assert not read.keeps_alive


async def test_refusal_is_read_by_its_code() -> None:
    """Code and text, as AWS spells them."""
    read = await exchange(Pieces([answer(400, encode_error(DisabledException("it is disabled")))]), b"")
    assert read is not None
    assert read.error() == ("DisabledException", "it is disabled")


async def test_stream_that_ends_within_an_answer_is_no_answer() -> None:
    """Half a response says nothing of what was done."""
    content = answer(200, b'{"KeyId":"k"}')
    assert await exchange(Pieces([content[:-1]]), b"") is None


async def test_garbage_is_no_answer_either() -> None:
    """It isn't taken for a lost connection: the door said it."""
    with pytest.raises(httptools.HttpParserError):
        await exchange(Pieces([b"SSH-2.0-OpenSSH\r\n\r\n"]), b"")
