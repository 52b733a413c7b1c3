"""Snapshots: one file that is a copy of the state database, and a last page of ours that authenticates all before it.

Last page, 4,096 bytes: magic 8 ‖ generation u32 ‖ bytes of the meta u32 ‖ meta (msgpack of `SnapshotMeta`) ‖ zeros ‖
HMAC-SHA-256 32 over file and page up to it. SQLite takes its page count from the file's header and doesn't look at what
follows.

The MAC is checked before SQLite sees a byte: its parser never meets a file that none of us wrote. The rows are
checked after that all the same, as at every start: the MAC says who wrote the file, the set hash that it has all rows
of its index.
"""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct

import apsw
import msgspec

from keycluster.cluster.invariant import require
from keycluster.cluster.raft.messages import SnapshotMeta
from keycluster.cluster.seams import Disk
from keycluster.cluster.store.authentication import MAC_BYTES, StateAuthentication
from keycluster.cluster.store.database import PAGE_BYTES, close_quietly, copy_database
from keycluster.cluster.store.errors import SnapshotRefused, StoreDamaged, store_errors
from keycluster.cluster.store.rows import RowReader, StateMeta, encode_meta, verify_state

_MAGIC = b"kcsnap\x00\x01"
_HEAD = Struct(">8sII")
_BODY_BYTES = PAGE_BYTES - MAC_BYTES
_READ_BYTES = 1 << 20

_decode = msgspec.msgpack.Decoder(SnapshotMeta).decode
_encode = msgspec.msgpack.Encoder().encode


def write_snapshot(
    disk: Disk, path: Path, source: apsw.Connection, authentication: StateAuthentication
) -> SnapshotMeta:
    """Copies the newest commit that `source` sees to `path`, replacing what is there once all of it is durable."""
    unfinished = path.with_name(path.name + ".unfinished")
    with store_errors(unfinished):
        disk.remove(unfinished.with_name(unfinished.name + "-journal"))
        disk.write_at(unfinished, 0, b"")
        with _opened(disk, unfinished, apsw.SQLITE_OPEN_READWRITE) as target:
            # The file counts only once it is synced and renamed: until then nothing of it needs to be durable.
            target.pragma("synchronous", "OFF")
            copy_database(target, source)
            target.pragma("journal_mode", "DELETE")  # The copy says WAL; a single file is wanted.
            meta = _mark_installed(target, unfinished, authentication)
        _append_trailer(disk, unfinished, meta.snapshot, authentication)
        disk.rename(unfinished, path)
    return meta.snapshot


@contextmanager
def verified_snapshot(
    disk: Disk, path: Path, announced: SnapshotMeta, authentication: StateAuthentication
) -> Iterator[tuple[apsw.Connection, StateMeta, int]]:
    """Opens a snapshot for copying, its meta and the sum of its rows beside it. Raises `SnapshotRefused`."""
    try:
        with store_errors(path):
            _check_file(disk, path, announced, authentication)
        with store_errors(path), _opened(disk, path, apsw.SQLITE_OPEN_READONLY) as connection:
            try:
                meta, total = verify_state(connection, path, authentication)
            except StoreDamaged as error:
                raise SnapshotRefused(path, str(error)) from None
            if meta.snapshot != announced:
                raise SnapshotRefused(path, "its content isn't what its last page says")
            yield connection, meta, total
    except StoreDamaged as error:
        raise SnapshotRefused(path, str(error)) from error


def _mark_installed(target: apsw.Connection, path: Path, authentication: StateAuthentication) -> StateMeta:
    """Notes in the copy that a state of this file comes from a snapshot: see `recovery.py` for who asks."""
    meta = RowReader(target, path, authentication).meta()
    meta = msgspec.structs.replace(meta, installed_index=meta.applied_index)
    record = authentication.seal_meta(encode_meta(meta))
    target.execute("UPDATE meta SET record = ? WHERE id = 1", (record,))
    return meta


def _append_trailer(disk: Disk, path: Path, meta: SnapshotMeta, authentication: StateAuthentication) -> None:
    size = disk.size(path)
    require(size % PAGE_BYTES == 0, f"a database of {size} bytes")
    body = _trailer_body(meta, authentication.generation)
    mac = _file_mac(disk, path, size, authentication)
    mac.update(body)
    disk.write_at(path, size, body + mac.digest())


def _check_file(disk: Disk, path: Path, announced: SnapshotMeta, authentication: StateAuthentication) -> None:
    size = disk.size(path)
    if size < 2 * PAGE_BYTES or size % PAGE_BYTES:
        raise SnapshotRefused(path, f"{size} bytes are no snapshot")
    trailer = disk.read_at(path, size - PAGE_BYTES, PAGE_BYTES)
    body = trailer[:_BODY_BYTES]
    mac = _file_mac(disk, path, size - PAGE_BYTES, authentication)
    mac.update(body)
    if not hmac.compare_digest(mac.digest(), trailer[_BODY_BYTES:]):
        raise SnapshotRefused(path, "its MAC doesn't match")
    if body != _trailer_body(announced, authentication.generation):
        raise SnapshotRefused(path, "it isn't the one that was announced")


def _trailer_body(meta: SnapshotMeta, generation: int) -> bytes:
    encoded = _encode(meta)
    require(_HEAD.size + len(encoded) <= _BODY_BYTES, f"a membership of {len(encoded)} bytes")
    return (_HEAD.pack(_MAGIC, generation, len(encoded)) + encoded).ljust(_BODY_BYTES, b"\0")


def _file_mac(disk: Disk, path: Path, size: int, authentication: StateAuthentication) -> hmac.HMAC:
    mac = authentication.snapshot_mac()
    for offset in range(0, size, _READ_BYTES):
        mac.update(disk.read_at(path, offset, min(_READ_BYTES, size - offset)))
    return mac


@contextmanager
def _opened(disk: Disk, path: Path, flags: int) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(path), flags=flags, vfs=disk.vfs)
    try:
        yield connection
    finally:
        close_quietly(connection)
