"""Signature Version 4: what botocore signs verifies, and nothing else does."""

import hashlib
import hmac
import string
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.types import SECOND, ClusterTime
from keycluster.cluster.wire.errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    KmsError,
    MissingAuthenticationTokenException,
    UnrecognizedClientException,
)
from keycluster.node import sigv4
from keycluster.node.sigv4 import SignedRequest, Verifier

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = ClusterTime(1_440_938_160 * SECOND)  # 2015-08-30T12:36:00Z, as in AWS's own examples.


@dataclass(frozen=True)
class Secret:
    secret: bytes


KNOWN = Secret(SECRET.encode())


def find(access_key_id: str) -> Secret | None:
    return KNOWN if access_key_id == ACCESS_KEY else None


def verifier() -> Verifier[Secret]:
    return Verifier("us-east-1", decoy=b"d" * 32)


def signed(
    *,
    body: bytes = b"{}",
    headers: dict[str, str] | None = None,
    query: str = "",
    access_key_id: str = ACCESS_KEY,
    secret: str = SECRET,
    region: str = "us-east-1",
    service: str = "kms",
    at: int = NOW,
) -> SignedRequest:
    """As botocore signs it and as a door would read it."""
    given_headers = {"Host": "kms.test", "X-Amz-Target": "TrentService.ListKeys", **(headers or {})}
    url = "http://kms.test/" + (f"?{query}" if query else "")
    request = AWSRequest(method="POST", url=url, data=body, headers=given_headers)
    signer = SigV4Auth(Credentials(access_key_id, secret), service, region)
    request.context["timestamp"] = datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    signer._inject_signature_to_request(request, signature)
    sent = {name.lower().encode(): value.strip().encode() for name, value in request.headers.items()}
    return SignedRequest(b"POST", b"/", query.encode(), sent, body)


def changed(request: SignedRequest, **fields: Any) -> SignedRequest:
    values = {name: getattr(request, name) for name in request.__struct_fields__} | fields
    return SignedRequest(**values)


def with_header(request: SignedRequest, name: bytes, value: bytes | None) -> SignedRequest:
    """With that header instead, or without it."""
    headers = {**request.headers}
    if value is None:
        del headers[name]
    else:
        headers[name] = value
    return changed(request, headers=headers)


def refusal(request: SignedRequest, *, now: int = NOW) -> KmsError:
    """Refused by a fresh verifier, and by one that knows how this client signs."""
    fresh, experienced = verifier(), verifier()
    experienced.verify(signed(), now=NOW, find=find)
    errors = []
    for one in (fresh, experienced):
        with pytest.raises(KmsError) as raised:
            one.verify(request, now=ClusterTime(now), find=find)
        errors.append(raised.value)
    assert type(errors[0]) is type(errors[1])
    return errors[0]


unreserved = string.ascii_letters + string.digits + "-._~"
header_names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=10).map(lambda name: f"X-Amz-{name}")
header_values = st.text(string.digits + string.ascii_letters + " \t,:;/=\"'", max_size=30)
queries = st.lists(
    st.tuples(st.text(unreserved + "%20", min_size=1, max_size=5), st.text(unreserved, max_size=5)), max_size=4
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))


@given(
    body=st.binary(max_size=300),
    headers=st.dictionaries(header_names, header_values, max_size=4),
    query=queries,
)
def test_whatever_botocore_signs_verifies_twice(body: bytes, headers: dict[str, str], query: str) -> None:
    """Bodies, headers with white space, queries in any order; the second time by the kept form."""
    names = {name.lower() for name in headers}
    if names & {"x-amz-date", "x-amz-target", "x-amz-security-token"} or len(names) < len(headers):
        return
    request = signed(body=body, headers=headers, query=query)
    one = verifier()
    assert one.verify(request, now=NOW, find=find) is KNOWN
    assert one.verify(request, now=NOW, find=find) is KNOWN


@given(data=st.data())
def test_any_change_of_a_signed_request_is_refused(data: st.DataObject) -> None:
    """A byte of the body, of a signed header, of the target line or of the signature."""
    request = signed(body=b'{"Limit":10}', headers={"Content-Type": "application/x-amz-json-1.1"}, query="a=b")
    one = verifier()
    one.verify(request, now=NOW, find=find)
    parts: list[str | bytes] = ["body", "query", "method", "path", *request.headers]
    part = data.draw(st.sampled_from(parts))
    old: bytes = request.headers[part] if isinstance(part, bytes) else getattr(request, part)
    place = data.draw(st.integers(0, len(old) - 1))
    new_byte = data.draw(st.sampled_from(b"aZ09=/~"))
    new = old[:place] + bytes([new_byte]) + old[place + 1 :]
    if new == old or new.split() == old.split():
        return
    bad = with_header(request, part, new) if isinstance(part, bytes) else changed(request, **{part: new})
    for each in (one, verifier()):
        with pytest.raises(KmsError):
            each.verify(bad, now=NOW, find=find)


@given(authorization=st.binary(max_size=200), date=st.binary(max_size=20))
def test_any_authorization_header_is_refused_and_nothing_else_happens(authorization: bytes, date: bytes) -> None:
    """Strangers' bytes."""
    request = with_header(with_header(signed(), b"authorization", authorization), b"x-amz-date", date)
    assert refusal(request).status == 400


@given(rest=st.text(string.printable, max_size=100))
def test_any_ending_of_an_authorization_header_is_refused(rest: str) -> None:
    """Strangers who know the beginning."""
    header = signed().headers[b"authorization"]
    request = with_header(signed(), b"authorization", header[:60] + rest.encode())
    assert refusal(request).status == 400


# What must be signed.


@pytest.mark.parametrize("name", [b"x-amz-target", b"x-amz-date", b"content-type", b"host"])
def test_header_that_must_be_signed_and_is_not_is_refused(name: bytes) -> None:
    """Whoever sits between could set it to what they like."""
    request = signed(headers={"Content-Type": "application/x-amz-json-1.1"})
    authorization = request.headers[b"authorization"]
    without = authorization.replace(name + b";", b"").replace(b";" + name, b"")
    assert without != authorization
    error = refusal(with_header(request, b"authorization", without))
    assert isinstance(error, InvalidSignatureException)
    assert "must be a 'SignedHeader'" in error.message


def test_added_header_that_must_be_signed_is_refused() -> None:
    """An x-amz-* header that the signer didn't see."""
    error = refusal(with_header(signed(), b"x-amz-frob", b"1"))
    assert "'x-amz-frob' must be a 'SignedHeader'" in error.message


def test_added_header_that_need_not_be_signed_is_ignored() -> None:
    """Proxies add some; botocore adds its invocation id after signing."""
    request = with_header(signed(), b"amz-sdk-invocation-id", b"1")
    assert verifier().verify(request, now=NOW, find=find) is KNOWN


def test_signed_header_that_is_not_there_is_refused() -> None:
    """It can't be left out for an empty one."""
    error = refusal(with_header(signed(headers={"X-Amz-Frob": "1"}), b"x-amz-frob", None))
    assert isinstance(error, InvalidSignatureException)


@pytest.mark.parametrize("names", [b"x-amz-date;host;x-amz-target", b"host;host;x-amz-date;x-amz-target", b"Host"])
def test_signed_headers_out_of_form_are_refused(names: bytes) -> None:
    """One spelling for each list."""
    authorization = signed().headers[b"authorization"].replace(b"host;x-amz-date;x-amz-target", names)
    assert isinstance(refusal(with_header(signed(), b"authorization", authorization)), InvalidSignatureException)


def test_body_hash_header_is_not_believed() -> None:
    """The hash is the body's own."""
    request = signed(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert isinstance(refusal(request), InvalidSignatureException)


# AWS's codes and texts.


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        (signed(secret="another"), InvalidSignatureException, "The request signature we calculated does not match"),
        (signed(access_key_id="AKIANONE"), UnrecognizedClientException, "The security token included in the request"),
        (
            signed(region="eu-west-1"),
            InvalidSignatureException,
            "Credential should be scoped to a valid region, not 'eu-west-1'. ",
        ),
        (signed(service="s3"), InvalidSignatureException, "Credential should be scoped to correct service: 'kms'. "),
        (
            with_header(signed(), b"authorization", None),
            MissingAuthenticationTokenException,
            "Missing Authentication Token",
        ),
        (
            with_header(signed(), b"authorization", b"Bearer token"),
            MissingAuthenticationTokenException,
            "Missing Authentication Token",
        ),
        (
            with_header(signed(), b"authorization", b"AWS4-ECDSA-P256-SHA256 Credential=a"),
            IncompleteSignatureException,
            "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'.",
        ),
        (
            with_header(signed(), b"authorization", b"AWS4-HMAC-SHA256 Credential=a"),
            IncompleteSignatureException,
            "Authorization header requires 'Signature' parameter. "
            "Authorization header requires 'SignedHeaders' parameter. ",
        ),
        (
            with_header(signed(), b"x-amz-date", None),
            IncompleteSignatureException,
            "Authorization header requires existence of an 'X-Amz-Date' header. ",
        ),
        (
            with_header(signed(), b"x-amz-date", b"yesterday"),
            IncompleteSignatureException,
            "Date must be in ISO-8601 'basic format'. Got 'yesterday'. ",
        ),
        (
            with_header(signed(), b"x-amz-date", b"20150830T999999Z"),
            IncompleteSignatureException,
            "Date must be in ISO-8601 'basic format'. Got '20150830T999999Z'.",
        ),
        (
            with_header(signed(), b"x-amz-date", b"20150831T123600Z"),
            InvalidSignatureException,
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            "'20150830' != '20150831', from '20150831T123600Z'. ",
        ),
        (
            with_header(signed(), b"x-amz-security-token", b"token"),
            UnrecognizedClientException,
            "Session tokens are not supported",
        ),
        (
            changed(signed(), query=b"X-Amz-Signature=0"),
            IncompleteSignatureException,
            "Signatures in the query string are not supported",
        ),
    ],
)
def test_refusal_has_awss_code_and_text(request_: SignedRequest, kind: type[KmsError], text: str) -> None:
    """And where there are several reasons, the same one every time."""
    error = refusal(request_)
    assert type(error) is kind
    assert text in error.message


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        (6, "Signature expired: 20150830T123600Z is now earlier than 20150830T123700Z (20150830T124200Z - 5 min.)"),
        (-6, "Signature not yet current: 20150830T123600Z is still later than 20150830T123500Z "
             "(20150830T123000Z + 5 min.)"),
    ],
)  # fmt: skip
def test_signature_out_of_time_is_refused_with_both_times(minutes: int, text: str) -> None:
    """So that whoever reads it sees whose clock is wrong."""
    error = refusal(signed(), now=NOW + minutes * 60 * SECOND)
    assert isinstance(error, InvalidSignatureException)
    assert error.message == text


@pytest.mark.parametrize("seconds", [-300, 300])
def test_signature_just_in_time_counts(seconds: int) -> None:
    """Five minutes either way."""
    assert verifier().verify(signed(), now=ClusterTime(NOW + seconds * SECOND), find=find) is KNOWN


# What is kept.


def test_new_credential_counts_at_once() -> None:
    """A derived key is kept with the credential it came from, not with its name."""
    one = verifier()
    one.verify(signed(), now=NOW, find=find)
    renewed = Secret(b"new")
    with pytest.raises(InvalidSignatureException):
        one.verify(signed(), now=NOW, find=lambda _: renewed)
    assert one.verify(signed(secret="new"), now=NOW, find=lambda _: renewed) is renewed
    with pytest.raises(UnrecognizedClientException):
        one.verify(signed(secret="new"), now=NOW, find=lambda _: None)


def test_next_day_needs_its_own_key() -> None:
    """A signing key is a day's."""
    one = verifier()
    tomorrow = ClusterTime(NOW + 86_400 * SECOND)
    for at in (NOW, tomorrow, NOW):
        assert one.verify(signed(at=at), now=ClusterTime(at), find=find) is KNOWN


def test_what_is_kept_is_bounded() -> None:
    """Strangers leave nothing behind, and many clients not more than the limit."""
    one = verifier()
    for number in range(50):
        with pytest.raises(KmsError):
            one.verify(signed(access_key_id=f"AKIA{number}"), now=NOW, find=find)
        with pytest.raises(KmsError):
            one.verify(signed(secret="wrong", headers={f"X-Amz-{number}": ""}), now=NOW, find=find)
    assert len(one._forms) == 0
    assert len(one._keys) == 1
    for number in range(sigv4.SIGNING_KEYS_MAX + 10):
        one._signing_key(sigv4._Form(f"AKIA{number}", b"20150830", b"", b"", ()), KNOWN)
        one._keep_form((str(number).encode(),), sigv4._Form("", b"", b"", b"", ()))
    assert len(one._keys) <= sigv4.SIGNING_KEYS_MAX
    assert len(one._forms) <= sigv4.FORMS_MAX


def test_unknown_access_key_does_the_work_of_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in HMACs and hashes, so that timing tells no more than the answer."""
    counted: list[str] = []

    def counting(name: str, real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            counted.append(name)
            return real(*arguments)

        return call

    monkeypatch.setattr(hmac, "digest", counting("hmac", hmac.digest))
    monkeypatch.setattr(sigv4, "sha256", counting("sha256", hashlib.sha256))
    costs = []
    for access_key_id in (ACCESS_KEY, "AKIANONE"):
        one = verifier()
        for _ in range(2):
            counted.clear()
            with pytest.raises(KmsError):
                one.verify(signed(access_key_id=access_key_id, secret="wrong"), now=NOW, find=find)
            costs.append(tuple(counted))
    assert costs[:2] == costs[2:]


def test_signing_key_is_awss_example() -> None:
    """The four steps of "Create a signed AWS API request", with botocore's own derivation as the other side."""
    signer = SigV4Auth(Credentials(ACCESS_KEY, SECRET), "kms", "us-east-1")
    key = SECRET
    step = signer._sign(f"AWS4{key}".encode(), "20150830")
    for part in ("us-east-1", "kms", "aws4_request"):
        step = signer._sign(step, part)
    assert sigv4.derive_signing_key(SECRET.encode(), b"20150830", b"us-east-1") == step
