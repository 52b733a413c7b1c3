"""Addresses: one text for each, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.node.addresses import AddressMalformed, join_address, split_address

hosts = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9.-]{0,60}", fullmatch=True) | st.ip_addresses().map(str)


@given(host=hosts, port=st.integers(0, 65_535))
def test_address_survives_both_ways(host: str, port: int) -> None:
    """What is joined splits into the same parts."""
    assert split_address(join_address(host, port)) == (host, port)


@given(text=st.text(max_size=40) | st.text("[]:.0123456789ab-%", max_size=20))
def test_address_has_one_text(text: str) -> None:
    """Whatever is accepted is exactly what we would write."""
    try:
        host, port = split_address(text)
    except AddressMalformed:
        return
    assert join_address(host, port) == text


@pytest.mark.parametrize(
    "text",
    ["", ":", "host", "host:", ":80", "host:65536", "host:080", "host:-1", "host:8a", "::1:80", "[host]:80", "[::1]",
     "ho st:80", "höst:80", "host:\uff18\uff10", "host/x:80", "a" * 254 + ":80"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    """Each of these is refused."""
    with pytest.raises(AddressMalformed):
        split_address(text)
