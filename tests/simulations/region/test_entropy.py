"""The stand-in for randomness repeats; that for HPKE has the real one's sizes and promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.seams import Entropy, WrapError
from keycluster.node.world import RealEntropy
from keycluster.simulations.region.entropy import SimEntropy


def test_same_seed_gives_the_same() -> None:
    """Bytes, jitter, key pairs and wraps follow from the seed and from what was asked before."""

    def draw(seed: str) -> list[object]:
        entropy = SimEntropy(seed)
        pair = entropy.new_wrap_key_pair()
        return [entropy.random_bytes(20), entropy.jitter().random(), entropy.jitter().random(), pair,
                entropy.wrap(b"secret", to=pair.public, info=b"")]  # fmt: skip

    assert draw("a") == draw("a")
    assert all(one != other for one, other in zip(draw("a"), draw("b"), strict=True))


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_wrap_opens_with_its_key_and_info_only(plaintext: bytes, info: bytes) -> None:
    """And never shows what it holds."""
    entropy = SimEntropy("x")
    pair, other = entropy.new_wrap_key_pair(), entropy.new_wrap_key_pair()
    wrapped = entropy.wrap(plaintext, to=pair.public, info=info)
    assert entropy.unwrap(wrapped, key_pair=pair, info=info) == plaintext
    assert wrapped != entropy.wrap(plaintext, to=pair.public, info=info)
    assert len(plaintext) < 8 or plaintext not in wrapped
    for key_pair, wrong_info in ((other, info), (pair, info + b"!")):
        with pytest.raises(WrapError):
            entropy.unwrap(wrapped, key_pair=key_pair, info=wrong_info)


@given(st.data())
def test_changed_wrap_does_not_open(data: st.DataObject) -> None:
    """Any bit, or any end cut off."""
    entropy = SimEntropy("x")
    pair = entropy.new_wrap_key_pair()
    wrapped = entropy.wrap(b"thirty-two bytes of a domain key", to=pair.public, info=b"i")
    position = data.draw(st.integers(0, len(wrapped) - 1))
    changed = bytearray(wrapped)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    for broken in (bytes(changed), wrapped[:position]):
        with pytest.raises(WrapError):
            entropy.unwrap(broken, key_pair=pair, info=b"i")


@pytest.mark.parametrize("size", [0, 1, 32, 1000])
def test_sizes_are_the_real_ones(size: int) -> None:
    """Keys, wraps and refusals look like HPKE's."""

    def sizes(entropy: Entropy) -> list[int]:
        pair = entropy.new_wrap_key_pair()
        wrapped = entropy.wrap(bytes(size), to=pair.public, info=b"info")
        with pytest.raises(WrapError):
            entropy.wrap(b"", to=pair.public[:-1], info=b"")
        return [len(pair.private), len(pair.public), len(wrapped), len(entropy.random_bytes(size))]

    assert sizes(SimEntropy("x")) == sizes(RealEntropy())
