"""Limits of keys and what hangs on them, and the checks that need no state: made at the door and again by `apply`.

Sources: the AWS KMS API Reference (each operation's parameters) and the developer guide ("Quotas"). Where AWS's model
allows more than its service does, the service's limit is the one here. The wire types' own constraints (lengths,
patterns) are checked by `cluster/wire/`; what is checked here again is what rows and schedules rely on.
"""

from collections.abc import Iterable

from keycluster.cluster.types import SECOND
from keycluster.cluster.wire.errors import (
    InvalidAliasNameException,
    LimitExceededException,
    TagException,
    ValidationException,
)

DAY = 24 * 3600 * SECOND

DELETION_WINDOW_DAYS_MIN = 7
DELETION_WINDOW_DAYS_MAX = 30
DELETION_WINDOW_DAYS_DEFAULT = 30
ROTATION_PERIOD_DAYS_MIN = 90
ROTATION_PERIOD_DAYS_MAX = 2560
ROTATION_PERIOD_DAYS_DEFAULT = 365
ON_DEMAND_ROTATIONS_MAX = 25  # Per key, in its whole life.
ALIASES_PER_KEY_MAX = 50
TAGS_PER_KEY_MAX = 50
POLICY_BYTES_MAX = 32_768
DESCRIPTION_CHARACTERS_MAX = 8192
ALIAS_CHARACTERS_MAX = 256
TAG_KEY_CHARACTERS_MAX = 128
TAG_VALUE_CHARACTERS_MAX = 256

# Entries of one page: how many when the caller doesn't say, and at most.
KEYS_PAGE_DEFAULT, KEYS_PAGE_MAX = 100, 1000
ALIASES_PAGE_DEFAULT, ALIASES_PAGE_MAX = 50, 100
TAGS_PAGE_DEFAULT, TAGS_PAGE_MAX = 50, 50
POLICIES_PAGE_DEFAULT, POLICIES_PAGE_MAX = 100, 1000
ROTATIONS_PAGE_DEFAULT, ROTATIONS_PAGE_MAX = 100, 1000

ALIAS_PREFIX = "alias/"
RESERVED_ALIAS_PREFIX = "alias/aws/"
RESERVED_TAG_PREFIX = "aws:"


def constraint_broken(value: object, member: str, constraint: str) -> ValidationException:
    """AWS's words for a member that breaks one of its constraints."""
    return ValidationException(
        f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
    )


def check_range(value: int, member: str, *, least: int, most: int) -> None:
    if value < least:
        raise constraint_broken(value, member, f"Member must have value greater than or equal to {least}")
    if value > most:
        raise constraint_broken(value, member, f"Member must have value less than or equal to {most}")


def check_length(text: str, member: str, *, most: int) -> None:
    if len(text) > most:
        raise constraint_broken(text, member, f"Member must have length less than or equal to {most}")


def check_deletion_window(days: int) -> None:
    check_range(days, "pendingWindowInDays", least=DELETION_WINDOW_DAYS_MIN, most=DELETION_WINDOW_DAYS_MAX)


def check_rotation_period(days: int) -> None:
    check_range(days, "rotationPeriodInDays", least=ROTATION_PERIOD_DAYS_MIN, most=ROTATION_PERIOD_DAYS_MAX)


def check_description(description: str) -> None:
    check_length(description, "description", most=DESCRIPTION_CHARACTERS_MAX)


def check_alias_name(alias: str) -> None:
    """That an alias of this name may exist in a customer's hands. Raises ValidationException."""
    check_length(alias, "aliasName", most=ALIAS_CHARACTERS_MAX)
    if not alias.startswith(ALIAS_PREFIX):
        raise ValidationException(
            f'Alias must start with the prefix "{ALIAS_PREFIX}". Please see '
            "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
        )
    if alias == ALIAS_PREFIX:
        raise ValidationException("Invalid identifier")
    # AWS's pattern admits the colon, its service doesn't: in an ARN it would end the name.
    if not all(letter.isascii() and (letter.isalnum() or letter in "/_-") for letter in alias):
        raise ValidationException(f"{alias} contains invalid characters for an alias")


def check_new_alias_name(alias: str) -> None:
    """Also that it isn't in the part reserved for AWS managed keys. Raises InvalidAliasNameException."""
    check_alias_name(alias)
    if alias.startswith(RESERVED_ALIAS_PREFIX):
        raise InvalidAliasNameException(f"The alias name {alias} is reserved: {RESERVED_ALIAS_PREFIX} is AWS's own")


def check_tags(tags: Iterable[tuple[str, str]]) -> None:
    """The tags of one request. How many a key may have in all is seen when they are merged (`merge_tags`)."""
    seen = set()
    for tag_key, tag_value in tags:
        check_tag_key(tag_key)
        check_length(tag_value, "tags.member.tagValue", most=TAG_VALUE_CHARACTERS_MAX)
        if tag_key in seen:
            raise TagException("Duplicate tag keys")
        seen.add(tag_key)


def check_tag_key(tag_key: str) -> None:
    if not tag_key:
        raise constraint_broken("", "tags.member.tagKey", "Member must have length greater than or equal to 1")
    check_length(tag_key, "tags.member.tagKey", most=TAG_KEY_CHARACTERS_MAX)
    if tag_key.lower().startswith(RESERVED_TAG_PREFIX):
        raise TagException("Tags beginning with aws: are reserved")


def merge_tags(tags: tuple[tuple[str, str], ...], added: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """`tags` with `added`, later values winning, sorted by tag key. Raises LimitExceededException."""
    merged = tuple(sorted({**dict(tags), **dict(added)}.items()))
    if len(merged) > TAGS_PER_KEY_MAX:
        raise LimitExceededException(f"A key has at most {TAGS_PER_KEY_MAX} tags")
    return merged


def check_alias_count(count: int) -> None:
    """That a key may get one more alias than the `count` that it has."""
    if count >= ALIASES_PER_KEY_MAX:
        raise LimitExceededException(f"A key has at most {ALIASES_PER_KEY_MAX} aliases")


def check_policy_size(policy: str) -> None:
    if len(policy.encode()) > POLICY_BYTES_MAX:
        raise LimitExceededException(f"A key policy has at most {POLICY_BYTES_MAX} bytes")
