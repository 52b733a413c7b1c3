"""From a node's configuration to its seal: a key file, or a passphrase and where that comes from.

A passphrase comes from a descriptor, a named pipe, the terminal or standard input, never from the command line or the
environment: other processes of the machine can read both (security.md, 11). A regular file is refused too: that would
be a key file without a key file's strength.
"""

import getpass
import os
import stat
import sys
from pathlib import Path

from keycluster.cluster.seams import Disk, Entropy
from keycluster.node.config import NodeConfig, SealConfig, SealKind
from keycluster.node.sealing import (
    PASSPHRASE_BYTES_MAX,
    PENDING_NAME,
    Seal,
    SealError,
    create_key_file,
    new_passphrase_seal,
    open_key_file,
    open_passphrase_seal,
)


def new_seal(config: NodeConfig, *, disk: Disk, entropy: Entropy) -> Seal:
    """The seal for a node that is being made; a key file that isn't there is made too. Blocking.

    Raises `SealError`.
    """
    if config.seal.kind is SealKind.PASSPHRASE:
        if disk.size(config.data / PENDING_NAME):  # A join goes on: the same passphrase and salt open its keys again.
            return open_passphrase_seal(read_passphrase(config.seal), data=config.data, disk=disk, name=PENDING_NAME)
        return new_passphrase_seal(read_passphrase(config.seal, confirm=True), entropy=entropy)
    path = _key_file(config.seal)
    create_key_file(path, data=config.data, disk=disk, entropy=entropy)
    return open_key_file(path, data=config.data, disk=disk)


def open_seal(config: NodeConfig, *, disk: Disk) -> Seal:
    """The seal of a node that exists. Blocking, with a passphrase until somebody gives it. Raises `SealError`."""
    if config.seal.kind is SealKind.PASSPHRASE:
        return open_passphrase_seal(read_passphrase(config.seal), data=config.data, disk=disk)
    return open_key_file(_key_file(config.seal), data=config.data, disk=disk)


def _key_file(seal: SealConfig) -> Path:
    if seal.path is None:
        raise SealError("the configuration names no key file")
    return seal.path


def read_passphrase(seal: SealConfig, *, confirm: bool = False) -> bytes:
    """The passphrase, without the line's end. Blocks until it is there. Raises `SealError`.

    `confirm` asks twice at a terminal: for a passphrase that is being chosen.
    """
    if seal.kind is not SealKind.PASSPHRASE:
        raise SealError("this node's seal is not a passphrase")
    if seal.descriptor is not None:
        return _from_descriptor(seal.descriptor)
    if seal.path is not None:
        return _from_pipe(seal.path)
    if sys.stdin.isatty():
        return _from_terminal(confirm=confirm)
    return _from_descriptor(sys.stdin.fileno())


def _from_terminal(*, confirm: bool) -> bytes:
    passphrase = getpass.getpass("Passphrase of this node's seal: ")
    if confirm and getpass.getpass("Once more: ") != passphrase:
        raise SealError("the two passphrases differ")
    return _checked(passphrase.encode())


def _from_pipe(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SealError(f"{path}: no passphrase: {error.strerror}") from None
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SealError(f"{path}: a passphrase is read from a pipe, not from a file; use a key-file seal")
        return _read_line(descriptor)
    finally:
        os.close(descriptor)


def _from_descriptor(descriptor: int) -> bytes:
    try:
        return _read_line(descriptor)
    except OSError as error:
        raise SealError(f"no passphrase at descriptor {descriptor}: {error.strerror}") from None


def _read_line(descriptor: int) -> bytes:
    """Up to the first line's end or the end of the stream; one byte at a time, so that nothing after it is taken."""
    line = bytearray()
    while len(line) <= PASSPHRASE_BYTES_MAX:
        byte = os.read(descriptor, 1)
        if not byte or byte == b"\n":
            break
        line += byte
    return _checked(bytes(line.removesuffix(b"\r")))


def _checked(passphrase: bytes) -> bytes:
    if not 0 < len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise SealError(f"a passphrase has 1 to {PASSPHRASE_BYTES_MAX} bytes")
    return passphrase
