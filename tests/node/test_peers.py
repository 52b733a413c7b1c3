"""Streams between members over real TLS on loopback: who may speak, and what a malformed word costs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.leases.messages import AppliedReport
from keycluster.cluster.peer_messages import Forward, Introduced, Introduction, PeerMessage, encode_peer_message
from keycluster.cluster.raft.messages import AppendEntries, Entry, EntryKind, TimeoutNow
from keycluster.cluster.seams import ByteStream
from keycluster.cluster.types import LogIndex, NodeId, Term
from keycluster.cluster.witness import RolledBack
from keycluster.node import peers as module
from keycluster.node.network import RealNetwork
from keycluster.node.peer_link import (
    LENGTH_BYTES,
    PEER_FRAME_BYTES_MAX,
    SPOKEN,
    Farewell,
    FrameReader,
    Hello,
    Opening,
    PeerVersions,
    decode_opening,
    encode_opening,
    frame_of,
)
from keycluster.node.peers import Peer, Peers, RemovedFromRegion
from keycluster.node.world import RealEntropy
from tests.node.region_in_process import free_addresses
from tests.node.tls_parties import Parties, Party, new_parties

REGION = "us-east-1"
DEADLINE_S = 20
REPORT = AppliedReport(Term(1), LogIndex(2), LogIndex(1))


@pytest.fixture(scope="module")
def parties() -> Parties:
    return new_parties()


class Member:
    """One node's end: its directory, what it received, and what it knows."""

    def __init__(self, parties: Parties, name: str) -> None:
        self.name = NodeId(name)
        self.party: Party = parties.node(name, parties.peer_ca)
        [self.address] = free_addresses(1)
        self.known: dict[NodeId, Peer] = {}
        self.removed = False
        self.introduction = Introduction(LogIndex(0), ())
        self.received: list[tuple[NodeId, PeerMessage]] = []
        self.lost: list[NodeId] = []
        self.told: list[tuple[Term, LogIndex] | None] = []
        self.refuses: Exception | None = None
        self.moved = trio.Event()
        self.peers = Peers(
            node=self.name,
            region=REGION,
            network=RealNetwork(),
            entropy=RealEntropy(),
            identity=self.party.identity,
            peer_ca=parties.peer_ca.certificate,
            listen=self.address,
            directory=_Directory(self),
        )
        self.peers.connect_to(self)

    def knows(self, *others: "Member") -> None:
        self.known = {other.name: Peer(other.name, other.party.public_key, other.address) for other in others}
        self.peers.members_changed()

    # PeerReceiver

    def receive(self, sender: NodeId, messages: Sequence[PeerMessage]) -> None:
        self.received += [(sender, message) for message in messages]
        self._move()

    def known_of(self, peer: NodeId) -> tuple[Term, LogIndex] | None:
        return Term(3), LogIndex(7)

    def learn_known_of_me(self, peer: NodeId, known: tuple[Term, LogIndex] | None) -> None:
        self.told.append(known)
        if self.refuses is not None:
            raise self.refuses

    def peer_lost(self, peer: NodeId) -> None:
        self.lost.append(peer)
        self._move()

    def _move(self) -> None:
        self.moved.set()
        self.moved = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.moved.wait()


class _Directory:
    """What a member believes of the others."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def peers(self) -> dict[NodeId, Peer]:
        return self._member.known

    def introduction(self) -> Introduction:
        return self._member.introduction

    def was_removed(self, certificate: bytes) -> bool:
        return self._member.removed


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[None]:
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            for member in members:
                await nursery.start(member.peers.run)
            yield
            nursery.cancel_scope.cancel()


async def connected(member: Member, *others: Member) -> None:
    """Sends until it gets through: a stream comes up by itself."""
    for other in others:
        while not member.peers.send(other.name, REPORT):
            await trio.testing.wait_all_tasks_blocked(0.01)


async def dial(parties: Parties, speaker: Member, listener: Member) -> ByteStream:
    """A stream made by hand, by whoever has `speaker`'s key."""
    return await RealNetwork().dial_peer(
        listener.address,
        identity=speaker.party.identity,
        peer_ca=parties.peer_ca.certificate,
        expected_public_key=listener.party.public_key,
    )


def hello(node: str, *, region: str = REGION, versions: PeerVersions = SPOKEN) -> bytes:
    return encode_opening(Hello(versions, region, NodeId(node), None))


async def answer_of(stream: ByteStream) -> Opening | None:
    body = await FrameReader(stream).read()
    return None if body is None else decode_opening(body, region=REGION, versions=SPOKEN)


async def is_closed(stream: ByteStream) -> bool:
    try:
        return not await stream.receive_some(1)
    except trio.BrokenResourceError:
        return True


async def test_messages_arrive_in_order_from_whom_they_say(parties: Parties) -> None:
    """Each member hears every other one, by the key that it pinned, and what it is known to have acknowledged."""
    a, b, c = (Member(parties, name) for name in ("n1", "n2", "n3"))
    for member in (a, b, c):
        member.knows(*({a, b, c} - {member}))
    async with running(a, b, c):
        await connected(a, b)
        await connected(c, b)
        forwards = [Forward(number, b"x") for number in range(500)]
        assert all(a.peers.send(b.name, forward) for forward in forwards)
        await b.until(
            lambda: (a.name, forwards[-1]) in b.received and any(sender == c.name for sender, _ in b.received)
        )
        assert [message for sender, message in b.received if sender == a.name and message != REPORT] == forwards
        assert set(b.told) == {(Term(3), LogIndex(7))}
        assert not a.peers.send(NodeId("nobody"), REPORT)


@pytest.mark.parametrize("speaks_as", ["n3", "n2"])
async def test_another_members_name_is_refused(parties: Parties, speaks_as: str) -> None:
    """Who speaks is who holds the key, whatever the hello says."""
    a, b, c = (Member(parties, name) for name in ("n1", "n2", "n3"))
    b.knows(a, c)
    async with running(b):
        stream = await dial(parties, a, b)
        await stream.send_all(hello(speaks_as) + frame_of([encode_peer_message(REPORT)]))
        assert await is_closed(stream)
        assert b.received == []


async def test_a_stranger_is_turned_away_without_a_word(parties: Parties) -> None:
    """A certificate of the peer CA is not membership: the key is pinned."""
    a, b = Member(parties, "n1"), Member(parties, "n2")
    async with running(b):
        stream = await dial(parties, a, b)
        assert await is_closed(stream)


async def test_a_removed_node_is_told_and_ends(parties: Parties) -> None:
    """It must not go on trying, nor serving."""
    a, b = Member(parties, "n1"), Member(parties, "n2")
    a.knows(b)
    b.removed = True
    with pytest.raises(ExceptionGroup) as raised:
        async with running(b, a):
            await trio.sleep_forever()
    assert raised.group_contains(RemovedFromRegion, match="was removed")
    async with running(b):
        stream = await dial(parties, a, b)
        await stream.send_all(hello("n1"))
        assert isinstance(await answer_of(stream), Farewell)


async def test_a_rolled_back_node_ends(parties: Parties) -> None:
    """Whichever side of the stream tells it."""
    for dials in (True, False):
        a, b = Member(parties, "n1"), Member(parties, "n2")
        a.refuses = RolledBack("n1 was rolled back")
        if dials:
            a.knows(b)
            b.known = {a.name: Peer(a.name, a.party.public_key, free_addresses(1)[0])}
        else:
            b.knows(a)
            a.known = {b.name: Peer(b.name, b.party.public_key, free_addresses(1)[0])}
        with pytest.raises(ExceptionGroup) as raised:
            async with running(b, a):
                await trio.sleep_forever()
        assert raised.group_contains(RolledBack)


def membership_entry(payload: bytes, kind: EntryKind = EntryKind.MEMBERSHIP) -> bytes:
    entry = Entry(Term(1), LogIndex(1), kind, payload)
    append = AppendEntries(Term(1), 1, LogIndex(0), Term(0), LogIndex(0), (entry,))
    return frame_of([encode_peer_message(append)])


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x05\xff\xff\xff\xff\xff",
        (PEER_FRAME_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "big"),
        frame_of([b"\x92\x01\x02"]),
        membership_entry(b"no membership"),
        membership_entry(b"\xff", EntryKind.LEADER),
        frame_of([encode_peer_message(TimeoutNow(Term(2**63)))]),
        b"\x00\x00\x01\x00half a frame",
    ],
    ids=["no msgpack", "too large", "no message", "bad membership", "bad leader", "term beyond all", "cut off"],
)
async def test_garbage_closes_its_stream_and_nothing_else(parties: Parties, garbage: bytes) -> None:
    """What came before it counts, the node runs on, other members are heard, and the sender may dial again."""
    a, b, c = (Member(parties, name) for name in ("n1", "n2", "n3"))
    b.knows(a, c)
    async with running(b):
        other = await dial(parties, c, b)
        await other.send_all(hello("n3"))
        assert isinstance(await answer_of(other), Hello)
        for _ in range(2):
            stream = await dial(parties, a, b)
            await stream.send_all(hello("n1") + frame_of([encode_peer_message(REPORT)]) + garbage)
            assert isinstance(await answer_of(stream), Hello)
            if garbage.endswith(b"half a frame"):
                await stream.aclose()
            else:
                assert await is_closed(stream)
            await b.until(lambda: a.name in b.lost)
            b.lost.clear()
        await other.send_all(frame_of([encode_peer_message(REPORT)]))
        await b.until(lambda: b.received.count((c.name, REPORT)) == 1)
        assert b.received.count((a.name, REPORT)) == 2
        assert b.lost == []


async def test_a_broken_invariant_is_no_matter_of_one_stream(parties: Parties) -> None:
    """The core may be half-way through a step: nobody goes on with it."""
    a, b = Member(parties, "n1"), Member(parties, "n2")
    b.knows(a)

    def receive(sender: NodeId, messages: Sequence[PeerMessage]) -> None:
        raise InvariantBroken("two leaders")

    b.receive = receive  # type: ignore[method-assign]  # Of this one only.

    async def speak() -> None:
        async with running(b):
            stream = await dial(parties, a, b)
            await stream.send_all(hello("n1") + frame_of([encode_peer_message(REPORT)]))
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await speak()
    assert raised.group_contains(InvariantBroken)


@pytest.mark.parametrize(
    "opening", [hello("n1", region="eu-west-1"), hello("n1", versions=PeerVersions(9, 9)), b"\x00\x00\x00\x01\xc1"]
)
async def test_a_hello_that_does_not_fit_is_not_answered(parties: Parties, opening: bytes) -> None:
    """Another region, another protocol, no hello at all."""
    a, b = Member(parties, "n1"), Member(parties, "n2")
    b.knows(a)
    async with running(b):
        stream = await dial(parties, a, b)
        await stream.send_all(opening)
        assert await is_closed(stream)


async def test_a_hello_that_does_not_come_ends_the_stream(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does so without holding up anybody."""
    monkeypatch.setattr(module, "HELLO_S_MAX", 0.05)
    a, b = Member(parties, "n1"), Member(parties, "n2")
    b.knows(a)
    async with running(b):
        assert await is_closed(await dial(parties, a, b))


async def test_a_changed_key_closes_what_the_old_one_opened(parties: Parties) -> None:
    """At once, in both directions; the new key is let in."""
    a, b = Member(parties, "n1"), Member(parties, "n2")
    successor = Member(parties, "n1")
    successor.address = a.address
    b.knows(a)
    async with running(b):
        stream = await dial(parties, a, b)
        await stream.send_all(hello("n1") + frame_of([encode_peer_message(REPORT)]))
        assert isinstance(await answer_of(stream), Hello)
        await b.until(lambda: len(b.received) == 1)
        b.knows(successor)
        assert await is_closed(stream)
        assert await is_closed(await dial(parties, a, b))
        fresh = await dial(parties, successor, b)
        await fresh.send_all(hello("n1"))
        assert isinstance(await answer_of(fresh), Hello)


async def test_a_member_that_leaves_between_its_key_and_its_hello(parties: Parties) -> None:
    """Who may speak is what holds when it begins to."""
    a, b = Member(parties, "n1"), Member(parties, "n2")
    b.knows(a)
    async with running(b):
        stream = await dial(parties, a, b)
        await stream.send_all(hello("n1")[:6])
        await trio.testing.wait_all_tasks_blocked(0.05)
        b.knows()
        await stream.send_all(hello("n1")[6:] + frame_of([encode_peer_message(REPORT)]))
        await answer_of(stream)
        assert await is_closed(stream)
        assert b.received == []


async def test_a_newer_stream_takes_the_place_of_the_older(parties: Parties) -> None:
    """A member that lost its way dials again: the dead stream doesn't stay."""
    a, b = Member(parties, "n1"), Member(parties, "n2")
    b.knows(a)
    async with running(b):
        streams = []
        for _ in range(2):
            streams.append(await dial(parties, a, b))
            await streams[-1].send_all(hello("n1") + frame_of([encode_peer_message(REPORT)]))
            await b.until(lambda: len(b.received) == len(streams))
        assert isinstance(await answer_of(streams[0]), Hello)
        assert await is_closed(streams[0])
        await streams[1].send_all(frame_of([encode_peer_message(REPORT)]))
        await b.until(lambda: len(b.received) == 3)
        assert b.lost == [a.name]


async def test_who_dials_us_is_dialled_back_at_once(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that comes back doesn't wait for the others' back-off."""
    monkeypatch.setattr(module, "DIAL_AGAIN_FIRST_S", 1_000.0)
    monkeypatch.setattr(module, "DIAL_AGAIN_LONGEST_S", 1_000.0)
    a, b = Member(parties, "n1"), Member(parties, "n2")
    a.knows(b)
    b.knows(a)
    async with running(b):
        await trio.testing.wait_all_tasks_blocked(0.05)  # Its first try has failed.
        async with running(a):
            await connected(b, a)


async def test_members_introduce_each_other(parties: Parties) -> None:
    """On every new stream, and when members change: a member that lags can't know who leads by now."""
    a, b, c = (Member(parties, name) for name in ("n1", "n2", "n3"))
    a.knows(b)
    b.knows(a)
    first, second = (
        Introduction(LogIndex(index), tuple(Introduced(m.name, m.party.public_key, m.address) for m in members))
        for index, members in ((5, (a, b)), (9, (a, b, c)))
    )
    a.introduction = first
    async with running(a, b):
        await b.until(lambda: b.received == [(a.name, first)])
        a.peers.members_changed()  # Nothing that is new to b.
        a.introduction = second
        a.peers.members_changed()
        await b.until(lambda: len(b.received) > 1)
        assert b.received == [(a.name, first), (a.name, second)]
    async with running(a), running(b):
        await b.until(lambda: b.received[2:] == [(a.name, second)])


async def test_a_peer_that_does_not_read_costs_bounded_memory(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outbox fills to its bytes, then messages are dropped; a stream that takes nothing is broken off."""
    monkeypatch.setattr(module, "SEND_S_MAX", 0.2)
    a, b = Member(parties, "n1"), Member(parties, "n2")
    a.knows(b)
    blocked = trio.Event()

    async def listen_without_reading(stream: ByteStream) -> None:
        await FrameReader(stream).read()
        await stream.send_all(hello("n2"))
        await blocked.wait()

    async with running_instead(parties, b, listen_without_reading), running(a):
        await connected(a, b)
        command = b"x" * 1_000_000
        taken = 0
        while a.peers.send(b.name, Forward(taken, command)):
            taken += 1
        assert taken * len(command) <= module.OUTBOX_BYTES_MAX + 2 * len(command)
        await a.until(lambda: b.name in a.lost)


@asynccontextmanager
async def running_instead(
    parties: Parties, member: Member, handler: Callable[[ByteStream], Awaitable[None]]
) -> AsyncIterator[None]:
    """A peer's port with another end behind it."""
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[str]) -> None:
            await RealNetwork().serve_peers(
                member.address,
                handler,
                identity=member.party.identity,
                peer_ca=parties.peer_ca.certificate,
                task_status=task_status,
            )

        await nursery.start(serve)
        yield
        nursery.cancel_scope.cancel()
