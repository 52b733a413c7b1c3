"""A node that was restarted at other addresses says so: its member row is what others dial it by.

The row is what the applied state has; the configuration is what is true. While the two differ the node proposes its
addresses. Nobody can reach it until they are applied: it hears from no leader and gets no answer. So where it knows of
no leader it tells all whom it can dial itself, and whoever leads puts the command into the log; the others follow the
row as soon as they have applied it.

So nodes move one at a time: those that stay must have a leader among them.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from keycluster.cluster.keys.commands import UpdateMemberAddresses, encode_command, region_caller
from keycluster.cluster.keys.records import MemberRecord, MemberState, load_member
from keycluster.cluster.peer_messages import Forward
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.errors import KmsError
from keycluster.node.config import NodeConfig
from keycluster.node.consensus import Consensus

LOOK_EVERY_S = 1.0  # For ever: this node's own row may be behind when it starts.
PROPOSAL_S = 5.0
NO_REPLY = 0  # The number of a forward whose reply nobody waits for; `Proposals` begins at random ones.

log = structlog.get_logger(__name__)


class Moving:
    """Runs at every node. Restarting it loses nothing."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        consensus: Consensus,
        connected: Callable[[], Sequence[NodeId]],
        send: Callable[[NodeId, Forward], bool],
    ) -> None:
        """`connected`: the members that this node has dialled."""
        self._config = config
        self._consensus = consensus
        self._connected = connected
        self._send = send

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Looks until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(LOOK_EVERY_S)
            body = self._needed()
            if body is not None:
                log.info("this node's addresses have changed", peer=body.peer_address, native=body.native_address)
                await self._announce(encode_command(body, region_caller(self._config.node)))

    def _needed(self) -> UpdateMemberAddresses | None:
        config = self._config
        row = load_member(self._consensus.view, config.node)
        wanted = (config.peer.advertised, config.native.advertised, config.aws.advertised)
        if row is None or row.state is MemberState.REMOVED or _addresses(row) == wanted:
            return None
        peer, native, aws = wanted
        return UpdateMemberAddresses(config.node, peer_address=peer, native_address=native, aws_address=aws)

    async def _announce(self, command: bytes) -> None:
        """A lost one is repeated by the next look, and one that comes twice changes nothing."""
        if self._consensus.leader is None:
            for peer in self._connected():
                self._send(peer, Forward(NO_REPLY, command))
            return
        with trio.move_on_after(PROPOSAL_S):
            try:
                outcome = await self._consensus.propose(command)
            except KmsError as refusal:
                log.info("new addresses have to wait", reason=refusal.message)
                return
            if outcome.error_code is not None:
                log.warning("new addresses are refused", reason=outcome.error_message)


def _addresses(row: MemberRecord) -> tuple[str, str, str]:
    return row.peer_address, row.native_address, row.aws_address
