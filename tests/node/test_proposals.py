"""A command's way to its outcome, with a replica that does as it is told."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from keycluster.cluster.cluster_time import NoClusterTime
from keycluster.cluster.keys.commands import Caller, Outcome, UpdateKeyDescription, encode_command
from keycluster.cluster.peer_messages import Forward, ForwardReply
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.errors import HandingOver, NotLeader, ProposalsFull
from keycluster.cluster.raft.messages import Entry, EntryKind
from keycluster.cluster.replica import Replica
from keycluster.cluster.seams import Clock
from keycluster.cluster.types import AccountId, Instant, LogIndex, NodeId, Term, WallTime
from keycluster.cluster.wire.errors import ThrottlingException
from keycluster.node import proposals as module
from keycluster.node.consensus import NobodyLeads
from keycluster.node.proposals import FORWARD_AGAIN_S, HELD_S_MAX, Proposals
from keycluster.node.suspension import SUSPENDED_NS_MAX, WatchedClock
from keycluster.node.world import RealClock, RealEntropy
from tests.node.doors.region import ClockByHand
from tests.room_on_memory import MemoryState

ME, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
DONE = Outcome(ok=b"done")


class ScriptedCore(RaftCore):
    """Knows who leads, and in which term."""

    leader: NodeId | None = None
    term = Term(1)

    def __init__(self) -> None:
        pass


class ScriptedReplica(Replica):
    """Leads, settles and refuses as the test says."""

    core = ScriptedCore()
    settled_index = LogIndex(0)

    def __init__(self) -> None:
        self.core = ScriptedCore()
        self.last_index = LogIndex(10)
        self.proposed: list[list[bytes]] = []
        self.refusal: Exception | None = None

    def may_serve(self, now: Instant) -> bool:
        return True

    def propose(self, commands: Sequence[bytes], now: Instant, wall: WallTime) -> LogIndex:
        if self.refusal is not None:
            raise self.refusal
        if self.core.leader != ME:
            raise NotLeader(self.core.leader)
        self.proposed.append(list(commands))
        first = LogIndex(self.last_index + 1)
        self.last_index = LogIndex(self.last_index + len(commands))
        return first

    def acknowledges(self, index: LogIndex, now: Instant) -> bool:
        return self.core.leader == ME and self.settled_index >= index


class Bench:
    """Proposals on a scripted replica, and what became of each command."""

    def __init__(self, *, clock: Clock | None = None, **limits: int) -> None:
        self.replica = ScriptedReplica()
        self.sent: list[tuple[NodeId, Forward | ForwardReply]] = []
        self.reachable = True
        self.pumps = 0
        self.results: dict[bytes, Outcome | Exception] = {}
        self.proposals = Proposals(
            node=ME,
            replica=self.replica,
            view=MemoryState(),
            clock=clock or RealClock(),
            entropy=RealEntropy(),
            send=self._send,
            pump=self._pump,
            **limits,
        )

    def _send(self, peer: NodeId, message: Forward | ForwardReply) -> bool:
        if self.reachable:
            self.sent.append((peer, message))
        return self.reachable

    def _pump(self) -> None:
        self.pumps += 1

    def lead(self, leader: NodeId | None, term: int) -> None:
        self.replica.core.leader, self.replica.core.term = leader, Term(term)
        self.proposals.stepped()

    def apply(self, index: int, *, term: int, outcome: Outcome = DONE) -> None:
        entry = Entry(Term(term), LogIndex(index), EntryKind.COMMAND, b"")
        self.proposals.state_moved([entry], [outcome], [])

    def settle(self, index: int) -> None:
        self.replica.settled_index = LogIndex(index)
        self.proposals.stepped()

    @property
    def forwards(self) -> list[tuple[NodeId, Forward]]:
        return [(peer, message) for peer, message in self.sent if isinstance(message, Forward)]

    @property
    def replies(self) -> list[tuple[NodeId, ForwardReply]]:
        return [(peer, message) for peer, message in self.sent if isinstance(message, ForwardReply)]

    async def propose(self, command: bytes) -> None:
        try:
            self.results[command] = await self.proposals.propose(command)
        except Exception as error:  # noqa: BLE001  # Looked at by the test.
            self.results[command] = error


@pytest.fixture
async def bench(nursery: trio.Nursery) -> Bench:
    made = Bench()
    await nursery.start(made.proposals.run)
    return made


async def test_a_leaders_own_command_waits_until_it_may_be_acknowledged(bench: Bench, nursery: trio.Nursery) -> None:
    """L5: applied here isn't enough; everybody who may serve has to have it."""
    bench.lead(ME, 1)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    assert (bench.replica.proposed, bench.pumps) == ([[b"a"]], 1)
    bench.apply(11, term=1)
    bench.proposals.stepped()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.results == {}
    bench.settle(11)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.results == {b"a": DONE}
    assert bench.proposals.statistics().in_log == 0


async def test_commands_of_one_turn_share_an_append(bench: Bench, nursery: trio.Nursery) -> None:
    """And are acknowledged in the log's order, each with its own outcome."""
    bench.lead(ME, 1)
    for command in (b"a", b"b", b"c"):
        nursery.start_soon(bench.propose, command)
    await trio.testing.wait_all_tasks_blocked()
    [batch] = bench.replica.proposed
    for offset, command in enumerate(batch):
        bench.apply(11 + offset, term=1, outcome=Outcome(ok=command))
    bench.settle(12)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.results == {command: Outcome(ok=command) for command in batch[:2]}
    bench.settle(13)
    await trio.testing.wait_all_tasks_blocked()
    assert len(bench.results) == 3


async def test_a_command_is_held_while_nobody_leads(bench: Bench, nursery: trio.Nursery) -> None:
    """It goes to whoever is elected."""
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    assert bench.sent == []
    bench.lead(N2, 2)
    await trio.testing.wait_all_tasks_blocked()
    [(peer, forward)] = bench.forwards
    assert (peer, forward.command) == (N2, b"a")


async def test_a_command_is_not_held_for_ever(
    bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A node that has known no leader for so long may be the only one: its callers are to ask another, in good time.
    Terms that come without a leader don't begin the time anew."""
    nursery.start_soon(bench.propose, b"a")
    began = trio.current_time()
    await trio.sleep(HELD_S_MAX - 0.5)
    bench.lead(None, 2)
    await trio.sleep(0.4)
    assert bench.results == {}
    await trio.sleep(0.2)
    assert isinstance(bench.results[b"a"], NobodyLeads)
    assert trio.current_time() - began < HELD_S_MAX + 0.2
    assert bench.proposals.statistics().under_way == 0


async def test_a_command_whose_leader_was_lost_is_held_as_long(
    bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """It may be in the log of that one: nobody is told that nothing was changed."""
    bench.lead(N2, 2)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    bench.lead(None, 3)
    await trio.sleep(2 * HELD_S_MAX)
    refusal = bench.results[b"a"]
    assert isinstance(refusal, NobodyLeads)
    assert refusal.retryable
    assert refusal.may_be_made


async def test_a_forwarded_command_gets_its_leaders_reply(bench: Bench, nursery: trio.Nursery) -> None:
    """The first one, and from nobody else."""
    bench.lead(N2, 2)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    [(_, forward)] = bench.forwards
    bench.proposals.take_reply(N3, ForwardReply(forward.number, Outcome(ok=b"of another")))
    bench.proposals.take_reply(N2, ForwardReply(forward.number + 1, Outcome(ok=b"of another command")))
    bench.proposals.take_reply(N2, ForwardReply(forward.number, DONE))
    bench.proposals.take_reply(N2, ForwardReply(forward.number, Outcome(ok=b"again")))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.results == {b"a": DONE}
    assert bench.proposals.statistics().forwarded == 0


async def test_a_restarted_node_takes_no_reply_of_its_former_process(nursery: trio.Nursery) -> None:
    """Two processes of one node don't number their forwards alike: a late reply would be another command's outcome."""
    numbers = []
    for _ in range(2):
        bench = Bench()
        bench.lead(N2, 2)
        nursery.start_soon(bench.propose, b"a")
        await trio.testing.wait_all_tasks_blocked()
        numbers.append(bench.forwards[0][1].number)
    assert abs(numbers[0] - numbers[1]) > 1_000_000
    assert max(numbers) < 2**63
    nursery.cancel_scope.cancel()


async def test_a_new_leader_gets_the_command_again(bench: Bench, nursery: trio.Nursery) -> None:
    """Nobody knows whether the former one had it committed; it is the same command with the same request id."""
    bench.lead(N2, 2)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    bench.lead(None, 3)
    await trio.testing.wait_all_tasks_blocked()
    bench.lead(N3, 3)
    await trio.testing.wait_all_tasks_blocked()
    assert [(peer, forward.command) for peer, forward in bench.forwards] == [(N2, b"a"), (N3, b"a")]


async def test_a_lost_stream_sends_the_command_again(bench: Bench, nursery: trio.Nursery) -> None:
    """At once: the time-out is only for replies that got lost in another way."""
    bench.lead(N2, 2)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    bench.proposals.peer_lost(N3)
    bench.proposals.peer_lost(N2)
    with trio.fail_after(FORWARD_AGAIN_S / 2):
        while len(bench.forwards) < 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert trio.current_time() - began < FORWARD_AGAIN_S / 2


async def test_an_unreachable_leader_is_tried_again(bench: Bench, nursery: trio.Nursery) -> None:
    """A message that isn't even on its way isn't waited for."""
    bench.lead(N2, 2)
    bench.reachable = False
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    bench.reachable = True
    with trio.fail_after(FORWARD_AGAIN_S / 2):
        while not bench.forwards:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_lost_lead_sends_own_commands_to_the_next_leader(bench: Bench, nursery: trio.Nursery) -> None:
    """Those in the log and those that others forwarded, which are told to try again."""
    bench.lead(ME, 1)
    nursery.start_soon(bench.propose, b"mine")
    bench.proposals.take_forward(N2, Forward(7, b"theirs"))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.proposals.statistics().in_log == 2
    bench.lead(N3, 2)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.replies == [(N2, ForwardReply(7, None))]
    assert [(peer, forward.command) for peer, forward in bench.forwards] == [(N3, b"mine")]
    assert bench.proposals.statistics().in_log == 0


async def test_another_terms_entry_at_its_index_is_no_outcome(bench: Bench, nursery: trio.Nursery) -> None:
    """What stands there is somebody else's command."""
    bench.lead(ME, 1)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    bench.apply(11, term=2, outcome=Outcome(ok=b"of another"))
    bench.settle(11)
    await trio.testing.wait_all_tasks_blocked()
    assert b"a" not in bench.results or bench.results[b"a"] != Outcome(ok=b"of another")


async def test_leading_again_in_a_later_term_sets_back_too(bench: Bench, nursery: trio.Nursery) -> None:
    """The log may have changed between the two: old indexes mean nothing."""
    bench.lead(ME, 1)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    bench.lead(ME, 3)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.replica.proposed == [[b"a"], [b"a"]]


@pytest.mark.parametrize("refusal", [HandingOver("to n2"), NotLeader(None), NoClusterTime("no clocks")])
async def test_a_leader_that_takes_nothing_is_asked_again(
    bench: Bench, nursery: trio.Nursery, refusal: Exception
) -> None:
    """The caller's deadline ends it, nothing else."""
    bench.lead(ME, 1)
    bench.replica.refusal = refusal
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    bench.proposals.take_forward(N2, Forward(7, b"theirs"))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.replies == [(N2, ForwardReply(7, None))]
    assert bench.results == {}
    bench.replica.refusal = None
    with trio.fail_after(1):
        while not bench.replica.proposed:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert bench.replica.proposed == [[b"a"]]


async def test_a_full_log_throttles(bench: Bench, nursery: trio.Nursery) -> None:
    """Callers here and elsewhere are told: the command is in no log."""
    bench.lead(ME, 1)
    bench.replica.refusal = ProposalsFull("32 MiB")
    nursery.start_soon(bench.propose, b"a")
    bench.proposals.take_forward(N2, Forward(7, b"theirs"))
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(bench.results[b"a"], ThrottlingException)
    assert bench.replies == [(N2, ForwardReply(7, None, throttled=True))]


async def test_a_throttled_reply_throttles_the_caller(bench: Bench, nursery: trio.Nursery) -> None:
    """The leader is busy, wherever the caller stands."""
    bench.lead(N2, 2)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    bench.proposals.take_reply(N2, ForwardReply(bench.forwards[0][1].number, None, throttled=True))
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(bench.results[b"a"], ThrottlingException)


async def test_a_full_leader_hides_no_change_that_may_be_made(bench: Bench, nursery: trio.Nursery) -> None:
    """Once a leader may have it in its log, "throttled" (nothing was changed) is no answer: it is tried on."""
    bench.lead(N2, 2)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    bench.lead(N3, 3)
    await trio.testing.wait_all_tasks_blocked()
    bench.proposals.take_reply(N3, ForwardReply(bench.forwards[-1][1].number, None, throttled=True))
    with trio.fail_after(FORWARD_AGAIN_S / 2):
        while len(bench.forwards) < 3:
            assert bench.results == {}
            await trio.testing.wait_all_tasks_blocked(0.01)
    bench.proposals.take_reply(N3, ForwardReply(bench.forwards[-1][1].number, DONE))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.results == {b"a": DONE}


def command_of(account: str, number: int, *, size: int = 0) -> bytes:
    """A command of that account's, unlike any with another number."""
    caller = Caller(AccountId(account), "arn:aws:iam::1:root", f"AKIA{account}", 1, "192.0.2.1")
    body = UpdateKeyDescription(str(number), "d" * size)
    return encode_command(body, caller, request_id=number.to_bytes(16, "big"), params_hash=bytes(32))


async def propose_all(bench: Bench, nursery: trio.Nursery, commands: Sequence[bytes]) -> list[int]:
    """Proposes them one after the other; which of them were throttled."""
    for command in commands:
        nursery.start_soon(bench.propose, command)
        await trio.testing.wait_all_tasks_blocked()
    return [
        place for place, command in enumerate(commands) if isinstance(bench.results.get(command), ThrottlingException)
    ]


@pytest.mark.parametrize("leader", [None, ME, N2])
async def test_callers_beyond_their_share_are_throttled(nursery: trio.Nursery, leader: NodeId | None) -> None:
    """Held, proposed or forwarded: an account has a quarter, and leaves the rest to others."""
    bench = Bench(waiting_max=12)
    await nursery.start(bench.proposals.run)
    bench.lead(leader, 1)
    commands = [command_of("1", number) for number in range(5)] + [command_of("2", 5), command_of("3", 6)]
    assert await propose_all(bench, nursery, commands) == [3, 4]


async def test_callers_are_throttled_beyond_the_limit_of_all(nursery: trio.Nursery) -> None:
    """However many accounts there are."""
    bench = Bench(waiting_max=4)
    commands = [command_of(str(number), number) for number in range(6)]
    assert await propose_all(bench, nursery, commands) == [4, 5]


async def test_callers_are_throttled_by_bytes_too(nursery: trio.Nursery) -> None:
    """A few large commands are as bad as many small ones."""
    bench = Bench(waiting_bytes_max=8_000)
    commands = [command_of("1", 0, size=1_500), command_of("1", 1, size=1_500), command_of("2", 2, size=1_500)]
    assert await propose_all(bench, nursery, commands) == [1]
    assert bench.proposals.statistics().under_way == 2


async def test_a_leaders_log_takes_no_more_of_an_account_than_its_share(nursery: trio.Nursery) -> None:
    """From whichever nodes they are forwarded. What is done makes room."""
    bench = Bench(waiting_max=8)
    await nursery.start(bench.proposals.run)
    bench.lead(ME, 1)
    for number, account in enumerate(("1", "1", "1", "2")):
        bench.proposals.take_forward(N2 if number % 2 else N3, Forward(number, command_of(account, number)))
        await trio.testing.wait_all_tasks_blocked()
    assert bench.replies == [(N3, ForwardReply(2, None, throttled=True))]
    for index in (11, 12, 13):
        bench.apply(index, term=1)
    bench.settle(13)
    bench.proposals.take_forward(N2, Forward(4, command_of("1", 4)))
    bench.proposals.take_forward(N2, Forward(5, command_of("1", 5)))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.replica.proposed[-1] == [command_of("1", 4), command_of("1", 5)]


async def test_a_cancelled_caller_leaves_nothing_behind(bench: Bench, nursery: trio.Nursery) -> None:
    """Wherever its command is at that moment; what is in the log goes its way without it."""
    for leader in (None, N2, ME):
        bench.lead(leader, 1)
        with trio.move_on_after(0.001):
            await bench.proposals.propose(b"a")
        left = bench.proposals.statistics()
        assert (left.under_way, left.under_way_bytes, left.forwarded) == (0, 0, 0)
    bench.apply(11, term=1)
    bench.settle(11)
    assert bench.proposals.statistics().in_log == 0


async def test_an_installed_snapshot_sets_back(bench: Bench, nursery: trio.Nursery) -> None:
    """What was in this node's log may have been replaced unseen."""
    bench.lead(ME, 1)
    bench.proposals.take_forward(N2, Forward(7, b"theirs"))
    await trio.testing.wait_all_tasks_blocked()
    bench.proposals.state_replaced()
    assert bench.replies == [(N2, ForwardReply(7, None))]


async def test_reads_wait_until_what_they_saw_is_settled(bench: Bench, nursery: trio.Nursery) -> None:
    """L10; many that saw the same, and some that gave up, cost one place."""
    bench.settle(10)
    done: list[int] = []

    async def read(index: int) -> None:
        await bench.proposals.settled(LogIndex(index))
        done.append(index)

    for index in (9, 10, 11, 11, 12):
        nursery.start_soon(read, index)
    for _ in range(100):
        with trio.move_on_after(0.0001):
            await read(12)
    assert (sorted(done), bench.proposals.statistics().reads) == ([9, 10], 2)
    bench.lead(N2, 5)
    bench.settle(11)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(done) == [9, 10, 11, 11]
    bench.settle(12)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.proposals.statistics().reads == 0


async def test_a_retiring_node_waits_for_its_callers(bench: Bench, nursery: trio.Nursery) -> None:
    """It refuses what needs a lease, and ends once the writes under way have."""
    bench.lead(ME, 1)
    nursery.start_soon(bench.propose, b"a")
    await trio.testing.wait_all_tasks_blocked()
    retired = trio.Event()

    async def retire() -> None:
        await bench.proposals.retire()
        retired.set()

    assert bench.proposals.may_serve()
    nursery.start_soon(retire)
    await trio.testing.wait_all_tasks_blocked()
    assert not bench.proposals.may_serve()
    assert not retired.is_set()
    bench.apply(11, term=1)
    bench.settle(11)
    await trio.testing.wait_all_tasks_blocked()
    assert retired.is_set()


STEPS = st.lists(
    st.sampled_from(["propose", "forward", "lead", "follow", "nobody", "apply", "settle", "replace", "cancel", "lose"]),
    max_size=30,
)


@given(steps=STEPS)
@example(steps=["propose"] * 12)
def test_every_command_ends_in_its_own_outcome(steps: list[str]) -> None:
    """Whatever happens in between: once a leader stays, each caller has the outcome of its own command, or was told
    that nobody led for too long."""
    trio.run(_random_walk, steps, clock=trio.testing.MockClock(autojump_threshold=0))


async def _random_walk(steps: list[str]) -> None:
    bench = Bench()
    log: list[bytes] = []
    term = applied = 0
    scopes: list[trio.CancelScope] = []

    async def propose(command: bytes, scope: trio.CancelScope) -> None:
        with scope:
            await bench.propose(command)

    def apply_all() -> None:
        nonlocal applied
        taken = [command for batch in bench.replica.proposed for command in batch]
        for command in taken[applied:]:
            applied += 1
            bench.apply(10 + applied, term=term, outcome=Outcome(ok=command))

    async with trio.open_nursery() as nursery:
        await nursery.start(bench.proposals.run)
        for number, step in enumerate([*steps, "lead", "settle", "settle"]):
            match step:
                case "propose":
                    command = b"%d" % number
                    log.append(command)
                    scopes.append(trio.CancelScope())
                    nursery.start_soon(propose, command, scopes[-1])
                case "forward":
                    bench.proposals.take_forward(N2, Forward(number, b"f%d" % number))
                case "lead" | "follow" | "nobody":
                    apply_all()  # What was proposed in this term is applied in it, or was never committed.
                    term += 1
                    bench.lead({"lead": ME, "follow": N2, "nobody": None}[step], term)
                case "apply":
                    apply_all()
                case "settle":
                    apply_all()
                    bench.settle(10 + applied)
                case "replace":
                    bench.proposals.state_replaced()
                case "cancel" if scopes:
                    scopes[number % len(scopes)].cancel()
                case "lose":
                    bench.proposals.peer_lost(N2)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(module.TRY_AGAIN_LONGEST_S):
                await trio.sleep_forever()
        apply_all()
        bench.settle(10 + applied)
        await trio.testing.wait_all_tasks_blocked()
        live = [command for command, scope in zip(log, scopes, strict=True) if not scope.cancel_called]
        ends = [(bench.results[command], Outcome(ok=command)) for command in live]
        assert all(end == own or isinstance(end, NobodyLeads) for end, own in ends)
        left = bench.proposals.statistics()
        assert (left.under_way, left.forwarded, left.in_log) == (0, 0, 0)
        nursery.cancel_scope.cancel()


async def test_retiring_node_notices_its_suspension() -> None:
    """It still takes writes, so its doors must see that what they read is void."""
    by_hand = ClockByHand()
    clock = WatchedClock(by_hand)
    bench = Bench(clock=clock)
    await bench.proposals.retire()
    by_hand.move(SUSPENDED_NS_MAX + 1)
    assert not bench.proposals.may_serve()
    assert clock.suspensions == 1
