"""New access keys: the id and secret that a caller signs with.

Ids and secrets look like AWS's, so that its tools take them: `AKIA` and 16 characters of Base32, 40 of Base64. Secrets
are generated here, shown once and stored sealed; given ones are for `dev` alone (security.md, 9).
"""

import base64
import re
from dataclasses import dataclass

from keycluster.cluster.keys.commands import NewAccessKey
from keycluster.cluster.keys.hierarchy import Keyring, Purpose
from keycluster.cluster.keys.token import NONCE_BYTES, seal_secret
from keycluster.cluster.seams import Entropy
from keycluster.cluster.types import AccountId

ID_PREFIX = "AKIA"
ID_RANDOM_BYTES = 10  # 16 characters of Base32.
SECRET_RANDOM_BYTES = 30  # 240 bits, 40 characters of Base64.

_ACCESS_KEY_ID = re.compile(r"[A-Za-z0-9_]{16,128}", re.ASCII)  # AWS IAM, data type AccessKey.
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)
SECRET_CHARS_MIN = 16
SECRET_CHARS_MAX = 128


class AccessKeyUnfit(ValueError):
    """A given account, access key id or secret that can't be used; the text says why and shows no secret."""


@dataclass(frozen=True, slots=True)
class AccessKeySecret:
    """What its owner needs."""

    access_key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"AccessKeySecret({self.access_key_id})"


def generate_access_key(entropy: Entropy) -> AccessKeySecret:
    """A fresh one."""
    return AccessKeySecret(
        access_key_id=ID_PREFIX + base64.b32encode(entropy.random_bytes(ID_RANDOM_BYTES)).decode(),
        secret=base64.b64encode(entropy.random_bytes(SECRET_RANDOM_BYTES)).decode(),
    )


def check_access_key(account: AccountId, access_key: AccessKeySecret) -> None:
    """Raises `AccessKeyUnfit`."""
    if not _ACCOUNT.fullmatch(account):
        raise AccessKeyUnfit(f"an account has twelve decimal digits, not {account[:40]!r}")
    if not _ACCESS_KEY_ID.fullmatch(access_key.access_key_id):
        raise AccessKeyUnfit("an access key id has 16 to 128 letters, digits and underscores")
    secret = access_key.secret
    if not SECRET_CHARS_MIN <= len(secret) <= SECRET_CHARS_MAX or not (secret.isascii() and secret.isprintable()):
        raise AccessKeyUnfit(
            f"a secret access key has {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} printable ASCII characters"
        )


def seal_access_key(
    access_key: AccessKeySecret, *, account: AccountId, operator: bool, keyring: Keyring, entropy: Entropy
) -> NewAccessKey:
    """What the log and the state get of it: the credential of the account's root, its secret sealed."""
    sealed = seal_secret(
        keyring,
        keyring.newest,
        Purpose.ACCESS_KEY,
        secret=access_key.secret.encode(),
        owner=access_key.access_key_id.encode(),
        nonce=entropy.random_bytes(NONCE_BYTES),
    )
    return NewAccessKey(
        access_key_id=access_key.access_key_id,
        account=account,
        principal=f"arn:aws:iam::{account}:root",
        secret_sealed=sealed,
        operator=operator,
    )
