"""The region's side of a join: join tokens are issued, and who proves one is admitted (security.md, 8).

Whatever is wrong with a token (unknown, expired, used, for another role or AZ, a proof that doesn't verify) gives one
and the same refusal. What is wrong with a proven question is told plainly.

The state is asked only under a lease, the command carries the decision, and `apply` makes it again: two nodes that
are asked at once with one token admit one node.
"""

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from keycluster.cluster.keys.commands import AdmitMember, IssueJoinToken, NewMember, encode_command, region_caller
from keycluster.cluster.keys.hierarchy import GenerationUnknown, Keyring, Purpose
from keycluster.cluster.keys.records import (
    JoinTokenRecord,
    MemberRecord,
    MemberRole,
    MemberState,
    StateReader,
    load_authority,
    load_join_token,
    load_member,
    load_members,
)
from keycluster.cluster.keys.token import NONCE_BYTES, TokenInvalid, open_secret, seal_secret
from keycluster.cluster.seams import Entropy, WrapError
from keycluster.cluster.types import ClusterTime, NodeId, WallTime
from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    ConflictException,
    DependencyTimeoutException,
    KMSInternalException,
    ValidationException,
)
from keycluster.node.addresses import AddressMalformed, split_address
from keycluster.node.consensus import Consensus
from keycluster.node.join_messages import (
    VERSION,
    Admission,
    JoinMalformed,
    JoinRequest,
    answer,
    is_question_proven,
    read_question,
)
from keycluster.node.join_token import ADDRESSES_MAX, SECRET_BYTES, TOKEN_ID_BYTES, JoinToken, format_join_token
from keycluster.node.pki import Authority, AuthorityName, CertificateRefused, fingerprint, issue_certificate
from keycluster.node.sealing import Contact, NodeSecrets, wrap_info

CONTACTS_MAX = 15
"""Voters that a joiner is told of: all of any sensible region, and they fit into one frame before log-in."""

TOKEN_REFUSED = "The join token is not valid for this node"  # noqa: S105


class _Standing(Enum):
    FRESH = "the token admits this node"
    REPEATED = "the token has admitted this very node: its answer was lost"


@dataclass(frozen=True, slots=True)
class Admitter:
    """Answers joins at one node. `secrets` gives its newest ones: generations come while it runs."""

    secrets: Callable[[], NodeSecrets]
    consensus: Consensus
    entropy: Entropy

    async def admit(self, question: bytes, *, source: str) -> bytes:
        """The answer to a join's question, once the admission is applied. Raises KmsError.

        The door waits no longer than it likes. `source` is where the question came from, for the command's record.
        """
        if not self.consensus.may_serve():
            raise DependencyTimeoutException("This node can't know whether it is current: ask another one")
        now = self.consensus.cluster_time()
        if now is None:
            raise DependencyTimeoutException("This node doesn't know the region's time yet: ask another one")
        seen = self.consensus.view.applied_index
        prepared = prepare_admission(
            question, view=self.consensus.view, secrets=self.secrets(), entropy=self.entropy, now=now
        )
        if prepared.command is None:
            await self.consensus.settled(seen)  # A repeat's success, too, rests on what all must have applied (L5).
        else:
            caller = region_caller(f"{self.secrets().node} for {source}")
            outcome = await self.consensus.propose(encode_command(prepared.command, caller))
            error = outcome.error()
            if error is not None:
                raise error
        return prepared.answer


@dataclass(frozen=True, slots=True)
class PreparedAdmission:
    """What to propose, and what to answer once that is applied."""

    command: AdmitMember | None
    """None: it was applied before, and the joiner asks again."""
    answer: bytes

    def __repr__(self) -> str:
        return f"PreparedAdmission(command={self.command!r}, answer of {len(self.answer)} bytes)"


def prepare_admission(
    question: bytes, *, view: StateReader, secrets: NodeSecrets, entropy: Entropy, now: ClusterTime
) -> PreparedAdmission:
    """Checks the token and makes everything that the joiner gets. Raises KmsError. Plain code, no waiting.

    Two signatures and one wrap a generation: about 1 ms, and only for who has a token's secret.
    """
    try:
        request = read_question(question)
    except JoinMalformed as malformed:
        raise ValidationException(f"The join is malformed: {malformed}") from None
    keyring = secrets.keyring()
    secret, standing = _check_token(question, request, view=view, keyring=keyring, secrets=secrets, now=now)
    if request.region != secrets.region:
        raise ValidationException(f"This is region {secrets.region}, the new node is configured for {request.region}")
    member = load_member(view, request.node)
    if standing is _Standing.REPEATED and member is not None:
        return _prepare(None, _admission(member, view, secrets, entropy), question, secret, secrets)
    if member is not None:
        raise ConflictException(f"A node {request.node} is or was a member: an id is never given again")
    admitted = _new_member(request, view=view, keyring=keyring, secrets=secrets, entropy=entropy, now=now)
    admission = _admission(admitted, view, secrets, entropy)
    return _prepare(AdmitMember(request.token_id, admitted), admission, question, secret, secrets)


def new_join_token(*, role: MemberRole, az: str, keyring: Keyring, entropy: Entropy) -> IssueJoinToken:
    """The command that issues a fresh token; `join_token_text` gives its text once it is applied."""
    token_id = entropy.random_bytes(TOKEN_ID_BYTES)
    sealed = seal_secret(
        keyring,
        keyring.newest,
        Purpose.JOIN_TOKEN,
        secret=entropy.random_bytes(SECRET_BYTES),
        owner=token_id,
        nonce=entropy.random_bytes(NONCE_BYTES),
    )
    return IssueJoinToken(token_id=token_id, secret_sealed=sealed, role=role, az=az)


def join_token_text(record: JoinTokenRecord, *, view: StateReader, keyring: Keyring) -> str:
    """What the operator carries to the new node, and is shown once. Raises KmsError."""
    authority = load_authority(view, AuthorityName.CLIENT)
    addresses = [member.native_address for member in _introducible(load_members(view))]
    if authority is None or not addresses:
        raise KMSInternalException("", detail="the region has no client CA or no active members")
    try:
        secret = open_secret(keyring, Purpose.JOIN_TOKEN, record.secret_sealed, owner=record.token_id)
    except (TokenInvalid, GenerationUnknown) as error:
        raise KMSInternalException("", detail=f"join token {record.token_id.hex()}: {error}") from None
    return format_join_token(
        JoinToken(
            token_id=record.token_id,
            secret=secret,
            client_ca_fingerprint=fingerprint(authority.certificate),
            addresses=tuple(addresses[:ADDRESSES_MAX]),
        )
    )


def _check_token(
    question: bytes,
    request: JoinRequest,
    *,
    view: StateReader,
    keyring: Keyring,
    secrets: NodeSecrets,
    now: ClusterTime,
) -> tuple[bytes, _Standing]:
    """The token's secret, and what it is good for. Raises AccessDeniedException, the same whatever is wrong."""
    token = load_join_token(view, request.token_id)
    secret = _token_secret(token, keyring)
    proven = is_question_proven(
        question, secret=secret or bytes(SECRET_BYTES), server_certificate=secrets.native_certificate
    )
    if token is None or secret is None or not proven or token.expires <= now:
        raise AccessDeniedException(TOKEN_REFUSED)
    if (token.role, token.az) != (request.role, request.az):
        raise AccessDeniedException(TOKEN_REFUSED)
    if token.used_by is None:
        return secret, _Standing.FRESH
    member = load_member(view, request.node)
    if token.used_by != request.node or member is None or not _is_same_node(member, request):
        raise AccessDeniedException(TOKEN_REFUSED)
    return secret, _Standing.REPEATED


def _token_secret(token: JoinTokenRecord | None, keyring: Keyring) -> bytes | None:
    if token is None:
        return None
    try:
        return open_secret(keyring, Purpose.JOIN_TOKEN, token.secret_sealed, owner=token.token_id)
    except (TokenInvalid, GenerationUnknown):
        return None


def _is_same_node(member: MemberRecord, request: JoinRequest) -> bool:
    """A removed member's keys are forgotten, so it is never the same again."""
    same_identity = hmac.compare_digest(member.identity_key, request.peer_public_key)
    return same_identity and hmac.compare_digest(member.wrap_key, request.wrap_public_key)


def _new_member(
    request: JoinRequest,
    *,
    view: StateReader,
    keyring: Keyring,
    secrets: NodeSecrets,
    entropy: Entropy,
    now: ClusterTime,
) -> NewMember:
    try:
        peer_host, native_host, aws_host = (
            _reachable_host(address) for address in (request.peer_address, request.native_address, request.aws_address)
        )
        certificates = tuple(
            issue_certificate(
                _open_authority(view, name, keyring),
                node=request.node,
                public_key=public_key,
                hosts=hosts,
                entropy=entropy,
                now=WallTime(now),
            )
            for name, public_key, hosts in (
                (AuthorityName.PEER, request.peer_public_key, (peer_host,)),
                (AuthorityName.CLIENT, request.native_public_key, (native_host, aws_host)),
            )
        )
    except (AddressMalformed, CertificateRefused) as error:
        raise ValidationException(f"The new node's configuration: {error}") from None
    return NewMember(
        node=request.node,
        az=request.az,
        wanted=request.role,
        identity_key=request.peer_public_key,
        wrap_key=request.wrap_public_key,
        certificates=certificates,
        peer_address=request.peer_address,
        native_address=request.native_address,
        aws_address=request.aws_address,
        wraps=_wraps(request.node, request.wrap_public_key, secrets, entropy),
    )


def _reachable_host(address: str) -> str:
    """The host of an address that others will dial. Raises `AddressMalformed`."""
    host, port = split_address(address)
    if port == 0:
        raise AddressMalformed(f"{address!r} names no port")
    return host


def _admission(
    member: NewMember | MemberRecord, view: StateReader, secrets: NodeSecrets, entropy: Entropy
) -> Admission:
    wraps = member.wraps if isinstance(member, NewMember) else _wraps(member.node, member.wrap_key, secrets, entropy)
    return Admission(
        version=VERSION,
        peer_certificate=member.certificates[0],
        native_certificate=member.certificates[1],
        peer_ca=secrets.peer_ca,
        client_ca=secrets.client_ca,
        wraps=wraps,
        contacts=tuple(
            Contact(known.node, known.identity_key, known.peer_address)
            for known in _introducible(load_members(view))
            if known.node != member.node
        )[:CONTACTS_MAX],
    )


def _prepare(
    command: AdmitMember | None, admission: Admission, question: bytes, secret: bytes, secrets: NodeSecrets
) -> PreparedAdmission:
    try:
        payload = answer(admission, question=question, secret=secret, server_certificate=secrets.native_certificate)
    except JoinMalformed as error:
        raise KMSInternalException("", detail=str(error)) from None
    return PreparedAdmission(command=command, answer=payload)


def _introducible(members: Iterable[MemberRecord]) -> list[MemberRecord]:
    """Members that serve, voters first: one of them leads and will be the joiner's first caller.

    At last those that are being removed: they may be all that still runs, and stay until the joiner votes.
    """
    serving = [member for member in members if member.state in (MemberState.ACTIVE, MemberState.REMOVING)]
    return sorted(
        serving,
        key=lambda member: (
            member.state is MemberState.REMOVING,
            member.role is not MemberRole.VOTER,
            member.node,
        ),
    )


def _wraps(node: NodeId, wrap_key: bytes, secrets: NodeSecrets, entropy: Entropy) -> tuple[tuple[int, bytes], ...]:
    """Every generation held, wrapped to the joiner: old ones still open what isn't re-wrapped yet."""
    try:
        return tuple(
            (number, entropy.wrap(key, to=wrap_key, info=wrap_info(secrets.region, number, node)))
            for number, key in secrets.generations
        )
    except WrapError as error:
        raise ValidationException(f"The new node's wrap key: {error}") from None


def _open_authority(view: StateReader, name: AuthorityName, keyring: Keyring) -> Authority:
    record = load_authority(view, name)
    if record is None:
        raise KMSInternalException("", detail=f"the region has no {name} CA")
    try:
        private_key = open_secret(keyring, Purpose.AUTHORITY, record.private_key_sealed, owner=name.value.encode())
    except (TokenInvalid, GenerationUnknown) as error:
        raise KMSInternalException("", detail=f"the {name} CA: {error}") from None
    return Authority(name=name, certificate=record.certificate, private_key=private_key)
