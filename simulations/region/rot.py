"""What bit rot must come to, looked at where it is done: the node itself may be replaced before anybody asks it.

A write-ahead log with a flipped bit must be found damaged, unless the bit lies in its last commit, which looks like one
that a crash tore (cluster/store/wal.py). Else commits that were synced and acknowledged would be gone without a word.
"""

from pathlib import Path
from typing import cast

from keycluster.cluster.seams import Disk
from keycluster.cluster.store.errors import StoreDamaged
from keycluster.cluster.store.wal import scan_wal

_PATH = Path("rotten-wal")


class _Image:
    """As much of a disk as reading one file takes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def size(self, path: Path) -> int:
        del path
        return len(self._content)

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        del path
        return self._content[offset : offset + count]


def commits_lost(before: bytes, after: bytes) -> int:
    """How many commits of a write-ahead log a node would drop without a word. Damage that is found loses none."""
    try:
        left = scan_wal(cast(Disk, _Image(after)), _PATH).commits
    except StoreDamaged:
        return 0
    return scan_wal(cast(Disk, _Image(before)), _PATH).commits - left
