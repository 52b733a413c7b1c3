"""What operators ask of the region itself: at the native door only, with an operator's access key only.

Members are named and encoded as those of operations.py; none of this is AWS's.
"""

from typing import Annotated

from keycluster.cluster.wire.constraints import Length, OneOf, Pattern
from keycluster.cluster.wire.operations import Shape, UnixSeconds

NodeIdText = Annotated[str, Length(1, 64), Pattern(r"^[a-zA-Z0-9_.-]+$")]
AzText = Annotated[str, Length(1, 64), Pattern(r"^[a-zA-Z0-9_.-]+$")]
RoleText = Annotated[str, OneOf("voter", "learner")]
AccountText = Annotated[str, Pattern(r"^[0-9]{12}$")]
AccessKeyIdText = Annotated[str, Length(16, 128), Pattern(r"^[A-Za-z0-9_]+$")]


class NodeStatusRequest(Shape, frozen=True, kw_only=True):
    """Of the node that is asked; a node without a lease answers too."""


class MemberStatus(Shape, frozen=True, kw_only=True):
    """One member as the asked node's applied state has it."""

    node_id: str
    az: str
    role: str | None = None
    """What it is in the applied configuration: voter or learner; absent while it is in none."""
    state: str
    native_address: str
    aws_address: str


class NodeStatusResponse(Shape, frozen=True, kw_only=True):
    region: str
    node_id: str
    az: str
    role: str | None = None
    leader: str | None = None
    """Who leads as far as this node knows."""
    term: int
    applied_index: int
    settled_index: int
    """Applied by every node that may serve, as far as this one knows."""
    serving: bool
    """Whether a lease lived when the question came."""
    cluster_time: UnixSeconds | None = None
    members: tuple[MemberStatus, ...]
    lease_holders: tuple[str, ...] = ()
    """Of the leader: the other members that a change waits for until they have applied it."""
    warnings: tuple[str, ...] = ()
    """What an operator should know and can mend: swap isn't excluded, a clock is off."""


class IssueJoinTokenRequest(Shape, frozen=True, kw_only=True):
    az: AzText
    role: RoleText


class IssueJoinTokenResponse(Shape, frozen=True, kw_only=True):
    token: str
    """Shown once: whoever has it may add one node, within the hour."""
    expires: UnixSeconds

    def __repr__(self) -> str:
        return f"IssueJoinTokenResponse(expires={self.expires})"


class RemoveNodeRequest(Shape, frozen=True, kw_only=True):
    node_id: NodeIdText


class RemoveNodeResponse(Shape, frozen=True, kw_only=True):
    """The removal is recorded and goes on by itself; NodeStatus shows when the node is out."""


class TransferLeadershipRequest(Shape, frozen=True, kw_only=True):
    node_id: NodeIdText | None = None
    """A voter; absent lets the leader choose the one that is closest behind."""


class TransferLeadershipResponse(Shape, frozen=True, kw_only=True):
    """The hand-over has begun; NodeStatus shows who leads."""


class CreateAccessKeyRequest(Shape, frozen=True, kw_only=True):
    account: AccountText
    operator: bool | None = None
    """Whether the key may carry out the operations of this module."""


class CreateAccessKeyResponse(Shape, frozen=True, kw_only=True):
    access_key_id: str
    secret_access_key: str
    """Shown once."""
    account: str

    def __repr__(self) -> str:
        return f"CreateAccessKeyResponse(access_key_id={self.access_key_id!r}, account={self.account!r})"


class DeactivateAccessKeyRequest(Shape, frozen=True, kw_only=True):
    access_key_id: AccessKeyIdText


class DeactivateAccessKeyResponse(Shape, frozen=True, kw_only=True):
    """From now on no node of the region takes the key."""


class ConfirmTimeRequest(Shape, frozen=True, kw_only=True):
    """An operator has looked at the clocks: what was held because time leapt may be destroyed (security.md, 6)."""


class ConfirmTimeResponse(Shape, frozen=True, kw_only=True):
    """The hold is lifted."""
