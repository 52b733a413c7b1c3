"""Seals: what opens a node's secrets, and that nothing else does."""

import re
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.cluster.keys.hierarchy import Purpose
from keycluster.cluster.types import NodeId
from keycluster.node.sealing import (
    PASSPHRASE_BYTES_MIN,
    SEALED_NAME,
    Contact,
    NodeSecrets,
    Seal,
    SealError,
    SealTag,
    accept_generation,
    create_key_file,
    is_sealed,
    new_passphrase_seal,
    open_bytes,
    open_key_file,
    open_passphrase_seal,
    open_secrets,
    parse_secrets,
    seal_bytes,
    wrap_info,
    write_secrets,
)
from keycluster.node.world import RealDisk, RealEntropy

REGION, NODE = "us-east-1", NodeId("node-1")
DISK, ENTROPY = RealDisk(), RealEntropy()
PASSPHRASE = b"correct horse battery"
NOT_OPENED = re.escape("the seal does not open node.sealed: another seal, or a changed file")


def secrets_of(node: NodeId = NODE, *, generations: tuple[tuple[int, bytes], ...] = ((1, b"g" * 32),)) -> NodeSecrets:
    pair = ENTROPY.new_wrap_key_pair()
    return NodeSecrets(
        region=REGION,
        node=node,
        peer_key=b"peer private key",
        native_key=b"native private key",
        wrap_private=pair.private,
        wrap_public=pair.public,
        generations=generations,
        peer_certificate=b"peer certificate",
        native_certificate=b"native certificate",
        peer_ca=b"peer ca",
        client_ca=b"client ca",
        contacts=(Contact(NodeId("node-2"), b"key", "10.0.0.2:7001"),),
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    DISK.make_folder(folder)
    return folder


@pytest.fixture
def key_file(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "seal" / "key"
    create_key_file(path, data=data, disk=DISK, entropy=ENTROPY)
    return path


def open_again(seal: Seal, data: Path) -> NodeSecrets:
    return open_secrets(seal, region=REGION, node=NODE, data=data, disk=DISK)


def test_key_file_opens_what_it_sealed(data: Path, key_file: Path) -> None:
    """A restarted node reads its seal again and gets exactly what it wrote."""
    secrets = secrets_of()
    write_secrets(secrets, open_key_file(key_file, data=data, disk=DISK), data=data, disk=DISK, entropy=ENTROPY)
    assert open_again(open_key_file(key_file, data=data, disk=DISK), data) == secrets
    assert is_sealed(data, DISK)
    assert DISK.list(data) == [SEALED_NAME]


def test_passphrase_opens_what_it_sealed(data: Path) -> None:
    """The same passphrase opens it again, another one doesn't, and neither is told from a changed file."""
    secrets = secrets_of()
    seal = new_passphrase_seal(PASSPHRASE, entropy=ENTROPY)
    write_secrets(secrets, seal, data=data, disk=DISK, entropy=ENTROPY)
    assert open_again(open_passphrase_seal(PASSPHRASE, data=data, disk=DISK), data) == secrets
    with pytest.raises(SealError, match=NOT_OPENED):
        open_again(open_passphrase_seal(PASSPHRASE + b"s", data=data, disk=DISK), data)


def test_file_never_repeats(data: Path, key_file: Path) -> None:
    """Each writing has a key of its own: equal secrets look different, and no nonce meets a key twice."""
    seal, secrets = open_key_file(key_file, data=data, disk=DISK), secrets_of()
    written = set()
    for _ in range(3):
        write_secrets(secrets, seal, data=data, disk=DISK, entropy=ENTROPY)
        written.add((data / SEALED_NAME).read_bytes()[57:-16])  # Between header and tag: the ciphertext alone.
    assert len(written) == 3


def test_every_altered_byte_is_found() -> None:
    """Each byte of the file counts, each cut and each addition too, and all give the one error."""
    seal = Seal(SealTag.KEY_FILE, b"s" * 32)
    sealed = seal_bytes(b"content of the file", seal, entropy=ENTROPY)
    assert open_bytes(sealed, seal) == b"content of the file"
    changed = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    cut = [sealed[:length] for length in range(len(sealed))]
    for attempt in [*changed, *cut, sealed + b"\x00"]:
        with pytest.raises(SealError, match=NOT_OPENED):
            open_bytes(attempt, seal)


def test_passphrase_file_with_an_altered_salt_does_not_open(data: Path) -> None:
    """Every header byte of a passphrase's file is bound too (each try costs an Argon2id, so a few)."""
    seal = new_passphrase_seal(PASSPHRASE, entropy=ENTROPY)
    write_secrets(secrets_of(), seal, data=data, disk=DISK, entropy=ENTROPY)
    sealed = (data / SEALED_NAME).read_bytes()
    for at in (9, 20, 24, 30, 56):
        (data / SEALED_NAME).write_bytes(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(SealError, match=NOT_OPENED):
            open_again(open_passphrase_seal(PASSPHRASE, data=data, disk=DISK), data)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=150).map(lambda tail: b"KCSEAL\x00\x01\x01" + bytes(16) + tail))
def test_sealed_file_parser_takes_no_garbage(content: bytes) -> None:
    """Whatever stands in the file, the answer is the one error."""
    with pytest.raises(SealError, match=NOT_OPENED):
        open_bytes(content, Seal(SealTag.KEY_FILE, b"s" * 32))


@settings(max_examples=300)
@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.integers(-(2**63), 2**63) | st.binary() | st.text(), st.lists).map(
        msgspec.msgpack.encode
    )
)
def test_secrets_parser_takes_no_other_content(content: bytes) -> None:
    """Authentic content of another form is another version's, said in one line."""
    with pytest.raises(SealError, match="another version"):
        parse_secrets(content)


@pytest.mark.parametrize("generations", [(), ((2, b"g" * 32), (1, b"h" * 32)), ((1, b"g" * 31),), ((0, b"g" * 32),)])
def test_secrets_with_unfit_generations_are_refused(generations: tuple[tuple[int, bytes], ...]) -> None:
    """Generations are there, ascending, and 32 bytes each."""
    with pytest.raises(SealError, match="another version"):
        parse_secrets(msgspec.msgpack.encode(secrets_of(generations=generations)))


def test_missing_seal_opens_nothing(data: Path, key_file: Path) -> None:
    """A disk without its seal says so in one line."""
    seal = open_key_file(key_file, data=data, disk=DISK)
    write_secrets(secrets_of(), seal, data=data, disk=DISK, entropy=ENTROPY)
    key_file.unlink()
    with pytest.raises(SealError, match="is not there; without it this node's folder opens nothing") as raised:
        open_key_file(key_file, data=data, disk=DISK)
    assert "\n" not in str(raised.value)
    another = key_file.with_name("another")
    create_key_file(another, data=data, disk=DISK, entropy=ENTROPY)
    with pytest.raises(SealError, match=NOT_OPENED):
        open_again(open_key_file(another, data=data, disk=DISK), data)


def test_seal_of_another_kind_does_not_open(data: Path, key_file: Path) -> None:
    """A passphrase is not tried on a key file's node, nor the other way round."""
    seal = open_key_file(key_file, data=data, disk=DISK)
    write_secrets(secrets_of(), seal, data=data, disk=DISK, entropy=ENTROPY)
    with pytest.raises(SealError, match="sealed with a key file"):
        open_passphrase_seal(PASSPHRASE, data=data, disk=DISK)
    write_secrets(secrets_of(), new_passphrase_seal(PASSPHRASE, entropy=ENTROPY), data=data, disk=DISK, entropy=ENTROPY)
    with pytest.raises(SealError, match=NOT_OPENED):
        open_again(seal, data)


def test_another_nodes_file_is_refused(data: Path, key_file: Path) -> None:
    """A file moved from another node under the same seal is named for what it is."""
    seal = open_key_file(key_file, data=data, disk=DISK)
    write_secrets(secrets_of(NodeId("node-9")), seal, data=data, disk=DISK, entropy=ENTROPY)
    with pytest.raises(SealError, match="belongs to node 'node-9'"):
        open_again(seal, data)


def test_empty_folder_says_what_to_do(data: Path, key_file: Path) -> None:
    """No node here is not a wrong seal."""
    with pytest.raises(SealError, match="keycluster init"):
        open_again(open_key_file(key_file, data=data, disk=DISK), data)


def test_key_file_inside_the_data_folder_is_refused(data: Path, tmp_path: Path) -> None:
    """Neither made nor read there, not by way of a link either."""
    (tmp_path / "link").symlink_to(data)
    for path in (data / "key", data / "deep" / "key", data / ".." / "data" / "key", tmp_path / "link" / "key"):
        with pytest.raises(SealError, match="inside the data folder"):
            create_key_file(path, data=data, disk=DISK, entropy=ENTROPY)
        with pytest.raises(SealError, match="inside the data folder"):
            open_key_file(path, data=data, disk=DISK)
    assert DISK.list(data) == []


def test_key_file_is_private_and_never_replaced(data: Path, key_file: Path) -> None:
    """It is 0600, and making it again keeps the one that is there."""
    first = key_file.read_bytes()
    assert key_file.stat().st_mode & 0o777 == 0o600
    create_key_file(key_file, data=data, disk=DISK, entropy=ENTROPY)
    assert key_file.read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"aa" * 32])
def test_key_file_of_another_length_is_no_seal(data: Path, key_file: Path, content: bytes) -> None:
    """A file that somebody wrote by hand is refused, its content not shown."""
    key_file.write_bytes(content)
    with pytest.raises(SealError, match="32 bytes"):
        open_key_file(key_file, data=data, disk=DISK)


@pytest.mark.parametrize("length", [0, PASSPHRASE_BYTES_MIN - 1, 1_025])
def test_unfit_passphrases_are_refused_at_first(length: int) -> None:
    """A new node takes no passphrase that is too short to matter or too long to read."""
    with pytest.raises(SealError, match="12 to 1024"):
        new_passphrase_seal(b"p" * length, entropy=ENTROPY)


def test_argon2_parameters_are_the_rfcs() -> None:
    """RFC 9106, section 4, second recommended option: m = 64 MiB, t = 3, p = 4, salt of 128 bits, 256 bits out."""
    seal = new_passphrase_seal(PASSPHRASE, entropy=ENTROPY)
    assert len(seal.passphrase_salt) == 16
    expected = Argon2id(salt=seal.passphrase_salt, length=32, iterations=3, lanes=4, memory_cost=2**16)
    assert seal.secret == expected.derive(PASSPHRASE)


def test_wrapped_generation_is_accepted_for_its_node_alone() -> None:
    """The wrap names region, generation and node; one for another doesn't open."""
    secrets, key = secrets_of(), b"k" * 32
    wrapped = ENTROPY.wrap(key, to=secrets.wrap_public, info=wrap_info(REGION, 2, NODE))
    grown = accept_generation(secrets, 2, wrapped, entropy=ENTROPY)
    assert grown.generations == ((1, b"g" * 32), (2, key))
    assert grown.keyring().newest == 2
    for info in (wrap_info("eu-west-1", 2, NODE), wrap_info(REGION, 3, NODE), wrap_info(REGION, 2, NodeId("n"))):
        other = ENTROPY.wrap(key, to=secrets.wrap_public, info=info)
        with pytest.raises(SealError, match="not for this node"):
            accept_generation(secrets, 2, other, entropy=ENTROPY)


def test_generation_never_changes() -> None:
    """A second key under a number that is held is refused; the same key again is nothing new."""
    secrets = secrets_of()
    assert secrets.with_generation(1, b"g" * 32) == secrets
    with pytest.raises(SealError, match="with another key"):
        secrets.with_generation(1, b"h" * 32)
    short = ENTROPY.wrap(b"short", to=secrets.wrap_public, info=wrap_info(REGION, 2, NODE))
    with pytest.raises(SealError, match="holds no domain key"):
        accept_generation(secrets, 2, short, entropy=ENTROPY)


def test_wrap_info_has_one_reading() -> None:
    """No two (region, node) pairs share an info by moving a letter from one to the other."""
    assert wrap_info("ab", 1, NodeId("c")) != wrap_info("a", 1, NodeId("bc"))
    assert wrap_info("r", 1, NODE) != wrap_info("r", 2, NODE)


def test_accepted_generation_survives_a_restart(data: Path, key_file: Path) -> None:
    """What a node accepted it keeps under its own seal."""
    seal = open_key_file(key_file, data=data, disk=DISK)
    grown = secrets_of().with_generation(7, b"7" * 32)
    write_secrets(grown, seal, data=data, disk=DISK, entropy=ENTROPY)
    keyring = open_again(seal, data).keyring()
    assert keyring.generations == (1, 7)
    assert keyring.purpose_key(7, Purpose.TOKEN) == grown.keyring().purpose_key(7, Purpose.TOKEN)


def test_nothing_shows_a_secret(data: Path, key_file: Path) -> None:
    """Neither reprs, nor errors, nor the file on the disk show a key."""
    seal, secrets = open_key_file(key_file, data=data, disk=DISK), secrets_of()
    write_secrets(secrets, seal, data=data, disk=DISK, entropy=ENTROPY)
    shown = [repr(secrets), str(secrets), repr(seal), repr(secrets.peer_identity), repr(secrets.wrap_key_pair)]
    try:
        secrets.with_generation(1, b"x" * 32)
    except SealError as error:
        shown.append(repr(error))
    text = "".join(shown)
    on_disk = (data / SEALED_NAME).read_bytes()
    for secret in (secrets.peer_key, secrets.wrap_private, seal.secret, b"g" * 32):
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
        assert secret not in on_disk
