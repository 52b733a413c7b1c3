"""The key state machine on a state in memory, for tests: commands in, outcomes out, time under the test's hand.

    machine = KeyMachine()
    key = machine.create_key()
    machine.ok(DisableKey(key.key_id))
    assert machine.key(key.key_id).state is KeyState.DISABLED

Random bytes come from a counter: tokens are well-formed, but nothing is sealed in them.
"""

import struct
from hashlib import sha256
from typing import Any

import msgspec

from keycluster.cluster.keys.apply import apply_entry
from keycluster.cluster.keys.commands import (
    UNDATED,
    Caller,
    CommandBody,
    CreateKey,
    FoundRegion,
    NewAccessKey,
    NewBackingKey,
    NewMember,
    Outcome,
    encode_command,
    region_caller,
    stamp,
)
from keycluster.cluster.keys.records import (
    AuthorityRecord,
    ClockRecord,
    KeyRecord,
    MemberRole,
    RegionRecord,
    StateWriter,
    load_clock,
    load_key,
    load_region,
)
from keycluster.cluster.keys.token import TOKEN_BYTES
from keycluster.cluster.raft.messages import Entry, EntryKind, Membership, encode_membership_entry
from keycluster.cluster.types import SECOND, AccountId, ClusterTime, KeyId, LogIndex, NodeId, RunningTime, Term
from tests.room_on_memory import ACCOUNT, NOW, OTHER_ACCOUNT, REGION, MemoryState

OPERATOR_KEY = "AKIAOPERATOR00000000"
OTHER_KEY = "AKIAOTHERACCOUNT0000"


def bytes_of(*parts: object, count: int) -> bytes:
    """Deterministic filler, different for different parts."""
    return (sha256(repr(parts).encode()).digest() * (count // 32 + 1))[:count]


def backing_key(number: int, *, generation: int = 1) -> NewBackingKey:
    header = struct.pack(">BI", 1, generation)
    token = header + bytes_of("token", number, count=TOKEN_BYTES - len(header))
    return NewBackingKey(bytes_of("id", number, count=16), token)


def key_id_of(number: int) -> KeyId:
    digits = bytes_of("key", number, count=16).hex()
    return KeyId(f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}")


def caller_of(account: AccountId = ACCOUNT, access_key_id: str = OPERATOR_KEY, version: int = 1) -> Caller:
    return Caller(account, f"arn:aws:iam::{account}:root", access_key_id, version, "192.0.2.1")


def new_access_key(access_key_id: str, account: AccountId, *, operator: bool = False) -> NewAccessKey:
    return NewAccessKey(access_key_id, account, f"arn:aws:iam::{account}:root", b"sealed secret", operator)


def new_member(node: str, az: str, wanted: MemberRole = MemberRole.VOTER) -> NewMember:
    return NewMember(
        node=NodeId(node),
        az=az,
        wanted=wanted,
        identity_key=f"identity of {node}".encode(),
        wrap_key=f"wrap key of {node}".encode(),
        certificates=(f"certificate of {node}".encode(),),
        peer_address=f"{node}:7001",
        native_address=f"{node}:7002",
        aws_address=f"{node}:7003",
        wraps=((1, f"generation 1 for {node}".encode()),),
    )


FOUNDING = FoundRegion(
    region=REGION,
    generation=1,
    member=new_member("node-a", "az-1"),
    authorities=(AuthorityRecord("peer", b"certificate", b"sealed key"), AuthorityRecord("client", b"c", b"k")),
    access_key=new_access_key(OPERATOR_KEY, ACCOUNT, operator=True),
)


class KeyMachine:
    """One replica's state machine, with every entry that it was given."""

    def __init__(self, state: StateWriter | None = None, *, founded: bool = True) -> None:
        self.state: Any = MemoryState() if state is None else state
        self.entries: list[Entry] = []
        self.time = NOW
        self.running_ns = 0
        self.term = 1
        self._numbers = 0
        self.caller = caller_of()
        self.other = caller_of(OTHER_ACCOUNT, OTHER_KEY)
        self.region_speaks = region_caller("node-a")
        if founded:
            from keycluster.cluster.keys.commands import CreateAccessKey

            self.ok(FOUNDING, caller=self.region_speaks)
            self.ok(CreateAccessKey(new_access_key(OTHER_KEY, OTHER_ACCOUNT)))

    # Input

    def apply(
        self,
        body: CommandBody,
        *,
        caller: Caller | None = None,
        request_id: bytes | None = None,
        params_hash: bytes | None = None,
        asked: RunningTime | None = None,
    ) -> Outcome:
        """Stamps the command with the time as it is, and applies it. A request id of its own unless one is given.

        `asked`: by when it was taken from its caller, now unless given.
        """
        self._numbers += 1
        if caller is None:
            caller = self.caller
        if request_id is None:
            request_id = bytes(16) if caller.is_region else bytes_of("request", self._numbers, count=16)
        if params_hash is None:
            params_hash = sha256(msgspec.msgpack.encode(body)).digest()
        if asked is None:
            asked = UNDATED if caller.is_region else self.running_time
        command = encode_command(body, caller, request_id=request_id, params_hash=params_hash, asked=asked)
        return self.apply_payload(stamp(command, self.time, self.running_ns))

    def apply_payload(self, payload: bytes, kind: EntryKind = EntryKind.COMMAND) -> Outcome:
        entry = Entry(Term(self.term), LogIndex(len(self.entries) + 1), kind, payload)
        self.entries.append(entry)
        return apply_entry(self.state, entry)

    def membership(self, membership: Membership) -> Outcome:
        return self.apply_payload(encode_membership_entry(membership), EntryKind.MEMBERSHIP)

    def ok(self, body: CommandBody, response: Any = Any, **how: Any) -> Any:
        """Applies what must succeed; the response decoded as `response`."""
        outcome = self.apply(body, **how)
        assert outcome.error_code is None, outcome
        assert outcome.ok is not None
        return msgspec.msgpack.decode(outcome.ok, type=response)

    def refusal(self, body: CommandBody, **how: Any) -> tuple[str, str]:
        """Applies what must be refused, and must leave every row as it was but the clock's and the remembered ones."""
        outcome = self.apply(body, **how)
        assert outcome.error_code is not None, outcome
        assert outcome.ok is None
        return outcome.error_code, outcome.error_message

    def code(self, body: CommandBody, **how: Any) -> str:
        return self.refusal(body, **how)[0]

    def pass_time(self, seconds: float, *, running: bool = True) -> None:
        """Both clocks, or cluster time alone."""
        self.time = ClusterTime(self.time + int(seconds * SECOND))
        if running:
            self.running_ns += int(seconds * SECOND)

    def new_create_key(self, **fields: Any) -> CreateKey:
        self._numbers += 1
        number = self._numbers
        asked = {"description": "", "policy": None, "tags": (), "backing": backing_key(number), **fields}
        return CreateKey(key_id=asked.pop("key_id", key_id_of(number)), **asked)

    def create_key(self, *, caller: Caller | None = None, **fields: Any) -> KeyRecord:
        body = self.new_create_key(**fields)
        self.ok(body, caller=caller)
        return self.key(body.key_id)

    def next_backing_key(self) -> NewBackingKey:
        self._numbers += 1
        return backing_key(self._numbers)

    # Questions

    def key(self, key_id: KeyId) -> KeyRecord:
        key = load_key(self.state, key_id)
        assert key is not None
        return key

    @property
    def running_time(self) -> RunningTime:
        """By which a command that is taken now is dated; a stamp from the past doesn't set the region back."""
        clock = load_clock(self.state)
        return RunningTime(max(self.running_ns, 0 if clock is None else clock.running_ns))

    @property
    def clock(self) -> ClockRecord:
        clock = load_clock(self.state)
        assert clock is not None
        return clock

    @property
    def region(self) -> RegionRecord:
        region = load_region(self.state)
        assert region is not None
        return region

    def arn(self, key_id: KeyId, account: AccountId = ACCOUNT) -> str:
        return f"arn:aws:kms:{REGION}:{account}:key/{key_id}"

    def rows(self) -> dict[int, dict[bytes, bytes]]:
        """Every row of the state in memory."""
        return {table: dict(rows) for table, rows in self.state.tables.items() if rows}
