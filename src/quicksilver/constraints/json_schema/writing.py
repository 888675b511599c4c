"""From formulas to expressions: the texts of all values of which a formula is true."""

from collections.abc import Callable, Sequence
from fractions import Fraction

from quicksilver.constraints.expression import (
    ANY_TEXT,
    NOTHING,
    Alternatives,
    Difference,
    Expression,
    Intersection,
    Isolated,
    Literal,
    Rule,
)
from quicksilver.constraints.json_schema.arrays import ArrayWriter
from quicksilver.constraints.json_schema.atoms import (
    TYPES,
    Atom,
    BooleanIs,
    HasFormat,
    IsType,
    NumberIs,
    Property,
    Required,
    Schema,
    StringIs,
    TypeName,
)
from quicksilver.constraints.json_schema.cases import finite_members
from quicksilver.constraints.json_schema.form import JsonForm
from quicksilver.constraints.json_schema.formula import Algebra, Formula
from quicksilver.constraints.json_schema.numbers import NUMBER, number_language, number_satisfies, number_text
from quicksilver.constraints.json_schema.objects import ObjectWriter
from quicksilver.constraints.json_schema.reading import Reader
from quicksilver.constraints.json_schema.strings import ANY_STRING, json_text, quoted, string_language
from quicksilver.constraints.language import Compiler
from quicksilver.errors import UnsupportedConstraintError


class Writer:
    """Expressions of the values of one document."""

    def __init__(self, reader: Reader, form: JsonForm, compiler: Compiler, *, is_strict: bool) -> None:
        """Begin without any.

        Args:
            reader: of the document.
            form: how values are written.
            compiler: looks into languages of strings where a decision depends on them.
            is_strict: whether objects that list properties have no others unless a schema says so.
        """
        self.reader, self.form, self.compiler, self.is_strict = reader, form, compiler, is_strict
        self.algebra: Algebra = reader.algebra
        self._rules: dict[Formula, Rule] = {}
        self._restricted: dict[tuple[Formula, TypeName], Formula] = {}
        self._opening: set[tuple[int, TypeName]] = set()
        self._strings: dict[Formula, Expression] = {}
        self._literals: dict[tuple[Atom, bool], Expression] = {}
        self._possible: dict[Formula, bool] = {}
        self._free: Expression | None = None
        self._waiting: list[tuple[Rule, Formula]] = []

    def whole(self, formula: Formula) -> Expression:
        """Values of which a formula is true, with all that they are made of."""
        found = self.value(formula)
        while self._waiting:
            rule, inner = self._waiting.pop()
            rule.body = self._body(inner)
        return found

    def value(self, formula: Formula) -> Expression:
        """Values of which a formula is true; to be filled in by ``whole``."""
        if formula is self.algebra.true:
            return self._free_value()
        found = self._rules.get(formula)
        if found is None:
            found = self._rules[formula] = Rule(f"value {formula.number}")
            self._waiting.append((found, formula))
        return found

    def _free_value(self) -> Expression:
        """Any value. It has no part in the recursion of what surrounds it, so it is compiled once."""
        if self._free is not None:
            return self._free
        self._free = Rule("any value")
        self._free.body = self._body(self.algebra.true)
        self._free = Isolated(self._free, f"any value of JSON, {self.form}, {self.is_strict}")
        return self._free

    def _body(self, formula: Formula) -> Expression:
        options = []
        for name in TYPES:
            restricted = self.restrict(formula, name)
            if restricted is not self.algebra.false:
                options.append(self._of_type(name, restricted, formula))
        return Alternatives(tuple(options))

    def _of_type(self, name: TypeName, formula: Formula, value: Formula) -> Expression:
        match name:
            case "null":
                return Literal("null")
            case "boolean":
                return Alternatives(tuple(map(Literal, self._booleans(formula))))
            case "number":
                return self._numbers(formula)
            case "string":
                return self._json_strings(formula)
            case "array":
                return ArrayWriter(self).expression(formula)
            case "object":
                return ObjectWriter(self, self._keys(value, formula)).expression(formula)

    def restrict(self, formula: Formula, name: TypeName) -> Formula:
        """What a formula says of values of one type, in atoms of that type.

        Raises:
            UnsupportedConstraintError: a schema refers to itself without anything in between.
        """
        key = (formula, name)
        if key not in self._restricted:
            self._restricted[key] = self.algebra.replace(formula, lambda atom: self._restricted_atom(atom, name))
        return self._restricted[key]

    def _restricted_atom(self, atom: Atom, name: TypeName) -> Formula | None:
        if isinstance(atom, IsType):
            return self.algebra.constant(atom.name == name)
        if isinstance(atom, Schema):
            opening = (atom.number, name)
            if opening in self._opening:
                raise UnsupportedConstraintError("a schema refers to itself without a property or item in between")
            self._opening.add(opening)
            found = self.restrict(self.reader.formula(atom.number), name)
            self._opening.discard(opening)
            return found
        return None if atom.type_name == name else self.algebra.true

    def is_possible(self, formula: Formula) -> bool:
        """Whether a value might satisfy a formula: False only where none does."""
        found = self._possible.get(formula)
        self.compiler.meter.clock()
        if found is None:
            found = self._possible[formula] = any(self._is_possible_of(name, formula) for name in TYPES)
        return found

    def _is_possible_of(self, name: TypeName, formula: Formula) -> bool:
        restricted = self.restrict(formula, name)
        if restricted is self.algebra.false:
            return False
        match name:
            case "boolean":
                return bool(self._booleans(restricted))
            case "number":
                return self._finite_numbers(restricted) != []
            case "string":
                return self.finite_strings(restricted) != []
            case _:
                return True

    def _booleans(self, formula: Formula) -> list[str]:
        def holds(value: bool) -> bool:
            return self.algebra.evaluate(
                formula, lambda atom, sign: (isinstance(atom, BooleanIs) and atom.value == value) == sign
            )

        return [text for text, value in (("false", False), ("true", True)) if holds(value)]

    def _numbers(self, formula: Formula) -> Expression:
        finite = self._finite_numbers(formula)
        if finite is not None:
            return Alternatives(tuple(Literal(number_text(value)) for value in finite))
        return Isolated(self._combined(formula, NUMBER, self._number_literal))

    def _finite_numbers(self, formula: Formula) -> list[Fraction] | None:
        return finite_members(
            self.algebra,
            formula,
            lambda atom: atom.value if isinstance(atom, NumberIs) else None,
            lambda value, atom, sign: number_satisfies(atom, value) == sign,
        )

    def _number_literal(self, atom: Atom, sign: bool) -> Expression:
        language = number_language(atom)
        return language if sign else Difference(NUMBER, language)

    def _json_strings(self, formula: Formula) -> Expression:
        if formula is self.algebra.true:
            return ANY_STRING
        finite = self.finite_strings(formula)
        if finite is not None:
            return Alternatives(tuple(Literal(json_text(value)) for value in finite))
        key = f"string of JSON, {formula}" if isinstance(formula.atom, HasFormat) else None
        return Isolated(quoted(self.strings(formula)), key)

    def strings(self, formula: Formula) -> Expression:
        """The strings of which a formula about strings is true, without quotes or escapes."""
        found = self._strings.get(formula)
        if found is None:
            found = self._strings[formula] = self._combined(formula, ANY_TEXT, self._string_literal)
        return found

    def _string_literal(self, atom: Atom, sign: bool) -> Expression:
        key = (atom, sign)
        if key not in self._literals:
            self._literals[key] = string_language(atom, sign)
        return self._literals[key]

    def finite_strings(self, formula: Formula) -> list[str] | None:
        """The strings of which a formula is true, where equality alone says so; None: there may be more."""
        return finite_members(
            self.algebra,
            formula,
            lambda atom: atom.value if isinstance(atom, StringIs) else None,
            self.string_satisfies,
        )

    def string_satisfies(self, value: str, atom: Atom, sign: bool) -> bool:
        if isinstance(atom, StringIs):
            return (atom.value == value) == sign
        return self.compiler.dfa(self._string_literal(atom, sign)).accepts(value.encode("utf-8"))

    def _combined(
        self, formula: Formula, universe: Expression, literal: Callable[[Atom, bool], Expression]
    ) -> Expression:
        """The language of a formula about values of one kind."""
        if formula.atom is not None:
            return literal(formula.atom, formula.operator == "is")
        parts = tuple(self._combined(part, universe, literal) for part in formula.parts)
        if formula.operator == "and":
            return Intersection(parts)
        if formula.operator == "or":
            return Alternatives(tuple(map(Isolated, parts)))
        return universe if formula is self.algebra.true else NOTHING

    def is_string_of(self, formula: Formula, value: str) -> bool:
        """Whether a string satisfies a formula about values."""
        restricted = self.restrict(formula, "string")
        return self.algebra.evaluate(restricted, lambda atom, sign: self.string_satisfies(value, atom, sign))

    def is_possible_name(self, formula: Formula) -> bool:
        """Whether a string might satisfy a formula about strings: False only where none does."""
        return formula is not self.algebra.false and self.finite_strings(formula) != []

    def finite_values(self, formula: Formula) -> list[Formula] | None:
        """Formulas of the single values of which a formula is true; None: there may be more."""
        found: list[Formula] = []
        for name in TYPES:
            restricted = self.restrict(formula, name)
            if restricted is not self.algebra.false:
                values = self._finite_values_of(name, restricted)
                if values is None:
                    return None
                found.extend(map(self.reader.equals, values))
        return found

    def _finite_values_of(self, name: TypeName, formula: Formula) -> Sequence[object] | None:
        match name:
            case "null":
                return [None]
            case "boolean":
                return [text == "true" for text in self._booleans(formula)]
            case "number":
                return self._finite_numbers(formula)
            case "string":
                return self.finite_strings(formula)
            case _:
                return None

    def _keys(self, value: Formula, objects: Formula) -> list[str]:
        """The named properties of a value, in the order in which its schemas name them."""
        found: dict[str, None] = {}
        for atom, _ in value.literals():
            if isinstance(atom, Schema):
                found |= dict.fromkeys(self.reader.keys(atom.number))
        for atom, _ in objects.literals():
            if isinstance(atom, Property | Required):
                found.setdefault(atom.key)
        return list(found)
