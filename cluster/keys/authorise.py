"""Who may do what: one function, decided at the door and again by `apply` (security.md, 7).

For now every access key is its account's root: all operations on its account's keys, none on another's. Key policies,
IAM policies and grants come with the authorisation issue, which replaces `authorise` and the half of it that needs no
key, `authorise_account`.
"""

from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.keys.records import AccessKeyRecord, KeyRecord, StateReader, load_access_key
from keycluster.cluster.types import AccountId
from keycluster.cluster.wire.errors import AccessDeniedException, UnrecognizedClientException


def authorise(caller: Caller, action: str, key: KeyRecord | None) -> None:
    """Raises AccessDeniedException unless `caller` may carry out `action` (as `kms:DescribeKey`).

    `key` is None for operations on no key in particular: those act on the caller's own account only.
    """
    if key is not None:
        authorise_account(caller, action, key.account)


def authorise_account(caller: Caller, action: str, account: AccountId) -> None:
    """Raises AccessDeniedException if `caller` may carry out `action` on no key of `account`, whichever it is.

    Asked before a key is looked up: while no account gives another one access, a key of another account is refused
    without a look at the state, and so takes the same time whether it exists or not (security.md, 10). Whoever lets
    some through here has them look keys up, and owes that sameness there: in `resolve`, and in `Room.claimed_key`.
    """
    if account != caller.account:
        raise denied(caller, action)


def denied(caller: Caller, action: str, *, resource: str = "this resource") -> AccessDeniedException:
    """The one text for a key of another account, whether it exists or not (security.md, 10). It is AWS's."""
    return AccessDeniedException(
        f"User: {caller.principal} is not authorized to perform: {action} on {resource} because the resource does not "
        "exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies "
        "access"
    )


def check_credential(state: StateReader, caller: Caller) -> AccessKeyRecord:
    """The access key that `caller` came with, as it is now. Raises UnrecognizedClientException once it isn't good."""
    access_key = load_access_key(state, caller.access_key_id)
    if (
        access_key is None
        or not access_key.active
        or access_key.version != caller.credential_version
        or access_key.account != caller.account
        or access_key.principal != caller.principal
    ):
        raise UnrecognizedClientException("The security token included in the request is invalid.")
    return access_key


def authorise_operator(access_key: AccessKeyRecord, action: str) -> None:
    """Raises AccessDeniedException unless the access key is an operator's: it may act on the region itself."""
    if not access_key.operator:
        raise AccessDeniedException(
            f"User: {access_key.principal} is not authorized to perform: {action} because its access key is not an "
            "operator's"
        )
