"""A wire tap: TCP proxies that a test puts before a node's ports, and all that went through them."""

from collections import defaultdict

import trio

from tests.region.dev_region import HOST

READ_BYTES = 65_536


class Tap:
    """Everything said through its proxies, by port and direction, the streams of each joined by NULs."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._said: dict[str, list[bytearray]] = defaultdict(list)

    async def stand_before(self, name: str, port: int) -> int:
        """Listens; what comes is passed on to `port`, and back. Returns the port to tell others."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)

        async def pass_on(asking: trio.SocketStream) -> None:
            try:
                answering = await trio.open_tcp_stream(HOST, port)
            except OSError:
                await asking.aclose()
                return
            async with asking, answering, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, f"{name} questions", asking, answering, nursery.cancel_scope)
                nursery.start_soon(self._pump, f"{name} answers", answering, asking, nursery.cancel_scope)

        self._nursery.start_soon(trio.serve_listeners, pass_on, listeners)
        return int(listeners[0].socket.getsockname()[1])

    async def _pump(
        self, name: str, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        said = bytearray()
        self._said[name].append(said)
        try:
            async for content in source:
                said += content
                await sink.send_all(content)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    def said(self) -> dict[str, bytes]:
        return {f"wire: {name}": b"\0".join(map(bytes, streams)) for name, streams in self._said.items()}
