"""Reads the test vectors out of docs/formats.md, so that document and code can't disagree.

A vector is a fenced block whose info string is `vector KIND`. Each line is `name = value`; a value is JSON (text,
numbers, maps) or bytes as h'…' in hexadecimal, which may go on over indented lines.
"""

import json
import re
from pathlib import Path
from typing import Any

FORMATS = Path(__file__).parent.parent / "docs" / "formats.md"

_BLOCK = re.compile(r"^```vector (?P<kind>[a-z -]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^(?P<name>[a-z0-9][a-z0-9 -]*?) *= (?P<value>h'[0-9a-f\s]*'|[^\n]*)$", re.MULTILINE)


def format_vectors(kind: str) -> list[dict[str, Any]]:
    """Every vector of that kind, in the document's order; at least one, or the document has lost it."""
    blocks = [match["body"] for match in _BLOCK.finditer(FORMATS.read_text()) if match["kind"] == kind]
    assert blocks, f"docs/formats.md has no vector of kind {kind!r}"
    return [_fields(body) for body in blocks]


def _fields(body: str) -> dict[str, Any]:
    fields = {match["name"]: _value(match["value"]) for match in _FIELD.finditer(body)}
    assert _FIELD.sub("", body).strip() == "", f"a line that is no field in a vector: {body!r}"
    return fields


def _value(text: str) -> Any:
    if text.startswith("h'"):
        return bytes.fromhex("".join(text[2:-1].split()))
    return json.loads(text)
