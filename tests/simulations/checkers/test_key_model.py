"""The model of keys and aliases agrees with the product where it is right, and with nothing else."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycluster.client.errors import KmsError
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.operations import Shape, Tag
from keycluster.node.operations.data import DATA
from keycluster.node.operations.reads import READS
from keycluster.simulations.checkers.check import LINEARIZABILITY, check_all, check_linearizability
from keycluster.simulations.checkers.history import History, ok, outcome_of, plain, refused, unknown
from keycluster.simulations.checkers.key_aspects import parts_of
from keycluster.simulations.checkers.linearizability import Verdict, check_linearizable
from keycluster.simulations.checkers.partitions import Partitions
from tests.key_room import KeyRoom
from tests.simulations.checkers.histories import Script, described

KEY, OTHER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
ALIAS = "alias/a"


class KeyScript(Script):
    """A script on keys that are made first."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        for key in keys or (KEY,):
            self.do("CreateKey", {}, ok({"KeyMetadata": described(key)}), key=key)

    def change(self, operation: str, outcome: Any = None, **arguments: Any) -> None:
        self.do(operation, {"KeyId": KEY, **arguments}, outcome)

    def describe(self, **members: Any) -> None:
        self.do("DescribeKey", {"KeyId": KEY}, ok({"KeyMetadata": described(KEY, **members)}))

    def name(self, operation: str, outcome: Any = None, target: str | None = KEY) -> None:
        self.do(operation, {"AliasName": ALIAS, **({} if target is None else {"TargetKeyId": target})}, outcome)

    def names_of_failed(self) -> set[str]:
        return {failure.checker for failure in check_linearizability(self.history)}


def _good(script: KeyScript) -> None:
    assert script.names_of_failed() == set()


def _bad(script: KeyScript) -> None:
    assert script.names_of_failed() == {LINEARIZABILITY}


def test_key_is_described_as_it_was_made_and_changed() -> None:
    """Description, state, deletion: what the last change said."""
    script = KeyScript()
    script.describe()
    script.change("UpdateKeyDescription", Description="new")
    script.describe(Description="new")
    script.change("DisableKey")
    script.describe(Description="new", KeyState="Disabled")
    _good(script)
    script.describe(Description="", KeyState="Disabled")
    _bad(script)


def test_state_read_that_is_over_is_found() -> None:
    """Enabled is not shown after an answered DisableKey."""
    script = KeyScript()
    script.change("DisableKey")
    script.describe()
    _bad(script)


@pytest.mark.parametrize(
    ("before", "operation", "code"),
    [
        ("DisableKey", "EnableKeyRotation", "DisabledException"),
        ("DisableKey", "RotateKeyOnDemand", "DisabledException"),
        ("ScheduleKeyDeletion", "EnableKey", "KMSInvalidStateException"),
        ("ScheduleKeyDeletion", "RotateKeyOnDemand", "KMSInvalidStateException"),
        ("EnableKey", "CancelKeyDeletion", "KMSInvalidStateException"),
    ],
)
def test_refusal_is_the_state_s_own(before: str, operation: str, code: str) -> None:
    """The refusal of that state is right; success, and another state's refusal, are not."""
    for outcome, check in ((refused(code), _good), (ok({}), _bad), (refused("NotFoundException"), _bad)):
        script = KeyScript()
        script.change(before)
        script.change(operation, outcome)
        check(script)


def test_refusal_where_all_is_allowed_is_found() -> None:
    """An enabled key refuses nothing for its state."""
    script = KeyScript()
    script.change("EnableKeyRotation", refused("DisabledException"))
    _bad(script)


def test_refusal_for_the_request_or_the_caller_says_nothing_of_the_state() -> None:
    """Neither a wrong argument nor a withdrawn access key is blamed on the key."""
    script = KeyScript()
    script.change("UpdateKeyDescription", refused("ValidationException"), Description="x")
    script.describe()
    _good(script)
    script.change("UpdateKeyDescription", refused("UnrecognizedClientException"), Description="y")
    script.describe(Description="y")  # Its first attempt may have got through.
    _good(script)


def test_unknown_change_is_seen_or_not_but_not_both() -> None:
    """Once a reader has seen it, it isn't undone by itself."""
    script = KeyScript()
    script.change("DisableKey", unknown())
    script.describe()
    script.describe(KeyState="Disabled")
    _good(script)
    script.describe()
    _bad(script)


def test_key_is_not_found_before_it_was_made_only() -> None:
    """NotFound is right for a key that nobody made, wrong for one that was made."""
    script = KeyScript()
    script.do("DescribeKey", {"KeyId": OTHER}, refused("NotFoundException"))
    _good(script)
    script.do("DescribeKey", {"KeyId": KEY}, refused("NotFoundException"))
    _bad(script)


def test_destroyed_key_is_not_found() -> None:
    """A deletion that may be completed may be seen, unless it was cancelled."""
    for cancel, check in ((False, _good), (True, _bad)):
        script = KeyScript()
        script.change("ScheduleKeyDeletion")
        if cancel:
            script.change("CancelKeyDeletion")
        script.begin("CompleteKeyDeletion", {"KeyId": KEY}, client="region")
        script.do("DescribeKey", {"KeyId": KEY}, refused("NotFoundException"))
        check(script)


def test_key_is_not_destroyed_before_its_date() -> None:
    """Whoever was told of a date has until then to change their mind; others may have asked for an early one."""
    for date, check in ((1_000.0, _good), (1_001.0, _bad), (None, _good)):
        script = KeyScript()
        answer = unknown() if date is None else ok({"KeyId": KEY, "DeletionDate": date})
        script.do("ScheduleKeyDeletion", {"KeyId": KEY}, answer)
        script.begin("CompleteKeyDeletion", {"KeyId": KEY, "Until": 1_000.0}, client="region")
        script.do("DescribeKey", {"KeyId": KEY}, refused("NotFoundException"))
        check(script)


def test_key_of_an_unanswered_creation_may_be_there() -> None:
    """It is described as that creation asked for; without one it comes from nowhere."""
    script = KeyScript()
    script.do("DescribeKey", {"KeyId": OTHER}, ok({"KeyMetadata": described(OTHER, Description="lost")}))
    _bad(script)
    script = KeyScript()
    script.do("CreateKey", {"Description": "lost"}, unknown())
    script.do("DescribeKey", {"KeyId": OTHER}, ok({"KeyMetadata": described(OTHER, Description="lost")}))
    _good(script)
    script.do("DescribeKey", {"KeyId": OTHER}, ok({"KeyMetadata": described(OTHER, Description="another")}))
    _bad(script)


def test_rotation_is_counted_once() -> None:
    """Two rotations listed after one request are a violation, and so is a material that came back."""
    rotation = {"KeyId": KEY, "KeyMaterialId": "m2", "KeyMaterialState": "CURRENT"}
    script = KeyScript()
    script.describe(CurrentKeyMaterialId="m1")
    script.change("RotateKeyOnDemand")
    script.change("ListKeyRotations", ok({"Rotations": [rotation]}))
    script.describe(CurrentKeyMaterialId="m2")
    _good(script)
    script.describe(CurrentKeyMaterialId="m1")
    _bad(script)
    script = KeyScript()
    script.change("RotateKeyOnDemand")
    script.change("ListKeyRotations", ok({"Rotations": [{**rotation, "KeyMaterialState": "NON_CURRENT"}, rotation]}))
    _bad(script)


def test_rotation_settings_policy_and_tags_are_what_was_set() -> None:
    """Each is read as it was written, and not as it was before."""
    tags = [{"TagKey": "a", "TagValue": "1"}]
    for stale in (None, "rotation", "policy", "tags"):
        script = KeyScript()
        script.change("EnableKeyRotation", RotationPeriodInDays=90)
        script.change("PutKeyPolicy", Policy="{1}")
        script.change("PutKeyPolicy", Policy="{2}")
        script.change("TagResource", Tags=[*tags, {"TagKey": "b", "TagValue": "1"}])
        script.change("UntagResource", TagKeys=["b"])
        status = {"KeyRotationEnabled": stale != "rotation", "RotationPeriodInDays": 90}
        script.change("GetKeyRotationStatus", ok(status))
        script.change("GetKeyPolicy", ok({"Policy": "{1}" if stale == "policy" else "{2}"}))
        script.change("ListResourceTags", ok({"Tags": [] if stale == "tags" else tags, "Truncated": False}))
        (_good if stale is None else _bad)(script)


def test_alias_moves_as_it_was_told() -> None:
    """It names one key at a time, and exists once."""
    script = KeyScript(KEY, OTHER)
    script.name("CreateAlias")
    script.name("CreateAlias", refused("AlreadyExistsException"), OTHER)
    script.name("UpdateAlias", target=OTHER)
    script.do("DescribeKey", {"KeyId": ALIAS}, ok({"KeyMetadata": described(OTHER)}))
    script.name("DeleteAlias", target=None)
    script.name("DeleteAlias", refused("NotFoundException"), None)
    script.name("UpdateAlias", refused("NotFoundException"))
    script.do("ListAliases", {}, ok({"Aliases": [], "Truncated": False}))
    _good(script)
    script.do("DescribeKey", {"KeyId": ALIAS}, ok({"KeyMetadata": described(OTHER)}))
    _bad(script)


@pytest.mark.parametrize(
    ("operation", "outcome"),
    [
        ("CreateAlias", ok({})),
        ("CreateAlias", refused("NotFoundException")),
        ("UpdateAlias", refused("NotFoundException")),
        ("DeleteAlias", refused("NotFoundException")),
        ("UpdateAlias", refused("KMSInvalidStateException")),
    ],
)
def test_wrong_answer_about_an_alias_is_found(operation: str, outcome: Any) -> None:
    """The alias is there, and so is its key, enabled."""
    script = KeyScript()
    script.name("CreateAlias")
    script.name(operation, outcome, None if operation == "DeleteAlias" else KEY)
    _bad(script)


def test_wrong_list_is_found() -> None:
    """A list without what is there, and an alias under the wrong key."""
    script = KeyScript(KEY, OTHER)
    script.name("CreateAlias")
    entry = {"AliasName": ALIAS, "TargetKeyId": KEY}
    script.do("ListAliases", {}, ok({"Aliases": [entry], "Truncated": False}))
    script.do("ListAliases", {"KeyId": OTHER}, ok({"Aliases": [], "Truncated": False}))
    script.do("ListKeys", {}, ok({"Keys": [{"KeyId": KEY}, {"KeyId": OTHER}], "Truncated": False}))
    _good(script)
    script.do("ListAliases", {}, ok({"Aliases": [{**entry, "TargetKeyId": OTHER}], "Truncated": False}))
    _bad(script)
    script = KeyScript(KEY, OTHER)
    script.do("ListKeys", {}, ok({"Keys": [{"KeyId": KEY}], "Truncated": False}))
    _bad(script)


# Against the product's own state machine.


class _Region:
    """The product's handlers on one state, asked at random and written down."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.room = KeyRoom()
        self.history = History()
        self.keys: list[str] = []
        self.blobs: list[bytes] = []

    def ask(self, request: Shape) -> None:
        operation = type(request).__name__.removesuffix("Request")
        call = self.history.begin(0, "c", operation, None, plain(request))
        try:
            response = self._answer(operation, request)
        except KmsError as refusal:
            self.history.end(call, 0, outcome_of(refusal))
            return
        self.history.end(call, 0, ok(plain(response)))
        if isinstance(response, wire.CreateKeyResponse):
            self.keys.append(response.key_metadata.key_id)
        if isinstance(response, wire.EncryptResponse | wire.GenerateDataKeyResponse | wire.ReEncryptResponse):
            self.blobs.append(response.ciphertext_blob)

    def _answer(self, operation: str, request: Shape) -> Any:
        if operation in DATA:
            return DATA[operation](self.room.room, self.room.machine.caller, request)
        return self.room.read(operation, request) if operation in READS else self.room.write(operation, request)

    def draw(self) -> Shape:
        rng = self.rng
        key_id, alias = rng.choice([*self.keys, OTHER]), f"alias/{rng.choice('ab')}"
        reference = rng.choice([key_id, key_id, alias])
        tag = Tag(tag_key=rng.choice("xyz"), tag_value=str(rng.randrange(3)))
        changes: list[Shape] = [
            wire.CreateKeyRequest(description=rng.choice((None, "d")), tags=rng.choice((None, (tag,)))),
            wire.EnableKeyRequest(key_id=key_id),
            wire.EnableKeyRequest(key_id=key_id),
            wire.DisableKeyRequest(key_id=key_id),
            wire.ScheduleKeyDeletionRequest(key_id=key_id, pending_window_in_days=rng.choice((None, 7, 31))),
            wire.CancelKeyDeletionRequest(key_id=key_id),
            wire.UpdateKeyDescriptionRequest(key_id=key_id, description=rng.choice(("", "e"))),
            wire.TagResourceRequest(key_id=key_id, tags=(tag,)),
            wire.UntagResourceRequest(key_id=key_id, tag_keys=(rng.choice("xyz"),)),
            wire.EnableKeyRotationRequest(key_id=key_id, rotation_period_in_days=rng.choice((None, 100))),
            wire.DisableKeyRotationRequest(key_id=key_id),
            wire.RotateKeyOnDemandRequest(key_id=key_id),
            wire.CreateAliasRequest(alias_name=alias, target_key_id=key_id),
            wire.UpdateAliasRequest(alias_name=alias, target_key_id=key_id),
            wire.DeleteAliasRequest(alias_name=alias),
        ]
        reads: list[Shape] = [
            wire.DescribeKeyRequest(key_id=reference),
            wire.ListKeysRequest(),
            wire.ListAliasesRequest(key_id=rng.choice((None, key_id))),
            wire.ListResourceTagsRequest(key_id=key_id),
            wire.GetKeyPolicyRequest(key_id=key_id),
            wire.GetKeyRotationStatusRequest(key_id=key_id),
            wire.ListKeyRotationsRequest(key_id=key_id),
        ]
        uses: list[Shape] = [
            wire.EncryptRequest(key_id=reference, plaintext=b"x"),
            wire.GenerateDataKeyRequest(key_id=reference, key_spec="AES_256"),
        ]
        if self.blobs:
            blob = rng.choice(self.blobs)
            uses += [
                wire.DecryptRequest(ciphertext_blob=blob, key_id=rng.choice((None, reference))),
                wire.ReEncryptRequest(ciphertext_blob=blob, destination_key_id=reference),
            ]
        return rng.choice(rng.choice([changes, reads, uses]))


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_product_s_own_answers_are_all_right(rng: random.Random) -> None:
    """Whatever is asked of the real handlers, one call after another, no checker finds anything."""
    region = _Region(rng)
    region.ask(wire.CreateKeyRequest())
    for _ in range(120):
        region.ask(region.draw())
    assert check_all(region.history, asks_amiss=True) == []
    for key, calls in Partitions(region.history.calls).keys.items():
        for part, model, seen in parts_of(calls):
            assert check_linearizable(seen, model).verdict is Verdict.LINEARIZABLE, (key, part)
