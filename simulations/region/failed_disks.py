"""A disk that failed to write or to sync is never trusted again by the process that was told so.

Nobody knows what is on it then, and the next sync says yes whatever it is (cluster/store/errors.py). So from that
moment on the node must not take anything for stored, and it must end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from keycluster.cluster.store.log import FILE_NAME as LOG_NAME
from keycluster.cluster.store.state import FILE_NAME as STATE_NAME
from keycluster.cluster.types import SECOND, NodeId
from keycluster.simulations.region.node import Life, SimNode

ENDS_NS_MAX = 3 * SECOND
"""Within this it has ended, unless it was stopped meanwhile: what its actors are in the midst of takes a moment."""


@dataclass(frozen=True, slots=True)
class _Failed:
    life: Life
    log_ended: int
    applied: int


class FailedDisks:
    """A region's."""

    def __init__(self, found: Callable[[str, str], None]) -> None:
        self.after: Callable[[int, Callable[[], None]], object] = _never
        """Calls something after so many nanoseconds."""
        self._found = found
        self._log: dict[NodeId, _Failed] = {}
        self._state: dict[NodeId, _Failed] = {}

    def failed(self, node: SimNode, path: Path | None) -> None:
        """From within the operation. Other files than its databases' may be written again."""
        running, life = node.running, node.life
        if path is None or running is None or life is None:
            return
        failed = _Failed(life, running.stores.log.last_index, running.stores.state.view.applied_index)
        for name, table in ((LOG_NAME, self._log), (STATE_NAME, self._state)):
            if path.name.startswith(name):
                table[node.name] = failed
                self.after(ENDS_NS_MAX, partial(self._look_for_end, node, life))

    def stepped(self, node: SimNode) -> None:
        running = node.running
        log, state = self._log.get(node.name), self._state.get(node.name)
        if running is None:
            return
        if log is not None and log.life is node.life and running.stores.log.last_index != log.log_ended:
            self._complain(node, "its log moved")
        if state is not None and state.life is node.life and running.stores.state.view.applied_index != state.applied:
            self._complain(node, "its state moved")

    def _look_for_end(self, node: SimNode, life: Life) -> None:
        if node.life is not life:
            return
        if node.is_paused or node.disk.is_stalled:
            self.after(ENDS_NS_MAX, partial(self._look_for_end, node, life))
        else:
            self._complain(node, "it has not ended")

    def _complain(self, node: SimNode, what: str) -> None:
        self._log.pop(node.name, None)
        self._state.pop(node.name, None)
        self._found("failed-disk", f"{node.name}: its disk failed to store what it had, and {what}")


def _never(_ns: int, _callback: Callable[[], None]) -> None:
    pass
