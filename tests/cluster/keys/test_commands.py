"""Commands, stamps and outcomes: one encoding each, and nothing else decodes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys import commands
from keycluster.cluster.keys.commands import (
    TIME_MAX,
    Caller,
    CommandMalformed,
    EnableKey,
    NewBackingKey,
    Outcome,
    account_of,
    decode_command,
    decode_outcome,
    decode_payload,
    encode_command,
    encode_outcome,
    hash_parameters,
    stamp,
)
from keycluster.cluster.keys.records import MemberRole
from keycluster.cluster.types import AccountId, ClusterTime, KeyId, RunningTime
from keycluster.cluster.wire.errors import DisabledException
from keycluster.cluster.wire.operations import CreateKeyRequest, EnableKeyRequest, Tag
from tests.command_strategies import BODIES, bodies, callers, values_of
from tests.key_machine import caller_of


@given(
    bodies,
    callers,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.integers(0, TIME_MAX).map(RunningTime),
)
def test_command_of_any_body_comes_back(
    body: Any, caller: Caller, request_id: bytes, params_hash: bytes, asked: RunningTime
) -> None:
    """Whatever a command says, its decoding says the same."""
    command = decode_command(encode_command(body, caller, request_id=request_id, params_hash=params_hash, asked=asked))
    assert (command.body, command.caller) == (body, caller)
    assert (command.request_id, command.params_hash, command.asked) == (request_id, params_hash, asked)


@given(bodies, st.integers(0, TIME_MAX), st.integers(0, TIME_MAX))
def test_payload_with_stamp_comes_back(body: Any, time: int, running_ns: int) -> None:
    """Time and running time come back as stamped."""
    payload = decode_payload(stamp(encode_command(body, caller_of()), ClusterTime(time), running_ns))
    assert (payload.time, payload.running_ns, payload.command.body) == (time, running_ns, body)


@given(bodies, st.data())
def test_command_cut_short_or_longer_is_malformed(body: Any, data: st.DataObject) -> None:
    """Neither a prefix of a command nor a command with something behind it is a command."""
    command = encode_command(body, caller_of())
    cut = data.draw(st.integers(0, len(command) - 1))
    with pytest.raises(CommandMalformed):
        decode_command(command[:cut])
    with pytest.raises(CommandMalformed):
        decode_command(command + b"\x00")


@given(bodies, callers)
def test_account_of_a_command_is_its_caller_s(body: Any, caller: Caller) -> None:
    """Whatever the rest of it says."""
    assert account_of(encode_command(body, caller)) == caller.account


@given(st.binary(max_size=200))
def test_payload_of_garbage_is_malformed(garbage: bytes) -> None:
    """Bytes that nobody stamped raise CommandMalformed and nothing else."""
    account_of(garbage)  # Raises nothing.
    with pytest.raises(CommandMalformed):
        decode_payload(garbage)
    with pytest.raises(CommandMalformed):
        decode_payload(stamp(garbage, ClusterTime(0), 0))


@given(bodies, st.data())
def test_command_with_one_byte_changed_is_malformed_or_another_command(body: Any, data: st.DataObject) -> None:
    """There are no two encodings of one command."""
    command = bytearray(encode_command(body, caller_of()))
    place = data.draw(st.integers(0, len(command) - 1))
    command[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_command(bytes(command))
    except CommandMalformed:
        return
    again = encode_command(
        decoded.body,
        decoded.caller,
        request_id=decoded.request_id,
        params_hash=decoded.params_hash,
        asked=decoded.asked,
    )
    assert again == bytes(command)


def test_command_with_extra_members_is_malformed() -> None:
    """msgspec would skip them; two versions of a node could then apply one command differently."""
    raw = msgspec.msgpack.decode(encode_command(EnableKey("k"), caller_of()))
    raw[5].append("extra")
    with pytest.raises(CommandMalformed):
        decode_command(msgspec.msgpack.encode(raw))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x02" + bytes(16) + encode_command(EnableKey("k"), caller_of()),
        stamp(encode_command(EnableKey("k"), caller_of()), ClusterTime(2**64 - 1), 0),
        stamp(encode_command(EnableKey("k"), caller_of(), asked=RunningTime(TIME_MAX + 1)), ClusterTime(0), 0),
        stamp(encode_command(EnableKey("k"), caller_of(), asked=RunningTime(-1)), ClusterTime(0), 0),
        stamp(b"\x91" * 200_000, ClusterTime(0), 0),
        stamp(bytes(300_000), ClusterTime(0), 0),
    ],
    ids=[
        "empty",
        "other stamp version",
        "beyond time",
        "asked beyond time",
        "asked before time",
        "deeply nested",
        "too long",
    ],
)
def test_payload_that_no_leader_makes_is_malformed(payload: bytes) -> None:
    """Unknown versions, impossible times, nesting and length are all refused in the same way."""
    with pytest.raises(CommandMalformed):
        decode_payload(payload)


def test_command_of_another_version_is_malformed() -> None:
    """A node doesn't guess what a newer one meant."""
    raw = msgspec.msgpack.decode(encode_command(EnableKey("k"), caller_of()))
    raw[0] = 2
    with pytest.raises(CommandMalformed, match="version 2"):
        decode_command(msgspec.msgpack.encode(raw))


def test_command_with_wrong_id_length_cannot_be_made_or_read() -> None:
    """Request ids have 16 bytes, parameters' hashes 32."""
    with pytest.raises(ValueError, match="request id of 15 bytes"):
        encode_command(EnableKey("k"), caller_of(), request_id=bytes(15))
    raw = msgspec.msgpack.decode(encode_command(EnableKey("k"), caller_of()))
    raw[1] = bytes(17)
    with pytest.raises(CommandMalformed):
        decode_command(msgspec.msgpack.encode(raw))


def test_tags_of_bodies_are_each_their_own() -> None:
    """A tag is never given to a second command: old logs hold them."""
    tags = [body.__struct_config__.tag for body in BODIES]
    assert len(set(tags)) == len(tags)


@given(values_of(Outcome))
def test_outcome_comes_back(outcome: Outcome) -> None:
    """An outcome crosses the wire and the memory of requests unchanged."""
    assert decode_outcome(encode_outcome(outcome)) == outcome


def test_outcome_with_error_is_that_error() -> None:
    """A refusal becomes the exception that AWS's code names."""
    error = Outcome(error_code="DisabledException", error_message="it is disabled.").error()
    assert isinstance(error, DisabledException)
    assert error.message == "it is disabled."
    assert Outcome(ok=b"\x80").error() is None


def test_hash_of_parameters_tells_operations_and_values_apart() -> None:
    """The same parameters under another operation, or other parameters, hash differently; equal ones equally."""
    tagged = CreateKeyRequest(tags=(Tag(tag_key="a", tag_value="b"),))
    hashes = {
        hash_parameters("EnableKey", EnableKeyRequest(key_id="a")),
        hash_parameters("DisableKey", EnableKeyRequest(key_id="a")),
        hash_parameters("EnableKey", EnableKeyRequest(key_id="b")),
        hash_parameters("CreateKey", CreateKeyRequest()),
        hash_parameters("CreateKey", tagged),
    }
    assert len(hashes) == 5
    assert hash_parameters("CreateKey", tagged) in hashes


def test_repr_of_secrets_holds_none_of_them() -> None:
    """Tokens and sealed secrets stay out of logs and tracebacks."""
    token = b"\xaa" * 65
    backing = NewBackingKey(bytes(16), token)
    created = commands.CreateKey(key_id=KeyId("k"), backing=backing, description="", policy=None, tags=())
    access_key = commands.NewAccessKey("AKIA", AccountId("123456789012"), "arn", token, operator=False)
    join = commands.IssueJoinToken(bytes(16), token, MemberRole.VOTER, "az-1")
    for value in (backing, created, access_key, commands.CreateAccessKey(access_key), join):
        assert "\\xaa" not in repr(value)
