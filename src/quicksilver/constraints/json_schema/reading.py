"""From schemas to formulas, keyword by keyword."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

from quicksilver.constraints.json_schema import atoms
from quicksilver.constraints.json_schema.atoms import TypeName
from quicksilver.constraints.json_schema.formats import FORMATS
from quicksilver.constraints.json_schema.formula import Algebra, Formula
from quicksilver.constraints.json_schema.numbers import exact
from quicksilver.constraints.json_schema.references import Contents, Place
from quicksilver.constraints.json_schema.unevaluated import unevaluated_items, unevaluated_properties
from quicksilver.errors import ConfigError, UnsupportedConstraintError

_ANNOTATIONS = frozenset({
    "$comment", "$schema", "$id", "$anchor", "$dynamicAnchor", "$vocabulary", "$defs", "definitions", "title",
    "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "contentEncoding",
    "contentMediaType", "contentSchema",
})  # fmt: skip
"""Say nothing about what is valid."""
_NOT_IN_DRAFT_7 = frozenset({
    "$anchor", "$dynamicAnchor", "$dynamicRef", "$defs", "dependentRequired", "dependentSchemas", "prefixItems",
    "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_NOT_IN_2020 = frozenset({"dependencies", "additionalItems", "$recursiveRef", "$recursiveAnchor"})


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What schemas mean where that is a matter of choice."""

    asserts_formats: bool
    ignores_unknown: bool
    is_strict: bool
    """Whether it matters that a schema says of itself that it is open."""


class Reader:
    """The schemas of one document, by number."""

    def __init__(self, algebra: Algebra, root: Place, options: ReadingOptions) -> None:
        self.algebra = algebra
        self.root = root
        self._options = options
        self._places: list[Place] = []
        self._number: dict[int, int] = {}
        self._formulas: dict[int, Formula] = {}
        self._keys: dict[int, list[str]] = {}

    def schema(self, place: Place) -> Formula:
        """A schema that is to be looked up later."""
        if isinstance(place.contents, bool):
            return self.algebra.constant(place.contents)
        if not place.contents:
            return self.algebra.true
        # Every schema is an object of its own: the document comes from JSON.
        key = id(place.contents)
        if key not in self._number:
            self._number[key] = len(self._places)
            self._places.append(place)
        return self.algebra.literal(atoms.Schema(self._number[key]))

    def place(self, number: int) -> Place:
        return self._places[number]

    def formula(self, number: int) -> Formula:
        """What a schema asserts, in terms of other schemas.

        Raises:
            UnsupportedConstraintError: a keyword cannot be kept; the message names it.
        """
        if number not in self._formulas:
            self._formulas[number] = self._read(self._places[number])
        return self._formulas[number]

    def keys(self, number: int) -> list[str]:
        """The properties that a schema and those beside it name, in the order of the document; required ones last."""
        if number not in self._keys:
            self._keys[number] = []  # for a schema that comes back to itself
            self._keys[number] = list(dict.fromkeys(self._named(number)))
        return self._keys[number]

    def _named(self, number: int) -> Iterator[str]:
        contents = self._places[number].contents
        if isinstance(contents, bool):
            return
        yield from contents.get("properties", ())
        for atom, _ in self.formula(number).literals():
            if isinstance(atom, atoms.Schema):
                yield from self.keys(atom.number)
            elif isinstance(atom, atoms.Property):
                yield atom.key

    def _read(self, place: Place) -> Formula:
        contents = place.contents
        if isinstance(contents, bool):
            return self.algebra.constant(contents)
        if place.is_draft_7 and "$ref" in contents:
            return self._ref(place, contents["$ref"])
        parts = []
        for keyword, value in contents.items():
            if keyword in _ANNOTATIONS or keyword.startswith("x-"):
                continue
            foreign = _NOT_IN_DRAFT_7 if place.is_draft_7 else _NOT_IN_2020
            read = None if keyword in foreign else _KEYWORDS.get(keyword)
            if read is not None:
                parts.append(read(self, place, value))
            elif keyword in foreign:
                raise UnsupportedConstraintError(f"{keyword} is not of this draft; $schema says which is meant")
            elif not self._options.ignores_unknown:
                raise UnsupportedConstraintError(
                    f"{keyword!r} is no keyword that is known here; names of annotations begin with x-"
                )
        return self.algebra.all_of(parts)

    # Any type.

    def _type(self, place: Place, value: str | list[str]) -> Formula:
        names = [value] if isinstance(value, str) else value
        return self.algebra.any_of(self._of_type(name) for name in names)

    def _of_type(self, name: str) -> Formula:
        if name != "integer":
            return self.algebra.literal(atoms.IsType(_type_name(name)))
        return self.algebra.all_of([self.is_type("number"), self.algebra.literal(atoms.IsInteger())])

    def is_type(self, name: TypeName) -> Formula:
        return self.algebra.literal(atoms.IsType(name))

    def _const(self, place: Place, value: object) -> Formula:
        return self.equals(value)

    def _enum(self, place: Place, values: list[object]) -> Formula:
        return self.algebra.any_of(map(self.equals, values))

    def equals(self, value: object) -> Formula:
        """The value is this one."""
        literal, both = self.algebra.literal, self.algebra.all_of
        match value:
            case None:
                return self.is_type("null")
            case bool():
                return both([self.is_type("boolean"), literal(atoms.BooleanIs(value))])
            case int() | float() | Fraction():
                return both(
                    [
                        self.is_type("number"),
                        literal(atoms.NumberIs(value if isinstance(value, Fraction) else exact(value))),
                    ]
                )
            case str():
                return both([self.is_type("string"), literal(atoms.StringIs(value))])
            case list():
                items = atoms.Items(tuple(map(self.equals, value)), self.algebra.false)
                return both([self.is_type("array"), literal(items), literal(atoms.NumItems(len(value), len(value)))])
            case dict():
                others = literal(atoms.Others(frozenset(value), frozenset(), self.algebra.false))
                properties = [literal(atoms.Property(key, self.equals(inner))) for key, inner in value.items()]
                return both([self.is_type("object"), *properties, self._required_keys(value), others])
            case _:
                raise ConfigError(f"a {type(value).__name__} is no value of JSON")

    # Combinations.

    def _ref(self, place: Place, reference: str) -> Formula:
        return self.schema(place.target("$ref", reference))

    def _dynamic_ref(self, place: Place, reference: str) -> Formula:
        place.require_static(reference)
        return self.schema(place.target("$dynamicRef", reference))

    def _all_of(self, place: Place, values: list[Contents]) -> Formula:
        return self.algebra.all_of(self._inner(place, values))

    def _any_of(self, place: Place, values: list[Contents]) -> Formula:
        return self.algebra.any_of(self._inner(place, values))

    def _one_of(self, place: Place, values: list[Contents]) -> Formula:
        # From left to right: none so far, or exactly one so far.
        none, one = self.algebra.true, self.algebra.false
        for each in self._inner(place, values):
            other = self.algebra.negation(each)
            one = self.algebra.any_of([self.algebra.all_of([one, other]), self.algebra.all_of([none, each])])
            none = self.algebra.all_of([none, other])
        return one

    def _inner(self, place: Place, values: list[Contents]) -> Iterator[Formula]:
        return (self.schema(place.inner(value)) for value in values)

    def _not(self, place: Place, value: Contents) -> Formula:
        return self.algebra.negation(self.schema(place.inner(value)))

    def _if(self, place: Place, value: Contents) -> Formula:
        holds = self.schema(place.inner(value))
        then, otherwise = (self._beside(place, name) for name in ("then", "else"))
        return self.algebra.all_of([self._implies(holds, then), self.algebra.any_of([holds, otherwise])])

    def _beside(self, place: Place, keyword: str) -> Formula:
        """The schema of another keyword of the same schema; without it anything is right."""
        contents = place.contents
        value = contents.get(keyword, True) if isinstance(contents, dict) else True
        return self.schema(place.inner(value))

    def _implies(self, condition: Formula, consequence: Formula) -> Formula:
        return self.algebra.any_of([self.algebra.negation(condition), consequence])

    def _nothing(self, place: Place, value: object) -> Formula:
        """Read with the keyword to which it belongs."""
        return self.algebra.true

    # Numbers and strings.

    def _at_least(self, place: Place, value: float) -> Formula:
        return self.algebra.literal(atoms.AtLeast(exact(value)))

    def _at_most(self, place: Place, value: float) -> Formula:
        return self.algebra.literal(atoms.AtMost(exact(value)))

    def _above(self, place: Place, value: float) -> Formula:
        return self.algebra.literal(atoms.AtLeast(exact(value), is_open=True))

    def _below(self, place: Place, value: float) -> Formula:
        return self.algebra.literal(atoms.AtMost(exact(value), is_open=True))

    def _multiple_of(self, place: Place, value: float) -> Formula:
        return self.algebra.literal(atoms.MultipleOf(exact(value)))

    def _min_length(self, place: Place, value: float) -> Formula:
        return self._unless_any(atoms.Length(int(value), None))

    def _max_length(self, place: Place, value: float) -> Formula:
        return self._unless_any(atoms.Length(0, int(value)))

    def _unless_any(self, atom: atoms.Length | atoms.NumItems | atoms.NumProperties) -> Formula:
        return self.algebra.true if atom.least == 0 and atom.most is None else self.algebra.literal(atom)

    def _pattern(self, place: Place, value: str) -> Formula:
        return self.algebra.literal(atoms.Matches(value))

    def _format(self, place: Place, value: str) -> Formula:
        if not self._options.asserts_formats:
            return self.algebra.true
        if value not in FORMATS:
            raise UnsupportedConstraintError(f"format {value!r} cannot be kept; known: {', '.join(sorted(FORMATS))}")
        return self.algebra.literal(atoms.HasFormat(value))

    # Arrays.

    def _items(self, place: Place, value: Contents | list[Contents]) -> Formula:
        if not isinstance(value, list):
            prefix = self._prefix(place)
            return self._all_items(prefix, self.schema(place.inner(value)))
        if not place.is_draft_7:
            raise ConfigError("items is a list, as in draft 7: prefixItems is its name, or $schema must say draft-07")
        return self._all_items(tuple(self._inner(place, value)), self._beside(place, "additionalItems"))

    def _prefix_items(self, place: Place, value: list[Contents]) -> Formula:
        if isinstance(place.contents, dict) and "items" in place.contents:
            return self.algebra.true
        return self._all_items(tuple(self._inner(place, value)), self.algebra.true)

    def _prefix(self, place: Place) -> tuple[Formula, ...]:
        contents = place.contents
        given = contents.get("prefixItems", []) if isinstance(contents, dict) and not place.is_draft_7 else []
        return tuple(self._inner(place, given))

    def _all_items(self, prefix: tuple[Formula, ...], rest: Formula) -> Formula:
        if rest is self.algebra.true and all(each is rest for each in prefix):
            return self.algebra.true
        return self.algebra.literal(atoms.Items(prefix, rest))

    def _min_items(self, place: Place, value: float) -> Formula:
        return self._unless_any(atoms.NumItems(int(value), None))

    def _max_items(self, place: Place, value: float) -> Formula:
        return self._unless_any(atoms.NumItems(0, int(value)))

    def _contains(self, place: Place, value: Contents) -> Formula:
        contents = place.contents if isinstance(place.contents, dict) and not place.is_draft_7 else {}
        least, most = int(contents.get("minContains", 1)), contents.get("maxContains")
        if least == 0 and most is None:
            return self.algebra.true
        formula = self.schema(place.inner(value))
        return self.algebra.literal(atoms.Contains(formula, least, None if most is None else int(most)))

    def _unique_items(self, place: Place, value: bool) -> Formula:
        return self.algebra.literal(atoms.Unique()) if value else self.algebra.true

    # Objects.

    def _properties(self, place: Place, value: dict[str, Contents]) -> Formula:
        found = {key: self.schema(place.inner(inner)) for key, inner in value.items()}
        return self.algebra.all_of(self.algebra.literal(atoms.Property(key, inner)) for key, inner in found.items())

    def _required(self, place: Place, value: list[str]) -> Formula:
        return self._required_keys(value)

    def _required_keys(self, keys: Iterable[str]) -> Formula:
        return self.algebra.all_of(self.algebra.literal(atoms.Required(key)) for key in keys)

    def has(self, key: str) -> Formula:
        """The value is an object with this property; ``Required`` is true of other values."""
        return self.algebra.all_of([self.is_type("object"), self.algebra.literal(atoms.Required(key))])

    def _pattern_properties(self, place: Place, value: dict[str, Contents]) -> Formula:
        found = {pattern: self.schema(place.inner(inner)) for pattern, inner in value.items()}
        return self.algebra.all_of(
            self.algebra.literal(atoms.PatternProperty(pattern, inner)) for pattern, inner in found.items()
        )

    def _additional_properties(self, place: Place, value: Contents) -> Formula:
        contents = place.contents if isinstance(place.contents, dict) else {}
        keys = frozenset(contents.get("properties", ()))
        patterns = frozenset(contents.get("patternProperties", ()))
        return self.others(keys, patterns, self.schema(place.inner(value)))

    def others(self, keys: frozenset[str], patterns: frozenset[str], formula: Formula) -> Formula:
        """Values of properties but those named or matched satisfy a formula."""
        says_nothing = formula is self.algebra.true and not self._options.is_strict
        return self.algebra.true if says_nothing else self.algebra.literal(atoms.Others(keys, patterns, formula))

    def _property_names(self, place: Place, value: Contents) -> Formula:
        return self.algebra.literal(atoms.Names(self.schema(place.inner(value))))

    def _min_properties(self, place: Place, value: float) -> Formula:
        return self._unless_any(atoms.NumProperties(int(value), None))

    def _max_properties(self, place: Place, value: float) -> Formula:
        return self._unless_any(atoms.NumProperties(0, int(value)))

    def _dependent_required(self, place: Place, value: dict[str, list[str]]) -> Formula:
        return self.algebra.all_of(
            self._implies(self.has(key), self._required_keys(needed)) for key, needed in value.items()
        )

    def _dependent_schemas(self, place: Place, value: dict[str, Contents]) -> Formula:
        return self.algebra.all_of(
            self._implies(self.has(key), self.schema(place.inner(inner))) for key, inner in value.items()
        )

    def _dependencies(self, place: Place, value: dict[str, Contents | list[str]]) -> Formula:
        lists = {key: each for key, each in value.items() if isinstance(each, list)}
        schemas = {key: each for key, each in value.items() if not isinstance(each, list)}
        return self.algebra.all_of([self._dependent_required(place, lists), self._dependent_schemas(place, schemas)])


@cache
def _type_name(name: str) -> TypeName:
    for each in atoms.TYPES:
        if each == name:
            return each
    raise ConfigError(f"type {name!r} is none of JSON's")


_KEYWORDS: dict[str, Callable[[Reader, Place, Any], Formula]] = {
    "type": Reader._type,
    "const": Reader._const,
    "enum": Reader._enum,
    "$ref": Reader._ref,
    "$dynamicRef": Reader._dynamic_ref,
    "allOf": Reader._all_of,
    "anyOf": Reader._any_of,
    "oneOf": Reader._one_of,
    "not": Reader._not,
    "if": Reader._if,
    "then": Reader._nothing,
    "else": Reader._nothing,
    "minimum": Reader._at_least,
    "maximum": Reader._at_most,
    "exclusiveMinimum": Reader._above,
    "exclusiveMaximum": Reader._below,
    "multipleOf": Reader._multiple_of,
    "minLength": Reader._min_length,
    "maxLength": Reader._max_length,
    "pattern": Reader._pattern,
    "format": Reader._format,
    "items": Reader._items,
    "prefixItems": Reader._prefix_items,
    "additionalItems": Reader._nothing,
    "minItems": Reader._min_items,
    "maxItems": Reader._max_items,
    "contains": Reader._contains,
    "minContains": Reader._nothing,
    "maxContains": Reader._nothing,
    "uniqueItems": Reader._unique_items,
    "properties": Reader._properties,
    "required": Reader._required,
    "patternProperties": Reader._pattern_properties,
    "additionalProperties": Reader._additional_properties,
    "propertyNames": Reader._property_names,
    "minProperties": Reader._min_properties,
    "maxProperties": Reader._max_properties,
    "dependentRequired": Reader._dependent_required,
    "dependentSchemas": Reader._dependent_schemas,
    "dependencies": Reader._dependencies,
    "unevaluatedProperties": unevaluated_properties,
    "unevaluatedItems": unevaluated_items,
}
