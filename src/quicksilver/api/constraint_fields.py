"""From what a request says of its answer to a constraint: the same for a server and for the command line."""

from dataclasses import dataclass

from quicksilver.constraints.choice import Choice
from quicksilver.constraints.constraint import Constraint
from quicksilver.constraints.grammar import Grammar
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.python_types import PYTHON_TYPES
from quicksilver.constraints.regex import Regex
from quicksilver.constraints.strings import Strings
from quicksilver.errors import ConfigError
from quicksilver.protocol.constraints import ConstraintFields, ResponseFormat
from quicksilver.protocol.infill import HoleLimits

ANY_OBJECT = JsonSchema({"type": "object"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A constraint, and the field that asks for it."""

    field: str
    constraint: Constraint


def wanted_constraint(fields: ConstraintFields) -> Wanted | None:
    """What the fields ask for; None: nothing.

    Raises:
        ConfigError: two fields ask for one each, or a field is not whole; the message begins with its name.
    """
    found: list[Wanted] = []
    if fields.response_format is not None and fields.response_format.type != "text":
        found.append(Wanted("response_format", _of_format(fields.response_format)))
    if fields.regex is not None:
        found.append(Wanted("regex", Regex(fields.regex)))
    if fields.grammar is not None:
        found.append(Wanted("grammar", Grammar(fields.grammar, fields.grammar_syntax)))
    if fields.choice is not None:
        found.append(Wanted("choice", Choice(tuple(fields.choice))))
    if isinstance(fields, HoleLimits) and fields.type is not None:
        found.append(Wanted("type", PYTHON_TYPES[fields.type]))
    if len(found) > 1:
        first, second = found[0].field, found[1].field
        raise ConfigError(f"{second} contradicts {first}: an answer has one constraint")
    return _with_strings(fields, found[0] if found else None)


def _with_strings(fields: ConstraintFields, wanted: Wanted | None) -> Wanted | None:
    required, banned = tuple(fields.required_strings or ()), tuple(fields.banned_strings or ())
    if not (required or banned):
        return wanted
    name = "required_strings" if required else "banned_strings"
    try:
        strings = Strings(required, banned, None if wanted is None else wanted.constraint)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return Wanted(name if wanted is None else wanted.field, strings)


def _of_format(form: ResponseFormat) -> Constraint:
    if form.type == "json_object":
        return ANY_OBJECT
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise ConfigError("response_format of type json_schema needs json_schema with a schema")
    return JsonSchema(form.json_schema.schema_, strict=bool(form.json_schema.strict))
