"""One step of one client: it asks, and what came of it stands in the history before anything else happens."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from keycluster.client.errors import KeyclusterError
from keycluster.client.surroundings import Surroundings
from keycluster.cluster.wire.admin import CreateAccessKeyResponse
from keycluster.cluster.wire.operations import Shape
from keycluster.simulations.checkers.history import (
    Call,
    History,
    Members,
    Outcome,
    ok,
    outcome_of,
    plain,
)
from keycluster.simulations.runs import Failure
from keycluster.simulations.trace import Trace, What
from keycluster.simulations.workload.doors import CHANGES, Door, OpenDoor, operation_of
from keycluster.simulations.workload.plan import Plan
from keycluster.simulations.workload.pool import Change, Pool

REQUEST_ID_BYTES = 16


@dataclass(slots=True)
class Record:
    """Where calls are written down. `now_ns` is the run's clock."""

    history: History
    now_ns: Callable[[], int]
    trace: Trace | None = None

    def begin(self, client: str, request: Shape, **about: Any) -> Call:
        call = self.history.begin(
            self.now_ns(), client, operation_of(request), about.pop("key"), plain(request), **about
        )
        if self.trace is not None:
            self.trace.note(call.invoked_ns, client, What.CALL, call.number, call.operation, call.key)
        return call

    def end(self, call: Call, outcome: Outcome, node: str | None, *, key: str | None = None) -> None:
        self.history.end(call, self.now_ns(), outcome, node, key=key)
        if self.trace is not None:
            said = " ".join(filter(None, (outcome.kind.value, outcome.code)))
            self.trace.note(call.returned_ns or 0, call.client, What.RETURNS, call.number, said, node)


@dataclass(slots=True)
class Caller:
    """A client with its access key at one door."""

    name: str
    door: Door
    surroundings: Surroundings
    """What its envelope encryption draws from."""
    open_door: OpenDoor
    operator: "Caller | None" = None
    """Who does what only operators may, where the client's own door doesn't take that."""
    access_key_id: str | None = None
    """None: one that nobody deactivates."""
    calls: int = 0
    """Begun so far."""


@dataclass(slots=True)
class Shared:
    """What all clients of a run have in common."""

    plan: Plan
    pool: Pool
    record: Record
    failures: list[Failure] = field(default_factory=list)
    """What a step itself saw to be wrong."""


@dataclass(slots=True)
class Turn:
    """One step's: `rng` is its own, so that what it draws hangs on nothing that other steps did."""

    caller: Caller
    shared: Shared
    rng: random.Random

    @property
    def plan(self) -> Plan:
        return self.shared.plan

    @property
    def pool(self) -> Pool:
        return self.shared.pool

    def by(self, caller: Caller) -> "Turn":
        """The same step, done by another client."""
        return Turn(caller, self.shared, self.rng)

    def node(self) -> str | None:
        """To ask that node and no other, now and then."""
        nodes = self.caller.door.nodes
        return self.rng.choice(nodes) if nodes and self.rng.random() < self.plan.pin_chance else None

    def request_id(self) -> bytes:
        return self.rng.randbytes(REQUEST_ID_BYTES)

    async def ask(
        self, request: Shape, *, at: str | None = None, request_id: bytes | None = None, seconds: float | None = None
    ) -> Shape | None:
        """The response, or None for whatever else came of it. A change has an id, given or drawn."""
        caller, pool, record = self.caller, self.pool, self.shared.record
        is_change, change = operation_of(request) in CHANGES, None
        if is_change and request_id is None:
            request_id = self.request_id()
            if caller.access_key_id is None:  # Ids are their principal's.
                change = Change(caller.door.kind, request, request_id)
                pool.changes.append(change)
        caller.calls += 1
        seconds = self.rng.choice(self.plan.seconds) if seconds is None else seconds
        call = record.begin(
            caller.name,
            request,
            key=pool.about(request),
            request_id=f"{caller.door.kind}/{request_id.hex()}" if request_id else None,
            access_key_id=caller.access_key_id,
        )
        with pool.expecting(request):
            try:
                response, node = await caller.door.ask(request, at=at, seconds=seconds, request_id=request_id)
            except KeyclusterError as error:
                record.end(call, outcome_of(error), at)
                return None
        record.end(call, ok(_recorded(response)), node, key=pool.learn(request, response))
        if change is not None:
            change.is_made = True
        return response


def _recorded(response: Shape) -> Members:
    """Of a new access key's secret its digest only: two answers can be compared, and the history tells nobody."""
    members = plain(response)
    if isinstance(response, CreateAccessKeyResponse):
        members["SecretAccessKey"] = sha256(response.secret_access_key.encode()).hexdigest()
    return members


Step = Callable[[Turn], Awaitable[None]]
"""One row of a plan: a call or a few."""
