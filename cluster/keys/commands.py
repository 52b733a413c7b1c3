"""What enters the log: commands, the stamp that the leader puts before them, and the outcome of one.

    log payload = stamp version 1 byte (1) ‖ cluster time u64 ‖ running time u64 ‖ command          (big-endian)
    command     = msgpack array [version, request id, caller, parameters' hash, running time when asked, body]

docs/formats.md, "Log command", has it byte by byte, with test vectors.

A command is complete: ids, random bytes, sealed secrets and time are in it, put there by the proposer and the leader,
so that `apply` computes the same at every node. It never holds key material in the clear. Key references are carried
as the caller wrote them (`key`): `apply` resolves them, so that every refusal stands in the order of the log.

A caller's command is dated: by running time as the node that took it from its caller had it applied. `apply` refuses
what was under way for too long (requests.py).
"""

import struct
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from keycluster.cluster.keys.records import AuthorityRecord, MemberRole
from keycluster.cluster.types import AccountId, ClusterTime, KeyId, NodeId, RunningTime
from keycluster.cluster.wire.errors import KmsError, error_of

STAMP_VERSION = 1
COMMAND_VERSION = 1
REQUEST_ID_BYTES = 16
PARAMS_HASH_BYTES = 32
NO_REQUEST_ID = bytes(REQUEST_ID_BYTES)  # The region's own commands: never repeated by a client, not remembered.
NO_PARAMS_HASH = bytes(PARAMS_HASH_BYTES)
UNDATED = RunningTime(0)  # The region's own commands have no age.
COMMAND_BYTES_MAX = 262_144  # The largest input is a 128 KiB policy; the largest command a CreateKey with one.
TIME_MAX = ClusterTime(2**62)  # In the year 2116. Whatever is scheduled from it still fits a u64.

_STAMP = struct.Struct(">BQQ")
STAMP_BYTES = _STAMP.size


class CommandMalformed(Exception):
    """Bytes that are no log payload of a version known here. The text says what is wrong, never what was in them."""


class Part(Struct, frozen=True, array_like=True):
    """What every part of a command is."""


class Caller(Part, frozen=True):
    """On whose behalf: looked up at the door, and again by `apply` (security.md, 7)."""

    account: AccountId
    principal: str  # ARN, from the access key's record.
    access_key_id: str
    credential_version: int
    source: str  # Where the request came from: an address, or a node's id for the region's own commands.

    @property
    def is_region(self) -> bool:
        """Whether the region itself speaks (maintenance, membership). No access key has an empty id."""
        return not self.access_key_id


def region_caller(source: str) -> Caller:
    """The caller of commands that no client asked for; `source` is the id of the node that proposes them."""
    return Caller(account=AccountId(""), principal="region", access_key_id="", credential_version=0, source=source)


class NewBackingKey(Part, frozen=True):
    """A backing key that the proposer made: 16 random bytes, and the token that names its generation."""

    id: bytes
    token: bytes

    def __repr__(self) -> str:
        return f"NewBackingKey(id={self.id.hex()})"


class Body(Part, frozen=True):
    """A command's body: an array that begins with its tag."""


class CreateKey(Body, frozen=True, tag=1):
    key_id: KeyId
    backing: NewBackingKey
    description: str
    policy: str | None
    tags: tuple[tuple[str, str], ...]


class EnableKey(Body, frozen=True, tag=2):
    key: str


class DisableKey(Body, frozen=True, tag=3):
    key: str


class ScheduleKeyDeletion(Body, frozen=True, tag=4):
    key: str
    window_days: int


class CancelKeyDeletion(Body, frozen=True, tag=5):
    key: str


class UpdateKeyDescription(Body, frozen=True, tag=6):
    key: str
    description: str


class CreateAlias(Body, frozen=True, tag=7):
    alias: str
    key: str


class UpdateAlias(Body, frozen=True, tag=8):
    alias: str
    key: str


class DeleteAlias(Body, frozen=True, tag=9):
    alias: str


class TagResource(Body, frozen=True, tag=10):
    key: str
    tags: tuple[tuple[str, str], ...]


class UntagResource(Body, frozen=True, tag=11):
    key: str
    tag_keys: tuple[str, ...]


class PutKeyPolicy(Body, frozen=True, tag=12):
    key: str
    policy: str


class EnableKeyRotation(Body, frozen=True, tag=13):
    key: str
    period_days: int


class DisableKeyRotation(Body, frozen=True, tag=14):
    key: str


class RotateKeyOnDemand(Body, frozen=True, tag=15):
    key: str
    backing: NewBackingKey | None  # None: the proposer could not see such a key; `apply` says why.


class CompleteKeyDeletion(Body, frozen=True, tag=32):
    """The region's own: the waiting period is over. `deletion_at` is the one that the proposer saw."""

    key_id: KeyId
    deletion_at: ClusterTime


class RotateKeyAutomatically(Body, frozen=True, tag=33):
    """The region's own. `replaces` is the current backing key's id that the proposer saw."""

    key_id: KeyId
    replaces: bytes
    backing: NewBackingKey


class Tick(Body, frozen=True, tag=34):
    """The region's own: nothing but the stamp. Carries time on, and forgets expired requests a few at a time."""


class NewMember(Part, frozen=True):
    node: NodeId
    az: str
    wanted: MemberRole
    identity_key: bytes
    wrap_key: bytes
    certificates: tuple[bytes, ...]
    peer_address: str
    native_address: str
    aws_address: str
    wraps: tuple[tuple[int, bytes], ...]  # (generation, HPKE wrap to wrap_key).


class NewAccessKey(Part, frozen=True):
    access_key_id: str
    account: AccountId
    principal: str
    secret_sealed: bytes
    operator: bool

    def __repr__(self) -> str:
        return f"NewAccessKey({self.access_key_id}, account={self.account})"


class FoundRegion(Body, frozen=True, tag=64):
    """The first command of a region's log: everything it starts with."""

    region: str
    generation: int
    member: NewMember
    authorities: tuple[AuthorityRecord, ...]
    access_key: NewAccessKey


class IssueJoinToken(Body, frozen=True, tag=65):
    token_id: bytes
    secret_sealed: bytes
    role: MemberRole
    az: str

    def __repr__(self) -> str:
        return f"IssueJoinToken({self.token_id.hex()}, role={self.role}, az={self.az})"


class AdmitMember(Body, frozen=True, tag=66):
    """Burns the token and pins the node's keys. Raft's membership follows the row, led by the leader."""

    token_id: bytes
    member: NewMember


class BeginRemoveMember(Body, frozen=True, tag=67):
    node: NodeId


class CreateAccessKey(Body, frozen=True, tag=68):
    access_key: NewAccessKey


class DeactivateAccessKey(Body, frozen=True, tag=69):
    access_key_id: str


class ConfirmTime(Body, frozen=True, tag=70):
    """An operator has looked at the clocks: what was held because time leapt may be destroyed."""


class UpdateMemberAddresses(Body, frozen=True, tag=71):
    """The region's own: a member that restarted elsewhere says where it is now."""

    node: NodeId
    peer_address: str
    native_address: str
    aws_address: str


CommandBody = (
    CreateKey
    | EnableKey
    | DisableKey
    | ScheduleKeyDeletion
    | CancelKeyDeletion
    | UpdateKeyDescription
    | CreateAlias
    | UpdateAlias
    | DeleteAlias
    | TagResource
    | UntagResource
    | PutKeyPolicy
    | EnableKeyRotation
    | DisableKeyRotation
    | RotateKeyOnDemand
    | CompleteKeyDeletion
    | RotateKeyAutomatically
    | Tick
    | FoundRegion
    | IssueJoinToken
    | AdmitMember
    | BeginRemoveMember
    | CreateAccessKey
    | DeactivateAccessKey
    | ConfirmTime
    | UpdateMemberAddresses
)


class Command(Part, frozen=True):
    """The envelope."""

    version: int
    request_id: bytes  # 16 bytes, unique per principal; NO_REQUEST_ID: not remembered.
    caller: Caller
    params_hash: bytes  # 32 bytes: `hash_parameters`.
    asked: RunningTime  # By the newest stamp that the node had applied which took it from its caller; else UNDATED.
    body: CommandBody


class _Beginning(Part, frozen=True):
    """A command's first members."""

    version: int
    request_id: bytes
    caller: Caller


class Payload(Struct, frozen=True):
    """A log payload, decoded."""

    time: ClusterTime
    running_ns: int
    command: Command


class Outcome(Part, frozen=True):
    """What a command came to: either `ok` or `error_code` is set, never both."""

    ok: bytes | None = None  # The operation's response, msgpack.
    error_code: str | None = None
    error_message: str = ""

    def error(self) -> KmsError | None:
        """The refusal as an exception to raise, None on success."""
        return None if self.error_code is None else error_of(self.error_code, self.error_message)


_ENCODER = msgspec.msgpack.Encoder()
_COMMAND_DECODER = msgspec.msgpack.Decoder(Command)
_BEGINNING_DECODER = msgspec.msgpack.Decoder(_Beginning)
_OUTCOME_DECODER = msgspec.msgpack.Decoder(Outcome)


def hash_parameters(operation: str, request: Any) -> bytes:
    """What a request id is remembered with: a repeat under the same id must have the same operation and parameters."""
    name = operation.encode()
    return sha256(bytes((len(name),)) + name + _ENCODER.encode(request)).digest()


def encode_command(
    body: CommandBody,
    caller: Caller,
    *,
    request_id: bytes = NO_REQUEST_ID,
    params_hash: bytes = NO_PARAMS_HASH,
    asked: RunningTime = UNDATED,
) -> bytes:
    """The command, ready for `Consensus.propose`. Raises ValueError on an id or hash of the wrong length.

    `asked`: for a caller's command, the node's `Consensus.running_time` when it read the request.
    """
    if len(request_id) != REQUEST_ID_BYTES or len(params_hash) != PARAMS_HASH_BYTES:
        raise ValueError(f"request id of {len(request_id)} bytes, parameters' hash of {len(params_hash)} bytes")
    return _ENCODER.encode(Command(COMMAND_VERSION, request_id, caller, params_hash, asked, body))


def decode_command(command: bytes) -> Command:
    """Raises `CommandMalformed`. Extra members at an array's end, from a newer version, are refused too: see below.

    msgspec would skip them; then two nodes of different versions could apply one command differently. So a command is
    re-encoded and compared: one encoding per command.
    """
    if len(command) > COMMAND_BYTES_MAX:
        raise CommandMalformed(f"a command of {len(command)} bytes")
    try:
        decoded = _COMMAND_DECODER.decode(command)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CommandMalformed("not a command") from None
    if decoded.version != COMMAND_VERSION:
        raise CommandMalformed(f"a command of version {decoded.version}")
    if len(decoded.request_id) != REQUEST_ID_BYTES or len(decoded.params_hash) != PARAMS_HASH_BYTES:
        raise CommandMalformed("a request id or parameters' hash of the wrong length")
    if not 0 <= decoded.asked <= TIME_MAX:
        raise CommandMalformed(f"a command from beyond time: {decoded.asked}")
    if _ENCODER.encode(decoded) != command:
        raise CommandMalformed("not the one encoding of its command")
    return decoded


def account_of(command: bytes) -> str:
    """Whose command it is, without a look at the rest. Empty for the region's own, and for what is no command."""
    try:
        return _BEGINNING_DECODER.decode(command).caller.account
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def stamp(command: bytes, time: ClusterTime, running_ns: int) -> bytes:
    """The log payload. `running_ns` is how long the region has run under leaders, by their monotonic clocks."""
    return _STAMP.pack(STAMP_VERSION, time, running_ns) + command


def decode_payload(payload: bytes) -> Payload:
    """Raises `CommandMalformed`."""
    if len(payload) < STAMP_BYTES:
        raise CommandMalformed(f"a payload of {len(payload)} bytes")
    version, time, running_ns = _STAMP.unpack_from(payload)
    if version != STAMP_VERSION:
        raise CommandMalformed(f"a stamp of version {version}")
    if time > TIME_MAX or running_ns > TIME_MAX:
        raise CommandMalformed(f"a stamp from beyond time: {time}, {running_ns}")
    return Payload(ClusterTime(time), running_ns, decode_command(payload[STAMP_BYTES:]))


def encode_outcome(outcome: Outcome) -> bytes:
    return _ENCODER.encode(outcome)


def decode_outcome(encoded: bytes) -> Outcome:
    """Raises `CommandMalformed`."""
    try:
        return _OUTCOME_DECODER.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CommandMalformed("not an outcome") from None
