"""The record of a run keeps order and outcomes, and comes back whole from its file."""

import json

from hypothesis import given
from hypothesis import strategies as st

from keycluster.client.errors import DeadlineExceeded, NodesUnreachable
from keycluster.cluster.wire.errors import (
    DependencyTimeoutException,
    DisabledException,
    KeyUnavailableException,
)
from keycluster.cluster.wire.operations import CreateKeyRequest, EncryptRequest, Tag
from keycluster.simulations.checkers.history import (
    NEVER,
    History,
    Outcome,
    OutcomeKind,
    failed,
    ok,
    outcome_of,
    plain,
    refused,
    unknown,
)


def test_events_are_ordered_though_the_clock_stands_still() -> None:
    """An answer and the next question at the same nanosecond are in the order in which they came."""
    history = History()
    first = history.begin(5, "c1", "Encrypt", "k", {})
    history.end(first, 5, ok())
    second = history.begin(5, "c1", "Encrypt", "k", {})
    assert first.began < first.ended < second.began < second.ended == NEVER


def test_by_key_takes_the_key_that_the_answer_named() -> None:
    """CreateKey's key is known when it has returned."""
    history = History()
    made = history.begin(0, "c1", "CreateKey", None, {})
    assert history.by_key() == {}
    history.end(made, 1, ok({}), "n1", key="k")
    assert history.by_key() == {"k": [made]}


def test_call_without_an_answer_is_unknown() -> None:
    """What hasn't returned may yet take effect."""
    history = History()
    call = history.begin(0, "c1", "DisableKey", "k", {})
    assert call.kind is OutcomeKind.UNKNOWN
    assert "no answer" in call.describe()
    assert history.counts() == {"DisableKey unknown": 1}


def test_outcome_of_an_error_says_no_more_than_is_known() -> None:
    """A refusal is one, a deadline isn't, and only what was never sent has certainly failed."""
    assert outcome_of(DisabledException()) == refused("DisabledException")
    assert outcome_of(KeyUnavailableException()) == failed("KeyUnavailableException")
    assert outcome_of(DependencyTimeoutException()) == unknown("DependencyTimeoutException")
    assert outcome_of(DeadlineExceeded()) == unknown("DeadlineExceeded")
    assert outcome_of(NodesUnreachable()) == failed("NodesUnreachable")
    assert outcome_of(ConnectionResetError()).kind is OutcomeKind.UNKNOWN


def test_plain_names_members_as_aws_does_and_keeps_bytes() -> None:
    """Both doors' requests are the same in a history."""
    assert plain(EncryptRequest(key_id="k", plaintext=b"\x00")) == {"KeyId": "k", "Plaintext": b"\x00"}
    tagged = plain(CreateKeyRequest(tags=(Tag(tag_key="a", tag_value="b"),)))
    assert list(tagged["Tags"]) == [{"TagKey": "a", "TagValue": "b"}]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["KeyId", "Tags"]), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(st.tuples(_VALUES, _VALUES, st.sampled_from(OutcomeKind), st.booleans()), max_size=4))
def test_history_comes_back_whole_from_its_lines(
    calls: list[tuple[object, object, OutcomeKind, bool]],
) -> None:
    """Each call is a line of JSON, and is the same read again, with its bytes."""
    history = History()
    for argument, value, kind, has_returned in calls:
        call = history.begin(1, "c1", "Encrypt", "k", {"A": argument}, request_id="r")
        if has_returned:
            history.end(call, 2, Outcome(kind, value, "code"), "n1")
    lines = list(history.to_json_lines())
    again = History.from_json_lines(lines)
    assert again.events == history.events
    assert [json.loads(line) for line in again.to_json_lines()] == [json.loads(line) for line in lines]
    assert [call.value for call in again.calls] == [call.value for call in history.calls]
