"""What `keycluster dev` remembers in its folder, and which options it refuses before anything is written."""

from pathlib import Path

import pytest

from keycluster.cli.dev_settings import FILE_NAME, DevSettings, settle
from keycluster.cli.main import build_parser
from keycluster.cli.output import CommandFailed


def settled(folder: Path, *options: str) -> DevSettings:
    """The settings that a `dev` with these options would run by."""
    return settle(build_parser().parse_args(["dev", "--dir", str(folder), *options]), folder)


def test_defaults_are_three_voters_in_three_azs(tmp_path: Path) -> None:
    """Ports below what outgoing connections get; account and credentials as AWS's look."""
    settings = settled(tmp_path)
    assert list(settings.regions) == ["us-east-1"]
    nodes = settings.regions["us-east-1"]
    assert [(node.id, node.az, node.role) for node in nodes] == [
        ("n1", "us-east-1a", "voter"),
        ("n2", "us-east-1b", "voter"),
        ("n3", "us-east-1c", "voter"),
    ]
    assert len(set(settings.ports)) == 9
    assert all(1024 < port < 32_768 for port in settings.ports)
    assert settings.account == "123456789012"
    assert settings.access_key_id.startswith("AKIA")
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_the_folder_is_remembered(tmp_path: Path) -> None:
    """Called again, bare or with the same options, it is the same; what may be added is added."""
    options = ("--nodes", "2", "--account", "000000000007", "--port-base", "18000")
    first = settled(tmp_path, *options)
    assert first.ports == [18000, 18001, 18002, 18003, 18004, 18005]
    assert settled(tmp_path) == settled(tmp_path, *options) == first
    more = settled(tmp_path, "--nodes", "3", "--regions", "us-east-1,eu-west-1", "--learners", "1")
    assert more.regions["us-east-1"][:2] == first.regions["us-east-1"]
    assert [node.role for node in more.regions["us-east-1"]] == ["voter", "voter", "learner"]
    assert len(more.regions["eu-west-1"]) == 3
    assert len(set(more.ports)) == 18
    assert (more.account, more.access_key_id) == (first.account, first.access_key_id)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--nodes", "1"], "--nodes: 2 to 9, not 1"),
        (["--regions", "eu-west-1"], "has the regions us-east-1: all of them start"),
        (["--account", "000000000008"], "has account 123456789012"),
        (["--access-key-id", "AKIAKEYCLUSTERTESTS2"], "has access key AKIA"),
        (["--secret-access-key", "y" * 40], "has a secret access key of its own"),
    ],
)
def test_what_a_folder_has_is_not_changed(tmp_path: Path, options: list[str], reason: str) -> None:
    """Nodes are removed with `keycluster remove`; the rest stands in certificates and state."""
    settled(tmp_path, "--nodes", "2")
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(CommandFailed, match=reason):
        settled(tmp_path, *options)
    assert (tmp_path / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--nodes", "0"], "--nodes: 1 to 9, not 0"),
        (["--nodes", "10"], "--nodes: 1 to 9, not 10"),
        (["--learners", "3"], "--learners: 0 to 2, not 3"),
        (["--learners", "-1"], "--learners: 0 to 2, not -1"),
        (["--regions", "../up"], "is not a region's name"),
        (["--regions", ""], "is not a region's name"),
        (["--regions", "a,a"], "names one twice"),
        (["--account", "12"], "twelve decimal digits"),
        (["--access-key-id", "AKIAKEYCLUSTERTESTS1"], "go together"),
        (["--access-key-id", "short", "--secret-access-key", "x" * 40], "16 to 128"),
        (["--port-base", "65535", "--nodes", "1"], "there is no port 65536"),
        (["--port-base", "-1"], "there is no port -1"),
    ],
)
def test_wrong_options_write_nothing(tmp_path: Path, options: list[str], reason: str) -> None:
    """The folder isn't bound to anything that can't be."""
    with pytest.raises(CommandFailed, match=reason):
        settled(tmp_path, *options)
    assert not (tmp_path / FILE_NAME).exists()


def test_secrets_are_not_in_the_repr(tmp_path: Path) -> None:
    """Nor in what a failed assertion would print."""
    settings = settled(tmp_path)
    assert settings.secret_access_key not in repr(settings) + repr(settings.access_key)
