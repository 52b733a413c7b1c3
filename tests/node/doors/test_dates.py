"""A request is of the moment in which its door read it, however long it waits before anybody looks at it."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from keycluster.cluster.keys.commands import decode_command
from keycluster.cluster.keys.records import ONLY_ROW, ClockRecord, Table
from keycluster.cluster.keys.requests import AGE_NS_MAX, REMEMBERED_LEAST_NS
from keycluster.cluster.types import SECOND, RunningTime
from keycluster.cluster.wire.frames import encode_requests
from keycluster.cluster.wire.operations import CreateKeyRequest
from keycluster.node.doors.limits import DEFAULT_LIMITS
from keycluster.node.suspension import SUSPENDED_NS_MAX
from keycluster.node.turns import Turns
from tests.node.doors.region import Region
from tests.node.doors.test_aws import connected, http, sign
from tests.room_on_memory import NOW

T = TypeVar("T")
READ_AT = RunningTime(100 * SECOND)


class LongLine(Turns):
    """The region runs on for a minute before anybody has a turn."""

    region: Region

    async def run(self, account: str, work: Callable[[], T]) -> T:
        clock = ClockRecord(NOW, RunningTime(self.region.applied.running_time + 60 * SECOND))
        self.region.put(Table.CLOCK, ONLY_ROW, clock)
        return await super().run(account, work)


@pytest.fixture
def region() -> Region:
    region = Region()
    region.put(Table.CLOCK, ONLY_ROW, ClockRecord(NOW, READ_AT))
    region.dispatch.turns = turns = LongLine()
    turns.region = region
    return region


def test_what_lies_unread_behind_others_is_read_while_it_is_remembered() -> None:
    """A connection's next requests wait for the answers to those before, and are dated then."""
    unread_s = DEFAULT_LIMITS.http_deadline_seconds + DEFAULT_LIMITS.write_seconds
    assert unread_s * SECOND + SUSPENDED_NS_MAX + AGE_NS_MAX < REMEMBERED_LEAST_NS


def dates(region: Region) -> list[RunningTime]:
    return [decode_command(command).asked for command in region.applied.proposed]


async def test_native_request_that_waits_for_a_turn_keeps_its_date(region: Region) -> None:
    """Else a long line would make what is old young."""
    async with region.native() as client:
        before = region.applied.running_time
        await client.send(encode_requests([client.request("CreateKey", CreateKeyRequest())]))
        await client.replies(1)
    assert dates(region) == [before]


async def test_pipelined_requests_have_the_date_of_their_receive(region: Region) -> None:
    """The last of them may come to its turn minutes later."""
    async with connected(region) as client:
        await client.raw.send(3 * http(sign("CreateKey")))
        for _ in range(3):
            await client.response()
    assert dates(region) == [READ_AT] * 3


async def test_pipelined_requests_share_one_deadline(autojump_clock: MockClock) -> None:
    """So that what comes behind them doesn't lie unread for longer than one of them may take."""
    region = Region()
    region.applied.hold = trio.Event()
    async with connected(region) as client:
        await client.raw.send(3 * http(sign("CreateKey")))
        codes = [(await client.response()).code for _ in range(3)]
    assert codes == ["DependencyTimeoutException"] * 3
    assert trio.current_time() == pytest.approx(20, abs=0.1)
