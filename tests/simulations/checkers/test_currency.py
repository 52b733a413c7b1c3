"""Contract 2 is checked in both directions, and only where it binds."""

from typing import Any

import pytest

from keycluster.simulations.checkers.currency import check_currency
from keycluster.simulations.checkers.history import Call, ok, refused, unknown
from tests.simulations.checkers.histories import Script, described

KEY, OTHER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
ALIAS = "alias/a"
CHANGES_TO_UNUSABLE = {"DisableKey": "DisabledException", "ScheduleKeyDeletion": "KMSInvalidStateException"}


class DataScript(Script):
    """A script on two keys that are made first."""

    def __init__(self) -> None:
        super().__init__()
        for key in (KEY, OTHER):
            self.do("CreateKey", {}, ok({"KeyMetadata": described(key, CurrentKeyMaterialId="m1")}), key=key)

    def begin_encrypt(self, reference: str = KEY, **about: Any) -> Call:
        return self.begin("Encrypt", {"KeyId": reference, "Plaintext": b"x"}, **about)

    def encrypted(self, key: str = KEY, material: str = "m1", blob: bytes = b"blob") -> Any:
        return ok({"KeyId": f"arn:aws:kms:r:0:key/{key}", "CiphertextBlob": blob, "KeyMaterialId": material})

    def encrypt(self, outcome: Any = None, reference: str = KEY, **about: Any) -> Call:
        return self.end(self.begin_encrypt(reference, **about), outcome or self.encrypted())

    def change(self, operation: str, outcome: Any = None, **arguments: Any) -> Call:
        return self.do(operation, {"KeyId": KEY, **arguments}, outcome)

    def complaints(self) -> list[str]:
        return [failure.message for failure in check_currency(self.history)]

    def is_good(self) -> bool:
        return self.complaints() == []


@pytest.mark.parametrize(("change", "refusal"), CHANGES_TO_UNUSABLE.items())
def test_no_success_after_an_answered_change(change: str, refusal: str) -> None:
    """A key that was disabled or is to be deleted encrypts nothing any more."""
    script = DataScript()
    script.encrypt()
    script.change(change)
    script.encrypt(refused(refusal))
    assert script.is_good()
    late = script.encrypt()
    [complaint] = script.complaints()
    assert f"#{late.number} " in complaint


def test_no_refusal_after_an_answered_change() -> None:
    """A key that was enabled again, or made, is refused nowhere."""
    script = DataScript()
    script.change("DisableKey")
    script.change("EnableKey")
    script.encrypt()
    assert script.is_good()
    script.encrypt(refused("DisabledException"))
    script.encrypt(refused("NotFoundException"), OTHER)
    assert len(script.complaints()) == 2


def test_both_states_may_be_seen_while_a_change_is_under_way() -> None:
    """Until it is answered, nodes may differ, in any order."""
    script = DataScript()
    disabling = script.begin("DisableKey", {"KeyId": KEY})
    script.encrypt(refused("DisabledException"))
    script.encrypt()
    late = script.begin_encrypt()
    script.end(disabling)
    script.end(late, script.encrypted())
    assert script.is_good()


def test_call_under_way_when_a_change_begins_may_see_it() -> None:
    """What began before the change and ended after it saw either."""
    script = DataScript()
    early = script.begin_encrypt()
    script.change("DisableKey")
    script.end(early, refused("DisabledException"))
    assert script.is_good()


def test_unanswered_change_may_hold_for_ever() -> None:
    """Its effect may come late: neither answer is wrong, until an answered change comes."""
    script = DataScript()
    script.change("DisableKey", unknown())
    script.encrypt()
    script.encrypt(refused("DisabledException"))
    script.encrypt()
    assert script.is_good()


def test_unanswered_change_binds_once_it_was_read() -> None:
    """Who read that the key is disabled may rely on it everywhere (rule L10)."""
    script = DataScript()
    script.change("DisableKey", unknown())
    script.do("DescribeKey", {"KeyId": KEY}, ok({"KeyMetadata": described(KEY, KeyState="Disabled")}))
    script.encrypt()
    assert len(script.complaints()) == 1


def test_reading_of_the_old_state_excuses_nothing() -> None:
    """A read that was under way with the change saw the old state: that doesn't make it hold longer."""
    script = DataScript()
    reading = script.begin("DescribeKey", {"KeyId": KEY})
    script.change("DisableKey")
    script.end(reading, ok({"KeyMetadata": described(KEY)}))
    script.encrypt()
    assert len(script.complaints()) == 1


def test_overlapping_changes_may_have_come_in_either_order() -> None:
    """Disable and enable at once: either may be the last."""
    script = DataScript()
    changes = [script.begin(operation, {"KeyId": KEY}) for operation in ("DisableKey", "EnableKey")]
    for change in changes:
        script.end(change)
    script.encrypt()
    script.encrypt(refused("DisabledException"))
    assert script.is_good()


def test_key_that_no_answer_tells_of_may_be_there_or_not() -> None:
    """Its creation may have had no answer."""
    script = DataScript()
    unheard = "00000000-0000-4000-8000-00000000000c"
    script.encrypt(script.encrypted(unheard), unheard)
    script.encrypt(refused("NotFoundException"), unheard)
    assert script.is_good()


def test_moved_alias_names_the_new_key_only() -> None:
    """No node uses the key that an alias named before."""
    script = DataScript()
    script.do("CreateAlias", {"AliasName": ALIAS, "TargetKeyId": KEY})
    script.encrypt(reference=ALIAS)
    script.do("UpdateAlias", {"AliasName": ALIAS, "TargetKeyId": OTHER})
    script.encrypt(script.encrypted(OTHER), ALIAS)
    assert script.is_good()
    script.encrypt(reference=ALIAS)
    assert "alias target" in script.complaints()[0]


def test_alias_is_not_found_only_while_it_may_not_be_there() -> None:
    """Before it is made and after it is deleted, and not between."""
    script = DataScript()
    script.encrypt(refused("NotFoundException"), ALIAS)
    script.do("CreateAlias", {"AliasName": ALIAS, "TargetKeyId": KEY})
    assert script.is_good()
    script.encrypt(refused("NotFoundException"), ALIAS)
    assert len(script.complaints()) == 1
    script.do("DeleteAlias", {"AliasName": ALIAS})
    script.encrypt(refused("NotFoundException"), ALIAS)
    assert len(script.complaints()) == 1
    script.encrypt(reference=ALIAS)
    assert len(script.complaints()) == 2


def test_refusal_through_an_alias_is_its_key_s() -> None:
    """Disabled is right where some key that the alias may name may be disabled."""
    script = DataScript()
    script.do("CreateAlias", {"AliasName": ALIAS, "TargetKeyId": KEY})
    script.encrypt(refused("DisabledException"), ALIAS)
    assert len(script.complaints()) == 1
    script.change("DisableKey")
    script.encrypt(refused("DisabledException"), ALIAS)
    assert len(script.complaints()) == 1


def test_ciphertext_is_refused_for_its_own_key() -> None:
    """Decrypt names no key: the blob does."""
    script = DataScript()
    script.encrypt()
    decrypt = ("Decrypt", {"CiphertextBlob": b"blob"})
    script.do(*decrypt, ok({"KeyId": KEY, "Plaintext": b"x"}))
    assert script.is_good()
    script.do(*decrypt, refused("DisabledException"))
    script.do(*decrypt, refused("AccessDeniedException"))
    script.do("Decrypt", {"CiphertextBlob": b"blob", "KeyId": KEY}, refused("IncorrectKeyException"))
    assert len(script.complaints()) == 3
    script.change("DisableKey")
    script.do(*decrypt, refused("DisabledException"))
    script.do("Decrypt", {"CiphertextBlob": b"blob", "KeyId": OTHER}, refused("IncorrectKeyException"))
    assert len(script.complaints()) == 3
    script.do(*decrypt, ok({"KeyId": KEY, "Plaintext": b"x"}))
    assert len(script.complaints()) == 4


def test_both_keys_of_a_re_encryption_must_be_enabled() -> None:
    """Neither the source nor the destination may be disabled."""
    for disabled in (KEY, OTHER):
        script = DataScript()
        script.encrypt()
        re_encrypt = ("ReEncrypt", {"CiphertextBlob": b"blob", "DestinationKeyId": OTHER})
        done = ok({"SourceKeyId": KEY, "KeyId": OTHER, "CiphertextBlob": b"other"})
        script.do(*re_encrypt, done)
        assert script.is_good()
        script.do("DisableKey", {"KeyId": disabled})
        script.do(*re_encrypt, refused("DisabledException"))
        assert script.is_good()
        script.do(*re_encrypt, done)
        assert len(script.complaints()) == 1


def test_rotated_key_encrypts_with_the_new_material() -> None:
    """After an answered rotation, the old material encrypts nothing; while it is under way, both may."""
    script = DataScript()
    rotating = script.begin("RotateKeyOnDemand", {"KeyId": KEY})
    script.encrypt()
    script.encrypt(script.encrypted(material="m2"))
    script.end(rotating)
    script.encrypt(script.encrypted(material="m2"))
    assert script.is_good()
    script.encrypt()
    assert "m1" in script.complaints()[0]


def test_access_key_that_may_have_been_withdrawn_may_be_refused_or_not() -> None:
    """Who withdrew it never heard of it: it can be so from then on, or never."""
    access_key_id = "AKIA0000000000000000"
    script = DataScript()
    script.do("CreateAccessKey", {}, ok({"AccessKeyId": access_key_id}))
    script.lose(script.begin("DeactivateAccessKey", {"AccessKeyId": access_key_id}))
    script.encrypt(access_key_id=access_key_id)
    script.encrypt(refused("UnrecognizedClientException"), access_key_id=access_key_id)
    assert check_currency(script.history) == []


def test_withdrawn_access_key_does_nothing() -> None:
    """On either plane; and one that is active is refused nowhere."""
    access_key_id = "AKIA0000000000000000"
    script = DataScript()
    script.do("CreateAccessKey", {}, ok({"AccessKeyId": access_key_id}))
    script.encrypt(access_key_id=access_key_id)
    assert script.is_good()
    script.encrypt(refused("UnrecognizedClientException"), access_key_id=access_key_id)
    assert len(script.complaints()) == 1
    script.do("DeactivateAccessKey", {"AccessKeyId": access_key_id})
    script.encrypt(refused("UnrecognizedClientException"), access_key_id=access_key_id)
    assert len(script.complaints()) == 1
    script.encrypt(access_key_id=access_key_id)
    script.do("ListKeys", {}, ok({"Keys": []}), access_key_id=access_key_id)
    assert len(script.complaints()) == 3


def test_destroyed_key_takes_its_aliases_with_it() -> None:
    """From when a deletion may be completed, neither is found any more."""
    script = DataScript()
    script.do("CreateAlias", {"AliasName": ALIAS, "TargetKeyId": KEY})
    script.change("ScheduleKeyDeletion")
    script.begin("CompleteKeyDeletion", {"KeyId": KEY}, client="region")
    script.encrypt(refused("NotFoundException"))
    script.encrypt(refused("NotFoundException"), ALIAS)
    assert script.is_good()
