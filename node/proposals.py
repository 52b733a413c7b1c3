"""A write's way: to the leader, through the log, and back once it may be acknowledged.

Any node takes a command. If it leads it proposes it; if not it forwards it unseen; while nobody leads it holds it, for
as long as elections take: then it may be this node alone that knows no leader, and another one is to be asked. When
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
from keycluster.cluster.keys.commands import Outcome, account_of
from keycluster.cluster.peer_messages import Forward, ForwardReply
from keycluster.cluster.raft.errors import HandingOver, NotLeader, ProposalsFull
from keycluster.cluster.raft.messages import Entry
from keycluster.cluster.replica import Replica
from keycluster.cluster.seams import Clock, Entropy
from keycluster.cluster.store.state import StateView
from keycluster.cluster.types import ClusterTime, LogIndex, NodeId, RunningTime, Term
from keycluster.cluster.wire.errors import ThrottlingException
from keycluster.node.actors import Ask, Mailbox
from keycluster.node.consensus import NobodyLeads
from keycluster.node.raft_driver import Touched
from keycluster.node.shares import THROTTLED_TEXT, Shares

# Beyond these callers are throttled; one account has a share of each (`shares.py`).
WAITING_MAX = 4096  # This node's commands under way, and a leader's in its log, from whichever node they came.
WAITING_BYTES_MAX = 64 * 1024 * 1024  # Of this node's commands under way.
FORWARD_AGAIN_S = 5.0  # Lost replies are noticed with their stream; this is for one that a full outbox dropped.
NUMBER_BYTES = 7  # Counted on from, a number still fits 64 bits.
HELD_S_MAX = 3.0  # Several times what a new leader takes to lead and to serve.
TRY_AGAIN_FIRST_S = 0.03  # After a leader that is handing over, or has lost it without anybody knowing the next one.
TRY_AGAIN_LONGEST_S = 0.25  # All that wait try again alike: they must not be what keeps the loop busy.


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


@dataclass(frozen=True, slots=True)
class _Forwarded:
    """A command under way to `leader`: its reply counts from there alone."""

    leader: NodeId
    ask: Ask[Outcome | Setback]


@dataclass(frozen=True, slots=True)
class ProposalsStatistics:
    """What waits here, for metrics and tests."""

    under_way: int
    """Commands of this node's own callers."""
    under_way_bytes: int
    forwarded: int
    in_log: int
    """As leader: proposed, by whomever, and not acknowledged yet."""
    reads: int
    """Indexes that reads wait for."""


class Proposals:
    """`Consensus` for the rest of the node."""

    def __init__(
        self,
        *,
        node: NodeId,
        replica: Replica,
        view: StateView,
        clock: Clock,
        entropy: Entropy,
        send: Callable[[NodeId, Forward | ForwardReply], bool],
        pump: Callable[[], None],
        waiting_max: int = WAITING_MAX,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
    ) -> None:
        """`send` returns whether the message is on its way at all."""
        self._node = node
        self._replica = replica
        self._view = view
        self._clock = clock
        self._send = send
        self._pump = pump
        self._queue: Mailbox[tuple[bytes, Deliver]] = Mailbox(capacity=waiting_max)
        self._proposed = Shares(waiting_max)  # In the queue or in the log.
        self._in_log: dict[LogIndex, _InLog] = {}
        self._to_acknowledge: list[LogIndex] = []  # A heap: acknowledged in the log's order.
        self._forwarded: dict[int, _Forwarded] = {}
        # Forwards' numbers begin anywhere: a leader may still answer this node's former process, by its numbers.
        self._number = int.from_bytes(entropy.random_bytes(NUMBER_BYTES), "big")
        self._under_way = Shares(waiting_max)
        self._under_way_bytes = Shares(waiting_bytes_max)
        self._all_done = trio.Event()
        self._retires = False
        self._leadership: tuple[NodeId | None, Term] = (replica.core.leader, replica.core.term)
        self._leadership_moved = trio.Event()
        # Reads that wait to be settled, by what they saw. Those whose callers have gone stay until then: there are no
        # more of these indexes than batches were applied since the settled one.
        self._reads: dict[LogIndex, trio.Event] = {}

    def statistics(self) -> ProposalsStatistics:
        return ProposalsStatistics(
            under_way=self._under_way.count,
            under_way_bytes=self._under_way_bytes.count,
            forwarded=len(self._forwarded),
            in_log=len(self._in_log),
            reads=len(self._reads),
        )

    @property
    def view(self) -> StateView:
        return self._view

    @property
    def leader(self) -> NodeId | None:
        return self._replica.core.leader

    def may_serve(self) -> bool:
        now = self._clock.now()  # In any case: doors rely on it to notice a suspension (`suspension.py`).
        return not self._retires and self._replica.may_serve(now)

    def cluster_time(self) -> ClusterTime | None:
        return self._replica.cluster_time(self._clock.now())

    @property
    def running_time(self) -> RunningTime:
        return self._replica.running_time

    @property
    def settled_index(self) -> LogIndex:
        return self._replica.settled_index

    async def settled(self, index: LogIndex) -> None:
        if self._replica.settled_index < index:
            await self._reads.setdefault(index, trio.Event()).wait()

    async def propose(self, command: bytes) -> Outcome:
        account = account_of(command)
        self._under_way.enter(account)
        try:
            self._under_way_bytes.enter(account, len(command))
            try:
                return await self._propose_until_done(command)
            finally:
                self._under_way_bytes.leave(account, len(command))
        finally:
            self._under_way.leave(account)
            if not self._under_way.count:
                self._all_done.set()
                self._all_done = trio.Event()

    async def _propose_until_done(self, command: bytes) -> Outcome:
        pause = TRY_AGAIN_FIRST_S
        may_be_made = False  # Then "throttled" would be a lie: it promises that nothing was changed.
        while True:
            leader, moved = await self._who_leads(), self._leadership_moved
            result = await (self._propose_here(command) if leader == self._node else self._forward(leader, command))
            if isinstance(result, Outcome):
                return result
            if result is Setback.THROTTLED and not may_be_made:
                raise ThrottlingException(THROTTLED_TEXT)
            may_be_made |= result is Setback.MOVED
            with trio.move_on_after(pause):
                await moved.wait()
                pause = TRY_AGAIN_FIRST_S / 2
            pause = min(pause * 2, TRY_AGAIN_LONGEST_S)

    async def _who_leads(self) -> NodeId:
        """Raises `NobodyLeads` once that has been so for too long."""
        if self._replica.core.leader is None:
            with trio.move_on_after(HELD_S_MAX):
                while self._replica.core.leader is None:
                    await self._leadership_moved.wait()
        leader = self._replica.core.leader
        if leader is None:
            raise NobodyLeads
        return leader

    async def _propose_here(self, command: bytes) -> Outcome | Setback:
        ask = Ask[Outcome | Setback]()
        self._enqueue(command, ask.answer)
        return await ask.wait()

    async def _forward(self, leader: NodeId, command: bytes) -> Outcome | Setback:
        self._number += 1
        number, ask = self._number, Ask[Outcome | Setback]()
        self._forwarded[number] = _Forwarded(leader, ask)
        try:
            if not self._send(leader, Forward(number, command)):
                return Setback.MOVED
            with trio.move_on_after(FORWARD_AGAIN_S):
                return await ask.wait()
            return Setback.MOVED
        finally:
            del self._forwarded[number]

    async def retire(self) -> None:
        """This node serves nothing any more; returns once nobody waits for a command here."""
        self._retires = True
        while self._under_way.count:
            await self._all_done.wait()

    def _enqueue(self, command: bytes, deliver: Deliver) -> None:
        account = account_of(command)
        try:
            self._proposed.enter(account)
        except ThrottlingException:
            deliver(Setback.THROTTLED)
            return

        def leave_and_deliver(result: Outcome | Setback) -> None:
            self._proposed.leave(account)
            deliver(result)

        self._queue.tell((command, leave_and_deliver))

    async def another_leads(self) -> None:
        """Returns once another node is known to lead."""
        while self._replica.core.leader in (None, self._node):
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

    def take_reply(self, sender: NodeId, reply: ForwardReply) -> None:
        """What became of a command of ours; late ones find nobody waiting."""
        forwarded = self._forwarded.get(reply.number)
        if forwarded is None or forwarded.leader != sender:
            return
        if reply.outcome is not None:
            forwarded.ask.answer(reply.outcome)
        else:
            forwarded.ask.answer(Setback.THROTTLED if reply.throttled else Setback.MOVED)

    def peer_lost(self, peer: NodeId) -> None:
        """Commands on their way there, or their replies, may be lost: they are sent again."""
        for forwarded in self._forwarded.values():
            if forwarded.leader == peer:
                forwarded.ask.answer(Setback.MOVED)

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

    def state_moved(self, entries: Sequence[Entry], outcomes: Sequence[Outcome | None], touched: Touched) -> None:
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
            self._set_back_all()
            for forwarded in self._forwarded.values():
                forwarded.ask.answer(Setback.MOVED)
            self._leadership_moved.set()
            self._leadership_moved = trio.Event()
        if self._to_acknowledge:
            self._acknowledge()
        if self._reads:
            self._release_reads()

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

    def _release_reads(self) -> None:
        settled = self._replica.settled_index
        for index in [index for index in self._reads if index <= settled]:
            self._reads.pop(index).set()

    def _set_back_all(self) -> None:
        """What an earlier leadership of this node put into the log: whether it is committed is not known here."""
        waiting, self._in_log = self._in_log, {}
        self._to_acknowledge.clear()
        for command in waiting.values():
            command.deliver(Setback.MOVED)
