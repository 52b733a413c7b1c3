"""The region's two certificate authorities and what they issue (security.md, 8 and 9).

The peer CA vouches for nodes among themselves, the client CA for the doors that clients connect to; neither admits
anybody at the other's port. A node has a key pair and a certificate for each. At the peer port the certificate alone
admits nobody: the public key must be the one pinned in the node's membership row, so a removal works at once and needs
no revocation list.

All keys are EC P-256 with SHA-256 (FIPS 186-5; RFC 8446, 9.1 makes both mandatory in TLS 1.3). They are made from the
entropy seam's bytes and signatures are RFC 6979's, so a simulation gets the same certificates from the same seed.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keycluster.cluster.seams import Entropy
from keycluster.cluster.types import SECOND, ClusterTime, NodeId, WallTime

CURVE = ec.SECP256R1()
SCALAR_SEED_BYTES = 40
"""FIPS 186-5, A.2.1: 64 bits more than the curve's order, so that the reduction's bias is below 2^-64."""

SERIAL_BYTES = 16  # RFC 5280, 4.1.2.2: at most 20 octets, positive; 126 random bits never meet.

AUTHORITY_VALIDITY = timedelta(days=20 * 365)
NODE_VALIDITY = timedelta(days=10 * 365)
"""Long, because the pinned key is what admits, and a row's removal what ends it; nothing renews certificates yet."""

BACKDATING = timedelta(hours=1)
"""An authority is valid a little before it was made: nodes' clocks may differ by 60 s (security.md, 6).

What it issues is valid since it is itself. It is issued at cluster time, which never goes back: after clocks that ran
ahead were put right, it may be hours ahead of every clock that a certificate is judged by."""


class AuthorityName(StrEnum):
    """The authorities' names in the replicated state."""

    PEER = "peer"
    CLIENT = "client"


class CertificateRefused(Exception):
    """A certificate or public key that isn't what it should be; the text says how."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with its private key in the clear: lives only while something is issued."""

    name: AuthorityName
    certificate: bytes  # DER.
    private_key: bytes  # PKCS #8, DER.

    def __repr__(self) -> str:
        return f"Authority({self.name})"


def new_private_key(entropy: Entropy) -> bytes:
    """A fresh EC P-256 key, PKCS #8, DER."""
    seed = int.from_bytes(entropy.random_bytes(SCALAR_SEED_BYTES), "big")
    private_key = ec.derive_private_key(seed % (CURVE.group_order - 1) + 1, CURVE)
    return private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def public_key_of_private(private_key: bytes) -> bytes:
    """The public half, SubjectPublicKeyInfo, DER."""
    return _load_private(private_key).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_key_of(certificate: bytes) -> bytes:
    """A certificate's public key (SubjectPublicKeyInfo, DER): what gets pinned. Raises `CertificateRefused`."""
    return _load(certificate).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of the certificate (DER)."""
    return sha256(certificate).digest()


def check_public_key(public_key: bytes) -> None:
    """Raises `CertificateRefused` unless it is an EC P-256 key in its one encoding: what a joiner sends, we sign."""
    try:
        loaded = load_der_public_key(public_key)
    except ValueError:
        raise CertificateRefused("the public key doesn't parse") from None
    if not isinstance(loaded, ec.EllipticCurvePublicKey) or loaded.curve.name != CURVE.name:
        raise CertificateRefused("the public key is not one of EC P-256")
    if loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public_key:
        raise CertificateRefused("the public key is not in its one encoding")


def new_authority(name: AuthorityName, region: str, *, entropy: Entropy, now: WallTime) -> Authority:
    """A fresh CA of the region, self-signed."""
    private_key = new_private_key(entropy)
    subject = _name(f"keycluster {region} {name} CA")
    public_key = public_key_of_private(private_key)
    builder = _builder(
        entropy,
        issuer=subject,
        subject=subject,
        public_key=public_key,
        since=_moment(now) - BACKDATING,
        until=_moment(now) + AUTHORITY_VALIDITY,
    )
    key_usage = _key_usage(digital_signature=False, key_cert_sign=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(key_usage, critical=True)
    return Authority(name=name, certificate=_sign(builder, private_key), private_key=private_key)


def issue_certificate(
    authority: Authority, *, node: NodeId, public_key: bytes, hosts: tuple[str, ...], entropy: Entropy, now: WallTime
) -> bytes:
    """A node's certificate (DER) for that authority's ports; `hosts` are the names and addresses it answers at.

    Raises `CertificateRefused` for a public key that isn't EC P-256.
    """
    check_public_key(public_key)
    issuer = _load(authority.certificate)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    if authority.name is AuthorityName.PEER:
        usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    builder = _builder(
        entropy,
        issuer=issuer.subject,
        subject=_name(node),
        public_key=public_key,
        since=issuer.not_valid_before_utc,
        until=_moment(now) + NODE_VALIDITY,
    )
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(_load_private(authority.private_key).public_key())
    names = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(digital_signature=True, key_cert_sign=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(issuer_key, critical=False)
    builder = builder.add_extension(names, critical=False)
    return _sign(builder, authority.private_key)


def check_issued(certificate: bytes, *, authority_certificate: bytes, now: WallTime | ClusterTime) -> None:
    """Raises `CertificateRefused` unless that authority issued it for a server and it is valid at `now`.

    For the one place where TLS can't check it: a joining node learns the CA only over the connection itself.
    """
    issued, authority = _load(certificate), _load(authority_certificate)
    try:
        issued.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise CertificateRefused("the certificate was issued by another authority") from None
    instant = _moment(now)
    for checked in (issued, authority):
        if not checked.not_valid_before_utc <= instant <= checked.not_valid_after_utc:
            raise CertificateRefused("the certificate is not valid at this time: check the clock")
    try:
        may_serve = (
            ExtendedKeyUsageOID.SERVER_AUTH in issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        )
    except (x509.ExtensionNotFound, ValueError):
        may_serve = False
    if not may_serve:
        raise CertificateRefused("the certificate is not one for a server")


def to_pem(certificate: bytes) -> str:
    """For files that people and other programs read (`ca_file`)."""
    return _load(certificate).public_bytes(Encoding.PEM).decode()


def _load(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate)
    except ValueError:
        raise CertificateRefused("the certificate doesn't parse") from None


def _load_private(private_key: bytes) -> ec.EllipticCurvePrivateKey:
    loaded = load_der_private_key(private_key, None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise CertificateRefused("the private key is not one of EC P-256")
    return loaded


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return x509.DNSName(host)


def _moment(time: WallTime | ClusterTime) -> datetime:
    return datetime.fromtimestamp(time // SECOND, UTC)


def _builder(
    entropy: Entropy, *, issuer: x509.Name, subject: x509.Name, public_key: bytes, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    loaded = load_der_public_key(public_key)
    if not isinstance(loaded, ec.EllipticCurvePublicKey):
        raise CertificateRefused("the public key is not one of EC P-256")
    serial = int.from_bytes(entropy.random_bytes(SERIAL_BYTES), "big") >> 2 | 1
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(loaded)
        .serial_number(serial)
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(loaded), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, private_key: bytes) -> bytes:
    signed = builder.sign(_load_private(private_key), SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(Encoding.DER)


def _key_usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
