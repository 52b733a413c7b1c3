"""A region's founding: what it leaves on the disk, and what an interrupted one leaves."""

import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keycluster.cluster.keys.hierarchy import Purpose
from keycluster.cluster.keys.records import (
    MemberRole,
    MemberState,
    load_access_key,
    load_authority,
    load_member,
    load_region,
    load_wrap,
)
from keycluster.cluster.keys.token import open_secret
from keycluster.cluster.raft.messages import EntryKind, decode_membership_entry
from keycluster.cluster.seams import World
from keycluster.cluster.types import AccountId, NodeId
from keycluster.node.access_keys import AccessKeySecret, AccessKeyUnfit
from keycluster.node.config import ConfigError
from keycluster.node.founding import found_region
from keycluster.node.making import MARK_NAME, FolderTaken, is_unfinished, lock_data
from keycluster.node.pki import public_key_of, public_key_of_private
from keycluster.node.sealing import SEALED_NAME, wrap_info
from keycluster.node.world import RealDisk, real_world
from tests.node.region_on_disk import ACCOUNT, RegionOnDisk, node_config, secrets_on_disk

GIVEN = AccessKeySecret("AKIDEXAMPLEEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


@pytest.fixture
def world() -> World:
    return real_world()


@pytest.fixture
def region(tmp_path: Path) -> Iterator[RegionOnDisk]:
    region = RegionOnDisk(tmp_path)
    yield region
    region.close()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_first_entries_found_the_region(region: RegionOnDisk) -> None:
    """The log begins with the founding and the membership of one voter, and applying both succeeds."""
    founding, membership = region.first_entries
    assert (founding.index, founding.term, founding.kind) == (1, 1, EntryKind.COMMAND)
    assert (membership.index, membership.term, membership.kind) == (2, 1, EntryKind.MEMBERSHIP)
    assert decode_membership_entry(membership.payload).membership.voters == ("n1",)
    assert all(outcome.error_code is None for outcome in region.outcomes)
    assert region.view.membership.voters == ("n1",)
    record = load_region(region.view)
    assert record is not None
    assert (record.region, record.generation) == ("us-east-1", 1)


def test_first_member_is_pinned_with_its_keys(region: RegionOnDisk) -> None:
    """The row has the very keys that the node sealed for itself, and its wrap opens to generation 1."""
    member, secrets = load_member(region.view, NodeId("n1")), region.secrets
    assert member is not None
    assert (member.state, member.role, member.wanted) == (MemberState.ACTIVE, MemberRole.VOTER, MemberRole.VOTER)
    assert member.identity_key == public_key_of_private(secrets.peer_key) == public_key_of(secrets.peer_certificate)
    assert member.certificates == (secrets.peer_certificate, secrets.native_certificate)
    wrap = load_wrap(region.view, 1, NodeId("n1"))
    assert wrap is not None
    info = wrap_info("us-east-1", 1, NodeId("n1"))
    unwrapped = region.world.entropy.unwrap(wrap.wrapped, key_pair=secrets.wrap_key_pair, info=info)
    assert ((1, unwrapped),) == secrets.generations


def test_authorities_and_access_key_are_stored_sealed(region: RegionOnDisk) -> None:
    """The state opens to the CAs' keys and the operator's secret, for who holds the generation."""
    for name, certificate in (("peer", region.secrets.peer_ca), ("client", region.secrets.client_ca)):
        authority = load_authority(region.view, name)
        assert authority is not None
        assert authority.certificate == certificate
        private_key = open_secret(region.keyring, Purpose.AUTHORITY, authority.private_key_sealed, owner=name.encode())
        assert public_key_of_private(private_key) == public_key_of(certificate)
    shown = region.founded.access_key
    access_key = load_access_key(region.view, shown.access_key_id)
    assert access_key is not None
    assert access_key.operator
    assert (access_key.account, access_key.principal) == (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root")
    owner = shown.access_key_id.encode()
    assert open_secret(region.keyring, Purpose.ACCESS_KEY, access_key.secret_sealed, owner=owner).decode() == (
        shown.secret
    )


def test_no_file_holds_a_secret(region: RegionOnDisk, tmp_path: Path) -> None:
    """A scan of every file for every secret of the founding finds the key file's alone; a planted one is found."""
    secrets = region.secrets
    hunted = [
        secrets.generations[0][1],
        secrets.peer_key,
        secrets.peer_key[36:68],  # The scalar inside PKCS #8.
        secrets.native_key[36:68],
        secrets.wrap_private,
        region.founded.access_key.secret.encode(),
        (tmp_path / "seals" / "n1").read_bytes(),
        *(region.keyring.purpose_key(1, purpose) for purpose in Purpose),
    ]

    def leaks() -> list[str]:
        contents = {path.name: path.read_bytes() for path in files_below(region.config.data)}
        return [name for name, content in contents.items() for secret in hunted if secret in content]

    assert leaks() == []
    (region.config.data / "planted").write_bytes(b"x" + secrets.peer_key[36:68] + b"y")
    assert leaks() == ["planted"]


def test_everything_is_private(region: RegionOnDisk, tmp_path: Path) -> None:
    """Files are 0600, folders 0700, the seal included, whatever the umask."""
    for path in [*region.config.data.rglob("*"), *(tmp_path / "seals").rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_given_access_key_is_used(tmp_path: Path, world: World) -> None:
    """`dev` may name the key; what is founded with it shows nothing of the secret."""
    founded = found_region(node_config(tmp_path, "n1"), account=ACCOUNT, access_key=GIVEN, world=world)
    assert founded.access_key == GIVEN
    assert GIVEN.secret not in repr(founded)


@pytest.mark.parametrize(
    ("account", "access_key"),
    [
        ("12345", None),
        ("12345678901x", None),
        (ACCOUNT, AccessKeySecret("short", GIVEN.secret)),
        (ACCOUNT, AccessKeySecret("AKID/EXAMPLEEXAMPLE", GIVEN.secret)),
        (ACCOUNT, AccessKeySecret(GIVEN.access_key_id, "short")),
        (ACCOUNT, AccessKeySecret(GIVEN.access_key_id, "sécret" * 5)),
    ],
)
def test_unfit_access_key_is_refused_before_anything_is_made(
    tmp_path: Path, world: World, account: str, access_key: AccessKeySecret | None
) -> None:
    """A refused founding leaves no folder, and its text no secret."""
    with pytest.raises(AccessKeyUnfit) as raised:
        found_region(node_config(tmp_path, "n1"), account=AccountId(account), access_key=access_key, world=world)
    assert access_key is None or access_key.secret not in str(raised.value)
    assert files_below(tmp_path) == []


def test_learner_founds_no_region(tmp_path: Path, world: World) -> None:
    """Somebody must vote."""
    with pytest.raises(ConfigError, match="first node is a voter"):
        found_region(node_config(tmp_path, "n1", role="learner"), account=ACCOUNT, access_key=None, world=world)


def test_folder_with_a_node_is_never_touched(region: RegionOnDisk) -> None:
    """A second founding is refused and changes no byte."""
    before = {path: path.read_bytes() for path in files_below(region.config.data)}
    with pytest.raises(FolderTaken, match="holds a node already"):
        found_region(region.config, account=ACCOUNT, access_key=None, world=region.world)
    assert {path: path.read_bytes() for path in files_below(region.config.data)} == before


def test_store_without_its_secrets_is_never_touched(region: RegionOnDisk) -> None:
    """Somebody lost node.sealed: what is left may be wanted."""
    (region.config.data / SEALED_NAME).unlink()
    with pytest.raises(FolderTaken, match=r"log/log\.db"):
        found_region(region.config, account=ACCOUNT, access_key=None, world=region.world)


def test_folder_in_use_is_refused(tmp_path: Path, world: World) -> None:
    """Not while another process works in it."""
    config = node_config(tmp_path, "n1")
    world.disk.make_folder(config.data)
    unlock = lock_data(config.data, world.disk)
    with pytest.raises(FolderTaken, match="in use by another"):
        found_region(config, account=ACCOUNT, access_key=None, world=world)
    unlock()


class PowerCut(BaseException):
    """The process ends here."""


class CutDisk(RealDisk):
    """Ends the process at its n-th change, before or after the change is made."""

    def __init__(self, *, at: int, after: bool) -> None:
        super().__init__()
        self._left = at
        self._after = after

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        return (
            self._cutting(attribute)
            if name in ("replace", "rename", "remove", "write_at", "make_folder")
            else (attribute)
        )

    def _cutting(self, change: Callable[..., None]) -> Callable[..., None]:
        def cut(*args: Any) -> None:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise PowerCut
            change(*args)
            if self._left == 0:
                raise PowerCut

        return cut


@pytest.mark.parametrize("after", [False, True])
def test_interrupted_founding_can_be_repeated(tmp_path: Path, world: World, after: bool) -> None:
    """Cut off at any change of the disk, it is either not there, and founds anew, or there and whole."""
    finished = False
    at = 0
    while not finished:
        at += 1
        config = node_config(tmp_path / str(at), "n1")
        cut_world = replace(world, disk=CutDisk(at=at, after=after))
        try:
            found_region(config, account=ACCOUNT, access_key=GIVEN, world=cut_world)
            finished = True
        except PowerCut:
            pass
        whole = (config.data / SEALED_NAME).exists() and not is_unfinished(config.data, world.disk)
        if whole:
            assert secrets_on_disk(config, world).node == "n1"
            continue
        found_region(config, account=ACCOUNT, access_key=GIVEN, world=world)
        assert not (config.data / MARK_NAME).exists()
        assert secrets_on_disk(config, world).node == "n1"
    assert at > 8  # It was cut off at each of several changes.
