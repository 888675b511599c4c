"""Constraints made of others: templates with holes, and unions."""

import keyword
from dataclasses import dataclass
from fractions import Fraction

from quicksilver.constraints.constraint import Constraint
from quicksilver.constraints.expression import (
    ANY_CHARACTER,
    Alternatives,
    Characters,
    Difference,
    Expression,
    Intersection,
    Isolated,
    Literal,
    Repeat,
    Sequence,
    Special,
    alternatives,
    characters,
    complement_of,
    ranges_of,
    sequence,
)
from quicksilver.constraints.json_schema.atoms import AtLeast, AtMost
from quicksilver.constraints.json_schema.numbers import INTEGER, NUMBER, number_language
from quicksilver.constraints.language import Compiler
from quicksilver.errors import ConfigError


@dataclass(frozen=True)
class SpecialToken:
    """A constraint: one special token, which no text can write."""

    name: str

    def expression(self, compiler: Compiler) -> Expression:
        return Special(self.name)


@dataclass(frozen=True)
class Template:
    """A constraint: parts one after the other; strings stand for themselves, other constraints for what they allow."""

    parts: tuple["str | Constraint", ...]

    def expression(self, compiler: Compiler) -> Expression:
        return Sequence(tuple(_expression(part, compiler) for part in self.parts))


@dataclass(frozen=True)
class AnyOf:
    """A constraint: what at least one of several allows."""

    options: tuple["str | Constraint", ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ConfigError("a union needs at least one option")

    def expression(self, compiler: Compiler) -> Expression:
        return Alternatives(tuple(_expression(option, compiler) for option in self.options))


def _expression(part: "str | Constraint", compiler: Compiler) -> Expression:
    return Literal(part) if isinstance(part, str) else part.expression(compiler)


@dataclass(frozen=True)
class Integer:
    """A hole for an integer without superfluous zeros."""

    least: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ConfigError(f"no integer is at least {self.least} and at most {self.most}")

    def expression(self, compiler: Compiler) -> Expression:
        bounds = [AtLeast(Fraction(self.least))] if self.least is not None else []
        above = [AtMost(Fraction(self.most))] if self.most is not None else []
        return Isolated(Intersection((INTEGER, *map(number_language, [*bounds, *above]))))


@dataclass(frozen=True)
class Number:
    """A hole for a decimal number, as JSON constraints write it: no exponent, no superfluous zeros."""

    def expression(self, compiler: Compiler) -> Expression:
        return Isolated(NUMBER)


@dataclass(frozen=True)
class Identifier:
    """A hole for a name of Python in ASCII that is no keyword."""

    max_length: int = 40

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"max_length must be at least 1, got {self.max_length}")

    def expression(self, compiler: Compiler) -> Expression:
        first = characters("_", ("a", "z"), ("A", "Z"))
        other = characters("_", ("a", "z"), ("A", "Z"), ("0", "9"))
        names = sequence(first, Repeat(other, 0, self.max_length - 1))
        return Difference(names, alternatives(*keyword.kwlist))


@dataclass(frozen=True)
class AnyText:
    """A hole for any text of a bounded length."""

    max_length: int
    """In code points."""
    min_length: int = 0
    without: str = ""
    """Characters that do not stand in it, such as the one that ends it."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_length <= self.max_length:
            raise ConfigError(f"0 <= min_length <= max_length is violated: {self.min_length}, {self.max_length}")

    def expression(self, compiler: Compiler) -> Expression:
        excluded = ranges_of((ord(each), ord(each)) for each in self.without)
        one = Characters(complement_of(excluded)) if self.without else ANY_CHARACTER
        return Repeat(one, self.min_length, self.max_length)
