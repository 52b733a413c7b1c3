"""What a node does with a caller's request, on top of its replica: as `node/proposals.py` and `node/dispatch.py` do it.

- A change is proposed where the node leads, and answered once it is applied and may be acknowledged (L5). What an
  earlier leadership of this node put into the log is set back: the caller sends it again under the same number.
- A data-plane call (`Use`) is answered at once under the lease (L3).
- A control-plane read under the lease is answered once what it saw is settled (L10); one by ReadIndex likewise.

Beside it stand the checks that need to know the log: what a call may rest on at least.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keycluster.cluster.cluster_time import NoClusterTime
from keycluster.cluster.marks import Mark
from keycluster.cluster.raft.errors import NotLeader, ProposalsFull, RaftError
from keycluster.cluster.raft.messages import ENTRY_BYTES_OVERHEAD, Entry
from keycluster.cluster.raft.ready import ReadAnswer, ReadState
from keycluster.cluster.types import SECOND, Instant, LogIndex, NodeId, Term, WallTime
from keycluster.simulations.core.findings import demand
from keycluster.simulations.core.safety import RaftSafety
from keycluster.simulations.core.state import STAMP_BYTES

if TYPE_CHECKING:
    from keycluster.simulations.core.machine import Machine

_FULL = Mark("a change is refused: too much is uncommitted", within=("core",))
_UNCONFIRMED = Mark("a read by ReadIndex fails", within=("core",))
_TAKEN = Mark("a leader's proposal is overtaken, in its place or by its own repeat", within=("core",))

NOTHING = LogIndex(0)
LATE_NS_MAX = 1 * SECOND  # A tick, and a hand-over that lets a leader go on for a while.
READ_INDEX = "read-index"
ACKNOWLEDGED = "acknowledged"
STALE_USE = "contract-2"
HAND_OVER = "hand-over"
CAP = "uncommitted-cap"

WRITE, USE, READ, CONFIRM = range(4)
"""What is asked for: a change, a data-plane call, a control-plane read under the lease, one by ReadIndex."""


@dataclass(slots=True, eq=False)
class Request:
    client: int
    call: int
    """The call's number in the history."""
    attempt: int
    kind: int
    register: int
    command: bytes = b""
    number: int = 0
    """Of the change, among its client's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`value`: what stood in the register; of a change, whether it was made. None: try again, at `hint` if known."""

    request: Request
    node: NodeId
    value: int | bool | None
    index: LogIndex = NOTHING
    hint: NodeId | None = None


@dataclass(slots=True)
class Acknowledged:
    """Of the whole run: the newest change that was acknowledged to anybody."""

    index: LogIndex = NOTHING
    count: int = 0


@dataclass(slots=True, eq=False)
class _InLog:
    request: Request
    term: Term
    outcome: bool | None = None


class Door:
    """One life of one node."""

    __slots__ = (
        "_acknowledged",
        "_asked",
        "_in_order",
        "_machine",
        "_numbers",
        "_safety",
        "_to_read",
        "answers",
        "in_log",
        "unsettled",
    )

    def __init__(self, machine: "Machine", safety: RaftSafety, acknowledged: Acknowledged) -> None:
        self._machine = machine
        self._safety = safety
        self._acknowledged = acknowledged
        self.answers: list[Answer] = []
        """To be sent by whoever made this node step."""
        self.in_log: dict[LogIndex, _InLog] = {}
        self.unsettled: list[tuple[LogIndex, Request, int]] = []  # Reads: what they saw, and where.
        self._in_order: deque[LogIndex] = deque()
        self._asked: dict[int, tuple[Request, int, Instant]] = {}  # By ReadIndex: what was committed then, and when.
        self._numbers = 0
        self._to_read: list[tuple[LogIndex, Request]] = []  # Confirmed; this node hasn't applied that far yet.

    def take(self, request: Request, now: Instant, wall: WallTime) -> None:
        """A request has come; both clocks were read after that."""
        machine = self._machine
        member = machine.member
        if member is None:
            return
        if request.kind == WRITE:
            self._propose(request, now, wall)
        elif request.kind == CONFIRM:
            self._require_answered(now)
            self._numbers += 1
            self._asked[self._numbers] = (request, len(self._safety.committed), now)
            member.replica.read_index(self._numbers, now)
        elif not member.replica.may_serve(now):
            self._refuse(request, member.core.leader)
        elif request.kind == USE:
            state = machine.disk.state
            demand(
                state.index >= self._acknowledged.index,
                STALE_USE,
                f"{machine.node} serves #{request.call} at {state.index}, {self._acknowledged.index} has returned",
                calls=(request.call,),
            )
            self._answer(request, state.registers.get(request.register, 0), state.index)
        else:
            self._read(request)

    def _require_answered(self, now: Instant) -> None:
        """Each read gets an answer in time, if only that it failed: the oldest first. After a pause it comes with the
        tick that is overdue."""
        if self._asked and self._machine.member is not None and now < self._machine.tick_due:
            request, _, asked_at = next(iter(self._asked.values()))
            demand(
                now - asked_at <= self._machine.member.core.config.patience_ns + LATE_NS_MAX,
                READ_INDEX,
                f"{self._machine.node} has given #{request.call} no answer for {now - asked_at} ns",
                calls=(request.call,),
            )

    def _propose(self, request: Request, now: Instant, wall: WallTime) -> None:
        machine = self._machine
        if machine.member is None:
            return
        core = machine.member.core
        gives_up, uncommitted = core.is_leader and core._hand_over.target is not None, core.uncommitted_bytes
        try:
            index = machine.member.replica.propose([request.command], now, wall)
        except NotLeader as refusal:
            self._refuse(request, refusal.leader_hint)
        except ProposalsFull:
            _FULL.hit()
            self._refuse(request, None)
        except (RaftError, NoClusterTime):
            self._refuse(request, None)
        else:
            demand(not gives_up, HAND_OVER, f"{machine.node} takes a change while it hands over", calls=(request.call,))
            size = uncommitted + ENTRY_BYTES_OVERHEAD + STAMP_BYTES + len(request.command)
            demand(
                not uncommitted or size <= core.config.uncommitted_bytes_max,
                CAP,
                f"{machine.node} takes a change, though {uncommitted} bytes are uncommitted",
                calls=(request.call,),
            )
            self.in_log[index] = _InLog(request, core.term)
            self._in_order.append(index)

    def _refuse(self, request: Request, hint: NodeId | None) -> None:
        node = self._machine.node
        self.answers.append(Answer(request, node, None, hint=None if hint == node else hint))

    def _answer(self, request: Request, value: int | bool, index: LogIndex) -> None:
        self.answers.append(Answer(request, self._machine.node, value, index))

    def _read(self, request: Request) -> None:
        state = self._machine.disk.state
        self.unsettled.append((state.index, request, state.registers.get(request.register, 0)))

    def confirmed(self, answers: Sequence[ReadAnswer]) -> None:
        """What became of reads by ReadIndex."""
        for answer in answers:
            request, floor, _ = self._asked.pop(answer.request)
            if isinstance(answer, ReadState):
                self._require_own_term_committed()
                demand(
                    answer.index >= floor,
                    READ_INDEX,
                    f"{self._machine.node} may read #{request.call} from {answer.index} on, "
                    f"but {floor} was committed before it asked",
                    calls=(request.call,),
                )
                self._to_read.append((answer.index, request))
            else:
                _UNCONFIRMED.hit()
                self._refuse(request, None)
        self._read_confirmed()

    def _require_own_term_committed(self) -> None:
        """Else a leader doesn't know how far others had committed (6.4, step 1)."""
        machine = self._machine
        if machine.still_leads and machine.member is not None:
            core = machine.member.core
            demand(core.own_term_committed, READ_INDEX, f"{machine.node} reads without an entry of term {core.term}")

    def _read_confirmed(self) -> None:
        if not self._to_read:
            return
        applied = self._machine.disk.state.index
        waiting, self._to_read = self._to_read, []
        for index, request in waiting:
            if index <= applied:
                self._read(request)
            else:
                self._to_read.append((index, request))

    def applied(self, entries: Sequence[Entry]) -> None:
        """Keeps the outcomes of our own proposals; an index that another term's entry took is set back."""
        self._read_confirmed()
        if not self.in_log:
            return
        sessions = self._machine.disk.state.sessions
        for entry in entries:
            waiting = self.in_log.get(entry.index)
            if waiting is None:
                continue
            number, made = sessions.get(waiting.request.client, (0, False))
            if entry.term == waiting.term and number == waiting.request.number:
                waiting.outcome = made
            else:
                # Another entry took the place; or the caller has gone on, and it is a late repeat.
                _TAKEN.hit()
                del self.in_log[entry.index]
                self._refuse(waiting.request, None)

    def set_back(self) -> None:
        """Leads no more: whether what it put into the log is committed is not known here."""
        waiting, self.in_log = self.in_log, {}
        self._in_order.clear()
        for proposed in waiting.values():
            self._refuse(proposed.request, None)

    @property
    def asked(self) -> int:
        """Reads by ReadIndex that have got no answer, or wait to be applied."""
        return len(self._asked) + len(self._to_read)

    def stepped(self, now: Instant) -> None:
        """Answers what may be answered now."""
        member = self._machine.member
        if member is None:
            return
        if self._in_order:
            self._acknowledge(now)
        if self.unsettled:
            settled = member.replica.settled_index
            waiting, self.unsettled = self.unsettled, []
            for index, request, value in waiting:
                if index <= settled:
                    self._answer(request, value, index)
                else:
                    self.unsettled.append((index, request, value))

    def _acknowledge(self, now: Instant) -> None:
        member = self._machine.member
        while self._in_order and member is not None:
            index = self._in_order[0]
            waiting = self.in_log.get(index)
            if waiting is not None:
                if waiting.outcome is None or not member.replica.acknowledges(index, now):
                    return
                del self.in_log[index]
                self._succeed(waiting, index)
            self._in_order.popleft()

    def _succeed(self, waiting: _InLog, index: LogIndex) -> None:
        """L5. What is acknowledged is committed: from here on, in every leader's log (`safety.py`)."""
        committed = self._safety.committed
        demand(
            index <= len(committed) and committed[index - 1].payload.endswith(waiting.request.command),
            ACKNOWLEDGED,
            f"{self._machine.node} acknowledges #{waiting.request.call} at {index}, "
            "and another entry or none is committed there",
            calls=(waiting.request.call,),
        )
        self._acknowledged.count += 1
        self._acknowledged.index = max(self._acknowledged.index, index)
        self._answer(waiting.request, waiting.outcome is True, index)
