"""The configuration file: strict, and each refusal one line that helps."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import MILLISECOND, NodeId
from keycluster.node.config import (
    ConfigError,
    DoorConfig,
    NodeConfig,
    SealConfig,
    SealKind,
    TimingConfig,
    load_config,
    parse_config,
    write_config,
)

FOLDER = Path("/etc/keycluster")

GOOD = """
region = "us-east-1"
node = "node-1"
az = "us-east-1a"
data = "/var/lib/keycluster"

[seal]
kind = "key-file"
path = "seal.key"

[peer]
listen = "0.0.0.0:7710"
advertised = "10.0.0.1:7710"

[native]
listen = "10.0.0.1:7720"

[aws]
listen = "127.0.0.1:7730"
"""


def parse(text: str) -> NodeConfig:
    return parse_config(text.encode(), folder=FOLDER)


def test_small_configuration_gets_the_defaults() -> None:
    """What isn't said is as design.md has it; relative paths count from the file's folder."""
    config = parse(GOOD)
    assert config.node == "node-1"
    assert config.role is MemberRole.VOTER
    assert config.seal == SealConfig(kind=SealKind.KEY_FILE, path=Path("/etc/keycluster/seal.key"))
    assert config.peer == DoorConfig("0.0.0.0:7710", "10.0.0.1:7710", tls=True, connections_max=256)
    assert config.native.advertised == "10.0.0.1:7720"
    assert not config.aws.tls
    assert config.timing == TimingConfig(1_000 * MILLISECOND, 300 * MILLISECOND, 60 * MILLISECOND)


def test_loaded_file_is_named_in_errors(tmp_path: Path) -> None:
    """Who starts many nodes is told which file is wrong."""
    path = tmp_path / "node.toml"
    with pytest.raises(ConfigError, match=r"node\.toml: No such file"):
        load_config(path)
    path.write_text(GOOD)
    assert load_config(path).seal.path == tmp_path / "seal.key"
    path.write_text("region")
    with pytest.raises(ConfigError, match=r"node\.toml: not TOML"):
        load_config(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('az = "us', 'azz = "us', r"unknown name 'azz' in the first table; did you mean 'az'\?"),
        ("[native]\nlisten", "[native]\nlissten", r"'lissten' in \[native\]; did you mean 'listen'\?"),
        ("[seal]", "[seal]\npassphrase = 'x'", r"unknown name 'passphrase' in \[seal\]; known are kind, path"),
        ("[aws]", "[colour]\n[aws]", r"unknown name 'colour'"),
        ("[native]", "[nativ]", "did you mean 'native'"),
        ('node = "node-1"', "", "missing required field `node`"),
        ('node = "node-1"', "node = 1", r"Expected `str`, got `int` - at `node`"),
        ('node = "node-1"', 'node = "a/b"', "node: 'a/b' is not a name"),
        ('node = "node-1"', 'node = "node-1\\n"', "is not a name"),
        ('az = "us-east-1a"', 'az = ""', "az: '' is not a name"),
        ('region = "us-east-1"', 'region = "US"', "region: 'US' is not a name"),
        ('region = "us-east-1"', f'region = "{"u" * 33}"', "is not a name"),
        ('data = "/var/lib/keycluster"', 'data = ""', "data: a path is needed"),
        ('path = "seal.key"', "", "key-file needs a path"),
        ('path = "seal.key"', 'path = "/var/lib/keycluster/seal"', "inside the data folder"),
        ('path = "seal.key"', 'path = "/var/lib/x/../keycluster/seal"', "inside the data folder"),
        ('kind = "key-file"', 'kind = "passphrase"\ndescriptor = 3', "from a path or a descriptor, not from both"),
        ('kind = "key-file"\npath = "seal.key"', 'kind = "passphrase"\ndescriptor = -1', "open file descriptor"),
        ('kind = "key-file"', 'kind = "pkcs11"', "Invalid enum value 'pkcs11'"),
        ('advertised = "10.0.0.1:7710"', "", "peer.advertised: write the address that others reach"),
        ('advertised = "10.0.0.1:7710"', 'advertised = "[::]:7710"', "peer.advertised: write the address"),
        ('listen = "10.0.0.1:7720"', 'listen = "10.0.0.1"', "native.listen: '10.0.0.1' is not an address"),
        ('listen = "10.0.0.1:7720"', 'listen = "10.0.0.1:0"', "needs a port of its own"),
        ('listen = "127.0.0.1:7730"', 'listen = "10.0.0.1:7730"', "aws.listen: without TLS only a loopback"),
        ('listen = "127.0.0.1:7730"', 'listen = "kms.example:7730"', "aws.listen: without TLS only a loopback"),
        ("[aws]", "[aws]\nconnections_max = 0", "aws.connections_max: 1 to"),
        ("[aws]", "[timing]\nlease_ms = 5\n[aws]", "timing.lease_ms: 10 to"),
        ("[aws]", "[timing]\nlease_ms = 100\n[aws]", "timing.lease_ms: at least election_ms"),
        ("[aws]", "[timing]\nheartbeat_ms = 200\n[aws]", "timing.election_ms: at least 3 times"),
        ("[aws]", "role = 1\n[aws]", "unknown name 'role' in \\[native\\]"),
    ],
)
def test_what_cannot_work_is_refused(old: str, new: str, message: str) -> None:
    """One line that says where and what."""
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as raised:
        parse(GOOD.replace(old, new, 1))
    assert "\n" not in str(raised.value)


def test_aws_door_with_tls_may_listen_anywhere() -> None:
    """The loopback rule is for plain text alone."""
    config = parse(GOOD.replace('[aws]\nlisten = "127.0.0.1:7730"', '[aws]\ntls = true\nlisten = "10.0.0.1:7730"'))
    assert config.aws.tls
    assert config.aws.advertised == "10.0.0.1:7730"


def test_huge_file_is_refused() -> None:
    """Nobody's configuration is that long."""
    with pytest.raises(ConfigError, match="longer than"):
        parse(GOOD + "#" * 70_000)


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9])?", fullmatch=True)
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)


@st.composite
def doors(draw: st.DrawFn, *, tls: bool) -> DoorConfig:
    host = draw(st.sampled_from(["10.1.2.3", "kms-1.example", "[fd00::1]"]) if tls else st.just("127.0.0.1"))
    address = f"{host}:{draw(st.integers(1, 65_535))}"
    listen = draw(st.sampled_from([address, "0.0.0.0:1"])) if tls else address
    return DoorConfig(listen=listen, advertised=address, tls=tls, connections_max=draw(st.integers(1, 100_000)))


@st.composite
def configs(draw: st.DrawFn) -> NodeConfig:
    key_file = SealConfig(kind=SealKind.KEY_FILE, path=Path("/seals") / draw(paths))
    passphrase = SealConfig(kind=SealKind.PASSPHRASE, descriptor=draw(st.none() | st.integers(0, 1_023)))
    heartbeat = draw(st.integers(10, 100))
    election = draw(st.integers(3 * heartbeat, 5_000))
    lease = draw(st.integers(election, 60_000))
    return NodeConfig(
        region=draw(st.sampled_from(["us-east-1", "x"])),
        node=NodeId(draw(names)),
        az=draw(names),
        role=draw(st.sampled_from(MemberRole)),
        data=Path("/data") / draw(paths),
        seal=draw(st.sampled_from([key_file, passphrase])),
        peer=draw(doors(tls=True)),
        native=draw(doors(tls=True)),
        aws=draw(st.booleans().flatmap(lambda tls: doors(tls=tls))),
        timing=TimingConfig(lease * MILLISECOND, election * MILLISECOND, heartbeat * MILLISECOND),
    )


@given(configs())
def test_written_configuration_reads_as_itself(config: NodeConfig) -> None:
    """What `dev` writes is what its nodes read, whatever the names."""
    assert parse(write_config(config)) == config


toml_values: st.SearchStrategy[Any] = st.one_of(
    st.integers(), st.booleans(), st.floats(), st.text('ab"\\\n:1', max_size=8), st.lists(st.integers(), max_size=2)
)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: GOOD + text).map(str.encode))
def test_parser_takes_no_garbage(content: bytes) -> None:
    """Any bytes are a configuration or a ConfigError in one line, never another exception."""
    message = ""
    try:
        parse_config(content, folder=FOLDER)
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


@given(place=st.sampled_from(["seal", "peer", "native", "aws", "timing", "role", "region"]), value=toml_values)
def test_any_value_in_any_place(place: str, value: object) -> None:
    """A value of the wrong type is refused as such."""
    from keycluster.node.config import _line  # The writer's: one TOML line.

    with pytest.raises(ConfigError):
        parse(_line(place, value) + GOOD.replace("region =", "zone ="))  # type: ignore[arg-type]  # That is the point.
