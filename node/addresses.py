"""Addresses as people write them: `host:port`, with an IPv6 host in brackets."""

PORT_MAX = 65535
HOST_LENGTH_MAX = 253  # RFC 1035, 2.3.4: a domain name's 255 octets on the wire are 253 characters of text.

_HOST_PUNCTUATION = frozenset("-._:%")


class AddressMalformed(ValueError):
    """The text is not an address; the message says what one looks like."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[ipv6]:port`. Raises `AddressMalformed`; join_address gives the text back."""
    host, colon, port_text = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    port_ok = port_text.isascii() and port_text.isdigit() and len(port_text) <= len(str(PORT_MAX))
    if not colon or not port_ok or not _is_host(host) or bracketed != (":" in host):
        raise AddressMalformed(f"{address[:300]!r} is not an address: write host:port, or [host]:port for IPv6")
    port = int(port_text)
    if port > PORT_MAX or port_text != str(port):
        raise AddressMalformed(f"{address[:300]!r} has no port between 0 and {PORT_MAX} behind its last colon")
    return host, port


def join_address(host: str, port: int) -> str:
    """The one text form of an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_host(host: str) -> bool:
    if not 0 < len(host) <= HOST_LENGTH_MAX or not host.isascii():
        return False
    return all(letter.isalnum() or letter in _HOST_PUNCTUATION for letter in host)
