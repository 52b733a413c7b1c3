"""The toy simulator, for this process and those it starts."""

from pathlib import Path

import pytest

from keycluster.cluster.types import SECOND
from keycluster.simulations.runs import RunSpec, Simulator


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of its module, which workers find by the path they get from here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "toy_simulator"


@pytest.fixture
def spec() -> RunSpec:
    """Of seed 1, which finds nothing."""
    return RunSpec(Simulator.CORE, 1, 10 * SECOND)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where slow toy runs say which seed was done, and by a child of which process."""
    path = tmp_path / "told"
    path.touch()
    monkeypatch.setenv("TOY_DONE", str(path))
    return path
