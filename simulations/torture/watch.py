"""Who leads and who serves, asked of the nodes a few times a second: for the nemesis, the time line and the end."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from keycluster.client.errors import KeyclusterError
from keycluster.client.key_client import KeyClient
from keycluster.cluster.wire.admin import NodeStatusResponse
from keycluster.simulations.torture.region import TortureRegion
from keycluster.simulations.trace import What

LOOK_EVERY_S: Final = 0.25
ANSWER_S_MAX: Final = 0.5


class Watch:
    """What each node said of itself last; None where it didn't answer."""

    def __init__(self, region: TortureRegion) -> None:
        self._region = region
        self.statuses: dict[str, NodeStatusResponse | None] = dict.fromkeys(region.nodes)
        self.version = trio.Event()
        """Set, and replaced, whenever something was learned."""

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for name in self._region.nodes:
                nursery.start_soon(self._watch, name)

    async def _watch(self, name: str) -> None:
        while True:
            try:
                async with self._region.operator(timeout=ANSWER_S_MAX) as client:
                    await self._ask_again_and_again(name, client)
            except KeyclusterError:
                self._learn(name, None)
                await trio.sleep(LOOK_EVERY_S)

    async def _ask_again_and_again(self, name: str, client: KeyClient) -> None:
        while True:
            status = None
            with suppress(KeyclusterError):
                status = await client.at(name).node_status(timeout=ANSWER_S_MAX)
            self._learn(name, status)
            await trio.sleep(LOOK_EVERY_S)

    def _learn(self, name: str, status: NodeStatusResponse | None) -> None:
        before, self.statuses[name] = self.statuses[name], status
        for had, has, begins, ends in (
            (_leads(before), _leads(status), What.LEADS, What.FOLLOWS),
            (_serves(before), _serves(status), What.SERVES, What.SERVES_NOT),
        ):
            if had != has:
                self._region.note(name, begins if has else ends, *([has] if has and begins == What.LEADS else []))
        self.version.set()
        self.version = trio.Event()

    def leader(self) -> str | None:
        """Who says so, of the highest term."""
        terms = {name: _leads(status) for name, status in self.statuses.items()}
        leading = {name: term for name, term in terms.items() if term}
        return max(leading, key=lambda name: leading[name]) if leading else None

    def serves(self, name: str) -> bool:
        """In its role, when it answered last."""
        status = self.statuses[name]
        return _serves(status) and status is not None and status.role is not None

    def voters(self) -> list[str]:
        """By whatever any node said last; all nodes if none ever did."""
        for status in self.statuses.values():
            if status is not None:
                voters = [member.node_id for member in status.members if member.role == "voter"]
                return [name for name in self.statuses if name in voters]
        return list(self.statuses)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when it holds; looked at whenever a node has been asked."""
        while not condition():
            await self.version.wait()

    def describe(self) -> str:
        return "; ".join(map(self._line, self.statuses))

    def _line(self, name: str) -> str:
        node, status = self._region.nodes[name], self.statuses[name]
        about = [f"{name} {'runs' if node.is_running else 'is down'}"]
        if node.is_paused:
            about.append("paused")
        if status is None:
            return f"{', '.join(about)}, doesn't answer"
        about.append(f"{'leads' if _leads(status) else f'follows {status.leader}'} in term {status.term}")
        about.append("serves" if status.serving else "doesn't serve")
        return f"{', '.join(about)}, applied {status.applied_index}, settled {status.settled_index}"


def _leads(status: NodeStatusResponse | None) -> int:
    """The term in which it leads; 0 if it doesn't."""
    return status.term if status is not None and status.leader == status.node_id else 0


def _serves(status: NodeStatusResponse | None) -> bool:
    return status is not None and status.serving
