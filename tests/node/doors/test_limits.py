"""What a door and the port below it take together, over real sockets."""

from functools import partial

import trio

from keycluster.node.doors.limits import NEWCOMERS, DoorLimits, door_limits, port_limits
from keycluster.node.network import RealNetwork
from tests.node.doors.region import Region


async def test_silent_strangers_do_not_keep_others_out() -> None:
    """However many connect and say nothing: the next one reaches the door, and the oldest stranger gives way."""
    limits = DoorLimits(connections_max=8, strangers_max=8)
    door = Region(limits=limits).aws_door
    serve = partial(RealNetwork().serve_plain, "127.0.0.1:0", door.serve, limits=port_limits(limits))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve)
        port = int(address.rpartition(":")[2])
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(8 + NEWCOMERS + 1)]
        async with await trio.open_tcp_stream("127.0.0.1", port) as asking:
            await asking.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with trio.fail_after(10):
                assert (await asking.receive_some(12)) == b"HTTP/1.1 404"
        assert door.connections.strangers <= limits.strangers_max
        for stream in silent:
            await stream.aclose()
        nursery.cancel_scope.cancel()


def test_strangers_never_fill_a_door() -> None:
    """Of a small door they get half, of a large one the usual number."""
    assert [door_limits(count).strangers_max for count in (1, 9, 1_024, 100_000)] == [1, 4, 512, 1_024]
