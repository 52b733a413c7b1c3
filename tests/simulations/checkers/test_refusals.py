"""Refusals that no state explains: found whichever model they would have passed."""

import pytest

from keycluster.simulations.checkers.history import Members, Outcome, failed, refused, unknown
from keycluster.simulations.checkers.refusals import check_refusals
from tests.simulations.checkers.histories import Script

KEY = "00000000-0000-4000-8000-00000000000a"
OF_KEY = {"KeyId": KEY}
OF_BLOB = {"CiphertextBlob": b"blob"}


def _failures(operation: str, arguments: Members, outcome: Outcome, access_key_id: str | None = None) -> int:
    script = Script()
    script.do(operation, arguments, outcome, access_key_id=access_key_id)
    return len(check_refusals(script.history))


@pytest.mark.parametrize(
    ("operation", "arguments", "outcome"),
    [
        ("Encrypt", OF_KEY, refused("AccessDeniedException")),
        ("Encrypt", OF_KEY, refused("ValidationException")),
        ("Encrypt", OF_KEY, refused("LimitExceededException")),
        ("Encrypt", OF_KEY, refused("UnrecognizedClientException")),
        ("DescribeKey", OF_KEY, refused("InvalidCiphertextException")),
        ("ListKeys", {}, refused("SerializationException")),
        ("DisableKey", OF_KEY, refused("IdempotentParameterMismatchException")),
        ("Decrypt", OF_BLOB, failed("NodeNotTrusted")),
    ],
)
def test_what_nothing_explains_is_found(operation: str, arguments: Members, outcome: Outcome) -> None:
    """No workload asks for any of these."""
    assert _failures(operation, arguments, outcome) == 1


def test_id_of_another_request_explains_a_mismatch() -> None:
    """Not that of the very same request, nor one that began when the refusal was there already."""
    for other, is_found in (({**OF_KEY, "Description": "b"}, False), (OF_KEY, True)):
        script = Script()
        script.do("DisableKey", other, request_id="r")
        script.do("DisableKey", OF_KEY, refused("IdempotentParameterMismatchException"), request_id="r")
        script.do("EnableKey", OF_KEY, request_id="r")
        assert bool(check_refusals(script.history)) is is_found


@pytest.mark.parametrize(
    ("operation", "arguments", "outcome"),
    [
        ("Encrypt", OF_KEY, refused("DisabledException")),
        ("Decrypt", OF_BLOB, refused("AccessDeniedException")),
        ("ReEncrypt", OF_BLOB, refused("InvalidCiphertextException")),
        ("CreateAlias", OF_KEY, refused("AlreadyExistsException")),
        ("Encrypt", OF_KEY, failed("KeyUnavailableException")),
        ("CreateKey", {}, unknown("DeadlineExceeded")),
    ],
)
def test_what_others_judge_is_left_to_them(operation: str, arguments: Members, outcome: Outcome) -> None:
    """A state, a ciphertext or bad weather explains these."""
    assert _failures(operation, arguments, outcome) == 0


def test_access_key_may_be_unknown_only_where_somebody_can_withdraw_it() -> None:
    """Nobody withdraws the operator's own."""
    stranger = refused("UnrecognizedClientException")
    assert _failures("DescribeKey", OF_KEY, stranger) == 1
    assert _failures("DescribeKey", OF_KEY, stranger, access_key_id="AKIA") == 0
