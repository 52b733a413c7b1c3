"""The file that says where a region is."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster import KeyClient
from keycluster.client.endpoints import Credentials, NodeAddress, read_endpoints, split_address
from keycluster.cluster.types import NodeId

FILE = {
    "regions": {
        "us-east-1": {
            "nodes": [
                {
                    "id": "node-1",
                    "az": "az-1",
                    "role": "voter",
                    "native": "127.0.0.1:7001",
                    "aws": "http://127.0.0.1:8001",
                    "pid": 1,
                },
                {
                    "id": "node-2",
                    "az": "az-2",
                    "role": "voter",
                    "native": "[::1]:7002",
                    "aws": "http://127.0.0.1:8002",
                    "pid": 2,
                },
            ]
        },
        "eu-west-1": {"nodes": []},
    },
    "account": "123456789012",
    "access_key_id": "AKID",
    "secret_access_key": "hush",
    "ca_file": "ca.pem",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with endpoints.json in it."""
    (tmp_path / "endpoints.json").write_text(json.dumps(FILE))
    return tmp_path


def test_file_is_read_by_its_name_or_its_folders(folder: Path) -> None:
    """Path or string, file or folder: the same region comes out, the first one unless another is named."""
    for path in (folder, str(folder), folder / "endpoints.json"):
        found = read_endpoints(path)
        assert found.region == "us-east-1"
        assert found.nodes == (
            NodeAddress(NodeId("node-1"), "az-1", "127.0.0.1", 7001),
            NodeAddress(NodeId("node-2"), "az-2", "::1", 7002),
        )
        assert found.credentials == Credentials("AKID", "hush")
    assert read_endpoints(folder, "eu-west-1").nodes == ()


def test_secret_is_in_no_repr(folder: Path) -> None:
    """Printing endpoints or credentials shows no secret."""
    assert "hush" not in repr(read_endpoints(folder))


def test_unknown_region_is_told_with_those_there_are(folder: Path) -> None:
    """A ValueError names the file and its regions."""
    with pytest.raises(ValueError, match=r"endpoints\.json: no region x in it, but us-east-1, eu-west-1"):
        KeyClient.from_endpoints(folder, region="x")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", json.dumps({**FILE, "regions": {}}), json.dumps({**FILE, "ca_file": 5})],
    ids=["empty", "a list", "cut", "no region", "wrong type"],
)
def test_other_content_is_a_value_error(tmp_path: Path, content: str) -> None:
    """What isn't such a file is told by its name, without its content."""
    (tmp_path / "endpoints.json").write_text(content)
    with pytest.raises(ValueError, match=r"endpoints\.json") as caught:
        read_endpoints(tmp_path)
    assert "hush" not in str(caught.value)


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    """No file, no client: the usual error, when the client is made."""
    with pytest.raises(FileNotFoundError):
        KeyClient.from_endpoints(tmp_path / "endpoints.json")


@given(st.text(max_size=20))
def test_addresses_are_split_or_refused(text: str) -> None:
    """Any text is an address with a host and a port from 1 to 65535, or a ValueError."""
    try:
        host, port = split_address(text)
    except ValueError:
        return
    assert host
    assert 0 < port < 65_536
