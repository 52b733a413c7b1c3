"""What is known of changes whose callers were never told: by it a checker sees again where clients are blind."""

import pytest

from keycluster.cluster.keys.commands import Caller, EnableKey, Outcome, encode_command, stamp
from keycluster.cluster.raft.messages import COMMAND, Entry
from keycluster.cluster.types import AccountId, ClusterTime, KeyId, LogIndex, Term
from keycluster.simulations.checkers.check import check_linearizability
from keycluster.simulations.checkers.currency import check_currency
from keycluster.simulations.checkers.history import NEVER, Call, OutcomeKind, ok, refused, unknown
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
    assert lost.kind is OutcomeKind.FAILED
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


@pytest.mark.parametrize(("door", "indices"), [("aws", (5,)), ("native", (5, 7))])
def test_nothing_is_said_of_what_is_not_known(door: str, indices: tuple[int, ...]) -> None:
    """Ids of the other door are its own; and where an entry was seen by nobody it may be the one."""
    script = _script()
    unanswered = Unanswered(script.history)
    lost = _lost(script, door=door)
    unanswered.moved([_entry(index, "cd" * 16) for index in indices], [MADE] * len(indices))
    unanswered.resolve()
    assert (lost.kind, lost.made) == (OutcomeKind.UNKNOWN, NEVER)


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
