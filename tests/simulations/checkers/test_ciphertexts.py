"""A ciphertext that doesn't open, or opens as or for something else, is found."""

from typing import Any

import pytest

from keycluster.simulations.checkers.ciphertexts import check_ciphertexts
from keycluster.simulations.checkers.history import Outcome, ok, refused
from tests.simulations.checkers.histories import Script

KEY, OTHER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
CONTEXT = {"tenant": "a"}


def _blob(number: int) -> bytes:
    return number.to_bytes() * 100


class BlobScript(Script):
    def encrypt(self, number: int, plaintext: bytes = b"x", blob: bytes | None = None) -> None:
        arguments = {"KeyId": KEY, "Plaintext": plaintext, "EncryptionContext": CONTEXT}
        self.do("Encrypt", arguments, ok({"KeyId": KEY, "CiphertextBlob": blob or _blob(number)}))

    def decrypt(self, number: int, outcome: Outcome, context: dict[str, str] | None = CONTEXT) -> None:
        arguments: dict[str, Any] = {"CiphertextBlob": _blob(number)}
        self.do("Decrypt", {**arguments, **({"EncryptionContext": context} if context else {})}, outcome)

    def re_encrypt(self, number: int, to: int) -> None:
        arguments = {"CiphertextBlob": _blob(number), "SourceEncryptionContext": CONTEXT, "DestinationKeyId": OTHER}
        answer = {"SourceKeyId": KEY, "KeyId": OTHER, "CiphertextBlob": _blob(to)}
        self.do("ReEncrypt", {**arguments, "DestinationEncryptionContext": CONTEXT}, ok(answer))

    def complaints(self) -> list[str]:
        return [failure.message for failure in check_ciphertexts(self.history)]


def _opened(plaintext: bytes = b"x", key: str = KEY) -> Outcome:
    return ok({"KeyId": key, "Plaintext": plaintext})


def test_ciphertext_opens_as_what_it_was_made_from() -> None:
    """With its context, as often as anybody asks."""
    script = BlobScript()
    script.encrypt(1)
    script.decrypt(1, _opened())
    script.decrypt(1, refused("InvalidCiphertextException"), {"tenant": "b"})
    script.decrypt(1, refused("DisabledException"))
    assert script.complaints() == []


@pytest.mark.parametrize(
    ("number", "outcome", "context", "complaint"),
    [
        (1, _opened(b"y"), CONTEXT, "another plaintext"),
        (1, _opened(), {"tenant": "b"}, "another context"),
        (1, _opened(), None, "another context"),
        (1, _opened(key=OTHER), CONTEXT, "opened under"),
        (1, refused("InvalidCiphertextException"), CONTEXT, "didn't open"),
        (2, _opened(), CONTEXT, "nobody was given"),
    ],
)
def test_wrong_opening_is_found(number: int, outcome: Outcome, context: dict[str, str] | None, complaint: str) -> None:
    """One mistake, one complaint, about the call that made it."""
    script = BlobScript()
    script.encrypt(1)
    script.decrypt(number, outcome, context)
    [found] = script.complaints()
    assert complaint in found
    assert found.startswith("#1 ")


def test_empty_context_is_no_context() -> None:
    """AWS takes them for the same."""
    script = BlobScript()
    script.do("Encrypt", {"KeyId": KEY, "Plaintext": b"x"}, ok({"KeyId": KEY, "CiphertextBlob": _blob(1)}))
    script.do("Decrypt", {"CiphertextBlob": _blob(1), "EncryptionContext": {}}, _opened())
    assert script.complaints() == []


def test_re_encrypted_ciphertext_is_still_the_first_one_s() -> None:
    """Through a chain, to the very plaintext."""
    script = BlobScript()
    script.encrypt(1)
    script.re_encrypt(1, to=2)
    script.decrypt(2, _opened(key=OTHER))
    assert script.complaints() == []
    script.decrypt(2, _opened(b"y", OTHER))
    assert len(script.complaints()) == 1


def test_data_key_that_nobody_saw_is_the_same_each_time() -> None:
    """Also through a re-encryption: what it is shows at its first opening."""
    script = BlobScript()
    arguments = {"KeyId": KEY, "KeySpec": "AES_256", "EncryptionContext": CONTEXT}
    answer = {"KeyId": KEY, "CiphertextBlob": _blob(1)}
    script.do("GenerateDataKeyWithoutPlaintext", arguments, ok(answer))
    script.re_encrypt(1, to=2)
    script.decrypt(1, _opened(bytes(32)))
    script.decrypt(2, _opened(bytes(32), OTHER))
    assert script.complaints() == []
    script.decrypt(2, _opened(b"1" * 32, OTHER))
    assert len(script.complaints()) == 1


def test_data_key_of_the_wrong_size_and_repeated_one_are_found() -> None:
    """Sizes are as asked for, and no two data keys are the same."""
    for first, second, count in ((bytes(32), b"1" * 32, 0), (bytes(32), bytes(32), 1), (bytes(32), bytes(16), 1)):
        script = BlobScript()
        for number, data_key in ((1, first), (2, second)):
            answer = {"KeyId": KEY, "CiphertextBlob": _blob(number), "Plaintext": data_key}
            script.do("GenerateDataKey", {"KeyId": KEY, "KeySpec": "AES_256"}, ok(answer))
        assert len(script.complaints()) == count


def test_randomness_that_comes_twice_is_found() -> None:
    """A salt or nonce of a blob, and random bytes."""
    script = BlobScript()
    script.encrypt(1)
    blob = bytearray(_blob(2))
    blob[35:51] = _blob(1)[35:51]
    script.encrypt(2, blob=bytes(blob))
    assert ["the same salt" in complaint for complaint in script.complaints()] == [True]
    script = BlobScript()
    for _ in range(2):
        script.do("GenerateRandom", {"NumberOfBytes": 32}, ok({"Plaintext": bytes(32)}))
    assert ["the same random bytes" in complaint for complaint in script.complaints()] == [True]
