"""Aliases through the log."""

import pytest

from keycluster.cluster.keys.commands import CreateAlias, DeleteAlias, UpdateAlias
from keycluster.cluster.keys.records import AliasRecord, Table, alias_row, load
from keycluster.cluster.types import KeyId
from tests.key_machine import KeyMachine
from tests.room_on_memory import ACCOUNT, OTHER_ACCOUNT, REGION


def alias_of(machine: KeyMachine, name: str) -> AliasRecord | None:
    return load(machine.state, Table.ALIASES, alias_row(ACCOUNT, name), AliasRecord)


def arn(name: str) -> str:
    return f"arn:aws:kms:{REGION}:{ACCOUNT}:{name}"


def test_alias_is_made_moved_and_deleted() -> None:
    """Row and key agree at each step; its dates tell when."""
    machine = KeyMachine()
    first, second = machine.create_key(), machine.create_key()
    created = machine.time
    machine.ok(CreateAlias("alias/a", first.key_id))
    machine.ok(CreateAlias("alias/B/c", machine.arn(first.key_id)))
    assert machine.key(first.key_id).aliases == ("alias/B/c", "alias/a")
    machine.pass_time(5)
    machine.ok(UpdateAlias("alias/a", second.key_id))
    assert alias_of(machine, "alias/a") == AliasRecord(second.key_id, created, machine.time)
    assert machine.key(first.key_id).aliases == ("alias/B/c",)
    assert machine.key(second.key_id).aliases == ("alias/a",)
    machine.ok(DeleteAlias("alias/a"))
    assert alias_of(machine, "alias/a") is None
    assert machine.key(second.key_id).aliases == ()


def test_alias_that_exists_is_refused_in_aws_words() -> None:
    """In one account; the same name in another is another alias."""
    machine = KeyMachine()
    key, other = machine.create_key(), machine.create_key(caller=machine.other)
    machine.ok(CreateAlias("alias/a", key.key_id))
    assert machine.refusal(CreateAlias("alias/a", key.key_id)) == (
        "AlreadyExistsException",
        f"An alias with the name {arn('alias/a')} already exists",
    )
    machine.ok(CreateAlias("alias/a", other.key_id), caller=machine.other)
    assert load(machine.state, Table.ALIASES, alias_row(OTHER_ACCOUNT, "alias/a"), AliasRecord) is not None


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        (
            "mine",
            "ValidationException",
            'Alias must start with the prefix "alias/". Please see '
            "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
        ),
        ("alias/", "ValidationException", "Invalid identifier"),
        ("alias/a:b", "ValidationException", "alias/a:b contains invalid characters for an alias"),
        ("alias/ä", "ValidationException", "alias/ä contains invalid characters for an alias"),
        ("alias/a\n", "ValidationException", "alias/a\n contains invalid characters for an alias"),
        (
            "alias/aws/s3",
            "InvalidAliasNameException",
            "The alias name alias/aws/s3 is reserved: alias/aws/ is AWS's own",
        ),
    ],
)
def test_alias_of_a_name_that_cannot_be_is_refused(name: str, code: str, message: str) -> None:
    """Prefix, characters and the reserved part."""
    machine = KeyMachine()
    key = machine.create_key()
    assert machine.refusal(CreateAlias(name, key.key_id)) == (code, message)


def test_alias_longer_than_256_characters_is_refused() -> None:
    """Its row's key stays bounded."""
    machine = KeyMachine()
    key = machine.create_key()
    machine.ok(CreateAlias("alias/" + "a" * 250, key.key_id))
    assert machine.code(CreateAlias("alias/" + "a" * 251, key.key_id)) == "ValidationException"


def test_alias_that_is_not_there_is_not_found() -> None:
    """Another account's alias is not there either."""
    machine = KeyMachine()
    key = machine.create_key()
    machine.ok(CreateAlias("alias/a", key.key_id))
    expected = ("NotFoundException", f"Alias {arn('alias/none')} is not found.")
    assert machine.refusal(DeleteAlias("alias/none")) == expected
    assert machine.refusal(UpdateAlias("alias/none", key.key_id)) == expected
    assert machine.code(DeleteAlias("alias/a"), caller=machine.other) == "NotFoundException"
    assert machine.code(DeleteAlias("alias/aws/s3")) == "NotFoundException"


def test_key_has_at_most_50_aliases() -> None:
    """Made or moved there; moving an alias to where it is takes no room."""
    machine = KeyMachine()
    full, other = machine.create_key(), machine.create_key()
    for number in range(50):
        machine.ok(CreateAlias(f"alias/{number}", full.key_id))
    machine.ok(CreateAlias("alias/other", other.key_id))
    assert machine.code(CreateAlias("alias/50", full.key_id)) == "LimitExceededException"
    assert machine.code(UpdateAlias("alias/other", full.key_id)) == "LimitExceededException"
    machine.ok(UpdateAlias("alias/7", full.key_id))
    assert alias_of(machine, "alias/50") is None
    assert len(machine.key(full.key_id).aliases) == 50


def test_alias_names_no_alias() -> None:
    """The target is a key id or key ARN."""
    machine = KeyMachine()
    key = machine.create_key()
    machine.ok(CreateAlias("alias/a", key.key_id))
    assert machine.refusal(CreateAlias("alias/b", KeyId("alias/a"))) == (
        "NotFoundException",
        "Invalid keyId 'alias/a'",
    )
