"""What TLS would check in a handshake, on the simulation's certificates: real X.509 ones, made by node/pki.py.

The chain is checked for each certificate and CA once, since that costs 0.2 ms. Periods of validity are not: they are
ten years long, and what a wrong wall clock does to TLS is no question to a simulation of the region.
"""

import ipaddress
from functools import lru_cache

from cryptography import x509

from keycluster.cluster.invariant import require
from keycluster.cluster.seams import TlsIdentity
from keycluster.cluster.types import SECOND, WallTime
from keycluster.node.pki import CertificateRefused, check_issued, public_key_of, public_key_of_private


@lru_cache(maxsize=1024)
def public_key_shown(certificate: bytes) -> bytes:
    """The certificate's public key, as both sides of a handshake get it."""
    return public_key_of(certificate)


@lru_cache(maxsize=1024)
def why_refused(certificate: bytes, authority: bytes) -> str | None:
    """None if that CA has issued the certificate, for a server; else the reason."""
    begins = x509.load_der_x509_certificate(certificate).not_valid_before_utc
    try:
        check_issued(certificate, authority_certificate=authority, now=WallTime(int(begins.timestamp()) * SECOND))
    except CertificateRefused as refusal:
        return str(refusal)
    return None


@lru_cache(maxsize=1024)
def names_host(certificate: bytes, host: str) -> bool:
    """Whether the certificate names that host (RFC 6125; the product issues none with wildcards)."""
    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return False
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower() in [name.lower() for name in names.value.get_values_for_type(x509.DNSName)]
    return address in names.value.get_values_for_type(x509.IPAddress)


@lru_cache(maxsize=1024)
def require_own_key(identity: TlsIdentity) -> None:
    """A certificate and the key of another are a fault of whoever uses them (`ssl` refuses to load them)."""
    require(
        public_key_of_private(identity.private_key) == public_key_of(identity.certificate),
        "a TLS identity's private key isn't its certificate's",
    )
