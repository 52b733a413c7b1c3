"""What operators ask of the region itself, with an operator's access key.

Members and limits: cluster/wire/admin.py. `timeout` is in seconds, the client's own if not given.
"""

from keycluster.client.calls import Calls, changing, reading
from keycluster.cluster.wire.admin import (
    ConfirmTimeRequest,
    ConfirmTimeResponse,
    CreateAccessKeyRequest,
    CreateAccessKeyResponse,
    DeactivateAccessKeyRequest,
    DeactivateAccessKeyResponse,
    IssueJoinTokenRequest,
    IssueJoinTokenResponse,
    NodeStatusRequest,
    NodeStatusResponse,
    RemoveNodeRequest,
    RemoveNodeResponse,
    TransferLeadershipRequest,
    TransferLeadershipResponse,
)

_NODE_STATUS = reading("NodeStatus", NodeStatusResponse)
_ISSUE_JOIN_TOKEN = changing("IssueJoinToken", IssueJoinTokenResponse)
_REMOVE_NODE = changing("RemoveNode", RemoveNodeResponse)
_TRANSFER_LEADERSHIP = changing("TransferLeadership", TransferLeadershipResponse)
_CREATE_ACCESS_KEY = changing("CreateAccessKey", CreateAccessKeyResponse)
_DEACTIVATE_ACCESS_KEY = changing("DeactivateAccessKey", DeactivateAccessKeyResponse)
_CONFIRM_TIME = changing("ConfirmTime", ConfirmTimeResponse)


class AdminOperations(Calls):
    """See the module. Each method raises the `KmsError` that the region answers with, or a `KeyClientError`."""

    async def node_status(self, *, timeout: float | None = None) -> NodeStatusResponse:
        """How one node sees itself and the region. Which node answers is chance: `client.at(node)` chooses."""
        request = NodeStatusRequest()
        return await self._call(_NODE_STATUS, request, timeout)

    async def issue_join_token(self, *, az: str, role: str, timeout: float | None = None) -> IssueJoinTokenResponse:
        """A one-time token by which one node may join, within the hour."""
        request = IssueJoinTokenRequest(az=az, role=role)
        return await self._call(_ISSUE_JOIN_TOKEN, request, timeout)

    async def remove_node(self, *, node_id: str, timeout: float | None = None) -> RemoveNodeResponse:
        """Begins a node's removal; `node_status` shows when it is out."""
        request = RemoveNodeRequest(node_id=node_id)
        return await self._call(_REMOVE_NODE, request, timeout)

    async def transfer_leadership(
        self, *, node_id: str | None = None, timeout: float | None = None
    ) -> TransferLeadershipResponse:
        """Has the leader hand over, to that voter or one of its choice."""
        request = TransferLeadershipRequest(node_id=node_id)
        return await self._call(_TRANSFER_LEADERSHIP, request, timeout)

    async def create_access_key(
        self, *, account: str, operator: bool | None = None, timeout: float | None = None
    ) -> CreateAccessKeyResponse:
        """A new access key; its secret is shown this once."""
        request = CreateAccessKeyRequest(account=account, operator=operator)
        return await self._call(_CREATE_ACCESS_KEY, request, timeout)

    async def deactivate_access_key(
        self, *, access_key_id: str, timeout: float | None = None
    ) -> DeactivateAccessKeyResponse:
        """When this has returned, no node of the region takes the access key."""
        request = DeactivateAccessKeyRequest(access_key_id=access_key_id)
        return await self._call(_DEACTIVATE_ACCESS_KEY, request, timeout)

    async def confirm_time(self, *, timeout: float | None = None) -> ConfirmTimeResponse:
        """An operator's word that the clocks are right after time leapt: held deletions go on."""
        request = ConfirmTimeRequest()
        return await self._call(_CONFIRM_TIME, request, timeout)
