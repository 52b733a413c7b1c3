"""From a request to its answer: the order of checks, and whose fault a failure is."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.keys.blob import parse_blob
from keycluster.cluster.keys.commands import Outcome, decode_command, hash_parameters
from keycluster.cluster.keys.hierarchy import Keyring
from keycluster.cluster.store.errors import StoreDamaged
from keycluster.cluster.types import LogIndex
from keycluster.cluster.wire.errors import (
    DisabledException,
    KeyUnavailableException,
    KMSInternalException,
    NotFoundException,
    UnrecognizedClientException,
)
from keycluster.cluster.wire.operations import (
    CreateKeyRequest,
    DecryptRequest,
    DecryptResponse,
    DescribeKeyRequest,
    DisableKeyRequest,
    EncryptRequest,
    EncryptResponse,
    GenerateRandomRequest,
    UntagResourceRequest,
)
from keycluster.node.consensus import NobodyLeads
from keycluster.node.dispatch import Waiting
from keycluster.node.gate import Answer, Gate
from keycluster.node.operations.table import OPERATIONS, Cost, Plane
from tests.node.doors.region import ACCESS_KEY, Region


@pytest.fixture
def region() -> Region:
    return Region()


def waiting(region: Region, name: str, request: Any, *, request_id: bytes | None = None, seconds: float = 5) -> Waiting:
    credential = region.room.credential(ACCESS_KEY)
    assert credential is not None
    deadline = trio.current_time() + seconds
    call, caller, asked = region.dispatch.calls[name], credential.caller("192.0.2.1"), region.dispatch.running_time
    return Waiting(call, caller, request, 7, deadline, request_id, asked)


def test_every_operation_is_offered_at_both_doors(region: Region) -> None:
    """One table; what runs inline is quick, as it holds up everybody else."""
    assert region.dispatch.calls.keys() == OPERATIONS.keys()
    assert region.dispatch.native_calls.keys() >= OPERATIONS.keys()
    for name, call in region.dispatch.calls.items():
        assert call.is_inline is (OPERATIONS[name].plane is Plane.DATA)
        assert OPERATIONS[name].cost is Cost.QUICK


def test_node_without_a_lease_reads_no_state(region: Region) -> None:
    """Rule L3: the check comes first."""
    region.state.reads.clear()
    call = region.dispatch.calls["Encrypt"]
    answer = region.dispatch.answer_now(call, region.caller(), None, number=1, serving=False)
    assert answer is not None
    assert isinstance(answer.error, call.unavailable)
    assert region.state.reads == []


async def test_read_without_a_lease_reads_no_state(region: Region) -> None:
    """The same for control-plane reads."""
    region.applied.serving = False
    asked = waiting(region, "DescribeKey", DescribeKeyRequest(key_id="k"))
    region.state.reads.clear()
    answer = await region.dispatch.perform(asked)
    assert answer.error is not None
    assert answer.error.retryable
    assert region.state.reads == []


async def test_write_without_a_lease_is_proposed(region: Region) -> None:
    """The log decides, and it may find a leader before the caller's deadline."""
    region.applied.serving = False
    answer = await region.dispatch.perform(waiting(region, "CreateKey", CreateKeyRequest()))
    assert answer.error is None


@pytest.mark.parametrize(
    ("name", "request_made"),
    [
        ("DisableKey", DisableKeyRequest(key_id="k")),
        ("UntagResource", UntagResourceRequest(key_id="k", tag_keys=("a",))),
    ],
)
async def test_write_that_knows_no_leader_is_for_another_node(
    region: Region, monkeypatch: pytest.MonkeyPatch, name: str, request_made: Any
) -> None:
    """By the error that AWS lists for the operation."""

    async def propose(command: bytes) -> Outcome:
        raise NobodyLeads

    monkeypatch.setattr(region.applied, "propose", propose)
    answer = await region.dispatch.perform(waiting(region, name, request_made))
    assert type(answer.error) is OPERATIONS[name].unavailable
    assert answer.error.may_be_made


async def test_command_carries_request_id_and_parameters(region: Region) -> None:
    """So that a repeat is known, and another request under its id refused."""
    request = CreateKeyRequest(description="d")
    await region.dispatch.perform(waiting(region, "CreateKey", request, request_id=b"r" * 16))
    await region.dispatch.perform(waiting(region, "CreateKey", request))
    first, second = map(decode_command, region.applied.proposed)
    assert first.request_id == b"r" * 16
    assert first.params_hash == second.params_hash == hash_parameters("CreateKey", request)
    assert second.request_id not in (first.request_id, bytes(16))


async def test_deadline_ends_a_read_that_does_not_settle(region: Region, autojump_clock: MockClock) -> None:
    """Retryably: another node may have settled."""
    region.applied.settle = trio.Event()
    key = region.add_key()
    answer = await region.dispatch.perform(waiting(region, "DescribeKey", DescribeKeyRequest(key_id=key.key_id)))
    assert answer.response is None
    assert answer.error is not None
    assert answer.error.retryable
    assert trio.current_time() == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("change", [{"active": False}, {"version": 2}])
async def test_access_key_withdrawn_before_a_read_s_turn_refuses_it(region: Region, change: dict[str, Any]) -> None:
    """Between a request's arrival and its task's first step other steps may have been taken."""
    key = region.add_key()
    asked = waiting(region, "DescribeKey", DescribeKeyRequest(key_id=key.key_id))
    region.change_access_key(**change)
    answer = await region.dispatch.perform(asked)
    assert isinstance(answer.error, UnrecognizedClientException)


async def test_read_settles_what_it_saw(region: Region) -> None:
    """Not what was applied while it waited."""
    asked: list[int] = []

    async def settled(index: int) -> None:
        asked.append(index)

    region.applied.settled = settled  # type: ignore[method-assign]  # Of this one only.
    key = region.add_key()
    await region.dispatch.perform(waiting(region, "DescribeKey", DescribeKeyRequest(key_id=key.key_id)))
    assert asked == [region.state.applied_index]


async def test_refused_read_settles_what_it_saw_too(region: Region) -> None:
    """Rule L10: who was told that a key isn't there must not find it at another node afterwards."""
    region.applied.settle = trio.Event()
    answers: list[Answer] = []

    async def ask() -> None:
        unknown = DescribeKeyRequest(key_id="alias/gone")
        answers.append(await region.dispatch.perform(waiting(region, "DescribeKey", unknown)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert answers == []
        region.applied.settle.set()
    assert isinstance(answers[0].error, NotFoundException)


def inline(region: Region, monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> Answer:
    def handler(*_: object) -> None:
        raise raised

    call = region.dispatch.calls["GenerateRandom"]
    monkeypatch.setattr(call, "handler", handler)
    answer = region.dispatch.answer_now(call, region.caller(), GenerateRandomRequest(), number=1, serving=True)
    assert answer is not None
    return answer


def test_refusal_of_a_handler_is_the_answer(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was raised."""
    assert isinstance(inline(region, monkeypatch, DisabledException("off")).error, DisabledException)


async def test_fault_of_a_handler_is_answered_without_its_text(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold what was being worked on, so neither caller nor log gets it."""
    with capture_logs() as lines:
        error = inline(region, monkeypatch, ValueError("key material")).error
    assert isinstance(error, KMSInternalException)
    assert "key material" not in error.message + error.detail
    assert "ValueError" in error.detail
    assert [line["detail"] for line in lines] == [error.detail]


async def test_detail_of_a_refusal_is_for_the_log(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a handler and at log-in; the caller gets the message alone."""
    region.room.clear()
    region.room.keyring = Keyring(region.room.region, {2: bytes(32)}, 2)
    with capture_logs() as lines:
        inline(region, monkeypatch, KMSInternalException("", detail="of a handler"))
        with pytest.raises(KeyUnavailableException) as refused:
            region.dispatch.credential(ACCESS_KEY)
    assert [line["detail"] for line in lines] == ["of a handler", refused.value.detail]
    assert refused.value.detail


@pytest.mark.parametrize(
    "fault", [StoreDamaged(Path("state.db"), "a row"), InvariantBroken("no"), OSError("disk"), MemoryError()]
)
def test_fault_that_ends_the_node_gets_through(
    region: Region, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """A damaged store is never an answer."""
    with pytest.raises(type(fault)):
        inline(region, monkeypatch, fault)


async def test_damaged_store_found_by_a_read_ends_the_connection_s_door(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a task too."""

    def handler(*_: object) -> None:
        raise StoreDamaged(Path("state.db"), "a row")

    monkeypatch.setattr(region.dispatch.calls["DescribeKey"], "handler", handler)
    with pytest.raises(StoreDamaged):
        await region.dispatch.perform(waiting(region, "DescribeKey", DescribeKeyRequest(key_id="k")))


async def test_gate_counts_what_passes() -> None:
    """Answers, and refusals by code."""
    gate = Gate()
    answers = [
        Answer(1, "Encrypt", None, msgspec.Struct(), None),
        Answer(2, "Encrypt", None, None, DisabledException("off")),
    ]
    assert list(await gate.pass_out(answers)) == answers
    assert (gate.passed, gate.refusals) == (2, {"DisabledException": 1})


async def test_answers_wait_at_the_gate(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract 6: nothing leaves either door before the gate lets it."""
    opened = trio.Event()
    pass_out = region.gate.pass_out

    async def closed(answers: Any) -> Any:
        await opened.wait()
        return await pass_out(answers)

    async with region.native() as client:
        monkeypatch.setattr(region.gate, "pass_out", closed)
        asked: list[Any] = []

        async def ask() -> None:
            asked.append(await client.ask("GenerateRandom", GenerateRandomRequest(number_of_bytes=1)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            assert asked == []
            opened.set()
        assert len(asked) == 1


async def test_nothing_is_encrypted_under_a_rotation_that_is_not_settled(region: Region) -> None:
    """A node that hasn't applied it yet could not decrypt what came of it, and would call it no ciphertext at all."""
    key = region.add_key()
    old = encrypted(region, key.key_id)
    assert old is not None
    region.applied.settled_index = LogIndex(4)
    rotated = region.rotate(key.key_id, index=LogIndex(5))
    assert encrypted(region, key.key_id) is None
    asked: list[int] = []

    async def settled(index: int) -> None:
        asked.append(index)
        region.applied.settled_index = LogIndex(index)

    region.applied.settled = settled  # type: ignore[method-assign]  # Of this one only.
    answer = await region.dispatch.perform(
        waiting(region, "Encrypt", EncryptRequest(key_id=key.key_id, plaintext=b"x"))
    )
    assert asked == [5]
    assert isinstance(answer.response, EncryptResponse)
    assert parse_blob(answer.response.ciphertext_blob).backing_key_id == rotated.current.id
    again = encrypted(region, key.key_id)
    assert again is not None
    assert parse_blob(again).backing_key_id == rotated.current.id


def test_what_is_encrypted_is_decrypted_while_a_rotation_is_not_settled(region: Region) -> None:
    """Decrypt waits for nothing: the key that it needs is there."""
    key = region.add_key()
    blob = encrypted(region, key.key_id)
    region.applied.settled_index = LogIndex(4)
    region.rotate(key.key_id, index=LogIndex(5))
    request = DecryptRequest(ciphertext_blob=blob)
    answer = region.dispatch.answer_now(
        region.dispatch.calls["Decrypt"], region.caller(), request, number=1, serving=True
    )
    assert answer is not None
    assert isinstance(answer.response, DecryptResponse)
    assert answer.response.plaintext == b"x"


async def test_unsettled_rotation_holds_an_encryption_until_its_deadline_only(region: Region) -> None:
    """Then another node may do it."""
    key = region.add_key()
    region.applied.settled_index = LogIndex(4)
    region.rotate(key.key_id, index=LogIndex(5))
    region.applied.settle = trio.Event()
    request = EncryptRequest(key_id=key.key_id, plaintext=b"x")
    answer = await region.dispatch.perform(waiting(region, "Encrypt", request, seconds=0.01))
    assert isinstance(answer.error, KeyUnavailableException)


def encrypted(region: Region, key_id: str) -> bytes | None:
    """What Encrypt answers at once; None where it waits."""
    request = EncryptRequest(key_id=key_id, plaintext=b"x")
    answer = region.dispatch.answer_now(
        region.dispatch.calls["Encrypt"], region.caller(), request, number=1, serving=True
    )
    if answer is None:
        return None
    assert isinstance(answer.response, EncryptResponse)
    return answer.response.ciphertext_blob
