"""A region on a virtual clock: messages take time, get lost, doubled and overtaken; disks are slow, stall and lose.

One heap of events; the seed decides everything, so a run can be repeated. `Safety` looks at each member that moved.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.errors import RaftError
from keycluster.cluster.raft.messages import Membership, Message
from keycluster.cluster.raft.ready import Ready
from keycluster.cluster.types import MILLISECOND, Instant, NodeId
from tests.cluster.raft.harness import SMALL, SimMember, membership, message_decoder, message_encoder
from tests.cluster.raft.safety import Safety

TICK_NS = 20 * MILLISECOND
DRIFT_PPM = 900  # Clocks run apart, just within the design's bound of 1,000.


@dataclass
class Faults:
    """Chances between 0 and 1, times in nanoseconds."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_min_ns: int = 1 * MILLISECOND
    delay_max_ns: int = 3 * MILLISECOND
    write_min_ns: int = 1 * MILLISECOND
    write_max_ns: int = 3 * MILLISECOND


CALM = Faults()


class SimulatedRegion:
    def __init__(
        self,
        voters: Sequence[str],
        *,
        seed: object,
        config: RaftConfig = SMALL,
        is_checked: bool = True,
        is_encoded: bool = True,
    ) -> None:
        self.time = 0
        self.steps = 0
        self.config = config
        self.first_membership = membership(voters)
        self.members: dict[NodeId, SimMember] = {}
        self.safety = Safety(self.members)
        self.faults = CALM
        self.cut: set[tuple[NodeId, NodeId]] = set()  # Directed: nothing gets from the first to the second.
        self.stalled: set[NodeId] = set()  # Disks that complete no write.
        self._random = random.Random(f"{seed}")
        self._seed = seed
        self._is_checked = is_checked
        self._is_encoded = is_encoded
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._event_count = 0
        self._writing: dict[NodeId, object] = {}  # The life whose write is under way.
        self._reads = 0
        for node in voters:
            self.add(node)

    # Members

    def add(self, node: str) -> SimMember:
        drift = self._random.randint(-DRIFT_PPM, DRIFT_PPM)
        start = self._random.randrange(10**12)
        member = SimMember(
            NodeId(node),
            self.first_membership,
            self.config,
            clock=lambda: start + self.time + self.time * drift // 1_000_000,
            send=self._post,
            seed=self._seed,
        )
        member.on_ready = self._on_ready
        self.members[member.node] = member
        self._at(self._random.randrange(TICK_NS), lambda: self._tick(member))
        return member

    @property
    def up(self) -> list[SimMember]:
        return [member for _, member in sorted(self.members.items()) if member.is_up]

    @property
    def leader(self) -> SimMember | None:
        leaders = [member for member in self.up if member.core.is_leader]
        return max(leaders, key=lambda member: member.core.term, default=None)

    def crash(self, node: NodeId, *, keep_writes: int) -> None:
        member = self.members[node]
        if member.is_up:
            member.crash(keep_writes=keep_writes)
            self.safety.reads_forgotten(node)
            self.safety.check(member)

    def restart(self, node: NodeId) -> None:
        if not self.members[node].is_up:
            self.members[node].start()
            self._moved(self.members[node])

    # Inputs. They return whether the core took them.

    def propose(self, node: NodeId, *payloads: bytes) -> bool:
        return self._try(node, lambda member: member.propose(*payloads))

    def change(self, node: NodeId, target: Membership) -> bool:
        return self._try(node, lambda member: member.change(target))

    def leave_joint(self, node: NodeId) -> bool:
        return self._try(node, lambda member: member.leave_joint())

    def transfer(self, node: NodeId, target: NodeId) -> bool:
        return self._try(node, lambda member: member.transfer(target))

    def read(self, node: NodeId) -> None:
        self._reads += 1
        if self.members[node].is_up:
            self.safety.read_asked(node, self._reads)
            self._try(node, lambda member: member.read(self._reads))

    def compact(self, node: NodeId, *, keep: int) -> None:
        disk = self.members[node].disk
        if self.members[node].is_up:
            disk.compact(disk.state.index - keep)

    def _try(self, node: NodeId, call: Callable[[SimMember], object]) -> bool:
        member = self.members[node]
        if not member.is_up:
            return False
        try:
            call(member)
        except RaftError:
            return False
        self._moved(member)
        return True

    # Time

    def run(self, milliseconds: int) -> None:
        end = self.time + milliseconds * MILLISECOND
        while self._events and self._events[0][0] <= end:
            self.time, _, event = heappop(self._events)
            event()
            self.steps += 1
        self.time = end

    def run_until(self, condition: Callable[[], bool], *, within_ms: int) -> bool:
        for _ in range(within_ms // 20):
            if condition():
                return True
            self.run(20)
        return condition()

    def _at(self, after: int, event: Callable[[], None]) -> None:
        self._event_count += 1
        heappush(self._events, (self.time + after, self._event_count, event))

    def _tick(self, member: SimMember) -> None:
        if member.is_up:
            member.tick()
            self._moved(member)
        self._at(TICK_NS, lambda: self._tick(member))

    def _on_ready(self, member: SimMember, ready: Ready) -> None:
        if self._is_checked:
            self.safety.on_ready(member, ready)

    def _moved(self, member: SimMember) -> None:
        if self._is_checked:
            self.safety.check(member)
        if member.writes and self._writing.get(member.node) is not member.core:
            self._start_write(member)
        while member.apply_one() or member.snapshot_step():
            if self._is_checked:
                self.safety.check(member)

    # Network and disks

    def _post(self, sender: NodeId, to: NodeId, message: Message) -> None:
        faults = self.faults
        if (sender, to) in self.cut or (faults.loss and self._random.random() < faults.loss):
            return
        if self._is_encoded:
            message = message_decoder.decode(message_encoder.encode(message))
        for _ in range(2 if faults.repeat and self._random.random() < faults.repeat else 1):
            delay = self._between(faults.delay_min_ns, faults.delay_max_ns)
            self._at(delay, lambda: self._deliver(sender, to, message))

    def _deliver(self, sender: NodeId, to: NodeId, message: Message) -> None:
        member = self.members.get(to)
        if member is not None and member.is_up and (sender, to) not in self.cut:
            member.receive(sender, message)
            self._moved(member)

    def _start_write(self, member: SimMember) -> None:
        core = self._writing[member.node] = member.core
        delay = self._between(self.faults.write_min_ns, self.faults.write_max_ns)
        self._at(delay, lambda: self._end_write(member, core))

    def _end_write(self, member: SimMember, core: object) -> None:
        if not member.is_up or member.core is not core:
            return  # That life is over.
        if member.node in self.stalled:
            self._at(50 * MILLISECOND, lambda: self._end_write(member, core))
            return
        del self._writing[member.node]
        member.write_one()
        self._moved(member)

    def _between(self, low: int, high: int) -> int:
        return low if low >= high else low + int(self._random.random() * (high - low))

    # Peace

    def heal(self) -> None:
        """All links and disks work, all members are up."""
        self.faults = CALM
        self.cut.clear()
        self.stalled.clear()
        for node in sorted(self.members):
            self.restart(node)

    def now_of(self, node: NodeId) -> Instant:
        return self.members[node].now
