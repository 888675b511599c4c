"""Classes of code points, from Python's own Unicode tables."""

import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache

from quicksilver.constraints.expression import Ranges, common_ranges, ranges_of
from quicksilver.errors import UnsupportedConstraintError

ASCII: Ranges = ((0, 0x7F),)
ASCII_DIGITS = ranges_of([(0x30, 0x39)])
ASCII_WORD = ranges_of([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
ASCII_SPACE = ranges_of([(0x09, 0x0D), (0x20, 0x20)])
ECMA_SPACE = ranges_of([
    *ASCII_SPACE, (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
])  # fmt: skip
r"""``\s`` of ECMA-262: WhiteSpace and LineTerminator."""

_LONG_NAMES = {
    "letter": "L", "cased_letter": "LC", "uppercase_letter": "Lu", "lowercase_letter": "Ll", "titlecase_letter": "Lt",
    "modifier_letter": "Lm", "other_letter": "Lo", "mark": "M", "combining_mark": "M", "nonspacing_mark": "Mn",
    "spacing_mark": "Mc", "enclosing_mark": "Me", "number": "N", "decimal_number": "Nd", "digit": "Nd",
    "letter_number": "Nl", "other_number": "No", "punctuation": "P", "punct": "P", "connector_punctuation": "Pc",
    "dash_punctuation": "Pd", "open_punctuation": "Ps", "close_punctuation": "Pe", "initial_punctuation": "Pi",
    "final_punctuation": "Pf", "other_punctuation": "Po", "symbol": "S", "math_symbol": "Sm", "currency_symbol": "Sc",
    "modifier_symbol": "Sk", "other_symbol": "So", "separator": "Z", "space_separator": "Zs", "line_separator": "Zl",
    "paragraph_separator": "Zp", "other": "C", "control": "Cc", "cntrl": "Cc", "format": "Cf", "private_use": "Co",
    "unassigned": "Cn",
}  # fmt: skip
_CATEGORIES = frozenset(_LONG_NAMES.values())


@cache
def digits() -> Ranges:
    r"""Python's ``\d``."""
    return _where(str.isdecimal)


@cache
def word() -> Ranges:
    r"""Python's ``\w``."""
    return _where(lambda each: each.isalnum() or each == "_")


@cache
def space() -> Ranges:
    r"""Python's ``\s``."""
    return _where(str.isspace)


@cache
def category(name: str) -> Ranges:
    """Code points of a general category, by its short or long name: ``Lu``, ``Letter``, ``gc=L``.

    Raises:
        UnsupportedConstraintError: it is none; scripts and other properties are not known here.
    """
    wanted = re.sub(r"^(?:gc|general_category)=", "", name, flags=re.IGNORECASE)
    wanted = _LONG_NAMES.get(wanted.lower().replace(" ", "_"), wanted)
    if wanted == "ASCII":
        return ASCII
    if wanted == "Any":
        return _where(lambda each: True)
    if wanted not in _CATEGORIES:
        raise UnsupportedConstraintError(rf"\p{{{name}}} is not supported: only general categories of Unicode are")
    if wanted == "LC":
        return _where(lambda each: unicodedata.category(each) in ("Lu", "Ll", "Lt"))
    return _where(lambda each: unicodedata.category(each).startswith(wanted))


@cache
def _case_variants() -> dict[int, frozenset[int]]:
    """Code points that differ in case alone, by each of them; only simple mappings, as ``re.IGNORECASE`` has them."""
    group: dict[int, set[int]] = {}
    for code in range(sys.maxunicode + 1):
        text = chr(code)
        for other in (text.lower(), text.upper()):
            if other != text and len(other) == 1:
                joined = group.get(code, {code}) | group.get(ord(other), {ord(other)})
                group.update(dict.fromkeys(joined, joined))
    return {code: frozenset(members) for code, members in group.items()}


def ignoring_case(ranges: Ranges, *, ascii_only: bool) -> Ranges:
    """With the other cases of each of its characters."""
    variants = _case_variants()
    found = [(other, other) for low, high in ranges for code in _cased(low, high) for other in variants[code]]
    extra = ranges_of(found)
    return ranges_of([*ranges, *(common_ranges(extra, ASCII) if ascii_only else extra)])


def _cased(low: int, high: int) -> list[int]:
    variants = _case_variants()
    if high - low < len(variants):
        return [code for code in range(low, high + 1) if code in variants]
    return [code for code in variants if low <= code <= high]


def _where(holds: Callable[[str], bool]) -> Ranges:
    found: list[tuple[int, int]] = []
    for code in range(sys.maxunicode + 1):
        if holds(chr(code)):
            if found and found[-1][1] == code - 1:
                found[-1] = (found[-1][0], code)
            else:
                found.append((code, code))
    return ranges_of(found)
