"""What commands print: tables and lines for people, JSON for machines, errors in one line on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec


class CommandFailed(Exception):
    """The command didn't do what was asked. `code` is the service's error code where it was the service's refusal."""

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint


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
        from rich.console import Console  # Slow to import, and not needed for --json.
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console(highlight=False, markup=False).print(table)

    def error(self, failure: CommandFailed) -> None:
        """One line on stderr, and a hint in a second one if there is one."""
        text = " ".join(failure.message.split())
        if self.json:
            print(json.dumps({"error": text, "code": failure.code}), file=sys.stderr)
            return
        print(f"keycluster: {failure.code + ': ' if failure.code else ''}{text}", file=sys.stderr)
        if failure.hint:
            print(f"  hint: {failure.hint}", file=sys.stderr)


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
