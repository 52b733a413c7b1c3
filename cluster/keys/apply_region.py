"""The commands on the region itself: its founding, members, access keys and time.

Members follow raft's membership entries: those alone say who votes, who learns and who is out (`apply_membership`).
Responses that would hold a secret are the stored record, with the secret sealed: the node that answers opens it. So a
repeat under the same request id, answered by another node, shows the same secret.
"""

import re
from typing import Final

from msgspec.structs import replace

from keycluster.cluster.keys import commands
from keycluster.cluster.keys.records import (
    ONLY_ROW,
    SCAN_ROWS,
    AccessKeyRecord,
    GenerationRecord,
    GenerationState,
    JoinTokenRecord,
    MemberRecord,
    MemberRole,
    MemberState,
    RegionRecord,
    StateWriter,
    Table,
    WrapRecord,
    access_key_row,
    authority_row,
    decode_record,
    generation_row,
    load_access_key,
    load_join_token,
    load_member,
    load_members,
    member_row,
    store,
    wrap_row,
)
from keycluster.cluster.keys.resolve import ACCOUNT_PATTERN
from keycluster.cluster.keys.timekeeping import confirmed
from keycluster.cluster.keys.transition import Transition
from keycluster.cluster.membership import placement_allows, wanted_voters
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.types import SECOND, ClusterTime, NodeId
from keycluster.cluster.wire import admin
from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    AlreadyExistsException,
    ConflictException,
    NotFoundException,
    ValidationException,
)

JOIN_TOKEN_NS = 3600 * SECOND
TOKEN_ID_BYTES = 16
PUBLIC_KEY_BYTES_MAX = 1024
CERTIFICATE_BYTES_MAX = 8192
CERTIFICATES_MAX = 8
SEALED_BYTES_MAX = 16_384
WRAPPED_BYTES_MAX = 1024
WRAPS_MAX = 64
ADDRESS_CHARACTERS_MAX = 320
PRINCIPAL_CHARACTERS_MAX = 2048

NAME_PATTERN: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}", re.ASCII)
ACCESS_KEY_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_]{16,128}", re.ASCII)
REGION_PATTERN: Final = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)


def found_region(state: StateWriter, now: ClusterTime, body: commands.FoundRegion) -> None:
    """The first command of the log; `apply` sees to it that there is no region yet."""
    _check(REGION_PATTERN.fullmatch(body.region) is not None, "region")
    _check(1 <= body.generation < 2**32, "generation")
    _check_member(body.member)
    _check_access_key(body.access_key)
    for authority in body.authorities:
        _check(NAME_PATTERN.fullmatch(authority.name) is not None, "authority")
        _check(len(authority.certificate) <= CERTIFICATE_BYTES_MAX, "authority's certificate")
        _check(len(authority.private_key_sealed) <= SEALED_BYTES_MAX, "authority's private key")
    operators = int(body.access_key.operator)
    store(state, Table.REGION, ONLY_ROW, RegionRecord(body.region, now, body.generation, operators=operators))
    generation = GenerationRecord(body.generation, now, GenerationState.ACTIVE)
    store(state, Table.GENERATIONS, generation_row(body.generation), generation)
    for authority in body.authorities:
        store(state, Table.AUTHORITIES, authority_row(authority.name), authority)
    _store_member(state, now, body.member, MemberState.ACTIVE, MemberRole.VOTER)
    _store_access_key(state, now, body.access_key)


def issue_join_token(transition: Transition, body: commands.IssueJoinToken) -> JoinTokenRecord:
    _check(len(body.token_id) == TOKEN_ID_BYTES, "token id")
    _check(len(body.secret_sealed) <= SEALED_BYTES_MAX, "token secret")
    _check(NAME_PATTERN.fullmatch(body.az) is not None, "AZ")
    if load_join_token(transition.state, body.token_id) is not None:
        raise AlreadyExistsException("The command's join token id is taken")
    _drop_expired_tokens(transition)
    expires = ClusterTime(transition.now + JOIN_TOKEN_NS)
    token = JoinTokenRecord(body.token_id, body.secret_sealed, body.role, body.az, expires)
    store(transition.state, Table.JOIN_TOKENS, body.token_id, token)
    return token


def admit_member(transition: Transition, body: commands.AdmitMember) -> MemberRecord:
    """Burns the token; raft's membership follows. A repeat for the same node with the same key gets the same answer."""
    _check_member(body.member)
    state, new = transition.state, body.member
    token = load_join_token(state, body.token_id)
    member = load_member(state, new.node)
    if token is not None and member is not None and token.used_by == new.node and _is_same_node(member, new):
        return member
    if token is None or token.used_by is not None or token.expires <= transition.now:
        raise AccessDeniedException("The join token is unknown, used or expired")
    if (token.role, token.az) != (new.wanted, new.az):
        raise AccessDeniedException("The join token is for another role or AZ")
    if member is not None:
        raise AlreadyExistsException(f"A node {new.node} is or was a member: an id is never given again")
    if new.wanted is MemberRole.VOTER:
        _check_placement(transition, {new.node: new.az})
    store(state, Table.JOIN_TOKENS, body.token_id, replace(token, used_by=new.node))
    return _store_member(state, transition.now, new, MemberState.JOINING, None)


def begin_remove_member(transition: Transition, body: commands.BeginRemoveMember) -> admin.RemoveNodeResponse:
    member = load_member(transition.state, body.node)
    if member is None or member.state is MemberState.REMOVED:
        raise NotFoundException(f"There is no node {body.node}")
    if member.state is MemberState.REMOVING:
        return admin.RemoveNodeResponse()
    if member.wanted is MemberRole.VOTER:
        _check_placement(transition, {body.node: None})
    if member.role is None:
        _remove(transition.state, member)  # Raft never had it; if it is about to, the leader takes it out again.
    else:
        _put_member(transition.state, replace(member, state=MemberState.REMOVING))
    return admin.RemoveNodeResponse()


def update_member_addresses(transition: Transition, body: commands.UpdateMemberAddresses) -> None:
    _check_addresses(body)
    member = load_member(transition.state, body.node)
    if member is None or member.state is MemberState.REMOVED:
        raise NotFoundException(f"There is no node {body.node}")
    updated = replace(
        member,
        peer_address=body.peer_address,
        native_address=body.native_address,
        aws_address=body.aws_address,
    )
    _put_member(transition.state, updated)


def create_access_key(transition: Transition, body: commands.CreateAccessKey) -> AccessKeyRecord:
    _check_access_key(body.access_key)
    if load_access_key(transition.state, body.access_key.access_key_id) is not None:
        raise AlreadyExistsException("The command's access key id is taken")
    if body.access_key.operator:
        _count_operators(transition, 1)
    return _store_access_key(transition.state, transition.now, body.access_key)


def deactivate_access_key(
    transition: Transition, body: commands.DeactivateAccessKey
) -> admin.DeactivateAccessKeyResponse:
    """For ever. Its version moves on too, so that a command on its way with it is refused whatever comes later.

    The last operator's stays: two operators may deactivate each other's at once, each seeing the other's active.
    """
    access_key = load_access_key(transition.state, body.access_key_id)
    if access_key is None:
        raise NotFoundException(f"There is no access key {body.access_key_id}")
    if access_key.active:
        if access_key.operator:
            if transition.region.operators <= 1:
                raise ConflictException("The last active access key of an operator can't be deactivated")
            _count_operators(transition, -1)
        inactive = replace(access_key, active=False, version=access_key.version + 1)
        store(transition.state, Table.ACCESS_KEYS, access_key_row(body.access_key_id), inactive)
    return admin.DeactivateAccessKeyResponse()


def _count_operators(transition: Transition, change: int) -> None:
    region = transition.region
    store(transition.state, Table.REGION, ONLY_ROW, replace(region, operators=region.operators + change))


def confirm_time(transition: Transition, body: commands.ConfirmTime) -> admin.ConfirmTimeResponse:
    store(transition.state, Table.CLOCK, ONLY_ROW, confirmed(transition.clock))
    return admin.ConfirmTimeResponse()


def apply_membership(state: StateWriter, membership: Membership) -> None:
    """Brings every member's role to what raft's newest applied membership says."""
    for member in list(load_members(state)):
        if member.state is MemberState.REMOVED:
            continue
        role = _role(member.node, membership)
        if role is None and member.role is not None:
            _remove(state, member)
        elif role is not member.role:
            entered = member.state is MemberState.JOINING
            _put_member(state, replace(member, role=role, state=MemberState.ACTIVE if entered else member.state))


def _is_same_node(member: MemberRecord, new: commands.NewMember) -> bool:
    return (member.identity_key, member.wrap_key) == (new.identity_key, new.wrap_key)


def _drop_expired_tokens(transition: Transition) -> None:
    """A used one stays until it expires: the node that it admitted may have lost the answer, and asks again."""
    for row, token in transition.state.scan(Table.JOIN_TOKENS, limit=SCAN_ROWS):
        if decode_record(token, JoinTokenRecord).expires <= transition.now:
            transition.state.delete(Table.JOIN_TOKENS, row)


def _role(node: NodeId, membership: Membership) -> MemberRole | None:
    if membership.is_voter(node):
        return MemberRole.VOTER
    return MemberRole.LEARNER if membership.is_learner(node) else None


def _remove(state: StateWriter, member: MemberRecord) -> None:
    """Forgets the node's keys and the domain keys wrapped to it. The row stays: its id is never given again."""
    removed = replace(member, identity_key=b"", wrap_key=b"", certificates=(), state=MemberState.REMOVED, role=None)
    _put_member(state, removed)
    for _, row in state.scan(Table.GENERATIONS, limit=SCAN_ROWS):
        wrap = wrap_row(decode_record(row, GenerationRecord).number, member.node)
        if state.get(Table.WRAPS, wrap) is not None:
            state.delete(Table.WRAPS, wrap)


def _store_member(
    state: StateWriter, now: ClusterTime, new: commands.NewMember, phase: MemberState, role: MemberRole | None
) -> MemberRecord:
    member = MemberRecord(
        node=new.node,
        az=new.az,
        wanted=new.wanted,
        identity_key=new.identity_key,
        wrap_key=new.wrap_key,
        certificates=new.certificates,
        peer_address=new.peer_address,
        native_address=new.native_address,
        aws_address=new.aws_address,
        state=phase,
        role=role,
        admitted=now,
    )
    _put_member(state, member)
    for generation, wrapped in new.wraps:
        store(state, Table.WRAPS, wrap_row(generation, new.node), WrapRecord(generation, new.node, wrapped))
    return member


def _put_member(state: StateWriter, member: MemberRecord) -> None:
    store(state, Table.MEMBERS, member_row(member.node), member)


def _store_access_key(state: StateWriter, now: ClusterTime, new: commands.NewAccessKey) -> AccessKeyRecord:
    access_key = AccessKeyRecord(
        access_key_id=new.access_key_id,
        account=new.account,
        principal=new.principal,
        secret_sealed=new.secret_sealed,
        version=1,
        operator=new.operator,
        active=True,
        created=now,
    )
    store(state, Table.ACCESS_KEYS, access_key_row(new.access_key_id), access_key)
    return access_key


def _check_placement(transition: Transition, change: dict[NodeId, str | None]) -> None:
    if not placement_allows(wanted_voters(load_members(transition.state)), change):
        raise ConflictException(
            "With voters in three or more AZs none may hold a majority of them, and the last voter can't be removed: "
            "first add voters in other AZs"
        )


def _check_member(new: commands.NewMember) -> None:
    _check(NAME_PATTERN.fullmatch(new.node) is not None, "node id")
    _check(NAME_PATTERN.fullmatch(new.az) is not None, "AZ")
    _check(1 <= len(new.identity_key) <= PUBLIC_KEY_BYTES_MAX, "identity key")
    _check(1 <= len(new.wrap_key) <= PUBLIC_KEY_BYTES_MAX, "wrap key")
    _check(len(new.certificates) <= CERTIFICATES_MAX, "certificates")
    _check(all(len(certificate) <= CERTIFICATE_BYTES_MAX for certificate in new.certificates), "certificate")
    _check(len(new.wraps) <= WRAPS_MAX, "wraps")
    for generation, wrapped in new.wraps:
        _check(1 <= generation < 2**32 and len(wrapped) <= WRAPPED_BYTES_MAX, "wrap")
    _check_addresses(new)


def _check_addresses(of: commands.NewMember | commands.UpdateMemberAddresses) -> None:
    for address in (of.peer_address, of.native_address, of.aws_address):
        _check(len(address) <= ADDRESS_CHARACTERS_MAX, "address")


def _check_access_key(new: commands.NewAccessKey) -> None:
    _check(ACCESS_KEY_ID_PATTERN.fullmatch(new.access_key_id) is not None, "access key id")
    _check(ACCOUNT_PATTERN.fullmatch(new.account) is not None, "account")
    _check(1 <= len(new.principal) <= PRINCIPAL_CHARACTERS_MAX, "principal")
    _check(len(new.secret_sealed) <= SEALED_BYTES_MAX, "access key's secret")


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValidationException(f"The command's {what} is malformed")
