"""The examples and the README's run as they are printed, and AWS's Encryption SDK works, on a real region."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aws_encryption_sdk
import boto3
import pytest
import trio
from aws_encryption_sdk.identifiers import Algorithm
from aws_encryption_sdk.key_providers.kms import KMSMasterKey

from keycluster import KeyClient, Suite
from tests.region.dev_region import dev_region

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE_SECONDS_MAX = 30


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The endpoints.json of a region of three nodes, stopped afterwards."""
    with dev_region(tmp_path_factory.mktemp("region") / "region") as region:
        yield region.endpoints_file


def run_example(name: str, endpoints: Path) -> str:
    """What the example prints; it must end well."""
    command = [sys.executable, str(ROOT / "examples" / name), str(endpoints)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=EXAMPLE_SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trio_example_runs(endpoints: Path) -> None:
    """Keys, contexts, many calls at once and a file, on trio."""
    printed = run_example("trio_client.py", endpoints)
    assert "decrypted 4111 1111 1111 1111" in printed
    assert "refused under another context" in printed
    assert "file of 1,200,000 bytes came back: True" in printed


def test_asyncio_example_runs(endpoints: Path) -> None:
    """The same client on asyncio: aliases, the text form, a key that is disabled everywhere."""
    printed = run_example("asyncio_client.py", endpoints)
    assert "decrypted ['one', 'two', 'three']" in printed
    assert "-> database password" in printed
    assert "disabled everywhere" in printed


def test_boto3_example_runs(endpoints: Path) -> None:
    """AWS's SDK talks to a node with another endpoint and nothing else changed."""
    printed = run_example("boto3_client.py", endpoints)
    assert "decrypted a secret" in printed
    assert "refused without its context" in printed


@pytest.fixture
def first_steps(endpoints: Path, tmp_path: Path) -> Path:
    """A folder as the README's reader has it: the region in `my-region`, and a file to encrypt."""
    (tmp_path / "my-region").mkdir()
    (tmp_path / "my-region" / "endpoints.json").symlink_to(endpoints)
    (tmp_path / "big.iso").write_bytes(os.urandom(2_000_000))
    return tmp_path


def test_readme_runs_from_top_to_bottom(first_steps: Path) -> None:
    """First use as it is printed, one block after the other: none spoils what the next one needs."""
    text = (ROOT / "README.md").read_text()
    [commands] = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "KEYCLUSTER_ENDPOINTS" in block]
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = ""
    for command in (["bash", "-euo", "pipefail", "-c", commands], *([sys.executable, "-c", one] for one in programs)):
        done = subprocess.run(
            command,
            cwd=first_steps,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=EXAMPLE_SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    assert "hello\n" in printed
    assert "is disabled" in printed
    assert "b'4111 1111'" in printed
    assert len(programs) == 2


@pytest.mark.parametrize("suite", [Suite.SIGNED, Suite.UNSIGNED])
async def test_aws_encryption_sdk_and_our_client_read_each_other(endpoints: Path, suite: Suite) -> None:
    """One region, one key: what AWS's SDK encrypts through boto3 our client decrypts, and the other way round."""
    content = json.loads(await trio.Path(endpoints).read_text())
    region, nodes = next(iter(content["regions"].items()))
    kms = boto3.client(
        "kms",
        region_name=region,
        endpoint_url=nodes["nodes"][-1]["aws"],
        aws_access_key_id=content["access_key_id"],
        aws_secret_access_key=content["secret_access_key"],
    )
    context, plaintext = {"file": "räksmörgås"}, os.urandom(300_000)
    sdk, algorithm = aws_encryption_sdk.EncryptionSDKClient(), Algorithm.get_by_id(suite)
    async with KeyClient.from_endpoints(endpoints) as client:
        arn = (await client.create_key()).key_metadata.arn
        key = KMSMasterKey(key_id=arn, client=kms)
        theirs, _ = await trio.to_thread.run_sync(
            partial(sdk.encrypt, source=plaintext, key_provider=key, encryption_context=context, algorithm=algorithm)
        )
        opened, sealed = io.BytesIO(), io.BytesIO()
        result = await client.decrypt_stream(io.BytesIO(theirs), opened, encryption_context=context)
        assert opened.getvalue() == plaintext
        assert (result.key_id, result.suite) == (arn, suite)
        await client.encrypt_stream(io.BytesIO(plaintext), sealed, key_id=arn, encryption_context=context, suite=suite)
        back, header = await trio.to_thread.run_sync(partial(sdk.decrypt, source=sealed.getvalue(), key_provider=key))
        assert back == plaintext
        assert context.items() <= header.encryption_context.items()
