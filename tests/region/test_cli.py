"""The command line on a real region: the everyday calls, what they print, and how they fail."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keycluster.cli import key_commands
from keycluster.cli.main import main
from tests.region.dev_region import DevRegion, dev_region

MESSAGE = b"4111 1111 1111 1111"


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevRegion]:
    """One node in one process is enough here."""
    with dev_region(tmp_path_factory.mktemp("region") / "region", "--nodes", "1") as running:
        yield running


class Shell:
    """Runs commands inside this process, as `keycluster …` would."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def fails(self, *words: str | Path) -> str:
        """What a command that has to fail says, in one line and perhaps a hint. Nothing else is printed."""
        status = main([str(word) for word in words])
        printed, complaints = self._capfd.readouterr()
        assert (status, printed) == (1, "")
        lines = complaints.splitlines()
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  hint: "))
        return lines[0]

    def says(self, *words: str | Path) -> str:
        """What a command prints that has to work."""
        status = main([str(word) for word in words])
        printed, complaints = self._capfd.readouterr()
        assert status == 0, complaints
        return printed.strip()


@pytest.fixture
def shell(region: DevRegion, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Where KEYCLUSTER_ENDPOINTS names the region."""
    monkeypatch.setenv("KEYCLUSTER_ENDPOINTS", str(region.endpoints_file))
    return Shell(capfd)


def test_a_keys_everyday_life(shell: Shell) -> None:
    """Create, describe, list, alias, tag, rotate, disable, delete: each says what it did."""
    key = shell.says("key", "create", "--description", "orders", "--tag", "team=shop", "--alias", "alias/orders")
    described = shell.says("key", "describe", "alias/orders")
    assert key in described
    assert "orders" in described
    assert key in shell.says("key", "list")
    assert shell.says("alias", "list").splitlines()[1:] == [f"alias/orders  {key}"]
    shell.says("alias", "create", "alias/more", key)
    shell.says("alias", "update", "alias/more", key)
    shell.says("alias", "delete", "alias/more")
    shell.says("key", "tag", key, "stage=test")
    shell.says("key", "untag", key, "team")
    assert shell.says("key", "tags", key).splitlines()[1:] == ["stage  test"]
    shell.says("key", "update-description", key, "paid orders")
    shell.says("key", "enable-rotation", key, "--days", "90")
    shell.says("key", "rotate", key)
    assert "every 90 days" in shell.says("key", "rotations", key)
    shell.says("key", "disable-rotation", key)
    assert "automatic rotation: off" in shell.says("key", "rotations", key)
    assert "kms:*" in shell.says("key", "policy", key)
    assert "is disabled" in shell.says("key", "disable", key)
    shell.says("key", "enable", key)
    assert "unless that is cancelled" in shell.says("key", "schedule-deletion", key, "--days", "7")
    assert "PendingDeletion" in shell.says("key", "describe", key)
    shell.says("key", "cancel-deletion", key)
    assert "Disabled" in shell.says("key", "describe", key)


def test_a_refused_alias_names_the_key_that_was_made(shell: Shell) -> None:
    """Two calls, and the second fails: the key is there, so its id is told."""
    complaint = shell.fails("key", "create", "--alias", "no-prefix")
    key = complaint.partition("key ")[2].split()[0]
    assert key in shell.says("key", "describe", key)


def test_a_list_that_is_cut_says_so(shell: Shell, capfd: pytest.CaptureFixture[str]) -> None:
    """What isn't shown isn't kept silent about."""
    for _ in range(2):
        shell.says("key", "create")
    assert main(["key", "list", "--limit", "1"]) == 0
    assert "more than 1 keys" in capfd.readouterr().err


def test_all_aliases_are_listed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages that takes."""
    monkeypatch.setattr(key_commands, "ALIASES_PER_PAGE", 2)
    names = [f"alias/page-{number}" for number in range(5)]
    key = shell.says("key", "create", "--alias", names[0])
    for name in names[1:]:
        shell.says("alias", "create", name, key)
    assert set(names) <= {alias["AliasName"] for alias in json.loads(shell.says("alias", "list", "--json"))["Aliases"]}
    for name in names:
        shell.says("alias", "delete", name)


def test_small_data_goes_through_pipes(region: DevRegion) -> None:
    """`encrypt | decrypt` gives back the bytes, whatever they are; another context gives an error and no output."""

    def run(*words: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "keycluster", *words, "--endpoints", str(region.endpoints_file)]
        return subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)

    key = run("key", "create", given=b"").stdout.decode().strip()
    content = bytes(range(256))
    sealed = run("encrypt", "--key", key, "--context", "a=1", "--context", "b=2", given=content)
    assert base64.b64decode(sealed.stdout)
    opened = run("decrypt", "--context", "b=2", "--context", "a=1", given=sealed.stdout)
    assert (opened.returncode, opened.stdout, opened.stderr) == (0, content, b"")
    refused = run("decrypt", "--context", "a=1", given=sealed.stdout)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert refused.stderr == b"keycluster: InvalidCiphertextException\n"


def test_data_commands(shell: Shell, tmp_path: Path) -> None:
    """Re-encryption, data keys and random bytes."""
    first, second = (shell.says("key", "create") for _ in range(2))
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(MESSAGE)
    sealed.write_text(shell.says("encrypt", "--key", first, "--in", plain))
    sealed.write_text(shell.says("re-encrypt", "--key", second, "--in", sealed))
    assert shell.says("decrypt", "--key", second, "--in", sealed) == MESSAGE.decode()
    assert "IncorrectKeyException" in shell.fails("decrypt", "--key", first, "--in", sealed)
    key, encrypted = map(base64.b64decode, shell.says("generate-data-key", "--key", first).splitlines())
    sealed.write_bytes(base64.b64encode(encrypted))
    opened = json.loads(shell.says("decrypt", "--in", sealed, "--json"))
    assert base64.b64decode(opened["Plaintext"]) == key
    assert len(shell.says("generate-data-key", "--key", first, "--without-plaintext").splitlines()) == 1
    assert len(base64.b64decode(shell.says("random", "7"))) == 7


@pytest.mark.parametrize("suite", ["signed", "unsigned"])
@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_files_come_back(shell: Shell, tmp_path: Path, suite: str, size: int) -> None:
    """Both suites; the output is private, and nothing else is left in the folder."""
    key = shell.says("key", "create")
    plain, sealed, opened = tmp_path / "plain", tmp_path / "sealed", tmp_path / "opened"
    plain.write_bytes(os.urandom(size))
    shell.says("encrypt-file", plain, sealed, "--key", key, "--suite", suite, "--context", "a=1")
    opened.write_text("what was there before")
    told = json.loads(shell.says("decrypt-file", sealed, opened, "--context", "a=1", "--json"))
    assert opened.read_bytes() == plain.read_bytes()
    assert told["KeyId"].endswith(key)
    assert opened.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["opened", "plain", "sealed"]


@pytest.mark.parametrize("place", [0, 200, 150_000, -1])
def test_a_tampered_file_leaves_no_output(shell: Shell, tmp_path: Path, place: int) -> None:
    """In the header, at the end of it, in a frame, in the signature: an error, and what was there stays."""
    key = shell.says("key", "create")
    plain, sealed, opened = tmp_path / "plain", tmp_path / "sealed", tmp_path / "opened"
    plain.write_bytes(os.urandom(300_000))
    shell.says("encrypt-file", plain, sealed, "--key", key)
    content = bytearray(sealed.read_bytes())
    content[place] ^= 1
    sealed.write_bytes(content)
    shell.fails("decrypt-file", sealed, opened)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "sealed"]
    opened.write_text("what was there before")
    shell.fails("decrypt-file", sealed, opened)
    assert opened.read_text() == "what was there before"


def test_a_truncated_file_leaves_no_output(shell: Shell, tmp_path: Path) -> None:
    """Cut off at a frame's end or before the signature: not a whole message."""
    key = shell.says("key", "create")
    plain, sealed, opened = tmp_path / "plain", tmp_path / "sealed", tmp_path / "opened"
    plain.write_bytes(os.urandom(20_000))
    shell.says("encrypt-file", plain, sealed, "--key", key)
    content = sealed.read_bytes()
    for length in (0, 1, 300, 10_000, len(content) - 1):
        sealed.write_bytes(content[:length])
        shell.fails("decrypt-file", sealed, opened)
        assert not opened.exists()


def test_files_that_cannot_be_are_named(shell: Shell, tmp_path: Path) -> None:
    """No source, a folder, a sink in no folder, a sink that is a device: one line each, and the device stays one."""
    key = shell.says("key", "create")
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert "No such file" in shell.fails("encrypt-file", tmp_path / "none", tmp_path / "out", "--key", key)
    assert "Is a directory" in shell.fails("encrypt-file", tmp_path, tmp_path / "out", "--key", key)
    assert "No such file" in shell.fails("encrypt-file", plain, tmp_path / "none" / "out", "--key", key)
    assert "not a regular file" in shell.fails("encrypt-file", plain, tmp_path, "--key", key)
    assert "not a regular file" in shell.fails("encrypt-file", plain, "/dev/null", "--key", key)
    assert Path("/dev/null").is_char_device()


def test_refusals_are_one_line(shell: Shell, tmp_path: Path) -> None:
    """AWS's code and message; with --json the same as an object on stderr."""
    assert shell.fails("key", "describe", "alias/nobody").startswith("keycluster: NotFoundException: ")
    assert shell.fails("key", "schedule-deletion", "x", "--days", "1").startswith("keycluster: ValidationException")
    error = json.loads(shell.fails("key", "describe", "alias/nobody", "--json"))
    assert error["code"] == "NotFoundException"
    assert error["error"]
    (tmp_path / "long").write_bytes(b"x" * 4097)
    assert "more than 4096 bytes" in shell.fails("encrypt", "--key", "x", "--in", tmp_path / "long")
    assert "not Base64" in shell.fails("decrypt", "--in", tmp_path / "long", "--context", "a=1")
    assert "is not KEY=VALUE" in shell.fails("key", "create", "--tag", "novalue")
    assert shell.fails("random", "9" * 30)
    assert shell.fails("key", "describe", "bad\udcffbytes")


def test_a_region_that_cannot_be_reached_is_one_line(
    shell: Shell, region: DevRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong secret, unknown access key, stopped region, wrong CA, no file, no JSON, no such region, no permission."""
    good = region.read()
    file = tmp_path / "endpoints.json"
    monkeypatch.setenv("KEYCLUSTER_ENDPOINTS", str(file))

    def asked(content: object, *words: str) -> str:
        file.write_text(json.dumps(content))
        return shell.fails(*(words or ("key", "list")), "--timeout", "2")

    node = good["regions"]["us-east-1"]["nodes"][0]
    down = {"regions": {"us-east-1": {"nodes": [{**node, "native": "127.0.0.1:1"}]}}}
    assert "InvalidSignatureException" in asked({**good, "secret_access_key": "x" * 40})
    assert "UnrecognizedClientException" in asked({**good, "access_key_id": "AKIAIOSFODNN7EXAMPLE"})
    assert "no node of us-east-1 could be reached" in asked({**good, **down})
    assert "ca.pem" in asked({**good, "ca_file": str(tmp_path / "ca.pem")})
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "no certificate is in it" in asked({**good, "ca_file": str(tmp_path / "ca.pem")})
    assert "no region eu-west-1" in asked(good, "key", "list", "--region", "eu-west-1")
    assert "endpoints.json" in asked({"regions": {}})
    file.write_text("{")
    assert "endpoints.json" in shell.fails("key", "list")
    file.unlink()
    assert "does not exist" in shell.fails("key", "list")
    monkeypatch.delenv("KEYCLUSTER_ENDPOINTS")
    assert "which region?" in shell.fails("key", "list")
    assert "does not exist" in shell.fails("key", "list", "--dir", tmp_path)


def test_status_tells_of_the_region(shell: Shell, region: DevRegion) -> None:
    """Leader, term, nodes with AZ, role, applied index and lease."""
    told = json.loads(shell.says("status", "--dir", region.folder, "--json"))
    (node,) = told["regions"]["us-east-1"]["nodes"]
    assert told["regions"]["us-east-1"]["leader"] == node["id"] == "n1"
    assert told["regions"]["us-east-1"]["term"] >= 1
    assert (node["az"], node["role"], node["lease"]) == ("us-east-1a", "voter", True)
    assert node["applied_index"] > 0
    assert "n1 (leader)" in shell.says("status")


def test_status_of_a_dead_region_fails(region: DevRegion, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It shows that nobody answers, and says why with status 1."""
    content = region.read()
    content["secret_access_key"] = "x" * 40
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps(content))
    assert main(["status", "--endpoints", str(file), "--json"]) == 1
    printed, complaints = capfd.readouterr()
    told = json.loads(printed)["regions"]["us-east-1"]
    assert (told["leader"], told["nodes"][0]["lease"]) == (None, False)
    assert "InvalidSignatureException" in json.loads(complaints)["error"]


def test_access_keys_come_and_go(
    shell: Shell, region: DevRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new account's key sees none of the others' keys, is no operator's, and ends at once."""
    shell.says("key", "create")
    made = json.loads(shell.says("access-key", "create", "--account", "000000000009", "--json"))
    file = tmp_path / "endpoints.json"
    file.write_text(
        json.dumps(
            {
                **region.read(),
                "access_key_id": made["AccessKeyId"],
                "secret_access_key": made["SecretAccessKey"],
            }
        )
    )
    assert json.loads(shell.says("key", "list", "--json", "--endpoints", file)) == {"Keys": []}
    assert "AccessDeniedException" in shell.fails("token", "--az", "x", "--endpoints", file)
    shell.says("access-key", "deactivate", made["AccessKeyId"])
    assert "UnrecognizedClientException" in shell.fails("key", "list", "--endpoints", file)


def test_a_closed_pipe_is_no_traceback(region: DevRegion) -> None:
    """`keycluster key list | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "keycluster", "key", "list", "--endpoints", str(region.endpoints_file)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_is_no_traceback(region: DevRegion, tmp_path: Path) -> None:
    """While a node says nothing: status 130, without a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = {"id": "n1", "az": "a", "native": f"127.0.0.1:{silent.getsockname()[1]}"}
        file = tmp_path / "endpoints.json"
        file.write_text(json.dumps({**region.read(), "regions": {"us-east-1": {"nodes": [node]}}}))
        command = subprocess.Popen(
            [sys.executable, "-m", "keycluster", "key", "list", "--endpoints", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        connection, _ = silent.accept()
        command.send_signal(signal.SIGINT)
        assert command.communicate(timeout=60) == (b"", b"")
        connection.close()
    assert command.returncode == 130


def test_a_full_disk_is_one_line(region: DevRegion) -> None:
    """What couldn't be printed is an error, said once."""
    command = [sys.executable, "-m", "keycluster", "key", "list", "--endpoints", str(region.endpoints_file)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No space left" in done.stderr


def test_long_lines_stay_whole(region: DevRegion, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ARN is never folded, and what is in a tag can't command the terminal."""
    monkeypatch.setenv("COLUMNS", "20")
    key = shell.says("key", "create", "--tag", "t=a\x1b[31mb")
    assert f"arn:aws:kms:us-east-1:123456789012:key/{key}" in shell.says("key", "list")
    assert shell.says("key", "tags", key).splitlines()[1] == "t    a\\x1b[31mb"
