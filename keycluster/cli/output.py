"""What commands print: tables and lines for people, JSON for machines, errors in one line on stderr."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from unicodedata import east_asian_width

import msgspec


class CommandFailed(Exception):
    """The command didn't do what was asked. `code` is the service's error code where it was the service's refusal,
    `status` the exit status where it isn't the one by which this command always fails."""

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.status = status


class Output:
    """Where a command's results go."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def result(self, value: Any, *, lines: Sequence[str] = ()) -> None:
        """A command's one result: as JSON, or as the given lines."""
        if self.json:
            print(json.dumps(_plain(value), indent=2))
        else:
            for line in lines:
                print(line)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, value: Any) -> None:
        """`value` as JSON, or the rows as a table."""
        if self.json:
            print(json.dumps(_plain(value), indent=2))
            return
        for line in _aligned(columns, rows, bold=sys.stdout.isatty()):
            print(line)

    def error(self, failure: CommandFailed) -> None:
        """One line on stderr, and a hint in a second one if there is one."""
        text = printable(" ".join(failure.message.split()))
        if self.json:
            print(json.dumps({"error": text, "code": failure.code}), file=sys.stderr)
            return
        print(f"keycluster: {': '.join(part for part in (failure.code, text) if part)}", file=sys.stderr)
        if failure.hint:
            print(f"  hint: {failure.hint}", file=sys.stderr)


def printable(text: str) -> str:
    """Safe for a terminal and for one line: what callers wrote into descriptions and tags is shown, not obeyed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], *, bold: bool) -> Iterator[str]:
    """Columns as wide as their longest cell. Nothing is folded: an ARN must stay in one piece to be copied or cut."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(_width, cells)) for cells in zip(columns, *shown, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    if any(columns):
        yield f"\x1b[1m{line(columns)}\x1b[0m" if bold else line(columns)
    yield from map(line, shown)


def _width(text: str) -> int:
    """In a terminal's columns, of which East Asian wide characters take two (Unicode Standard Annex 11)."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def _plain(value: Any) -> Any:
    """Of JSON's types: responses by AWS's member names, bytes as Base64, times as Unix seconds."""
    if isinstance(value, Mapping):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    return value


def when(unix_seconds: float | None) -> str:
    """A time as people read it, in UTC."""
    if unix_seconds is None:
        return "-"
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
