"""Where in a schema a keyword stands that cannot be kept, for messages."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from quicksilver.constraints.json_schema.references import Contents
from quicksilver.errors import UnsupportedConstraintError

_MOST = 3
"""Places that a message names."""
_VALUES = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose contents are values, not schemas."""
_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"})
"""Keywords whose contents are schemas by names, which are no keywords."""


def located(error: UnsupportedConstraintError, schema: Contents) -> UnsupportedConstraintError:
    """The error with the places, as JSON pointers, of the first word of its message that is a keyword of the schema."""
    places: dict[str, list[str]] = {}
    for keyword, pointer in _keywords(schema, "#"):
        places.setdefault(keyword, []).append(pointer)
    named = next((word for word in re.findall(r"[$\w-]+", str(error)) if word in places), None)
    if named is None:
        return error
    found = places[named]
    more = f" and {len(found) - _MOST} more places" if len(found) > _MOST else ""
    return UnsupportedConstraintError(f"{error} (at {', '.join(found[:_MOST])}{more})")


def _keywords(value: Any, pointer: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401  # JSON
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _keywords(each, f"{pointer}/{index}")
    if not isinstance(value, Mapping):
        return
    for keyword, contents in value.items():
        at = f"{pointer}/{_escaped(keyword)}"
        yield keyword, at
        if keyword in _NAMES and isinstance(contents, Mapping):
            for name, each in contents.items():
                yield from _keywords(each, f"{at}/{_escaped(name)}")
        elif keyword not in _VALUES:
            yield from _keywords(contents, at)


def _escaped(name: str) -> str:
    # RFC 6901.
    return name.replace("~", "~0").replace("/", "~1")
