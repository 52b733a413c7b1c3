"""Torture works in an empty folder or in one of `keycluster dev`'s, and in no other."""

from pathlib import Path

import pytest

from keycluster.simulations.torture.folder import RegionUnfit, locked, prepare
from keycluster.simulations.torture.region import make_region


@pytest.mark.parametrize("names", [(), ("lock", "torture-dev.log"), ("dev.json", "lock", "my-notes.txt")], ids=str)
def test_folder_that_is_nobody_s_or_dev_s_is_fit(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Also one that a refused `dev` has left, and one of `dev`'s in which a user keeps other things too."""
    for name in names:
        (tmp_path / name).touch()
    prepare(tmp_path)


def test_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """With those above it."""
    prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_somebody_else_s_folder_stays_as_it_is(tmp_path: Path) -> None:
    """Nothing is scattered into it."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RegionUnfit, match="choose another folder"):
        make_region(tmp_path, nodes=None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    """A file, and a place below a file."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RegionUnfit, match="file is not a folder"):
        prepare(file)
    with pytest.raises(RegionUnfit, match="Not a directory"):
        prepare(file / "below")


def test_lock_is_one_s_own(tmp_path: Path) -> None:
    """Nobody has it twice, and it ends with the block."""
    with locked(tmp_path), pytest.raises(RegionUnfit, match="in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
