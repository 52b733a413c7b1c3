"""The clients of one simulated region: made, let loose, stopped; and what is asked of the region when all is quiet.

    work = SimWorkload(region, draw_plan(seed), seed=…, history=history, trace=trace)
    nursery.start_soon(work.run)
    …
    await work.stop()
    if not await work.prove_alive(seconds=10.0): …
    await work.let_time_pass(days=8)
    await work.last_look(blobs_max=200)

What clients saw is then in `history`; what a step itself saw to be wrong in `failures`.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import trio

from keycluster.client.endpoints import Credentials
from keycluster.cluster.keys.limits import DAY, ROTATION_PERIOD_DAYS_MIN
from keycluster.cluster.keys.records import KeyState, load_clock, load_key
from keycluster.cluster.types import SECOND, KeyId
from keycluster.node.config import NodeConfig
from keycluster.node.maintenance import LOOK_EVERY_S
from keycluster.node.proposals import FORWARD_AGAIN_S, HELD_S_MAX
from keycluster.simulations.checkers.history import History
from keycluster.simulations.region.clients import ClientWorld, SimClient
from keycluster.simulations.region.region import ACCESS_KEY, REGION, SimRegion
from keycluster.simulations.runs import Failure
from keycluster.simulations.trace import Trace
from keycluster.simulations.workload.plan import Plan
from keycluster.simulations.workload.turns import Caller, Record, Step
from keycluster.simulations.workload.workload import Workload

VISITOR: Final = "visitor"
"""The machine from which the last questions come: no fault is meant for it."""
UNTIL_S: Final = 3_600.0
"""After time has passed, at most: a run's last look is over long before."""
UNDER_WAY_SECONDS: Final = HELD_S_MAX + FORWARD_AGAIN_S
"""The longest that a node which was stopped in a try may still have it: a region forgets request ids after minutes."""
TIME_MOVES_SECONDS: Final = 30.0
"""Clocks are asked with each round of leases: far longer than it takes."""


class SimWorkload:
    """One run's."""

    def __init__(self, region: SimRegion, plan: Plan, *, seed: str, history: History, trace: Trace) -> None:
        self._region = region
        self._history = history
        record = Record(history, lambda: region.wire.now_ns, trace)
        self.workload = Workload(plan, record, seed=f"{seed}/workload")
        self._world = ClientWorld(
            network=region.network,
            wire=region.wire,
            client_ca=region.client_ca,
            credentials=Credentials(ACCESS_KEY.access_key_id, ACCESS_KEY.secret),
            region=REGION,
            nodes=self._nodes,
            seed=seed,
        )
        azs = sorted({node.config.az for node in region.nodes.values()})
        rng = random.Random(f"{seed}/clients")
        self.clients = [
            SimClient(f"c{number}", self._world, az=rng.choice(azs), aws=number < plan.aws_clients)
            for number in range(plan.clients)
        ]
        self._visitor = SimClient(VISITOR, self._world)
        self._ended = trio.Event()

    @property
    def failures(self) -> list[Failure]:
        """What steps saw to be wrong."""
        return self.workload.shared.failures

    @property
    def names(self) -> list[str]:
        """The clients' machines, for the nemesis."""
        return [client.name for client in self.clients]

    async def run(self) -> None:
        """Until `stop`, or cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for client in self.clients:
                    nursery.start_soon(client.work, self.workload)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Returns when every call under way has ended, by its own time at the latest."""
        self.workload.stop()
        await self._ended.wait()

    async def one_off(self, name: str, step: Step) -> None:
        """By a program of its own, on a machine of that name."""
        await SimClient(name, self._world).live(lambda caller: step(self.workload.turn(caller)))

    # When all is quiet.

    async def prove_alive(self, *, seconds: float) -> bool:
        """Whether a key can be made and used, by a client that knows nothing of what was before."""
        proved = []

        async def prove(caller: Caller) -> None:
            proved.append(await self.workload.prove_alive(caller, seconds=seconds))

        await self._visitor.live(prove)
        return proved == [True]

    async def last_look(self, *, blobs_max: int) -> None:
        """Every key at every node, and so many ciphertexts of the whole run: into the history."""
        members = self._region.rows()  # A removal that was refused may have been carried out by an earlier asking.
        nodes = [name for name in sorted(self._nodes()) if name in members]
        await self._visitor.live(partial(self.workload.last_look, nodes=nodes, blobs_max=blobs_max))

    async def let_time_pass(self, *, days: int) -> None:
        """All wall clocks go on by so many days; returns when what was due then has been done.

        An operator confirms the leap, else nothing would be destroyed. What the region may do by itself from now on
        stands in the history, for the checkers. Raises `TooSlowError`.
        """
        await trio.sleep(UNDER_WAY_SECONDS)
        region, now_ns = self._region, self._region.wire.now_ns
        walls = [node.clock.wall() for node in region.nodes.values()]
        until = (max(self._time(), *walls) + days * DAY) / SECOND + UNTIL_S
        for key in self.workload.shared.pool.keys:
            by_itself = ["CompleteKeyDeletion"] * self._may_end(key.key_id, until)
            by_itself += ["RotateKeyAutomatically"] * (days >= ROTATION_PERIOD_DAYS_MIN)
            for operation in by_itself:
                arguments = {"KeyId": key.key_id, "Until": until}
                self._history.begin(now_ns, "region", operation, key.key_id, arguments)
        for node in region.nodes.values():
            node.clock.jump_wall(days * DAY)
        # By the clocks: the region's time may be ahead of them, if one was, and was all that a small region had.
        then = min(self._time(), *walls) + (days - 1) * DAY
        with trio.fail_after(TIME_MOVES_SECONDS):
            await region.until(lambda: self._time() >= then)
        await region.operate("ConfirmTime")
        with trio.fail_after(TIME_MOVES_SECONDS + 2 * LOOK_EVERY_S * (1 + len(self.workload.shared.pool.keys))):
            await region.until(lambda: not self._due())

    def _may_end(self, key_id: str, until: float) -> bool:
        """Whether clients have been told of no other end than one that is due by then, or may have asked for one."""
        asked = [call for call in self._history.calls if call.operation == "ScheduleKeyDeletion" and call.key == key_id]
        return any(not call.is_ok or call.value["DeletionDate"] <= until for call in asked)

    def _time(self) -> int:
        """The region's, as the newest state has it."""
        view = self._region.view()
        clock = None if view is None else load_clock(view)
        return 0 if clock is None else clock.time

    def _due(self) -> Sequence[str]:
        """Keys whose end has come."""
        view = self._region.view()
        if view is None:
            return ()
        records = [load_key(view, KeyId(key.key_id)) for key in self.workload.shared.pool.keys]
        return [
            record.key_id
            for record in records
            if record is not None
            and record.state is KeyState.PENDING_DELETION
            and (record.deletion_at or 0) <= self._time()
        ]

    def _nodes(self) -> Mapping[str, NodeConfig]:
        """The region's machines but for those that were told to leave, if there are others."""
        region = self._region
        names = [name for name in region.nodes if name not in region.removed] or list(region.nodes)
        return {name: region.nodes[name].config for name in names}
