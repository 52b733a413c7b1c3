"""What is done twice, or is missing in a list, is found."""

from keycluster.simulations.checkers.history import Outcome, ok, refused, unknown
from keycluster.simulations.checkers.idempotency import check_idempotency
from tests.simulations.checkers.histories import Script, described

KEY, OTHER, THIRD = (f"00000000-0000-4000-8000-00000000000{digit}" for digit in "abc")


class ListScript(Script):
    def create(self, outcome: Outcome | str, request_id: str | None = None, description: str = "") -> None:
        answer = ok({"KeyMetadata": described(outcome)}) if isinstance(outcome, str) else outcome
        self.do("CreateKey", {"Description": description}, answer, request_id=request_id)

    def list_keys(self, *keys: str) -> None:
        self.do("ListKeys", {}, ok({"Keys": [{"KeyId": key} for key in keys], "Truncated": False}))

    def complaints(self) -> list[str]:
        return [failure.message for failure in check_idempotency(self.history)]


def test_repeats_have_one_answer() -> None:
    """The same key, whether earlier attempts were answered or not."""
    script = ListScript()
    script.create(unknown(), "r")
    script.create(KEY, "r")
    script.create(KEY, "r")
    script.create(refused("ThrottlingException"), "r")
    script.list_keys(KEY)
    assert script.complaints() == []


def test_repeat_with_another_answer_is_found() -> None:
    """Two keys for one request id; a refusal after a success."""
    for second in (OTHER, refused("ValidationException")):
        script = ListScript()
        script.create(KEY, "r")
        script.create(second, "r")
        assert "another answer" in script.complaints()[0]


def test_request_id_with_other_parameters_must_be_refused() -> None:
    """Whoever uses an id for two requests isn't told that both were done."""
    for second, count in (
        (refused("IdempotentParameterMismatchException"), 0),
        (refused("NotFoundException"), 0),
        (OTHER, 1),
    ):
        script = ListScript()
        script.create(KEY, "r")
        script.create(second, "r", "another")
        assert len(script.complaints()) == count


def test_two_requests_never_make_one_key() -> None:
    """Each CreateKey has a key of its own."""
    script = ListScript()
    script.create(KEY, "r")
    script.create(KEY, "s")
    assert KEY in script.complaints()[0]


def test_every_key_that_was_made_is_listed_once() -> None:
    """A key that is missing, one that is there twice, and one that nobody made."""
    for listed, count in (((KEY, OTHER), 0), ((KEY,), 1), ((KEY, OTHER, OTHER), 1), ((KEY, OTHER, THIRD), 1)):
        script = ListScript()
        script.create(KEY)
        script.create(OTHER)
        script.list_keys(*listed)
        assert len(script.complaints()) == count


def test_unanswered_creations_may_be_listed_one_each() -> None:
    """However often they were repeated under one id."""
    script = ListScript()
    script.create(unknown(), "r")
    script.create(unknown(), "r")
    script.list_keys()
    script.list_keys(KEY)
    assert script.complaints() == []
    script.list_keys(KEY, OTHER)
    assert "no answer told of" in script.complaints()[0]


def test_keys_known_from_before_may_be_listed() -> None:
    """A region needn't be new."""
    script = ListScript()
    script.list_keys(KEY)
    assert check_idempotency(script.history, known_keys=[KEY]) == []
    assert len(check_idempotency(script.history)) == 1


def test_pages_are_one_list() -> None:
    """A key may be on any page, but must be on one."""
    for second, count in ((OTHER, 0), (KEY, 2)):
        script = ListScript()
        script.create(KEY)
        script.create(OTHER)
        page = {"Keys": [{"KeyId": KEY}], "Truncated": True, "NextMarker": "m"}
        script.do("ListKeys", {"Limit": 1}, ok(page))
        script.do("ListKeys", {"Limit": 1, "Marker": "m"}, ok({"Keys": [{"KeyId": second}], "Truncated": False}))
        assert len(script.complaints()) == count


def test_key_that_may_be_destroyed_may_be_missing() -> None:
    """From when its deletion may be completed."""
    script = ListScript()
    script.create(KEY)
    script.begin("CompleteKeyDeletion", {"KeyId": KEY}, client="region")
    script.list_keys()
    assert script.complaints() == []
