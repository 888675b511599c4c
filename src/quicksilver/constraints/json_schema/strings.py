"""Strings as texts: every string has one, with escapes only where JSON asks for them."""

import json

from quicksilver.constraints.expression import (
    ANY_CHARACTER,
    ANY_TEXT,
    Alternatives,
    Characters,
    Difference,
    Expression,
    Isolated,
    Literal,
    Ranges,
    Repeat,
    Sequence,
    common_ranges,
    complement_of,
    map_characters,
    ranges_of,
)
from quicksilver.constraints.json_schema.atoms import Atom, HasFormat, Length, Matches, StringIs
from quicksilver.constraints.json_schema.formats import format_of
from quicksilver.constraints.regex import regex_expression

_ESCAPED = ranges_of([(0, 0x1F), (ord('"'), ord('"')), (ord("\\"), ord("\\"))])
_PLAIN = complement_of(_ESCAPED)


def json_text(value: str) -> str:
    """A string's one text, quotes included."""
    return json.dumps(value, ensure_ascii=False)


def quoted(strings: Expression) -> Expression:
    """The texts of a set of strings, quotes included."""
    return Sequence((Literal('"'), map_characters(strings, _escaped), Literal('"')))


def _escaped(ranges: Ranges) -> Expression:
    plain = Characters(common_ranges(ranges, _PLAIN))
    codes = [code for low, high in common_ranges(ranges, _ESCAPED) for code in range(low, high + 1)]
    if not codes:
        return plain
    return Alternatives((plain, *(Literal(json_text(chr(code))[1:-1]) for code in codes)))


def string_language(atom: Atom, holds: bool) -> Expression:
    """The strings of which an atom is true, or is not; where a format is not exact, fewer.

    Raises:
        UnsupportedConstraintError: a pattern or format cannot be kept; the message names it.
    """
    match atom:
        case StringIs(value):
            language: Expression = Literal(value)
        case Length(least, most):
            language = Repeat(ANY_CHARACTER, least, most)
        case Matches(pattern):
            language = regex_expression(pattern, dialect="ecma", search=True)
        case HasFormat(name):
            language = format_of(name).surely if holds else format_of(name).perhaps
        case _:
            raise TypeError(f"{atom} is not of strings")
    return Isolated(language) if holds else Difference(ANY_TEXT, language)


ANY_STRING = quoted(ANY_TEXT)
