"""Schemas and what they refer to, inside their own document."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from quicksilver.errors import ConfigError, UnsupportedConstraintError

try:
    import jsonschema
    import jsonschema.exceptions
    import jsonschema.validators
    import referencing
    import referencing.exceptions
    import referencing.jsonschema
    from jsonschema_specifications import REGISTRY
except ModuleNotFoundError as error:
    raise ConfigError("JSON Schemas need jsonschema: pip install 'quicksilver-lm[constraints]'") from error

Contents = dict[str, Any] | bool

_DRAFT_7 = "http://json-schema.org/draft-07/schema"
_DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"
# Patterns are ECMA-262's, which Python's own reader does not know; ours says what is wrong with one.
_NO_FORMATS = jsonschema.FormatChecker(formats=())
_SPECIFICATIONS = {_DRAFT_7: referencing.jsonschema.DRAFT7, _DRAFT_2020: referencing.jsonschema.DRAFT202012}


@dataclass(frozen=True, eq=False)
class Place:
    """A schema and where it stands, so that what it refers to can be found."""

    contents: Contents
    resolver: Any
    """referencing's; its type is generic in what it resolves."""
    is_draft_7: bool
    document: Contents
    """All of it."""

    def inner(self, contents: Contents) -> "Place":
        """A schema inside this one."""
        if isinstance(contents, bool):
            return replace(self, contents=contents)
        declared = contents.get("$schema")
        is_draft_7 = _is_draft_7(declared) if declared is not None else self.is_draft_7
        resource = _specification(is_draft_7).create_resource(contents)
        return Place(contents, self.resolver.in_subresource(resource), is_draft_7, self.document)

    def target(self, keyword: str, reference: str) -> "Place":
        """The schema that a reference names.

        Raises:
            UnsupportedConstraintError: it is not in this document; nothing is fetched.
        """
        try:
            found = self.resolver.lookup(reference)
        except (referencing.exceptions.Unresolvable, referencing.exceptions.Unretrievable) as error:
            raise UnsupportedConstraintError(
                f"{keyword} {reference!r} leads nowhere in this schema; other documents are not fetched"
            ) from error
        if not isinstance(found.contents, dict | bool):
            raise ConfigError(f"{keyword} {reference!r} leads to {type(found.contents).__name__}, not to a schema")
        return replace(self, resolver=found.resolver).inner(found.contents)

    def require_static(self, reference: str) -> None:
        """Raise UnsupportedConstraintError where a ``$dynamicRef`` depends on how it was reached."""
        anchor = reference.partition("#")[2]
        count = sum(each.get("$dynamicAnchor") == anchor for each in _inside(self.document))
        if not reference.startswith("#") or count > 1:
            raise UnsupportedConstraintError(
                f"$dynamicRef {reference!r} is not supported where it is not the same as $ref"
            )


def root_of(schema: Contents) -> Place:
    """A document, checked against its metaschema.

    Raises:
        ConfigError: it is no valid schema.
        UnsupportedConstraintError: it is of a draft that is not known.
    """
    declared = schema.get("$schema") if isinstance(schema, dict) else None
    is_draft_7 = _is_draft_7(declared)
    validator = jsonschema.validators.Draft7Validator if is_draft_7 else jsonschema.validators.Draft202012Validator
    try:
        validator.check_schema(schema, format_checker=_NO_FORMATS)
    except jsonschema.exceptions.SchemaError as error:
        raise ConfigError(f"the JSON Schema is invalid at {error.json_path}: {error.message}") from error
    resource = _specification(is_draft_7).create_resource(schema)
    base = resource.id() or ""
    registry = REGISTRY.with_resource(base, resource)
    return Place(schema, registry.resolver(base), is_draft_7, schema)


def _is_draft_7(declared: object) -> bool:
    if declared is None:
        return False
    uri = str(declared).rstrip("#").replace("https://json-schema.org/draft-07", "http://json-schema.org/draft-07")
    if uri not in _SPECIFICATIONS:
        raise UnsupportedConstraintError(f"$schema {declared!r} is not supported; known: {', '.join(_SPECIFICATIONS)}")
    return uri == _DRAFT_7


def _specification(is_draft_7: bool) -> Any:  # noqa: ANN401  # generic in the library
    return _SPECIFICATIONS[_DRAFT_7 if is_draft_7 else _DRAFT_2020]


def _inside(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from _inside(each)
