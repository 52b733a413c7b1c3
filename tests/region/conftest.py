"""Regions of real processes."""

from collections.abc import Iterator

import pytest

from tests.region.dev_region import DevRegion, dev_region


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevRegion]:
    """Three voters in three AZs, for all tests of a module."""
    with dev_region(tmp_path_factory.mktemp("region") / "region") as running:
        yield running
