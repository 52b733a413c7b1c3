"""Running an async function on an event loop of either kind."""

from collections.abc import Awaitable, Callable

import anyio

Body = Callable[[], Awaitable[object]]
Run = Callable[[Body], None]


def run_on(backend: str, body: Body) -> None:
    """To its end, within 30 seconds."""

    async def main() -> None:
        with anyio.fail_after(30):
            await body()

    anyio.run(main, backend=backend)
