"""Members of a region around `RaftCore`, with disks in memory: what transcripts, section tests and the machine share.

`SimMember` drives one core as a node does: it writes, applies, makes and installs snapshots, each step on demand.
`Region` holds several of them with a network whose messages wait until somebody delivers them, all by hand.
"""

import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.member import Role
from keycluster.cluster.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    SnapshotMeta,
    decode_membership_entry,
    entry_bytes,
)
from keycluster.cluster.raft.ready import IncomingChunk, Persist, ReadAnswer, Ready, SnapshotRead
from keycluster.cluster.types import MILLISECOND, SECOND, Instant, LogIndex, NodeId, Term

UPTIME_NS = 3_600 * SECOND  # Clocks of machines that have been up for an hour: nothing may depend on a small number.
SNAPSHOT_BYTES = 700  # Several chunks with `SMALL`.
SMALL = RaftConfig(
    append_bytes_max=400,
    inflight_messages_max=4,
    inflight_bytes_max=1_000,
    uncommitted_bytes_max=4_000,
    apply_bytes_max=500,
    tail_bytes_max=600,
    snapshot_chunk_bytes=256,
    reads_pending_max=20,
)
"""Limits so low that short runs reach them."""

message_encoder = msgspec.msgpack.Encoder()
message_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class AppliedState(msgspec.Struct, frozen=True):
    """A state machine that remembers what it applied by a checksum over all of it."""

    index: LogIndex
    term: Term
    digest: int
    membership: Membership
    last_leader: NodeId | None

    def apply(self, entry: Entry) -> "AppliedState":
        assert entry.index == self.index + 1, f"{entry} applied after {self.index}"
        digest = zlib.crc32(b"%d %d %d " % (entry.index, entry.term, entry.kind) + entry.payload, self.digest)
        membership, leader = self.membership, self.last_leader
        if entry.kind is EntryKind.MEMBERSHIP:
            membership = decode_membership_entry(entry.payload).membership
        elif entry.kind is EntryKind.LEADER:
            leader = NodeId(entry.payload.decode())
        return AppliedState(entry.index, entry.term, digest, membership, leader)

    @property
    def meta(self) -> SnapshotMeta:
        return SnapshotMeta(self.index, self.term, self.membership, self.last_leader)

    def encode(self) -> bytes:
        content = msgspec.msgpack.encode(self)
        return len(content).to_bytes(2, "big") + content + bytes(SNAPSHOT_BYTES - 2 - len(content))

    @classmethod
    def decode(cls, content: bytes) -> "AppliedState":
        """Raises `msgspec.DecodeError`."""
        assert len(content) == SNAPSHOT_BYTES
        return msgspec.msgpack.decode(content[2 : 2 + int.from_bytes(content[:2], "big")], type=cls)


@dataclass
class MemoryDisk:
    """What survives a crash: term and vote, log, applied state. It is the core's `LogReader` too."""

    state: AppliedState
    hard_state: HardState = field(default_factory=lambda: HardState(Term(0), None))
    base_index: int = 0
    base_term: int = 0
    log: list[Entry] = field(default_factory=list)

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self.base_index + 1)

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self.base_index + len(self.log))

    def term(self, index: LogIndex) -> Term:
        assert self.base_index <= index <= self.last_index
        return Term(self.base_term) if index == self.base_index else self.log[index - self.base_index - 1].term

    def entries(self, lo: LogIndex, hi: LogIndex, bytes_max: int) -> list[Entry]:
        assert lo < hi <= self.last_index + 1
        if lo <= self.base_index:
            return []
        found: list[Entry] = []
        for entry in self.log[lo - self.base_index - 1 : hi - self.base_index - 1]:
            bytes_max -= entry_bytes(entry)
            if bytes_max < 0 and found:
                break
            found.append(entry)
        return found

    def write(self, persist: Persist) -> None:
        if persist.hard_state is not None:
            self.hard_state = persist.hard_state
        if persist.truncate_from is not None:
            assert persist.truncate_from > self.base_index
            del self.log[persist.truncate_from - self.base_index - 1 :]
        for entry in persist.entries:
            assert entry.index == self.last_index + 1, f"{entry} written after {self.last_index}"
            self.log.append(entry)

    def compact(self, upto: int) -> None:
        if self.base_index < upto <= min(self.state.index, self.last_index):
            self.base_term, self.log = self.term(LogIndex(upto)), self.log[upto - self.base_index :]
            self.base_index = upto

    def reset_to(self, meta: SnapshotMeta) -> None:
        if self.base_index <= meta.index <= self.last_index and self.term(meta.index) == meta.term:
            self.log = self.log[meta.index - self.base_index :]
        else:
            self.log = []
        self.base_index, self.base_term = meta.index, meta.term

    def has(self, index: int, term: int) -> bool:
        """Durable here, be it in a snapshot."""
        if index <= self.base_index:
            return True
        return index <= self.last_index and self.term(LogIndex(index)) == term


class SimMember:
    """One node around its core. Nothing happens by itself: writes, entries to apply and snapshot work queue up."""

    def __init__(
        self,
        node: NodeId,
        membership: Membership,
        config: RaftConfig,
        *,
        clock: Callable[[], int],
        send: Callable[[NodeId, NodeId, Message], None],
        seed: object = 0,
        jitter: random.Random | None = None,
    ) -> None:
        self.node = node
        self.config = config
        self.disk = MemoryDisk(AppliedState(LogIndex(0), Term(0), 0, membership, None))
        self._clock = clock
        self._send = send
        self._jitter = jitter or random.Random(f"{seed}/{node}")
        self.reads: list[ReadAnswer] = []
        self.on_ready: Callable[[SimMember, Ready], None] = lambda member, ready: None
        self.is_up = False
        self.installs = 0  # Snapshots, over all lives.
        self.start()

    @property
    def now(self) -> Instant:
        return Instant(self._clock())

    # Life

    def start(self) -> None:
        """From what the disk has. A snapshot installed just before the crash is brought to an end first."""
        state = self.disk.state
        if not self.disk.has(state.index, state.term) or state.index > self.disk.last_index:
            self.disk.reset_to(state.meta)
        self.core = RaftCore(
            node=self.node,
            config=self.config,
            hard_state=self.disk.hard_state,
            log=self.disk,
            membership=state.membership,
            last_leader=state.last_leader,
            applied=state.index,
            jitter=self._jitter,
            now=self.now,
        )
        self.writes: deque[Persist] = deque()
        self.to_apply: deque[Entry] = deque()
        self.wanted: deque[NodeId] = deque()
        self.to_read: deque[SnapshotRead] = deque()
        self.offered: dict[NodeId, bytes] = {}
        self.chunk: IncomingChunk | None = None
        self.partial = bytearray()
        self.install: SnapshotMeta | None = None
        self.is_up = True

    def crash(self, *, keep_writes: int = 0) -> None:
        """Loses all memory. The first `keep_writes` outstanding writes had reached the disk, though nobody heard."""
        for persist in list(self.writes)[:keep_writes]:
            self.disk.write(persist)
        self.is_up = False

    # Inputs

    def tick(self) -> None:
        self.core.tick(self.now)
        self.pump()

    def receive(self, sender: NodeId, message: Message) -> None:
        self.core.receive(sender, message, self.now)
        self.pump()

    def propose(self, *payloads: bytes) -> LogIndex:
        index = self.core.propose(payloads, self.now)
        self.pump()
        return index

    def change(self, target: Membership, *, context: bytes = b"") -> LogIndex:
        index = self.core.propose_membership(target, self.now, context=context)
        self.pump()
        return index

    def leave_joint(self) -> LogIndex:
        index = self.core.leave_joint(self.now)
        self.pump()
        return index

    def transfer(self, target: NodeId) -> None:
        self.core.transfer_leadership(target, self.now)
        self.pump()

    def read(self, request: int) -> None:
        self.core.read_index(request, self.now)
        self.pump()

    def pump(self) -> Ready:
        """Takes what the core wants done into the queues, and sends its messages."""
        ready = self.core.ready()
        self.on_ready(self, ready)
        if ready.persist is not None:
            self.writes.append(ready.persist)
        self.to_apply += ready.committed
        self.reads += ready.reads
        self.wanted += ready.snapshots_wanted
        self.to_read += ready.snapshot_reads
        if ready.snapshot_chunk is not None:
            assert self.chunk is None, "a second chunk before the first is stored"
            self.chunk = ready.snapshot_chunk
        if ready.snapshot_install is not None:
            self.install = ready.snapshot_install
        for to, message in ready.messages:
            self._send(self.node, to, message)
        return ready

    # The driver's work, one step each. They return whether there was anything to do.

    def write_one(self) -> bool:
        if not self.writes:
            return False
        persist = self.writes.popleft()
        self.disk.write(persist)
        self.core.persisted(persist.ticket, self.now)
        self.pump()
        return True

    def apply_one(self) -> bool:
        if not self.to_apply:
            return False
        self.disk.state = self.disk.state.apply(self.to_apply.popleft())
        self.core.applied_to(self.disk.state.index, self.now)
        self.pump()
        return True

    def snapshot_step(self) -> bool:
        if self.wanted:
            self._offer(self.wanted.popleft())
        elif self.to_read:
            self._read_chunk(self.to_read.popleft())
        elif self.chunk is not None:
            self._store_chunk(self.chunk)
        elif self.install is not None and not self.writes and not self.to_apply:
            self._install(self.install)
        else:
            return False
        self.pump()
        return True

    def _offer(self, peer: NodeId) -> None:
        self.offered[peer] = self.disk.state.encode()
        self.core.offer_snapshot(peer, self.disk.state.meta, size=SNAPSHOT_BYTES, now=self.now)

    def _read_chunk(self, read: SnapshotRead) -> None:
        data = self.offered[read.peer]
        if AppliedState.decode(data).meta != read.meta:
            self.core.snapshot_read_failed(read.peer, self.now)
            return
        piece = data[read.offset : read.offset + read.count]
        self.core.snapshot_chunk_read(read.peer, read.meta, offset=read.offset, data=piece, now=self.now)

    def _store_chunk(self, chunk: IncomingChunk) -> None:
        self.chunk = None
        if chunk.offset == 0:
            self.partial = bytearray()
        assert chunk.offset == len(self.partial), "a chunk out of place"
        self.partial += chunk.data
        self.core.snapshot_chunk_stored(chunk.meta, offset_next=len(self.partial), now=self.now)

    def _install(self, meta: SnapshotMeta) -> None:
        self.install = None
        try:
            state = AppliedState.decode(bytes(self.partial))
        except msgspec.DecodeError:
            self.core.snapshot_refused(meta, self.now)
            return
        assert state.meta == meta
        assert meta.index > self.disk.state.index, "a snapshot takes the state back"
        self.disk.state = state
        self.disk.reset_to(meta)
        self.installs += 1
        self.core.snapshot_installed(meta, self.now)

    def damage_chunk(self) -> None:
        """The chunk that is about to be stored."""
        assert self.chunk is not None
        self.chunk = replace(self.chunk, data=b"\xff" * len(self.chunk.data))

    def work(self) -> bool:
        """All of it, until nothing is left."""
        did = False
        while self.write_one() or self.apply_one() or self.snapshot_step():
            did = True
        return did

    def log_entries(self) -> list[Entry]:
        """The whole log as the core has it, durable or not."""
        log = self.core._member.log
        first, last = log.first_index, log.last_index
        found: list[Entry] = []
        while first + len(found) <= last:
            found += log.entries(LogIndex(first + len(found)), LogIndex(last + 1), 1 << 30)
        return found


@dataclass(frozen=True)
class Letter:
    sender: NodeId
    to: NodeId
    message: Message


class Region:
    """Members and a network in which each message waits to be delivered or dropped by hand. One clock for all."""

    def __init__(
        self,
        voters: Sequence[str] = ("a", "b", "c"),
        *,
        learners: Sequence[str] = (),
        config: RaftConfig | None = None,
        seed: object = 0,
    ) -> None:
        self.time = UPTIME_NS
        self.config = config or RaftConfig()
        self.membership = membership(voters, learners=learners)
        self.seed = seed
        self.letters: list[Letter] = []
        self.members: dict[NodeId, SimMember] = {}
        self.cut: set[NodeId] = set()  # Nothing reaches or leaves these.
        self.on_ready: Callable[[SimMember, Ready], None] = lambda member, ready: None
        for node in (*voters, *learners):
            self.add(node)

    def add(self, node: str, *, known: Membership | None = None) -> SimMember:
        """A new node; `known` is the membership that it starts with, the region's by default."""
        member = SimMember(
            NodeId(node),
            known or self.membership,
            self.config,
            clock=lambda: self.time,
            send=self._post,
            seed=self.seed,
        )
        member.on_ready = self.on_ready
        self.members[member.node] = member
        return member

    def __getitem__(self, node: str) -> SimMember:
        return self.members[NodeId(node)]

    @property
    def up(self) -> list[SimMember]:
        return [member for _, member in sorted(self.members.items()) if member.is_up]

    @property
    def leader(self) -> SimMember | None:
        """Of the newest term."""
        leaders = [member for member in self.up if member.core.role is Role.LEADER]
        return max(leaders, key=lambda member: member.core.term, default=None)

    def _post(self, sender: NodeId, to: NodeId, message: Message) -> None:
        if sender not in self.cut and to not in self.cut:
            self.letters.append(Letter(sender, to, message))

    def take(self, *, to: str | None = None, sender: str | None = None) -> list[Letter]:
        """Takes matching messages out of the network."""
        taken = [letter for letter in self.letters if to in (None, letter.to) and sender in (None, letter.sender)]
        self.letters = [letter for letter in self.letters if letter not in taken]
        return taken

    def deliver(self, *, to: str | None = None, sender: str | None = None) -> int:
        """Delivers the matching messages that are there now; returns how many."""
        letters = self.take(to=to, sender=sender)
        for letter in letters:
            self.deliver_one(letter)
        return len(letters)

    def deliver_one(self, letter: Letter) -> None:
        member = self.members.get(letter.to)
        if member is not None and member.is_up and letter.to not in self.cut and letter.sender not in self.cut:
            member.receive(letter.sender, letter.message)

    def tick(self, milliseconds: int = 10, *, only: Iterable[str] | None = None) -> None:
        self.time += milliseconds * MILLISECOND
        for member in self.up:
            if only is None or member.node in only:
                member.tick()

    def settle(self) -> None:
        """Delivers, writes and applies until nothing is left to do, without time going by."""
        busy = True
        while busy:
            busy = self.deliver() > 0
            for member in self.up:
                busy = member.work() or busy

    def run(self, milliseconds: int, *, only: Iterable[str] | None = None) -> None:
        """Lets time go by in steps of 10 ms with everything working."""
        for _ in range(milliseconds // 10):
            self.tick(10, only=only)
            self.settle()

    def elect(self, node: str, *, within_ms: int = 5_000) -> SimMember:
        """Has `node` become leader, by letting time go by for it alone at first."""
        for _ in range(within_ms // 10):
            if self[node].core.role is Role.LEADER and self[node].core.own_term_committed:
                return self[node]
            self.time += 10 * MILLISECOND
            self[node].tick()
            self.settle()
        raise AssertionError(f"{node} did not become leader")


def membership(
    voters: Iterable[str],
    *,
    outgoing: Iterable[str] = (),
    learners: Iterable[str] = (),
    learners_next: Iterable[str] = (),
) -> Membership:
    groups = [tuple(sorted(map(NodeId, group))) for group in (voters, outgoing, learners, learners_next)]
    return Membership(*groups)


def small(**changes: int) -> RaftConfig:
    """`SMALL` with other values."""
    return replace(SMALL, **changes)
