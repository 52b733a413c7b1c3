"""Scripted interactions: a file of commands, each with all that the members did because of it.

    # The story, in comments.
    propose a x y
    ----
    a writes #3: 2@1 x, 3@1 y
    a > b: append 2@1 after 1@1, ...

Nothing happens unless a command says so: messages wait to be delivered, writes to complete, entries to be applied.
`COMMANDS` lists the words. Writing: `3@2` is the entry with index 3 and term 2.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from keycluster.cluster.raft.errors import RaftError
from keycluster.cluster.raft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    InstallSnapshot,
    Membership,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    decode_membership_entry,
)
from keycluster.cluster.raft.ready import Persist, ReadState, Ready
from keycluster.cluster.types import MILLISECOND, Instant, NodeId
from tests.cluster.raft.harness import Letter, Region, SimMember, membership

TICK_MS = 10


@dataclass
class Block:
    """Comments and blank lines before a command, the command, and what it printed."""

    before: list[str]
    command: str
    output: list[str]

    def format(self) -> list[str]:
        return [*self.before, self.command, "----", *self.output]


def parse(text: str) -> tuple[list[Block], list[str]]:
    """The blocks, and the lines after the last one."""
    blocks: list[Block] = []
    before: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            before.append(line)
            continue
        block = Block(before, line, [])
        separator = next(lines, "")
        assert separator == "----", f"after {line!r} comes {separator!r}"
        before = []
        for printed in lines:
            if not printed.strip():
                before.append(printed)
                break
            block.output.append(printed)
        blocks.append(block)
    return blocks, before


def run(text: str) -> str:
    """The file as it is when its commands are run now."""
    blocks, after = parse(text)
    stage = Stage()
    lines: list[str] = []
    for block in blocks:
        block.output = stage.run(block.command)
        lines += block.format()
    return "\n".join([*lines, *after]).rstrip("\n") + "\n"


def rewrite(path: Path) -> None:
    path.write_text(run(path.read_text()))


class EvenJitter(random.Random):
    """Election time-outs that differ by node, but never by chance; numbers of forwarded reads begin with 0."""

    def __init__(self, fraction: float) -> None:
        super().__init__(0)
        self._fraction = fraction

    def random(self) -> float:
        return self._fraction

    def getrandbits(self, count: int) -> int:
        return 0


class Stage:
    def __init__(self) -> None:
        self.region = Region(())
        self.region.on_ready = self._on_ready
        self.stalled: set[str] = set()
        self._lines: list[str] = []
        self._seen: dict[str, tuple[str, ...]] = {}
        self._commits: dict[str, int] = {}

    def run(self, command: str) -> list[str]:
        name, *words = command.split()
        self._lines = []
        try:
            COMMANDS[name](self, words)
        except RaftError as error:
            self.say(f"{type(error).__name__}: {error}")
        return self._lines or ["ok"]

    def say(self, line: str) -> None:
        self._lines.append(line)

    # What members do

    def _on_ready(self, member: SimMember, ready: Ready) -> None:
        self._say_role(member)
        if ready.persist is not None:
            self.say(f"{member.node} writes {describe_persist(ready.persist)}")
        self._say_commit(member)
        for to, message in ready.messages:
            self.say(f"{member.node} > {to}: {describe(message)}")
        if ready.committed:
            self.say(f"{member.node} may apply {describe_entries(ready.committed)}")
        for answer in ready.reads:
            told = f"at {answer.index}" if isinstance(answer, ReadState) else "failed"
            self.say(f"{member.node} read {answer.request} {told}")
        for peer in ready.snapshots_wanted:
            self.say(f"{member.node} wants a snapshot for {peer}")
        for read in ready.snapshot_reads:
            self.say(f"{member.node} reads {read.count} bytes at {read.offset} of the snapshot for {read.peer}")
        if ready.snapshot_chunk is not None:
            self.say(f"{member.node} stores {len(ready.snapshot_chunk.data)} bytes at {ready.snapshot_chunk.offset}")
        if ready.snapshot_install is not None:
            self.say(f"{member.node} installs the snapshot at {ready.snapshot_install.index}")

    def _say_role(self, member: SimMember) -> None:
        core = member.core
        role = (str(core.role), str(core.term), str(core.leader or "nobody"))
        if self._seen.get(member.node) != role:
            self._seen[member.node] = role
            follows = f" of {role[2]}" if role[0] == "follower" else ""
            self.say(f"{member.node} is {role[0]}{follows} in term {role[1]}")

    def _say_commit(self, member: SimMember) -> None:
        if self._commits.get(member.node, 0) != member.core.commit_index:
            self._commits[member.node] = member.core.commit_index
            self.say(f"{member.node} commits up to {member.core.commit_index}")

    # Commands

    def config(self, words: list[str]) -> None:
        """NAME=NUMBER ...: of all members added from now on. Times in ms."""
        for word in words:
            name, _, value = word.partition("=")
            number = int(value) * (MILLISECOND if name.endswith("_ns") else 1)
            self.region.config = replace(self.region.config, **{name: number})

    def add_nodes(self, words: list[str]) -> None:
        """NODE ... [learners=NODE,...]: the first members."""
        self.region.membership, nodes = parse_membership(words)
        for node in nodes:
            self._add(node)

    def add_node(self, words: list[str]) -> None:
        """NODE ...: new machines with empty logs, which know the first membership."""
        for node in words:
            self._add(node)

    def _add(self, node: str) -> None:
        member = SimMember(
            NodeId(node),
            self.region.membership,
            self.region.config,
            clock=lambda: self.region.time,
            send=self.region._post,
            jitter=EvenJitter((ord(node) - ord("a")) / 10),
        )
        member.on_ready = self._on_ready
        self.region.members[NodeId(node)] = member
        member.pump()

    def tick(self, words: list[str]) -> None:
        """NODE,...|all MS: lets time go by for these in steps of 10 ms; for the others it stands still until later."""
        only = None if words[0] == "all" else words[0].split(",")
        for _ in range(int(words[1]) // TICK_MS):
            self.region.tick(TICK_MS, only=only)

    def campaign(self, words: list[str]) -> None:
        """NODE: lets time go by for this node until it starts an election."""
        member = self.region[words[0]]
        self.region.time = max(self.region.time, member.core._member.election_due)
        member.tick()

    def deliver(self, words: list[str]) -> None:
        """[FROM>TO | FROM> | >TO]: the matching messages that are under way now."""
        for letter in self._take(words):
            self.region.deliver_one(letter)

    def drop(self, words: list[str]) -> None:
        """[FROM>TO ...]: they never arrive."""
        for letter in self._take(words):
            self.say(f"lost: {letter.sender} > {letter.to}: {describe(letter.message)}")

    def repeat(self, words: list[str]) -> None:
        """[FROM>TO ...]: a second copy of the matching messages arrives."""
        letters = self._take(words)
        self.region.letters = [*letters, *letters, *self.region.letters]

    def _take(self, words: list[str]) -> list[Letter]:
        sender, _, to = (words[0] if words else ">").partition(">")
        return self.region.take(sender=sender or None, to=to or None)

    def under_way(self, _: list[str]) -> None:
        """Lists the messages that nobody has delivered or dropped."""
        for letter in self.region.letters:
            self.say(f"{letter.sender} > {letter.to}: {describe(letter.message)}")

    def persist(self, words: list[str]) -> None:
        """NODE [COUNT]: its next writes complete, all by default."""
        member = self.region[words[0]]
        for _ in range(int(words[1]) if len(words) > 1 else len(member.writes)):
            member.write_one()

    def apply(self, words: list[str]) -> None:
        """NODE: it applies what it may."""
        while self.region[words[0]].apply_one():
            pass
        self.say(f"{words[0]} has applied {self.region[words[0]].disk.state.index}")

    def snapshot(self, words: list[str]) -> None:
        """NODE [COUNT]: the next steps of its work on snapshots: make, read, store, install."""
        for _ in range(int(words[1]) if len(words) > 1 else 1):
            if not self.region[words[0]].snapshot_step():
                self.say("nothing to do")

    def damage(self, words: list[str]) -> None:
        """NODE: the chunk of a snapshot that it is about to store."""
        self.region[words[0]].damage_chunk()

    def settle(self, words: list[str]) -> None:
        """[quiet]: delivers, writes and applies until nothing is left. Quiet: tells roles, commits and reads only."""
        busy = True
        while busy:
            busy = self.region.deliver() > 0
            for member in self.region.up:
                busy = (member.node not in self.stalled and member.work()) or busy
        if words:
            telling = (" is ", " commits ", " read ", " installs ")
            self._lines = [line for line in self._lines if ">" not in line and any(word in line for word in telling)]

    def run_for(self, words: list[str]) -> None:
        """MS: time goes by with everything working. Tells roles, commits, reads and installed snapshots only."""
        lines: list[str] = []
        for _ in range(int(words[0]) // TICK_MS):
            self._lines = []
            self.region.tick(TICK_MS)
            self.settle(["quiet"])
            lines += self._lines
        self._lines = lines

    def stall_disk(self, words: list[str]) -> None:
        """NODE: `settle` and `run-for` complete none of its writes until `free-disk`."""
        self.stalled.add(words[0])

    def free_disk(self, words: list[str]) -> None:
        self.stalled.discard(words[0])

    def propose(self, words: list[str]) -> None:
        """NODE PAYLOAD ...: one batch. A payload like `x*300` is 300 bytes."""
        index = self.region[words[0]].propose(*map(payload_of, words[1:]))
        self.say(f"proposed from {index} on")

    def read_index(self, words: list[str]) -> None:
        """NODE REQUEST"""
        self.region[words[0]].read(int(words[1]))

    def change(self, words: list[str]) -> None:
        """NODE VOTER ... [learners=NODE,...]"""
        target, _ = parse_membership(words[1:])
        self.region[words[0]].change(target)

    def leave_joint(self, words: list[str]) -> None:
        self.region[words[0]].leave_joint()

    def transfer(self, words: list[str]) -> None:
        """FROM TO"""
        self.region[words[0]].transfer(NodeId(words[1]))

    def crash(self, words: list[str]) -> None:
        """NODE [COUNT]: memory is lost; the first COUNT outstanding writes had reached the disk."""
        self.region[words[0]].crash(keep_writes=int(words[1]) if len(words) > 1 else 0)

    def restart(self, words: list[str]) -> None:
        self._seen.pop(words[0], None)
        member = self.region[words[0]]
        member.start()
        self._commits[member.node] = member.core.commit_index
        member.pump()

    def compact(self, words: list[str]) -> None:
        """NODE INDEX: the log up to there is gone."""
        self.region[words[0]].disk.compact(int(words[1]))
        self.say(f"the log of {words[0]} begins with {self.region[words[0]].disk.first_index}")

    def cut(self, words: list[str]) -> None:
        """NODE ...: nothing reaches or leaves these any more."""
        self.region.cut |= {NodeId(node) for node in words}

    def mend(self, _: list[str]) -> None:
        """All links work again."""
        self.region.cut.clear()

    def status(self, words: list[str]) -> None:
        """[NODE ...]"""
        for member in self.region.up:
            if not words or member.node in words:
                core = member.core
                self.say(
                    f"{member.node}: {core.role} term {core.term} vote {core.vote or '-'} leader {core.leader or '-'} "
                    f"last {core.last_index}@{core.last_term} durable {core.stable_index} "
                    f"commit {core.commit_index} applied {core.applied_index} {describe_membership(core.membership)}"
                )

    def log(self, words: list[str]) -> None:
        """NODE: all of its log."""
        self.say(describe_entries(self.region[words[0]].log_entries()) or "empty")

    def progress(self, words: list[str]) -> None:
        """NODE: what it knows of the others."""
        for peer, view in self.region[words[0]].core.progress.items():
            self.say(
                f"{peer}: {view.state} match {view.match} next {view.next} "
                f"in flight {view.inflight_messages} ({view.inflight_bytes} bytes)"
            )

    def lease(self, words: list[str]) -> None:
        """NODE: how long no other leader can exist, from now."""
        until = self.region[words[0]].core.quorum_lease_until
        left = None if until is None else max(0, Instant(until - self.region.time)) / MILLISECOND
        self.say("no quorum lease" if left is None else f"quorum lease for {left:.1f} ms")


COMMANDS: dict[str, Callable[[Stage, list[str]], None]] = {
    "config": Stage.config,
    "add-nodes": Stage.add_nodes,
    "add-node": Stage.add_node,
    "tick": Stage.tick,
    "campaign": Stage.campaign,
    "deliver": Stage.deliver,
    "drop": Stage.drop,
    "repeat": Stage.repeat,
    "under-way": Stage.under_way,
    "persist": Stage.persist,
    "apply": Stage.apply,
    "snapshot": Stage.snapshot,
    "damage": Stage.damage,
    "settle": Stage.settle,
    "run-for": Stage.run_for,
    "stall-disk": Stage.stall_disk,
    "free-disk": Stage.free_disk,
    "propose": Stage.propose,
    "read-index": Stage.read_index,
    "change": Stage.change,
    "leave-joint": Stage.leave_joint,
    "transfer": Stage.transfer,
    "crash": Stage.crash,
    "restart": Stage.restart,
    "compact": Stage.compact,
    "cut": Stage.cut,
    "mend": Stage.mend,
    "status": Stage.status,
    "log": Stage.log,
    "progress": Stage.progress,
    "lease": Stage.lease,
}


# Describing


def describe(message: Message) -> str:
    return f"{DESCRIBERS[type(message)](message)} (term {message.term})"


def _append(m: AppendEntries) -> str:
    what = f"append {describe_entries(m.entries)}" if m.entries else "heartbeat"
    return f"{what} after {m.prev_index}@{m.prev_term}, commit {m.commit}, round {m.round}"


def _append_reply(m: AppendReply) -> str:
    if m.rejected is not None:
        return f"no match at {m.rejected}, perhaps at {m.hint_index}@{m.hint_term}, round {m.round}"
    return f"has {m.match}, round {m.round}"


def _vote_request(m: VoteRequest) -> str:
    kind = "would you vote?" if m.pre else "vote!"
    return f"{kind} my log ends at {m.last_index}@{m.last_term}{', handed over' if m.hand_over else ''}"


def _vote_reply(m: VoteReply) -> str:
    return (
        ("would vote" if m.granted else "would not vote") if m.pre else ("votes" if m.granted else "refuses its vote")
    )


def _chunk(m: InstallSnapshot) -> str:
    return f"snapshot {m.meta.index}@{m.meta.term} offer {m.offer}, {len(m.data)} bytes at {m.offset} of {m.size}"


def _snapshot_reply(m: SnapshotReply) -> str:
    return f"snapshot offer {m.offer} {m.outcome.name.lower()} {m.offset}"


def _read_reply(m: ReadIndexReply) -> str:
    return f"read #{m.read} failed" if m.index is None else f"read #{m.read} at {m.index}"


DESCRIBERS: dict[type, Callable[..., str]] = {
    AppendEntries: _append,
    AppendReply: _append_reply,
    VoteRequest: _vote_request,
    VoteReply: _vote_reply,
    TimeoutNow: lambda _: "campaign now!",
    InstallSnapshot: _chunk,
    SnapshotReply: _snapshot_reply,
    ReadIndexRequest: lambda m: f"read #{m.read}?",
    ReadIndexReply: _read_reply,
}


def describe_persist(persist: Persist) -> str:
    parts = []
    if persist.hard_state is not None:
        parts.append(f"term {persist.hard_state.term} vote {persist.hard_state.vote or '-'}")
    if persist.truncate_from is not None:
        parts.append(f"cut off from {persist.truncate_from}")
    if persist.entries:
        parts.append(describe_entries(persist.entries))
    return f"#{persist.ticket}: {'; '.join(parts)}"


def describe_entries(entries: Iterable[Entry]) -> str:
    return ", ".join(f"{entry.index}@{entry.term} {describe_payload(entry)}" for entry in entries)


def describe_payload(entry: Entry) -> str:
    if entry.kind is EntryKind.MEMBERSHIP:
        return describe_membership(decode_membership_entry(entry.payload).membership)
    text = entry.payload.decode()
    if entry.kind is EntryKind.LEADER:
        return f"leader={text}"
    return text if len(text) <= 8 else f"{text[0]}*{len(text)}"


def describe_membership(members: Membership) -> str:
    parts = ["voters=" + ",".join(members.voters)]
    parts += [
        f"{name}={','.join(group)}"
        for name, group in (
            ("outgoing", members.outgoing),
            ("learners", members.learners),
            ("learners-next", members.learners_next),
        )
        if group
    ]
    return "[" + " ".join(parts) + "]"


def payload_of(word: str) -> bytes:
    text, star, count = word.partition("*")
    return (text * int(count) if star else text).encode()


def parse_membership(words: list[str]) -> tuple[Membership, list[str]]:
    """The membership, and all nodes named."""
    voters = [word for word in words if "=" not in word]
    learners = [node for word in words if word.startswith("learners=") for node in word[9:].split(",")]
    return membership(voters, learners=learners), [*voters, *learners]
