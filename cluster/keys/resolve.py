"""What a caller means by a key id, key ARN, alias name or alias ARN, and the key that it names.

A bare key id and a bare alias name are looked up in the caller's account: another account's key under the same id is
as unknown as one that doesn't exist. Which keys an account has stands in small index rows of its own, so no row of
another account's key is read, however it was named: the time taken tells nothing of it. An ARN may name another
account; the answer is then one AccessDeniedException (security.md, 10), given before anything is looked up, as long as
no account may use another's keys (`authorise_account`). Texts and codes are AWS's.
"""

import re
from dataclasses import dataclass
from typing import Final

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.keys.authorise import authorise, authorise_account
from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.keys.limits import ALIAS_PREFIX
from keycluster.cluster.keys.records import (
    AliasRecord,
    KeyRecord,
    RegionRecord,
    StateReader,
    Table,
    account_key_row,
    alias_row,
    load,
    load_key,
)
from keycluster.cluster.types import AccountId, KeyId
from keycluster.cluster.wire.errors import InvalidArnException, NotFoundException

UUID_PATTERN: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
MULTI_REGION_PATTERN: Final = re.compile(r"mrk-[0-9a-f]{32}", re.ASCII)
ACCOUNT_PATTERN: Final = re.compile(r"[0-9]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A key reference, parsed: `name` is a key id, or an alias name beginning with `alias/`."""

    account: AccountId
    name: str

    @property
    def is_alias(self) -> bool:
        return self.name.startswith(ALIAS_PREFIX)


def key_arn(region: RegionRecord, account: AccountId, key_id: str) -> str:
    return f"arn:{region.partition}:kms:{region.region}:{account}:key/{key_id}"


def alias_arn(region: RegionRecord, account: AccountId, alias: str) -> str:
    return f"arn:{region.partition}:kms:{region.region}:{account}:{alias}"


def is_key_id(text: str) -> bool:
    return UUID_PATTERN.fullmatch(text) is not None or MULTI_REGION_PATTERN.fullmatch(text) is not None


def parse_reference(text: str, caller: Caller, region: RegionRecord, *, aliases: bool) -> Reference:
    """`aliases` says whether the operation takes alias names and alias ARNs too.

    Raises NotFoundException or InvalidArnException.
    """
    reference = _parse_arn(text, region) if text.startswith("arn:") else Reference(caller.account, text)
    if reference.is_alias:
        if not aliases:
            raise NotFoundException(f"Invalid keyId '{text}'")
    elif not is_key_id(reference.name):
        raise NotFoundException(f"Invalid keyId '{reference.name}'")
    return reference


def _parse_arn(text: str, region: RegionRecord) -> Reference:
    parts = text.split(":", 5)
    if len(parts) != 6:
        raise InvalidArnException(f"Invalid arn {text}")
    _, partition, service, place, account, resource = parts
    if partition != region.partition or service != "kms" or ACCOUNT_PATTERN.fullmatch(account) is None:
        raise InvalidArnException(f"Invalid arn {text}")
    if place != region.region:
        raise NotFoundException(f"Invalid arn {place}")
    if resource.startswith("key/"):
        return Reference(AccountId(account), resource.removeprefix("key/"))
    if resource.startswith(ALIAS_PREFIX):
        return Reference(AccountId(account), resource)
    raise InvalidArnException(f"Invalid arn {text}")


def resolve(
    state: StateReader, text: str, caller: Caller, region: RegionRecord, *, action: str, aliases: bool
) -> KeyRecord:
    """The key that `text` names, which `caller` may carry out `action` on.

    Raises NotFoundException, InvalidArnException or AccessDeniedException.
    """
    reference = parse_reference(text, caller, region, aliases=aliases)
    account = reference.account
    authorise_account(caller, action, account)
    key_id = KeyId(reference.name)
    if reference.is_alias:
        alias = load(state, Table.ALIASES, alias_row(account, reference.name), AliasRecord)
        if alias is None:
            raise NotFoundException(f"Alias {alias_arn(region, account, reference.name)} is not found.")
        key_id = alias.key_id
    if not owns_key(state, account, key_id):
        raise NotFoundException(f"Key '{key_arn(region, account, reference.name)}' does not exist")
    key = load_key(state, key_id)
    if key is None or key.account != account:
        raise InvariantBroken(f"account {account} is to have key {key_id}, and its row says otherwise")
    authorise(caller, action, key)
    return key


def owns_key(state: StateReader, account: AccountId, key_id: KeyId) -> bool:
    """By one look at an index row: the same work for a key that doesn't exist and for one of another account."""
    return state.get(Table.ACCOUNT_KEYS, account_key_row(account, key_id)) is not None
