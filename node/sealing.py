"""How a node keeps its own secrets: sealed in one file, opened by a key file or a passphrase (security.md, 1).

`node.sealed` in the data folder holds what an unsealed node starts from: its TLS keys, the key pair that domain keys
are wrapped to, and every domain key generation it has accepted. Without its seal a disk opens nothing.

    magic 8 ‖ seal kind u8 ‖ passphrase salt 16 (zeros with a key file) ‖ file salt 32 ‖ ciphertext ‖ tag 16

    seal secret = the key file's 32 bytes, or Argon2id of the passphrase and its salt, 32 bytes
    file key    = HKDF-SHA-256(seal secret, salt = file salt, info = b"keycluster/node-sealed/1")
    ciphertext  = AES-256-GCM under the file key, nonce zero, AAD = all that stands before it

The nonce may be fixed: each writing draws a fresh file salt, so a file key seals once. The file is replaced whole.
A wrong seal, another node's file and a changed byte give one and the same error.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta, Struct

from keycluster.cluster.keys.hierarchy import GENERATION_BYTES, GENERATION_MAX, Keyring
from keycluster.cluster.seams import Disk, Entropy, TlsIdentity, WrapError, WrapKeyPair
from keycluster.cluster.types import NodeId

SEALED_NAME = "node.sealed"
PENDING_NAME = "join.sealed"
"""In the same form: the keys of a node that asked to be admitted and has no answer yet (joining.py)."""
SEALED_BYTES_MAX = 1_048_576  # Keys, four certificates, contacts, and a generation every 90 days: a few KiB.

MAGIC = b"KCSEAL\x00\x01"
FILE_INFO = b"keycluster/node-sealed/1"
WRAP_LABEL = b"keycluster/wrap/1"

SEAL_BYTES = 32
PASSPHRASE_SALT_BYTES = 16
FILE_SALT_BYTES = 32
FIXED_NONCE = bytes(12)
TAG_BYTES = 16
_HEADER = struct.Struct(f">8sB{PASSPHRASE_SALT_BYTES}s{FILE_SALT_BYTES}s")

PASSPHRASE_BYTES_MIN = 12
PASSPHRASE_BYTES_MAX = 1_024

# RFC 9106, section 4, the second recommended option: 64 MiB of memory, 3 passes, 4 lanes, a 128-bit salt. Fixed, not
# read from the file: whoever can write the disk would otherwise choose how much memory a start takes.
ARGON2_MEMORY_KIB = 64 * 1024
ARGON2_ITERATIONS = 3
ARGON2_LANES = 4


class SealError(Exception):
    """One line for the operator: the seal is missing or unfit, or doesn't open this node's file."""


class SealTag(IntEnum):
    """The seal's kind as the file names it."""

    KEY_FILE = 1
    PASSPHRASE = 2


@dataclass(frozen=True, slots=True)
class Seal:
    """An open seal: kept while the node runs, to seal generations that come later."""

    tag: SealTag
    secret: bytes
    """32 bytes: the key file's, or what Argon2id made of the passphrase."""
    passphrase_salt: bytes = bytes(PASSPHRASE_SALT_BYTES)

    def __repr__(self) -> str:
        return f"Seal({self.tag.name})"


class Contact(Struct, frozen=True, array_like=True):
    """A member as a joined node was told of it: enough to be reached and recognised before the log has come."""

    node: NodeId
    identity_key: bytes  # SubjectPublicKeyInfo, DER.
    peer_address: str


GenerationKey = Annotated[bytes, Meta(min_length=GENERATION_BYTES, max_length=GENERATION_BYTES)]
GenerationNumber = Annotated[int, Meta(ge=1, le=GENERATION_MAX)]


class NodeSecrets(Struct, frozen=True, array_like=True):
    """What `node.sealed` holds. Keys are PKCS #8, certificates X.509, both DER."""

    region: str
    node: NodeId
    peer_key: bytes
    native_key: bytes
    wrap_private: bytes
    wrap_public: bytes
    generations: tuple[tuple[GenerationNumber, GenerationKey], ...]  # Ascending, each number once.
    peer_certificate: bytes
    native_certificate: bytes
    peer_ca: bytes
    client_ca: bytes
    contacts: tuple[Contact, ...]

    def __repr__(self) -> str:
        numbers = [number for number, _ in self.generations]
        return f"NodeSecrets(region={self.region!r}, node={self.node!r}, generations={numbers})"

    @property
    def wrap_key_pair(self) -> WrapKeyPair:
        return WrapKeyPair(private=self.wrap_private, public=self.wrap_public)

    @property
    def peer_identity(self) -> TlsIdentity:
        return TlsIdentity(certificate=self.peer_certificate, private_key=self.peer_key)

    @property
    def native_identity(self) -> TlsIdentity:
        return TlsIdentity(certificate=self.native_certificate, private_key=self.native_key, chain=(self.client_ca,))

    def keyring(self, newest: int | None = None) -> Keyring:
        """The generations held; `newest`, the one to seal under, is the highest unless the region says otherwise."""
        return Keyring(self.region, dict(self.generations), newest or self.generations[-1][0])

    def with_generation(self, number: int, key: bytes) -> "NodeSecrets":
        """These secrets and one generation more. Write them before the generation is used.

        Raises `SealError` if that number is held with another key: a generation never changes.
        """
        held = dict(self.generations)
        if held.setdefault(number, key) != key:
            raise SealError(f"domain key generation {number} is held already, with another key")
        return msgspec.structs.replace(self, generations=tuple(sorted(held.items())))


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[NodeSecrets] = msgspec.msgpack.Decoder(NodeSecrets)


def wrap_info(region: str, generation: int, node: NodeId) -> bytes:
    """What a generation's HPKE wrap is bound to (security.md, 1). Lengths stand before text: one reading only."""
    place, name = region.encode(), node.encode()
    return WRAP_LABEL + struct.pack(f">H{len(place)}sIH{len(name)}s", len(place), place, generation, len(name), name)


def accept_generation(secrets: NodeSecrets, number: int, wrapped: bytes, *, entropy: Entropy) -> NodeSecrets:
    """The secrets with a generation that came wrapped. Raises `SealError` if it doesn't open, or contradicts.

    HPKE proves no sender: call it only for a wrap that came by the authenticated join, or in a log entry whose MAC
    verified under a generation already held.
    """
    info = wrap_info(secrets.region, number, secrets.node)
    try:
        key = entropy.unwrap(wrapped, key_pair=secrets.wrap_key_pair, info=info)
    except WrapError:
        raise SealError(f"the wrap of domain key generation {number} is not for this node") from None
    if len(key) != GENERATION_BYTES:
        raise SealError(f"the wrap of domain key generation {number} holds no domain key")
    return secrets.with_generation(number, key)


def create_key_file(path: Path, *, data: Path, disk: Disk, entropy: Entropy) -> None:
    """Makes a key file of 32 random bytes, 0600, durable, unless there is a file already. Raises `SealError`.

    Refuses a place inside the data folder `data`: a thief of the one would have the other.
    """
    refuse_inside(path, data)
    if disk.read(path) is None:
        try:
            disk.make_folder(path.parent)
            disk.replace(path, entropy.random_bytes(SEAL_BYTES))
        except OSError as error:
            raise SealError(f"{path}: the seal's key file can't be made: {error.strerror}") from None


def open_key_file(path: Path, *, data: Path, disk: Disk) -> Seal:
    """The seal in a key file. Raises `SealError`."""
    refuse_inside(path, data)
    try:
        secret = disk.read(path)
    except OSError as error:
        raise SealError(f"{path}: the seal's key file can't be read: {error.strerror}") from None
    if secret is None:
        raise SealError(f"{path}: the seal's key file is not there; without it this node's folder opens nothing")
    if len(secret) != SEAL_BYTES:
        raise SealError(f"{path}: this is no seal: a key file has {SEAL_BYTES} bytes")
    return Seal(SealTag.KEY_FILE, secret)


def new_passphrase_seal(passphrase: bytes, *, entropy: Entropy) -> Seal:
    """A seal for a new node. Raises `SealError` for a passphrase of unfit length. Takes about 0.1 s and 64 MiB."""
    if not PASSPHRASE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise SealError(f"a passphrase has {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes")
    return _passphrase_seal(passphrase, entropy.random_bytes(PASSPHRASE_SALT_BYTES))


def open_passphrase_seal(passphrase: bytes, *, data: Path, disk: Disk, name: str = SEALED_NAME) -> Seal:
    """The seal of the sealed file `name` in `data`; whether the passphrase is right, opening the file finds out.

    Raises `SealError` if there is no such file or it was sealed by a key file.
    """
    tag, salt, _ = _parse_header(read_sealed(data, disk, name))
    if tag is not SealTag.PASSPHRASE:
        raise SealError(f"{data / name} was sealed with a key file, not with a passphrase")
    if len(passphrase) > PASSPHRASE_BYTES_MAX:
        raise SealError(f"a passphrase has {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes")
    return _passphrase_seal(passphrase, salt)


def write_secrets(secrets: NodeSecrets, seal: Seal, *, data: Path, disk: Disk, entropy: Entropy) -> None:
    """Seals `secrets` into the data folder: afterwards the file is whole and durable. Blocking."""
    disk.replace(data / SEALED_NAME, seal_bytes(_encoder.encode(secrets), seal, entropy=entropy))


def open_secrets(seal: Seal, *, region: str, node: NodeId, data: Path, disk: Disk) -> NodeSecrets:
    """What is sealed in the data folder. Raises `SealError`: missing, another node's, or not to be opened. Blocking."""
    secrets = parse_secrets(open_bytes(read_sealed(data, disk), seal))
    if (secrets.region, secrets.node) != (region, node):
        raise SealError(
            f"{data} belongs to node {secrets.node!r} of region {secrets.region!r}, the configuration says "
            f"{node!r} of {region!r}"
        )
    return secrets


def is_sealed(data: Path, disk: Disk) -> bool:
    """Whether the folder holds a node already."""
    return disk.size(data / SEALED_NAME) > 0


def seal_bytes(content: bytes, seal: Seal, *, entropy: Entropy) -> bytes:
    """A sealed file around `content`."""
    header = _HEADER.pack(MAGIC, seal.tag, seal.passphrase_salt, entropy.random_bytes(FILE_SALT_BYTES))
    return header + AESGCM(_file_key(seal, header)).encrypt(FIXED_NONCE, content, header)


def open_bytes(sealed: bytes, seal: Seal) -> bytes:
    """The content of a sealed file. Raises `SealError`, the same whatever is wrong."""
    tag, salt, header = _parse_header(sealed)
    if tag is not seal.tag or salt != seal.passphrase_salt:
        raise _does_not_open()
    try:
        return AESGCM(_file_key(seal, header)).decrypt(FIXED_NONCE, sealed[len(header) :], header)
    except InvalidTag:
        raise _does_not_open() from None


def parse_secrets(content: bytes) -> NodeSecrets:
    """Raises `SealError`; the content has been authenticated, so a failure means another version of the program."""
    try:
        secrets = _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise SealError(f"{SEALED_NAME} was written by another version of keycluster") from None
    numbers = [number for number, _ in secrets.generations]
    if not numbers or numbers != sorted(set(numbers)) or _encoder.encode(secrets) != content:
        raise SealError(f"{SEALED_NAME} was written by another version of keycluster")
    return secrets


def refuse_inside(path: Path, data: Path) -> None:
    """Raises `SealError` if `path` is in the data folder, by way of links too."""
    if path.resolve().is_relative_to(data.resolve()):
        raise SealError(f"{path}: the seal's key file is inside the data folder; who steals one would have both")


def _passphrase_seal(passphrase: bytes, salt: bytes) -> Seal:
    derivation = Argon2id(
        salt=salt, length=SEAL_BYTES, iterations=ARGON2_ITERATIONS, lanes=ARGON2_LANES, memory_cost=ARGON2_MEMORY_KIB
    )
    return Seal(SealTag.PASSPHRASE, derivation.derive(passphrase), salt)


def _file_key(seal: Seal, header: bytes) -> bytes:
    file_salt = header[-FILE_SALT_BYTES:]
    return HKDF(algorithm=SHA256(), length=32, salt=file_salt, info=FILE_INFO).derive(seal.secret)


def read_sealed(data: Path, disk: Disk, name: str = SEALED_NAME) -> bytes:
    """A sealed file as it is on the disk. Raises `SealError`: missing, unreadable, or too long to be one."""
    path = data / name
    try:
        if disk.size(path) > SEALED_BYTES_MAX:
            raise _does_not_open()
        sealed = disk.read(path)
    except OSError as error:
        raise SealError(f"{path}: {error.strerror}") from None
    if sealed is None:
        raise SealError(f"{data} holds no node: make a region with `keycluster init` or join one")
    return sealed


def _parse_header(sealed: bytes) -> tuple[SealTag, bytes, bytes]:
    if len(sealed) < _HEADER.size + TAG_BYTES:
        raise _does_not_open()
    magic, tag, salt, _ = _HEADER.unpack_from(sealed)
    if magic != MAGIC or tag not in set(SealTag):
        raise _does_not_open()
    if tag == SealTag.KEY_FILE and any(salt):
        raise _does_not_open()
    return SealTag(tag), salt, sealed[: _HEADER.size]


def _does_not_open() -> SealError:
    return SealError(f"the seal does not open {SEALED_NAME}: another seal, or a changed file")
