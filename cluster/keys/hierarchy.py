"""From a domain key generation to the keys that are really used (design.md, "Key hierarchy"; security.md, 1 and 2).

A generation is 32 fresh random bytes. Nothing is encrypted or authenticated under it directly: HKDF-SHA-256 (RFC 5869)
gives one key a purpose, bound to region, generation and purpose, so that no key ever serves two formats and nothing
sealed in one region opens in another that happens to have the same generation.

    salt   = b"keycluster/domain-key/1"
    info   = u16 length ‖ region ‖ u32 generation ‖ u16 length ‖ purpose        (big-endian; text is UTF-8)
    length = 32

docs/formats.md, "Purpose keys", has the test vectors.
"""

import struct
from collections.abc import Mapping
from enum import StrEnum
from typing import NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycluster.cluster.store.authentication import StateKeys

GENERATION_BYTES = 32
GENERATION_MAX = 2**32 - 1  # A u32 in every format that names a generation.
PURPOSE_KEY_BYTES = 32
HKDF_SALT = b"keycluster/domain-key/1"


class GenerationUnknown(Exception):
    """Something names a domain key generation that this node doesn't hold: not yet, or no longer."""

    def __init__(self, generation: int) -> None:
        super().__init__(f"domain key generation {generation} is not held here")
        self.generation = generation


class Purpose(StrEnum):
    """What a purpose key is for. The text enters its derivation: never change one, never use one twice."""

    TOKEN = "token"  # Seals backing keys: token.py.  # noqa: S105
    ACCESS_KEY = "access-key"  # Seals the secrets of access keys.
    AUTHORITY = "authority"  # Seals the private keys of the region's certificate authorities.
    JOIN_TOKEN = "join-token"  # Seals the secrets of join tokens.  # noqa: S105
    MARKER = "marker"  # Authenticates the markers of paginated lists.
    STATE_ROW_MAC = "state-row-mac"
    STATE_SET_HASH = "state-set-hash"
    STATE_SUM = "state-sum"
    LOG_MAC = "log-mac"


class Keyring:
    """The domain key generations that an unsealed node holds, and their purpose keys; immutable.

    Purpose keys are derived at first use and kept: there are nine a generation. A ring shows no key in its `repr` and
    refuses to be pickled or copied, so that no key leaves the process by accident.
    """

    __slots__ = ("_derived", "_generations", "newest", "region")

    def __init__(self, region: str, generations: Mapping[int, bytes], newest: int) -> None:
        """`generations` by number, 32 random bytes each; `newest` is the one to seal under."""
        if newest not in generations:
            raise ValueError(f"the newest generation, {newest}, is not among those given")
        for number, key in generations.items():
            if not 1 <= number <= GENERATION_MAX:
                raise ValueError(f"a generation's number is 1 to {GENERATION_MAX}, not {number}")
            if len(key) != GENERATION_BYTES:
                raise ValueError(f"generation {number} has {len(key)} bytes instead of {GENERATION_BYTES}")
        self.region = region
        self.newest = newest
        self._generations = dict(generations)
        self._derived: dict[tuple[int, Purpose], bytes] = {}

    @property
    def generations(self) -> tuple[int, ...]:
        """The numbers held, ascending."""
        return tuple(sorted(self._generations))

    def purpose_key(self, generation: int, purpose: Purpose) -> bytes:
        """32 bytes. Raises `GenerationUnknown`."""
        derived = self._derived.get((generation, purpose))
        if derived is None:
            derived = self._derived[generation, purpose] = self._derive(generation, purpose)
        return derived

    def state_keys(self, generation: int) -> StateKeys:
        """What the log store and the state store authenticate with. Raises `GenerationUnknown`."""
        return StateKeys(
            generation=generation,
            row_mac=self.purpose_key(generation, Purpose.STATE_ROW_MAC),
            set_hash=self.purpose_key(generation, Purpose.STATE_SET_HASH),
            sum_seal=self.purpose_key(generation, Purpose.STATE_SUM),
            log_mac=self.purpose_key(generation, Purpose.LOG_MAC),
        )

    def _derive(self, generation: int, purpose: Purpose) -> bytes:
        key = self._generations.get(generation)
        if key is None:
            raise GenerationUnknown(generation)
        info = hkdf_info(self.region, generation, purpose)
        return HKDF(algorithm=SHA256(), length=PURPOSE_KEY_BYTES, salt=HKDF_SALT, info=info).derive(key)

    def __repr__(self) -> str:
        return f"Keyring(region={self.region!r}, generations={self.generations}, newest={self.newest})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Keyring is neither pickled nor copied")


def hkdf_info(region: str, generation: int, purpose: Purpose) -> bytes:
    """What separates one purpose key from every other."""
    place, use = region.encode(), purpose.value.encode()
    return struct.pack(f">H{len(place)}sIH{len(use)}s", len(place), place, generation, len(use), use)
