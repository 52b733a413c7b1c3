"""What the client's tests share: running on both event loops, keys that need no node, and nodes that speak frames."""

from functools import partial

import pytest

from tests.client.fake_region import Authority, FakeRegion, RegionOf, new_authority
from tests.client.local_keys import LocalKeys
from tests.client.loops import Run, run_on


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function to its end, within 30 seconds, once on each of the two event loops."""
    return partial(run_on, request.param)


@pytest.fixture
def keys() -> LocalKeys:
    """Two KMS keys without a node."""
    return LocalKeys()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that clients of the region trust."""
    return new_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that nobody trusts."""
    return new_authority(tmp_path_factory.mktemp("other-ca"))


@pytest.fixture
def region_of(authority: Authority) -> RegionOf:
    """Regions in this process."""
    return lambda count: FakeRegion(authority, count)
