"""Checks a request against AWS's constraints and says what is wrong in AWS's words.

The types of operations.py carry the constraints; they are compiled once per type. Nearly every request is right, so a
quick test comes first and texts are made only for what fails it. All violations are told at once, as AWS does:

    2 validation errors detected: Value null at 'aliasName' failed to satisfy constraint: Member must not be null; …

Patterns are AWS's own, each one class of characters repeated: linear in the input whatever that is (a test tries all).
"""

import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from keycluster.cluster.wire.constraints import Length, OneOf, Pattern, Range
from keycluster.cluster.wire.errors import ValidationException

VALUE_CHARACTERS_MAX: Final = 2_100
"""How much of a wrong value is told back: a key id that is a little too long is still told whole."""
VIOLATIONS_TOLD_MAX: Final = 10

Constraint = Length | Range | Pattern | OneOf


@dataclass(frozen=True, slots=True)
class Rule:
    """What one member, or each member of a list, has to fulfil."""

    constraints: tuple[Constraint, ...]
    each: "Rule | None" = None
    """Of a list: the rule of its members."""
    structure: "tuple[Member, ...] | None" = None
    """Of a nested structure: its members."""

    @property
    def is_empty(self) -> bool:
        return not self.constraints and self.structure is None and (self.each is None or self.each.is_empty)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure. `attribute` is its name here, `told` its name in AWS's texts."""

    attribute: str
    told: str
    required: bool
    rule: Rule


class Validator:
    """The constraints of one request type."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self._members = members_of(kind)
        self._is_valid = _compile_structure(self._members)

    def check(self, request: Any) -> None:
        """Raises `ValidationException`. `request` is of the type, or has its attributes, None where missing."""
        if not self._is_valid(request):
            raise ValidationException(_tell(list(_violations(self._members, request, prefix=""))))


def members_of(kind: type[msgspec.Struct]) -> tuple[Member, ...]:
    """The members of a structure with their rules, in the model's order."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        Member(
            field.name, field.encode_name[0].lower() + field.encode_name[1:], field.required, _rule(hints[field.name])
        )
        for field in msgspec.structs.fields(kind)
    )


def _rule(hint: Any) -> Rule:
    constraints: list[Constraint] = []
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (option for option in get_args(hint) if option is not types.NoneType)
    if get_origin(hint) is Annotated:
        constraints = [extra for extra in hint.__metadata__ if isinstance(extra, Constraint)]
        hint = hint.__origin__
    if get_origin(hint) is tuple:
        return Rule(tuple(constraints), each=_rule(get_args(hint)[0]))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return Rule(tuple(constraints), structure=members_of(hint))
    return Rule(tuple(constraints))


# The quick test: is there anything wrong?

Test = Callable[[Any], Any]
"""True, or anything that counts as true, for a value that is right."""


def _compile_structure(members: tuple[Member, ...]) -> Test:
    tests = [(member.attribute, _compile(member.rule)) for member in members if not member.rule.is_empty]
    required = [member.attribute for member in members if member.required]

    def is_valid(structure: Any) -> bool:
        for attribute in required:
            if getattr(structure, attribute) is None:
                return False
        for attribute, test in tests:
            value = getattr(structure, attribute)
            if value is not None and not test(value):
                return False
        return True

    return is_valid


def _compile(rule: Rule) -> Test:
    tests = [_COMPILERS[type(constraint)](constraint) for constraint in rule.constraints]
    if rule.structure is not None:
        tests.append(_compile_structure(rule.structure))
    if rule.each is not None and not rule.each.is_empty:
        each = _compile(rule.each)
        tests.append(lambda values: all(map(each, values)))
    if len(tests) == 1:
        return tests[0]
    return lambda value: all(test(value) for test in tests)


def _length_test(constraint: Length) -> Test:
    least, most = constraint.least, constraint.most
    return lambda value: least <= len(value) <= most


def _range_test(constraint: Range) -> Test:
    least, most = constraint.least, constraint.most
    return lambda value: least <= value <= most


def _pattern_test(constraint: Pattern) -> Test:
    # AWS's are Java's: \w is ASCII there, and the whole value has to match.
    return re.compile(constraint.expression, re.ASCII).fullmatch


def _one_of_test(constraint: OneOf) -> Test:
    return frozenset(constraint.values).__contains__


_COMPILERS: dict[type[Constraint], Callable[[Any], Test]] = {
    Length: _length_test,
    Range: _range_test,
    Pattern: _pattern_test,
    OneOf: _one_of_test,
}


# The texts: what exactly is wrong?


def _tell(violations: list[str]) -> str:
    count = len(violations)
    told = "; ".join(violations[:VIOLATIONS_TOLD_MAX])
    return f"{count} validation error{'' if count == 1 else 's'} detected: {told}"


def _violations(members: tuple[Member, ...], structure: Any, *, prefix: str) -> Iterator[str]:
    for member in members:
        value = getattr(structure, member.attribute)
        where = prefix + member.told
        if value is not None:
            yield from _value_violations(member.rule, value, where)
        elif member.required:
            yield f"Value null at '{where}' failed to satisfy constraint: Member must not be null"


def _value_violations(rule: Rule, value: Any, where: str) -> Iterator[str]:
    for constraint in rule.constraints:
        broken = _broken(constraint, value)
        if broken is not None:
            yield f"Value{_shown(value)} at '{where}' failed to satisfy constraint: {broken}"
    if rule.structure is not None:
        yield from _violations(rule.structure, value, prefix=f"{where}.")
    if rule.each is None:
        return
    if rule.each.structure is not None:
        for number, member in enumerate(value, 1):
            yield from _violations(rule.each.structure, member, prefix=f"{where}.{number}.member.")
    elif rule.each.constraints and not all(map(_compile(rule.each), value)):
        wanted = ", ".join(text for constraint in rule.each.constraints for text in _wanted(constraint))
        broken = f"Member must satisfy constraint: [{wanted}]"
        yield f"Value{_shown(value)} at '{where}' failed to satisfy constraint: {broken}"


def _broken(constraint: Constraint, value: Any) -> str | None:
    if _COMPILERS[type(constraint)](constraint)(value):
        return None
    wanted = _wanted(constraint)
    if isinstance(constraint, Length):
        return wanted[0] if len(value) > constraint.most else wanted[1]
    if isinstance(constraint, Range):
        return wanted[0] if value > constraint.most else wanted[1]
    return wanted[0]


def _wanted(constraint: Constraint) -> tuple[str, ...]:
    """AWS's words for what a constraint asks: the upper bound, then the lower one."""
    match constraint:
        case Length(least, most):
            return (
                f"Member must have length less than or equal to {most}",
                f"Member must have length greater than or equal to {least}",
            )
        case Range(least, most):
            return (
                f"Member must have value less than or equal to {most}",
                f"Member must have value greater than or equal to {least}",
            )
        case Pattern(expression):
            return (f"Member must satisfy regular expression pattern: {expression}",)
        case OneOf():
            return (f"Member must satisfy enum value set: [{', '.join(constraint.values)}]",)


def _shown(value: Any) -> str:
    """The value in quotes, nothing for bytes: they may be somebody's plaintext."""
    if isinstance(value, bytes):
        return ""
    text = "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)
    return f" '{text if len(text) <= VALUE_CHARACTERS_MAX else text[:VALUE_CHARACTERS_MAX] + '…'}'"
