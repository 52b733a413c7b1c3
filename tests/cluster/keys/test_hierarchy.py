"""Purpose keys: one a use, bound to region, generation and purpose, and never shown."""

import copy
import pickle

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycluster.cluster.keys.hierarchy import GenerationUnknown, Keyring, Purpose

ONE = bytes(range(32))
TWO = bytes(range(32, 64))


def test_purpose_keys_of_purposes_generations_and_regions_all_differ() -> None:
    """Changing any one of region, generation number, generation key and purpose gives another key."""
    rings = [
        (Keyring("us-east-1", {1: ONE, 2: ONE}, 2), (1, 2)),
        (Keyring("us-east-1", {1: TWO}, 1), (1,)),
        (Keyring("eu-west-1", {1: ONE}, 1), (1,)),
    ]
    keys = [ring.purpose_key(number, purpose) for ring, numbers in rings for number in numbers for purpose in Purpose]
    assert len(set(keys)) == len(keys) == 4 * len(Purpose)
    assert all(len(key) == 32 and key not in {ONE, TWO} for key in keys)


def test_purpose_key_is_hkdf_of_written_down_bytes() -> None:
    """The derivation is the documented one, built here from nothing but bytes."""
    info = b"\x00\x09us-east-1" + b"\x00\x00\x00\x07" + b"\x00\x05token"
    expected = HKDF(algorithm=SHA256(), length=32, salt=b"keycluster/domain-key/1", info=info).derive(ONE)
    assert Keyring("us-east-1", {7: ONE}, 7).purpose_key(7, Purpose.TOKEN) == expected


def test_purpose_key_asked_twice_is_the_same() -> None:
    """The cached key is the derived one."""
    ring = Keyring("r", {1: ONE}, 1)
    assert ring.purpose_key(1, Purpose.MARKER) == ring.purpose_key(1, Purpose.MARKER)


def test_state_keys_are_their_purposes_keys() -> None:
    """The stores get the keys of their own purposes, each another."""
    ring = Keyring("r", {1: ONE}, 1)
    keys = ring.state_keys(1)
    assert keys.generation == 1
    assert keys.row_mac == ring.purpose_key(1, Purpose.STATE_ROW_MAC)
    assert keys.set_hash == ring.purpose_key(1, Purpose.STATE_SET_HASH)
    assert keys.sum_seal == ring.purpose_key(1, Purpose.STATE_SUM)
    assert keys.log_mac == ring.purpose_key(1, Purpose.LOG_MAC)


def test_generation_not_held_raises() -> None:
    """A generation that isn't held is an error of its own, naming the number alone."""
    ring = Keyring("r", {1: ONE}, 1)
    with pytest.raises(GenerationUnknown, match="generation 2 ") as raised:
        ring.purpose_key(2, Purpose.TOKEN)
    assert raised.value.generation == 2


@pytest.mark.parametrize(
    ("generations", "newest"),
    [({}, 1), ({1: ONE}, 2), ({0: ONE}, 0), ({2**32: ONE}, 2**32), ({1: ONE[:31]}, 1), ({1: ONE + b"x"}, 1)],
)
def test_keyring_of_wrong_generations_is_refused(generations: dict[int, bytes], newest: int) -> None:
    """No ring without its newest generation, with a number that no format holds, or a key of another size."""
    with pytest.raises(ValueError, match="generation"):
        Keyring("r", generations, newest)


def test_keyring_shows_no_key_and_is_not_copied() -> None:
    """Neither repr nor pickle nor copy lets a key out."""
    ring = Keyring("r", {1: ONE}, 1)
    ring.purpose_key(1, Purpose.TOKEN)
    assert repr(ring) == "Keyring(region='r', generations=(1,), newest=1)"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(ring)


def test_keyring_keeps_its_generations_when_the_mapping_changes() -> None:
    """What was handed in may be cleared afterwards."""
    given = {1: ONE}
    ring = Keyring("r", given, 1)
    given.clear()
    assert ring.generations == (1,)
    assert len(ring.purpose_key(1, Purpose.TOKEN)) == 32
