"""The commands on aliases. An alias is a row of its own, and a name in the record of the key that it names."""

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.keys import commands
from keycluster.cluster.keys.authorise import authorise
from keycluster.cluster.keys.limits import check_alias_count, check_alias_name, check_new_alias_name
from keycluster.cluster.keys.records import AliasRecord, KeyRecord, Table, alias_row, load, load_key, store
from keycluster.cluster.keys.resolve import alias_arn
from keycluster.cluster.keys.transition import Transition
from keycluster.cluster.wire import operations
from keycluster.cluster.wire.errors import AlreadyExistsException, NotFoundException


def create_alias(transition: Transition, body: commands.CreateAlias) -> operations.CreateAliasResponse:
    account = transition.caller.account
    check_new_alias_name(body.alias)
    key = transition.key_for("CreateAlias", body.key)
    if load(transition.state, Table.ALIASES, alias_row(account, body.alias), AliasRecord) is not None:
        arn = alias_arn(transition.region, account, body.alias)
        raise AlreadyExistsException(f"An alias with the name {arn} already exists")
    _name(transition, key, body.alias)
    alias = AliasRecord(key.key_id, created=transition.now, updated=transition.now)
    store(transition.state, Table.ALIASES, alias_row(account, body.alias), alias)
    return operations.CreateAliasResponse()


def update_alias(transition: Transition, body: commands.UpdateAlias) -> operations.UpdateAliasResponse:
    check_alias_name(body.alias)
    alias, old = _existing(transition, body.alias, "kms:UpdateAlias")
    new = transition.key_for("UpdateAlias", body.key)
    if new.key_id != old.key_id:
        _name(transition, new, body.alias)
        _unname(transition, old, body.alias)
    row = alias_row(transition.caller.account, body.alias)
    updated = AliasRecord(new.key_id, created=alias.created, updated=transition.now)
    store(transition.state, Table.ALIASES, row, updated)
    return operations.UpdateAliasResponse()


def delete_alias(transition: Transition, body: commands.DeleteAlias) -> operations.DeleteAliasResponse:
    check_alias_name(body.alias)
    _, key = _existing(transition, body.alias, "kms:DeleteAlias")
    _unname(transition, key, body.alias)
    transition.state.delete(Table.ALIASES, alias_row(transition.caller.account, body.alias))
    return operations.DeleteAliasResponse()


def _existing(transition: Transition, name: str, action: str) -> tuple[AliasRecord, KeyRecord]:
    """An alias of the caller's account and the key that it names. Raises NotFoundException."""
    account = transition.caller.account
    alias = load(transition.state, Table.ALIASES, alias_row(account, name), AliasRecord)
    if alias is None:
        raise NotFoundException(f"Alias {alias_arn(transition.region, account, name)} is not found.")
    key = load_key(transition.state, alias.key_id)
    if key is None:
        raise InvariantBroken(f"alias {name} of {account} names key {alias.key_id}, which doesn't exist")
    authorise(transition.caller, action, key)
    return alias, key


def _name(transition: Transition, key: KeyRecord, alias: str) -> None:
    check_alias_count(len(key.aliases))
    transition.change_key(key, aliases=tuple(sorted((*key.aliases, alias))))


def _unname(transition: Transition, key: KeyRecord, alias: str) -> None:
    transition.change_key(key, aliases=tuple(name for name in key.aliases if name != alias))
