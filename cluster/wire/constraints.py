"""The constraints that AWS's API model puts on members: written beside the types, checked by `validate.py`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Length:
    """Least and most characters of a string, bytes of a blob or members of a list."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Range:
    """Least and greatest value of an integer."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that the whole string must match. The expressions are AWS's own, never a caller's."""

    expression: str


class OneOf:
    """The values of an enumeration, in the model's order: AWS's error text lists them so."""

    __slots__ = ("values",)

    def __init__(self, *values: str) -> None:
        self.values = values
