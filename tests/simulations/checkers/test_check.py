"""All checkers together: each is asked, none floods the report, and nothing is passed in silence."""

from keycluster.simulations.checkers.check import FAILURES_SHOWN, UNDECIDED, check_all
from keycluster.simulations.checkers.history import ok, refused
from tests.simulations.checkers.histories import Script, described

KEY = "00000000-0000-4000-8000-00000000000a"


def _script() -> Script:
    script = Script()
    script.do("CreateKey", {}, ok({"KeyMetadata": described(KEY)}), request_id="r")
    return script


def _checkers(script: Script) -> list[str]:
    return [failure.checker for failure in check_all(script.history)]


def test_each_checker_is_asked() -> None:
    """One mistake for each of them."""
    script = _script()
    assert check_all(script.history) == []
    script.do("DescribeKey", {"KeyId": KEY}, refused("NotFoundException"))
    script.do("Encrypt", {"KeyId": KEY, "Plaintext": b"x"}, refused("DisabledException"))
    script.do("Decrypt", {"CiphertextBlob": b"forged"}, ok({"KeyId": KEY, "Plaintext": b"x"}))
    script.do("CreateKey", {}, refused("LimitExceededException"), request_id="r")
    script.do("GetKeyPolicy", {"KeyId": KEY}, refused("ValidationException"))
    assert _checkers(script) == ["linearizability", "currency", "ciphertexts", "idempotency", "refusals"]


def test_register_is_checked_too() -> None:
    """The core simulator's."""
    script = Script()
    script.write(1)
    script.read(2)
    assert _checkers(script) == ["linearizability"]


def test_one_bug_doesn_t_flood_the_report() -> None:
    """So many are shown, and how many more there are."""
    script = _script()
    for _ in range(100):
        script.do("Encrypt", {"KeyId": KEY, "Plaintext": b"x"}, refused("DisabledException"))
    failures = check_all(script.history)
    assert len(failures) == FAILURES_SHOWN
    assert f"(and {100 - FAILURES_SHOWN} more)" in failures[-1].message


def test_what_is_not_decided_is_a_failure() -> None:
    """A bound on the search is no verdict."""
    script = _script()
    script.do("DescribeKey", {"KeyId": KEY}, ok({"KeyMetadata": described(KEY)}))
    assert {failure.checker for failure in check_all(script.history, steps_max=1)} == {UNDECIDED}
    assert check_all(script.history, steps_max=1, known_keys=[KEY]) == []
