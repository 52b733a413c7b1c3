"""Where a seal comes from: pipes and descriptors, never files with passphrases in them."""

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from keycluster.node.config import NodeConfig, SealConfig, SealKind, parse_config
from keycluster.node.seal_source import new_seal, open_seal, read_passphrase
from keycluster.node.sealing import PENDING_NAME, SealError, SealTag, seal_bytes
from keycluster.node.world import RealDisk, RealEntropy

DISK, ENTROPY = RealDisk(), RealEntropy()
PASSPHRASE = SealKind.PASSPHRASE


def pipe_with(content: bytes) -> int:
    """The reading end of a pipe whose writer has left."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return reading


def config_with(seal: str, folder: Path) -> NodeConfig:
    text = (
        'region = "us-east-1"\nnode = "n1"\naz = "a"\ndata = "data"\n'
        '[peer]\nlisten = "127.0.0.1:1"\n[native]\nlisten = "127.0.0.1:2"\n[aws]\nlisten = "127.0.0.1:3"\n'
    )
    return parse_config(f"{text}[seal]\n{seal}".encode(), folder=folder)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"a passphrase\n", b"a passphrase"),
        (b"a passphrase", b"a passphrase"),
        (b"a passphrase\r\n", b"a passphrase"),
        (b" spaces count \nand the next line doesn't", b" spaces count "),
        ("schlüssel\n".encode(), "schlüssel".encode()),
    ],
)
def test_passphrase_from_a_descriptor(sent: bytes, read: bytes) -> None:
    """The first line without its end is the passphrase, byte for byte."""
    descriptor = pipe_with(sent)
    assert read_passphrase(SealConfig(kind=PASSPHRASE, descriptor=descriptor)) == read
    os.close(descriptor)


@pytest.mark.parametrize("sent", [b"", b"\n", b"x" * 1_025, b"x" * 5_000])
def test_unfit_passphrases_from_a_descriptor(sent: bytes) -> None:
    """Nothing, and more than any passphrase, are refused."""
    descriptor = pipe_with(sent)
    with pytest.raises(SealError, match="1 to 1024 bytes"):
        read_passphrase(SealConfig(kind=PASSPHRASE, descriptor=descriptor))
    os.close(descriptor)


def test_passphrase_from_a_closed_descriptor() -> None:
    """A descriptor that isn't open is one clear line."""
    with pytest.raises(SealError, match="descriptor 1000"):
        read_passphrase(SealConfig(kind=PASSPHRASE, descriptor=1000))


def test_passphrase_from_a_named_pipe(tmp_path: Path) -> None:
    """A FIFO is read when somebody writes to it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"through a pipe\n",))
    writer.start()
    assert read_passphrase(SealConfig(kind=PASSPHRASE, path=path)) == b"through a pipe"
    writer.join()


def test_passphrase_in_a_file_is_refused(tmp_path: Path) -> None:
    """A file on a disk is a key file or nothing."""
    path = tmp_path / "file"
    path.write_bytes(b"written down\n")
    with pytest.raises(SealError, match="use a key-file seal"):
        read_passphrase(SealConfig(kind=PASSPHRASE, path=path))
    with pytest.raises(SealError, match="No such file"):
        read_passphrase(SealConfig(kind=PASSPHRASE, path=tmp_path / "absent"))


def test_passphrase_from_the_terminal_is_not_echoed() -> None:
    """At a terminal the passphrase is asked for, and asked again where it is being chosen."""
    code = (
        "from keycluster.node.config import SealConfig, SealKind\n"
        "from keycluster.node.seal_source import read_passphrase\n"
        "print('read', read_passphrase(SealConfig(kind=SealKind.PASSPHRASE), confirm=True))"
    )
    terminal, child_end = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=child_end, stdout=child_end, stderr=child_end, start_new_session=True
    )
    os.close(child_end)
    shown = b""
    try:
        for prompt in (b"seal: ", b"more: "):
            while prompt not in shown:
                shown += os.read(terminal, 1000)
            os.write(terminal, b"at the terminal\n")
        while not shown.partition(b"read")[2].endswith(b"\n"):
            shown += os.read(terminal, 1000)
        assert child.wait(timeout=20) == 0
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
    before, _, after = shown.partition(b"read")
    assert b"at the terminal" not in before
    assert b"at the terminal" in after


def test_new_key_file_is_made_and_opens_again(tmp_path: Path) -> None:
    """A key file that isn't there yet is made for a new node, and only for a new one."""
    config = config_with('kind = "key-file"\npath = "seal/key"', tmp_path)
    with pytest.raises(SealError, match="is not there"):
        open_seal(config, disk=DISK)
    assert new_seal(config, disk=DISK, entropy=ENTROPY) == open_seal(config, disk=DISK)


def test_pending_join_is_opened_by_the_same_passphrase(tmp_path: Path) -> None:
    """A join that goes on derives the very seal that its pending keys were sealed with."""
    descriptor = pipe_with(b"a good passphrase\n")
    config = config_with(f'kind = "passphrase"\ndescriptor = {descriptor}', tmp_path)
    seal = new_seal(config, disk=DISK, entropy=ENTROPY)
    assert seal.tag is SealTag.PASSPHRASE
    DISK.make_folder(config.data)
    DISK.replace(config.data / PENDING_NAME, seal_bytes(b"keys", seal, entropy=ENTROPY))
    os.close(descriptor)
    again = pipe_with(b"a good passphrase\n")
    config = config_with(f'kind = "passphrase"\ndescriptor = {again}', tmp_path)
    assert new_seal(config, disk=DISK, entropy=ENTROPY) == seal
    os.close(again)
