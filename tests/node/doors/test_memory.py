"""What was answered is forgotten: refused requests stay nowhere, also before the garbage collector comes by."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.node.doors.region import Region

REQUESTS = 100
REQUEST_BYTES = 100_000


@contextmanager
def memory_stays_flat() -> Iterator[None]:
    """Nothing of a tenth of what is sent inside remains."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < REQUESTS * REQUEST_BYTES / 10


@pytest.mark.parametrize(
    ("operation", "request_members"),
    [
        ("Encrypt", {"Plaintext": bytes(REQUEST_BYTES)}),  # Refused as it is decoded,
        ("Encrypt", {"KeyId": "none", "Plaintext": b"x", "NoSuchMember": bytes(REQUEST_BYTES)}),  # by its handler,
        ("NoSuchOperation", {"Plaintext": bytes(REQUEST_BYTES)}),  # because nobody knows it,
        ("DescribeKey", {"KeyId": "none", "NoSuchMember": bytes(REQUEST_BYTES)}),  # and in a task of its own.
    ],
)
async def test_refused_request_leaves_nothing_in_memory(operation: str, request_members: dict[str, object]) -> None:
    """Contract 7: no client makes a node's memory grow by what it asks, refused or not."""
    region = Region()
    async with region.native() as client:
        await client.fail(operation, request_members)
        with memory_stays_flat():
            for _ in range(REQUESTS):
                await client.fail(operation, request_members)
