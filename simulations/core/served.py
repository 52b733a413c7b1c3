"""A world whose members have doors, and callers who come to them."""

from collections.abc import Sequence

from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.messages import Entry
from keycluster.cluster.raft.ready import ReadAnswer
from keycluster.cluster.types import MILLISECOND, Instant, NodeId, Term
from keycluster.simulations.core.clients import Callers
from keycluster.simulations.core.door import Acknowledged, Answer, Door, Request
from keycluster.simulations.core.machine import ANY_LIFE, Machine
from keycluster.simulations.core.network import Effect, Network
from keycluster.simulations.core.world import World
from keycluster.simulations.trace import Trace

CALL_NS_MIN = 200_000  # One way between a caller and a node, …
CALL_NS_SPREAD = 800_000  # … and up to so much more.
REFUSED_NS = 1 * MILLISECOND  # Until a caller knows that a node is down.


class ServedWorld(World):
    def __init__(
        self,
        seed: int | str,
        *,
        clients: int,
        operations_per_s: float,
        voters: int,
        learners: int,
        raft: RaftConfig,
        network: Network,
        trace: Trace,
    ) -> None:
        super().__init__(seed, voters=voters, learners=learners, raft=raft, network=network, trace=trace)
        self.acknowledged = Acknowledged()
        self.callers = Callers(self, seed, count=clients, operations_per_s=operations_per_s, ask=self._ask)

    def start(self, node: NodeId) -> None:
        machine = self.machines[node]
        if machine.member is None:
            machine.door = Door(machine, self.safety, self.acknowledged)
        super().start(node)

    # On the way

    def _ask(self, node: NodeId, request: Request) -> None:
        if self.network.loss and self.draw() < self.network.loss:
            self.network.had(Effect.LOST)
            return
        delay = CALL_NS_MIN + int(self.draw() * CALL_NS_SPREAD)
        self.push(self.t + delay, None, ANY_LIFE, self._reached, self.machines[node], request)

    def _reached(self, machine: Machine, request: Request) -> None:
        if machine.member is None:
            self._answer(Answer(request, machine.node, None), REFUSED_NS)
        elif machine.paused:
            machine.waiting.append((self._requested, request, None))
        else:
            self.take(machine, self._requested, request, None)

    def _requested(self, machine: Machine, now: Instant, request: Request, _: None) -> None:
        if machine.door is not None:
            machine.door.take(request, now, machine.wall(self.t))

    def _answer(self, answer: Answer, delay: int) -> None:
        if self.network.loss and self.draw() < self.network.loss:
            self.network.had(Effect.LOST)
        else:
            self.push(self.t + delay, None, ANY_LIFE, self._answered, answer, None)

    def _answered(self, answer: Answer, _: None) -> None:
        self.callers.answered(answer)

    # At a door

    def _at_door(self, door: Door, now: Instant) -> None:
        if door.in_log or door.unsettled:
            door.stepped(now)
        if door.answers:
            answers, door.answers = door.answers, []
            for answer in answers:
                self._answer(answer, CALL_NS_MIN + int(self.draw() * CALL_NS_SPREAD))

    def _read_answers(self, machine: Machine, now: Instant, answers: Sequence[ReadAnswer]) -> None:
        if machine.door is not None:
            machine.door.confirmed(answers)

    def applied(self, machine: Machine, entries: Sequence[Entry]) -> None:
        if machine.door is not None:
            machine.door.applied(entries)

    def state_replaced(self, machine: Machine) -> None:
        """Only who has lost the lead installs a snapshot: what it proposed goes to the next leader."""
        if machine.door is not None:
            machine.door.set_back()
            machine.door.applied(())

    def _role_changed(self, machine: Machine, term: Term | None) -> None:
        super()._role_changed(machine, term)
        if machine.door is not None:
            machine.door.set_back()
