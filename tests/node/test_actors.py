"""Mailboxes, asks and the supervisor."""

import itertools

import pytest
import trio
import trio.testing

from keycluster.node.actors import (
    RESTART_FIRST_S,
    ActorSpec,
    Ask,
    Mailbox,
    MailboxFull,
    OnFailure,
    Supervisor,
    describe,
)


def test_mailbox_refuses_beyond_its_capacity() -> None:
    """No queue is unbounded: who tells a full mailbox is told so at once."""
    mailbox: Mailbox[int] = Mailbox(capacity=2)
    mailbox.tell(1)
    mailbox.tell(2)
    with pytest.raises(MailboxFull):
        mailbox.tell(3)
    assert len(mailbox) == 2


async def test_mailbox_gives_all_that_waits_in_order() -> None:
    """Whoever takes gets everything at once: that is what makes batches."""
    mailbox: Mailbox[int] = Mailbox(capacity=10)
    for number in range(5):
        mailbox.tell(number)
    assert await mailbox.take_all() == [0, 1, 2, 3, 4]


async def test_mailbox_wakes_who_waits(autojump_clock: trio.testing.MockClock) -> None:
    """A message told while the actor waits wakes it."""
    mailbox: Mailbox[str] = Mailbox(capacity=1)
    taken: list[list[str]] = []

    async def take() -> None:
        taken.append(await mailbox.take_all())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.tell("wake up")
    assert taken == [["wake up"]]


async def test_ask_keeps_the_first_answer() -> None:
    """A forwarded command may be answered twice: the first answer counts."""
    ask: Ask[int] = Ask()
    ask.answer(1)
    ask.answer(2)
    assert await ask.wait() == 1


async def test_supervisor_restarts_with_back_off(autojump_clock: trio.testing.MockClock) -> None:
    """An actor that may fail is started again, later each time."""
    starts: list[float] = []

    async def run(task_status: trio.TaskStatus[None]) -> None:
        starts.append(trio.current_time())
        task_status.started()
        if len(starts) < 4:
            raise RuntimeError("again")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        await supervisor.start(ActorSpec("fails", run, OnFailure.RESTART))
        await trio.sleep(10)
        await supervisor.stop()
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses == pytest.approx([RESTART_FIRST_S, 2 * RESTART_FIRST_S, 4 * RESTART_FIRST_S])
    assert supervisor.restarts == 3


async def test_supervisor_stops_the_node_for_who_must_not_fail(autojump_clock: trio.testing.MockClock) -> None:
    """What holds state is never restarted: its failure comes out of the nursery."""

    async def run(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(1)
        raise RuntimeError("the store is damaged")

    with pytest.raises(ExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            await Supervisor(nursery).start(ActorSpec("store", run, OnFailure.STOP_NODE))
    assert raised.group_contains(RuntimeError, match="damaged")


async def test_supervisor_stops_in_reverse_order(autojump_clock: trio.testing.MockClock) -> None:
    """A door closes before what is behind it."""
    stopped: list[str] = []

    def actor(name: str) -> ActorSpec:
        async def run(task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                stopped.append(name)

        return ActorSpec(name, run, OnFailure.RESTART)

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        for name in ("store", "raft", "door"):
            await supervisor.start(actor(name))
        await supervisor.stop()
    assert stopped == ["door", "raft", "store"]


def test_describe_is_one_line_without_a_traceback() -> None:
    """What the log says of an exception group are its exceptions."""
    group = ExceptionGroup("unhandled", [ValueError("a\nb"), ExceptionGroup("inner", [KeyError("c")]), OSError()])
    assert describe(group) == "ValueError: a b; KeyError: 'c'; OSError"


def test_describe_says_once_what_two_tasks_found() -> None:
    """A node that two peers told of its roll-back stops with one line, not with the same one twice."""
    assert (
        describe(ExceptionGroup("", [ValueError("a"), KeyError("b"), ValueError("a")]))
        == "ValueError: a; KeyError: 'b'"
    )


@pytest.mark.parametrize("inside_a_group", [False, True])
async def test_supervisor_restarts_nobody_after_a_fatal_failure(
    autojump_clock: trio.testing.MockClock, inside_a_group: bool
) -> None:
    """Whoever meets a damaged store: reading it again makes it no better."""

    async def run(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        error = KeyError("damaged")
        raise ExceptionGroup("of a nursery", [error, ValueError()]) if inside_a_group else error

    with pytest.raises(ExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            await Supervisor(nursery, fatal=(KeyError,)).start(ActorSpec("maintenance", run, OnFailure.RESTART))
    assert raised.group_contains(KeyError)
