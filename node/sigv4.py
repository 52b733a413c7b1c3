"""Verifies AWS Signature Version 4 of requests to the AWS door (security.md, 10). Pure: no clock, no socket.

Two rules for the file. What isn't signed isn't believed: host, content type and every x-amz-* header must be among
the signed ones, and the body's hash is computed here, never read from a header. And a stranger learns nothing from how
long a refusal takes: an unknown access key costs the same derivation and the same HMAC as a known one.

Source: "Create a signed AWS API request" and "Troubleshoot Signature Version 4" in the AWS IAM User Guide; error texts
as AWS's services answer them. Tested against botocore's own signer.
"""

import hmac
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, Generic, NoReturn, Protocol, TypeVar

import msgspec

from keycluster.cluster.types import SECOND, ClusterTime
from keycluster.cluster.wire.errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    UnrecognizedClientException,
)

SERVICE: Final = b"kms"
ALGORITHM: Final = b"AWS4-HMAC-SHA256"
TERMINATOR: Final = b"aws4_request"
SKEW_MINUTES_MAX: Final = 5
SIGNING_KEYS_MAX: Final = 1_024
"""Derived keys kept, one per access key: four HMACs saved per request."""
FORMS_MAX: Final = 1_024
SIGNATURE_DIGITS: Final = 64

_AUTHORIZATION = re.compile(
    rb"AWS4-HMAC-SHA256 +Credential=([^/,\s]{1,128})/([^/,\s]*)/([^/,\s]*)/([^/,\s]*)/([^/,\s]*)"
    rb" *, *SignedHeaders=([^,\s]+) *, *Signature=([0-9a-f]{64})"
)
_DATE = re.compile(rb"[0-9]{8}T[0-9]{6}Z")
_ALWAYS_SIGNED = frozenset((b"host", b"content-type"))

MISMATCH_TEXT: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
UNKNOWN_CLIENT_TEXT: Final = "The security token included in the request is invalid."


class HasSecret(Protocol):
    """A credential. Another object for another secret: what is derived is kept with the object it came from."""

    @property
    def secret(self) -> bytes: ...


C = TypeVar("C", bound=HasSecret)


class SignedRequest(msgspec.Struct, frozen=True, gc=False):
    """An HTTP request as it came. Header names are in lower case, values trimmed, those of one name in one value.

    The door takes no path but `/`, which is its own canonical form.
    """

    method: bytes
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes


class _Form(msgspec.Struct, frozen=True, gc=False):
    """How a client signs: all of its Authorization header but the signature, checked against the headers there are."""

    access_key_id: str
    day: bytes
    scope: bytes
    signed_headers: bytes
    signed_names: tuple[bytes, ...]


class Verifier(Generic[C]):
    """One door's. `decoy` is a random secret: it does the work where an access key is unknown.

    A client's requests of one day differ in little: their forms are kept, once a signature in that form was right, so
    that strangers can't push them out.
    """

    def __init__(self, region: str, *, decoy: bytes) -> None:
        self._region = region.encode()
        self._decoy = decoy
        self._forms: dict[tuple[bytes, ...], _Form] = {}
        self._keys: OrderedDict[str, tuple[C, bytes, bytes]] = OrderedDict()
        self._decoy_key = (b"", b"")
        self._last_date = (b"", 0)

    def verify(self, request: SignedRequest, *, now: ClusterTime, find: Callable[[str], C | None]) -> C:
        """The credential that signed the request; `find` looks an access key id up in applied state.

        Raises MissingAuthenticationToken-, IncompleteSignature-, UnrecognizedClient- or InvalidSignatureException.
        """
        headers = request.headers
        said, _, signature = headers.get(b"authorization", b"").rpartition(b"Signature=")
        date = headers.get(b"x-amz-date", b"")
        kind = (said, *headers)
        known = self._forms.get(kind) if len(signature) == SIGNATURE_DIGITS and not request.query else None
        form = known if known is not None and known.day == date[:8] else self._read_form(request, date)
        self._check_time(date, now)
        credential = find(form.access_key_id)
        if credential is None:
            self._keys.pop(form.access_key_id, None)
        key = self._decoy_signing_key(form.day) if credential is None else self._signing_key(form, credential)
        expected = hmac.digest(key, _string_to_sign(request, form, date), "sha256").hex().encode()
        is_right = hmac.compare_digest(expected, signature)
        if credential is None:
            raise UnrecognizedClientException(UNKNOWN_CLIENT_TEXT)
        if not is_right:
            raise InvalidSignatureException(MISMATCH_TEXT)
        if known is None:
            self._keep_form(kind, form)
        return credential

    def _keep_form(self, kind: tuple[bytes, ...], form: _Form) -> None:
        if len(self._forms) >= FORMS_MAX:
            self._forms.clear()
        self._forms[kind] = form

    def _read_form(self, request: SignedRequest, date: bytes) -> _Form:
        headers = request.headers
        if b"x-amz-" in request.query.lower():
            raise IncompleteSignatureException("Signatures in the query string are not supported: use the header.")
        authorization = headers.get(b"authorization")
        if authorization is None:
            raise MissingAuthenticationTokenException("Missing Authentication Token")
        match = _AUTHORIZATION.fullmatch(authorization)
        if match is None or not _DATE.fullmatch(date):
            _refuse_incomplete(authorization, date)
        access_key_id, day, region, service, terminator, signed_headers, _ = match.groups()
        scope = (day, region, service, terminator)
        if scope[1:] != (self._region, SERVICE, TERMINATOR) or day != date[:8]:
            self._refuse_scope(scope, date)
        if b"x-amz-security-token" in headers:
            raise UnrecognizedClientException(UNKNOWN_CLIENT_TEXT + " Session tokens are not supported.")
        names = tuple(signed_headers.split(b";"))
        _check_signed_headers(headers, names)
        return _Form(access_key_id.decode("latin-1"), day, b"/".join(scope), signed_headers, names)

    def _refuse_scope(self, scope: tuple[bytes, bytes, bytes, bytes], date: bytes) -> NoReturn:
        day, region, service, terminator = scope
        wrong = []
        if region != self._region:
            wrong.append(f"Credential should be scoped to a valid region, not '{_text(region)}'. ")
        if service != SERVICE:
            wrong.append(f"Credential should be scoped to correct service: '{SERVICE.decode()}'. ")
        if terminator != TERMINATOR:
            wrong.append(
                f"Credential should be scoped with a valid terminator: '{TERMINATOR.decode()}', "
                f"not '{_text(terminator)}'. "
            )
        if day != date[:8]:
            wrong.append(
                f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
                f"'{_text(day)}' != '{_text(date[:8])}', from '{_text(date)}'. "
            )
        raise InvalidSignatureException("".join(wrong))

    def _check_time(self, date: bytes, now: ClusterTime) -> None:
        if self._last_date[0] != date:
            self._last_date = (date, _parse_date(date))
        behind = now - self._last_date[1]
        allowed = SKEW_MINUTES_MAX * 60 * SECOND
        if -allowed <= behind <= allowed:
            return
        sent, here = date.decode(), datetime.fromtimestamp(now // SECOND, UTC)
        skew = timedelta(minutes=SKEW_MINUTES_MAX)
        if behind > 0:
            raise InvalidSignatureException(
                f"Signature expired: {sent} is now earlier than {here - skew:%Y%m%dT%H%M%SZ} "
                f"({here:%Y%m%dT%H%M%SZ} - {SKEW_MINUTES_MAX} min.)"
            )
        raise InvalidSignatureException(
            f"Signature not yet current: {sent} is still later than {here + skew:%Y%m%dT%H%M%SZ} "
            f"({here:%Y%m%dT%H%M%SZ} + {SKEW_MINUTES_MAX} min.)"
        )

    def _signing_key(self, form: _Form, credential: C) -> bytes:
        kept = self._keys.get(form.access_key_id)
        if kept is not None and kept[0] is credential and kept[1] == form.day:
            return kept[2]
        key = derive_signing_key(credential.secret, form.day, self._region)
        self._keys.pop(form.access_key_id, None)
        self._keys[form.access_key_id] = (credential, form.day, key)
        if len(self._keys) > SIGNING_KEYS_MAX:
            self._keys.popitem(last=False)
        return key

    def _decoy_signing_key(self, day: bytes) -> bytes:
        if self._decoy_key[0] != day:
            self._decoy_key = (day, derive_signing_key(self._decoy, day, self._region))
        return self._decoy_key[1]


def derive_signing_key(secret: bytes, day: bytes, region: bytes) -> bytes:
    """The key for one day (YYYYMMDD), region and this service."""
    key = b"AWS4" + secret
    for part in (day, region, SERVICE, TERMINATOR):
        key = hmac.digest(key, part, "sha256")
    return key


def _check_signed_headers(headers: Mapping[bytes, bytes], signed: tuple[bytes, ...]) -> None:
    if b"host" not in signed or list(signed) != sorted(set(signed)):
        raise InvalidSignatureException(
            "'Host' must be a 'SignedHeader' in the AWS Authorization, and SignedHeaders sorted and in lower case."
        )
    for name in headers:
        if (name in _ALWAYS_SIGNED or name.startswith(b"x-amz-")) and name not in signed:
            raise InvalidSignatureException(f"'{_text(name)}' must be a 'SignedHeader' in the AWS Authorization.")
    for name in signed:
        if name not in headers:
            raise InvalidSignatureException(f"'{_text(name)}' is a 'SignedHeader', but the request has no such header.")


def _string_to_sign(request: SignedRequest, form: _Form, date: bytes) -> bytes:
    canonical = b"%b\n%b\n%b\n%b\n\n%b\n%b" % (
        request.method,
        request.path,
        _canonical_query(request.query),
        _canonical_headers(request.headers, form.signed_names),
        form.signed_headers,
        sha256(request.body).hexdigest().encode(),
    )
    return b"%b\n%b\n%b\n%b" % (ALGORITHM, date, form.scope, sha256(canonical).hexdigest().encode())


def _canonical_headers(headers: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> bytes:
    """A line each; runs of white space made one blank."""
    lines = b"\n".join([name + b":" + headers[name] for name in names])
    if b"  " in lines or b"\t" in lines:
        lines = b"\n".join([name + b":" + b" ".join(headers[name].split()) for name in names])
    return lines


def _canonical_query(query: bytes) -> bytes:
    if not query:
        return b""
    pairs = sorted(pair.partition(b"=")[::2] for pair in query.split(b"&"))
    return b"&".join(name + b"=" + value for name, value in pairs)


def _parse_date(date: bytes) -> int:
    """Nanoseconds since 1970. `date` has the right form, but may still be a 32nd of a month."""
    try:
        moment = datetime.strptime(date.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise IncompleteSignatureException(f"Date must be in ISO-8601 'basic format'. Got '{_text(date)}'.") from None
    return int(moment.timestamp()) * SECOND


def _refuse_incomplete(authorization: bytes, date: bytes) -> NoReturn:
    """Says what is missing, in AWS's words; never repeats a signature."""
    algorithm, _, rest = authorization.partition(b" ")
    if not algorithm.startswith(b"AWS4-"):
        raise MissingAuthenticationTokenException("Missing Authentication Token")
    if algorithm != ALGORITHM:
        raise IncompleteSignatureException(f"Unsupported AWS 'algorithm': '{_text(algorithm)}'.")
    given = {part.strip().partition(b"=")[0] for part in rest.split(b",")}
    wrong = [
        f"Authorization header requires '{name}' parameter. "
        for name in ("Credential", "Signature", "SignedHeaders")
        if name.encode() not in given
    ]
    if not date:
        wrong.append("Authorization header requires existence of an 'X-Amz-Date' header. ")
    elif not _DATE.fullmatch(date):
        wrong.append(f"Date must be in ISO-8601 'basic format'. Got '{_text(date)}'. ")
    if not wrong:
        wrong.append(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, and "
            "Signature 64 hexadecimal digits. "
        )
    raise IncompleteSignatureException("".join(wrong))


def _text(content: bytes) -> str:
    """What a stranger wrote, fit for an error's text."""
    return content[:64].decode("ascii", "replace")
