"""The stores on a real file system: modes, locks between processes, SIGKILL."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keycluster.cluster.raft.messages import Entry, EntryKind, Membership
from keycluster.cluster.store.authentication import StateKeys
from keycluster.cluster.store.errors import StoreLocked
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.node.world import RealDisk

WRITER = """
import sys
from pathlib import Path
from keycluster.cluster.raft.messages import Entry, EntryKind
from keycluster.cluster.store.authentication import StateKeys
from keycluster.cluster.store.log import LogStore
from keycluster.node.world import RealDisk

keys = StateKeys(1, *(bytes.fromhex(key) for key in sys.argv[2:]))
log = LogStore.open(RealDisk(), Path(sys.argv[1]), keys)
print("open", flush=True)
while True:
    index = log.last_index + 1
    log.write(entries=[Entry(1, index, EntryKind.COMMAND, b"x" * 700)])
    print(index, flush=True)
"""


@pytest.fixture
def real_disk() -> RealDisk:
    return RealDisk()


def test_store_files_are_for_their_owner_only(real_disk: RealDisk, keys: StateKeys, tmp_path: Path) -> None:
    """0600 each, whatever the umask, the WAL, shared memory and snapshots included."""
    umask = os.umask(0)
    try:
        log = LogStore.create(real_disk, tmp_path / "log", keys)
        log.write(entries=[Entry(Term(1), LogIndex(1), EntryKind.COMMAND, b"")])
        state = StateStore.create(real_disk, tmp_path / "state", keys, membership=Membership((NodeId("a"),)))
        state.apply([Entry(Term(1), LogIndex(1), EntryKind.COMMAND, b"")], lambda tx, entry: tx.put(1, b"k", b"v"))
        state.write_snapshot(tmp_path / "state" / "snapshot")
        files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    finally:
        os.umask(umask)
    assert {"log.db", "log.db-wal", "log.db-shm", "state.db", "state.db-wal", "snapshot", "lock"} <= set(modes)
    assert set(modes.values()) == {0o600}
    log.close()
    state.close()


def test_store_of_a_killed_process_opens_with_all_it_acknowledged(
    real_disk: RealDisk, keys: StateKeys, tmp_path: Path
) -> None:
    """While the process lives its store is locked; after SIGKILL nothing is in the way."""
    folder = tmp_path / "log"
    LogStore.create(real_disk, folder, keys).close()
    secrets = [key.hex() for key in (keys.row_mac, keys.set_hash, keys.sum_seal, keys.log_mac)]
    acknowledged = 0
    for lines in (40, 3, 90):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, folder, *secrets], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "open\n"
            with pytest.raises(StoreLocked):
                LogStore.open(real_disk, folder, keys)
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.kill()
            rest = writer.stdout.read().split("\n")
            acknowledged = max([acknowledged, *(int(line) for line in rest[:-1] if line)])
        log = LogStore.open(real_disk, folder, keys)
        assert log.last_index >= acknowledged
        log.close()
