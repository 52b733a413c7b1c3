"""The vectors of docs/formats.md, "Log command": read by our decoder, and made by another msgpack library."""

import struct
from typing import Any, get_args

import msgpack
import pytest

from keycluster.cluster.keys.commands import (
    CommandBody,
    decode_payload,
    encode_command,
    stamp,
)
from tests.format_vectors import FORMATS, format_vectors

VECTORS = format_vectors("log command")


def with_bytes(value: Any) -> Any:
    """JSON has no bytes: {"bytes": "00ff"} stands for them."""
    if isinstance(value, dict):
        return bytes.fromhex(value["bytes"])
    return [with_bytes(member) for member in value] if isinstance(value, list) else value


@pytest.mark.parametrize("vector", VECTORS)
def test_payload_of_vector_is_what_the_document_says(vector: dict[str, Any]) -> None:
    """Made from the document's words alone, with a msgpack library that isn't ours."""
    command = [1, vector["request id"], vector["caller"], vector["parameters hash"], vector["asked"]]
    command.append(with_bytes(vector["body"]))
    header = struct.pack(">BQQ", 1, vector["cluster time"], vector["running time"])
    assert header + msgpack.packb(command) == vector["payload"]


@pytest.mark.parametrize("vector", VECTORS)
def test_payload_of_vector_decodes_and_encodes_again(vector: dict[str, Any]) -> None:
    """Both directions of our own code."""
    payload = decode_payload(vector["payload"])
    command = payload.command
    assert (payload.time, payload.running_ns) == (vector["cluster time"], vector["running time"])
    assert (command.request_id, command.params_hash) == (vector["request id"], vector["parameters hash"])
    assert command.asked == vector["asked"]
    assert command.caller.is_region is (not vector["caller"][2])
    again = encode_command(
        command.body,
        command.caller,
        request_id=command.request_id,
        params_hash=command.params_hash,
        asked=command.asked,
    )
    assert stamp(again, payload.time, payload.running_ns) == vector["payload"]


def test_document_lists_every_body_with_its_tag() -> None:
    """A new command is written down before it enters a log."""
    text = FORMATS.read_text()
    for body in get_args(CommandBody):
        assert f"| {body.__struct_config__.tag} | {body.__name__} |" in text
