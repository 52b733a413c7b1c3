"""The AWS door: AWS's SDK against it, AWS's errors from it, and what nobody can do to others."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
import trio
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from trio.testing import MockClock

from keycluster.cluster.types import SECOND, ClusterTime
from keycluster.cluster.wire.frames import encode_requests
from keycluster.cluster.wire.operations import ListKeysRequest
from keycluster.node.dispatch import NOT_OFFERED_TEXT, NOT_SERVING_TEXT, AdminOperation
from keycluster.node.doors.limits import DoorLimits
from keycluster.node.network import RealNetwork
from tests.node.doors.region import ACCESS_KEY, SECRET, Client, Region
from tests.room_on_memory import NOW, REGION

Call = Callable[..., Any]


def sign(
    operation: str,
    body: bytes | dict[str, Any] = b"{}",
    *,
    secret: str = SECRET,
    access_key_id: str = ACCESS_KEY,
    at: float = NOW / SECOND,
    region: str = REGION,
    service: str = "kms",
    token: str | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, str]:
    """The headers of a request, signed by botocore as of `at`."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    request = AWSRequest(
        method="POST",
        url="http://kms.test/",
        data=content,
        headers={
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{operation}",
            "Host": "kms.test",
            **(headers or {}),
        },
    )
    signer = SigV4Auth(Credentials(access_key_id, secret, token), service, region)
    request.context["timestamp"] = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    signer._inject_signature_to_request(request, signature)
    return dict(request.headers.items())


def http(headers: dict[str, str], body: bytes | dict[str, Any] = b"{}", *, line: str = "POST / HTTP/1.1") -> bytes:
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{line}\r\n{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


class Response:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["__type"])


class HttpClient:
    """Reads responses off a raw connection."""

    def __init__(self, client: Client) -> None:
        self.raw = client
        self._received = b""

    async def _more(self) -> bool:
        with trio.fail_after(30):
            content = await self.raw.stream.receive_some(65_536)
        self._received += bytes(content)
        return bool(content)

    async def response(self) -> Response:
        while b"\r\n\r\n" not in self._received:
            assert await self._more(), f"closed after {self._received!r}"
        head, _, rest = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(rest) < length:
            assert await self._more()
            rest = self._received.partition(b"\r\n\r\n")[2]
        self._received = rest[length:]
        return Response(int(first.split()[1]), headers, rest[:length])

    async def post(self, operation: str, body: bytes | dict[str, Any] = b"{}", **signing: Any) -> Response:
        await self.raw.send(http(sign(operation, body, **signing), body))
        return await self.response()

    async def is_closed(self) -> bool:
        return not await self._more()


@asynccontextmanager
async def connected(region: Region) -> AsyncIterator[HttpClient]:
    async with region.connect(region.aws_door) as client:
        yield HttpClient(client)


@pytest.fixture
def region() -> Region:
    return Region()


# AWS's own SDK, over a socket.


@asynccontextmanager
async def served(region: Region) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        address = await nursery.start(RealNetwork().serve_plain, "127.0.0.1:0", region.aws_door.serve)
        yield f"http://{address}"
        nursery.cancel_scope.cancel()


def boto(url: str, *, secret: str = SECRET, access_key_id: str = ACCESS_KEY) -> Any:
    return boto3.client(
        "kms",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 2, "mode": "standard"}, read_timeout=10),
    )


def real_time(region: Region) -> None:
    region.applied.time = ClusterTime(int(datetime.now(UTC).timestamp() * SECOND))


async def test_boto3_uses_the_door_as_it_uses_aws(region: Region) -> None:
    """Keys, aliases, tags, data keys, contexts: the SDK sees AWS's shapes."""
    real_time(region)

    def use(kms: Any) -> None:
        metadata = kms.create_key(Description="déjà vu", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]
        assert metadata["KeyState"] == "Enabled"
        assert metadata["CreationDate"].tzinfo is not None
        key_id = metadata["KeyId"]
        kms.create_alias(AliasName="alias/one", TargetKeyId=key_id)
        context = {"größe": 'x:"y"', "a": "b"}
        blob = kms.encrypt(KeyId="alias/one", Plaintext=b"\0secret", EncryptionContext=context)["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == b"\0secret"
        assert len(kms.generate_data_key(KeyId=metadata["Arn"], KeySpec="AES_256")["Plaintext"]) == 32
        assert kms.describe_key(KeyId="alias/one")["KeyMetadata"]["Description"] == "déjà vu"
        assert kms.list_resource_tags(KeyId=key_id)["Tags"] == [{"TagKey": "a", "TagValue": "b"}]
        kms.disable_key(KeyId=key_id)
        with pytest.raises(kms.exceptions.DisabledException):
            kms.encrypt(KeyId=key_id, Plaintext=b"x")
        with pytest.raises(kms.exceptions.NotFoundException) as failure:
            kms.describe_key(KeyId="alias/none")
        assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        assert "alias/none" in failure.value.response["Error"]["Message"]

    async with served(region) as url:
        await trio.to_thread.run_sync(use, boto(url))


@pytest.mark.parametrize(
    ("access_key_id", "secret", "code"),
    [(ACCESS_KEY, "wrong", "InvalidSignatureException"), ("AKIANONE", SECRET, "UnrecognizedClientException")],
)
async def test_boto3_with_wrong_credentials_is_refused(
    region: Region, access_key_id: str, secret: str, code: str
) -> None:
    """In AWS's words, without a retry."""
    real_time(region)

    def use(kms: Any) -> str:
        with pytest.raises(ClientError) as failure:
            kms.list_keys()
        return str(failure.value.response["Error"]["Code"])

    async with served(region) as url:
        assert await trio.to_thread.run_sync(use, boto(url, access_key_id=access_key_id, secret=secret)) == code
    assert region.gate.passed == 1


async def test_create_key_that_boto3_retries_makes_one_key(region: Region) -> None:
    """The first answer is lost as a broken connection; the SDK asks again under its invocation id."""
    real_time(region)
    attempts = []

    def lose_the_first(request: Any, **_: object) -> None:
        attempts.append(request)

    cut = CutOnce(region)

    def use(kms: Any) -> list[str]:
        kms.meta.events.register("before-send.kms.CreateKey", lose_the_first)
        created = kms.create_key()["KeyMetadata"]["KeyId"]
        keys = [key["KeyId"] for key in kms.list_keys()["Keys"]]
        assert keys == [created]
        kms.create_key()
        return [key["KeyId"] for key in kms.list_keys()["Keys"]]

    async with trio.open_nursery() as nursery:
        address = await nursery.start(RealNetwork().serve_plain, "127.0.0.1:0", cut.serve)
        keys = await trio.to_thread.run_sync(use, boto(f"http://{address}"))
        nursery.cancel_scope.cancel()
    assert len(attempts) == 3
    assert len(keys) == 2


class CutOnce:
    """Lets the first connection break when it is about to answer."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._is_cut = False

    async def serve(self, stream: Any) -> None:
        if not self._is_cut:
            self._is_cut = True
            stream = Mute(stream)
        await self._region.aws_door.serve(stream)


class Mute:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.peer_address = stream.peer_address
        self.receive_some = stream.receive_some

    async def send_all(self, content: bytes) -> None:
        await self._stream.aclose()
        raise trio.BrokenResourceError


# Answers.


async def test_answer_has_awss_headers(region: Region) -> None:
    """Content type, request id, and the region's time."""
    async with connected(region) as client:
        response = await client.post("GenerateRandom", {"NumberOfBytes": 3})
        again = await client.post("GenerateRandom", {"NumberOfBytes": 3})
    assert response.status == 200
    assert response.headers["content-type"] == "application/x-amz-json-1.1"
    assert len(response.headers["x-amzn-requestid"]) == 36
    assert response.headers["x-amzn-requestid"] != again.headers["x-amzn-requestid"]
    assert response.headers["date"] == "Fri, 15 Jan 2027 08:00:00 GMT"


async def test_operation_without_a_response_has_an_empty_body(region: Region) -> None:
    """As AWS's."""
    key = region.add_key()
    async with connected(region) as client:
        response = await client.post("DisableKey", {"KeyId": key.key_id})
    assert (response.status, response.body) == (200, b"")


@pytest.mark.parametrize(
    ("operation", "body", "status", "expected"),
    [
        ("Frobnicate", {}, 400, {"__type": "UnknownOperationException", "message": NOT_OFFERED_TEXT}),
        ("Encrypt", b"{", 400, {"__type": "SerializationException", "Message": "The input can't be read"}),
        ("Encrypt", b"[]", 400, {"__type": "SerializationException", "Message": "Expected `object`, got `array`"}),
        (
            "DescribeKey",
            b'{"KeyId":"a","KeyId":"b"}',
            400,
            {"__type": "SerializationException", "Message": "A member occurs twice"},
        ),
        (
            "DescribeKey",
            {"KeyId": 7},
            400,
            {"__type": "SerializationException", "Message": "Expected `str`, got `int` - at `$.KeyId`"},
        ),
        (
            "DescribeKey",
            {},
            400,
            {
                "__type": "ValidationException",
                "message": "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: "
                "Member must not be null",
            },
        ),
        (
            "GenerateRandom",
            {"NumberOfBytes": 1025},
            400,
            {
                "__type": "ValidationException",
                "message": "1 validation error detected: Value '1025' at 'numberOfBytes' failed to satisfy "
                "constraint: Member must have value less than or equal to 1024",
            },
        ),
        ("Decrypt", {"CiphertextBlob": "AAAA"}, 400, {"__type": "InvalidCiphertextException"}),
    ],
)
async def test_bad_input_gets_awss_error(
    region: Region, operation: str, body: Any, status: int, expected: dict[str, str]
) -> None:
    """Code, text, the member's case and the status."""
    async with connected(region) as client:
        response = await client.post(operation, body)
        assert (response.status, response.json) == (status, expected)
        assert (await client.post("GenerateRandom", {"NumberOfBytes": 1})).status == 200


async def test_unknown_members_are_ignored(region: Region) -> None:
    """As AWS's JSON services do."""
    async with connected(region) as client:
        response = await client.post("GenerateRandom", {"NumberOfBytes": 1, "Frob": {"a": [1, {"b": None}]}})
    assert response.status == 200


async def test_operators_operations_are_not_there(region: Region) -> None:
    """Only at the native door."""

    async def answer(_: object) -> Any:
        raise AssertionError

    region = Region(admin={"Frob": AdminOperation("Frob", ListKeysRequest, answer)})
    region.change_access_key(operator=True)
    async with connected(region) as client:
        assert (await client.post("Frob")).code == "UnknownOperationException"


async def test_node_without_a_lease_answers_500_retryably(region: Region) -> None:
    """With the error of the operation's model; a key it doesn't know may exist elsewhere."""
    region.applied.serving = False
    async with connected(region) as client:
        for signing in ({}, {"access_key_id": "AKIANEW"}):
            response = await client.post("Encrypt", {"KeyId": "a", "Plaintext": "AAAA"}, **signing)
            assert (response.status, response.json) == (
                500,
                {"__type": "KeyUnavailableException", "message": NOT_SERVING_TEXT},
            )


async def test_node_without_time_answers_500(region: Region) -> None:
    """It can't tell a fresh signature from an old one."""
    region.applied.time = None
    async with connected(region) as client:
        response = await client.post("CreateKey")
    assert (response.status, response.code) == (500, "DependencyTimeoutException")
    assert region.applied.proposed == []


async def test_revoked_access_key_stops_working_at_once(region: Region) -> None:
    """The derived signing key goes with it, and a new version of the secret counts."""
    async with connected(region) as client:
        assert (await client.post("ListKeys")).status == 200
        region.change_access_key(active=False)
        assert (await client.post("ListKeys")).code == "UnrecognizedClientException"
        region.add_access_key(ACCESS_KEY, b"another")
        assert (await client.post("ListKeys")).code == "InvalidSignatureException"
        assert (await client.post("ListKeys", secret="another")).status == 200


async def test_calls_are_told_apart_by_invocation_id_and_body(region: Region) -> None:
    """A retry is the same call with the same body; anything else is another call."""
    one, two = {"amz-sdk-invocation-id": "one"}, {"amz-sdk-invocation-id": "two"}
    async with connected(region) as client:
        for headers, body in ((one, {}), (one, {}), (one, {"Description": "d"}), (two, {}), ({}, {}), ({}, {})):
            assert (await client.post("CreateKey", body, headers=headers)).status == 200
        listed = await client.post("ListKeys")
    assert len(listed.json["Keys"]) == 5


# Signatures. test_sigv4.py has the rest.


@pytest.mark.parametrize(
    ("signing", "code", "text"),
    [
        ({"at": NOW / SECOND - 301}, "InvalidSignatureException", "Signature expired: 20270115T075459Z is now earlier"),
        ({"at": NOW / SECOND + 301}, "InvalidSignatureException", "Signature not yet current: 20270115T080501Z"),
        ({"region": "eu-west-1"}, "InvalidSignatureException", "valid region, not 'eu-west-1'"),
        ({"service": "s3"}, "InvalidSignatureException", "correct service: 'kms'"),
        ({"token": "session"}, "UnrecognizedClientException", "Session tokens are not supported"),
    ],
)
async def test_signature_that_does_not_count_is_refused(
    region: Region, signing: dict[str, Any], code: str, text: str
) -> None:
    """In AWS's words, and the connection goes on."""
    async with connected(region) as client:
        response = await client.post("ListKeys", **signing)
        assert response.status == 400
        assert response.code == code
        assert text in response.json["message"]
        assert (await client.post("ListKeys")).status == 200


async def test_changed_body_is_refused(region: Region) -> None:
    """The hash is the body's own, not a header's."""
    async with connected(region) as client:
        headers = sign("ListKeys", {"Limit": 1}, headers={"X-Amz-Content-SHA256": hashlib.sha256(b"{}").hexdigest()})
        await client.raw.send(http(headers, {"Limit": 1}))
        assert (await client.response()).code == "InvalidSignatureException"


# HTTP.


async def test_pipelined_requests_are_answered_in_order(region: Region) -> None:
    """Writes among them included."""
    async with connected(region) as client:
        bodies = [{"NumberOfBytes": count} for count in (1, 2, 3)]
        content = [http(sign("GenerateRandom", body), body) for body in bodies]
        content.insert(1, http(sign("CreateKey")))
        await client.raw.send(b"".join(content))
        responses = [await client.response() for _ in content]
    assert "KeyMetadata" in responses.pop(1).json
    assert [len(response.json["Plaintext"]) for response in responses] == [4, 4, 4]
    assert [response.json["Plaintext"].count("=") for response in responses] == [2, 1, 0]


async def test_request_in_pieces_is_put_together(region: Region) -> None:
    """Byte by byte, as whole."""
    async with connected(region) as client:
        for byte in http(sign("GenerateRandom", {"NumberOfBytes": 1}), {"NumberOfBytes": 1}):
            await client.raw.send(bytes([byte]))
        assert (await client.response()).status == 200


async def test_chunked_body_is_put_together(region: Region) -> None:
    """Some SDKs send chunks; trailers are dropped."""
    body = b'{"NumberOfBytes":1}'
    headers = sign("GenerateRandom", body) | {"Transfer-Encoding": "chunked"}
    head = http(headers, body).split(b"Content-Length")[0]
    async with connected(region) as client:
        await client.raw.send(
            head + b"\r\n5\r\n" + body[:5] + b"\r\ne\r\n" + body[5:] + b"\r\n0\r\nX-Amz-Target: x\r\n\r\n"
        )
        assert (await client.response()).status == 200
        assert (await client.post("ListKeys")).status == 200


async def test_expect_100_continue_is_answered(region: Region) -> None:
    """Then the body comes."""
    body = b'{"NumberOfBytes":1}'
    whole = http(sign("GenerateRandom", body) | {"Expect": "100-continue"}, body)
    async with connected(region) as client:
        await client.raw.send(whole[: -len(body)])
        assert (await client.response()).status == 100
        await client.raw.send(body)
        assert (await client.response()).status == 200


async def test_connection_close_is_honoured(region: Region) -> None:
    """One answer, then the end."""
    async with connected(region) as client:
        await client.raw.send(http(sign("ListKeys") | {"Connection": "close"}))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await client.is_closed()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length : 1\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nX-Amz-Target: a\r\nX-Amz-Target: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 262145\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nExpect: a miracle\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nA: " + b"a" * 17_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nA: " + b"a" * 100_000, 431),
        (b"POST / HTTP/1.1\r\n" + b"A: a\r\n" * 65 + b"\r\n", 431),
        (b"POST /" + b"a" * 17_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n" * 33, 400),
    ],
)
async def test_http_that_is_none_or_too_much_is_refused_and_the_connection_closed(
    region: Region, content: bytes, status: int
) -> None:
    """What can be understood in two ways isn't understood at all; honest clients go on meanwhile."""
    async with connected(region) as client, connected(region) as honest:
        await client.raw.send(content)
        response = await client.response()
        while response.code == "MissingAuthenticationTokenException":
            response = await client.response()
        assert (response.status, response.headers["connection"]) == (status, "close")
        assert await client.is_closed()
        assert (await honest.post("ListKeys")).status == 200


async def test_chunked_body_over_the_limit_is_refused(region: Region) -> None:
    """However it is cut."""
    async with connected(region) as client:
        await client.raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.raw.send(b"40001\r\n" + b"x" * 0x40001)
        assert (await client.response()).status == 413
        assert await client.is_closed()


@pytest.mark.parametrize("line", ["GET / HTTP/1.1", "POST /keys HTTP/1.1", "OPTIONS * HTTP/1.1", "PUT / HTTP/1.1"])
async def test_other_methods_and_paths_are_not_there(region: Region, line: str) -> None:
    """404, whatever the signature."""
    async with connected(region) as client:
        await client.raw.send(http(sign("ListKeys"), line=line))
        response = await client.response()
    assert (response.status, response.code) == (404, "UnknownOperationException")


@pytest.mark.parametrize(
    "content", [http(sign("ListKeys")), b"POST / HTTP/1.1\r\nContent-Length: 500\r\n\r\n" + b"x" * 500]
)
async def test_request_that_trickles_in_is_cut_off(autojump_clock: MockClock, content: bytes) -> None:
    """Slowloris: from its first byte on, a request has a time limit that no further byte moves."""
    region = Region()
    async with connected(region) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.raw.trickle(content, pause=0.2)
        assert 19 < trio.current_time() < 25


async def test_blank_lines_for_ever_are_cut_off(autojump_clock: MockClock) -> None:
    """They begin no request, so the time of an idle connection runs on: a stranger's is short."""
    region = Region()
    async with connected(region) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.raw.trickle(b"\r\n" * 500, pause=1)
        assert trio.current_time() < 20


async def test_known_client_may_idle_longer_than_a_stranger(autojump_clock: MockClock) -> None:
    """SDKs keep connections for their next calls."""
    region = Region()
    async with connected(region) as client:
        assert (await client.post("ListKeys")).status == 200
        await trio.sleep(500)
        assert (await client.post("ListKeys")).status == 200


async def test_unfinished_requests_of_strangers_are_bounded(region: Region) -> None:
    """Who holds most is ended first, before whoever has just come; the others go on."""
    region = Region(limits=DoorLimits(strangers_unfinished_bytes_max=99_000))
    half = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n" + bytes(60_000)
    async with connected(region) as first, connected(region) as second, connected(region) as third:
        await first.raw.send(half)
        await trio.testing.wait_all_tasks_blocked()
        await second.raw.send(half[:-20_000])
        await trio.testing.wait_all_tasks_blocked()
        assert await first.is_closed()
        await third.raw.send(half)
        assert (await third.response()).code == "ThrottlingException"
        assert await third.is_closed()
        async with connected(region) as honest:
            assert (await honest.post("ListKeys")).status == 200
        await second.raw.send(bytes(50_000))
        assert (await second.response()).code == "MissingAuthenticationTokenException"
    assert region.aws_door.unfinished.count == 0


async def test_strangers_take_no_memory_from_those_who_are_known(region: Region) -> None:
    """Their unfinished requests count apart; a known account's own are bounded by its share."""
    region = Region(limits=DoorLimits(unfinished_bytes_max=200_000, strangers_unfinished_bytes_max=70_000))
    half = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n" + bytes(40_000)
    async with connected(region) as stranger, connected(region) as known, connected(region) as too_much:
        await stranger.raw.send(half)
        for client in (known, too_much):
            assert (await client.post("ListKeys")).status == 200
        await known.raw.send(half)
        await trio.testing.wait_all_tasks_blocked()
        await too_much.raw.send(half)
        assert (await too_much.response()).code == "ThrottlingException"
        assert await too_much.is_closed()
        for client in (stranger, known):
            await client.raw.send(bytes(50_000))
            assert (await client.response()).code == "MissingAuthenticationTokenException"
    assert region.aws_door.unfinished.count == 0


async def test_write_past_the_deadline_is_answered_500(autojump_clock: MockClock) -> None:
    """Before the SDK's own time-out."""
    region = Region()
    region.applied.hold = trio.Event()
    async with connected(region) as client:
        response = await client.post("CreateKey")
    assert (response.status, response.code) == (500, "DependencyTimeoutException")
    assert trio.current_time() == pytest.approx(20, abs=0.1)


async def test_writes_over_the_limit_are_throttled(region: Region) -> None:
    """400, as AWS's ThrottlingException."""
    region = Region(limits=DoorLimits(requests_in_flight_max=1))
    region.applied.hold = trio.Event()
    async with connected(region) as first, connected(region) as second:
        await first.raw.send(http(sign("CreateKey")))
        await trio.testing.wait_all_tasks_blocked()
        response = await second.post("CreateKey")
        assert (response.status, response.code) == (400, "ThrottlingException")
        region.applied.hold.set()
        assert (await first.response()).status == 200


async def test_frames_of_the_native_door_are_refused(region: Region) -> None:
    """A client at the wrong door is told so."""
    async with connected(region) as client:
        await client.raw.send(encode_requests([client.raw.request("ListKeys", {})]))
        assert (await client.response()).status == 400
