"""What clients do and what is written down of it: judged by nobody here, but it must be all, in order, and honest."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from keycluster.client.errors import DeadlineExceeded, NodesUnreachable
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import (
    DependencyTimeoutException,
    DisabledException,
    KeyUnavailableException,
    ThrottlingException,
)
from keycluster.cluster.wire.operations import Shape
from keycluster.simulations.checkers.currency import check_currency
from keycluster.simulations.checkers.history import NEVER, History, OutcomeKind
from keycluster.simulations.trace import Trace, What
from keycluster.simulations.workload import access_steps, bursts, data_steps
from keycluster.simulations.workload.doors import CHANGES, Answered, NativeDoor, operation_of, request_ids
from keycluster.simulations.workload.plan import ALWAYS, STEPS, draw_plan
from keycluster.simulations.workload.turns import Record
from keycluster.simulations.workload.workload import Workload
from tests.node.region_in_process import region_in_process
from tests.simulations.workload.quick_region import ARN, NODES, QuickDoor, QuickRegion, QuickWorld
from tests.simulations.workload.real_region import RealClients

ENCRYPT = wire.EncryptRequest(key_id="k0", plaintext=b"p")
EVERY_STEP = replace(
    draw_plan(1, clients=4, rate_per_s=150.0), weights=STEPS, aws_clients=2, keys_max=6, pin_chance=0.4, in_flight_max=8
)


# What one call leaves behind.


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (DisabledException("d"), OutcomeKind.REFUSED, "DisabledException"),
        (KeyUnavailableException("l"), OutcomeKind.FAILED, "KeyUnavailableException"),
        (ThrottlingException("t"), OutcomeKind.FAILED, "ThrottlingException"),
        (NodesUnreachable("n"), OutcomeKind.FAILED, "NodesUnreachable"),
        (DependencyTimeoutException("s"), OutcomeKind.UNKNOWN, "DependencyTimeoutException"),
        (DeadlineExceeded("s"), OutcomeKind.UNKNOWN, "DeadlineExceeded"),
    ],
)
async def test_call_that_fails_is_written_down_as_what_is_known(error: Exception, kind: OutcomeKind, code: str) -> None:
    """No more is claimed than the caller was told."""
    world = QuickWorld()
    world.region.before = lambda request: error
    assert await world.workload.turn(world.caller()).ask(ENCRYPT, at="n2") is None
    [call] = world.history.calls
    assert (call.kind, call.code, call.node, call.operation, call.key) == (kind, code, "n2", "Encrypt", "k0")


async def test_call_that_is_cut_off_has_no_answer() -> None:
    """A killed client's change may be made yet: it stands open for ever."""
    world = QuickWorld()
    with trio.CancelScope() as scope:
        scope.cancel()
        await world.workload.turn(world.caller()).ask(wire.CreateKeyRequest())
    [call] = world.history.calls
    assert (call.outcome, call.ended, call.kind) == (None, NEVER, OutcomeKind.UNKNOWN)
    assert call.request_id is not None
    assert world.workload.shared.pool.creating == 0


async def test_answer_is_written_down_before_anybody_acts_on_it() -> None:
    """A created key is known by its id, a change by its request id, in the history and the trace alike."""
    world = QuickWorld()
    world.workload.shared.record.trace = trace = Trace(keep=True)
    turn = world.workload.turn(world.caller())
    await turn.ask(wire.CreateKeyRequest())
    await turn.ask(ENCRYPT)
    created, encrypted = world.history.calls
    assert (created.key, created.is_ok, encrypted.request_id) == ("k0", True, None)
    assert encrypted.value["KeyId"] == f"{ARN}k0"
    assert created.began < created.ended < encrypted.began
    assert [record.what for record in trace.records()] == [What.CALL, What.RETURNS] * 2
    [known] = world.workload.shared.pool.blobs
    assert (known.blob, known.key_id) == (encrypted.value["CiphertextBlob"], "k0")


# Steps of more than one call.


async def test_change_is_looked_at_from_every_node() -> None:
    """The moment it has returned."""
    world = QuickWorld()
    turn = world.workload.turn(world.caller())
    await turn.ask(wire.CreateKeyRequest())
    disabling = wire.DisableKeyRequest(key_id="k0")
    response = await turn.ask(disabling)
    assert response is not None
    await bursts.look_everywhere(turn, bursts.looks_after(turn, disabling, response))
    assert sorted(call.node or "" for call in world.history.calls[2:]) == list(NODES)
    assert {call.code for call in world.history.calls[2:]} == {"DisabledException"}


def test_every_change_has_its_look() -> None:
    """A change that nobody could look at would be no burst."""
    looked = {kind.__name__.removesuffix("Request") for kind in bursts.LOOKS}
    assert looked == CHANGES - {"CreateAccessKey", "DeactivateAccessKey", "ConfirmTime"}


async def test_repeat_has_the_first_ones_id_and_request() -> None:
    """Whoever repeats it; and a repeat isn't another change to be repeated."""
    world = QuickWorld()
    await world.workload.turn(world.caller("c1")).ask(wire.CreateKeyRequest(description="once"))
    await bursts.repeat(world.workload.turn(world.caller("c2")))
    first, again = world.history.calls
    assert (first.client, again.client) == ("c1", "c2")
    assert (first.request_id, first.arguments) == (again.request_id, again.arguments)
    assert len(world.workload.shared.pool.changes) == 1


async def test_misuse_gives_a_made_changes_id_a_second_meaning() -> None:
    """Of a change that was answered only: the id of another one may be free. It is no change to be repeated."""
    world = QuickWorld(EVERY_STEP)
    turn = world.workload.turn(world.caller())
    await bursts.misuse_id(turn)
    assert not world.history.calls
    await turn.ask(wire.CreateKeyRequest(description="once"))
    while len(world.history.calls) == 1:
        await bursts.misuse_id(turn)
    made, misused = world.history.calls
    assert made.request_id == misused.request_id
    assert (made.operation, made.arguments) != (misused.operation, misused.arguments)
    assert len(world.workload.shared.pool.changes) == 1


async def test_twins_are_one_change_at_the_same_time() -> None:
    """Neither waits for the other's answer."""
    world = QuickWorld(EVERY_STEP)
    turn = world.workload.turn(world.caller())
    await turn.ask(wire.CreateKeyRequest())
    while len(world.history.calls) == 1:
        await bursts.twins(turn)
    _, one, other = world.history.calls
    assert one.request_id == other.request_id
    assert other.began < one.ended


async def test_envelope_that_opens_as_something_else_is_a_failure() -> None:
    """The step itself sees it: no single call is wrong."""
    world = QuickWorld()
    turn = world.workload.turn(world.caller())
    await turn.ask(wire.CreateKeyRequest())
    await data_steps.envelope(turn)
    assert not world.workload.shared.failures
    answer = world.region.answer

    def lie(request: Shape) -> Shape:
        response = answer(request)
        if isinstance(response, wire.DecryptResponse):
            return wire.DecryptResponse(
                key_id=response.key_id, plaintext=bytes(32), encryption_algorithm="SYMMETRIC_DEFAULT"
            )
        return response

    world.region.answer = lie  # type: ignore[method-assign]  # Of this one only.
    await data_steps.envelope(turn)
    [failure] = world.workload.shared.failures
    assert failure.checker == "envelope"


async def live_of_an_access_key(world: QuickWorld) -> None:
    turn = world.workload.turn(world.caller())
    await turn.ask(wire.CreateKeyRequest())
    await access_steps.access_key(turn)


async def test_access_key_is_used_withdrawn_and_tried_again() -> None:
    """Its calls say whose they are; its secret isn't in the history."""
    world = QuickWorld()
    await live_of_an_access_key(world)
    own = [call for call in world.history.calls if call.access_key_id is not None]
    withdrawn = next(call for call in world.history.calls if call.operation == "DeactivateAccessKey")
    assert {call.node for call in own if call.ended < withdrawn.began} >= set(NODES)
    after = [call for call in own if call.began > withdrawn.ended]
    assert {call.node for call in after} >= set(NODES)
    assert {call.code for call in after} == {"UnrecognizedClientException"}
    assert "hush" not in "".join(world.history.to_json_lines())
    assert not world.workload.shared.failures


async def test_access_key_that_is_refused_at_once_is_a_failure() -> None:
    """At the log-in, which is no call that a checker could see."""
    world = QuickWorld()
    world.region.lets_nobody_in = True
    await live_of_an_access_key(world)
    [failure] = world.workload.shared.failures
    assert failure.checker == "currency"


async def test_withdrawn_access_key_that_may_log_in_is_tried_everywhere() -> None:
    """What a node then does for it stands in the history, for the checkers."""
    world = QuickWorld()
    world.region.lets_everybody_in = True
    await live_of_an_access_key(world)
    last = world.history.calls[-len(NODES) :]
    assert {call.node for call in last} == set(NODES)
    assert {(call.code, call.access_key_id is None) for call in last} == {("UnrecognizedClientException", False)}
    world.region.withdrawn.clear()  # As a node that forgot: with an answer it is a violation.
    [held] = {call.access_key_id for call in last}
    await world.workload.turn(world.caller("c1", held or "")).ask(ENCRYPT)
    world.history.calls[-1].access_key_id = held
    assert [failure.checker for failure in check_currency(world.history)] == ["currency"]


# All of it.


async def run_for(seconds: float, world: QuickWorld, clients: int) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(world.workload.run_client, world.caller(f"c{number}"))
        await trio.sleep(seconds)
        world.workload.stop()


async def test_clients_keep_to_their_rate(autojump_clock: trio.testing.MockClock) -> None:
    """Bursts included: who did more at once does less afterwards."""
    world = QuickWorld(draw_plan(3, clients=5, rate_per_s=20.0))
    await run_for(100.0, world, 5)
    assert 1_800 < len(world.history.calls) < 2_200


class StallingDoor(QuickDoor):
    """Answers nothing until `opens` is set."""

    def __init__(self, region: QuickRegion) -> None:
        super().__init__(region, "AKIAOPERATOR")
        self.opens = trio.Event()

    async def ask(self, request: Shape, *, at: str | None, seconds: float, request_id: bytes | None = None) -> Answered:
        await self.opens.wait()
        return await super().ask(request, at=at, seconds=seconds, request_id=request_id)


async def test_client_that_stalls_does_not_make_up_for_it(autojump_clock: trio.testing.MockClock) -> None:
    """A flood after each partition would be all that is tested."""
    world = QuickWorld(replace(draw_plan(3, clients=1, rate_per_s=10.0), in_flight_max=1))
    caller, door = world.caller(), StallingDoor(world.region)
    caller.door = door
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.workload.run_client, caller)
        await trio.sleep(100.0)
        assert len(world.history.calls) == 1
        door.opens.set()
        await trio.sleep(10.0)
        assert len(world.history.calls) < 130
        world.workload.stop()


async def test_seed_decides_what_is_asked(autojump_clock: trio.testing.MockClock) -> None:
    """The same calls again from the same seed, where the region answers the same: with one client at least, which asks
    for one thing after the other."""
    drawn = draw_plan(9, clients=1)
    plan = replace(drawn, weights={**drawn.weights, "change_and_look": 0.0, "twins": 0.0}, in_flight_max=1)
    said = []
    for _ in range(2):
        world = QuickWorld(plan)
        await run_for(20.0, world, 1)
        said.append([(operation_of(request), request, at) for request, at in world.region.asked])
    assert len(said[0]) > 20
    assert said[0] == said[1]


async def test_client_that_begins_anew_draws_no_id_twice(autojump_clock: trio.testing.MockClock) -> None:
    """Its second life isn't a repeat of its first one."""
    world = QuickWorld(replace(EVERY_STEP, weights={**STEPS, "repeat": 0.0, "twins": 0.0, "misuse_id": 0.0}, clients=1))
    for _ in range(2):
        await world.workload.run_client(world.caller(), seconds=3.0)
    ids = [call.request_id for call in world.history.calls if call.request_id is not None]
    assert len(ids) == len(set(ids)) > 10


@given(seed=st.integers(0, 10_000), clients=st.none() | st.integers(1, 12))
def test_plan_always_leaves_something_to_do(seed: int, clients: int | None) -> None:
    """Whatever a seed leaves out, keys are made, used, and not all of them lost."""
    plan = draw_plan(seed, clients=clients)
    assert all(plan.weights[step] > 0 for step in ALWAYS)
    assert plan.weights["enable_key"] > plan.weights["disable_key"]
    assert plan.weights["cancel_deletion"] >= plan.weights["schedule_deletion"]
    assert plan.weights.keys() == STEPS.keys()
    assert 0 <= plan.aws_clients < plan.clients == (clients or plan.clients)
    assert plan.weights == draw_plan(seed).weights  # What is given changes nothing that is drawn.


def test_seeds_leave_different_steps_out() -> None:
    """Swarm testing: a mix of everything, always, would miss what needs much of one thing."""
    left_out = Counter(step for seed in range(200) for step, weight in draw_plan(seed).weights.items() if not weight)
    assert set(left_out) == set(STEPS) - set(ALWAYS)


async def test_workload_on_real_nodes(tmp_path: Path) -> None:
    """Through both doors, at every node: every operation is met, and no answer that contract 2 forbids."""
    async with region_in_process(tmp_path) as region:
        await region.found("n0")
        for name in ("n1", "n2"):
            await region.join(name, az=name)
        await region.all_serve(voters=3)
        history, begins = History(), trio.current_time()
        record = Record(history, lambda: int((trio.current_time() - begins) * 1e9))
        workload, clients = Workload(EVERY_STEP, record, seed="real"), RealClients(region, tmp_path)

        async def client(number: int) -> None:
            async with clients.caller(f"c{number}", aws=number < EVERY_STEP.aws_clients) as caller:
                await workload.run_client(caller)

        async with trio.open_nursery() as nursery:
            for number in range(EVERY_STEP.clients):
                nursery.start_soon(client, number)
            await trio.sleep(4.0)  # Work is done for as long as this; nothing waits for it.
            workload.stop()
        async with clients.caller("visitor") as caller:
            assert await workload.prove_alive(caller, seconds=5.0)
            await workload.last_look(caller, nodes=("n0", "n1", "n2"), blobs_max=40)
    assert not workload.shared.failures
    assert not check_currency(history)
    done = Counter(call.operation for call in history.calls if call.is_ok)
    assert min(done[name] for name in ("Encrypt", "Decrypt", "CreateKey", "DisableKey", "DescribeKey")) > 0
    assert len(done) > 20
    assert {call.node for call in history.calls if call.is_ok} >= {"n0", "n1", "n2"}


def test_chosen_request_id_is_given_out_once() -> None:
    """A client that draws an id for each of its tries must be seen to make a change of each."""
    next_id = request_ids(lambda: b"fresh")

    class Tries:
        async def disable_key(self, **_: object) -> list[bytes]:
            return [next_id(), next_id()]

        def at(self, _: str) -> "Tries":
            return self

    async def main() -> object:
        door = NativeDoor(Tries())  # type: ignore[arg-type]  # All that is called of a client.
        await door.ask(wire.DisableKeyRequest(key_id="k0"), at=None, seconds=1.0, request_id=b"chosen")
        answer, _ = await door.ask(wire.DisableKeyRequest(key_id="k0"), at="n1", seconds=1.0, request_id=b"chosen")
        return answer

    assert trio.run(main) == [b"chosen", b"fresh"]
