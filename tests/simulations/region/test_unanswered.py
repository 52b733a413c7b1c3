"""What is known of changes whose callers were never told: by it a checker sees again where clients are blind."""

import msgspec
import pytest

from keycluster.cluster.keys.commands import Caller, EnableKey, Outcome, encode_command, stamp
from keycluster.cluster.raft.messages import COMMAND, Entry
from keycluster.cluster.types import AccountId, ClusterTime, KeyId, LogIndex, Term
from keycluster.cluster.wire.operations import Tag, TagResourceRequest
from keycluster.node.doors.aws import request_id_of
from keycluster.simulations.checkers import history
from keycluster.simulations.checkers.check import check_linearizability
from keycluster.simulations.checkers.currency import check_currency
from keycluster.simulations.checkers.history import NEVER, NOT_MADE, Call, OutcomeKind, ok, refused, unknown
from keycluster.simulations.region.unanswered import Unanswered
from tests.simulations.checkers.histories import Script, described

KEY = "00000000-0000-4000-8000-00000000000a"
OF_KEY = {"KeyId": KEY}
ID = "ab" * 16
CALLER = Caller(AccountId("123456789012"), "arn:aws:iam::123456789012:root", "AKIA", 1, "a client")
MADE, REFUSED = Outcome(ok=b""), Outcome(error_code="NotFoundException")


def _entry(index: int, request_id: str = ID) -> Entry:
    command = encode_command(EnableKey(KeyId(KEY)), CALLER, request_id=bytes.fromhex(request_id))
    return Entry(Term(1), LogIndex(index), COMMAND, stamp(command, ClusterTime(1), 1))


def _script() -> Script:
    script = Script()
    script.do("CreateKey", {}, ok({"KeyMetadata": described(KEY)}), request_id="native/" + "01" * 16)
    return script


def _lost(script: Script, operation: str = "DisableKey", door: str = "native") -> Call:
    return script.do(operation, OF_KEY, unknown("DeadlineExceeded"), request_id=f"{door}/{ID}")


def _use(script: Script) -> None:
    script.do("Encrypt", {**OF_KEY, "Plaintext": b"x"}, ok({**OF_KEY, "CiphertextBlob": bytes(64)}))


def test_use_after_a_lost_answer_to_a_settled_change_is_found() -> None:
    """Its caller never learnt of it, and every node acts on it: then a node that doesn't is wrong."""
    script = _script()
    unanswered = Unanswered(script.history)
    lost = _lost(script)
    unanswered.moved([_entry(5)], [MADE])
    _use(script)  # Not settled yet: some node may not have it.
    unanswered.settled(LogIndex(5))
    script.do("ListKeyPolicies", OF_KEY)
    _use(script)
    assert check_currency(script.history) == []
    unanswered.resolve()
    assert lost.made < NEVER
    assert len(check_currency(script.history)) == 1


def test_effect_of_a_change_that_no_node_ever_made_is_found() -> None:
    """A client that gave up can't tell; the nodes can."""
    script = _script()
    unanswered = Unanswered(script.history)
    lost = _lost(script)
    unanswered.moved([_entry(5)], [REFUSED])
    script.do("DescribeKey", OF_KEY, ok({"KeyMetadata": described(KEY, KeyState="Disabled", Enabled=False)}))
    assert check_linearizability(script.history) == []
    unanswered.resolve()
    assert lost.made == NOT_MADE
    assert len(check_linearizability(script.history)) == 1


def test_read_that_misses_a_settled_change_is_found() -> None:
    """It may happen at any time up to then, and not later."""
    script = _script()
    unanswered = Unanswered(script.history)
    _lost(script)
    unanswered.moved([_entry(5)], [MADE])
    script.do("DescribeKey", OF_KEY, ok({"KeyMetadata": described(KEY)}))
    unanswered.settled(LogIndex(7))
    script.do("ListKeyPolicies", OF_KEY)
    script.do("DescribeKey", OF_KEY, ok({"KeyMetadata": described(KEY)}))
    assert check_linearizability(script.history) == []
    unanswered.resolve()
    assert len(check_linearizability(script.history)) == 1


def test_nothing_is_said_of_what_is_not_known() -> None:
    """Where an entry was seen by nobody it may be the one."""
    script = _script()
    unanswered = Unanswered(script.history)
    lost = _lost(script)
    unanswered.moved([_entry(index, "cd" * 16) for index in (5, 7)], [MADE, MADE])
    unanswered.resolve()
    assert (lost.kind, lost.made) == (OutcomeKind.UNKNOWN, NEVER)


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize("outcome", [unknown("DeadlineExceeded"), refused("UnrecognizedClientException")])
def test_change_by_the_aws_door_is_known_by_the_id_that_the_door_makes(outcome: history.Outcome, is_made: bool) -> None:
    """Also one that was refused for its caller: an earlier try may have been made."""
    script = _script()
    unanswered = Unanswered(script.history)
    arguments = {**OF_KEY, "Tags": ({"TagKey": "a", "TagValue": "b"},)}
    lost = script.do("TagResource", arguments, outcome, request_id=f"aws/{ID}")
    body = msgspec.json.encode(TagResourceRequest(key_id=KEY, tags=(Tag(tag_key="a", tag_value="b"),)))
    made = request_id_of("TagResource", body, ID.encode()).hex()
    unanswered.moved([_entry(5, made if is_made else ID)], [MADE])
    unanswered.settled(LogIndex(5))
    unanswered.resolve()
    assert (lost.outcome, lost.made) == (outcome, script.history.events if is_made else NOT_MADE)


@pytest.mark.parametrize("operation", ["DisableKey", "CreateAccessKey"])
def test_id_with_two_meanings_tells_of_the_one_that_was_answered(operation: str) -> None:
    """Which of them an entry was made for isn't known otherwise."""
    script = _script()
    unanswered = Unanswered(script.history)
    first, second = _lost(script, operation), _lost(script, "EnableKey")
    unanswered.moved([_entry(5)], [MADE])
    unanswered.settled(LogIndex(5))
    unanswered.resolve()
    assert (first.made, second.made) == (NEVER, NEVER)
    script.do(operation, OF_KEY, request_id=f"native/{ID}")
    unanswered.resolve()
    assert (first.made, second.made) == (NEVER, NOT_MADE)


def test_entries_count_once_however_many_nodes_apply_them() -> None:
    """The first to apply one is the first to be seen; a repeat under the same id makes nothing."""
    script = _script()
    unanswered = Unanswered(script.history)
    lost = _lost(script)
    unanswered.moved([_entry(5)], [MADE])
    unanswered.settled(LogIndex(5))
    settled = script.history.events
    script.do("ListKeyPolicies", OF_KEY)
    unanswered.moved([_entry(5), _entry(6)], [MADE, MADE])
    unanswered.settled(LogIndex(6))
    unanswered.resolve()
    assert lost.made == settled


def test_refusal_that_a_repeat_was_told_may_be_as_old_as_the_first() -> None:
    """The region remembers it: how things stood when the repeat came doesn't matter."""
    script = _script()
    unanswered = Unanswered(script.history)
    script.do("DisableKey", OF_KEY)
    lost = _lost(script, "RotateKeyOnDemand")
    unanswered.moved([_entry(5)], [REFUSED])
    script.do("EnableKey", OF_KEY)
    script.do("RotateKeyOnDemand", OF_KEY, refused("DisabledException"), request_id=f"native/{ID}")
    unanswered.resolve()
    assert lost.kind is OutcomeKind.UNKNOWN
    assert check_linearizability(script.history) == []
