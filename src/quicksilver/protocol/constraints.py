"""What an answer must be, as requests say it."""

from typing import Annotated, Any, Literal

from pydantic import Field

from quicksilver.protocol.wire import Wire

MAX_PATTERN = 20_000
MAX_OPTIONS = 1_000
MAX_STRINGS = 64

HoleType = Literal["identifier", "integer", "number", "string", "boolean"]
"""Of a hole: a name that is no keyword, and literals of Python on one line."""


class JsonSchema(Wire):
    """A named schema."""

    name: str = ""
    schema_: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None
    strict: bool | None = None
    """Objects that list properties have no others. Either way the answer is valid."""


class ResponseFormat(Wire):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


Strings = Annotated[list[Annotated[str, Field(min_length=1, max_length=1_000)]], Field(max_length=MAX_STRINGS)]


class ConstraintFields(Wire):
    """At most one of those that say what an answer is, and strings beside it.

    An answer that is cut short by no limit of the client's satisfies all of them.
    """

    response_format: ResponseFormat | None = None
    """JSON, without white space."""
    regex: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)] | None = None
    """The whole answer matches; Python's syntax without backreferences."""
    grammar: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)] | None = None
    """The answer is a text of this grammar, in ``grammar_syntax``."""
    grammar_syntax: Literal["gbnf", "lark"] = "gbnf"
    """llama.cpp's form, whose whole texts are rule ``root``, or Lark's, with ``start``."""
    choice: Annotated[list[str], Field(min_length=1, max_length=MAX_OPTIONS)] | None = None
    """The answer is one of these."""
    required_strings: Strings | None = None
    """All of these stand in the answer."""
    banned_strings: Strings | None = None
    """None of these stands in the answer."""
