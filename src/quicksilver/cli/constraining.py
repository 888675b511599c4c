"""Options that say what an answer must be: read from the command line, for a server or for a model in this process."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from quicksilver.cli.files import read_text
from quicksilver.errors import ConfigError
from quicksilver.protocol.constraints import ConstraintFields, JsonSchema, ResponseFormat

if TYPE_CHECKING:
    from quicksilver.constraints.constraint import Constraint

LARK = ".lark"
"""Suffix of grammars in Lark's form; all others are GBNF."""


def read_constraint(
    json_schema: Path | None,
    regex: str | None,
    grammar: Path | None,
    choice: list[str] | None,
    require: list[str] | None,
    ban: list[str] | None,
) -> ConstraintFields | None:
    """The constraint of the options, as a request says it; None: there is none.

    Raises:
        ConfigError: there are several, or a file holds no JSON schema.
        InputError: a file cannot be read.
    """
    given = {"--json-schema": json_schema, "--regex": regex, "--grammar": grammar, "--choice": choice}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ConfigError(f"{' and '.join(names)} contradict each other: an answer has one constraint")
    found = _form(json_schema, regex, grammar, choice)
    strings = {"required_strings": require, "banned_strings": ban}
    found |= {name: texts for name, texts in strings.items() if texts}
    try:
        return ConstraintFields.model_validate(found) if found else None
    except ValidationError as error:
        first = error.errors()[0]
        name = {"required_strings": "--require", "banned_strings": "--ban"}.get(str(first["loc"][0]), first["loc"][0])
        raise ConfigError(f"{name}: {first['msg']}") from error


def _form(
    json_schema: Path | None, regex: str | None, grammar: Path | None, choice: list[str] | None
) -> dict[str, object]:
    if json_schema is not None:
        schema = JsonSchema.model_validate({"name": json_schema.stem, "schema": _schema(json_schema), "strict": True})
        return {"response_format": ResponseFormat(type="json_schema", json_schema=schema)}
    if grammar is not None:
        syntax = "lark" if grammar.suffix == LARK else "gbnf"
        return {"grammar": read_text(grammar), "grammar_syntax": syntax}
    if regex is not None:
        return {"regex": regex}
    return {} if choice is None else {"choice": choice}


def _schema(file: Path) -> dict[str, object]:
    try:
        found = json.loads(read_text(file))
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file} holds no JSON schema: an object is expected, got {type(found).__name__}")
    return found


def described(fields: ConstraintFields | None) -> "Constraint | None":
    """The same for a model in this process."""
    from quicksilver.api.constraint_fields import wanted_constraint

    wanted = None if fields is None else wanted_constraint(fields)
    return None if wanted is None else wanted.constraint
