"""A write's way: to the leader, through the log, and back once it may be acknowledged.

Any node takes a command. If it leads it proposes it; if not it forwards it unseen; while nobody leads it holds it. When
leadership moves while a command is under way nobody knows whether it was committed, so it goes to the new leader
again, under the same request id: `apply` carries it out once and answers a repeat with the remembered outcome.

A success leaves only from the leader, and only when everybody who may serve has applied it (rule L5, `acknowledges`).
Refusals that come out of `apply` take the same way: they too say something about the state.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import trio

from keycluster.cluster.cluster_time import NoClusterTime
from keycluster.cluster.keys.commands import Outcome
from keycluster.cluster.raft.errors import HandingOver, NotLeader, ProposalsFull
from keycluster.cluster.raft.messages import Entry
from keycluster.cluster.replica import Replica
from keycluster.cluster.seams import Clock
from keycluster.cluster.store.state import StateView
from keycluster.cluster.types import ClusterTime, LogIndex, NodeId, Term
from keycluster.cluster.wire.errors import ThrottlingException
from keycluster.node.actors import Ask, Mailbox, MailboxFull
from keycluster.node.peer_link import Forward, ForwardReply
from keycluster.node.raft_driver import Touched

WAITING_MAX = 4096  # Commands of this node and forwarded ones under way at once; beyond it callers are throttled.
FORWARD_AGAIN_S = 1.0  # A forwarded command whose reply got lost with its stream is sent again after this.
TRY_AGAIN_S = 0.03  # After a leader that is handing over, or has lost it without anybody knowing the next one.


class Setback(Enum):
    """Why a command has no outcome here."""

    MOVED = "leadership moved: the command may or may not be committed"
    THROTTLED = "too many commands under way: it is in no log"


Deliver = Callable[[Outcome | Setback], None]


@dataclass(slots=True)
class _InLog:
    """A command this node proposed at some index in `term`, until it may be acknowledged."""

    term: Term
    deliver: Deliver
    outcome: Outcome | None = None


class Proposals:
    """`Consensus` for the rest of the node."""

    def __init__(
        self,
        *,
        node: NodeId,
        replica: Replica,
        view: StateView,
        clock: Clock,
        send: Callable[[NodeId, Forward | ForwardReply], None],
        pump: Callable[[], None],
    ) -> None:
        self._node = node
        self._replica = replica
        self._view = view
        self._clock = clock
        self._send = send
        self._pump = pump
        self._queue: Mailbox[tuple[bytes, Deliver]] = Mailbox(capacity=WAITING_MAX)
        self._in_log: dict[LogIndex, _InLog] = {}
        self._to_acknowledge: list[LogIndex] = []  # A heap: acknowledged in the log's order.
        self._forwarded: dict[int, Ask[Outcome | Setback]] = {}
        self._numbers = 0
        self._leadership: tuple[NodeId | None, Term] = (replica.core.leader, replica.core.term)
        self._leadership_moved = trio.Event()
        self._reads: list[tuple[LogIndex, int, trio.Event]] = []  # A heap of reads that wait to be settled.

    @property
    def view(self) -> StateView:
        return self._view

    @property
    def leader(self) -> NodeId | None:
        return self._replica.core.leader

    def may_serve(self) -> bool:
        return self._replica.may_serve(self._clock.now())

    def cluster_time(self) -> ClusterTime | None:
        return self._replica.cluster_time(self._clock.now())

    async def settled(self, index: LogIndex) -> None:
        if self._replica.settled_index >= index:
            return
        event = trio.Event()
        self._numbers += 1
        heapq.heappush(self._reads, (index, self._numbers, event))
        await event.wait()

    async def propose(self, command: bytes) -> Outcome:
        while True:
            leader, ask = self._replica.core.leader, Ask[Outcome | Setback]()
            moved = self._leadership_moved
            if leader is None:
                await moved.wait()
                continue
            if leader == self._node:
                self._enqueue(command, ask.answer)
                result = await ask.wait()
            else:
                result = await self._forward(leader, command, ask)
            if isinstance(result, Outcome):
                return result
            if result is Setback.THROTTLED:
                raise ThrottlingException("Rate exceeded")
            with trio.move_on_after(TRY_AGAIN_S):
                await moved.wait()

    async def _forward(self, leader: NodeId, command: bytes, ask: Ask[Outcome | Setback]) -> Outcome | Setback:
        if len(self._forwarded) >= WAITING_MAX:
            return Setback.THROTTLED
        self._numbers += 1
        number = self._numbers
        self._forwarded[number] = ask
        try:
            self._send(leader, Forward(number, command))
            with trio.move_on_after(FORWARD_AGAIN_S):
                return await ask.wait()
            return Setback.MOVED
        finally:
            del self._forwarded[number]

    def _enqueue(self, command: bytes, deliver: Deliver) -> None:
        if len(self._in_log) >= WAITING_MAX:
            deliver(Setback.THROTTLED)
            return
        try:
            self._queue.tell((command, deliver))
        except MailboxFull:
            deliver(Setback.THROTTLED)

    async def leader_is_not(self, node: NodeId) -> None:
        """Returns once somebody else leads, or nobody."""
        while self._replica.core.leader == node:
            await self._leadership_moved.wait()

    def take_forward(self, sender: NodeId, forward: Forward) -> None:
        """A command that another node forwarded. Its reply goes back by our stream to that node."""

        def deliver(result: Outcome | Setback) -> None:
            outcome = result if isinstance(result, Outcome) else None
            self._send(sender, ForwardReply(forward.number, outcome, result is Setback.THROTTLED))

        if self._replica.core.leader == self._node:
            self._enqueue(forward.command, deliver)
        else:
            deliver(Setback.MOVED)

    def take_reply(self, reply: ForwardReply) -> None:
        """What became of a command of ours; late ones find nobody waiting."""
        ask = self._forwarded.get(reply.number)
        if ask is None:
            return
        if reply.outcome is not None:
            ask.answer(reply.outcome)
        else:
            ask.answer(Setback.THROTTLED if reply.throttled else Setback.MOVED)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Proposes what waits, all at once: commands that came in one turn of the loop share an append and a sync."""
        task_status.started()
        while True:
            batch = await self._queue.take_all()
            commands = [command for command, _ in batch]
            try:
                first = self._replica.propose(commands, self._clock.now(), self._clock.wall())
            except ProposalsFull:
                self._set_back(batch, Setback.THROTTLED)
                continue
            except (NotLeader, HandingOver, NoClusterTime):
                self._set_back(batch, Setback.MOVED)
                continue
            term = self._replica.core.term
            for offset, (_, deliver) in enumerate(batch):
                index = LogIndex(first + offset)
                self._in_log[index] = _InLog(term, deliver)
                heapq.heappush(self._to_acknowledge, index)
            self._pump()

    @staticmethod
    def _set_back(batch: Sequence[tuple[bytes, Deliver]], setback: Setback) -> None:
        for _, deliver in batch:
            deliver(setback)

    def state_moved(
        self, entries: Sequence[Entry], outcomes: Sequence[Outcome | None], touched: Touched
    ) -> None:
        """Keeps the outcomes of our own proposals; an index that another term's entry took is set back."""
        if not self._in_log:
            return
        for entry, outcome in zip(entries, outcomes, strict=True):
            waiting = self._in_log.get(entry.index)
            if waiting is None:
                continue
            if entry.term == waiting.term and outcome is not None:
                waiting.outcome = outcome
            else:
                del self._in_log[entry.index]
                waiting.deliver(Setback.MOVED)

    def state_replaced(self) -> None:
        """Only who has lost the lead installs a snapshot: its commands go to the next leader."""
        self._set_back_all()

    def stepped(self) -> None:
        """After each step of the replica."""
        leadership = (self._replica.core.leader, self._replica.core.term)
        if leadership != self._leadership:
            self._leadership = leadership
            if leadership[0] != self._node:
                self._set_back_all()
            for ask in list(self._forwarded.values()):
                ask.answer(Setback.MOVED)
            self._leadership_moved.set()
            self._leadership_moved = trio.Event()
        if self._to_acknowledge:
            self._acknowledge()
        while self._reads and self._reads[0][0] <= self._replica.settled_index:
            heapq.heappop(self._reads)[2].set()

    def _acknowledge(self) -> None:
        now = self._clock.now()
        while self._to_acknowledge:
            index = self._to_acknowledge[0]
            waiting = self._in_log.get(index)
            if waiting is not None:
                if waiting.outcome is None or not self._replica.acknowledges(index, now):
                    return
                del self._in_log[index]
                waiting.deliver(waiting.outcome)
            heapq.heappop(self._to_acknowledge)

    def _set_back_all(self) -> None:
        waiting, self._in_log = self._in_log, {}
        self._to_acknowledge.clear()
        for command in waiting.values():
            command.deliver(Setback.MOVED)
