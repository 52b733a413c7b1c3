"""A file in memory: what its readers see, what of it is durable, and the writes since its last sync."""

from dataclasses import dataclass, field

from keycluster.simulations.sqlite_vfs import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class Write:
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    size: int


@dataclass(slots=True)
class MemoryFile:
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[Write | Truncate] = field(default_factory=list)

    def write(self, offset: int, content: bytes) -> None:
        put(self.content, offset, content)
        self.unsynced.append(Write(offset, content))

    def truncate(self, size: int) -> None:
        cut(self.content, size)
        self.unsynced.append(Truncate(size))

    def sync(self) -> None:
        for write in self.unsynced:  # Not a copy of the content: files are large, writes small.
            if isinstance(write, Write):
                put(self.durable, write.offset, write.content)
            else:
                cut(self.durable, write.size)
        self.unsynced.clear()


def put(content: bytearray, offset: int, written: bytes) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(written)] = written


def cut(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def sectors(write: Write) -> list[Write]:
    """The write cut at multiples of 512 bytes of the file."""
    parts = []
    offset, end = write.offset, write.offset + len(write.content)
    while offset < end:
        until = min(end, (offset // SECTOR_BYTES + 1) * SECTOR_BYTES)
        parts.append(Write(offset, write.content[offset - write.offset : until - write.offset]))
        offset = until
    return parts
