"""Many clients on a few keys, at a rate, until they are told to stop; and what is asked when all is quiet again."""

import math
import random
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from keycluster.cluster.wire import operations as wire
from keycluster.simulations.workload.access_steps import ACCESS_STEPS
from keycluster.simulations.workload.bursts import BURST_STEPS, LOOK_SECONDS
from keycluster.simulations.workload.control_steps import CONTROL_STEPS
from keycluster.simulations.workload.data_steps import DATA_STEPS
from keycluster.simulations.workload.plan import STEPS, Plan
from keycluster.simulations.workload.pool import Pool
from keycluster.simulations.workload.turns import Caller, Record, Shared, Step, Turn

ALL_STEPS: Final[dict[str, Step]] = {**DATA_STEPS, **CONTROL_STEPS, **BURST_STEPS, **ACCESS_STEPS}
PICKS_MAX: Final = 4
"""Of steps, until one finds something to do."""
KEYS_FIRST: Final = 2
"""As many are made before anything else is done, by whoever comes first."""
BACKLOG_MAX: Final = 8
"""Calls that a client is behind its rate at most: after a stall it doesn't make up for all that it missed."""


class Workload:
    """One run's, shared by all clients. `seed` decides every draw."""

    def __init__(self, plan: Plan, record: Record, *, seed: str) -> None:
        if STEPS.keys() != ALL_STEPS.keys():
            raise ValueError(f"steps without a weight or without code: {STEPS.keys() ^ ALL_STEPS.keys()}")
        pool = Pool(tuple(f"alias/sim-{number}" for number in range(plan.aliases)))
        self.shared = Shared(plan, pool, record)
        self._seed = seed
        self._stops = trio.Event()
        self._numbers: dict[str, int] = {}  # Of each client's last step: no two draw alike, whoever begins anew.

    @property
    def is_over(self) -> bool:
        return self._stops.is_set()

    def stop(self) -> None:
        """No new steps; those under way end by themselves."""
        self._stops.set()

    async def run_client(self, caller: Caller, *, seconds: float = math.inf) -> None:
        """Steps at this client's share of the rate, for `seconds` or until `stop`; returns when all have ended."""
        plan, rng = self.shared.plan, self._rng(caller)
        ends, due, running = trio.current_time() + seconds, 0, 0

        async def step(turn: Turn) -> None:
            nonlocal running
            running += 1
            try:
                await self._step(turn)
            finally:
                running -= 1

        async with trio.open_nursery() as nursery:
            while trio.current_time() < ends:
                with trio.move_on_after(rng.expovariate(plan.rate_per_s / plan.clients)):
                    await self._stops.wait()
                    return
                due = min(due + 1, caller.calls + BACKLOG_MAX)
                if running < plan.in_flight_max and caller.calls < due:
                    nursery.start_soon(step, self.turn(caller))

    def turn(self, caller: Caller) -> Turn:
        """The client's next one."""
        return Turn(caller, self.shared, self._rng(caller))

    def _rng(self, caller: Caller) -> random.Random:
        number = self._numbers[caller.name] = self._numbers.get(caller.name, 0) + 1
        return random.Random(f"{self._seed}/turn/{caller.name}/{number}")

    async def _step(self, turn: Turn) -> None:
        pool, weights, caller = self.shared.pool, self.shared.plan.weights, turn.caller
        names, begun = list(weights), caller.calls
        for _ in range(PICKS_MAX):
            is_early = len(pool.keys) + pool.creating < min(KEYS_FIRST, self.shared.plan.keys_max)
            [name] = ["create_key"] if is_early else turn.rng.choices(names, list(weights.values()))
            await ALL_STEPS[name](turn)
            if caller.calls > begun:
                return

    # When all is quiet.

    async def prove_alive(self, caller: Caller, *, seconds: float) -> bool:
        """Whether a key can be made and used within `seconds`."""
        turn = self.turn(caller)
        begun = trio.current_time()
        made = await turn.ask(wire.CreateKeyRequest(description="proof of life"), seconds=seconds)
        if not isinstance(made, wire.CreateKeyResponse):
            return False
        left = max(0.001, begun + seconds - trio.current_time())
        encrypting = wire.EncryptRequest(key_id=made.key_metadata.key_id, plaintext=b"alive")
        return await turn.ask(encrypting, seconds=left) is not None

    async def last_look(self, caller: Caller, *, nodes: Sequence[str], blobs_max: int) -> None:
        """Every key at every node, and ciphertexts from the whole run, spread over the nodes: for the checkers."""
        turn = self.turn(caller)
        for key in self.shared.pool.keys:
            describing = wire.DescribeKeyRequest(key_id=key.key_id)
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(partial(turn.ask, describing, at=node, seconds=LOOK_SECONDS))
            await turn.ask(wire.ListResourceTagsRequest(key_id=key.key_id), seconds=LOOK_SECONDS)
            await turn.ask(wire.ListKeyRotationsRequest(key_id=key.key_id), seconds=LOOK_SECONDS)
        blobs = self.shared.pool.blobs
        for known in turn.rng.sample(blobs, min(len(blobs), blobs_max)):
            opening = wire.DecryptRequest(ciphertext_blob=known.blob, encryption_context=known.context)
            await turn.ask(opening, at=turn.rng.choice(nodes), seconds=LOOK_SECONDS)
        await turn.ask(wire.ListKeysRequest(), seconds=LOOK_SECONDS)
        await turn.ask(wire.ListAliasesRequest(), seconds=LOOK_SECONDS)
