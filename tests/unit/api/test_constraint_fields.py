"""One reading of a request's fields for server and command line."""

import pytest

from quicksilver.api.constraint_fields import ANY_OBJECT, wanted_constraint
from quicksilver.constraints.choice import Choice
from quicksilver.constraints.grammar import Grammar
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.python_types import PYTHON_TYPES
from quicksilver.constraints.regex import Regex
from quicksilver.constraints.strings import Strings
from quicksilver.errors import ConfigError
from quicksilver.protocol.constraints import ConstraintFields
from quicksilver.protocol.infill import HoleLimits

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}


def as_schema(**more):
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, **more}}}


@pytest.mark.parametrize(
    ("asked", "field", "constraint"),
    [
        ({"regex": "a+"}, "regex", Regex("a+")),
        ({"grammar": 'root ::= "a"'}, "grammar", Grammar('root ::= "a"', "gbnf")),
        ({"grammar": 'start: "a"', "grammar_syntax": "lark"}, "grammar", Grammar('start: "a"', "lark")),
        ({"choice": ["b", "a"]}, "choice", Choice(("b", "a"))),
        ({"response_format": {"type": "json_object"}}, "response_format", ANY_OBJECT),
        (as_schema(), "response_format", JsonSchema(SCHEMA, strict=False)),
        (as_schema(strict=True), "response_format", JsonSchema(SCHEMA, strict=True)),
        ({"response_format": {"type": "text"}, "regex": "a"}, "regex", Regex("a")),
        ({"required_strings": ["a"]}, "required_strings", Strings(("a",))),
        ({"banned_strings": ["b", "c"]}, "banned_strings", Strings((), ("b", "c"))),
        (
            {"regex": ".*", "banned_strings": ["b"], "required_strings": ["a"]},
            "regex",
            Strings(("a",), ("b",), Regex(".*")),
        ),
    ],
)
def test_every_field_is_its_constraint(asked, field, constraint):
    wanted = wanted_constraint(ConstraintFields.model_validate(asked))
    assert (wanted.field, wanted.constraint) == (field, constraint)


def test_a_hole_has_types_too():
    assert wanted_constraint(HoleLimits(type="integer", max_length=3)).constraint == PYTHON_TYPES["integer"]
    with pytest.raises(ConfigError, match="^type contradicts regex"):
        wanted_constraint(HoleLimits(type="integer", regex="a"))


@pytest.mark.parametrize("asked", [{}, {"response_format": {"type": "text"}}])
def test_nothing_asked_is_no_constraint(asked):
    assert wanted_constraint(ConstraintFields.model_validate(asked)) is None


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"regex": "a", "choice": ["a"]}, "^choice contradicts regex"),
        ({"response_format": {"type": "json_object"}, "grammar": "x"}, "^grammar contradicts response_format"),
        ({"response_format": {"type": "json_schema"}}, "^response_format of type json_schema needs json_schema"),
    ],
)
def test_what_is_wrong_is_told_by_field(asked, words):
    with pytest.raises(ConfigError, match=words):
        wanted_constraint(ConstraintFields.model_validate(asked))


def test_strings_that_cannot_be_kept_are_named():
    with pytest.raises(ConfigError, match=r"^required_strings: .*'ab' holds the banned one 'b'"):
        wanted_constraint(ConstraintFields(required_strings=["ab"], banned_strings=["b"]))
