"""The server's side of the native door's log-in (security.md, 9): who is there, proved both ways.

Plain code without a socket: greetings in, greetings out. An unknown access key goes the same way as a known one, with
a secret made up for it, until the client's proof is in.
"""

from collections.abc import Callable
from typing import Final

from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.errors import (
    InvalidSignatureException,
    KeyUnavailableException,
    KmsError,
    UnrecognizedClientException,
    UnsupportedOperationException,
)
from keycluster.cluster.wire.frames import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Challenge,
    FrameMalformed,
    Hello,
    Proof,
    Side,
    Welcome,
    prove,
    session_key,
    verify_proof,
)
from keycluster.node.dispatch import NOT_ACTIVE_TEXT
from keycluster.node.room import Credential

WRONG_PROOF_TEXT: Final = "The proof does not match: check the secret access key."
NOT_CURRENT_TEXT: Final = "This node can't tell at the moment whether the access key is good. Try another node."


class LogIn:
    """One connection's. `greet` answers `Hello`, `conclude` answers `Proof`."""

    def __init__(
        self,
        *,
        region: str,
        node: NodeId,
        certificate_sha256: bytes,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._region = region
        self._node = node
        self._certificate_sha256 = certificate_sha256
        self._random_bytes = random_bytes
        self._hello: Hello | None = None
        self._challenge: Challenge | None = None

    def greet(self, hello: Hello) -> Challenge:
        """Raises UnsupportedOperationException for another version, `FrameMalformed` when said twice."""
        if self._hello is not None:
            raise FrameMalformed("Hello twice")
        if hello.version != PROTOCOL_VERSION:
            raise UnsupportedOperationException(
                f"Version {hello.version} of the native protocol is not spoken here; version {PROTOCOL_VERSION} is."
            )
        self._hello = hello
        self._challenge = Challenge(nonce=self._random_bytes(NONCE_BYTES), region=self._region, node=self._node)
        return self._challenge

    def conclude(
        self,
        proof: Proof,
        *,
        find: Callable[[str], Credential | None],
        is_current: bool,
        frame_bytes_max: int,
        requests_in_flight_max: int,
    ) -> tuple[Credential, Welcome]:
        """Who logged in, and what to tell them.

        Raises UnrecognizedClient- or InvalidSignatureException; where the applied state may be old (`is_current` is
        False) KeyUnavailableException instead: another node may know the key.
        """
        if self._hello is None or self._challenge is None:
            raise FrameMalformed("a proof before Hello")
        credential = find(self._hello.access_key_id)
        key = session_key(self._random_bytes(32) if credential is None else credential.secret)
        is_right = verify_proof(proof.proof, self._prove(key, Side.CLIENT))
        if credential is None or not is_right:
            raise self._refusal(is_known=credential is not None, is_current=is_current)
        return credential, Welcome(self._prove(key, Side.SERVER), frame_bytes_max, requests_in_flight_max)

    def _prove(self, key: bytes, side: Side) -> bytes:
        if self._hello is None or self._challenge is None:
            raise FrameMalformed("a proof before Hello")
        return prove(
            key, side, hello=self._hello, challenge=self._challenge, certificate_sha256=self._certificate_sha256
        )

    @staticmethod
    def _refusal(*, is_known: bool, is_current: bool) -> KmsError:
        if not is_current:
            return KeyUnavailableException(NOT_CURRENT_TEXT)
        if not is_known:
            return UnrecognizedClientException(NOT_ACTIVE_TEXT)
        return InvalidSignatureException(WRONG_PROOF_TEXT)
