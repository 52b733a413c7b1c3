"""A look at a write-ahead log before SQLite opens it: is its end torn, or is it damaged?

SQLite replays a WAL up to the first frame that doesn't verify and drops the rest without a word. That is right for a
torn tail, the last commit's frames that a crash kept from the disk; but one byte flipped in the middle drops
committed, synced rows as silently. The two can be told apart, because with synchronous=FULL a commit begins only
after the one before it has been synced: what is torn is always the last commit's, so behind it stands no frame of a
later commit with the current salt.

Format (https://sqlite.org/fileformat2.html, "The Write-Ahead Log"), all numbers big-endian: a header of 32 bytes
(magic, version, page size, checkpoint sequence, salt 8, checksum 8 over the first 24), then frames: page number 4,
database size in pages after commit or 0 4, salt 8, checksum 8, page. The checksum runs on from frame to frame over
the first 8 bytes of each frame's header and its page; so a frame can be checked from the *stored* checksum of the one
before, also behind a bad one. The salts are not under the checksum.

What this rests on: the header is synced before the first frame (SQLite's `syncHeader`), a sector of 512 bytes reaches
the disk whole or not at all, and a store's WAL is emptied when it is opened, so that it never holds the remains of a
torn commit behind newer frames. What can't be told: damage inside the very last commit looks like a torn one. Then
the node comes back with less than it had acknowledged, and its peers know better (security.md, 5).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from keycluster.cluster.seams import Disk
from keycluster.cluster.store.errors import StoreDamaged

HEADER_BYTES = 32
FRAME_HEAD_BYTES = 24
SECTOR_BYTES = 512
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_VERSION = 3_007_000
_HEADER = Struct(">IIII8s8s")
_FRAME = Struct(">II8s8s")
_PAIR = Struct(">II")
_MASK = 0xFFFF_FFFF
_READ_BYTES = 1 << 20

Checksum = tuple[int, int]


@dataclass(frozen=True, slots=True)
class WalScan:
    """What SQLite will find: `commits` whole commits in `frames` frames; `torn` if more of the current salt follows."""

    frames: int = 0
    commits: int = 0
    torn: bool = False


@dataclass(frozen=True, slots=True)
class _Frame:
    offset: int
    page_number: int
    commit_pages: int
    salt: bytes
    stored: Checksum
    head: bytes
    page: bytes


def scan_wal(disk: Disk, path: Path) -> WalScan:
    """Checks the WAL at `path` (none is fine). Raises `StoreDamaged` if SQLite would drop more than a torn tail."""
    size = disk.size(path)
    if size < HEADER_BYTES + FRAME_HEAD_BYTES:
        # No frame. A header alone may be torn: it is synced before any frame is written.
        return WalScan()
    header = disk.read_at(path, 0, HEADER_BYTES)
    magic, version, page_bytes, _sequence, salt, stored = _HEADER.unpack(header)
    big = magic == _MAGIC_BIG
    if magic not in (_MAGIC_LITTLE, _MAGIC_BIG) or version != _VERSION:
        raise StoreDamaged(path, "its header is not a write-ahead log's")
    running = _PAIR.unpack(stored)
    if _checksum((0, 0), header[:24], big=big) != running:
        raise StoreDamaged(path, "its header's checksum doesn't match")
    frames = _frames(disk, path, size=size, page_bytes=page_bytes)
    return _scan_frames(path, frames, salt=salt, running=running, big=big)


def _scan_frames(path: Path, frames: Iterator[_Frame], *, salt: bytes, running: Checksum, big: bool) -> WalScan:
    count = commits = committed = 0
    for frame in frames:
        valid = _frame_checksum(running, frame, big=big) == frame.stored
        if valid and frame.salt != salt:
            raise StoreDamaged(path, f"the salt of frame {count + 1} was changed")
        if not valid:
            torn = _tail_is_torn(path, frame, frames, salt=salt, running=running, big=big)
            return WalScan(committed, commits, torn=torn or count > committed)
        running = frame.stored
        count += 1
        if frame.commit_pages:
            committed = count
            commits += 1
    return WalScan(committed, commits, torn=count > committed)


def _tail_is_torn(
    path: Path, bad: _Frame, rest: Iterator[_Frame], *, salt: bytes, running: Checksum, big: bool
) -> bool:
    """False if it is only what an earlier use of the file left. Raises if a later commit stands behind `bad`."""
    number = (bad.offset - HEADER_BYTES) // (FRAME_HEAD_BYTES + len(bad.page)) + 1
    torn = bad.salt == salt
    commit_ended = torn and _ends_commit(bad, running, big=big)
    before = bad
    for frame in rest:
        if frame.salt != salt:
            before = frame
            continue
        torn = True
        if commit_ended:
            raise StoreDamaged(path, f"frame {number} doesn't verify, yet later commits follow it")
        valid = _frame_checksum(before.stored, frame, big=big) == frame.stored
        commit_ended = valid and frame.commit_pages != 0
        before = frame
    return torn


def _ends_commit(bad: _Frame, running: Checksum, *, big: bool) -> bool:
    """Whether a frame that doesn't verify was a commit's last one.

    The checksum can be run backwards from a frame's end: as long as its page and checksum are whole, that tells what
    its first eight bytes were when it was written, whatever happened to them since. Else those bytes themselves are
    believed, unless a sector's end parts them from the salt: then they may be older than it.
    """
    s0, s1 = _checksum_undone(bad.stored, bad.page, big=big)
    head = _TWO[big].pack((s0 - running[0] - running[1]) & _MASK, (s1 - running[1] - s0) & _MASK)
    page_number, commit_pages = _PAIR.unpack(head)
    if bad.page_number == page_number:
        return bool(commit_pages)
    return bad.commit_pages != 0 and (bad.offset + 8) % SECTOR_BYTES != 0


def _frames(disk: Disk, path: Path, *, size: int, page_bytes: int) -> Iterator[_Frame]:
    """All whole frames of the file, in order."""
    frame_bytes = FRAME_HEAD_BYTES + page_bytes
    at_once = max(1, _READ_BYTES // frame_bytes)
    offset = HEADER_BYTES
    while offset + frame_bytes <= size:
        block = disk.read_at(path, offset, at_once * frame_bytes)
        whole = len(block) // frame_bytes
        for start in range(0, whole * frame_bytes, frame_bytes):
            head = block[start : start + FRAME_HEAD_BYTES]
            number, commit_pages, salt, stored = _FRAME.unpack(head)
            page = block[start + FRAME_HEAD_BYTES : start + frame_bytes]
            yield _Frame(offset + start, number, commit_pages, salt, _PAIR.unpack(stored), head[:8], page)
        if not whole:
            return
        offset += whole * frame_bytes


def _frame_checksum(running: Checksum, frame: _Frame, *, big: bool) -> Checksum:
    return _checksum(_checksum(running, frame.head, big=big), frame.page, big=big)


_EIGHT = {False: Struct("<8I"), True: Struct(">8I")}
_TWO = {False: Struct("<2I"), True: Struct(">2I")}


def _checksum(running: Checksum, content: bytes, *, big: bool) -> Checksum:
    """SQLite's checksum over pairs of words, four pairs a turn: masking once a turn is a quarter faster in Python."""
    s0, s1 = running
    whole = len(content) - len(content) % 32
    for a, b, c, d, e, f, g, h in _EIGHT[big].iter_unpack(content[:whole]):
        s0 += a + s1
        s1 += b + s0
        s0 += c + s1
        s1 += d + s0
        s0 += e + s1
        s1 += f + s0
        s0 = (s0 + g + s1) & _MASK
        s1 = (s1 + h + s0) & _MASK
    for a, b in _TWO[big].iter_unpack(content[whole:]):
        s0 = (s0 + a + s1) & _MASK
        s1 = (s1 + b + s0) & _MASK
    return s0, s1


def _checksum_undone(running: Checksum, content: bytes, *, big: bool) -> Checksum:
    """The checksum before `content`, from the one after it."""
    s0, s1 = running
    for a, b in reversed(list(_TWO[big].iter_unpack(content))):
        s1 = (s1 - b - s0) & _MASK
        s0 = (s0 - a - s1) & _MASK
    return s0, s1
