"""The examples run as they are printed, each in a process of its own against a real region on this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.region.dev_region import dev_region

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE_SECONDS_MAX = 30


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory):
    """The endpoints.json of a region of three nodes, stopped afterwards."""
    with dev_region(tmp_path_factory.mktemp("region") / "region") as region:
        yield region.endpoints_file


def run_example(name, endpoints):
    """What the example prints; it must end well."""
    command = [sys.executable, str(ROOT / "examples" / name), str(endpoints)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=EXAMPLE_SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trio_example_runs(endpoints):
    """Keys, contexts, many calls at once and a file, on trio."""
    printed = run_example("trio_client.py", endpoints)
    assert "decrypted 4111 1111 1111 1111" in printed
    assert "refused under another context" in printed
    assert "file of 1,200,000 bytes came back: True" in printed


def test_asyncio_example_runs(endpoints):
    """The same client on asyncio: aliases, the text form, a key that is disabled everywhere."""
    printed = run_example("asyncio_client.py", endpoints)
    assert "decrypted ['one', 'two', 'three']" in printed
    assert "-> database password" in printed
    assert "disabled everywhere" in printed


def test_boto3_example_runs(endpoints):
    """AWS's SDK talks to a node with another endpoint and nothing else changed."""
    printed = run_example("boto3_client.py", endpoints)
    assert "decrypted a secret" in printed
    assert "refused without its context" in printed
