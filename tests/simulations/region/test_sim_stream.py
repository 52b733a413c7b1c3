"""Streams behave as TCP's do, under all that links can do to them."""

from dataclasses import dataclass

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.cluster.types import SECOND
from keycluster.simulations.region.links import FAIR, Weather
from keycluster.simulations.region.sim_stream import UNREAD_BYTES_MAX, SimStream
from tests.simulations.region.machines import Machines, read_to_end, run

ROUGH = Weather(loss=0.3, delay=0.3, reorder=0.5, pieces=0.5)


@dataclass(frozen=True)
class Send:
    forth: bool
    size: int


@dataclass(frozen=True)
class Wait:
    ms: int


@dataclass(frozen=True)
class Change:
    """Something that a nemesis does to the link of that direction."""

    what: str
    forth: bool


CHANGES = ("cut", "heal", "clog", "unclog")
ACTIONS = st.one_of(
    st.builds(Send, st.booleans(), st.integers(1, 3_000)),
    st.builds(Wait, st.integers(0, 1_500)),
    st.builds(Change, st.sampled_from(CHANGES), st.booleans()),
)


async def act(machines: Machines, action: Send | Wait | Change, dialled: SimStream, accepted: SimStream) -> None:
    if isinstance(action, Wait):
        await trio.sleep(action.ms / 1_000)
    elif isinstance(action, Change):
        pair = ("n1", "n2") if action.forth else ("n2", "n1")
        getattr(machines.links, action.what)(*pair)


def content_of(number: int, size: int) -> bytes:
    return bytes((number * 7 + position) % 251 for position in range(size))


@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=25), st.booleans(), st.integers(0, 2**32))
def test_stream_of_clients_delivers_all_in_order(actions: list[Send | Wait | Change], rough: bool, seed: int) -> None:
    """Nothing breaks it but a reset: once all is healed everything arrives, in order, and then the end."""

    async def main(machines: Machines) -> None:
        machines.links.set_weather(ROUGH if rough else FAIR)
        ends = machines.connect("n1", "n2", between_nodes=False)
        sent = {True: bytearray(), False: bytearray()}
        received = {True: bytearray(), False: bytearray()}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_to_end, ends[1], received[True])
            nursery.start_soon(read_to_end, ends[0], received[False])
            for number, action in enumerate(actions):
                await act(machines, action, *ends)
                if isinstance(action, Send):
                    content = content_of(number, action.size)
                    sent[action.forth] += content
                    await ends[0 if action.forth else 1].send_all(content)
                for forth in (True, False):
                    assert sent[forth].startswith(received[forth])
            machines.links.heal_all()
            await trio.sleep(300)
            assert received == sent
            await ends[0].aclose()
            assert ends[1].broken is None

    run(main, seed=seed)


@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=25), st.sampled_from(["reset", "process", "machine", None]), st.integers(0, 2**32))
def test_stream_that_breaks_has_delivered_a_beginning(
    actions: list[Send | Wait | Change], ending: str | None, seed: int
) -> None:
    """Streams between nodes may break: never with a hole, both ends learn of it, and none hangs for ever."""

    async def main(machines: Machines) -> None:
        machines.links.set_weather(ROUGH)
        ends = machines.connect("n1", "n2")
        sent = {True: bytearray(), False: bytearray()}
        received = {True: bytearray(), False: bytearray()}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_to_end, ends[1], received[True])
            nursery.start_soon(read_to_end, ends[0], received[False])
            for number, action in enumerate(actions):
                await act(machines, action, *ends)
                if isinstance(action, Send):
                    content = content_of(number, action.size)
                    try:
                        await ends[0 if action.forth else 1].send_all(content)
                    except trio.BrokenResourceError:
                        continue
                    sent[action.forth] += content
                for forth in (True, False):
                    assert sent[forth].startswith(received[forth])
            if ending == "reset":
                machines.links.reset("n1", "n2")
            elif ending is not None:
                machines.links.down("n2", machine=ending == "machine")
            await trio.sleep(10)
            blocked = machines.links.link("n1", "n2").blocked or machines.links.link("n2", "n1").blocked
            for forth in (True, False):
                assert sent[forth].startswith(received[forth])
            if ending is not None or blocked:
                for end in ends:
                    assert end.gone or end.ended
            nursery.cancel_scope.cancel()

    run(main, seed=seed)


def test_cut_of_acknowledgements_breaks_the_sender_alone_at_first() -> None:
    """What is sent arrives, but its sender hears nothing and gives up after two seconds, the receiver after three."""

    async def main(machines: Machines) -> None:
        dialled, accepted = machines.connect("n1", "n2")
        machines.links.cut("n2", "n1")
        await dialled.send_all(b"hello")
        assert await accepted.receive_some(10) == b"hello"
        with pytest.raises(trio.BrokenResourceError, match="acknowledges nothing"):
            await dialled.receive_some(1)
        assert 1.9 < trio.current_time() < 2.1
        with pytest.raises(trio.BrokenResourceError, match="no sign of life"):
            await accepted.receive_some(1)
        assert 2.9 < trio.current_time() < 3.2
        with pytest.raises(trio.BrokenResourceError):
            await dialled.send_all(b"more")
        assert machines.links.counts["timed out"] == 2

    run(main)


def test_cuts_of_both_directions_count_together() -> None:
    """No sign of life can come from the first on, though the second begins later."""

    async def main(machines: Machines) -> None:
        dialled, _ = machines.connect("n1", "n2")
        await trio.sleep(10)
        machines.links.cut("n1", "n2")
        machines.wire.after(1_900_000_000, machines.links.cut, "n2", "n1")
        with pytest.raises(trio.BrokenResourceError, match="no sign of life"):
            await dialled.receive_some(1)
        assert 12.9 < trio.current_time() < 13.2

    run(main)


@pytest.mark.parametrize("idle", [True, False])
def test_short_cut_delays_and_breaks_nothing(idle: bool) -> None:
    """What was sent into it arrives with the next retransmission."""

    async def main(machines: Machines) -> None:
        dialled, accepted = machines.connect("n1", "n2")
        machines.links.cut("n1", "n2")
        if not idle:
            await dialled.send_all(b"one")
        await trio.sleep(1)
        machines.links.heal("n1", "n2")
        await trio.sleep(5)
        await dialled.send_all(b"two")
        await trio.sleep(0.1)
        assert await accepted.receive_some(10) == (b"two" if idle else b"onetwo")

    run(main)


def test_clients_stream_waits_out_any_cut() -> None:
    """Nobody set a time-out on it: it goes on a minute later."""

    async def main(machines: Machines) -> None:
        dialled, accepted = machines.connect("c1", "n1", between_nodes=False)
        machines.links.cut("c1", "n1")
        await dialled.send_all(b"hello")
        await trio.sleep(60)
        machines.links.heal("c1", "n1")
        assert await accepted.receive_some(10) == b"hello"
        assert 60 < trio.current_time() < 130

    run(main)


def test_clogged_bytes_arrive_soon_after_the_clog() -> None:
    """Not only with the next retransmission, and in order."""

    async def main(machines: Machines) -> None:
        dialled, accepted = machines.connect("n1", "n2")
        machines.links.clog("n1", "n2")
        await dialled.send_all(b"one")
        await trio.sleep(1.6)  # The next retransmission would come too late for the two seconds.
        await dialled.send_all(b"two")
        machines.links.unclog("n1", "n2")
        await trio.sleep(0.01)
        assert await accepted.receive_some(10) == b"onetwo"
        await trio.sleep(4)
        assert dialled.broken is None
        assert machines.links.counts["clogged"] > 0

    run(main)


def test_close_lets_sent_bytes_arrive_and_then_the_end() -> None:
    """Again and again the end, and what is sent to a closed end comes back as a reset."""

    async def main(machines: Machines) -> None:
        dialled, accepted = machines.connect("n1", "n2")
        await dialled.send_all(b"farewell")
        await dialled.aclose()
        assert await accepted.receive_some(4) == b"fare"
        assert await accepted.receive_some(10) == b"well"
        assert await accepted.receive_some(10) == b""
        assert await accepted.receive_some(10) == b""
        with pytest.raises(trio.ClosedResourceError):
            await dialled.receive_some(1)
        with pytest.raises(trio.ClosedResourceError):
            await dialled.send_all(b"!")
        await trio.sleep(10)
        await accepted.send_all(b"anybody there?")
        await trio.sleep(0.1)
        with pytest.raises(trio.BrokenResourceError):
            await accepted.send_all(b"?")

    run(main)


def test_close_with_unread_bytes_is_a_reset() -> None:
    """As Linux does it."""

    async def main(machines: Machines) -> None:
        dialled, accepted = machines.connect("n1", "n2")
        await dialled.send_all(b"unread")
        await trio.sleep(0.1)
        await accepted.aclose()
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await dialled.receive_some(10)

    run(main)


def test_tasks_that_wait_learn_of_the_end() -> None:
    """A reader and a sender of a stream that is closed, or broken, don't wait on."""

    async def main(machines: Machines) -> None:
        for closes, error in ((True, trio.ClosedResourceError), (False, trio.BrokenResourceError)):
            dialled, _ = machines.connect("n1", "n2")
            ended: list[str] = []

            async def wait(
                call: str,
                argument: object,
                dialled: SimStream = dialled,
                error: type[Exception] = error,
                ended: list[str] = ended,
            ) -> None:
                with pytest.raises(error):
                    await getattr(dialled, call)(argument)
                ended.append(call)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, "receive_some", 10)
                nursery.start_soon(wait, "send_all", bytes(2 * UNREAD_BYTES_MAX))
                await trio.sleep(0.1)
                if closes:
                    await dialled.aclose()
                else:
                    machines.links.reset("n1", "n2")
            assert sorted(ended) == ["receive_some", "send_all"]

    run(main)


def test_send_waits_while_nobody_reads() -> None:
    """The buffers between two ends are bounded."""

    async def main(machines: Machines) -> None:
        dialled, accepted = machines.connect("n1", "n2")
        content = content_of(1, UNREAD_BYTES_MAX + 100_000)
        with trio.move_on_after(1) as scope:
            await dialled.send_all(content[:UNREAD_BYTES_MAX])
        assert not scope.cancelled_caught
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_to_end, accepted, received)
            await dialled.send_all(content[UNREAD_BYTES_MAX:])
            await dialled.aclose()
        assert received == content

    run(main)


def test_cancelled_send_leaves_the_stream_broken() -> None:
    """Half a message may be out."""

    async def main(machines: Machines) -> None:
        dialled, _ = machines.connect("n1", "n2")
        with trio.move_on_after(1) as scope:
            await dialled.send_all(bytes(2 * UNREAD_BYTES_MAX))
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError, match="cancelled"):
            await dialled.send_all(b"more")

    run(main)


def test_second_reader_and_second_sender_are_refused() -> None:
    """As in node/streams.py."""

    async def main(machines: Machines) -> None:
        dialled, _ = machines.connect("n1", "n2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled.receive_some, 1)
            nursery.start_soon(dialled.send_all, bytes(2 * UNREAD_BYTES_MAX))
            await trio.sleep(0.1)
            with pytest.raises(trio.BusyResourceError):
                await dialled.receive_some(1)
            with pytest.raises(trio.BusyResourceError):
                await dialled.send_all(b"x")
            nursery.cancel_scope.cancel()

    run(main)


def test_cancelled_receive_loses_nothing() -> None:
    """Whether it was cancelled before the bytes came or in the same instant."""

    async def main(machines: Machines) -> None:
        dialled, accepted = machines.connect("n1", "n2")
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled.send_all, content_of(1, 2_000))
            for _ in range(200):
                with trio.move_on_after(0.00001):
                    received += await accepted.receive_some(100)
            nursery.cancel_scope.cancel()
        assert received == content_of(1, 2_000)

    run(main)


def test_machine_that_dies_falls_silent() -> None:
    """The other end learns by its time-out, or by a reset from the machine once it is up again."""

    async def main(machines: Machines) -> None:
        for up_after_s, matches, within in ((None, "sign of life", (2.9, 3.2)), (1.0, "reset", (1.0, 3.2))):
            dialled, _ = machines.connect("n1", "n2")
            began = trio.current_time()
            machines.links.down("n2", machine=True)
            if up_after_s is not None:
                machines.wire.after(int(up_after_s * SECOND), machines.links.up, "n2")
            with pytest.raises(trio.BrokenResourceError, match=matches):
                await dialled.receive_some(1)
            assert within[0] < trio.current_time() - began < within[1]
            machines.links.up("n2")

    run(main)


def test_dead_machine_sends_nothing_again() -> None:
    """What it had sent into a cut is lost with it, also once it is up again and the cut is over."""

    async def main(machines: Machines) -> None:
        for number in range(10):
            dialled, accepted = machines.connect("n1", "n2")
            machines.links.cut("n2", "n1")
            await accepted.send_all(b"lost")
            await trio.sleep(0.0001 if number % 2 else 0.1)
            machines.links.down("n2", machine=True)
            await trio.sleep(0.01)
            machines.links.up("n2")
            machines.links.heal("n2", "n1")
            with pytest.raises(trio.BrokenResourceError):
                await dialled.receive_some(10)

    run(main)


def test_process_that_dies_is_noticed_at_once() -> None:
    """Its system closes its streams, with an end or a reset; both happen."""

    async def main(machines: Machines) -> None:
        endings = set()
        for _ in range(20):
            dialled, accepted = machines.connect("n1", "n2")
            machines.links.down("n2")
            began = trio.current_time()
            try:
                endings.add(await dialled.receive_some(10))
            except trio.BrokenResourceError:
                endings.add(b"reset")
            assert trio.current_time() - began < 0.1
            with pytest.raises(trio.BrokenResourceError):
                await accepted.send_all(b"from the dead")
        assert endings == {b"", b"reset"}

    run(main)


def test_pieces_are_rare_and_settable() -> None:
    """Readers must not take what one send wrote for what one read brings."""

    async def main(machines: Machines) -> None:
        for chance, most in ((0.0, 0), (1.0, 10**6)):
            machines.links.set_weather(Weather(pieces=chance))
            before = machines.links.counts["pieces"]
            dialled, accepted = machines.connect("n1", "n2")
            reads = []
            for number in range(20):
                await dialled.send_all(content_of(number, 50))
                read = await accepted.receive_some(100)
                reads.append(len(read))
                while len(read) < 50:
                    read += await accepted.receive_some(100)
                assert read == content_of(number, 50)
            assert machines.links.counts["pieces"] - before <= most
            assert (chance > 0) == (min(reads) < 50)

    run(main)
