"""Dialling and serving in memory: as node/network.py does it, judged by real certificates."""

import pytest
import trio

from keycluster.cluster.seams import DEFAULT_LIMITS, ByteStream, DialError, ServeLimits, StreamHandler, TlsIdentity
from keycluster.node.pki import AuthorityName
from keycluster.simulations.region.process import Process, process_of
from tests.simulations.region.machines import Machines, authority, identity, public_key, read_to_end, run

PEER_CA = authority(AuthorityName.PEER).certificate
CLIENT_CA = authority(AuthorityName.CLIENT).certificate


async def echo(stream: ByteStream) -> None:
    while content := await stream.receive_some(100):
        await stream.send_all(content.upper())


async def serve_native(
    machines: Machines,
    node: str,
    handler: StreamHandler = echo,
    address: str | None = None,
    limits: ServeLimits = DEFAULT_LIMITS,
) -> str:
    async def serve(task_status: trio.TaskStatus[str]) -> None:
        await machines.of(node).serve_native(
            address or f"{node}.test:7100",
            handler,
            identity=identity(node, name=AuthorityName.CLIENT),
            limits=limits,
            task_status=task_status,
        )

    served: str = await machines.nursery.start(serve)
    return served


async def serve_plain(machines: Machines, node: str, address: str, tls: TlsIdentity | None = None) -> str:
    async def serve(task_status: trio.TaskStatus[str]) -> None:
        await machines.of(node).serve_plain(address, echo, identity=tls, task_status=task_status)

    served: str = await machines.nursery.start(serve)
    return served


def test_peers_talk_and_know_each_other() -> None:
    """Both ends see the other's certificate and key; a dial takes its round trips."""
    seen = []

    async def handler(stream: ByteStream) -> None:
        seen.append((stream.peer_public_key, stream.peer_certificate, stream.peer_address))
        await echo(stream)

    async def main(machines: Machines) -> None:
        assert await machines.serve_peers("n1", handler) == "n1.test:7000"
        stream = await machines.dial_peer("n2", "n1")
        assert 0.001 < trio.current_time() < 0.01
        assert (stream.peer_public_key, stream.peer_certificate) == (public_key("n1"), identity("n1").certificate)
        assert stream.peer_address == "n1.test:7000"
        await stream.send_all(b"hello")
        assert await stream.receive_some(10) == b"HELLO"
        assert seen == [(public_key("n2"), identity("n2").certificate, "n2:40000")]
        await stream.aclose()
        await trio.sleep(1)
        assert machines.network.statistics()["n1.test:7000"].connections == 0
        assert machines.network.statistics()["n1.test:7000"].accepted == 1

    run(main)


def test_dial_refuses_another_key_and_another_authority() -> None:
    """The pinned key and the peer CA both must fit."""

    async def main(machines: Machines) -> None:
        await machines.serve_peers("n1", echo)
        for ca, key, text in (
            (PEER_CA, public_key("n3"), "another public key"),
            (authority(AuthorityName.PEER, "other").certificate, public_key("n1"), "not accepted"),
        ):
            with pytest.raises(DialError, match=text):
                await machines.of("n2").dial_peer(
                    "n1.test:7000", identity=identity("n2"), peer_ca=ca, expected_public_key=key
                )

    run(main)


@pytest.mark.parametrize(
    "shown",
    [identity("n2", region="other"), identity("n2", name=AuthorityName.CLIENT), None],
    ids=["ca", "use", "none"],
)
def test_peer_port_refuses_strangers_after_their_dial(shown: TlsIdentity | None) -> None:
    """As with TLS 1.3, the dial succeeds and the first receive tells."""
    heard = []

    async def handler(stream: ByteStream) -> None:
        heard.append(stream)

    async def main(machines: Machines) -> None:
        await machines.serve_peers("n1", handler)
        if shown is None:
            stream = await machines.of("n2").dial_native("n1.test:7000", client_ca=None)
        else:
            stream = await machines.of("n2").dial_peer(
                "n1.test:7000", identity=shown, peer_ca=PEER_CA, expected_public_key=public_key("n1")
            )
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)
        assert heard == []
        assert machines.network.statistics()["n1.test:7000"].handshakes_failed == 1

    run(main)


def test_native_port_is_judged_by_authority_and_host() -> None:
    """With a CA the certificate must be its and name the host; without one the caller judges."""

    async def main(machines: Machines) -> None:
        await serve_native(machines, "n1")
        await serve_native(machines, "n2", address="elsewhere.test:7100")
        stream = await machines.of("c1").dial_native("n1.test:7100", client_ca=CLIENT_CA)
        await stream.send_all(b"x")
        assert await stream.receive_some(10) == b"X"
        with pytest.raises(DialError, match="Hostname mismatch"):
            await machines.of("c1").dial_native("elsewhere.test:7100", client_ca=CLIENT_CA)
        with pytest.raises(DialError, match="not accepted"):
            await machines.of("c1").dial_native("n1.test:7100", client_ca=PEER_CA)
        stream = await machines.of("c1").dial_native("elsewhere.test:7100", client_ca=None)
        assert stream.peer_certificate == identity("n2", name=AuthorityName.CLIENT).certificate

    run(main)


def test_plain_port_without_tls_wants_loopback() -> None:
    """As in the real one; with an identity any host will do."""

    async def main(machines: Machines) -> None:
        with pytest.raises(ValueError, match="not a loopback address"):
            await machines.of("n1").serve_plain("n1.test:8000", echo)
        assert await serve_plain(machines, "n1", "127.0.0.1:8000") == "127.0.0.1:8000"
        await serve_plain(machines, "n1", "n1.test:8000", identity("n1", name=AuthorityName.CLIENT))
        for address, tls in (("127.0.0.1:8000", False), ("n1.test:8000", True)):
            stream = await machines.of("c1").dial_plain(address, tls=tls, client_ca=CLIENT_CA)
            await stream.send_all(b"x")
            assert await stream.receive_some(10) == b"X"
            with pytest.raises(DialError, match="does not finish"):
                await machines.of("c1").dial_plain(address, tls=not tls)

    run(main)


def test_dial_that_nobody_answers_is_refused_or_times_out() -> None:
    """At once where the machine says so, after five seconds where nothing comes back."""

    async def main(machines: Machines) -> None:
        async def dial(text: str) -> float:
            began = trio.current_time()
            with pytest.raises(DialError, match=text):
                await machines.of("c1").dial_native("n1.test:7101", client_ca=None)
            return trio.current_time() - began

        assert await dial("No route to host") < 0.01
        await serve_native(machines, "n1")
        assert await dial("Connection refused") < 0.01
        for pair in (("c1", "n1"), ("n1", "c1")):
            machines.links.cut(*pair)
            assert await dial("within 5 s") == 5
            machines.links.heal(*pair)
        machines.network.down("n1", machine=True)
        assert await dial("within 5 s") == 5
        machines.network.up("n1")
        assert await dial("Connection refused") < 0.01

    run(main)


def test_dial_into_a_short_cut_is_repeated() -> None:
    """The first packet is sent again after a second."""

    async def main(machines: Machines) -> None:
        await serve_native(machines, "n1")
        machines.links.cut("c1", "n1")
        machines.wire.after(500_000_000, machines.links.heal, "c1", "n1")
        await machines.of("c1").dial_native("n1.test:7100", client_ca=CLIENT_CA)
        assert 1 < trio.current_time() < 1.1

    run(main)


def test_stopped_process_finishes_no_handshake() -> None:
    """Who dials it waits until it goes on, five seconds at most; handlers belong to the process."""
    owners = []

    async def handler(stream: ByteStream) -> None:
        owners.append(process_of(trio.lowlevel.current_task()))
        await echo(stream)

    async def main(machines: Machines) -> None:
        process = Process("n1")
        machines.nursery.start_soon(process.run, serve_native, machines, "n1", handler)

        async def serve() -> None:
            await machines.of("n1").serve_native(
                "n1.test:7200", handler, identity=identity("n1", name=AuthorityName.CLIENT)
            )

        machines.nursery.start_soon(Process("n1b").run, serve)
        process = Process("n2")

        async def serve_as_process() -> None:
            await machines.of("n2").serve_native(
                "n2.test:7200", handler, identity=identity("n2", name=AuthorityName.CLIENT)
            )

        machines.nursery.start_soon(process.run, serve_as_process)
        await trio.sleep(1)
        process.pause()
        machines.wire.after(3_000_000_000, process.resume)
        await machines.of("c1").dial_native("n2.test:7200", client_ca=CLIENT_CA)
        assert 4 < trio.current_time() < 4.1
        assert owners == [process]
        process.pause()
        with pytest.raises(DialError, match="within 5 s"):
            await machines.of("c1").dial_native("n2.test:7200", client_ca=CLIENT_CA)
        process.resume()
        await trio.sleep(1)
        assert len(owners) == 2
        assert machines.network.statistics()["n2.test:7200"].connections == 1

    run(main)


def test_one_connection_too_many_is_hung_up_on() -> None:
    """And there is room again once one ends."""

    async def main(machines: Machines) -> None:
        address = await serve_native(machines, "n1", limits=ServeLimits(connections_max=2))
        dialled = [await machines.of("c1").dial_native(address, client_ca=CLIENT_CA) for _ in range(2)]
        with pytest.raises(DialError, match="hung up"):
            await machines.of("c1").dial_native(address, client_ca=CLIENT_CA)
        assert machines.network.statistics()[address].over_limit == 1
        await dialled[0].aclose()
        await trio.sleep(0.1)
        await machines.of("c1").dial_native(address, client_ca=CLIENT_CA)

    run(main)


def test_handler_that_breaks_its_stream_ends_its_connection_alone() -> None:
    """Any other exception is a fault of ours and ends the server."""

    async def broken(stream: ByteStream) -> None:
        raise {b"b": trio.BrokenResourceError, b"c": trio.ClosedResourceError, b"f": ZeroDivisionError}[
            await stream.receive_some(1)
        ]

    async def main(machines: Machines) -> None:
        ended = []

        async def serve(task_status: trio.TaskStatus[str]) -> None:
            with pytest.RaisesGroup(ZeroDivisionError):
                await machines.of("n1").serve_native(
                    "n1.test:0", broken, identity=identity("n1", name=AuthorityName.CLIENT), task_status=task_status
                )
            ended.append(True)

        address = await machines.nursery.start(serve)
        assert not address.endswith(":0")
        for what in (b"b", b"c", b"f"):
            assert ended == []
            stream = await machines.of("c1").dial_native(address, client_ca=CLIENT_CA)
            await stream.send_all(what)
            assert await read_to_end(stream) == b""
        assert ended == [True]
        with pytest.raises(DialError, match="refused"):
            await machines.of("c1").dial_native(address, client_ca=CLIENT_CA)

    run(main)


def test_address_is_taken_once() -> None:
    """And is free again when its server has ended or its process has died."""

    async def main(machines: Machines) -> None:
        await serve_native(machines, "n1")
        with pytest.raises(OSError, match=r"can't listen at n1\.test:7100"):
            await machines.of("n1").serve_native(
                "n1.test:7100", echo, identity=identity("n1", name=AuthorityName.CLIENT)
            )
        machines.network.down("n1")
        await serve_native(machines, "n1")

    run(main)


def test_dead_process_has_no_network_any_more() -> None:
    """What its tasks still want waits for ever; the next process of that name has its own."""

    async def main(machines: Machines) -> None:
        await serve_native(machines, "n2")
        old = machines.of("n1")
        machines.network.down("n1")
        for call in (
            lambda: old.dial_native("n2.test:7100", client_ca=None),
            lambda: old.serve_native("n1.test:7100", echo, identity=identity("n1", name=AuthorityName.CLIENT)),
        ):
            with trio.move_on_after(100) as scope:
                await call()
            assert scope.cancelled_caught
        await machines.of("n1").dial_native("n2.test:7100", client_ca=None)

    run(main)


def test_tap_sees_all_that_is_sent() -> None:
    """Also what never arrives."""

    async def main(machines: Machines) -> None:
        tapped = []
        machines.network.tap = lambda *what: tapped.append(what)
        dialled, accepted = machines.connect("n1", "n2")
        machines.links.cut("n1", "n2")
        await dialled.send_all(b"lost")
        await accepted.send_all(bytearray(b"answer"))
        assert tapped == [("n1", "n2", b"lost"), ("n2", "n1", b"answer")]

    run(main)


def test_cancelled_dial_leaves_nothing_behind() -> None:
    """Whenever it is cancelled: the server's end comes to its end."""

    async def main(machines: Machines) -> None:
        address = await serve_native(machines, "n1")
        for microseconds in range(0, 6_000, 200):
            with trio.move_on_after(microseconds / 1e6):
                stream = await machines.of("c1").dial_native(address, client_ca=CLIENT_CA)
                await stream.aclose()
        await trio.sleep(1)
        statistics = machines.network.statistics()[address]
        assert statistics.connections == 0
        assert statistics.accepted > 10

    run(main)


def test_groups_are_near() -> None:
    """Names in one AZ are closer than others."""

    async def main(machines: Machines) -> None:
        async def ping(one: str, other: str) -> float:
            dialled, accepted = machines.connect(one, other)
            began = trio.current_time()
            await dialled.send_all(b"x")
            await accepted.receive_some(1)
            return trio.current_time() - began

        machines.links.place("n1", "a")
        machines.links.place("n2", "a")
        machines.links.place("n3", "b")
        assert 0.0001 <= await ping("n1", "n2") <= 0.0003
        assert 0.0003 <= await ping("n1", "n3") <= 0.0009

    run(main)
