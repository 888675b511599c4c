"""What a hole in Python code may hold, by a word for it."""

import keyword

from quicksilver.constraints.regex import Regex

_KEYWORDS = "|".join(sorted(keyword.kwlist))
_INTEGER = r"(?:0|[1-9](?:_?[0-9])*)"
_ESCAPED = r"""\\(?:[\\'"abfnrtv]|x[0-9a-f]{2})"""
_NO_CONTROL = r"\x00-\x1f\x7f"

PYTHON_TYPES = {
    # ASCII only: Python normalises other identifiers, and few styles allow them.
    "identifier": Regex(rf"(?a)(?!(?:{_KEYWORDS})$)[A-Za-z_]\w*"),
    "integer": Regex(_INTEGER),
    "number": Regex(rf"{_INTEGER}(?:\.[0-9](?:_?[0-9])*)?(?:e-?[0-9]{{1,3}})?"),
    "string": Regex(rf"""(?:"(?:[^"\\{_NO_CONTROL}]|{_ESCAPED})*"|'(?:[^'\\{_NO_CONTROL}]|{_ESCAPED})*')"""),
    "boolean": Regex("True|False"),
}
"""A name that is no keyword, and literals on one line."""
