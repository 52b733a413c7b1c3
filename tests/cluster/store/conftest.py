"""Keys, and a disk in memory that can crash."""

from collections.abc import Iterator

import pytest

from keycluster.cluster.store.authentication import StateKeys
from keycluster.simulations.disk import CrashDisk


@pytest.fixture
def keys() -> StateKeys:
    return StateKeys(1, b"row".ljust(32, b"."), b"set".ljust(32, b"."), b"sum".ljust(32, b"."), b"log".ljust(32, b"."))


@pytest.fixture
def disk() -> Iterator[CrashDisk]:
    disk = CrashDisk(seed=1)
    yield disk
    disk.close()
