"""What a key reference means, and that another account's keys can't be told from none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.commands import CreateAlias
from keycluster.cluster.keys.records import KeyRecord, Table
from keycluster.cluster.keys.resolve import resolve
from keycluster.cluster.wire.errors import AccessDeniedException, KmsError
from tests.key_machine import KeyMachine
from tests.room_on_memory import ACCOUNT, OTHER_ACCOUNT

MACHINE = KeyMachine()
OWN = MACHINE.create_key()
FOREIGN = MACHINE.create_key(caller=MACHINE.other)
MACHINE.ok(CreateAlias("alias/own", OWN.key_id))
MACHINE.ok(CreateAlias("alias/foreign", FOREIGN.key_id), caller=MACHINE.other)
UNKNOWN = "00000000-1111-4222-8333-444444444444"
KMS = "arn:aws:kms:us-east-1"


def look_up(text: str, *, aliases: bool = True) -> KeyRecord:
    return resolve(MACHINE.state, text, MACHINE.caller, MACHINE.region, action="kms:DescribeKey", aliases=aliases)


def refusal(text: str, *, aliases: bool = True) -> tuple[str, str]:
    with pytest.raises(KmsError) as refused:
        look_up(text, aliases=aliases)
    return refused.value.code, refused.value.message


@pytest.mark.parametrize(
    "text",
    [OWN.key_id, f"{KMS}:{ACCOUNT}:key/{OWN.key_id}", "alias/own", f"{KMS}:{ACCOUNT}:alias/own"],
    ids=["key id", "key ARN", "alias name", "alias ARN"],
)
def test_reference_of_each_form_names_the_key(text: str) -> None:
    """All four ways to name a key lead to it."""
    assert look_up(text).key_id == OWN.key_id


@pytest.mark.parametrize(
    ("text", "aliases", "code", "message"),
    [
        ("fake", True, "NotFoundException", "Invalid keyId 'fake'"),
        (UNKNOWN.replace("-", ""), True, "NotFoundException", f"Invalid keyId '{UNKNOWN.replace('-', '')}'"),
        (OWN.key_id.upper(), True, "NotFoundException", f"Invalid keyId '{OWN.key_id.upper()}'"),
        ("alias/own", False, "NotFoundException", "Invalid keyId 'alias/own'"),
        (UNKNOWN, True, "NotFoundException", f"Key '{KMS}:{ACCOUNT}:key/{UNKNOWN}' does not exist"),
        (
            "mrk-" + "0" * 32,
            True,
            "NotFoundException",
            f"Key '{KMS}:{ACCOUNT}:key/mrk-{'0' * 32}' does not exist",
        ),
        (
            f"{KMS}:{ACCOUNT}:key/{UNKNOWN}",
            True,
            "NotFoundException",
            f"Key '{KMS}:{ACCOUNT}:key/{UNKNOWN}' does not exist",
        ),
        ("alias/none", True, "NotFoundException", f"Alias {KMS}:{ACCOUNT}:alias/none is not found."),
        (
            f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{OWN.key_id}",
            True,
            "NotFoundException",
            "Invalid arn eu-west-1",
        ),
        (f"{KMS}:{ACCOUNT}:grant/x", True, "InvalidArnException", f"Invalid arn {KMS}:{ACCOUNT}:grant/x"),
        ("arn:aws:s3:::bucket", True, "InvalidArnException", "Invalid arn arn:aws:s3:::bucket"),
        ("arn:aws:kms", True, "InvalidArnException", "Invalid arn arn:aws:kms"),
        (f"{KMS}:1234:key/{OWN.key_id}", True, "InvalidArnException", f"Invalid arn {KMS}:1234:key/{OWN.key_id}"),
    ],
)
def test_reference_to_nothing_is_refused_in_aws_words(text: str, aliases: bool, code: str, message: str) -> None:
    """Codes and texts as recorded from AWS."""
    assert refusal(text, aliases=aliases) == (code, message)


def test_key_of_another_account_by_id_is_as_unknown_as_none() -> None:
    """A bare key id is looked up in the caller's account."""
    code, message = refusal(FOREIGN.key_id)
    assert (code, message) == ("NotFoundException", f"Key '{KMS}:{ACCOUNT}:key/{FOREIGN.key_id}' does not exist")
    assert refusal("alias/foreign")[0] == "NotFoundException"


@pytest.mark.parametrize(
    ("there", "not_there"),
    [
        (f"{KMS}:{OTHER_ACCOUNT}:key/{FOREIGN.key_id}", f"{KMS}:{OTHER_ACCOUNT}:key/{UNKNOWN}"),
        (f"{KMS}:{OTHER_ACCOUNT}:alias/foreign", f"{KMS}:{OTHER_ACCOUNT}:alias/none"),
        (f"{KMS}:{OTHER_ACCOUNT}:key/{FOREIGN.key_id}", f"{KMS}:{OTHER_ACCOUNT}:key/{OWN.key_id}"),
    ],
    ids=["key", "alias", "own key under a foreign account"],
)
def test_key_of_another_account_cannot_be_told_from_none(there: str, not_there: str) -> None:
    """One code, one text, and nothing looked up at all, whether the key exists or not."""
    answers, work = [], []
    for text in (there, not_there):
        MACHINE.state.reads.clear()
        answers.append(refusal(text))
        work.append([table for table, _ in MACHINE.state.reads if table != Table.REGION])
    assert answers[0] == answers[1]
    assert answers[0][0] == "AccessDeniedException"
    assert work == [[], []]


def test_key_id_of_another_account_takes_the_same_work_as_none() -> None:
    """A key with a long policy takes longer to read: it isn't read."""
    work = []
    for key_id in (FOREIGN.key_id, UNKNOWN):
        MACHINE.state.reads.clear()
        refusal(key_id)
        work.append([table for table, _ in MACHINE.state.reads if table != Table.REGION])
    assert work == [[Table.ACCOUNT_KEYS], [Table.ACCOUNT_KEYS]]


@given(st.text(max_size=60) | st.from_regex(r"arn:aws:kms:[a-z0-9-]*:[0-9]*:(key|alias)/[a-z-]*", fullmatch=True))
def test_reference_of_any_text_is_refused_with_an_aws_error(text: str) -> None:
    """Nothing that a caller writes is more than unknown, malformed or denied."""
    with pytest.raises(KmsError) as refused:
        look_up(text)
    assert refused.value.code in {"NotFoundException", "InvalidArnException", "AccessDeniedException"}
    assert not isinstance(refused.value, AccessDeniedException) or "not authorized" in refused.value.message
