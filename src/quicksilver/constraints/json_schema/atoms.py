"""What schemas assert, each of values of one type; of other types it is true."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from quicksilver.constraints.json_schema.formula import Formula

TypeName = Literal["null", "boolean", "number", "string", "array", "object"]
TYPES: tuple[TypeName, ...] = ("null", "boolean", "number", "string", "array", "object")


class Atom:
    """An assertion; equal ones are equal."""

    type_name: ClassVar[TypeName | None] = None
    """The type it speaks of; None: of all."""


@dataclass(frozen=True)
class IsType(Atom):
    """Of all types: the value has this one."""

    name: TypeName


@dataclass(frozen=True)
class Schema(Atom):
    """Another schema, by its number: looked up when the value is written."""

    number: int


@dataclass(frozen=True)
class BooleanIs(Atom):
    """It is true, or it is false."""

    type_name = "boolean"
    value: bool


@dataclass(frozen=True)
class NumberIs(Atom):
    """However it was written."""

    type_name = "number"
    value: Fraction


@dataclass(frozen=True)
class IsInteger(Atom):
    """Without a fraction: 1.0 is one."""

    type_name = "number"


@dataclass(frozen=True)
class AtLeast(Atom):
    """Not less than a bound."""

    type_name = "number"
    bound: Fraction
    is_open: bool = False
    """Whether the bound itself is left out."""


@dataclass(frozen=True)
class AtMost(Atom):
    """Not more than a bound."""

    type_name = "number"
    bound: Fraction
    is_open: bool = False


@dataclass(frozen=True)
class MultipleOf(Atom):
    """Divided by a divisor it is an integer."""

    type_name = "number"
    divisor: Fraction


@dataclass(frozen=True)
class StringIs(Atom):
    """Code point by code point."""

    type_name = "string"
    value: str


@dataclass(frozen=True)
class Length(Atom):
    """In code points."""

    type_name = "string"
    least: int
    most: int | None


@dataclass(frozen=True)
class Matches(Atom):
    """A pattern of ECMA-262 has a match somewhere."""

    type_name = "string"
    pattern: str


@dataclass(frozen=True)
class HasFormat(Atom):
    """One of ``formats.FORMATS``."""

    type_name = "string"
    name: str


@dataclass(frozen=True)
class Items(Atom):
    """The first elements satisfy ``prefix``, as many as there are; all others ``rest``."""

    type_name = "array"
    prefix: tuple["Formula", ...]
    rest: "Formula"


@dataclass(frozen=True)
class NumItems(Atom):
    """How many elements there are."""

    type_name = "array"
    least: int
    most: int | None


@dataclass(frozen=True)
class Contains(Atom):
    """``least`` to ``most`` elements satisfy a formula."""

    type_name = "array"
    formula: "Formula"
    least: int
    most: int | None


@dataclass(frozen=True)
class Unique(Atom):
    """No two elements are equal.

    ``values`` are all that elements can be, None as long as that is not known; ``seen`` are indices of those that stood
    in front.
    """

    type_name = "array"
    values: tuple["Formula", ...] | None = None
    seen: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Property(Atom):
    """If the property is there, its value satisfies a formula."""

    type_name = "object"
    key: str
    formula: "Formula"


@dataclass(frozen=True)
class Required(Atom):
    """The property is there."""

    type_name = "object"
    key: str


@dataclass(frozen=True)
class PatternProperty(Atom):
    """Values of all properties whose names match satisfy a formula."""

    type_name = "object"
    pattern: str
    formula: "Formula"


@dataclass(frozen=True)
class Others(Atom):
    """Values of all properties but those named or matched satisfy a formula."""

    type_name = "object"
    keys: frozenset[str]
    patterns: frozenset[str]
    formula: "Formula"


@dataclass(frozen=True)
class Names(Atom):
    """Names of all properties satisfy a formula."""

    type_name = "object"
    formula: "Formula"


@dataclass(frozen=True)
class NumProperties(Atom):
    """How many properties there are."""

    type_name = "object"
    least: int
    most: int | None


@dataclass(frozen=True)
class Value(Atom):
    """The element or property that is being read satisfies a formula; only between two states."""

    formula: "Formula"


@dataclass(frozen=True)
class Name(Atom):
    """The name that is being read satisfies a formula; only between two states."""

    formula: "Formula"
