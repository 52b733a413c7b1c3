"""Authorities and identities for tests of TLS, made once for each test that asks."""

from dataclasses import dataclass

from keycluster.cluster.seams import Entropy, TlsIdentity
from keycluster.cluster.types import NodeId, WallTime
from keycluster.node.pki import (
    Authority,
    AuthorityName,
    issue_certificate,
    new_authority,
    new_private_key,
    public_key_of_private,
)
from keycluster.node.world import RealClock, RealEntropy

LOOPBACK = ("127.0.0.1", "localhost")
DAY = 24 * 3600 * 1_000_000_000


@dataclass(frozen=True)
class Party:
    """A node as TLS sees it."""

    identity: TlsIdentity
    public_key: bytes


@dataclass(frozen=True)
class Parties:
    """A region's two authorities, and nodes of them."""

    peer_ca: Authority
    client_ca: Authority
    entropy: Entropy

    def node(
        self, name: str, authority: Authority, *, now: WallTime | None = None, hosts: tuple[str, ...] = LOOPBACK
    ) -> Party:
        private_key = new_private_key(self.entropy)
        public_key = public_key_of_private(private_key)
        certificate = issue_certificate(
            authority,
            node=NodeId(name),
            public_key=public_key,
            hosts=hosts,
            entropy=self.entropy,
            now=now or RealClock().wall(),
        )
        chain = (authority.certificate,)
        return Party(TlsIdentity(certificate=certificate, private_key=private_key, chain=chain), public_key)


def new_parties() -> Parties:
    entropy, now = RealEntropy(), RealClock().wall()
    peer_ca = new_authority(AuthorityName.PEER, "us-east-1", entropy=entropy, now=now)
    client_ca = new_authority(AuthorityName.CLIENT, "us-east-1", entropy=entropy, now=now)
    return Parties(peer_ca=peer_ca, client_ca=client_ca, entropy=entropy)
