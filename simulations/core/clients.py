"""Callers: they ask any node, follow the leader, and try again under the same number until they give up.

Each has one call under way at most and thinks in between. What they saw is a history (`checkers/history.py`), checked
for linearizability register by register at the end: changes and both kinds of control-plane reads. Data-plane calls are
checked as they are answered (`door.py`), for they are promised less: what has returned, not what another one saw.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from keycluster.cluster.raft.messages import Entry
from keycluster.cluster.types import MILLISECOND, SECOND, NodeId
from keycluster.simulations.checkers.history import REGISTER, Call, History, Outcome, failed, ok, refused, unknown
from keycluster.simulations.checkers.linearizability import Verdict, check_linearizable
from keycluster.simulations.checkers.register_model import RegisterModel
from keycluster.simulations.core.door import CONFIRM, READ, USE, WRITE, Answer, Request
from keycluster.simulations.core.findings import Found
from keycluster.simulations.core.machine import ANY_LIFE
from keycluster.simulations.core.state import ANYTHING, STAMP_BYTES, encode_change
from keycluster.simulations.core.world import World
from keycluster.simulations.trace import What

REGISTERS = 3  # Few, so that callers meet.
KINDS = (WRITE, WRITE, USE, USE, READ, CONFIRM)  # Drawn from: a third of all calls are changes.
COMPARE_CHANCE = 0.3  # That a change expects the value seen last.
ATTEMPT_NS = (200 * MILLISECOND, 800 * MILLISECOND)  # Between two attempts, where no answer came.
PAUSE_NS = (5 * MILLISECOND, 80 * MILLISECOND)  # After "not here".
PATIENCE_NS = (2 * SECOND, 8 * SECOND)
STAYS_CHANCE = 0.7  # With the node asked last; else any.
KNOWS_MEMBERS_CHANCE = 0.9  # Else it asks anybody, as a program does that was told its nodes long ago.

NOBODY = NodeId("")

KEYS = tuple(f"{REGISTER} {number}" for number in range(1, REGISTERS + 1))
LINEARIZABILITY = "linearizability"
OPERATIONS = {WRITE: "Write", USE: "Use", READ: "Read", CONFIRM: "Read"}


@dataclass(slots=True, eq=False)
class Client:
    number: int
    name: str
    node: NodeId
    """Whom it asks next."""
    request: Request | None = None
    call: Call | None = None
    changes: int = 0
    seen: dict[int, int] = field(default_factory=dict)
    """The value it saw last in each register."""
    began_at: int = 0
    gives_up_at: int = 0


class Callers:
    def __init__(
        self,
        world: World,
        seed: int | str,
        *,
        count: int,
        operations_per_s: float,
        ask: Callable[[NodeId, Request], None],
    ) -> None:
        """`ask` takes a request on its way to a node. `operations_per_s` is of all callers together."""
        self.history = History()
        self.resting = False
        """No new calls; those under way go on."""
        self._world = world
        self._ask_node = ask
        self._rng = random.Random(f"clients/{seed}")
        self._think_ns = count * SECOND / operations_per_s
        self._values = 0
        self._changes: dict[bytes, Call] = {}  # By their commands.
        first = next(iter(world.machines))
        self._clients = [Client(number, f"client {number}", first) for number in range(1, count + 1)]

    def start(self) -> None:
        for client in self._clients:
            self._later(int(self._rng.expovariate(1) * self._think_ns), self._begin, client, client.call)

    def _later(self, ns: int, call: Callable[..., None], a: object, b: object) -> None:
        self._world.push(self._world.t + ns, None, ANY_LIFE, call, a, b)

    # A call

    def _begin(self, client: Client, before: Call | None) -> None:
        """The next call, unless it has begun."""
        if client.call is before and not self.resting:
            self._ask(client, self._rng.choice(KINDS))

    def ask_now(self, kind: int) -> Call:
        """A call of the first client's that has none under way; it gives one up if it must."""
        client = min(self._clients, key=lambda client: client.request is not None)
        if client.request is not None:
            self._end(client, unknown("given up"), "")
        return self._ask(client, kind)

    def _ask(self, client: Client, kind: int) -> Call:
        rng, t = self._rng, self._world.t
        register = int(rng.random() * REGISTERS)
        operation, command = OPERATIONS[kind], b""
        arguments: dict[str, int] = {}
        if kind == WRITE:
            operation, arguments, command = self._draw_change(client, register)
        key = KEYS[register]
        call = self.history.begin(t, client.name, operation, key, arguments)
        if command:
            self._changes[command] = call
        client.call, client.began_at = call, t
        client.gives_up_at = t + rng.randint(*PATIENCE_NS)
        client.request = Request(client.number, call.number, 0, kind, register, command, client.changes)
        self._world.trace.note(t, client.name, What.CALL, call.number, operation, key)
        if rng.random() > STAYS_CHANCE:
            client.node = self._any_node()
        self._send(client, client.request)
        return call

    def _draw_change(self, client: Client, register: int) -> tuple[str, dict[str, int], bytes]:
        client.changes += 1
        self._values += 1
        value, expected = self._values, ANYTHING
        operation, arguments = "Write", {"Value": value}
        if self._rng.random() < COMPARE_CHANCE and client.seen.get(register, 0):
            expected = client.seen[register]
            operation, arguments = "CompareAndSet", {"Expected": expected, "Value": value}
        command = encode_change(
            client=client.number, number=client.changes, register=register, expected=expected, value=value
        )
        return operation, arguments, command

    def _any_node(self, but: NodeId = NOBODY) -> NodeId:
        """Mostly a member: machines that were removed run on. Not `but`, where there is another one."""
        machines = self._world.machines
        nodes = sorted(machines)
        if self._rng.random() < KNOWS_MEMBERS_CHANCE:
            newest = max((machine.disk.state for machine in machines.values()), key=lambda state: state.index)
            nodes = [node for node in nodes if newest.membership.is_member(node)] or nodes
        return self._rng.choice([node for node in nodes if node != but] or nodes)

    def _send(self, client: Client, request: Request) -> None:
        self._ask_node(client.node, request)
        self._later(self._rng.randint(*ATTEMPT_NS), self._late, client, request)

    def _late(self, client: Client, request: Request) -> None:
        """No answer to this attempt, if it is still the newest."""
        if client.request is request:
            client.node = self._any_node(but=client.node)
            self._again(client, request)

    def _again(self, client: Client, request: Request) -> None:
        if client.request is not request:
            return
        if self._world.t >= client.gives_up_at:
            changes = request.kind == WRITE
            self._end(client, unknown("gave up") if changes else failed("gave up"), "")
            return
        client.request = replace(request, attempt=request.attempt + 1)
        self._send(client, client.request)

    def answered(self, answer: Answer) -> None:
        """An answer has come. Of an earlier attempt of the same call a success counts too."""
        client = self._clients[answer.request.client - 1]
        current = client.request
        if current is None or current.call != answer.request.call:
            return
        if answer.value is not None:
            client.node = answer.node
            self._end(client, self._outcome(client, answer), answer.node)
        elif current is answer.request:
            client.node = answer.hint or self._any_node(but=answer.node)
            self._later(self._rng.randint(*PAUSE_NS), self._again, client, current)

    def _outcome(self, client: Client, answer: Answer) -> Outcome:
        if answer.request.kind != WRITE:
            client.seen[answer.request.register] = int(answer.value or 0)
            return ok({"Value": answer.value or None})
        return ok({}) if answer.value else refused("AnotherValue")

    def _end(self, client: Client, outcome: Outcome, node: str) -> None:
        call, t = client.call, self._world.t
        if call is None:
            return
        self.history.end(call, t, outcome, node or None)
        self._world.trace.note(t, client.name, What.RETURNS, call.number, outcome.kind.value, node)
        client.request = None
        think = int(self._rng.expovariate(1) * self._think_ns)
        self._later(max(0, client.began_at + think - t), self._begin, client, call)

    # At the end

    def check(self, committed: Iterable[Entry]) -> list[Found]:
        """Linearizability of what was read and changed, register by register. `committed`: as far as is known."""
        for entry in committed:
            call = self._changes.get(entry.payload[STAMP_BYTES:])
            if call is not None:
                call.place = min(call.place, entry.index)
        found = []
        for key, calls in self.history.by_key().items():
            result = check_linearizable([call for call in calls if call.operation != "Use"], RegisterModel())
            if result.verdict is not Verdict.LINEARIZABLE:
                offending = tuple(call.number for call in result.stuck)
                found.append(Found(LINEARIZABILITY, f"{key}: {result.describe()}", calls=offending))
        return found
