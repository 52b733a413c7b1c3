"""Binary files as the client reads and writes them: plain ones in a worker thread, async ones by their own methods."""

import inspect
import io
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

import anyio.to_thread

T = TypeVar("T")


class Source(Protocol):
    """A plain binary file: fewer bytes than asked for are fine, none are the end."""

    def read(self, count: int, /) -> bytes: ...


class AsyncSource(Protocol):
    """As `Source`, but `read` is awaited: anyio's and trio's files."""

    async def read(self, count: int, /) -> bytes: ...


class Sink(Protocol):
    """A plain binary file; raw ones, which may take less than given, too."""

    def write(self, content: Any, /) -> int | None: ...


class AsyncSink(Protocol):
    """As `Sink`, but `write` is awaited."""

    async def write(self, content: Any, /) -> int | None: ...


class Opened:
    """A file, and whether it is an async one. It isn't closed here: who opened it closes it."""

    def __init__(self, file: Source | AsyncSource | Sink | AsyncSink, method: str) -> None:
        self._call: Callable[..., Any] = getattr(file, method)
        self.is_async = inspect.iscoroutinefunction(self._call)

    def read_blocking(self, count: int) -> bytes:
        """At most `count` bytes, none at the end. For a worker thread."""
        return _bytes_of(self._call(count))

    async def read(self, count: int) -> bytes:
        """As `read_blocking`, for an async file."""
        return _bytes_of(await cast(Awaitable[Any], self._call(count)))

    def write_blocking(self, content: bytes | bytearray) -> None:
        """All of `content`. For a worker thread."""
        view = memoryview(content)
        while len(view) > 0:
            view = view[_taken(self._call(view), len(view)) :]

    async def write(self, content: bytes | bytearray) -> None:
        """As `write_blocking`, for an async file."""
        view = memoryview(content)
        while len(view) > 0:
            view = view[_taken(await cast(Awaitable[Any], self._call(view)), len(view)) :]


def _bytes_of(answer: object) -> bytes:
    if not isinstance(answer, bytes):
        raise TypeError(f"read() gave {type(answer).__name__}: open the file in binary, blocking mode")
    return answer


def _taken(answer: object, offered: int) -> int:
    """How many bytes write() took. Files that return nothing take all; raw ones without a count are non-blocking."""
    if answer is None:
        return offered
    if not isinstance(answer, int) or not 0 < answer <= offered:
        raise io.UnsupportedOperation(f"write() gave {answer!r} for {offered} bytes")
    return answer


async def in_thread(work: Callable[[], T]) -> T:
    """Off the event loop. If the caller is cancelled meanwhile, `work` is still waited for: files have one user."""
    return await anyio.to_thread.run_sync(work)
