"""Certificates: what the region's authorities issue, and what they refuse."""

import random
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keycluster.cluster.types import NodeId, WallTime
from keycluster.node.pki import (
    Authority,
    AuthorityName,
    CertificateRefused,
    check_issued,
    check_public_key,
    fingerprint,
    issue_certificate,
    new_authority,
    new_private_key,
    public_key_of,
    public_key_of_private,
    to_pem,
)
from keycluster.node.world import RealClock, RealEntropy
from tests.node.tls_parties import DAY, Parties, new_parties


class SeededEntropy(RealEntropy):
    """Random bytes from a seed, as in a simulation."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


@pytest.fixture(scope="module")
def parties() -> Parties:
    return new_parties()


def issued(authority: Authority, *, hosts: tuple[str, ...] = ("10.0.0.1",), now: WallTime | None = None) -> bytes:
    public_key = public_key_of_private(new_private_key(RealEntropy()))
    return issue_certificate(
        authority,
        node=NodeId("node-1"),
        public_key=public_key,
        hosts=hosts,
        entropy=RealEntropy(),
        now=now or RealClock().wall(),
    )


def test_node_certificate_says_who_and_what_for(parties: Parties) -> None:
    """A peer certificate serves and asks, a native one only serves; both name node and hosts and are no CA."""
    for authority, usages in (
        (parties.peer_ca, [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        (parties.client_ca, [ExtendedKeyUsageOID.SERVER_AUTH]),
    ):
        certificate = x509.load_der_x509_certificate(
            issued(authority, hosts=("10.0.0.1", "kms.example", "::1", "kms.example"))
        )
        assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "node-1"
        extensions = certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["kms.example"]
        assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == usages
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        check_issued(
            certificate.public_bytes(Encoding.DER),
            authority_certificate=authority.certificate,
            now=RealClock().wall(),
        )


def test_authority_signs_nodes_only(parties: Parties) -> None:
    """A CA's certificate allows no CA below it, and no use but signing."""
    certificate = x509.load_der_x509_certificate(parties.peer_ca.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature


def test_certificate_of_another_authority_is_refused(parties: Parties) -> None:
    """Same name, other key: not ours."""
    stranger = new_authority(AuthorityName.CLIENT, "us-east-1", entropy=RealEntropy(), now=RealClock().wall())
    for authority in (stranger, parties.peer_ca):
        with pytest.raises(CertificateRefused, match="another authority"):
            check_issued(issued(authority), authority_certificate=parties.client_ca.certificate, now=RealClock().wall())


def test_certificate_out_of_its_time_is_refused(parties: Parties) -> None:
    """Expired and not yet valid ones don't count; a clock that is a minute off does no harm."""
    now = RealClock().wall()
    certificate = issued(parties.client_ca)
    minute = 60 * 1_000_000_000
    check_issued(certificate, authority_certificate=parties.client_ca.certificate, now=WallTime(now - minute))
    for moment in (now - DAY, now + 11 * 365 * DAY):
        with pytest.raises(CertificateRefused, match="check the clock"):
            check_issued(certificate, authority_certificate=parties.client_ca.certificate, now=WallTime(moment))


def test_certificate_issued_at_a_time_ahead_is_valid_at_right_clocks(parties: Parties) -> None:
    """Cluster time stands still when clocks that ran ahead are put right: nodes can join meanwhile."""
    now = RealClock().wall()
    certificate = issued(parties.client_ca, now=WallTime(now + DAY))
    check_issued(certificate, authority_certificate=parties.client_ca.certificate, now=now)


def test_certificate_of_a_ca_is_no_servers(parties: Parties) -> None:
    """The authority's own certificate, or bytes that are none, don't pass for a server's."""
    ca = parties.client_ca.certificate
    with pytest.raises(CertificateRefused, match="not one for a server"):
        check_issued(ca, authority_certificate=ca, now=RealClock().wall())
    with pytest.raises(CertificateRefused, match="doesn't parse"):
        check_issued(ca[:-1], authority_certificate=ca, now=RealClock().wall())


def test_public_keys_are_p256_in_one_encoding() -> None:
    """What a joiner sends is signed only if it is exactly what we would write."""
    good = public_key_of_private(new_private_key(RealEntropy()))
    check_public_key(good)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*form)
    edwards = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*form)
    # The same point compressed: RFC 5480, 2.2 allows it, and OpenSSL reads it.
    compressed = b"\x30\x39" + good[2:23] + b"\x03\x22\x00" + bytes((2 + good[-1] % 2,)) + good[27:59]
    assert load_der_public_key(compressed) == load_der_public_key(good)
    for bad in (p384, edwards, compressed, b"", good[:-1], good + b"\x00", b"\x30" * 91):
        with pytest.raises(CertificateRefused):
            check_public_key(bad)


def test_pinned_key_is_the_certificates(parties: Parties) -> None:
    """The key that is pinned, the one in the certificate and the private key belong together."""
    party = parties.node("n1", parties.peer_ca)
    assert public_key_of(party.identity.certificate) == party.public_key
    assert public_key_of_private(party.identity.private_key) == party.public_key


def test_same_seed_gives_the_same_certificates() -> None:
    """A simulation repeats itself: nothing in a certificate comes from elsewhere than the seams."""
    now = WallTime(1_800_000_000 * 1_000_000_000)

    def make(seed: int) -> bytes:
        entropy = SeededEntropy(seed)
        authority = new_authority(AuthorityName.PEER, "us-east-1", entropy=entropy, now=now)
        public_key = public_key_of_private(new_private_key(entropy))
        return issue_certificate(
            authority, node=NodeId("n"), public_key=public_key, hosts=("10.0.0.1",), entropy=entropy, now=now
        )

    assert make(1) == make(1)
    assert make(1) != make(2)
    made = x509.load_der_x509_certificate(make(1))
    assert made.not_valid_before_utc < datetime.fromtimestamp(1_800_000_000, UTC) < made.not_valid_after_utc


def test_fingerprint_and_pem(parties: Parties) -> None:
    """The fingerprint is SHA-256 of the DER form; the PEM form is the same certificate."""
    certificate = parties.client_ca.certificate
    loaded = x509.load_pem_x509_certificate(to_pem(certificate).encode())
    assert loaded.public_bytes(Encoding.DER) == certificate
    from cryptography.hazmat.primitives.hashes import SHA256

    assert fingerprint(certificate) == loaded.fingerprint(SHA256())


def test_authority_hides_its_key(parties: Parties) -> None:
    """No `repr` shows a private key."""
    party = parties.node("n1", parties.peer_ca)
    for value, secret in ((parties.peer_ca, parties.peer_ca.private_key), (party, party.identity.private_key)):
        assert repr(secret)[2:20] not in repr(value)
        assert secret.hex() not in repr(value)
