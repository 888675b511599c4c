"""Options that say what an answer must be: read from the command line, for a server or for a model in this process."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from quicksilver.cli.files import read_text
from quicksilver.errors import ConfigError
from quicksilver.protocol.constraints import ConstraintFields, JsonSchema, ResponseFormat

if TYPE_CHECKING:
    from quicksilver.constraints.constraint import Constraint

LARK = ".lark"
"""Suffix of grammars in Lark's form; all others are GBNF."""


def read_constraint(
    json_schema: Path | None, regex: str | None, grammar: Path | None, choice: list[str] | None
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
    if json_schema is not None:
        schema = JsonSchema.model_validate({"name": json_schema.stem, "schema": _schema(json_schema), "strict": True})
        return ConstraintFields(response_format=ResponseFormat(type="json_schema", json_schema=schema))
    if grammar is not None:
        syntax = "lark" if grammar.suffix == LARK else "gbnf"
        return ConstraintFields(grammar=read_text(grammar), grammar_syntax=syntax)
    if regex is not None:
        return ConstraintFields(regex=regex)
    return None if choice is None else ConstraintFields(choice=choice)


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
