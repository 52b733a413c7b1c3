"""The region itself through the log: founding, join tokens, members, access keys, time."""

from typing import Any, get_args

import pytest
from msgspec.structs import replace

from keycluster.cluster.keys.apply import CALLERS_COMMANDS, OPERATORS_COMMANDS, REGIONS_COMMANDS
from keycluster.cluster.keys.commands import (
    AdmitMember,
    BeginRemoveMember,
    CommandBody,
    CompleteKeyDeletion,
    ConfirmTime,
    CreateAccessKey,
    DeactivateAccessKey,
    EnableKey,
    FoundRegion,
    IssueJoinToken,
    NewMember,
    RotateKeyAutomatically,
    Tick,
    UpdateMemberAddresses,
    encode_command,
    stamp,
)
from keycluster.cluster.keys.records import (
    AccessKeyRecord,
    JoinTokenRecord,
    MemberRecord,
    MemberRole,
    MemberState,
    Table,
    load_access_key,
    load_authority,
    load_member,
    load_region,
    load_wrap,
)
from keycluster.cluster.keys.timekeeping import destruction_held
from keycluster.cluster.keys.transition import Transition
from keycluster.cluster.raft.messages import EntryKind, Membership
from keycluster.cluster.types import AccountId, ClusterTime, KeyId, NodeId
from keycluster.cluster.wire.errors import LimitExceededException
from tests.key_machine import (
    FOUNDING,
    OPERATOR_KEY,
    OTHER_KEY,
    KeyMachine,
    backing_key,
    bytes_of,
    new_access_key,
    new_member,
)
from tests.room_on_memory import ACCOUNT

A, B, C, D = (NodeId(f"node-{letter}") for letter in "abcd")


def member(machine: KeyMachine, node: NodeId) -> MemberRecord:
    found = load_member(machine.state, node)
    assert found is not None
    return found


def issue(machine: KeyMachine, az: str, role: MemberRole = MemberRole.VOTER) -> bytes:
    token_id = bytes_of("token id", len(machine.entries), count=16)
    machine.ok(IssueJoinToken(token_id, b"sealed", role, az))
    return token_id


def admit(machine: KeyMachine, new: NewMember) -> None:
    machine.ok(AdmitMember(issue(machine, new.az, new.wanted), new), caller=machine.region_speaks)


def test_founded_region_has_all_that_it_starts_with() -> None:
    """Region, first member as voter, authorities, generation 1 with its wrap, the operator's access key."""
    machine = KeyMachine()
    region = load_region(machine.state)
    assert region is not None
    assert (region.region, region.generation, region.founded) == ("us-east-1", 1, machine.time)
    first = member(machine, A)
    assert (first.state, first.role, first.wanted) == (MemberState.ACTIVE, MemberRole.VOTER, MemberRole.VOTER)
    assert load_authority(machine.state, "peer") == FOUNDING.authorities[0]
    assert load_authority(machine.state, "client") == FOUNDING.authorities[1]
    wrap = load_wrap(machine.state, 1, A)
    assert wrap is not None
    assert wrap.wrapped == b"generation 1 for node-a"
    access_key = load_access_key(machine.state, OPERATOR_KEY)
    assert access_key is not None
    assert access_key.operator
    assert access_key.active


def test_region_is_founded_once_and_by_a_node_only() -> None:
    """A second founding changes nothing; an access key's is refused."""
    machine = KeyMachine()
    before = machine.rows()
    assert machine.code(FOUNDING, caller=machine.region_speaks) == "AlreadyExistsException"
    assert machine.code(FOUNDING) == "AccessDeniedException"
    assert machine.rows() == before


def test_commands_before_the_founding_are_refused() -> None:
    """Nothing can be asked of a region that isn't there yet."""
    machine = KeyMachine(founded=False)
    assert machine.code(Tick(), caller=machine.region_speaks) == "KMSInternalException"
    assert machine.code(machine.new_create_key()) == "UnrecognizedClientException"
    assert machine.code(replace(FOUNDING, region="No Such"), caller=machine.region_speaks) == "ValidationException"
    assert machine.rows().keys() == {Table.CLOCK}


def test_join_token_admits_one_node_within_the_hour() -> None:
    """Burnt by its use; the admitted node's keys are pinned, its wrap is stored, and a token is answered sealed."""
    machine = KeyMachine()
    answer = machine.ok(IssueJoinToken(b"t" * 16, b"sealed", MemberRole.VOTER, "az-2"), JoinTokenRecord)
    assert (answer.secret_sealed, answer.expires) == (b"sealed", machine.time + 3600 * 10**9)
    machine.pass_time(3599)
    machine.ok(AdmitMember(b"t" * 16, new_member("node-b", "az-2")), caller=machine.region_speaks)
    admitted = member(machine, B)
    assert (admitted.state, admitted.role) == (MemberState.JOINING, None)
    assert admitted.identity_key == b"identity of node-b"
    assert load_wrap(machine.state, 1, B) is not None
    second = AdmitMember(b"t" * 16, new_member("node-c", "az-2"))
    assert machine.code(second, caller=machine.region_speaks) == "AccessDeniedException"


def test_admission_repeated_for_the_same_node_gets_the_same_answer() -> None:
    """Its first answer may have been lost. Another key under the same name is another node."""
    machine = KeyMachine()
    token = issue(machine, "az-2")
    body = AdmitMember(token, new_member("node-b", "az-2"))
    first = machine.ok(body, MemberRecord, caller=machine.region_speaks)
    machine.pass_time(10)
    assert machine.ok(body, MemberRecord, caller=machine.region_speaks) == first
    impostor = AdmitMember(token, replace(body.member, identity_key=b"another"))
    assert machine.code(impostor, caller=machine.region_speaks) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("new", "seconds", "code"),
    [
        (new_member("node-b", "az-2"), 3600, "AccessDeniedException"),
        (new_member("node-b", "az-1"), 0, "AccessDeniedException"),
        (new_member("node-b", "az-2", MemberRole.LEARNER), 0, "AccessDeniedException"),
        (new_member("node-a", "az-2"), 0, "AlreadyExistsException"),
        (new_member("", "az-2"), 0, "ValidationException"),
        (new_member("node/b", "az-2"), 0, "ValidationException"),
        (replace(new_member("node-b", "az-2"), identity_key=b""), 0, "ValidationException"),
        (replace(new_member("node-b", "az-2"), wraps=((0, b"w"),)), 0, "ValidationException"),
        (replace(new_member("node-b", "az-2"), peer_address="x" * 321), 0, "ValidationException"),
    ],
)
def test_admission_that_the_token_does_not_cover_is_refused(new: NewMember, seconds: int, code: str) -> None:
    """Expired, another AZ, another role, a taken id, malformed: the token isn't burnt."""
    machine = KeyMachine()
    token = issue(machine, "az-2")
    machine.pass_time(seconds)
    assert machine.code(AdmitMember(token, new), caller=machine.region_speaks) == code
    row = machine.state.get(Table.JOIN_TOKENS, token)
    assert row is not None
    if not seconds:
        machine.ok(AdmitMember(token, new_member("node-z", "az-2")), caller=machine.region_speaks)


def test_expired_tokens_are_dropped_when_the_next_is_issued() -> None:
    """The table of tokens doesn't grow for ever."""
    machine = KeyMachine()
    issue(machine, "az-2")
    machine.pass_time(3600)
    newest = issue(machine, "az-2")
    assert list(machine.rows()[Table.JOIN_TOKENS]) == [newest]


def test_admission_that_gives_an_az_a_majority_is_refused() -> None:
    """With three AZs among the voters; a learner may stand anywhere."""
    machine = KeyMachine()
    admit(machine, new_member("node-b", "az-2"))
    admit(machine, new_member("node-c", "az-3"))
    admit(machine, new_member("node-d", "az-1"))
    token = issue(machine, "az-1")
    refused = machine.code(AdmitMember(token, new_member("node-e", "az-1")), caller=machine.region_speaks)
    assert refused == "ConflictException"
    admit(machine, new_member("node-f", "az-1", MemberRole.LEARNER))


def test_members_follow_the_membership_entries() -> None:
    """Learner, voter, in the joint phase both halves, and out for ever, keys forgotten."""
    machine = KeyMachine()
    admit(machine, new_member("node-b", "az-2"))
    machine.membership(Membership(voters=(A,), learners=(B,)))
    assert (member(machine, B).state, member(machine, B).role) == (MemberState.ACTIVE, MemberRole.LEARNER)
    machine.membership(Membership(voters=(A, B), outgoing=(A,)))
    machine.membership(Membership(voters=(A, B)))
    assert member(machine, B).role is MemberRole.VOTER
    machine.ok(BeginRemoveMember(B))
    assert member(machine, B).state is MemberState.REMOVING
    machine.ok(BeginRemoveMember(B))
    machine.membership(Membership(voters=(A,), outgoing=(A, B)))
    assert (member(machine, B).state, member(machine, B).role) == (MemberState.REMOVING, MemberRole.VOTER)
    machine.membership(Membership(voters=(A,)))
    gone = member(machine, B)
    assert (gone.state, gone.role) == (MemberState.REMOVED, None)
    assert (gone.identity_key, gone.wrap_key, gone.certificates) == (b"", b"", ())
    assert load_wrap(machine.state, 1, B) is None
    assert load_wrap(machine.state, 1, A) is not None


def test_removed_node_never_comes_back() -> None:
    """Its id isn't given again, and no membership entry revives its row."""
    machine = KeyMachine()
    admit(machine, new_member("node-b", "az-2"))
    machine.membership(Membership(voters=(A,), learners=(B,)))
    machine.ok(BeginRemoveMember(B))
    machine.membership(Membership(voters=(A,)))
    gone = member(machine, B)
    again = AdmitMember(issue(machine, "az-2"), new_member("node-b", "az-2"))
    assert machine.code(again, caller=machine.region_speaks) == "AlreadyExistsException"
    assert machine.code(BeginRemoveMember(B)) == "NotFoundException"
    machine.membership(Membership(voters=(A, B)))
    assert member(machine, B) == gone


def test_node_removed_before_raft_had_it_is_out_at_once() -> None:
    """There is no membership entry to wait for."""
    machine = KeyMachine()
    admit(machine, new_member("node-b", "az-2"))
    machine.ok(BeginRemoveMember(B))
    assert member(machine, B).state is MemberState.REMOVED


def test_removal_that_breaks_the_placement_is_refused() -> None:
    """The last voter can't go, nor one without whom an AZ holds a majority."""
    machine = KeyMachine()
    assert machine.code(BeginRemoveMember(A)) == "ConflictException"
    assert machine.code(BeginRemoveMember(D)) == "NotFoundException"
    for node, az in (("node-b", "az-2"), ("node-c", "az-3"), ("node-d", "az-1"), ("node-e", "az-2")):
        admit(machine, new_member(node, az))
    admit(machine, new_member("node-f", "az-1"))
    assert machine.code(BeginRemoveMember(B)) == "ConflictException"
    machine.ok(BeginRemoveMember(D))
    machine.ok(BeginRemoveMember(B))


def test_addresses_of_a_member_change_with_its_restart() -> None:
    """Nothing else does."""
    machine = KeyMachine()
    before = member(machine, A)
    machine.ok(UpdateMemberAddresses(A, "p:1", "n:2", "a:3"), caller=machine.region_speaks)
    assert member(machine, A) == replace(before, peer_address="p:1", native_address="n:2", aws_address="a:3")
    nobody = UpdateMemberAddresses(D, "p:1", "n:2", "a:3")
    assert machine.code(nobody, caller=machine.region_speaks) == "NotFoundException"


def test_access_key_is_created_used_and_deactivated_for_ever() -> None:
    """Its answer is the stored record, with the secret sealed; deactivation acts on the very next command."""
    machine = KeyMachine()
    account = AccountId("000000000042")
    new = new_access_key("AKIANEW0000000000000", account)
    record = machine.ok(CreateAccessKey(new), AccessKeyRecord)
    assert (record.secret_sealed, record.version, record.active) == (new.secret_sealed, 1, True)
    caller = replace(machine.caller, account=account, principal=new.principal, access_key_id=new.access_key_id)
    key = machine.create_key(caller=caller)
    assert key.account == account
    assert machine.code(CreateAccessKey(new)) == "AlreadyExistsException"
    machine.ok(DeactivateAccessKey(new.access_key_id))
    machine.ok(DeactivateAccessKey(new.access_key_id))
    for version in (1, 2):
        refused = machine.code(EnableKey(key.key_id), caller=replace(caller, credential_version=version))
        assert refused == "UnrecognizedClientException"
    assert machine.code(DeactivateAccessKey("AKIANOBODY0000000000")) == "NotFoundException"


def test_last_operator_s_access_key_stays() -> None:
    """Two operators deactivate each other's at once: the second is refused, and somebody can still make new ones."""
    machine = KeyMachine()
    second = new_access_key("AKIASECOND0000000000", ACCOUNT, operator=True)
    machine.ok(CreateAccessKey(second))
    assert machine.region.operators == 2
    other = replace(machine.caller, access_key_id=second.access_key_id)
    machine.ok(DeactivateAccessKey(OPERATOR_KEY), caller=other)
    machine.ok(DeactivateAccessKey(OPERATOR_KEY), caller=other)  # A repeat counts nothing down.
    assert machine.region.operators == 1
    assert machine.code(DeactivateAccessKey(second.access_key_id), caller=other) == "ConflictException"
    machine.ok(CreateAccessKey(new_access_key("AKIATHIRD00000000000", ACCOUNT, operator=True)), caller=other)
    machine.ok(DeactivateAccessKey(OTHER_KEY), caller=other)  # No operator's: not counted.
    machine.ok(DeactivateAccessKey(second.access_key_id), caller=other)
    assert machine.region.operators == 1


@pytest.mark.parametrize(
    "fields",
    [{"account": AccountId("123")}, {"access_key_id": "short"}, {"principal": ""}, {"secret_sealed": bytes(16_385)}],
)
def test_access_key_that_is_malformed_is_refused(fields: dict[str, Any]) -> None:
    """Accounts are parts of row keys: their length is fixed."""
    machine = KeyMachine()
    new = replace(new_access_key("AKIANEW0000000000000", ACCOUNT), **fields)
    assert machine.code(CreateAccessKey(new)) == "ValidationException"


def test_confirmed_time_lets_destruction_go_on() -> None:
    """The hold after a leap ends by an operator's word."""
    machine = KeyMachine()
    machine.pass_time(7200, running=False)
    machine.ok(Tick(), caller=machine.region_speaks)
    assert destruction_held(machine.clock)
    machine.ok(ConfirmTime())
    assert not destruction_held(machine.clock)


OPERATORS: list[CommandBody] = [
    IssueJoinToken(bytes(16), b"s", MemberRole.VOTER, "az-1"),
    BeginRemoveMember(A),
    CreateAccessKey(new_access_key("AKIANEW0000000000000", ACCOUNT)),
    DeactivateAccessKey(OTHER_KEY),
    ConfirmTime(),
]
REGIONS: list[CommandBody] = [
    FOUNDING,
    Tick(),
    CompleteKeyDeletion(KeyId("k"), ClusterTime(0)),
    RotateKeyAutomatically(KeyId("k"), bytes(16), backing_key(1)),
    AdmitMember(bytes(16), new_member("node-b", "az-2")),
    UpdateMemberAddresses(A, "p", "n", "a"),
]


@pytest.mark.parametrize("body", OPERATORS, ids=lambda body: type(body).__name__)
def test_operators_command_by_another_access_key_is_denied(body: CommandBody) -> None:
    """Root of an account is not operator of the region; nor is a node, on its own behalf."""
    machine = KeyMachine()
    assert machine.code(body, caller=machine.other) == "AccessDeniedException"
    assert machine.code(body, caller=machine.region_speaks) == "AccessDeniedException"


@pytest.mark.parametrize("body", REGIONS, ids=lambda body: type(body).__name__)
def test_regions_command_by_an_access_key_is_denied(body: CommandBody) -> None:
    """Not even by an operator's."""
    machine = KeyMachine()
    assert machine.code(body) == "AccessDeniedException"


def test_region_makes_no_keys_for_itself() -> None:
    """Commands of callers need a caller."""
    machine = KeyMachine()
    assert machine.code(machine.new_create_key(), caller=machine.region_speaks) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", EntryKind.COMMAND),
        (b"garbage", EntryKind.COMMAND),
        (stamp(b"\x90", ClusterTime(1), 1), EntryKind.COMMAND),
        (b"garbage", EntryKind.MEMBERSHIP),
    ],
)
def test_entry_of_garbage_is_refused_and_changes_nothing(payload: bytes, kind: EntryKind) -> None:
    """Whatever got into the log, `apply` goes on."""
    machine = KeyMachine()
    before = machine.rows()
    assert machine.apply_payload(payload, kind).error_code == "KMSInternalException"
    assert machine.rows() == before


def test_handler_that_refuses_half_way_leaves_every_row_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The savepoint: whatever a handler wrote before it found something wrong is undone."""

    def write_then_refuse(transition: Transition, body: EnableKey) -> None:
        transition.change_key(transition.key_for("EnableKey", body.key), description="half done")
        raise LimitExceededException("too much")

    monkeypatch.setitem(CALLERS_COMMANDS, EnableKey, write_then_refuse)
    machine = KeyMachine()
    key = machine.create_key()
    assert machine.refusal(EnableKey(key.key_id)) == ("LimitExceededException", "too much")
    assert machine.key(key.key_id) == key


def test_failure_that_is_no_refusal_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error is never a result: it stops the node."""

    def fail(transition: Transition, body: EnableKey) -> None:
        raise OSError("disk")

    monkeypatch.setitem(CALLERS_COMMANDS, EnableKey, fail)
    with pytest.raises(OSError, match="disk"):
        KeyMachine().apply(EnableKey("fake"))


def test_command_of_every_kind_is_known_to_apply() -> None:
    """None falls through to nobody's table."""
    known = [*CALLERS_COMMANDS, *OPERATORS_COMMANDS, *REGIONS_COMMANDS, FoundRegion]
    assert sorted(body.__name__ for body in known) == sorted(body.__name__ for body in get_args(CommandBody))


def test_stamped_command_moves_time_even_when_it_is_refused() -> None:
    """Time is what the leader stamped, whatever came of the command."""
    machine = KeyMachine()
    machine.pass_time(5)
    assert machine.code(EnableKey("fake")) == "NotFoundException"
    assert machine.clock.time == machine.time
    earlier = stamp(encode_command(EnableKey("fake"), machine.caller), ClusterTime(1), 0)
    machine.apply_payload(earlier)
    assert machine.clock.time == machine.time
