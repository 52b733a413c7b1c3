"""The text of a join token: what an operator carries from the region to a new node (security.md, 8).

    `keycluster-join-1.` ‖ Base64url without padding of
    token id 16 ‖ secret 32 ‖ SHA-256 of the client CA 32 ‖ count u8 ‖ (length u8 ‖ address)… ‖ check 4

The addresses are native ports to ask at. The check is the first bytes of the SHA-256 of what stands before it: a text
that was cut off when copied is told from a token that the region refuses.
"""

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from keycluster.node.addresses import AddressMalformed, split_address

PREFIX = "keycluster-join-1."
TOKEN_ID_BYTES = 16
SECRET_BYTES = 32
FINGERPRINT_BYTES = 32
CHECK_BYTES = 4
ADDRESSES_MAX = 8
ADDRESS_BYTES_MAX = 255
TEXT_CHARS_MAX = 4_096  # Longer than any token: eight addresses of 255 bytes make 2,900 characters.

_FIXED_BYTES = TOKEN_ID_BYTES + SECRET_BYTES + FINGERPRINT_BYTES + 1


class JoinTokenMalformed(ValueError):
    """The text is not a whole join token."""

    def __init__(self) -> None:
        super().__init__(f"this is not a whole join token: one begins with {PREFIX!r} and has no blanks in it")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """The right to admit one node, once, within an hour. Whoever has it can join: treat it as a password."""

    token_id: bytes
    secret: bytes
    client_ca_fingerprint: bytes
    addresses: tuple[str, ...]

    def __repr__(self) -> str:
        return f"JoinToken({self.token_id.hex()}, addresses={self.addresses})"


def format_join_token(token: JoinToken) -> str:
    """The one text of a token. Raises ValueError for a token that has none."""
    if not 0 < len(token.addresses) <= ADDRESSES_MAX:
        raise ValueError(f"a join token has 1 to {ADDRESSES_MAX} addresses, not {len(token.addresses)}")
    lengths = (len(token.token_id), len(token.secret), len(token.client_ca_fingerprint))
    if lengths != (TOKEN_ID_BYTES, SECRET_BYTES, FINGERPRINT_BYTES):
        raise ValueError(f"a join token's parts have {lengths} bytes")
    parts = [token.token_id, token.secret, token.client_ca_fingerprint, bytes((len(token.addresses),))]
    for address in token.addresses:
        split_address(address)
        parts += [len(address).to_bytes(1, "big"), address.encode()]
    content = b"".join(parts)
    content += sha256(content).digest()[:CHECK_BYTES]
    return PREFIX + base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def parse_join_token(text: str) -> JoinToken:
    """Raises `JoinTokenMalformed`. Takes exactly what `format_join_token` makes."""
    if len(text) > TEXT_CHARS_MAX or not text.startswith(PREFIX) or not text.isascii():
        raise JoinTokenMalformed
    encoded = text.removeprefix(PREFIX)
    try:
        content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise JoinTokenMalformed from None
    body = content[:-CHECK_BYTES]
    if len(body) <= _FIXED_BYTES:
        raise JoinTokenMalformed
    secret_end = TOKEN_ID_BYTES + SECRET_BYTES
    try:
        token = JoinToken(
            token_id=body[:TOKEN_ID_BYTES],
            secret=body[TOKEN_ID_BYTES:secret_end],
            client_ca_fingerprint=body[secret_end : _FIXED_BYTES - 1],
            addresses=_parse_addresses(body[_FIXED_BYTES - 1 :]),
        )
        # Writing it again compares the check, the order and lengths of all parts, and Base64's unused last bits.
        if format_join_token(token) == text:
            return token
    except (ValueError, IndexError):
        pass
    raise JoinTokenMalformed from None


def _parse_addresses(content: bytes) -> tuple[str, ...]:
    addresses = []
    position = 1
    for _ in range(content[0]):
        end = position + 1 + content[position]
        addresses.append(content[position + 1 : end].decode("ascii"))
        position = end
    if position != len(content):
        raise AddressMalformed("bytes behind the last address")
    return tuple(addresses)
