"""What operators ask of the region itself (cluster/wire/admin.py): asynchronous, at the native door only.

Those that change the region's state are commands like any other; a hand-over is the leader's own affair and leaves no
trace in the log.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from keycluster.cluster.keys import commands
from keycluster.cluster.keys.hierarchy import Purpose
from keycluster.cluster.keys.records import (
    AccessKeyRecord,
    JoinTokenRecord,
    MemberRecord,
    MemberRole,
    MemberState,
    decode_record,
    load_members,
)
from keycluster.cluster.keys.token import open_secret
from keycluster.cluster.leases.successor import voters_heard_lately
from keycluster.cluster.raft.errors import RaftError
from keycluster.cluster.replica import Replica
from keycluster.cluster.seams import Clock
from keycluster.cluster.types import SECOND, AccountId, Instant, NodeId
from keycluster.cluster.wire import admin
from keycluster.cluster.wire.errors import ConflictException, ValidationException
from keycluster.node.access_keys import generate_access_key, seal_access_key
from keycluster.node.admission import join_token_text, new_join_token
from keycluster.node.dispatch import AdminCall, AdminOperation
from keycluster.node.room import Room


@dataclass(frozen=True, slots=True)
class AdminHandlers:
    """Bound to one node."""

    room: Room
    replica: Replica
    clock: Clock
    az: str
    pump: Callable[[], None]
    warnings: Callable[[], tuple[str, ...]]

    def operations(self) -> dict[str, AdminOperation]:
        """By name, for the native door."""
        table = (
            ("NodeStatus", admin.NodeStatusRequest, self.node_status),
            ("IssueJoinToken", admin.IssueJoinTokenRequest, self.issue_join_token),
            ("RemoveNode", admin.RemoveNodeRequest, self.remove_node),
            ("TransferLeadership", admin.TransferLeadershipRequest, self.transfer_leadership),
            ("CreateAccessKey", admin.CreateAccessKeyRequest, self.create_access_key),
            ("DeactivateAccessKey", admin.DeactivateAccessKeyRequest, self.deactivate_access_key),
            ("ConfirmTime", admin.ConfirmTimeRequest, self.confirm_time),
        )
        return {name: AdminOperation(name, request_type, handler) for name, request_type, handler in table}

    async def node_status(self, call: AdminCall) -> msgspec.Struct:
        """Answered by a node without a lease too: it says how this node sees the region."""
        now = self.clock.now()
        core = self.replica.core
        time = self.replica.cluster_time(now)
        members = list(load_members(self.room.view))
        own = next((member for member in members if member.node == self.room.node), None)
        return admin.NodeStatusResponse(
            region=self.room.region,
            node_id=self.room.node,
            az=self.az,
            role=own.role.value if own is not None and own.role is not None else None,
            leader=core.leader,
            term=core.term,
            applied_index=self.room.view.applied_index,
            settled_index=self.replica.settled_index,
            serving=self.replica.may_serve(now),
            cluster_time=None if time is None else time / SECOND,
            members=tuple(_member_status(member) for member in members if member.state is not MemberState.REMOVED),
            lease_holders=tuple(self.replica.holders(now)),
            warnings=self.warnings(),
        )

    async def issue_join_token(self, call: AdminCall) -> msgspec.Struct:
        room, request = self.room, call.request
        role = MemberRole(request.role)
        body = new_join_token(role=role, az=request.az, keyring=room.keyring, entropy=room.entropy)
        # What was applied counts, not what was just made: a repeat under one request id gets the first token again.
        record = decode_record(await self._change(call, body), JoinTokenRecord)
        token = join_token_text(record, view=room.view, keyring=room.keyring)
        return admin.IssueJoinTokenResponse(token=token, expires=record.expires / SECOND)

    async def remove_node(self, call: AdminCall) -> msgspec.Struct:
        await self._change(call, commands.BeginRemoveMember(NodeId(call.request.node_id)))
        return admin.RemoveNodeResponse()

    async def transfer_leadership(self, call: AdminCall) -> msgspec.Struct:
        core = self.replica.core
        if core.leader != self.room.node:
            raise ConflictException(f"This node does not lead; ask {core.leader or 'again later: nobody leads'}.")
        now = self.clock.now()
        target = NodeId(call.request.node_id) if call.request.node_id else best_successor(self.replica, now)
        if target is None or not core.membership.is_voter(target):
            raise ValidationException(f"There is no other voter {target or ''}to hand over to.")
        if target != self.room.node:
            try:
                self.replica.transfer_leadership(target, now)
            except RaftError as refusal:
                raise ConflictException(str(refusal)) from None
            self.pump()
        return admin.TransferLeadershipResponse()

    async def create_access_key(self, call: AdminCall) -> msgspec.Struct:
        room, request = self.room, call.request
        sealed = seal_access_key(
            generate_access_key(room.entropy),
            account=AccountId(request.account),
            operator=bool(request.operator),
            keyring=room.keyring,
            entropy=room.entropy,
        )
        record = decode_record(await self._change(call, commands.CreateAccessKey(sealed)), AccessKeyRecord)
        secret = open_secret(
            room.keyring, Purpose.ACCESS_KEY, record.secret_sealed, owner=record.access_key_id.encode()
        )
        return admin.CreateAccessKeyResponse(
            access_key_id=record.access_key_id, secret_access_key=secret.decode(), account=record.account
        )

    async def deactivate_access_key(self, call: AdminCall) -> msgspec.Struct:
        if call.request.access_key_id == call.caller.access_key_id:
            raise ConflictException("An access key can't deactivate itself: use another operator's.")
        await self._change(call, commands.DeactivateAccessKey(call.request.access_key_id))
        return admin.DeactivateAccessKeyResponse()

    async def confirm_time(self, call: AdminCall) -> msgspec.Struct:
        await self._change(call, commands.ConfirmTime())
        return admin.ConfirmTimeResponse()

    async def _change(self, call: AdminCall, body: commands.CommandBody) -> bytes:
        """The outcome's response, encoded. Raises KmsError."""
        command = commands.encode_command(
            body, call.caller, request_id=call.request_id, params_hash=call.params_hash, asked=call.asked
        )
        outcome = await self.room.consensus.propose(command)
        refusal = outcome.error()
        if refusal is not None:
            raise refusal
        return outcome.ok or b""


def best_successor(replica: Replica, now: Instant) -> NodeId | None:
    """The other voter, heard of a moment ago, whose log is the longest; None if there is none."""
    core = replica.core
    fit = [(core.progress[node].match, node) for node in voters_heard_lately(core, now)]
    return max(fit, default=(0, None))[1]


def _member_status(member: MemberRecord) -> admin.MemberStatus:
    return admin.MemberStatus(
        node_id=member.node,
        az=member.az,
        role=None if member.role is None else member.role.value,
        state=member.state.value,
        native_address=member.native_address,
        aws_address=member.aws_address,
    )
